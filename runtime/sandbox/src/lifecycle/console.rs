//! Handing a new process over to the engine that asked for it: its terminal and its pid.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use runvm_sys::PidFd;

use crate::terminal;

/// Who gets the host's side of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console<'a> {
    /// Nobody is there: a process with a terminal is refused.
    None,
    /// The caller, who stays to relay it.
    Caller,
    /// The engine that listens on this unix socket.
    Socket(&'a Path),
}

/// Why a terminal cannot be handed over as asked.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// A terminal, and nobody to take it.
    #[error(
        "cannot allocate a terminal without --console-socket when detached (process.terminal is true)"
    )]
    Missing,
    /// A console socket, and no terminal.
    #[error("cannot use --console-socket without a terminal (process.terminal is false)")]
    Unwanted,
    /// The engine could not be given the terminal.
    #[error("cannot send the terminal to the console socket {}", path.display())]
    Send {
        /// The console socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Console<'_> {
    pub(super) fn check(self, terminal: bool) -> Result<(), ConsoleError> {
        match (self, terminal) {
            (Console::None, true) => Err(ConsoleError::Missing),
            (Console::Socket(_), false) => Err(ConsoleError::Unwanted),
            _ => Ok(()),
        }
    }

    /// Gives `terminal` to the engine, or back to the caller.
    pub(super) fn hand_over(
        self,
        terminal: Option<OwnedFd>,
    ) -> Result<Option<OwnedFd>, ConsoleError> {
        match (self, terminal) {
            (Console::Socket(path), Some(terminal)) => {
                terminal::send_descriptor(path, &terminal, "/dev/ptmx").map_err(|source| {
                    ConsoleError::Send {
                        path: path.to_owned(),
                        source,
                    }
                })?;
                Ok(None)
            }
            (_, terminal) => Ok(terminal),
        }
    }
}

/// Why the process could not be made known to the engine.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The pid file could not be written.
    #[error("cannot write the pid file {}", path.display())]
    PidFile {
        /// The pid file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The engine could not be given the pidfd.
    #[error("cannot send the pidfd to the socket {}", path.display())]
    Pidfd {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Where an engine wants a new process made known.
#[derive(Clone, Copy)]
pub(super) struct Announcement<'a> {
    pub(super) pid_file: Option<&'a Path>,
    pub(super) pidfd_socket: Option<&'a Path>,
    /// What comes with the pidfd: runc's word for the kind of process.
    pub(super) kind: &'static str,
}

impl Announcement<'_> {
    pub(super) fn make(self, pid: u32, pidfd: &PidFd) -> Result<(), HandOverError> {
        if let Some(path) = self.pidfd_socket {
            terminal::send_descriptor(path, pidfd, self.kind).map_err(|source| {
                HandOverError::Pidfd {
                    path: path.to_owned(),
                    source,
                }
            })?;
        }
        // The file comes last: who waits for it finds the rest done.
        match self.pid_file {
            Some(path) => {
                terminal::write_pid_file(path, pid).map_err(|source| HandOverError::PidFile {
                    path: path.to_owned(),
                    source,
                })
            }
            None => Ok(()),
        }
    }
}
