//! The way of `update` to the machine's balloon: a socket of the VMM process, in the machine's directory.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use runvm_proto::{MessageError, Remote, frame};
use runvm_sys::unix_socket::{connect_in, path_in};
use runvm_vmm::Balloon;
use serde::{Deserialize, Serialize};

/// The socket.
const SOCKET: &str = "balloon.sock";
/// How long either side may take to say its word.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much memory the guest is to do without, in MiB.
#[derive(Serialize, Deserialize)]
struct Size(u32);

/// Why the balloon keeps its size.
#[derive(Debug, thiserror::Error)]
pub(super) enum BalloonError {
    /// No VMM process.
    #[error("cannot connect to the socket of the machine's balloon")]
    Connect(#[source] io::Error),
    /// The VMM process has gone.
    #[error("cannot talk to the VMM process about the machine's balloon")]
    Talk(#[source] MessageError),
    /// The hypervisor's answer.
    #[error(transparent)]
    Remote(#[from] Remote),
}

/// Has the guest of the machine in `directory` do without `mib` of its memory, as far as it can. What
/// it gives up goes back to the host as it finds it.
pub(super) fn set(directory: BorrowedFd<'_>, mib: u32) -> Result<(), BalloonError> {
    let mut connection = connect_in(directory, SOCKET).map_err(BalloonError::Connect)?;
    bound(&connection).map_err(BalloonError::Connect)?;
    let talk = |error: frame::FrameError| BalloonError::Talk(error.into());
    frame::write(&mut connection, &Size(mib), b"").map_err(talk)?;
    let answer = frame::read::<Result<(), Remote>>(&mut connection).map_err(talk)?;
    Ok(answer.ok_or(BalloonError::Talk(MessageError::Ended))?.0?)
}

/// Takes requests for `balloon`, on a thread of its own, until the process ends.
pub(super) fn serve(directory: BorrowedFd<'_>, balloon: Balloon) -> io::Result<()> {
    let listener = UnixListener::bind(path_in(directory, SOCKET))?;
    let serve = move || {
        while let Ok((mut visitor, _)) = listener.accept() {
            if bound(&visitor).is_err() {
                continue;
            }
            if let Ok(Some((Size(mib), _))) = frame::read::<Size>(&mut visitor) {
                let answer = balloon.set(mib);
                let answer = answer.map_err(|error| Remote::from_error(&error));
                // Who asked may have gone.
                let _ = frame::write(&mut visitor, &answer, b"");
            }
        }
    };
    thread::Builder::new()
        .name("balloon".into())
        .spawn(serve)
        .map(drop)
}

fn bound(connection: &UnixStream) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))
}
