//! Unix sockets in a directory that is held by descriptor.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{Mode, OFlags, openat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// A path to `name` in `directory`, short enough for a socket's address however deep that is.
pub fn path_in(directory: BorrowedFd<'_>, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", directory.as_raw_fd())
}

/// Connects to the socket `name` in `directory`, not to one that a link of that name leads to. Where a listener is too busy to take one more
/// connection it is not waited for: the error is then of the kind `WouldBlock` (connect(2), EAGAIN).
pub fn connect_in(directory: BorrowedFd<'_>, name: &str) -> io::Result<UnixStream> {
    let place = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let listener = openat(directory, name, place, Mode::empty())?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", listener.as_raw_fd()))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connection = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&connection, &address)?;
    let connection = UnixStream::from(connection);
    connection.set_nonblocking(false)?;
    Ok(connection)
}

/// Whether anybody listens at the socket `name` in `directory`.
pub fn is_listened_at(directory: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    match connect_in(directory, name) {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock => Ok(true),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(false),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;

    use super::{connect_in, is_listened_at, path_in};

    #[test]
    fn a_listener_that_takes_no_more_connections_is_one_all_the_same() {
        let path = std::env::temp_dir().join(format!("runvm-busy-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let directory = File::open(&path).unwrap();
        let directory = directory.as_fd();
        assert!(!is_listened_at(directory, "s").unwrap());
        let listener = UnixListener::bind(path_in(directory, "s")).unwrap();
        let mut queue = Vec::new();
        while let Ok(connection) = connect_in(directory, "s") {
            queue.push(connection);
            // The least queue there is.
            rustix::net::listen(&listener, 0).unwrap();
        }
        assert!(is_listened_at(directory, "s").unwrap());
        drop(listener);
        assert!(!is_listened_at(directory, "s").unwrap());
        fs::remove_dir_all(&path).unwrap();
    }
}
