//! The QEMU process: started, listened to, and reaped, by one thread.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use runvm_sys::clone::Spawn;
use runvm_sys::{ExitStatus, PidFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::CapabilitySet;

use super::monitor::{Monitor, Said};
use super::{Ending, QemuLaunchError};
use crate::Exit;
use crate::confine::{Confinement, call};

/// How much of the guest's console is kept, as on KVM.
const LOG_LIMIT_BYTES: usize = 1 << 20;

/// How much of what QEMU says on its standard error is kept: its first words name the fault.
const WORDS_LIMIT_BYTES: usize = 4096;

/// What the thread keeps that watches QEMU.
pub(super) const CONFINEMENT: Confinement = Confinement {
    thread: "QEMU",
    capabilities: CapabilitySet::empty(),
    calls: &[&[
        call(libc::SYS_pidfd_send_signal),
        call(libc::SYS_poll),
        call(libc::SYS_ppoll),
        call(libc::SYS_recvfrom),
        call(libc::SYS_waitid),
    ]],
    absent: &[],
};

/// Everything that QEMU is started with.
pub(super) struct Start {
    pub(super) path: PathBuf,
    pub(super) executable: OwnedFd,
    pub(super) argv: Vec<CString>,
    /// What the command line names by number.
    pub(super) inherited: Vec<OwnedFd>,
    pub(super) monitor: UnixStream,
    pub(super) serial: File,
}

/// QEMU while it runs.
pub(super) struct Supervised {
    process: PidFd,
    monitor: Option<Monitor>,
    console: Pipe<File>,
    words: Pipe<Vec<u8>>,
    /// The last that QEMU said of its machine.
    said: Option<Said>,
}

impl Start {
    /// Starts QEMU, and waits until its machine is made. It dies with the thread that calls this.
    pub(super) fn run(self, ending: &Ending) -> Result<Supervised, QemuLaunchError> {
        let path = self.path.clone();
        let mut running = self.spawn()?;
        let process = running.process.as_fd().try_clone_to_owned();
        let process = process.map_err(QemuLaunchError::prepare("handle on the process"))?;
        ending.watch(PidFd::from_fd(process));
        while running.said.is_none() {
            if !running.listen() {
                return Err(QemuLaunchError::GaveUp {
                    path,
                    words: running.reap().1,
                });
            }
        }
        Ok(running)
    }

    /// All descriptors that are QEMU's alone are closed here when this returns, so that their
    /// other ends tell of its end.
    fn spawn(self) -> Result<Supervised, QemuLaunchError> {
        let pipe = || {
            let made = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from);
            made.map_err(QemuLaunchError::prepare("pipes"))
        };
        // Nothing ever comes in: its writing end closes at once.
        let (input, _) = pipe()?;
        let (console, output) = pipe()?;
        let (words, errors) = pipe()?;
        let inherit: Vec<_> = self.inherited.iter().map(AsFd::as_fd).collect();
        let spawn = Spawn {
            executable: self.executable.as_fd(),
            argv: &self.argv,
            envp: &[],
            stdio: Some([input.as_fd(), output.as_fd(), errors.as_fd()]),
            inherit: &inherit,
            preserve: 0,
            new_namespaces: 0,
            pid_namespace: None,
            cgroup: None,
            dies_with_parent: true,
            gateway: None,
            write_id_maps: None,
        };
        let spawned = spawn.spawn();
        let spawned = spawned.map_err(|source| QemuLaunchError::Spawn {
            path: self.path,
            source,
        })?;
        let monitor = Monitor::open(self.monitor);
        Ok(Supervised {
            process: spawned.pidfd,
            // If it is gone already, the process is too, which is noticed there.
            monitor: monitor.ok(),
            console: Pipe::new(console, self.serial, LOG_LIMIT_BYTES),
            words: Pipe::new(words, Vec::new(), WORDS_LIMIT_BYTES),
            said: None,
        })
    }
}

