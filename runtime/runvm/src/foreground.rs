//! Standing in for a container's process at the user's terminal: output, input, window size and
//! signals pass through until it ends.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use runvm_sys::PidFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// At most this much is written at once: a pipe or terminal that polls writable takes it without
/// blocking (pipe(7), PIPE_BUF).
const CHUNK: usize = 4096;

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

/// Relays terminal and signals until `child` has ended; the answer is its exit code.
pub(crate) fn attend(
    child: &PidFd,
    terminal: Option<OwnedFd>,
    signals: &ForwardedSignals,
    mut forward: impl FnMut(i32),
) -> anyhow::Result<u8> {
    let mut relay = terminal.map(TerminalRelay::begin).transpose()?;
    loop {
        let events = wait(child, signals, relay.as_ref())?;
        if let Some(relay) = &mut relay {
            relay.step(events.input, events.terminal)?;
        }
        if events.signal {
            while let Some(signal) = signals.next() {
                match (&relay, signal == Signal::SIGWINCH as i32) {
                    (Some(relay), true) => relay.copy_window_size(),
                    (None, true) => {}
                    _ => forward(signal),
                }
            }
        }
        if events.ended {
            break;
        }
    }
    if let Some(relay) = &mut relay {
        relay.drain();
    }
    let status = child
        .reap()
        .context("cannot wait for the container's process")?;
    Ok(u8::try_from(status.code()).unwrap_or(u8::MAX))
}

struct Events {
    ended: bool,
    signal: bool,
    input: bool,
    terminal: PollFlags,
}

fn wait(
    child: &PidFd,
    signals: &ForwardedSignals,
    relay: Option<&TerminalRelay>,
) -> io::Result<Events> {
    let mut set = vec![
        PollFd::new(child, PollFlags::IN),
        PollFd::from_borrowed_fd(signals.0.as_fd(), PollFlags::IN),
    ];
    if let Some(relay) = relay {
        set.push(PollFd::from_borrowed_fd(
            relay.terminal.as_fd(),
            relay.terminal_interest(),
        ));
        if relay.wants_input() {
            set.push(PollFd::from_borrowed_fd(input(), PollFlags::IN));
        }
    }
    loop {
        match poll(&mut set, None) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => break,
        }
    }
    Ok(Events {
        ended: !set[0].revents().is_empty(),
        signal: !set[1].revents().is_empty(),
        terminal: set.get(2).map_or(PollFlags::empty(), PollFd::revents),
        input: set.get(3).is_some_and(|input| !input.revents().is_empty()),
    })
}

fn input() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

/// The container's terminal on one side, our standard input and output on the other.
struct TerminalRelay {
    terminal: OwnedFd,
    typed: VecDeque<u8>,
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
            input_open: true,
            terminal_open: true,
            restore: restore.clone(),
        };
        if let Some(mut raw) = restore {
            relay.copy_window_size();
            raw.make_raw();
            tcsetattr(input(), OptionalActions::Now, &raw)
                .context("cannot set the terminal raw")?;
        }
        Ok(relay)
    }

    /// Gives the container's terminal the size of ours.
    fn copy_window_size(&self) {
        // Where standard input is no terminal there is no size to give.
        if let Ok(size) = tcgetwinsize(input()) {
            let _ = tcsetwinsize(&self.terminal, size);
        }
    }

    fn wants_input(&self) -> bool {
        self.input_open && self.typed.is_empty()
    }

    fn terminal_interest(&self) -> PollFlags {
        if !self.terminal_open {
            return PollFlags::empty();
        }
        if self.typed.is_empty() {
            PollFlags::IN
        } else {
            PollFlags::IN | PollFlags::OUT
        }
    }

    fn step(&mut self, input_ready: bool, terminal: PollFlags) -> anyhow::Result<()> {
        let mut chunk = [0; CHUNK];
        if input_ready {
            match rustix::io::read(input(), &mut chunk) {
                Ok(0) | Err(Errno::IO) => self.input_open = false,
                Ok(count) => self.typed.extend(&chunk[..count]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno).context("cannot read standard input"),
            }
        }
        if terminal.contains(PollFlags::OUT) {
            self.pass_input();
        }
        if terminal.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.pass_output();
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

    /// Copies one chunk from the terminal to standard output; false when there is no more.
    fn pass_output(&mut self) -> bool {
        let mut chunk = [0; CHUNK];
        match rustix::io::read(&self.terminal, &mut chunk) {
            Ok(count) if count > 0 => {
                // With standard output gone there is nobody left to show it to.
                let _ = io::Write::write_all(&mut io::stdout(), &chunk[..count])
                    .and_then(|()| io::Write::flush(&mut io::stdout()));
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            // EIO: every process has closed the terminal.
            _ => {
                self.terminal_open = false;
                false
            }
        }
    }

    /// Copies what the process wrote before it ended.
    fn drain(&mut self) {
        let no_wait = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        while self.terminal_open {
            let mut set = [PollFd::new(&self.terminal, PollFlags::IN)];
            match poll(&mut set, Some(&no_wait)) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    self.pass_output();
                }
            }
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
