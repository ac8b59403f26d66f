//! The host end of a connection: a unix socket and the bytes that its reader has not taken yet.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, recv};

use crate::devices::span::Span;

/// The longest first line: `CONNECT 4294967295` and its newline.
const LONGEST_GREETING: usize = 19;

/// A connected, non-blocking unix socket.
///
/// How much may wait in the backlog is bounded by the credit that the guest was given.
#[derive(Debug)]
pub(super) struct HostStream {
    socket: UnixStream,
    /// What the socket did not take at once.
    backlog: VecDeque<u8>,
    /// Ends the sending half once the backlog is gone.
    end_behind_backlog: bool,
    /// Reading may give something: nothing has said EAGAIN since the last event.
    pub(super) readable: bool,
    /// The other side takes nothing any more.
    pub(super) hung_up: bool,
}

/// What a read from the host gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Bytes(usize),
    /// Nothing now.
    Empty,
    /// Nothing ever again.
    End,
}

/// What a client's first line says so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// It is not there yet.
    Partial,
    /// The guest port to connect to.
    Connect(u32),
    /// Not a greeting, or the client is gone.
    Bad,
}

impl HostStream {
    /// Takes a socket that is non-blocking.
    pub(super) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            backlog: VecDeque::new(),
            end_behind_backlog: false,
            readable: true,
            hung_up: false,
        }
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Whether the reader has not taken everything yet.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Reads the client's first line, and not one byte behind it.
    pub(super) fn greeting(&mut self) -> Greeting {
        if self.hung_up {
            return Greeting::Bad;
        }
        let mut line = [0; LONGEST_GREETING];
        let seen = match recv(&self.socket, &mut line[..], RecvFlags::PEEK) {
            Ok((0, _)) => return Greeting::Bad,
            Ok((seen, _)) => &line[..seen],
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Greeting::Partial,
            Err(_) => return Greeting::Bad,
        };
        let Some(end) = seen.iter().position(|&byte| byte == b'\n') else {
            return if seen.len() < LONGEST_GREETING {
                Greeting::Partial
            } else {
                Greeting::Bad
            };
        };
        let Some(port) = parse_connect(&seen[..end]) else {
            return Greeting::Bad;
        };
        match recv(&self.socket, &mut line[..=end], RecvFlags::empty()) {
            Ok((taken, _)) if taken == end + 1 => Greeting::Connect(port),
            _ => Greeting::Bad,
        }
    }

    /// Answers the greeting: the guest listens, and bytes follow.
    pub(super) fn confirm(&mut self, host_port: u32) {
        let answer = format!("OK {host_port}\n");
        // Nothing was written before, so there is room; and these bytes must not enter the
        // backlog, which is counted as the guest's.
        let written = (&self.socket).write(answer.as_bytes());
        self.hung_up |= !written.is_ok_and(|bytes| bytes == answer.len());
    }

    /// Reads into `span`, at most `most` bytes.
    pub(super) fn read(&mut self, span: &Span, most: usize) -> Read {
        match span.fill(&mut self.socket, most) {
            Ok(0) => Read::End,
            Ok(bytes) => Read::Bytes(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Read::Empty
            }
            Err(_) => Read::End,
        }
    }

    /// Gives the reader a packet's payload. Says how many bytes it took at once; the others wait.
    pub(super) fn deliver(&mut self, payload: Span) -> usize {
        let len = payload.len();
        if self.hung_up || len == 0 {
            return len;
        }
        let mut taken = 0;
        if self.backlog.is_empty() {
            taken = match payload.drain(&mut self.socket) {
                Ok(taken) => taken,
                Err(error) => self.not_written(&error),
            };
        }
        if self.hung_up {
            return len;
        }
        if taken < len {
            self.backlog.extend(payload.copy_behind(taken));
        }
        taken
    }

    /// Writes what waits, as far as the reader takes it. Says how many bytes left the backlog.
    pub(super) fn flush(&mut self) -> usize {
        let waited = self.backlog.len();
        while !self.backlog.is_empty() && !self.hung_up {
            match (&self.socket).write(self.backlog.as_slices().0) {
                Ok(written) => drop(self.backlog.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => drop(self.not_written(&error)),
            }
        }
        if self.hung_up || self.backlog.is_empty() {
            self.backlog = VecDeque::new();
            self.finish_ending();
        }
        waited - self.backlog.len()
    }

    fn not_written(&mut self, error: &io::Error) -> usize {
        self.hung_up = error.kind() != io::ErrorKind::WouldBlock;
        0
    }

    /// Lets the reader see the end of the stream behind what still waits.
    pub(super) fn end_sending(&mut self) {
        self.end_behind_backlog = true;
        if self.backlog.is_empty() {
            self.finish_ending();
        }
    }

    fn finish_ending(&mut self) {
        if std::mem::take(&mut self.end_behind_backlog) {
            // It can only fail where the other side is gone, which an event tells.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
    }

    /// Lets the writer meet EPIPE: the guest reads no more.
    pub(super) fn end_receiving(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Read);
        self.readable = false;
    }
}

/// The port of `CONNECT port`.
fn parse_connect(line: &[u8]) -> Option<u32> {
    let port = line.strip_prefix(b"CONNECT ")?;
    if !port.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(port).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn pair() -> (UnixStream, HostStream) {
        let (client, socket) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        (client, HostStream::new(socket))
    }

    #[test]
    fn a_greeting_may_come_in_pieces_and_nothing_behind_it_is_taken() {
        let (mut client, mut stream) = pair();
        assert_eq!(stream.greeting(), Greeting::Partial);
        client.write_all(b"CONN").unwrap();
        assert_eq!(stream.greeting(), Greeting::Partial);
        client.write_all(b"ECT 52\nCONNECT 53\n").unwrap();
        assert_eq!(stream.greeting(), Greeting::Connect(52));
        let mut rest = [0; 11];
        stream.socket.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"CONNECT 53\n");
    }

    #[test]
    fn what_is_not_a_greeting_is_refused() {
        let lines: [&[u8]; 9] = [
            b"\n",
            b"CONNECT\n",
            b"CONNECT \n",
            b"connect 5\n",
            b"CONNECT -5\n",
            b"CONNECT +5\n",
            b"CONNECT 4294967296\n",
            b"CONNECT 00000000000000000005\n",
            b"CONNECT 5\r\n",
        ];
        for line in lines {
            let (mut client, mut stream) = pair();
            client.write_all(line).unwrap();
            assert_eq!(
                stream.greeting(),
                Greeting::Bad,
                "{:?}",
                String::from_utf8_lossy(line)
            );
        }
    }

    #[test]
    fn a_client_that_leaves_before_its_greeting_is_refused() {
        let (client, mut stream) = pair();
        drop(client);
        assert_eq!(stream.greeting(), Greeting::Bad);
    }

    #[test]
    fn the_end_comes_behind_what_waits() {
        let (mut client, mut stream) = pair();
        stream.backlog.extend(vec![7; 1 << 20]);
        assert!(stream.flush() > 0, "the socket takes something");
        stream.end_sending();
        assert!(stream.has_backlog());
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            client.read_to_end(&mut all).unwrap();
            all.len()
        });
        while stream.has_backlog() {
            stream.flush();
            std::thread::yield_now();
        }
        assert_eq!(reader.join().unwrap(), 1 << 20);
    }
}