impl Supervised {
    /// Listens until QEMU has ended, and takes note of how.
    pub(super) fn see_to_the_end(mut self, ending: &Ending) {
        while self.listen() {}
        let said = self.said;
        let (status, words) = self.reap();
        ending.note(match (said, status) {
            (Some(Said::GuestShutdown), Some(ExitStatus::Exited(0))) => Exit::Shutdown,
            (Some(Said::GuestReset), Some(ExitStatus::Exited(0))) => Exit::Reset,
            (Some(Said::GuestPanic), _) => Exit::Crashed("its kernel panicked".into()),
            _ => Exit::Crashed(format!("QEMU ended: {words}")),
        });
    }

    /// Waits for something to happen and deals with it. Says whether QEMU still runs.
    fn listen(&mut self) -> bool {
        let [lives, monitor, console, words] = self.wait(None);
        if monitor {
            self.hear();
        }
        if console {
            self.console.pump();
        }
        if words {
            self.words.pump();
        }
        lives
    }

    /// What is ready: whether the process still runs, the monitor, the console, the words.
    fn wait(&self, timeout: Option<&Timespec>) -> [bool; 4] {
        let monitor = self.monitor.as_ref().map(AsFd::as_fd);
        let sources = [
            Some(self.process.as_fd()),
            monitor,
            self.console.source(),
            self.words.source(),
        ];
        let mut fds: Vec<_> = sources
            .iter()
            .flatten()
            .map(|fd| PollFd::new(fd, PollFlags::IN))
            .collect();
        // It fails for want of the kernel's memory only: then nothing is ready yet.
        let polled = poll(&mut fds, timeout).is_ok();
        let mut ready = fds.iter().map(|fd| polled && !fd.revents().is_empty());
        let mut answer = sources.map(|source| source.is_some() && ready.next().unwrap_or(false));
        answer[0] = !answer[0];
        answer
    }

    fn hear(&mut self) {
        match self.monitor.as_mut().map(Monitor::read) {
            Some(Ok(Some(said))) => self.said = said.last().copied().or(self.said),
            _ => self.monitor = None,
        }
    }

    /// Takes QEMU's exit status, and its last words or, if it had none, how it ended.
    fn reap(mut self) -> (Option<ExitStatus>, String) {
        let status = self.process.reap().ok();
        // What it left in the pipes is there by now.
        while let [_, false, console, words] = self.wait(Some(&Timespec::default()))
            && (console || words)
        {
            self.listen();
        }
        let said = String::from_utf8_lossy(&self.words.sink);
        let lines: Vec<_> = said
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let words = match (lines.is_empty(), status) {
            (false, _) => lines.join("; "),
            (true, Some(ExitStatus::Exited(code))) => format!("exit status {code}"),
            (true, Some(ExitStatus::Signaled(signal))) => format!("killed by signal {signal}"),
            (true, None) => "in an unknown way".into(),
        };
        (status, words)
    }
}

/// The reading end of a pipe, and where a bounded part of what comes goes.
struct Pipe<W> {
    end: Option<File>,
    sink: W,
    left: usize,
}

impl<W: Write> Pipe<W> {
    fn new(end: OwnedFd, sink: W, limit: usize) -> Self {
        Self {
            end: Some(end.into()),
            sink,
            left: limit,
        }
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        self.end.as_ref().map(AsFd::as_fd)
    }

    /// Takes what is there; what is beyond the limit is dropped, so that QEMU never waits.
    fn pump(&mut self) {
        let Some(end) = &mut self.end else { return };
        let mut bytes = [0; 4096];
        match end.read(&mut bytes) {
            Ok(0) => self.end = None,
            Ok(count) => {
                let kept = count.min(self.left);
                self.left -= kept;
                // The sink may be lost (a full disk); the guest goes on.
                let _ = self.sink.write_all(&bytes[..kept]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.end = None,
        }
    }
}
