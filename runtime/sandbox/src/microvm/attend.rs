//! A process of this host standing for one in the guest: signals and window sizes go in, the end
//! comes out.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::sys::signalfd::{SfdFlags, SignalFd};
use runvm_proto::{Answer, ExitStatus, Process, Request};

use super::guest::{Control, GuestError};
use super::stdio;

/// How long the agent may take to take a signal.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(10);

/// The signals this process takes on behalf of the one it stands for.
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Blocks them, for this thread and those it starts from now on.
    pub(super) fn take() -> io::Result<Self> {
        let set = crate::signals::forwarded();
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?))
    }

    /// Passes them on to `process` from now on.
    pub(super) fn forward(
        self,
        directory: OwnedFd,
        process: Process,
        terminal: bool,
    ) -> io::Result<()> {
        let forward = move || {
            while let Ok(Some(info)) = self.0.read_signal() {
                let Ok(signal) = i32::try_from(info.ssi_signo) else {
                    continue;
                };
                let request = match signal {
                    nix::libc::SIGWINCH => match stdio::terminal_size() {
                        Some(size) if terminal => resize(&process, size),
                        _ => continue,
                    },
                    // The guest's own terminal hangs up when its stream ends.
                    nix::libc::SIGHUP if terminal => continue,
                    signal => Request::Kill {
                        process: process.clone(),
                        signal,
                        all: false,
                    },
                };
                // One that comes too late, or cannot be delivered now, is lost, as it is to a
                // process that is just ending.
                let _ = Control::open(directory.as_fd(), Some(SIGNAL_PATIENCE))
                    .and_then(|mut control| control.demand(&request, b""));
            }
        };
        thread::Builder::new()
            .name("signals".into())
            .spawn(forward)
            .map(drop)
    }
}

/// The request that gives `process` a terminal of `size`, rows and columns.
pub(super) fn resize(process: &Process, (height, width): (u16, u16)) -> Request {
    Request::Resize {
        process: process.clone(),
        height,
        width,
    }
}

/// Waits for the end of `process`.
pub(super) fn wait(control: &mut Control, process: &Process) -> Result<ExitStatus, GuestError> {
    match control.ask(
        &Request::Wait {
            process: process.clone(),
        },
        b"",
    )? {
        Answer::Exited(status) => Ok(status),
        answer => Err(GuestError::Unexpected(answer)),
    }
}

/// How long the rest of a killed process's output may wait for a reader.
const KILLED_PATIENCE: Duration = Duration::from_secs(1);

/// How long the output of a process that ended so may wait for a reader: for ever, unless somebody wanted
/// it gone.
pub(super) fn drain_patience(status: ExitStatus) -> Option<Duration> {
    (status == ExitStatus::Signal(nix::libc::SIGKILL)).then_some(KILLED_PATIENCE)
}
