//! The first process's duty to its children: every one of them is waited for, once, by one thread.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, RwLock};

use runvm_proto::ExitStatus;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, WaitStatus, wait, waitid};

use crate::latch::Latch;

/// The end of a process, for anyone to wait for, before or after it has come.
pub(crate) struct Exit {
    status: OnceLock<ExitStatus>,
    /// That the status is there, so that the end can be polled for beside other things.
    over: Latch,
}

impl Exit {
    fn new() -> io::Result<Self> {
        Ok(Self {
            status: OnceLock::new(),
            over: Latch::new()?,
        })
    }

    fn happened(&self, status: ExitStatus) {
        // Set once: a pid is taken off the table with its first status.
        let _ = self.status.set(status);
        self.over.happen();
    }

    /// How the process ended, once it has.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        self.status.get().copied()
    }

    /// A descriptor that polls as hung up when the process has ended.
    pub(crate) fn over(&self) -> BorrowedFd<'_> {
        self.over.as_fd()
    }
}

/// The table of processes whose end somebody will ask for.
#[derive(Default)]
pub(crate) struct Reaper {
    /// Held for reading while a process is being made: whoever makes it may wait for helpers of its
    /// own, which must not be reaped under its hands, and a process may end before its pid is
    /// on the table.
    making: RwLock<()>,
    processes: Mutex<HashMap<u32, Arc<Exit>>>,
    /// Whether children may have come since the reaper last found none.
    children: Mutex<bool>,
    children_came: Condvar,
}

impl Reaper {
    /// Makes a process by `make`, which tells its pid, and takes its end in charge.
    pub(crate) fn make<T, E: From<io::Error>>(
        &self,
        make: impl FnOnce() -> Result<(u32, T), E>,
    ) -> Result<(T, Arc<Exit>), E> {
        let exit = Arc::new(Exit::new()?);
        let _making = self.making.read().unwrap_or_else(PoisonError::into_inner);
        let made = make();
        if let Ok((pid, _)) = &made {
            self.processes().insert(*pid, Arc::clone(&exit));
        }
        // Also after a failure, which can leave orphans.
        *self.children.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.children_came.notify_one();
        made.map(|(_, made)| (made, exit))
    }

    /// Reaps for ever.
    pub(crate) fn run(&self) -> ! {
        loop {
            // Only looks: the zombie may belong to a process that is being made.
            match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Ok(_) => self.reap_all(),
                Err(Errno::CHILD) => self.wait_for_children(),
                // The only other answer is EINTR.
                Err(_) => {}
            }
        }
    }

    fn reap_all(&self) {
        let _nobody_makes = self.making.write().unwrap_or_else(PoisonError::into_inner);
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let Ok(pid) = u32::try_from(pid.as_raw_nonzero().get()) else {
                continue;
            };
            // One that is not on the table was orphaned in a container without a pid namespace.
            if let Some(exit) = self.processes().remove(&pid) {
                exit.happened(exit_status(status));
            }
        }
    }

    fn wait_for_children(&self) {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        while !*children {
            children = self
                .children_came
                .wait(children)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *children = false;
    }

    fn processes(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Arc<Exit>>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    match (status.exit_status(), status.terminating_signal()) {
        // wait(2) hands out the low eight bits of what exit was given.
        (Some(code), _) => ExitStatus::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        (None, Some(signal)) => ExitStatus::Signal(signal),
        (None, None) => ExitStatus::Code(u8::MAX),
    }
}

/// What came first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// The process ended.
    Exit(ExitStatus),
    /// The other end of the connection is gone.
    HangUp,
}

impl Exit {
    /// Waits until the process has ended, or nobody is left at the other end of `connection` who could
    /// be told.
    pub(crate) fn wait(&self, connection: impl AsFd) -> io::Result<First> {
        loop {
            let mut fds = [
                PollFd::new(&self.over, PollFlags::IN),
                PollFd::new(&connection, PollFlags::RDHUP),
            ];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                polled => polled?,
            };
            if let Some(status) = self.status() {
                return Ok(First::Exit(status));
            }
            if !fds[1].revents().is_empty() {
                return Ok(First::HangUp);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
