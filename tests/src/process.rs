//! A process that can be signalled and waited for.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::patience;

/// A process on the host, which the reuse of its pid cannot mislead.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
}

impl Process {
    /// Takes hold of the process `pid`; `None` when there is none.
    pub fn open(pid: i32) -> Option<Self> {
        let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        Some(Self { pid, pidfd })
    }

    /// Takes hold of the process `pid` by a pidfd that another has opened.
    pub fn from_pidfd(pid: i32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd }
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends it a signal; one that has ended gets none.
    pub fn signal(&self, signal: Signal) {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => panic!("cannot signal process {}: {error}", self.pid),
        }
    }

    /// Waits until it has ended; false when patience ran out.
    #[must_use]
    pub fn wait_for_end(&self) -> bool {
        let timeout = Timespec::try_from(patience()).expect("patience is a span of time");
        loop {
            match poll(
                &mut [PollFd::new(&self.pidfd, PollFlags::IN)],
                Some(&timeout),
            ) {
                Ok(count) => return count > 0,
                Err(Errno::INTR) => {}
                Err(error) => panic!("cannot wait for process {}: {error}", self.pid),
            }
        }
    }

    /// Whether it ends in this time.
    pub fn ends_within(&self, time: Duration) -> bool {
        let timeout = Timespec::try_from(time).expect("a short time");
        let mut set = [PollFd::new(&self.pidfd, PollFlags::IN)];
        poll(&mut set, Some(&timeout)).is_ok_and(|count| count > 0)
    }

    /// Takes the exit code of a child that has ended, 128 and the signal's number for one that a signal
    /// killed; `None` where it is no child of this process.
    pub fn reap(&self) -> Option<i32> {
        use rustix::fd::AsFd;
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED).ok()??;
        status
            .exit_status()
            .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
    }
}

/// Takes away the processes in cgroups of this name that have ended and whose parents have, as their
/// subreaper has to: the first process of a pid namespace ends after all others in it.
pub fn reap_orphans_of(name: &str) {
    for pid in children_of(std::process::id().cast_signed()) {
        let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let is_zombie = read("stat")
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z"));
        if is_zombie && read("cgroup").contains(name) {
            Process::open(pid).and_then(|orphan| orphan.reap());
        }
    }
}

/// The processes that `pid` is the parent of.
pub fn children_of(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .filter_map(|pid| pid.parse().ok())
        .collect()
}
