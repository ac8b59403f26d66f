//! The way of a listener: from the process that has just come under a filter to the agent at
//! `linux.seccomp.listenerPath` (OCI runtime specification, "The Container Process State").
//!
//! The process may call only what its filter allows without asking, so it does the least: it
//! [writes](load_and_offer) the descriptor's number to a socket it has, and waits. Its creator,
//! outside, [fetches](forward) the descriptor by pidfd_getfd(2) and sends it on. (SCM_RIGHTS would
//! need `sendmsg`, which profiles answer by notification more often than `write`.)

use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use runvm_oci::{Plan, State};
use runvm_sys::PidFd;
use rustix::io::{Errno, read, retry_on_intr, write};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use serde::Serialize;

use super::{Filter, LoadError};
use crate::spawn::Newborn;

/// Stands for the number when there is no listener, since the filter could not be loaded.
const NO_LISTENER: i32 = -1;
/// The answer: the descriptor is fetched.
const FETCHED: u8 = 1;

/// What the agent gets beside the descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerProcessState {
    oci_version: &'static str,
    fds: [&'static str; 1],
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<String>,
    state: State,
}

impl ContainerProcessState {
    /// `pid` is the confined process's, which in `exec` is not the container's; `metadata` is
    /// `linux.seccomp.listenerMetadata`.
    pub fn new(state: State, pid: u32, metadata: Option<String>) -> Self {
        Self {
            oci_version: State::OCI_VERSION,
            fds: ["seccompFd"],
            pid,
            metadata,
            state,
        }
    }
}

/// Why a process with notifications was not confined, or its agent not told.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The filter itself.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The socket between the process and its creator.
    #[error("cannot pass on the seccomp listener")]
    Talk(#[source] io::Error),
    /// The descriptor in the process.
    #[error("cannot fetch the seccomp listener from the process")]
    Fetch(#[source] io::Error),
    /// The agent's socket.
    #[error("cannot connect to linux.seccomp.listenerPath {}", path.display())]
    Connect {
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The agent does not take it.
    #[error("cannot send the seccomp listener to linux.seccomp.listenerPath {}", path.display())]
    Send {
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The confined side: loads `filter`, which needs a listener, and returns when the other end of
/// `channel` has it. That must be in [`forward`]: nothing but raw bytes is understood.
pub fn load_and_offer(filter: &Filter, channel: BorrowedFd<'_>) -> Result<(), ListenerError> {
    let loaded = filter.load();
    let number = match &loaded {
        Ok(Some(listener)) => listener.as_raw_fd(),
        Ok(None) | Err(_) => NO_LISTENER,
    };
    // One call, of the kind that a profile may not answer by notification.
    let written = retry_on_intr(|| write(channel, &number.to_le_bytes()));
    written.map_err(talk)?;
    let listener = loaded?;
    if listener.is_some() {
        let mut answer = [0; 1];
        read_exact(channel, &mut answer).map_err(ListenerError::Talk)?;
    }
    // Not before it is fetched.
    drop(listener);
    Ok(())
}

/// [`forward`], with the agent and what it is told besides from `plan`.
pub(crate) fn forward_of(
    plan: &Plan,
    process: &Newborn,
    channel: BorrowedFd<'_>,
    state: State,
) -> Result<bool, ListenerError> {
    let seccomp = plan.seccomp.as_ref();
    let path = seccomp.and_then(|seccomp| seccomp.listener_path().as_deref());
    // Without them the process would not have asked.
    let (Some(path), Some(pidfd)) = (path, process.pidfd()) else {
        return Err(ListenerError::Talk(io::ErrorKind::InvalidData.into()));
    };
    let metadata = seccomp.and_then(|seccomp| seccomp.listener_metadata().clone());
    let state = ContainerProcessState::new(state, process.pid, metadata);
    forward(channel, pidfd, path, &state)
}

/// The creator's side: waits for `process`, which is in [`load_and_offer`] at the other end of
/// `channel`, fetches its listener and sends it with `state` to the agent at `path`. `false` when
/// there is none: the process itself knows why, and goes on to say so.
pub fn forward(
    channel: BorrowedFd<'_>,
    process: &PidFd,
    path: &Path,
    state: &ContainerProcessState,
) -> Result<bool, ListenerError> {
    let mut number = [0; 4];
    read_exact(channel, &mut number).map_err(ListenerError::Talk)?;
    let number = i32::from_le_bytes(number);
    if number == NO_LISTENER {
        return Ok(false);
    }
    let listener = pidfd_getfd(process.as_fd(), number, PidfdGetfdFlags::empty());
    let listener = listener.map_err(|errno| ListenerError::Fetch(errno.into()))?;
    send(path, state, &listener)?;
    retry_on_intr(|| write(channel, &[FETCHED])).map_err(talk)?;
    Ok(true)
}

/// One state for one connection, which is closed after it.
fn send(
    path: &Path,
    state: &ContainerProcessState,
    listener: &OwnedFd,
) -> Result<(), ListenerError> {
    let mut agent = UnixStream::connect(path).map_err(|source| ListenerError::Connect {
        path: path.into(),
        source,
    })?;
    let sent = serde_json::to_vec(state)
        .map_err(io::Error::from)
        .and_then(|state| send_with(&mut agent, &state, listener.as_fd()));
    sent.map_err(|source| ListenerError::Send {
        path: path.into(),
        source,
    })
}

fn send_with(agent: &mut UnixStream, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    let fds = [fd];
    let sent = retry_on_intr(|| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::INVAL);
        }
        let parts = [io::IoSlice::new(bytes)];
        sendmsg(&*agent, &parts, &mut control, SendFlags::NOSIGNAL)
    })?;
    // The descriptor went with the first byte.
    agent.write_all(&bytes[sent..])
}

fn read_exact(channel: BorrowedFd<'_>, mut room: &mut [u8]) -> io::Result<()> {
    while !room.is_empty() {
        match retry_on_intr(|| read(channel, &mut *room))? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => room = &mut room[got..],
        }
    }
    Ok(())
}

fn talk(errno: Errno) -> ListenerError {
    ListenerError::Talk(errno.into())
}
