//! Standing in for a container's process at the user's terminal: output, input, window size and
//! signals pass through until it ends.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use runvm_sys::{ExitStatus, PidFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::termios::{
    OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

/// At most this much is written at once: a pipe or terminal that polls writable takes it without
/// blocking (pipe(7), PIPE_BUF).
const CHUNK: usize = 4096;

/// How long the rest of a killed process's output may wait for a reader.
const KILLED_PATIENCE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// The signals this process takes on behalf of the container.
pub(crate) struct ForwardedSignals(SignalFd);

impl ForwardedSignals {
    /// Blocks them for this process, and has them read from here on.
    pub(crate) fn take() -> anyhow::Result<Self> {
        let set = runvm_sandbox::signals::forwarded();
        set.thread_block().context("cannot block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(
            SignalFd::with_flags(&set, flags).context("cannot make a signalfd")?,
        ))
    }

    fn next(&self) -> Option<i32> {
        let info = self.0.read_signal().ok()??;
        i32::try_from(info.ssi_signo).ok()
    }
}

/// The size of the user's terminal; `None` where standard input is none.
pub(crate) fn window_size() -> Option<Winsize> {
    tcgetwinsize(input()).ok()
}

/// Gives the container's terminal the size of the user's. Where that has none there is none to give.
pub(crate) fn copy_window_size(terminal: &OwnedFd) {
    if let Some(size) = window_size() {
        let _ = tcsetwinsize(terminal, size);
    }
}

/// Relays terminal and signals until `child` has ended; the answer is its exit code.
pub(crate) fn attend(
    child: &PidFd,
    terminal: Option<OwnedFd>,
    signals: &ForwardedSignals,
    mut forward: impl FnMut(i32),
) -> anyhow::Result<u8> {
    let mut relay = terminal.map(TerminalRelay::begin).transpose()?;
    loop {
        let events = wait(Some(child), signals, relay.as_ref(), None)?;
        if let Some(relay) = &mut relay {
            relay.step(&events)?;
        }
        if events.signal {
            while let Some(signal) = signals.next() {
                match (&relay, signal == Signal::SIGWINCH as i32) {
                    (Some(relay), true) => copy_window_size(&relay.terminal),
                    (None, true) => {}
                    _ => forward(signal),
                }
            }
        }
        if events.ended {
            break;
        }
    }
    let status = child
        .reap()
        .context("cannot wait for the container's process")?;
    if let Some(relay) = &mut relay {
        relay.drain(signals, status)?;
    }
    Ok(u8::try_from(status.code()).unwrap_or(u8::MAX))
}

struct Events {
    /// Whether anything is there, or else the time is over.
    any: bool,
    ended: bool,
    signal: bool,
    input: bool,
    output: bool,
    terminal: PollFlags,
}

fn wait(
    child: Option<&PidFd>,
    signals: &ForwardedSignals,
    relay: Option<&TerminalRelay>,
    timeout: Option<&Timespec>,
) -> io::Result<Events> {
    let mut set = Vec::with_capacity(5);
    let mut add = |fd, interest| {
        set.push(PollFd::from_borrowed_fd(fd, interest));
        set.len() - 1
    };
    let signal = add(signals.0.as_fd(), PollFlags::IN);
    let child = child.map(|child| add(child.as_fd(), PollFlags::IN));
    let interest = |relay: &&TerminalRelay| !relay.terminal_interest().is_empty();
    let terminal = relay
        .filter(interest)
        .map(|relay| add(relay.terminal.as_fd(), relay.terminal_interest()));
    let wanting = relay.filter(|relay| relay.wants_input());
    let input = wanting.map(|_| add(input(), PollFlags::IN));
    let showing = relay.filter(|relay| !relay.shown.is_empty());
    let output = showing.map(|_| add(rustix::stdio::stdout(), PollFlags::OUT));
    let ready = rustix::io::retry_on_intr(|| poll(&mut set, timeout))?;
    let events = |at: Option<usize>| at.map_or(PollFlags::empty(), |at| set[at].revents());
    Ok(Events {
        any: ready > 0,
        ended: !events(child).is_empty(),
        signal: !events(Some(signal)).is_empty(),
        input: !events(input).is_empty(),
        output: !events(output).is_empty(),
        terminal: events(terminal),
    })
}

fn input() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

