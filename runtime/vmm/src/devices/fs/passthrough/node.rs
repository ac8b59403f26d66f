//! Attributes of an inode and of its file system.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, chmodat, chownat,
    fstatvfs, ftruncate, syncfs, utimensat,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use crate::devices::fs::args;
use crate::devices::fs::attr::{self, TIMEOUT, stat};
use crate::devices::fs::call::{Call, Reply};
use crate::devices::fs::inode::Inode;
use crate::devices::fs::server::Server;
use crate::devices::fs::wire::{AttrOut, GETATTR_FH, GetattrIn, SetattrIn, Statfs, fattr};

impl Server {
    pub(in crate::devices::fs) fn getattr(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let GetattrIn {
            getattr_flags, fh, ..
        } = call.args.take()?;
        let inode = self.inode(call.header.nodeid)?;
        if getattr_flags & GETATTR_FH != 0 {
            let file = self.files.get(fh, inode.id)?;
            return attr_reply(&inode, file.as_fd());
        }
        attr_reply(&inode, inode.path_fd()?.as_fd())
    }

    pub(in crate::devices::fs) fn setattr(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let wanted: SetattrIn = call.args.take()?;
        let inode = self.writable_inode(call.header.nodeid)?;
        let file = inode.path_fd()?;
        let file = file.as_fd();
        if wanted.valid & fattr::MODE != 0 {
            self.set_mode(file, wanted.mode)?;
        }
        if wanted.valid & (fattr::UID | fattr::GID) != 0 {
            set_owner(file, &wanted)?;
        }
        if wanted.valid & fattr::SIZE != 0 {
            self.set_size(call, &inode, &wanted)?;
        }
        if wanted.valid & (fattr::ATIME | fattr::MTIME) != 0 {
            set_times(file, &wanted)?;
        }
        attr_reply(&inode, file)
    }

    fn set_mode(&self, file: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
        let path = DecInt::from_fd(file);
        let mode = Mode::from_raw_mode(mode & 0o7777);
        chmodat(
            self.proc_fds.as_fd(),
            path.as_c_str(),
            mode,
            AtFlags::empty(),
        )
    }

    fn set_size(
        &self,
        call: &Call<'_, '_>,
        inode: &Inode,
        wanted: &SetattrIn,
    ) -> Result<(), Errno> {
        let kill = wanted.valid & fattr::KILL_SUIDGID != 0;
        if wanted.valid & fattr::FH != 0 {
            let file = self.files.get(wanted.fh, inode.id)?;
            return call
                .thread
                .killing_suidgid(kill, || ftruncate(&file, wanted.size));
        }
        match inode.file_type {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        let file = self.reopen(inode.path_fd()?.as_fd(), OFlags::WRONLY)?;
        call.thread
            .killing_suidgid(kill, || ftruncate(&file, wanted.size))
    }

    pub(in crate::devices::fs) fn statfs(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let inode = self.inode(call.header.nodeid)?;
        let host = fstatvfs(inode.path_fd()?)?;
        let fit = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Ok(Reply::of(&Statfs {
            blocks: host.f_blocks,
            bfree: host.f_bfree,
            bavail: host.f_bavail,
            files: host.f_files,
            ffree: host.f_ffree,
            bsize: fit(host.f_bsize),
            namelen: fit(host.f_namemax),
            frsize: fit(host.f_frsize),
            ..Statfs::default()
        }))
    }

    /// Writes back every file system that has an export's root. The guest has one file system
    /// for all of them, and asks for that.
    pub(in crate::devices::fs) fn syncfs(&self) -> Result<Reply, Errno> {
        for export in self.exports.starting_at(0) {
            let kind = attr::file_type(&stat(export.as_fd())?);
            if export.id.readonly || !matches!(kind, FileType::Directory | FileType::RegularFile) {
                continue;
            }
            syncfs(self.reopen(export.as_fd(), OFlags::RDONLY)?)?;
        }
        Ok(Reply::Done)
    }
}

/// Tells the guest of an inode's attributes.
fn attr_reply(inode: &Inode, file: BorrowedFd<'_>) -> Result<Reply, Errno> {
    Ok(Reply::of(&AttrOut {
        attr_valid: TIMEOUT.as_secs(),
        attr_valid_nsec: TIMEOUT.subsec_nanos(),
        dummy: 0,
        attr: attr::to_wire(&stat(file)?, inode.space),
    }))
}

/// The host clears set-user-id, set-group-id and file capabilities by itself here.
fn set_owner(file: BorrowedFd<'_>, wanted: &SetattrIn) -> Result<(), Errno> {
    let owner = (wanted.valid & fattr::UID != 0)
        .then(|| args::uid(wanted.uid))
        .transpose()?;
    let group = (wanted.valid & fattr::GID != 0)
        .then(|| args::gid(wanted.gid))
        .transpose()?;
    chownat(file, c"", owner, group, AtFlags::EMPTY_PATH)
}

fn set_times(file: BorrowedFd<'_>, wanted: &SetattrIn) -> Result<(), Errno> {
    let time = |given: u32, now: u32, sec: u64, nsec: u32| {
        let special = |tv_nsec| Ok(Timespec { tv_sec: 0, tv_nsec });
        match wanted.valid {
            valid if valid & given == 0 => special(UTIME_OMIT),
            valid if valid & now != 0 => special(UTIME_NOW),
            // The kernel gives other meanings to numbers beyond a second.
            _ if nsec >= 1_000_000_000 => Err(Errno::INVAL),
            _ => Ok(Timespec {
                tv_sec: sec.cast_signed(),
                tv_nsec: nsec.into(),
            }),
        }
    };
    let times = Timestamps {
        last_access: time(
            fattr::ATIME,
            fattr::ATIME_NOW,
            wanted.atime,
            wanted.atimensec,
        )?,
        last_modification: time(
            fattr::MTIME,
            fattr::MTIME_NOW,
            wanted.mtime,
            wanted.mtimensec,
        )?,
    };
    utimensat(file, c"", &times, AtFlags::EMPTY_PATH)
}
