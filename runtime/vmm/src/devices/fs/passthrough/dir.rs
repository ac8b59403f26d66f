//! Reading directories.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::sync::PoisonError;

use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::devices::fs::call::{Call, Reply};
use crate::devices::fs::files::{OpenFile, Purpose};
use crate::devices::fs::server::Server;
use crate::devices::fs::wire::{Dirent, EntryOut, ReadIn};

/// The most entries' bytes in one reply; the guest's kernel asks for a page or a few.
const MAX_REPLY_BYTES: usize = 64 << 10;

/// The entries of one reply, as many as it has room for.
pub(in crate::devices::fs) struct Entries {
    bytes: Vec<u8>,
    room: usize,
    plus: bool,
}

impl Entries {
    /// For a reply of `wanted` bytes, as far as there is `room`. With `plus`, each entry says
    /// what a lookup of it would.
    pub(in crate::devices::fs) fn new(wanted: u32, room: usize, plus: bool) -> Self {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        Self {
            bytes: Vec::new(),
            room: wanted.min(room).min(MAX_REPLY_BYTES),
            plus,
        }
    }

    /// Adds an entry, unless it has no room any more; `next` is where reading goes on after it.
    /// `look_up` is only called for an entry that is added.
    pub(in crate::devices::fs) fn push(
        &mut self,
        name: &[u8],
        ino: u64,
        next: u64,
        kind: FileType,
        look_up: impl FnOnce(&[u8]) -> Option<EntryOut>,
    ) -> bool {
        let plus = if self.plus { size_of::<EntryOut>() } else { 0 };
        let length = (plus + size_of::<Dirent>() + name.len()).next_multiple_of(8);
        let end = self.bytes.len() + length;
        let Ok(namelen) = u32::try_from(name.len()) else {
            return false;
        };
        if end > self.room {
            return false;
        }
        if self.plus {
            // An entry of inode 0 tells the guest a name without a lookup.
            self.bytes
                .extend(look_up(name).unwrap_or_default().as_bytes());
        }
        let kind = entry_type(kind);
        self.bytes.extend(
            Dirent {
                ino,
                off: next,
                namelen,
                kind,
            }
            .as_bytes(),
        );
        self.bytes.extend(name);
        self.bytes.resize(end, 0);
        true
    }

    pub(in crate::devices::fs) fn into_reply(self) -> Reply {
        Reply::Body(self.bytes)
    }
}

impl Server {
    pub(in crate::devices::fs) fn readdir(
        &self,
        call: &mut Call<'_, '_>,
        plus: bool,
    ) -> Result<Reply, Errno> {
        let ReadIn {
            fh, offset, size, ..
        } = call.args.take()?;
        let directory = self.files.get(fh, call.header.nodeid)?;
        let Purpose::Entries { reading } = &directory.purpose else {
            return Err(Errno::NOTDIR);
        };
        let _reading = reading.lock().unwrap_or_else(PoisonError::into_inner);
        seek(directory.as_fd(), SeekFrom::Start(offset))?;
        let mut entries = Entries::new(size, call.reply.len(), plus);
        // The host's entries are a little shorter, so few are read in vain.
        let mut buffer: Vec<u8> = Vec::with_capacity(entries.room.max(512));
        let mut host = RawDir::new(directory.as_fd(), buffer.spare_capacity_mut());
        while let Some(entry) = host.next() {
            let entry = match entry {
                Err(errno) if entries.bytes.is_empty() => return Err(errno),
                Err(_) => break,
                Ok(entry) => entry,
            };
            let name = entry.file_name();
            let ino = directory.inode.space.ino(entry.ino());
            let next = entry.next_entry_cookie();
            let look_up = |_: &[u8]| self.look_up_entry(&directory, name);
            if !entries.push(name.to_bytes(), ino, next, entry.file_type(), look_up) {
                break;
            }
        }
        Ok(entries.into_reply())
    }

    fn look_up_entry(&self, directory: &OpenFile, name: &CStr) -> Option<EntryOut> {
        // The guest's kernel knows where these two lead, and the server must not.
        if matches!(name.to_bytes(), b"." | b"..") {
            return None;
        }
        self.entry_at(directory.inode.export, directory.as_fd(), name)
            .ok()
    }
}

/// `DT_*` of readdir(3): the type's bits of a mode, moved down.
fn entry_type(kind: FileType) -> u32 {
    if kind == FileType::Unknown {
        0
    } else {
        kind.as_raw_mode() >> 12
    }
}
