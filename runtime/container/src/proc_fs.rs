//! The procfs the runtime itself reads and writes.
//!
//! It is opened before the container's root is entered, verified to be a procfs, and nothing
//! mounted over a part of it is followed: what the bundle mounts at /proc can be a fake
//! (CVE-2019-16884, CVE-2025-52881).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstatfs, openat, openat2};

/// The host's procfs.
#[derive(Debug)]
pub(crate) struct ProcFs(OwnedFd);

/// The runtime has no procfs to work with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcFsError {
    #[error("cannot open the runtime's /proc")]
    Open(#[source] io::Error),
    #[error("the runtime's /proc is not a procfs")]
    NotProcFs,
}

impl ProcFs {
    pub(crate) fn open() -> Result<Self, ProcFsError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || -> io::Result<(OwnedFd, bool)> {
            let fd = openat(CWD, c"/proc", flags, Mode::empty())?;
            let is_procfs = fstatfs(&fd)?.f_type == PROC_SUPER_MAGIC;
            Ok((fd, is_procfs))
        };
        match open().map_err(ProcFsError::Open)? {
            (fd, true) => Ok(Self(fd)),
            (_, false) => Err(ProcFsError::NotProcFs),
        }
    }

    /// Writes `value` to the file `path`, relative to /proc, in one write.
    pub(crate) fn write(&self, path: &str, value: &str) -> io::Result<()> {
        let mut file = self.open_file(path, OFlags::WRONLY)?;
        file.write_all(value.as_bytes())
    }

    /// Reads the file `path`, relative to /proc.
    pub(crate) fn read(&self, path: &str) -> io::Result<String> {
        // One read for nearly every file there is.
        let mut text = String::with_capacity(4096);
        self.open_file(path, OFlags::RDONLY)?
            .read_to_string(&mut text)?;
        Ok(text)
    }

    fn open_file(&self, path: &str, flags: OFlags) -> io::Result<File> {
        // BENEATH lets the link "self" through and nothing that leaves; no magic links, no mounts.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(openat2(&self.0, path, flags, Mode::empty(), resolve)?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_entries_are_reached_and_magic_links_are_not_followed() {
        let proc_fs = ProcFs::open().unwrap();
        assert!(proc_fs.read("self/status").unwrap().starts_with("Name:"));
        assert!(proc_fs.read("self/root/etc/passwd").is_err());
        assert!(proc_fs.read("../etc/passwd").is_err());
    }
}
