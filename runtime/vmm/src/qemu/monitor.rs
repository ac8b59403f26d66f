//! QEMU's monitor (QMP), of which three commands and one event are used.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use serde::Deserialize;

/// More than the longest line that QEMU sends by itself. What is longer is thrown away.
const LONGEST_LINE: usize = 16 * 1024;

/// The monitor's connection.
#[derive(Debug)]
pub(super) struct Monitor {
    socket: UnixStream,
    line: Vec<u8>,
}

/// What QEMU says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It answered: its main loop runs, so the machine is made.
    Ready,
    /// The guest turned its machine off.
    GuestShutdown,
    /// The guest reset its machine.
    GuestReset,
    /// The guest said that its kernel panicked.
    GuestPanic,
}

/// One line of QMP, as far as it matters here.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "return")]
    answer: Option<serde_json::Value>,
    event: Option<String>,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    reason: Option<String>,
}

impl Monitor {
    /// Takes QEMU's monitor and leaves its negotiation behind, without which there are no events.
    pub(super) fn open(mut socket: UnixStream) -> io::Result<Self> {
        socket.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
        Ok(Self {
            socket,
            line: Vec::new(),
        })
    }

    /// Reads what is there, or waits for something. `None` is the end.
    pub(super) fn read(&mut self) -> io::Result<Option<Vec<Said>>> {
        let mut bytes = [0; 4096];
        let count = loop {
            match self.socket.read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if count == 0 {
            return Ok(None);
        }
        Ok(Some(self.take_in(&bytes[..count])))
    }

    fn take_in(&mut self, bytes: &[u8]) -> Vec<Said> {
        let mut said = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                said.extend(meaning(&std::mem::take(&mut self.line)));
            } else if self.line.len() < LONGEST_LINE {
                self.line.push(byte);
            }
        }
        said
    }
}

/// Has the machine at the other end of `socket`, a monitor that is open already, run its guest.
pub(super) fn let_go(mut socket: &UnixStream) -> io::Result<()> {
    socket.write_all(b"{\"execute\":\"cont\"}\n")
}

/// Has QEMU, at the other end of `socket`, leave its guest `bytes` of memory. Whether it can is
/// not waited for: the guest takes its time in any case.
pub(super) fn leave_memory(mut socket: &UnixStream, bytes: u64) -> io::Result<()> {
    let command = format!("{{\"execute\":\"balloon\",\"arguments\":{{\"value\":{bytes}}}}}\n");
    socket.write_all(command.as_bytes())
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn meaning(line: &[u8]) -> Option<Said> {
    let line: Line = serde_json::from_slice(line).ok()?;
    if line.answer.is_some() {
        return Some(Said::Ready);
    }
    if line.event? != "SHUTDOWN" {
        return None;
    }
    // The enum ShutdownCause of QEMU's qapi/run-state.json.
    match line.data?.reason?.as_str() {
        "guest-shutdown" => Some(Said::GuestShutdown),
        "guest-reset" => Some(Said::GuestReset),
        "guest-panic" => Some(Said::GuestPanic),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_endings_are_understood_in_pieces_and_other_lines_are_not() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut monitor = Monitor::open(ours).unwrap();
        let greeting = br#"{"QMP": {"version": {"qemu": {"micro": 22}}, "capabilities": ["oob"]}}"#;
        assert_eq!(monitor.take_in(greeting), []);
        assert_eq!(monitor.take_in(b"\r\n{\"retu"), []);
        assert_eq!(monitor.take_in(b"rn\": {}}\r\n"), [Said::Ready]);
        let events = br#"{"event": "RTC_CHANGE", "data": {"offset": 0}}
{"timestamp": {"seconds": 1}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}
{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}
{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-signal"}}
not json
"#;
        assert_eq!(
            monitor.take_in(events),
            [Said::GuestReset, Said::GuestShutdown]
        );
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut monitor = Monitor::open(ours).unwrap();
        for _ in 0..100 {
            monitor.take_in(&[b'x'; 4096]);
        }
        assert_eq!(monitor.line.len(), LONGEST_LINE);
        assert_eq!(monitor.take_in(b"\n{\"return\":{}}\n"), [Said::Ready]);
    }
}
