//! A container engine that has the runtime under test do its work.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use runvm_tests::{Input, Outcome, Running, Runtime};

use crate::enclosure::Enclosure;

/// The cgroup that pods are in.
pub(crate) const PODS: &str = "pods";

/// An engine in an enclosure of its own.
#[derive(Debug)]
pub(crate) struct Engine {
    enclosure: Enclosure,
    /// Its command line up to the subcommand.
    client: Command,
    /// What makes a container of this engine belong to the enclosure's cgroup.
    placement: Vec<String>,
    /// Where the runtime keeps its containers on the engine's behalf.
    state: String,
    _daemon: Option<Running>,
    made: AtomicU32,
}

impl Engine {
    /// The engine whose commands begin with `client`, a command of the enclosure's, and which has the runtime
    /// keep its state in `state`.
    pub(crate) fn new(enclosure: Enclosure, client: Command, state: &str) -> Self {
        Self {
            enclosure,
            client,
            placement: Vec::new(),
            state: state.into(),
            _daemon: None,
            made: AtomicU32::new(0),
        }
    }

    /// Gives it the daemon that serves it.
    pub(crate) fn served_by(self, daemon: Running) -> Self {
        Self {
            _daemon: Some(daemon),
            ..self
        }
    }

    /// Has it make containers with these flags.
    pub(crate) fn placing(self, flags: &[&str]) -> Self {
        Self {
            placement: flags.iter().map(|&flag| flag.into()).collect(),
            ..self
        }
    }

    /// Where it lives.
    pub(crate) fn enclosure(&self) -> &Enclosure {
        &self.enclosure
    }

    /// A name for a container.
    pub(crate) fn new_name(&self) -> String {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        format!("{}-c{number}", self.enclosure.name())
    }

    /// A directory that only one test uses.
    pub(crate) fn new_directory(&self) -> String {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.enclosure.path(&format!("directory-{number}"));
        std::fs::create_dir(&path).expect("the scratch directory is writable");
        path
    }

    /// A command of the engine.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.client.get_program());
        command.args(self.client.get_args()).args(args);
        for (name, value) in self.client.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command
    }

    /// Runs a command of the engine to its end.
    #[track_caller]
    pub(crate) fn call(&self, args: &[&str]) -> Outcome {
        Running::spawn(self.command(args), Input::Null).finish()
    }

    /// The command that makes a container and runs it.
    pub(crate) fn run_command(&self, args: &[&str]) -> Command {
        let placement: Vec<&str> = self.placement.iter().map(String::as_str).collect();
        self.command(&[&["run"], &placement[..], args].concat())
    }

    /// `run`s a container to its end.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        self.run_with(args, Input::Null)
    }

    /// `run`s a container to its end with this input.
    #[track_caller]
    pub(crate) fn run_with(&self, args: &[&str], input: Input) -> Outcome {
        Running::spawn(self.run_command(args), input).finish()
    }

    /// What the runtime has not cleaned up though no container is left, a line each.
    pub(crate) fn left_by_runtime(&self) -> Vec<String> {
        let state = self.enclosure.seen_from_outside(&self.state);
        let containers = std::fs::read_dir(state).into_iter().flatten().flatten();
        let mut left: Vec<String> = containers
            .map(|container| format!("state: {}", container.path().display()))
            .collect();
        // runc 1.1.5 does not remove the cgroups around a container's own that it has made.
        if !Runtime::is_runc() {
            let cgroups = self.enclosure.cgroups().into_iter();
            let left_over = cgroups.filter(|cgroup| !self.is_engines_own(cgroup));
            left.extend(left_over.map(|cgroup| format!("cgroup: {}", cgroup.display())));
        }
        left
    }

    fn is_engines_own(&self, cgroup: &Path) -> bool {
        let name = cgroup.file_name().unwrap_or_default().to_string_lossy();
        // A pod's own, which the runtime makes where the engine does not, on the way to the first container's,
        // can only be removed by whoever of the pod goes last.
        let is_pods = cgroup.components().any(|part| part.as_os_str() == PODS);
        name == self.enclosure.name() || name == "conmon" || is_pods && !name.starts_with("libpod-")
    }

    /// Ends it with all it has made. The answer is what is left on the host, a line each.
    pub(crate) fn end(self) -> Vec<String> {
        self.enclosure.end()
    }
}

/// The runtime under test as an absolute path, which is what engines take.
pub(crate) fn runtime() -> String {
    let binary = Runtime::binary();
    let path = match binary.components().count() {
        1 => installed(&binary.to_string_lossy()),
        _ => std::path::absolute(binary).ok(),
    };
    let path = path.unwrap_or_else(|| panic!("there is no {}", binary.display()));
    path.into_os_string().into_string().expect("a plain path")
}

/// Where a program is in $PATH.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut candidates = std::env::split_paths(&path).map(|directory| directory.join(program));
    candidates.find(|candidate| candidate.is_file())
}
