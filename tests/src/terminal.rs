//! Terminals that a test sits at.

use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::{Capture, Running, patience};

/// The user's side of a terminal.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    /// The program's side, where the test made the terminal: while it is open, output is not at an end.
    slave: Option<OwnedFd>,
    output: Capture,
}

impl Terminal {
    /// Makes a terminal of this size.
    pub fn open(rows: u16, columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("the host has terminals");
        grantpt(&master).expect("the terminal is this process's");
        unlockpt(&master).expect("the terminal is this process's");
        let slave = ioctl_tiocgptpeer(&master, flags).expect("the terminal is unlocked");
        let terminal = Self {
            slave: Some(slave),
            ..Self::of_master(master)
        };
        terminal.resize(rows, columns);
        terminal
    }

    /// Sits at a terminal by its master's side.
    fn of_master(master: OwnedFd) -> Self {
        let master = File::from(master);
        let source = master.try_clone().expect("a descriptor is free");
        Self {
            master,
            slave: None,
            output: Capture::of(source),
        }
    }

    /// Runs `command` as the leader of a session at this terminal.
    #[track_caller]
    pub fn run(&self, command: &Command) -> Running {
        let slave = || {
            let slave = self.slave.as_ref().expect("a terminal the test made");
            slave.try_clone().expect("a descriptor is free")
        };
        // setsid(1) replaces itself where its process leads no group yet, so the pid stays.
        let mut at_terminal = Command::new("setsid");
        at_terminal
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args());
        at_terminal.stdin(slave()).stdout(slave()).stderr(slave());
        Running::spawn_as_is(at_terminal)
    }

    /// Types.
    #[track_caller]
    pub fn type_in(&self, text: &str) {
        (&self.master)
            .write_all(text.as_bytes())
            .expect("the terminal takes input");
    }

    /// Changes the size of the window.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).expect("it is a terminal");
    }

    /// What it shows.
    pub fn output(&self) -> &Capture {
        &self.output
    }

    /// Its modes: what a user would have to put right after a program that left them changed.
    pub fn modes(&self) -> Termios {
        tcgetattr(&self.master).expect("it is a terminal")
    }
}

/// The socket an engine listens on for a descriptor: `--console-socket`, `--pidfd-socket`.
#[derive(Debug)]
pub struct ConsoleSocket {
    path: String,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Listens at `path`.
    pub fn listen(path: String) -> Self {
        let listener = UnixListener::bind(&path).expect("the scratch directory is writable");
        Self { path, listener }
    }

    /// Its path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Takes the terminal that is sent.
    #[track_caller]
    pub fn accept_terminal(&self) -> Terminal {
        Terminal::of_master(self.accept().0)
    }

    /// Takes the descriptor that is sent, and the words that come with it.
    #[track_caller]
    pub fn accept(&self) -> (OwnedFd, String) {
        wait_readable(&self.listener, "a connection to the socket");
        let (connection, _) = self.listener.accept().expect("a connection is there");
        wait_readable(&connection, "a descriptor on the socket");
        let mut name = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut name)];
        let message = recvmsg(
            &connection,
            &mut buffers,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .expect("a message is there");
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        (
            descriptor.expect("the message carries a descriptor"),
            String::from_utf8_lossy(&name[..message.bytes]).into_owned(),
        )
    }
}

#[track_caller]
fn wait_readable(descriptor: &impl AsFd, what: &str) {
    let timeout = Timespec::try_from(patience()).expect("patience is a span of time");
    let ready = poll(
        &mut [PollFd::new(descriptor, PollFlags::IN)],
        Some(&timeout),
    );
    assert_eq!(ready, Ok(1), "waited in vain for {what}");
}
