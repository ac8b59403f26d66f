//! The directory in which host listeners for connections from the guest live.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// What the names of the listeners' sockets start with; the port, in decimal, follows.
const PREFIX: &str = "vm.sock_";

/// A directory with a unix socket `vm.sock_PORT` for each host port that somebody listens on.
#[derive(Clone, Debug)]
pub(super) struct PortDirectory(Arc<OwnedFd>);

impl PortDirectory {
    pub(super) fn new(directory: OwnedFd) -> Self {
        Self(Arc::new(directory))
    }

    /// Connects to the listener on a port; the socket is non-blocking. A listener whose backlog
    /// is full refuses.
    pub(super) fn connect(&self, port: u32) -> io::Result<UnixStream> {
        // A socket's address holds 107 bytes, and there is no connectat(2): through /proc the
        // directory's own path may be of any length, and may have been moved.
        let path = format!("/proc/self/fd/{}/{PREFIX}{port}", self.0.as_raw_fd());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket.into())
    }
}
