//! A conversation over D-Bus, one call at a time.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::address::{self, AddressError, Sockets};
use crate::message::{BYTES_MAX, Body, Call, Malformed, Message, START_BYTES, rest_bytes};
use crate::{Instance, Value};

/// How long an answer may take. A service manager reloading on a busy host takes seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A line of the handshake is shorter.
const LINE_BYTES_MAX: usize = 1024;

const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";

/// Why a service manager could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The environment names no bus.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Nobody listens.
    #[error("cannot connect to D-Bus at {address}")]
    Connect {
        /// Where.
        address: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It does not take this user.
    #[error("D-Bus does not accept this user: it says {0:?}")]
    Refused(String),
    /// The connection broke, or the answer took too long.
    #[error("cannot talk over D-Bus")]
    Talk(#[from] io::Error),
    /// What came is no message.
    #[error("cannot read what came over D-Bus")]
    Malformed,
    /// The call failed.
    #[error("{member} failed: {text} ({name})")]
    Call {
        /// The method.
        member: &'static str,
        /// The name of the error.
        name: Box<str>,
        /// What the other side says.
        text: Box<str>,
    },
}

impl From<Malformed> for BusError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl BusError {
    /// Whether the other side answered with the error of this name.
    pub(crate) fn is(&self, error: &str) -> bool {
        matches!(self, Self::Call { name, .. } if **name == *error)
    }
}

/// A connection to a bus, or to a service manager without one.
#[derive(Debug)]
pub(crate) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// News that came before an answer.
    signals: VecDeque<(String, Body)>,
    /// By when the answer must be there.
    deadline: Instant,
}

impl Bus {
    /// Connects to the bus of `instance`, or to the manager's own socket where there is no bus.
    pub(crate) fn connect(instance: Instance) -> Result<Self, BusError> {
        let sockets = Sockets::find(instance)?;
        let mut last = None;
        for socket in &sockets.bus {
            match address::connect(socket) {
                Ok(stream) => {
                    let mut bus = Self::open(stream)?;
                    bus.call(call_bus("Hello", Vec::new()))?;
                    return Ok(bus);
                }
                Err(source) => last = Some((format!("{socket:?}"), source)),
            }
        }
        if let Some(direct) = sockets.direct
            && let Ok(stream) = UnixStream::connect(direct)
        {
            return Self::open(stream);
        }
        let (address, source) = last.unwrap_or_else(|| {
            let none = io::ErrorKind::NotFound.into();
            (String::from("no address"), none)
        });
        Err(BusError::Connect { address, source })
    }

