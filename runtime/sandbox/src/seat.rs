//! A process that holds a place in a scope, which systemd keeps only as long as one is in it.
//!
//! systemd wants the pid of a process to put into a new scope. It is not given the container's own:
//! that one is born in the cgroup, under its limits and with the cgroup as the root of its cgroup
//! namespace, in the same way whoever has made the cgroup. So this one keeps the scope until the
//! container's is there.

use std::ffi::CString;

use runvm_container::{SpawnSelf, SpawnSelfError, spawn_self};
use runvm_sys::PidFd;

/// The first argument that makes this executable such a process.
const NAME: &str = "runvm-seat";

/// The process; killed when this is dropped, or when its maker ends.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) pid: u32,
    pidfd: PidFd,
}

impl Seat {
    pub(crate) fn take() -> Result<Self, SpawnSelfError> {
        let spawned = spawn_self(SpawnSelf {
            argv: CString::new(NAME).into_iter().collect(),
            dies_with_parent: true,
            ..SpawnSelf::default()
        })?;
        Ok(Self {
            pid: spawned.pid,
            pidfd: spawned.pidfd,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.pidfd.send_signal(nix::libc::SIGKILL);
        let _ = self.pidfd.reap();
    }
}

/// Sits still, in the process that was started for that.
pub(crate) fn run_hidden_entry() {
    if std::env::args_os().next().is_some_and(|name| name == NAME) {
        loop {
            std::thread::park();
        }
    }
}
