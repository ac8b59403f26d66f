//! sd_notify(3) for a container: whoever started the runtime hears that the program is ready.
//!
//! The program gets a socket of the runtime's, in a directory of its own that is bound into the
//! container. Of what it says only that it is ready is passed on: who the main process is and what
//! the supervisor keeps for it is not the container's to say.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use runvm_sys::PidFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::umask;

use super::Container;

/// The directory in the container's state directory, and the socket in it.
pub(super) const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";
/// The most of a message that is looked at, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;
/// How long the supervisor may take to say that it has heard.
const BARRIER_PATIENCE: Duration = Duration::from_secs(5);

/// Why a container's readiness is not passed on.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The program's socket.
    #[error("cannot listen for the readiness of container {id:?}")]
    Listen {
        /// The container.
        id: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The program's socket, or its process.
    #[error("cannot wait for the readiness of a container")]
    Wait(#[source] io::Error),
    /// The supervisor's socket.
    #[error("cannot tell {socket:?} (NOTIFY_SOCKET) that a container is ready")]
    Tell {
        /// What NOTIFY_SOCKET says.
        socket: OsString,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The socket that a program says at that it is ready.
#[derive(Debug)]
pub struct Readiness(UnixDatagram);

impl Container {
    /// Listens for the program, which is to be started next; `None` where it was not given a
    /// socket when the container was made.
    pub fn listen_for_readiness(&self) -> Result<Option<Readiness>, NotifyError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let listen = || -> io::Result<Option<Readiness>> {
            match openat(&self.directory, DIRECTORY, flags, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) => Ok(None),
                directory => Ok(Some(Readiness(bind(&directory?)?))),
            }
        };
        listen().map_err(|source| NotifyError::Listen {
            id: self.record.id.clone(),
            source,
        })
    }
}

/// Makes the directory that is bound into a new container.
pub(super) fn make_directory(state: &impl AsFd) -> io::Result<()> {
    Ok(mkdirat(state, DIRECTORY, Mode::from_raw_mode(0o755))?)
}

/// A socket for every user of the container.
fn bind(directory: &OwnedFd) -> io::Result<UnixDatagram> {
    // Left by a start that failed.
    let _ = unlinkat(directory, SOCKET, AtFlags::empty());
    let before = umask(Mode::empty());
    // Through the descriptor: the directory's own path may be longer than a socket address.
    let bound = UnixDatagram::bind(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()));
    umask(before);
    bound
}

impl Readiness {
    /// Waits until the program says that it is ready, or `process` has ended; then tells the
    /// supervisor at `socket`, and that `main_pid` is to be watched.
    pub fn pass_on(
        self,
        process: &PidFd,
        socket: &OsStr,
        main_pid: u32,
    ) -> Result<(), NotifyError> {
        if !self.wait(process).map_err(NotifyError::Wait)? {
            return Ok(());
        }
        tell(socket, main_pid).map_err(|source| NotifyError::Tell {
            socket: socket.to_owned(),
            source,
        })
    }

    fn wait(&self, process: &PidFd) -> io::Result<bool> {
        let mut message = [0; MESSAGE_BYTES_MAX];
        loop {
            let mut set = [
                PollFd::new(&self.0, PollFlags::IN),
                PollFd::new(process, PollFlags::IN),
            ];
            rustix::io::retry_on_intr(|| poll(&mut set, None))?;
            // What was said comes before the end.
            if set[0].revents().is_empty() {
                return Ok(false);
            }
            let length = self.0.recv(&mut message)?;
            if message[..length]
                .split(|byte| *byte == b'\n')
                .any(|line| line == b"READY=1")
            {
                return Ok(true);
            }
        }
    }
}

fn tell(socket: &OsStr, main_pid: u32) -> io::Result<()> {
    let supervisor = UnixDatagram::unbound()?;
    supervisor.connect_addr(&match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    })?;
    supervisor.send(b"READY=1\n")?;
    supervisor.send(format!("MAINPID={main_pid}\n").as_bytes())?;
    wait_until_heard(&supervisor)
}

/// The supervisor closes what comes with a barrier when it has heard all that was said before it:
/// until then it may look at who said it (sd_notify_barrier(3)).
fn wait_until_heard(supervisor: &UnixDatagram) -> io::Result<()> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [theirs.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for the descriptor"));
    }
    let barrier = [IoSlice::new(b"BARRIER=1")];
    sendmsg(supervisor, &barrier, &mut control, SendFlags::NOSIGNAL)?;
    drop(theirs);
    let patience = Timespec::try_from(BARRIER_PATIENCE).map_err(io::Error::other)?;
    // One that knows no barriers has heard all the same.
    poll(&mut [PollFd::new(&ours, PollFlags::IN)], Some(&patience))?;
    Ok(())
}
