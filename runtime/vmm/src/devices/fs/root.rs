//! The root directory: read-only, made here, its entries the exports.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::attr::{self, InodeSpace};
use super::call::{Call, Reply};
use super::passthrough::dir::Entries;
use super::server::Server;
use super::wire::{Attr, AttrOut, EntryOut, OpenOut, ROOT_ID, ReadIn, Statfs, opcode};

/// Readable and searchable by all, writable by nobody.
const MODE: u32 = 0o40555;
/// Offsets of `.` and `..` in the directory; exports follow by their numbers.
const OFFSETS_OF_DOTS: u64 = 2;

impl Server {
    /// Answers a request that acts on the root directory.
    pub(super) fn answer_for_root(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        match call.header.opcode {
            opcode::LOOKUP => self.lookup_export(call),
            opcode::GETATTR => Ok(Reply::of(&AttrOut {
                attr: self.root_attr(),
                ..AttrOut::default()
            })),
            opcode::OPENDIR => Ok(Reply::of(&OpenOut::default())),
            opcode::READDIR => self.read_root(call, false),
            opcode::READDIRPLUS => self.read_root(call, true),
            opcode::RELEASEDIR | opcode::FSYNCDIR => Ok(Reply::Done),
            opcode::STATFS => Ok(Reply::of(&Statfs {
                bsize: 4096,
                frsize: 4096,
                namelen: 255,
                ..Statfs::default()
            })),
            opcode::SYNCFS => self.syncfs(),
            opcode::GETXATTR => Err(Errno::NODATA),
            opcode::LISTXATTR => self.no_xattrs(call),
            opcode::SETATTR
            | opcode::SYMLINK
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::CREATE
            | opcode::TMPFILE
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::RENAME
            | opcode::RENAME2
            | opcode::LINK
            | opcode::SETXATTR
            | opcode::REMOVEXATTR => Err(Errno::ROFS),
            opcode::READLINK => Err(Errno::INVAL),
            opcode::OPEN | opcode::READ | opcode::WRITE => Err(Errno::ISDIR),
            _ => Err(Errno::NOSYS),
        }
    }

    /// Exports come and go without a notice to the guest, so it must ask for them each time.
    fn lookup_export(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let export = self
            .exports
            .find(call.args.name()?.to_bytes())
            .ok_or(Errno::NOENT)?;
        let entry = self.entry_of_export(&export)?;
        Ok(Reply::of(&EntryOut {
            entry_valid: 0,
            entry_valid_nsec: 0,
            ..entry
        }))
    }

    fn root_attr(&self) -> Attr {
        let (exports, changed) = self.exports.summary();
        let since = changed
            .duration_since(UNIX_EPOCH)
            .or_else(|_| SystemTime::now().duration_since(UNIX_EPOCH));
        let since = since.unwrap_or_default();
        let (time, nsec) = (since.as_secs(), since.subsec_nanos());
        Attr {
            ino: InodeSpace::ROOT.ino(ROOT_ID),
            mode: MODE,
            nlink: u32::try_from(exports).unwrap_or(u32::MAX).saturating_add(2),
            blksize: 4096,
            atime: time,
            mtime: time,
            ctime: time,
            atimensec: nsec,
            mtimensec: nsec,
            ctimensec: nsec,
            ..Attr::default()
        }
    }

    fn read_root(&self, call: &mut Call<'_, '_>, plus: bool) -> Result<Reply, Errno> {
        let ReadIn { offset, size, .. } = call.args.take()?;
        let mut entries = Entries::new(size, call.reply.len(), plus);
        let ino = InodeSpace::ROOT.ino(ROOT_ID);
        for (position, name) in [(0, c"."), (1, c"..")] {
            if offset <= position
                && !entries.push(
                    name.to_bytes(),
                    ino,
                    position + 1,
                    FileType::Directory,
                    |_| None,
                )
            {
                return Ok(entries.into_reply());
            }
        }
        let first =
            u32::try_from(offset.saturating_sub(OFFSETS_OF_DOTS)).map_err(|_| Errno::INVAL)?;
        for export in self.exports.starting_at(first) {
            let Ok(stat) = attr::stat(rustix::fd::AsFd::as_fd(&export)) else {
                continue;
            };
            let ino = self.spaces.of(&stat).ino(stat.stx_ino);
            let next = u64::from(export.id.number) + 1 + OFFSETS_OF_DOTS;
            let entry = |_: &[u8]| {
                let entry = self.entry_of_export(&export).ok()?;
                Some(EntryOut {
                    entry_valid: 0,
                    entry_valid_nsec: 0,
                    ..entry
                })
            };
            if !entries.push(
                export.name.as_bytes(),
                ino,
                next,
                attr::file_type(&stat),
                entry,
            ) {
                break;
            }
        }
        Ok(entries.into_reply())
    }
}
