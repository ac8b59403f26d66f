//! The socket between `create` or `exec` and the process that sets itself up.
//!
//! Each message is a frame: two lengths, a JSON head, and bytes that travel as they are.
//! Descriptors can ride on a frame (unix(7), SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use oci_spec::runtime::LinuxSeccomp;
use runvm_oci::{LinuxIOPriority, LinuxPersonality, NamespaceKind, Scheduler};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ChildError;

/// When a container came to be, on CLOCK_MONOTONIC of the caller, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamps {
    /// Just before the clone.
    pub spawned_ns: u64,
    /// The first instruction of the container's process.
    pub entered_ns: u64,
    /// It has set itself up.
    pub ready_ns: u64,
}

/// What the new process is to do. Numbers are of descriptors it inherited.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Become a container's first process; config.json follows as bytes.
    Create(CreateOrder),
    /// Become one more process of a container; process.json follows as bytes.
    Exec(Box<ExecOrder>),
    /// Become CRIU; for a restore config.json follows as bytes.
    Criu(CriuOrder),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CreateOrder {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) listener: i32,
    pub(crate) tasks: Vec<i32>,
    pub(crate) joins: Vec<(Kind, i32)>,
    pub(crate) no_pivot: bool,
    pub(crate) no_new_keyring: bool,
    pub(crate) preserve_fds: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExecOrder {
    pub(crate) tasks: Vec<i32>,
    pub(crate) target: i32,
    /// The id of the container, after which a new session keyring is named; `None` makes none.
    pub(crate) keyring_of: Option<String>,
    /// `CLONE_NEW*` bits of the namespaces of the target to join.
    pub(crate) join: u32,
    /// The container's: bounding, effective, inheritable, permitted, ambient.
    pub(crate) capabilities: Option<[u64; 5]>,
    /// The container's.
    pub(crate) no_new_privileges: bool,
    /// The container's.
    pub(crate) seccomp: Option<LinuxSeccomp>,
    /// The container's, for a process that names none.
    pub(crate) apparmor_profile: Option<String>,
    /// The container's, for a process that names none.
    pub(crate) selinux_label: Option<String>,
    /// The container's, for a process that names none.
    pub(crate) umask: Option<u32>,
    /// The container's, for a process that names none.
    pub(crate) oom_score_adj: Option<i32>,
    /// The container's, for a process that names none.
    pub(crate) io_priority: Option<LinuxIOPriority>,
    /// The container's, for a process that names none.
    pub(crate) scheduler: Option<Scheduler>,
    /// The container's.
    pub(crate) personality: Option<LinuxPersonality>,
    /// The container's: mode with flags, and nodes.
    pub(crate) memory_policy: Option<(i32, Vec<u32>)>,
    pub(crate) preserve_fds: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CriuOrder {
    pub(crate) program: PathBuf,
    pub(crate) tasks: Vec<i32>,
    /// What it is to open for CRIU, in the mount namespace that CRIU is in.
    pub(crate) directories: Vec<PathBuf>,
    pub(crate) restore: Option<RestoreOrder>,
}

/// What is to be made ready for a restore.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RestoreOrder {
    pub(crate) bundle: PathBuf,
    /// An empty directory, to mount the container's root at.
    pub(crate) root: PathBuf,
    /// Where CRIU will mount something in it.
    pub(crate) mount_points: Vec<PathBuf>,
}

/// [`NamespaceKind`] as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    User,
    Pid,
    Network,
    Ipc,
    Uts,
    Mount,
    Cgroup,
    Time,
}

impl From<NamespaceKind> for Kind {
    fn from(kind: NamespaceKind) -> Self {
        match kind {
            NamespaceKind::User => Self::User,
            NamespaceKind::Pid => Self::Pid,
            NamespaceKind::Network => Self::Network,
            NamespaceKind::Ipc => Self::Ipc,
            NamespaceKind::Uts => Self::Uts,
            NamespaceKind::Mount => Self::Mount,
            NamespaceKind::Cgroup => Self::Cgroup,
            NamespaceKind::Time => Self::Time,
        }
    }
}

/// What the new process says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// Run the hooks of the runtime's namespaces, then answer.
    RuntimeHooks,
    /// Clone this source of `mounts[index]`, which the container's user may not reach or not map
    /// the ids of; map them; answer with it.
    Source {
        path: PathBuf,
        recursive: bool,
        index: usize,
    },
    /// The next bytes are [`seccomp::listener`](crate::seccomp::listener)'s.
    Listener,
    /// The terminal's master rides on this frame.
    Terminal,
    /// CRIU is executed next; the socket for requests rides on this frame. Numbers are of the
    /// directories, in CRIU.
    Criu { directories: Vec<i32> },
    /// All is set up; for an exec: the program comes next.
    Ready {
        entered_ns: u64,
        warnings: Vec<String>,
    },
    /// It ends here.
    Failed(ChildError),
}

