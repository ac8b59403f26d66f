//! The way from `created` to running: a socket in the container's state directory, at which the
//! new process waits for one byte.

use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use runvm_sys::unix_socket;

use crate::ChildError;

/// The socket's name in the state directory.
pub(crate) const SOCKET: &str = "start.sock";

/// Start: the caller to the process.
const GO: u8 = b'S';
/// The process to the caller: the program is executed next; the end of the stream tells that it is.
const EXECUTING: u8 = b'E';

/// Why a created container did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nobody waits in this state directory.
    #[error("cannot reach the container's waiting process")]
    Connect(#[source] io::Error),
    /// The connection broke.
    #[error("cannot talk to the container's waiting process")]
    Talk(#[source] io::Error),
    /// The process ended without a word.
    #[error("the container's process was killed before it could execute the program")]
    Killed,
    /// The process could not become the program.
    #[error("the container's process could not start the program")]
    Child(#[source] ChildError),
}

/// Lets the container created in `state_dir` run its program; returns when the program has been
/// executed.
pub fn start(state_dir: BorrowedFd<'_>) -> Result<(), StartError> {
    let mut stream = unix_socket::connect_in(state_dir, SOCKET).map_err(StartError::Connect)?;
    stream.write_all(&[GO]).map_err(StartError::Talk)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(StartError::Talk)?;
    // Nobody can start it a second time; the file is of no use any more.
    let _ = rustix::fs::unlinkat(state_dir, SOCKET, rustix::fs::AtFlags::empty());
    let failure = match answer.strip_prefix(&[EXECUTING]) {
        Some([]) => return Ok(()),
        Some(failure) => failure,
        None if answer.is_empty() => return Err(StartError::Killed),
        None => &answer,
    };
    Err(match serde_json::from_slice(failure) {
        Ok(error) => StartError::Child(error),
        Err(error) => StartError::Talk(error.into()),
    })
}

/// Whether a created container that has not been started waits in `state_dir`.
pub fn is_waiting(state_dir: BorrowedFd<'_>) -> io::Result<bool> {
    unix_socket::is_listened_at(state_dir, SOCKET)
}

/// Makes the socket; the listener is for the new process alone.
pub(crate) fn listen(state_dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(UnixListener::bind(unix_socket::path_in(state_dir, SOCKET))?.into())
}

/// Takes the socket away again, for a container that was not created.
pub(crate) fn forget(state_dir: BorrowedFd<'_>) {
    // Best effort on the way out of another error.
    let _ = rustix::fs::unlinkat(state_dir, SOCKET, rustix::fs::AtFlags::empty());
}

/// The waiting process's side: blocks until the start byte comes. A connection that ends without
/// it was a question whether anybody waits.
pub(crate) fn wait(listener: &UnixListener) -> io::Result<Release> {
    loop {
        let (mut stream, _) = match listener.accept() {
            Err(error) if is_passing(&error) => continue,
            accepted => accepted?,
        };
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) if byte == [GO] => return Ok(Release(stream)),
            _ => continue,
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}

/// The connection of the one who starts the container.
pub(crate) struct Release(UnixStream);

impl Release {
    /// Says that execve comes next. It closes the connection when it succeeds.
    pub(crate) fn executing(&mut self) -> io::Result<()> {
        self.0.write_all(&[EXECUTING])
    }

    /// Says why the program does not run.
    pub(crate) fn failed(&mut self, error: &ChildError) {
        // The caller may be gone; there is nobody else to tell.
        let _ = serde_json::to_writer(&mut self.0, error);
    }
}
