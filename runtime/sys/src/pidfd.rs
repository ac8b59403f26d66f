//! Process handles: [`PidFd`].

// rustix names signals by a type that real-time signals do not fit without unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

/// A handle on one process, which the reuse of its pid cannot mislead. See pidfd_open(2).
#[derive(Debug)]
pub struct PidFd(OwnedFd);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// By exit(2), with this status.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

impl ExitStatus {
    /// The status as a shell gives it: 128 more than the signal for one that was killed.
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(status) => status,
            Self::Signaled(signal) => 128 + signal,
        }
    }
}

impl PidFd {
    /// Opens a handle on the process `pid`. Who does not own the process as a child must check
    /// afterwards that it is the one meant.
    pub fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(io::ErrorKind::InvalidInput)?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self(pidfd)),
            // Of these arguments, what older kernels (seen: 6.12) find invalid is a pid that has outlived
            // its process as the number of a group or session.
            Err(Errno::INVAL) => Err(Errno::SRCH.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A handle from a descriptor that is known to be a pidfd: from clone3(2) or SCM_RIGHTS.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends a signal by number; 0 sends none and tells whether the process can be reached.
    pub fn send_signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: the descriptor is open for as long as `self` lives, and the null pointer asks
        // the kernel to fill in the siginfo itself (pidfd_send_signal(2)).
        let answer = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Whether the process has ended (its zombie may remain).
    pub fn has_exited(&self) -> io::Result<bool> {
        self.wait_exit(Some(&Timespec::default()))
    }

    /// Blocks until the process, child or not, has ended, or the time is over; `None` is no
    /// limit. Tells whether it has ended.
    pub fn wait_exit(&self, timeout: Option<&Timespec>) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, timeout))?;
        Ok(!fds[0].revents().is_empty())
    }

    /// Blocks until the process, a child of ours, has ended, and reaps it.
    pub fn reap(&self) -> io::Result<ExitStatus> {
        let status = rustix::io::retry_on_intr(|| {
            waitid(WaitId::PidFd(self.0.as_fd()), WaitIdOptions::EXITED)
        })?
        .ok_or(io::ErrorKind::WouldBlock)?;
        Ok(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ExitStatus::Exited(code),
            (None, signal) => ExitStatus::Signaled(signal.unwrap_or(0)),
        })
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> Self {
        pidfd.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_signalled_and_reaped_through_its_handle() {
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let handle = PidFd::open(child.id()).unwrap();
        assert!(!handle.has_exited().unwrap());
        handle.send_signal(libc::SIGTERM).unwrap();
        assert_eq!(handle.reap().unwrap(), ExitStatus::Signaled(libc::SIGTERM));
        assert!(handle.send_signal(0).is_err());
        assert!(child.wait().is_err(), "the handle has reaped it");
    }

    #[test]
    fn a_signal_counts_from_128_in_the_exit_code() {
        assert_eq!(ExitStatus::Signaled(9).code(), 137);
        assert_eq!(ExitStatus::Exited(3).code(), 3);
    }
}
