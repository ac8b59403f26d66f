//! The container's terminal: a pty of its own devpts.
//!
//! Both ends come from descriptors, the slave from the master itself (TIOCGPTPEER): no name that
//! the container can change is opened (CVE-2025-52565).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use runvm_oci::Process;
use rustix::fs::{
    FileType, FsWord, OFlags, Uid, fchown, fcntl_getfl, fcntl_setfl, fstat, fstatfs, major, minor,
};
use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::root::{attach, clone_mount};
use crate::rootfs::Rootfs;

/// linux/magic.h.
const DEVPTS_SUPER_MAGIC: FsWord = 0x1cd1;

/// Why there is no terminal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TerminalError {
    #[error("cannot open /dev/pts/ptmx of the container")]
    Open(#[source] io::Error),
    #[error("/dev/pts/ptmx of the container is not the multiplexer of a devpts")]
    NotDevPts,
    #[error("cannot open the terminal's slave")]
    Slave(#[source] io::Error),
    #[error("cannot set the terminal's size")]
    Size(#[source] io::Error),
    #[error("cannot give the terminal to user {uid}")]
    Owner { uid: u32, source: io::Error },
    #[error("cannot make the terminal /dev/console")]
    Console(#[source] io::Error),
    #[error("cannot make the terminal the controlling terminal")]
    Control(#[source] io::Error),
}

/// A new pty.
pub(crate) struct Terminal {
    pub(crate) master: OwnedFd,
    slave: OwnedFd,
}

impl Terminal {
    /// Opens one for `process`, of the devpts mounted in the container.
    pub(crate) fn open(rootfs: &Rootfs, process: &Process) -> Result<Self, TerminalError> {
        let master = multiplexer(rootfs)?;
        let slave = || -> io::Result<OwnedFd> {
            unlockpt(&master)?;
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            Ok(ioctl_tiocgptpeer(&master, flags)?)
        };
        let slave = slave().map_err(TerminalError::Slave)?;
        if let Some(size) = process.console_size {
            let size = Winsize {
                ws_row: size.height,
                ws_col: size.width,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            tcsetwinsize(&slave, size).map_err(|errno| TerminalError::Size(errno.into()))?;
        }
        let uid = process.user.uid;
        fchown(&slave, Some(Uid::from_raw(uid)), None).map_err(|errno| TerminalError::Owner {
            uid,
            source: errno.into(),
        })?;
        Ok(Self { master, slave })
    }

    /// The end the program gets.
    pub(crate) fn slave(&self) -> &OwnedFd {
        &self.slave
    }

    /// Binds it to /dev/console.
    pub(crate) fn bind_console(&self, rootfs: &Rootfs) -> Result<(), TerminalError> {
        let bind = || -> io::Result<()> {
            let place = rootfs.make_file(Path::new("/dev/console"))?;
            attach(&clone_mount(&self.slave)?, &place)
        };
        bind().map_err(TerminalError::Console)
    }

    /// Makes it the controlling terminal and the standard streams of this process, which leads a
    /// session without one.
    pub(crate) fn adopt(self) -> Result<(), TerminalError> {
        let adopt = || -> io::Result<()> {
            ioctl_tiocsctty(&self.slave)?;
            dup2_stdin(&self.slave)?;
            dup2_stdout(&self.slave)?;
            Ok(dup2_stderr(&self.slave)?)
        };
        adopt().map_err(TerminalError::Control)
    }
}

fn multiplexer(rootfs: &Rootfs) -> Result<OwnedFd, TerminalError> {
    let path = Path::new("/dev/pts/ptmx");
    // Looked at before it is opened: opening a FIFO or another device can block or act.
    let found = rootfs.open(path).map_err(TerminalError::Open)?;
    let is_ptmx = || -> io::Result<bool> {
        let stat = fstat(&found)?;
        Ok(fstatfs(&found)?.f_type == DEVPTS_SUPER_MAGIC
            && FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && (major(stat.st_rdev), minor(stat.st_rdev)) == (5, 2))
    };
    if !is_ptmx().map_err(TerminalError::Open)? {
        return Err(TerminalError::NotDevPts);
    }
    let master = rootfs
        .open_file(path, OFlags::RDWR | OFlags::NONBLOCK)
        .map_err(TerminalError::Open)?;
    let opened = fstatfs(master.as_fd()).map_err(|errno| TerminalError::Open(errno.into()))?;
    if opened.f_type != DEVPTS_SUPER_MAGIC {
        return Err(TerminalError::NotDevPts);
    }
    // Who gets it expects reads that wait.
    let flags = fcntl_getfl(&master).map_err(|errno| TerminalError::Open(errno.into()))?;
    fcntl_setfl(&master, flags - OFlags::NONBLOCK)
        .map_err(|errno| TerminalError::Open(errno.into()))?;
    Ok(master)
}
