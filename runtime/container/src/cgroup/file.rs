//! Reading and writing the small files of a cgroup through a held directory.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Opens `path` below `root`, following no symlink and leaving `root` by no way.
pub(super) fn open_below(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    Ok(rustix::io::retry_on_intr(|| {
        rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
    })?)
}

/// Opens `path` below `root` as a directory that can be listed.
pub(super) fn open_directory(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    open_below(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Opens the file `name` of a cgroup.
pub(super) fn open(cgroup: BorrowedFd<'_>, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::openat(cgroup, name, flags, Mode::empty())?)
}

/// Writes `value` in one call, as the kernel wants it.
pub(super) fn write(cgroup: BorrowedFd<'_>, name: &str, value: &str) -> io::Result<()> {
    let file = open(cgroup, name, OFlags::WRONLY)?;
    write_to(&file, value)
}

pub(super) fn write_to(file: &OwnedFd, value: &str) -> io::Result<()> {
    let written = rustix::io::retry_on_intr(|| rustix::io::write(file, value.as_bytes()))?;
    if written < value.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

/// Reads the file `name` of a cgroup to its end.
pub(super) fn read(cgroup: BorrowedFd<'_>, name: &str) -> io::Result<String> {
    let file = open(cgroup, name, OFlags::RDONLY)?;
    read_from_start(&file)
}

/// Reads an open file from its start; the kernel then reports the next change of it.
pub(super) fn read_from_start(file: &OwnedFd) -> io::Result<String> {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    loop {
        let offset = text.len() as u64;
        let count = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut part, offset))?;
        if count == 0 {
            break;
        }
        text.extend_from_slice(&part[..count]);
    }
    String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
}
