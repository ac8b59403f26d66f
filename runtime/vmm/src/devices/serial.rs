//! The serial console: a 16550A whose output goes to a log file of bounded size.
//!
//! It is there for the guest kernel's words, above all its last ones. Input does not exist.

use std::io::{self, Write};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;

/// First port of the first serial line of a PC.
pub(crate) const SERIAL_BASE: u64 = 0x3f8;
/// Number of its ports.
pub(crate) const SERIAL_LEN: u64 = 8;
/// Its interrupt line.
pub(crate) const SERIAL_IRQ: u32 = 4;

/// How much of a guest's output is kept. A guest that writes to the console for ever must not
/// fill the host's disk; 1 MiB is some hundred times a kernel's boot messages.
const LOG_LIMIT_BYTES: usize = 1 << 20;

/// The device on the port bus.
pub(crate) struct SerialConsole<W: Write + Send>(Serial<Line, NoEvents, LineBuffer<Capped<W>>>);

impl<W: Write + Send> SerialConsole<W> {
    /// Makes a console that writes to `log` and raises its interrupt through `line`.
    pub(crate) fn new(log: W, line: EventFd) -> Self {
        Self(Serial::new(
            Line(line),
            LineBuffer::new(Capped::new(log, LOG_LIMIT_BYTES)),
        ))
    }
}

impl<W: Write + Send> BusDevice for SerialConsole<W> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let ([value], Ok(offset)) = (data, u8::try_from(offset)) {
            *value = self.0.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let ([value], Ok(offset)) = (data, u8::try_from(offset)) {
            // The log may be lost (a full disk); the guest goes on, and so do we.
            let _lost = self.0.write(offset, *value);
        }
    }
}

/// The interrupt line of the UART.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Gathers a line before it is written: the guest sends single bytes, and says "flush" after each.
struct LineBuffer<W: Write> {
    line: Vec<u8>,
    out: W,
}

impl<W: Write> LineBuffer<W> {
    const CAPACITY: usize = 512;

    fn new(out: W) -> Self {
        let line = Vec::with_capacity(Self::CAPACITY);
        Self { line, out }
    }

    fn write_line(&mut self) -> io::Result<()> {
        let written = self.out.write_all(&self.line);
        self.line.clear();
        written
    }
}

impl<W: Write> Write for LineBuffer<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(data);
        if data.contains(&b'\n') || self.line.len() >= Self::CAPACITY {
            self.write_line()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Drop for LineBuffer<W> {
    fn drop(&mut self) {
        let _lost = self.write_line();
    }
}

/// Passes on a number of bytes, then one line that says so, then nothing.
struct Capped<W> {
    out: W,
    left: usize,
    closed: bool,
}

impl<W: Write> Capped<W> {
    const CLOSING_LINE: &[u8] = b"\n[the console log is full: the rest is dropped]\n";

    fn new(out: W, limit: usize) -> Self {
        Self {
            out,
            left: limit,
            closed: false,
        }
    }
}

impl<W: Write> Write for Capped<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let kept = data.len().min(self.left);
        self.left -= kept;
        self.out.write_all(&data[..kept])?;
        if kept < data.len() && !self.closed {
            self.closed = true;
            self.out.write_all(Self::CLOSING_LINE)?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    use crate::lock::lock;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            lock(&self.0).extend_from_slice(data);
            Ok(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn console() -> (SerialConsole<Log>, Log) {
        let log = Log::default();
        let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        (SerialConsole::new(log.clone(), line), log)
    }

    fn say(console: &mut SerialConsole<Log>, text: &[u8]) {
        for byte in text {
            console.write(0, &[*byte]);
        }
    }

    #[test]
    fn a_line_is_written_when_it_ends_and_the_last_words_when_the_machine_does() {
        let (mut console, log) = console();
        say(&mut console, b"one\ntw");
        assert_eq!(*lock(&log.0), b"one\n");
        drop(console);
        assert_eq!(*lock(&log.0), b"one\ntw");
    }

    #[test]
    fn a_guest_that_floods_the_console_fills_the_log_to_its_limit_and_one_closing_line() {
        let (mut console, log) = console();
        for _ in 0..LOG_LIMIT_BYTES / 64 + 1000 {
            say(&mut console, &[b'x'; 63]);
            say(&mut console, b"\n");
        }
        drop(console);
        let log = lock(&log.0);
        let closing = Capped::<Log>::CLOSING_LINE;
        assert_eq!(log.len(), LOG_LIMIT_BYTES + closing.len());
        assert!(log.ends_with(closing));
    }

    #[test]
    fn accesses_of_more_than_a_byte_and_beyond_the_registers_do_nothing() {
        let (mut console, log) = console();
        console.write(0, b"ab");
        console.write(0, b"");
        console.write(u64::MAX, b"a");
        let mut data = [1, 2];
        console.read(5, &mut data);
        assert_eq!(data, [0, 0]);
        console.read(u64::MAX, &mut data[..1]);
        drop(console);
        assert!(lock(&log.0).is_empty());
    }
}