    /// Introduces us on a new connection.
    pub(crate) fn open(stream: UnixStream) -> Result<Self, BusError> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut bus = Self {
            stream,
            serial: 0,
            signals: VecDeque::new(),
            deadline: Instant::now() + PATIENCE,
        };
        // Without a name the other side takes who the kernel says we are, which in a user
        // namespace is not who we think. Nothing follows BEGIN before the answer: what systemd
        // reads together with that it leaves lying.
        bus.stream
            .write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        loop {
            let line = bus.line()?;
            if line.starts_with("OK") {
                return Ok(bus);
            }
            if !line.starts_with("DATA") {
                return Err(BusError::Refused(line));
            }
        }
    }

    /// Has the bus pass on the signals that match `rule`. On a connection without a bus they all
    /// come anyway, and nobody is there to be told.
    pub(crate) fn listen(&mut self, rule: &str) -> Result<(), BusError> {
        match self.call(call_bus("AddMatch", vec![rule.into()])) {
            Err(error) if error.is("org.freedesktop.DBus.Error.UnknownMethod") => Ok(()),
            Err(error) if error.is("org.freedesktop.DBus.Error.UnknownObject") => Ok(()),
            answered => answered.map(|_| ()),
        }
    }

    /// Calls a method and waits for its answer.
    pub(crate) fn call(&mut self, call: Call<'_>) -> Result<Body, BusError> {
        self.serial += 1;
        self.deadline = Instant::now() + PATIENCE;
        let message = call.encode(self.serial);
        if message.len() > BYTES_MAX {
            return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
        }
        self.stream.write_all(&message)?;
        loop {
            match self.receive()? {
                Message::Return { to, body } if to == self.serial => return Ok(body),
                Message::Error { to, name, body } if to == self.serial => {
                    return Err(BusError::Call {
                        member: call.member,
                        name: name.into(),
                        text: body.words().unwrap_or_default().into(),
                    });
                }
                Message::Signal { member, body } => self.signals.push_back((member, body)),
                _ => {}
            }
        }
    }

    /// Waits for the next signal.
    pub(crate) fn signal(&mut self) -> Result<(String, Body), BusError> {
        loop {
            if let Some(signal) = self.signals.pop_front() {
                return Ok(signal);
            }
            if let Message::Signal { member, body } = self.receive()? {
                return Ok((member, body));
            }
        }
    }

    fn receive(&mut self) -> Result<Message, BusError> {
        let mut message = vec![0; START_BYTES];
        self.fill(&mut message)?;
        let start = message.first_chunk().ok_or(Malformed)?;
        let rest = rest_bytes(start)?;
        message.resize(START_BYTES + rest, 0);
        self.fill(&mut message[START_BYTES..])?;
        Ok(Message::decode(&message)?)
    }

    fn line(&mut self) -> Result<String, BusError> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.push(byte[0]);
            if line.len() > LINE_BYTES_MAX {
                return Err(BusError::Malformed);
            }
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Reads into the whole of `room` before the deadline.
    fn fill(&mut self, mut room: &mut [u8]) -> Result<(), BusError> {
        while !room.is_empty() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(room) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => room = &mut room[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::from(io::ErrorKind::TimedOut).into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn call_bus(member: &'static str, arguments: Vec<Value>) -> Call<'static> {
    Call {
        destination: BUS,
        path: BUS_PATH,
        interface: BUS,
        member,
        arguments,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A connection to somebody who says `lines` in the handshake and then `bytes`.
    fn connected(lines: &'static [u8], bytes: &'static [u8]) -> Result<Bus, BusError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut heard = [0; 29];
            theirs.read_exact(&mut heard).unwrap();
            assert_eq!(&heard[..15], b"\0AUTH EXTERNAL\r");
            theirs.write_all(lines).unwrap();
            if theirs.read(&mut [0; 512]).is_ok_and(|count| count > 0) {
                theirs.write_all(bytes).unwrap();
            }
        });
        Bus::open(ours)
    }

    #[test]
    fn who_is_not_accepted_is_told_so() {
        let refused = connected(b"DATA\r\nREJECTED EXTERNAL\r\n", b"").unwrap_err();
        assert!(refused.to_string().contains("REJECTED"), "{refused}");
        let endless: &[u8] = &[b'x'; 2000];
        let endless = connected(endless, b"").unwrap_err();
        assert!(matches!(endless, BusError::Malformed), "{endless}");
    }

    type IsExpected = fn(&BusError) -> bool;

    #[test]
    fn answers_that_are_none_are_refused() {
        let rows: [(&[u8], IsExpected); 4] = [
            (b"", |error| matches!(error, BusError::Talk(_))),
            (b"GET / HTTP/1.1\r\n", |error| {
                matches!(error, BusError::Malformed)
            }),
            // A body of 4 GiB.
            (b"l\x02\0\x01\xff\xff\xff\xff\x01\0\0\0\0\0\0\0", |error| {
                matches!(error, BusError::Malformed)
            }),
            // It ends within its body.
            (b"l\x02\0\x01\x08\0\0\0\x01\0\0\0\0\0\0\0\0", |error| {
                matches!(error, BusError::Talk(_))
            }),
        ];
        for (bytes, is_expected) in rows {
            let mut bus = connected(b"DATA\r\nOK 0123\r\n", bytes).unwrap();
            let error = bus.call(call_bus("Hello", Vec::new())).unwrap_err();
            assert!(is_expected(&error), "{bytes:?}: {error:?}");
        }
    }
}
