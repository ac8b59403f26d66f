//! The runtimes that are compared.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use runvm_tests::{Bundle, Runtime, Scratch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::host;

/// Before each start.
pub(crate) const PAUSE: Duration = Duration::from_millis(60);

/// A runtime that takes longer hangs.
const PATIENCE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

/// A runtime, with a state of its own.
pub(crate) struct Contestant {
    name: &'static str,
    words: Vec<PathBuf>,
    /// What it last said on standard error.
    log: PathBuf,
}

impl Contestant {
    /// Those of runvm, crun, runc and youki that are installed and run `bundle`; says which are
    /// left out, and why.
    pub(crate) fn find_all(scratch: &Scratch, bundle: &Bundle) -> Vec<Self> {
        let mut found = Vec::new();
        for name in ["runvm", "crun", "runc", "youki"] {
            let contestant = Self::new(name, scratch);
            match contestant.try_time(contestant.run_command(bundle)) {
                Ok(_) => found.push(contestant),
                Err(reason) => println!("Left out {name}: {reason}"),
            }
        }
        found
    }

    fn new(name: &'static str, scratch: &Scratch) -> Self {
        let binary = match name {
            "runvm" => Runtime::binary().to_owned(),
            name => PathBuf::from(name),
        };
        let root = host::states(scratch).join(name);
        let mut words = vec![binary, "--root".into(), root];
        if name == "runvm" {
            words.extend(["--isolation".into(), "container".into()]);
        }
        let log = scratch.path().join(format!("{name}.log"));
        Self { name, words, log }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Its command with `words`.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(words);
        command
    }

    pub(crate) fn run_command(&self, bundle: &Bundle) -> Command {
        self.command(&["run", "--bundle", bundle.path_text(), "runvm-bench"])
    }

    /// `run`s a bundle to its end, after a pause; how long it took.
    pub(crate) fn run(&self, bundle: &Bundle) -> Duration {
        std::thread::sleep(PAUSE);
        self.time(self.run_command(bundle))
    }

    /// How long a command of its takes, which has to succeed.
    pub(crate) fn time(&self, command: Command) -> Duration {
        self.try_time(command)
            .unwrap_or_else(|reason| panic!("{}: {reason}", self.name))
    }

    /// How long a command of its takes, or why it failed.
    pub(crate) fn try_time(&self, mut command: Command) -> Result<Duration, String> {
        // No pipe: a container inherits it and holds it open.
        let log = File::create(&self.log).map_err(|error| error.to_string())?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        time(command).map_err(|error| {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            format!("{error}: {}", log.trim())
        })
    }
}

/// How long a command takes, which has to succeed.
pub(crate) fn time(mut command: Command) -> Result<Duration, String> {
    let begin = Instant::now();
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let ended = Pid::from_child(&child);
    let ended = pidfd_open(ended, PidfdFlags::empty()).map_err(|error| error.to_string())?;
    let ready = poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&PATIENCE));
    let took = begin.elapsed();
    if ready == Ok(0) {
        child.kill().map_err(|error| error.to_string())?;
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    match (ready, status.success()) {
        (Ok(0), _) => Err("it hangs".into()),
        (_, true) => Ok(took),
        (_, false) => Err(status.to_string()),
    }
}