/// The container's terminal on one side, our standard input and output on the other.
struct TerminalRelay {
    terminal: OwnedFd,
    typed: VecDeque<u8>,
    /// Of the terminal's output, what standard output has not taken yet.
    shown: VecDeque<u8>,
    input_open: bool,
    terminal_open: bool,
    restore: Option<Termios>,
}

impl TerminalRelay {
    fn begin(terminal: OwnedFd) -> anyhow::Result<Self> {
        // A write that waits for the program to read would keep its output from being read.
        let flags = fcntl_getfl(&terminal).context("cannot read the terminal's flags")?;
        fcntl_setfl(&terminal, flags | OFlags::NONBLOCK)
            .context("cannot set the terminal's flags")?;
        let restore = tcgetattr(input()).ok();
        let relay = Self {
            terminal,
            typed: VecDeque::new(),
            shown: VecDeque::new(),
            input_open: true,
            terminal_open: true,
            restore: restore.clone(),
        };
        if let Some(mut raw) = restore {
            copy_window_size(&relay.terminal);
            raw.make_raw();
            tcsetattr(input(), OptionalActions::Now, &raw)
                .context("cannot set the terminal raw")?;
        }
        Ok(relay)
    }

    fn wants_input(&self) -> bool {
        self.input_open && self.typed.is_empty()
    }

    /// A terminal whose output has no place to go is left alone, but for what it takes.
    fn terminal_interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, self.terminal_open && self.shown.is_empty());
        interest.set(PollFlags::OUT, self.terminal_open && !self.typed.is_empty());
        interest
    }

    fn step(&mut self, events: &Events) -> anyhow::Result<()> {
        let mut chunk = [0; CHUNK];
        if events.input {
            match rustix::io::read(input(), &mut chunk) {
                Ok(0) | Err(Errno::IO) => self.input_open = false,
                Ok(count) => self.typed.extend(&chunk[..count]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno).context("cannot read standard input"),
            }
        }
        if events.output {
            self.show();
        }
        if events.terminal.contains(PollFlags::OUT) {
            self.pass_input();
        }
        let readable = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        if events.terminal.intersects(readable) && self.shown.is_empty() {
            self.take_output();
        }
        Ok(())
    }

    /// Writes what was typed to the terminal, as much as it takes now.
    fn pass_input(&mut self) {
        let (pending, _) = self.typed.as_slices();
        let written = match rustix::io::write(&self.terminal, pending) {
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => 0,
            // A terminal that refuses input has lost its readers; its end comes by its output.
            Err(_) => pending.len(),
        };
        self.typed.drain(..written);
    }

    /// Takes one chunk of the terminal's output.
    fn take_output(&mut self) {
        let mut chunk = [0; CHUNK];
        match rustix::io::read(&self.terminal, &mut chunk) {
            Ok(count) if count > 0 => self.shown.extend(&chunk[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // EIO: every process has closed the terminal.
            _ => self.terminal_open = false,
        }
    }

    /// Writes what is to be shown to standard output, as much as it takes now.
    fn show(&mut self) {
        let (pending, _) = self.shown.as_slices();
        let written = match rustix::io::write(rustix::stdio::stdout(), pending) {
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => 0,
            // With standard output gone there is nobody left to show it to.
            Err(_) => pending.len(),
        };
        self.shown.drain(..written);
    }

    /// Shows what the process wrote before it ended, as long as somebody takes it: of one that was
    /// killed no longer than a moment, and until a signal says that nobody waits for it.
    fn drain(&mut self, signals: &ForwardedSignals, status: ExitStatus) -> anyhow::Result<()> {
        // What stands for a process in a microVM ends with its code, not by its signal.
        let is_killed = status.code() == ExitStatus::Signaled(Signal::SIGKILL as i32).code();
        self.typed.clear();
        self.input_open = false;
        loop {
            let timeout = match (self.shown.is_empty(), self.terminal_open) {
                (true, false) => return Ok(()),
                // What it wrote is there by now.
                (true, true) => Some(Timespec::default()),
                (false, _) => is_killed.then_some(KILLED_PATIENCE),
            };
            let events = wait(None, signals, Some(self), timeout.as_ref())?;
            if !events.any || events.signal {
                return Ok(());
            }
            self.step(&events)?;
        }
    }
}

impl Drop for TerminalRelay {
    fn drop(&mut self) {
        if let Some(termios) = &self.restore {
            // The user's shell sets its terminal right again should this fail.
            let _ = tcsetattr(input(), OptionalActions::Now, termios);
        }
    }
}
