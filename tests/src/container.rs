//! A container the runtime made.

use std::ffi::OsStr;

use serde_json::Value;

use crate::{Capture, Input, Outcome, Process, Running, Runtime};

/// A container of the runtime under test, deleted by force when dropped.
#[derive(Debug)]
pub struct Container<'r> {
    runtime: &'r Runtime,
    id: String,
    /// The foreground command, or the container's own process.
    running: Option<Running>,
}

/// What `state` says.
#[derive(Debug)]
pub struct State {
    /// The status, in the specification's words.
    pub status: String,
    /// The pid on the host; 0 once stopped.
    pub pid: i32,
    /// All of it.
    pub json: Value,
}

impl<'r> Container<'r> {
    /// The container that a foreground `run` makes.
    pub(crate) fn in_foreground(runtime: &'r Runtime, id: String, running: Running) -> Self {
        Self {
            runtime,
            id,
            running: Some(running),
        }
    }

    /// The container that a command leaves behind when it succeeds.
    #[track_caller]
    pub(crate) fn in_background(runtime: &'r Runtime, id: String, mut running: Running) -> Self {
        let code = running.wait();
        let mut container = Self {
            runtime,
            id,
            running: None,
        };
        assert_eq!(code, 0, "exit code; {}", running.outcome(code));
        // The runtime's command has ended, so its child is this process's: it is the subreaper.
        if let Some(process) = Process::open(container.state().pid) {
            running.stand_for(process);
        }
        container.running = Some(running);
        container
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What `state` says.
    #[track_caller]
    pub fn state(&self) -> State {
        let outcome = self.runtime.call(["state", &self.id]).succeeds();
        let json: Value = serde_json::from_slice(&outcome.output)
            .unwrap_or_else(|error| panic!("state prints no JSON: {error}; {outcome}"));
        let pid = json["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        State {
            status: json["status"].as_str().unwrap_or_default().to_owned(),
            pid: pid.unwrap_or_else(|| panic!("state has no pid: {json}")),
            json,
        }
    }

    /// `start`s it.
    #[track_caller]
    pub fn start(&self) {
        self.runtime.call(["start", &self.id]).succeeds();
    }

    /// Sends it a signal through the runtime.
    #[track_caller]
    pub fn kill(&self, signal: &str) {
        self.runtime.call(["kill", &self.id, signal]).succeeds();
    }

    /// `delete`s it, which must leave nothing.
    #[track_caller]
    pub fn delete(&self) {
        self.runtime.call(["delete", &self.id]).succeeds();
    }

    /// `exec`s a program in it, to its end.
    #[track_caller]
    pub fn exec(&self, args: &[&str]) -> Outcome {
        self.exec_with(&[], args)
    }

    /// `exec`s a program in it with flags, to its end.
    #[track_caller]
    pub fn exec_with(&self, flags: &[&str], args: &[&str]) -> Outcome {
        Running::spawn(self.exec_command(flags, args), Input::Null).finish()
    }

    /// The command that `exec`s a program in it.
    pub fn exec_command(&self, flags: &[&str], args: &[&str]) -> std::process::Command {
        let words = [&["exec"], flags, &[&self.id], args].concat();
        self.runtime.command(words.iter().map(OsStr::new))
    }

    /// The foreground command, or what runs in the background.
    pub fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("it has not been waited for")
    }

    /// Its standard output.
    pub fn output(&self) -> &Capture {
        self.running
            .as_ref()
            .expect("it has not been waited for")
            .output()
    }

    /// Waits for the end of the foreground command, or of the container's process, and of its
    /// output.
    #[track_caller]
    pub fn finish(&mut self) -> Outcome {
        self.running
            .take()
            .expect("it has not been waited for")
            .finish()
    }

    /// Kills its first process, which must be seen to die of that, and `delete`s it.
    #[track_caller]
    pub fn end(mut self) {
        self.kill("KILL");
        self.finish().exits(137);
        self.delete();
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let mut delete = self.runtime.command(["delete", "--force", &self.id]);
        // Whether anything is left is looked at when the test has ended.
        let _ = delete.output();
    }
}
