//! Opening and closing files.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::devices::fs::attr::stat;
use crate::devices::fs::call::{Call, Reply};
use crate::devices::fs::descriptors::Counted;
use crate::devices::fs::exports::ExportId;
use crate::devices::fs::files::{OpenFile, Purpose};
use crate::devices::fs::inode::Inode;
use crate::devices::fs::server::Server;
use crate::devices::fs::wire::{FOPEN_KEEP_CACHE, OPEN_KILL_SUIDGID, OpenIn, OpenOut, ReleaseIn};

/// How coarse the host's file times may be: two changes closer than this can look like one.
const TIME_GRAIN: Duration = Duration::from_millis(50);

/// What the host is asked for of what the guest asked for. `O_DIRECT` is not: the guest's kernel
/// goes around its own cache by itself, and the host would want buffers aligned that are not.
const PASSED_ON: OFlags = OFlags::APPEND
    .union(OFlags::TRUNC)
    .union(OFlags::DSYNC)
    .union(OFlags::SYNC)
    .union(OFlags::NOATIME);

impl Server {
    pub(in crate::devices::fs) fn open(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let OpenIn { flags, open_flags } = call.args.take()?;
        let inode = self.inode(call.header.nodeid)?;
        match inode.file_type {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            // Never: it would be the host's device, FIFO or socket (CVE-2020-35517).
            _ => return Err(Errno::OPNOTSUPP),
        }
        let flags = host_flags(flags, inode.export)?;
        let kill = open_flags & OPEN_KILL_SUIDGID != 0 && flags.contains(OFlags::TRUNC);
        let file = call
            .thread
            .killing_suidgid(kill, || self.open_counted(&inode, flags))?;
        let open_flags = if cache_is_current(&inode, &file)? {
            FOPEN_KEEP_CACHE
        } else {
            0
        };
        let fh = self.insert_open(OpenFile::new(inode, file, Purpose::data(flags)))?;
        Ok(Reply::of(&OpenOut {
            fh,
            open_flags,
            padding: 0,
        }))
    }

    pub(in crate::devices::fs) fn opendir(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let inode = self.inode(call.header.nodeid)?;
        if inode.file_type != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let flags = host_flags(0, inode.export)? | OFlags::DIRECTORY;
        let file = self.open_counted(&inode, flags)?;
        let purpose = Purpose::Entries {
            reading: Mutex::new(()),
        };
        let fh = self.insert_open(OpenFile::new(inode, file, purpose))?;
        Ok(Reply::of(&OpenOut {
            fh,
            ..OpenOut::default()
        }))
    }

    pub(in crate::devices::fs) fn release(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let ReleaseIn { fh, .. } = call.args.take()?;
        self.files.remove(fh, call.header.nodeid)?;
        Ok(Reply::Done)
    }

    /// Gives an open file its number.
    pub(super) fn insert_open(&self, file: OpenFile) -> Result<u64, Errno> {
        let export = file.inode.export;
        let fh = self.files.insert(file);
        self.check_offered(export)?;
        Ok(fh)
    }

    /// Opens the file of a regular file's or directory's inode.
    fn open_counted(&self, inode: &Inode, flags: OFlags) -> Result<Counted, Errno> {
        let path_fd = inode.path_fd()?;
        let file = match self.reopen(path_fd.as_fd(), flags) {
            // Only a file's owner and CAP_FOWNER may leave the access time alone.
            Err(Errno::PERM) => self.reopen(path_fd.as_fd(), flags.difference(OFlags::NOATIME))?,
            opened => opened?,
        };
        self.budget.count(file)
    }
}

/// Translates the flags of open(2), and refuses what a read-only export does not allow.
pub(super) fn host_flags(guest: u32, export: ExportId) -> Result<OFlags, Errno> {
    let guest = OFlags::from_bits_retain(guest);
    let access = guest & OFlags::RWMODE;
    if access == OFlags::RWMODE {
        return Err(Errno::INVAL);
    }
    let flags = access | (guest & PASSED_ON);
    if !export.readonly {
        return Ok(flags);
    }
    if access != OFlags::RDONLY || flags.contains(OFlags::TRUNC) {
        return Err(Errno::ROFS);
    }
    // As on a read-only mount, reading does not touch the access time.
    Ok(flags | OFlags::NOATIME)
}

/// Whether the guest's cache of a file begins with what the file holds now, so that opening it
/// need not drop the cache (close-to-open consistency).
///
/// `AUTO_INVAL_DATA` alone would let a file that the host has just changed be read stale for as
/// long as attributes are cached; so the cache is kept only if the file is as it was at its last
/// opening, and was not so new then that a later change could bear the same time.
fn cache_is_current(inode: &Inode, file: &Counted) -> Result<bool, Errno> {
    let stat = stat(file.as_fd())?;
    let changed = (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec);
    let now = (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
    let version = (now, changed, stat.stx_size);
    let mut cached = inode.cached.lock().unwrap_or_else(PoisonError::into_inner);
    let current = *cached == Some(version);
    *cached = is_settled(changed).then_some(version);
    Ok(current)
}

/// Whether a change at this time is old enough to tell the next one from it.
fn is_settled((sec, nsec): (i64, u32)) -> bool {
    let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else {
        return false;
    };
    let Ok(sec) = u64::try_from(sec) else {
        return false;
    };
    now.checked_sub(Duration::new(sec, nsec))
        .is_some_and(|age| age > TIME_GRAIN)
}
