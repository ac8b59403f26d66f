//! The floor: a program that makes a container's namespaces, cgroup, mounts and devices by the
//! fewest system calls, executes the container's program, waits for it and takes all down. What it
//! takes is the kernel's own share: it reads no configuration, checks nothing, keeps no state,
//! answers no error, and sets no credentials, limits or filter.

mod program;
mod steps;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use runvm_tests::{Bundle, Scratch};

use crate::contestant::{PAUSE, time};

pub(crate) use program::run;

/// The first argument that makes this program the floor.
pub(crate) const NAME: &str = "floor";

/// The floor for one bundle.
pub(crate) struct Floor {
    steps: PathBuf,
}

impl Floor {
    /// Writes down the steps that make the container of a bundle.
    pub(crate) fn new(bundle: &Bundle, scratch: &Scratch) -> Self {
        let path = scratch.path().join("floor");
        std::fs::write(&path, steps::of(bundle)).expect("the scratch directory is writable");
        Self { steps: path }
    }

    /// Takes the steps, after a pause; how long that took.
    pub(crate) fn run(&self) -> Duration {
        std::thread::sleep(PAUSE);
        let mut command = Command::new(std::env::current_exe().expect("a program has a path"));
        command.arg(NAME).arg(&self.steps);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        time(command).unwrap_or_else(|reason| panic!("the floor: {reason}"))
    }
}
