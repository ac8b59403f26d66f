//! Reading and writing what is in a file.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use rustix::fs::{
    FallocateFlags, OFlags, SeekFrom, copy_file_range, fallocate, fcntl_getfl, fcntl_setfl,
    fdatasync, fsync, seek,
};
use rustix::io::{Errno, ReadWriteFlags, pread, pwritev2, retry_on_intr};

use crate::devices::fs::call::{Call, Reply};
use crate::devices::fs::files::{OpenFile, Purpose};
use crate::devices::fs::server::Server;
use crate::devices::fs::wire::{
    CopyFileRangeIn, FSYNC_FDATASYNC, FallocateIn, FsyncIn, LseekIn, LseekOut, ReadIn,
    WRITE_KILL_SUIDGID, WriteIn, WriteOut,
};

/// How much is read at a time: as much as stays in a CPU's cache between the file and the guest.
const READ_CHUNK_BYTES: usize = 128 << 10;
/// How much one `COPY_FILE_RANGE` copies: the caller asks again for the rest, and other requests
/// get their turn meanwhile. A multiple of any block size, so that blocks can be shared.
const MAX_COPY_BYTES: usize = 16 << 20;

impl Server {
    pub(in crate::devices::fs) fn read(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let ReadIn {
            fh, offset, size, ..
        } = call.args.take()?;
        let file = self.files.get(fh, call.header.nodeid)?;
        let wanted = usize::try_from(size)
            .map_or(usize::MAX, |size| size)
            .min(call.reply.len());
        let mut done = 0;
        while done < wanted {
            let chunk = READ_CHUNK_BYTES.min(wanted - done);
            let buffer = &mut call.buffer[..chunk];
            let at = offset.checked_add(done as u64).ok_or(Errno::INVAL)?;
            let read = match retry_on_intr(|| pread(&file, &mut *buffer, at)) {
                Err(errno) if done == 0 => return Err(errno),
                read => read.unwrap_or(0),
            };
            done += call.reply.write(&buffer[..read]);
            if read < chunk {
                break;
            }
        }
        Ok(Reply::Data(done))
    }

    pub(in crate::devices::fs) fn write(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let WriteIn {
            fh,
            offset,
            size,
            write_flags,
            flags,
            ..
        } = call.args.take()?;
        let file = self.files.get(fh, call.header.nodeid)?;
        file.inode.check_writable()?;
        let size = usize::try_from(size).map_err(|_| Errno::INVAL)?;
        if size != call.payload.len() {
            return Err(Errno::INVAL);
        }
        // All of it at once: what is appended stays in one piece.
        let buffer = call.buffer.get_mut(..size).ok_or(Errno::TOOBIG)?;
        if call.payload.read(buffer) < size {
            return Err(Errno::INVAL);
        }
        let flags = OFlags::from_bits_retain(flags);
        set_append(&file, flags.contains(OFlags::APPEND))?;
        let kill = write_flags & WRITE_KILL_SUIDGID != 0;
        let written = call.thread.killing_suidgid(kill, || {
            let data = [IoSlice::new(buffer)];
            retry_on_intr(|| pwritev2(&file, &data, offset, how_to_write(flags)))
        })?;
        let size = u32::try_from(written).map_err(|_| Errno::IO)?;
        Ok(Reply::of(&WriteOut { size, padding: 0 }))
    }

    pub(in crate::devices::fs) fn fsync(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let FsyncIn {
            fh, fsync_flags, ..
        } = call.args.take()?;
        let file = self.files.get(fh, call.header.nodeid)?;
        match fsync_flags & FSYNC_FDATASYNC {
            0 => fsync(&file)?,
            _ => fdatasync(&file)?,
        }
        Ok(Reply::Done)
    }

    pub(in crate::devices::fs) fn fallocate(
        &self,
        call: &mut Call<'_, '_>,
    ) -> Result<Reply, Errno> {
        let FallocateIn {
            fh,
            offset,
            length,
            mode,
            ..
        } = call.args.take()?;
        let file = self.files.get(fh, call.header.nodeid)?;
        file.inode.check_writable()?;
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        // The request does not say whether the caller has CAP_FSETID: take it that not.
        call.thread
            .without_fsetid(|| fallocate(&file, mode, offset, length))?;
        Ok(Reply::Done)
    }

    pub(in crate::devices::fs) fn lseek(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let LseekIn {
            fh, offset, whence, ..
        } = call.args.take()?;
        let file = self.files.get(fh, call.header.nodeid)?;
        // Positions are the guest's own; only where holes are is known here alone.
        let position = match whence {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let Purpose::Data { .. } = file.purpose else {
            return Err(Errno::INVAL);
        };
        Ok(Reply::of(&LseekOut {
            offset: seek(&file, position)?,
        }))
    }

    pub(in crate::devices::fs) fn copy_file_range(
        &self,
        call: &mut Call<'_, '_>,
    ) -> Result<Reply, Errno> {
        let wanted: CopyFileRangeIn = call.args.take()?;
        if wanted.flags != 0 {
            return Err(Errno::INVAL);
        }
        let from = self.files.get(wanted.fh_in, call.header.nodeid)?;
        let to = self.files.get(wanted.fh_out, wanted.nodeid_out)?;
        to.inode.check_writable()?;
        let len = usize::try_from(wanted.len)
            .unwrap_or(usize::MAX)
            .min(MAX_COPY_BYTES);
        let (mut off_in, mut off_out) = (wanted.off_in, wanted.off_out);
        // As with FALLOCATE.
        let copied = call.thread.without_fsetid(|| {
            copy_file_range(&from, Some(&mut off_in), &to, Some(&mut off_out), len)
        })?;
        let size = u32::try_from(copied).map_err(|_| Errno::IO)?;
        Ok(Reply::of(&WriteOut { size, padding: 0 }))
    }
}

/// `SEEK_DATA` and `SEEK_HOLE` of lseek(2).
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

/// How the guest's file flags ask for this write to be made.
fn how_to_write(flags: OFlags) -> ReadWriteFlags {
    if flags.contains(OFlags::SYNC) {
        ReadWriteFlags::SYNC
    } else if flags.contains(OFlags::DSYNC) {
        ReadWriteFlags::DSYNC
    } else {
        ReadWriteFlags::empty()
    }
}

/// Follows the guest's `O_APPEND`, which fcntl(2) may have changed, and which does not count when
/// the guest writes pages of a mapping back through any open file of the inode.
fn set_append(file: &OpenFile, wanted: bool) -> Result<(), Errno> {
    let Purpose::Data { append } = &file.purpose else {
        return Err(Errno::BADF);
    };
    if append.swap(wanted, Ordering::AcqRel) != wanted {
        let mut flags = fcntl_getfl(file.as_fd())?;
        flags.set(OFlags::APPEND, wanted);
        fcntl_setfl(file.as_fd(), flags)?;
    }
    Ok(())
}
