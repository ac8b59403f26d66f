//! The processes that stand on the host for those in the guest: this executable run again, told what to do
//! over a socket, on which it reports once.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use runvm_container::{SpawnSelf, SpawnSelfError, Stdio, spawn_self};
use runvm_proto::{FrameError, MessageError, Remote, frame};
use runvm_sys::PidFd;
use runvm_sys::inherited;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{exec, stdio, vmm};
use crate::BackendError;

/// The name of the VMM process.
pub(super) const VMM: &str = "runvm-vmm";
/// The name of an exec's stand-in.
pub(super) const EXEC: &str = "runvm-exec";

/// Runs the hidden entry this process was started for and ends with its status; returns at once in an
/// ordinary process.
pub fn run_hidden_entry() {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let run = match name.as_str() {
        VMM => vmm::run_hidden,
        EXEC => exec::run_hidden,
        _ => return,
    };
    let socket = arguments.next().and_then(|number| number.parse().ok());
    let Some(socket) = socket.and_then(|number| inherited::take(number).ok()) else {
        eprintln!("{name}: not a command");
        std::process::exit(1);
    };
    std::process::exit(run(Boss(socket.into())));
}

/// Seen from the hidden process: who started it.
pub(super) struct Boss(UnixStream);

impl Boss {
    /// What is to be done.
    pub(super) fn order<T: DeserializeOwned>(&mut self) -> Result<(T, Vec<u8>), MessageError> {
        frame::read(&mut self.0)?.ok_or(MessageError::Ended)
    }

    /// Says how it goes.
    pub(super) fn report(&mut self, report: &impl Serialize) -> Result<(), FrameError> {
        frame::write(&mut self.0, report, b"")
    }
}

/// Seen from who started it: the hidden process, which is killed unless it is kept.
pub(super) struct Hidden {
    pub(super) pid: u32,
    pidfd: Option<PidFd>,
    socket: UnixStream,
}

/// How to start a hidden process.
pub(super) struct Start<'a> {
    /// One of the names above.
    pub(super) name: &'static str,
    /// What it inherits, by the same numbers.
    pub(super) inherit: Vec<BorrowedFd<'a>>,
    /// Its stdio.
    pub(super) stdio: &'a Stdio,
    /// `CLONE_NEW*` bits.
    pub(super) new_namespaces: u32,
    /// A cgroup v2 directory to be born in.
    pub(super) cgroup: Option<BorrowedFd<'a>>,
}

/// Why a hidden process could not be started, or did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum HiddenError {
    /// No socket.
    #[error("cannot make a socket")]
    Socket(#[source] io::Error),
    /// No process.
    #[error("cannot start {name}")]
    Spawn {
        /// Which.
        name: &'static str,
        /// Why.
        source: SpawnSelfError,
    },
    /// The conversation broke.
    #[error("cannot talk to {name}")]
    Talk {
        /// To which.
        name: &'static str,
        /// Why.
        source: MessageError,
    },
    /// It ended instead of reporting.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
    /// It reported a failure.
    #[error(transparent)]
    Remote(#[from] Remote),
}

impl Hidden {
    /// Starts one and tells it what to do.
    pub(super) fn start(
        start: Start<'_>,
        order: &impl Serialize,
        payload: &[u8],
    ) -> Result<Self, HiddenError> {
        let Start {
            name,
            mut inherit,
            stdio,
            new_namespaces,
            cgroup,
        } = start;
        let (ours, theirs) = UnixStream::pair().map_err(HiddenError::Socket)?;
        inherit.push(theirs.as_fd());
        let argv = [name.to_owned(), theirs.as_raw_fd().to_string()]
            .into_iter()
            .filter_map(|argument| CString::new(argument).ok())
            .collect();
        let spawned = spawn_self(SpawnSelf {
            argv,
            inherit,
            stdio: Some([
                stdio.stdin.as_fd(),
                stdio.stdout.as_fd(),
                stdio.stderr.as_fd(),
            ]),
            new_namespaces,
            cgroup,
            dies_with_parent: false,
        })
        .map_err(|source| HiddenError::Spawn { name, source })?;
        let mut hidden = Self {
            pid: spawned.pid,
            pidfd: Some(spawned.pidfd),
            socket: ours,
        };
        frame::write(&mut hidden.socket, order, payload).map_err(|error| HiddenError::Talk {
            name,
            source: error.into(),
        })?;
        Ok(hidden)
    }

    /// Says something more.
    pub(super) fn tell(
        &mut self,
        name: &'static str,
        word: &impl Serialize,
    ) -> Result<(), HiddenError> {
        frame::write(&mut self.socket, word, b"").map_err(|error| HiddenError::Talk {
            name,
            source: error.into(),
        })
    }

    /// Waits for its next report.
    pub(super) fn report<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
    ) -> Result<T, HiddenError> {
        let report = frame::read::<Result<T, Remote>>(&mut self.socket).map_err(|error| {
            HiddenError::Talk {
                name,
                source: error.into(),
            }
        })?;
        Ok(report.ok_or(HiddenError::Ended(name))?.0?)
    }

    /// A handle on it.
    pub(super) fn pidfd(&self) -> Option<&PidFd> {
        self.pidfd.as_ref()
    }

    /// Lets it live on.
    pub(super) fn keep(mut self) -> Result<(u32, PidFd), BackendError> {
        let pidfd = self.pidfd.take().ok_or("the process is kept already")?;
        Ok((self.pid, pidfd))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            // The error on its way out is the one to tell.
            let _ = pidfd.send_signal(nix::libc::SIGKILL);
            let _ = pidfd.reap();
        }
    }
}

/// The stdio a hidden process gets for the one in the guest: the caller's, or the process's side of a new
/// terminal, whose other side comes along.
pub(super) fn stdio_for(terminal: bool, given: Stdio) -> io::Result<(Stdio, Option<OwnedFd>)> {
    if !terminal {
        return Ok((given, None));
    }
    let (master, slave) = stdio::open_terminal()?;
    let stdio = Stdio {
        stdin: slave.try_clone()?,
        stdout: slave.try_clone()?,
        stderr: slave,
    };
    Ok((stdio, Some(master)))
}
