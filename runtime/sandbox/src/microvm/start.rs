//! The gate between `created` and `running`: a socket of the VMM process, in the machine's directory, for
//! as long as the container waits. The process that starts it connects there; that anybody listens
//! tells that it waits, without a word to the guest, which may hang.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use runvm_container::network::Bridged;
use runvm_proto::{Answer, FrameError, MessageError, Process, Remote, Request, frame};

use runvm_sys::unix_socket::{connect_in, is_listened_at, path_in};

use super::attend::resize;
use super::guest::{Control, GuestError};
use super::stdio;

/// The socket.
const SOCKET: &str = "start.sock";
/// How long one who connects may take to say what for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a container could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// Its network has no form that can be sent.
    #[error("cannot tell the agent of the network")]
    Network(#[source] serde_json::Error),
    /// It does not wait.
    #[error("cannot connect to the socket that releases it")]
    Connect(#[source] io::Error),
    /// The VMM process has gone.
    #[error("the microVM ended while the container was started")]
    Talk(#[source] MessageError),
    /// The agent's own words.
    #[error(transparent)]
    Remote(#[from] Remote),
}

/// Whether the container of the machine in `directory` waits to be started.
pub(super) fn is_waiting(directory: BorrowedFd<'_>) -> io::Result<bool> {
    is_listened_at(directory, SOCKET)
}

/// Starts the container of the machine in `directory` with its network; returns when its program runs.
pub(super) fn start(
    directory: BorrowedFd<'_>,
    id: &str,
    bridged: &Bridged,
) -> Result<(), StartError> {
    let bridged = serde_json::to_vec(bridged).map_err(StartError::Network)?;
    let mut gate = connect_in(directory, SOCKET).map_err(StartError::Connect)?;
    let talk = |error: FrameError| StartError::Talk(error.into());
    frame::write(
        &mut gate,
        &Request::Start {
            container: id.to_owned(),
        },
        &bridged,
    )
    .map_err(talk)?;
    match Answer::receive(&mut gate).map_err(StartError::Talk)? {
        Answer::Failed(remote) => Err(remote.into()),
        _ => Ok(()),
    }
}

/// Seen from the VMM process.
pub(super) struct StartGate {
    listener: UnixListener,
    container: String,
    terminal: bool,
}

impl StartGate {
    /// Makes the socket. `terminal` says whether the program has one.
    pub(super) fn open(
        directory: BorrowedFd<'_>,
        container: &str,
        terminal: bool,
    ) -> io::Result<Self> {
        let listener = UnixListener::bind(path_in(directory, SOCKET))?;
        Ok(Self {
            listener,
            container: container.to_owned(),
            terminal,
        })
    }

    /// Lets the container through once, on a thread of its own.
    pub(super) fn serve(self, directory: OwnedFd) -> io::Result<()> {
        let serve = move || {
            while let Ok((visitor, _)) = self.listener.accept() {
                // Most only look whether anybody listens.
                let Some((mut starter, bridged)) = starter(visitor) else {
                    continue;
                };
                let answer = self.start(directory.as_fd(), &bridged);
                // Closed before the answer: who gets it must find the container running. After
                // a failure the container is about to end.
                drop(self.listener);
                let _ = std::fs::remove_file(path_in(directory.as_fd(), SOCKET));
                // The starter may have gone; the container runs all the same.
                let _ = frame::write(&mut starter, &answer, b"");
                return;
            }
        };
        thread::Builder::new()
            .name("start".into())
            .spawn(serve)
            .map(drop)
    }

    fn start(&self, directory: BorrowedFd<'_>, bridged: &[u8]) -> Answer {
        let request = Request::Start {
            container: self.container.clone(),
        };
        let started = Control::open(directory, None).and_then(|mut control| {
            // What size the caller has given the terminal since, the program finds from the first.
            if let Some(size) = stdio::terminal_size().filter(|_| self.terminal) {
                control.demand(&resize(&Process::first(&self.container), size), b"")?;
            }
            control.demand(&request, bridged)
        });
        match started {
            Ok(()) => Answer::Done,
            Err(GuestError::Remote(remote)) => Answer::Failed(remote),
            Err(error) => Answer::Failed(Remote::from_error(&error)),
        }
    }
}

/// The visitor, when it has come to start the container, and the network it says the container has.
fn starter(mut visitor: UnixStream) -> Option<(UnixStream, Vec<u8>)> {
    visitor.set_read_timeout(Some(PATIENCE)).ok()?;
    match frame::read::<Request>(&mut visitor) {
        Ok(Some((Request::Start { .. }, bridged))) => Some((visitor, bridged)),
        _ => None,
    }
}
