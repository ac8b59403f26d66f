//! `tmpcopyup`: what a directory of the image holds, copied into the tmpfs that will cover it.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fchown, mkdirat,
    mknodat, openat, readlinkat, statat, symlinkat,
};

/// Copies the content of the directory `from` to the directory `to`, owners and permissions
/// included. Neither follows a link: every name is looked at in the directory it is in.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    // O_PATH descriptors cannot be listed.
    let from = openat(from, c".", dir_flags(), Mode::empty())?;
    for entry in Dir::read_from(&from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(&from, to, name)?;
        }
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> io::Result<()> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => copy_dir(from, to, name, &stat),
        FileType::RegularFile => copy_file(from, to, name, &stat),
        FileType::Symlink => copy_link(from, to, name, &stat),
        // It belongs to a process that listens at the original.
        FileType::Socket => Ok(()),
        node => {
            mknodat(to, name, node, mode(&stat), stat.st_rdev)?;
            own_entry(to, name, &stat)
        }
    }
}

fn copy_dir(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    mkdirat(to, name, Mode::RWXU)?;
    let inner_from = openat(from, name, dir_flags(), Mode::empty())?;
    let inner_to = openat(to, name, dir_flags(), Mode::empty())?;
    copy(&inner_from, &inner_to)?;
    own(&inner_to, stat)
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    let common = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // O_NONBLOCK: should a FIFO have taken the file's place, it must not hold us up.
    let read = OFlags::RDONLY | OFlags::NONBLOCK;
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mut source = File::from(openat(from, name, common | read, Mode::empty())?);
    let mut target = File::from(openat(to, name, common | write, Mode::RUSR)?);
    io::copy(&mut source, &mut target)?;
    own(&target.into(), stat)
}

fn copy_link(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    let target = readlinkat(from, name, Vec::new())?;
    symlinkat(OsStr::from_bytes(target.as_bytes()), to, name)?;
    own_entry(to, name, stat)
}

fn own(copy: &OwnedFd, stat: &Stat) -> io::Result<()> {
    fchown(copy, Some(uid(stat)), Some(gid(stat)))?;
    // After the owner, whose change clears the set-id bits.
    Ok(fchmod(copy, mode(stat))?)
}

fn own_entry(dir: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(chownat(dir, name, Some(uid(stat)), Some(gid(stat)), flags)?)
}

fn dir_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn uid(stat: &Stat) -> Uid {
    Uid::from_raw(stat.st_uid)
}

fn gid(stat: &Stat) -> Gid {
    Gid::from_raw(stat.st_gid)
}
