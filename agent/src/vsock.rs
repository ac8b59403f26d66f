//! AF_VSOCK sockets: the only way out of the guest. See vsock(7).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, connect, listen, socket,
};
use rustix::net::{SocketFlags, accept_with};

/// A port of the guest on which the host can be heard.
pub(crate) struct Listener(OwnedFd);

impl Listener {
    /// Takes `port`.
    pub(crate) fn open(port: u32) -> io::Result<Self> {
        let listener = stream_socket()?;
        bind(
            listener.as_raw_fd(),
            &VsockAddr::new(nix::libc::VMADDR_CID_ANY, port),
        )?;
        listen(&listener, Backlog::MAXALLOWABLE)?;
        Ok(Self(listener))
    }

    /// Waits for the next connection.
    pub(crate) fn accept(&self) -> io::Result<File> {
        loop {
            match accept_with(&self.0, SocketFlags::CLOEXEC) {
                // The peer had gone before we came to it.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                accepted => return Ok(accepted?.into()),
            }
        }
    }
}

/// Connects to a port of the host.
pub(crate) fn dial_host(port: u32) -> io::Result<File> {
    let connection = stream_socket()?;
    connect(
        connection.as_raw_fd(),
        &VsockAddr::new(runvm_proto::HOST_CID, port),
    )?;
    Ok(connection.into())
}

fn stream_socket() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}
