//! Between the stdio of a process of this host and the streams of the one in the guest it stands
//! for.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use runvm_proto::{Process, Stream};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, fstat, major, minor};
use rustix::process::ioctl_tiocsctty;
use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr};

use super::guest::{GuestError, open_stream};

/// A pipe's default capacity (pipe(7)).
const CHUNK: usize = 64 << 10;

/// The streams that must be relayed: those that are not /dev/null, or the one terminal.
pub(super) fn streams(terminal: bool) -> Vec<Stream> {
    if terminal {
        return vec![Stream::Terminal];
    }
    let stdio = (io::stdin(), io::stdout(), io::stderr());
    [
        (Stream::Stdin, stdio.0.as_fd()),
        (Stream::Stdout, stdio.1.as_fd()),
        (Stream::Stderr, stdio.2.as_fd()),
    ]
    .into_iter()
    .filter(|(_, fd)| !is_null(*fd))
    .map(|(stream, _)| stream)
    .collect()
}

fn is_null(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
    })
}

/// Makes the terminal on stdin this process's own, and leaves all its line editing to the guest's.
pub(super) fn take_terminal() -> io::Result<()> {
    rustix::process::setsid()?;
    ioctl_tiocsctty(io::stdin())?;
    let mut raw = tcgetattr(io::stdin())?;
    raw.make_raw();
    tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
    Ok(())
}

/// The size of the terminal on stdin as rows and columns, once somebody has set it.
pub(super) fn terminal_size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdin()).ok()?;
    (size.ws_row > 0 || size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// The relays of one process.
pub(super) struct Relays {
    /// Hears of each chunk that has been passed on, and closes when all output has.
    progress: Receiver<()>,
}

/// Connects `streams` of `process` and starts to relay them.
pub(super) fn relay(
    directory: BorrowedFd<'_>,
    process: &Process,
    streams: &[Stream],
) -> Result<Relays, RelayError> {
    let (passed, progress) = channel();
    for &stream in streams {
        let connection = open_stream(directory, process, stream)?;
        start(stream, connection, passed.clone()).map_err(RelayError::Start)?;
    }
    Ok(Relays { progress })
}

/// Why stdio could not be relayed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RelayError {
    /// No stream.
    #[error(transparent)]
    Stream(#[from] GuestError),
    /// No thread, or no descriptor.
    #[error("cannot relay the streams of a process")]
    Start(#[source] io::Error),
}

fn start(stream: Stream, connection: UnixStream, passed: Sender<()>) -> io::Result<()> {
    let stdin = |connection: UnixStream| -> io::Result<()> {
        let source = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        spawn(move || inward(source, &connection))
    };
    let output = |fd: BorrowedFd<'_>, connection: UnixStream| -> io::Result<()> {
        let sink = File::from(fd.try_clone_to_owned()?);
        spawn(move || outward(connection, sink, &passed))
    };
    match stream {
        Stream::Stdin => stdin(connection),
        Stream::Stdout => output(io::stdout().as_fd(), connection),
        Stream::Stderr => output(io::stderr().as_fd(), connection),
        Stream::Terminal => {
            stdin(connection.try_clone()?)?;
            output(io::stdout().as_fd(), connection)
        }
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().spawn(run).map(drop)
}

/// Copies this host's input to the guest until either has ended.
fn inward(mut source: File, mut connection: &UnixStream) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let mut fds = [
            PollFd::new(&source, PollFlags::IN),
            // The guest's process reads no more.
            PollFd::new(connection, PollFlags::empty()),
        ];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
            Ok(_) => {}
        }
        if !fds[1].revents().is_empty() {
            break;
        }
        match source.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => {
                if connection.write_all(&chunk[..count]).is_err() {
                    break;
                }
            }
            Err(error) if is_passing(&error) => {}
            // A terminal whose other side is closed reads as EIO.
            Err(_) => break,
        }
    }
    // End of file, or a hang-up, for the guest. Fails only where it is gone.
    let _ = connection.shutdown(Shutdown::Write);
}

/// Copies the guest's output to this host until either has ended. When this host's reader has gone,
/// the connection closes, and the guest's process gets its SIGPIPE.
fn outward(mut connection: UnixStream, mut sink: File, passed: &Sender<()>) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match connection.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                if write_all(&mut sink, &chunk[..count]).is_err() {
                    // A terminal's connection has another owner, so closing is not enough.
                    let _ = connection.shutdown(Shutdown::Both);
                    return;
                }
                // Nobody listens for progress before the process has ended.
                let _ = passed.send(());
            }
            Err(error) if is_passing(&error) => {}
            Err(_) => return,
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
}

/// Writes all, also to a pipe that its other users have made non-blocking.
fn write_all(sink: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // Waits for room, or for the error that the next write gives.
                let _ = poll(&mut [PollFd::new(&*sink, PollFlags::OUT)], None);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Relays {
    /// Waits until all output is where it belongs; with `patience`, no longer than that for a reader that
    /// takes nothing.
    pub(super) fn drain(&self, patience: Option<Duration>) {
        loop {
            let more = match patience {
                None => self.progress.recv().is_ok(),
                Some(patience) => self.progress.recv_timeout(patience).is_ok(),
            };
            if !more {
                return;
            }
        }
    }
}

/// A terminal of this host: the side an engine or a user holds, and the process's.
pub(super) fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, slave))
}

#[cfg(test)]
mod tests;