/// The caller's answer to [`Word::RuntimeHooks`] when they all succeeded.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GoOn;

/// The caller's answer to [`Word::Source`]; the mount rides on a frame without an error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SourceAnswer {
    pub(crate) errno: Option<i32>,
}

/// One end.
#[derive(Debug)]
pub(crate) struct Control(UnixStream);

/// A message with what came along.
#[derive(Debug)]
pub(crate) struct Frame<T> {
    pub(crate) message: T,
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// The longest head or body that is taken: above any config.json that is.
const PART_BYTES_MAX: usize = 64 << 20;
/// The most descriptors on one frame.
const FDS_MAX: usize = 4;

impl Control {
    /// Two ends of a new socket.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self::from(ours), Self::from(theirs)))
    }

    /// Sends one frame.
    pub(crate) fn send<T: Serialize>(
        &self,
        message: &T,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let head = serde_json::to_vec(message)?;
        let mut lengths = [0; 8];
        lengths[..4].copy_from_slice(&part_length(head.len())?.to_le_bytes());
        lengths[4..].copy_from_slice(&part_length(bytes.len())?.to_le_bytes());
        let mut parts = [
            IoSlice::new(&lengths),
            IoSlice::new(&head),
            IoSlice::new(bytes),
        ];
        let mut parts = &mut parts[..];
        let mut fds = fds;
        while parts.iter().any(|part| !part.is_empty()) {
            let sent = rustix::io::retry_on_intr(|| send_some(self.0.as_fd(), parts, fds))?;
            // The descriptors went with the first byte.
            fds = &[];
            IoSlice::advance_slices(&mut parts, sent);
        }
        Ok(())
    }

    /// Waits until there is something to receive, or nothing any more.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut ready, None))?;
        Ok(())
    }

    /// Receives one frame; `None` when the other end is gone.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<Frame<T>>> {
        let mut lengths = [0; 8];
        let mut fds = Vec::new();
        let mut filled = 0;
        while filled < lengths.len() {
            let room = &mut lengths[filled..];
            match rustix::io::retry_on_intr(|| receive_some(self.0.as_fd(), room, &mut fds)) {
                // Reset: it ended before it had read all that it was sent.
                Ok(0) | Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                Ok(read) => filled += read,
                Err(errno) => return Err(errno.into()),
            }
        }
        let (head, body) = lengths.split_at(4);
        let Some(head) = self.receive_part(head)? else {
            return Ok(None);
        };
        let Some(bytes) = self.receive_part(body)? else {
            return Ok(None);
        };
        Ok(Some(Frame {
            message: serde_json::from_slice(&head)?,
            bytes,
            fds,
        }))
    }

    fn receive_part(&mut self, length: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let length = length.try_into().map(u32::from_le_bytes);
        let length = length.map_err(|_| io::ErrorKind::InvalidData)? as usize;
        if length > PART_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; length];
        match self.0.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn part_length(length: usize) -> io::Result<u32> {
    u32::try_from(length)
        .ok()
        .filter(|_| length <= PART_BYTES_MAX)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn send_some(
    socket: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(rustix::io::Errno::INVAL);
    }
    sendmsg(socket, parts, &mut control, SendFlags::NOSIGNAL)
}

fn receive_some(
    socket: BorrowedFd<'_>,
    room: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(room)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(received.bytes)
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Control {
    fn from(fd: OwnedFd) -> Self {
        Self(UnixStream::from(fd))
    }
}

impl From<Control> for OwnedFd {
    fn from(control: Control) -> Self {
        control.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_larger_than_the_socket_buffer_crosses_whole_with_its_descriptor() {
        let (left, mut right) = Control::pair().unwrap();
        let bytes = vec![7_u8; 3 << 20];
        let sent = bytes.clone();
        let sender = std::thread::spawn(move || {
            let null = std::fs::File::open("/dev/null").unwrap();
            left.send(&GoOn, &sent, &[null.as_fd()]).unwrap();
        });
        let frame = right.receive::<GoOn>().unwrap().unwrap();
        sender.join().unwrap();
        assert_eq!(frame.bytes, bytes);
        assert_eq!(frame.fds.len(), 1);
        assert!(right.receive::<GoOn>().unwrap().is_none());
    }

    #[test]
    fn a_length_beyond_all_measure_is_refused() {
        let (left, mut right) = Control::pair().unwrap();
        let stream: OwnedFd = left.into();
        rustix::io::write(&stream, &[0xff; 8]).unwrap();
        assert!(right.receive::<GoOn>().is_err());
    }
}
