//! The inodes the guest knows, by the numbers it knows them by.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use runvm_sys::file_handle::FileHandle;
use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use super::attr::InodeSpace;
use super::exports::ExportId;
use super::inode_file::{InodeFile, PathFd};
use super::wire::ROOT_ID;

/// One file that the guest has looked up, under whichever of its names.
#[derive(Debug)]
pub(super) struct Inode {
    /// The guest's number for it. Never used again.
    pub(super) id: u64,
    pub(super) export: ExportId,
    /// Cannot change while the inode lives; decides what the server may open.
    pub(super) file_type: FileType,
    pub(super) space: InodeSpace,
    pub(super) file: InodeFile,
    /// The contents the guest's page cache was last known to begin with.
    pub(super) cached: Mutex<Option<Version>>,
}

/// Tells states of a file's contents apart: modified, changed, size.
pub(super) type Version = ((i64, u32), (i64, u32), u64);

/// What makes two lookups find the same inode.
///
/// Where inodes are not kept open the handle is part of it, because the host may use the inode
/// number of a deleted file again. Different exports never share an inode: one may be read-only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    export: u32,
    mount: u64,
    device: (u32, u32),
    ino: u64,
    handle: Option<FileHandle>,
}

impl Key {
    pub(super) fn new(export: ExportId, stat: &Statx, handle: Option<FileHandle>) -> Self {
        Self {
            export: export.number,
            mount: stat.stx_mnt_id,
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            handle,
        }
    }
}

impl Inode {
    /// The file as an `O_PATH` descriptor.
    pub(super) fn path_fd(&self) -> Result<PathFd, Errno> {
        self.file.path_fd()
    }

    /// Refuses what would change something in a read-only export.
    pub(super) fn check_writable(&self) -> Result<(), Errno> {
        if self.export.readonly {
            Err(Errno::ROFS)
        } else {
            Ok(())
        }
    }
}

/// All inodes with a lookup count above zero, but the root.
#[derive(Debug)]
pub(super) struct Inodes(RwLock<Table>);

#[derive(Debug)]
struct Table {
    by_id: HashMap<u64, Entry>,
    by_key: HashMap<Key, u64>,
    next_id: u64,
}

#[derive(Debug)]
struct Entry {
    inode: Arc<Inode>,
    key: Key,
    /// How often the guest was told of the inode and has not forgotten it.
    lookups: u64,
}

impl Inodes {
    pub(super) fn new() -> Self {
        let next_id = ROOT_ID + 1;
        Self(RwLock::new(Table {
            by_id: HashMap::new(),
            by_key: HashMap::new(),
            next_id,
        }))
    }

    /// The inode the guest calls `id`.
    pub(super) fn get(&self, id: u64) -> Result<Arc<Inode>, Errno> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table
            .by_id
            .get(&id)
            .map(|entry| Arc::clone(&entry.inode))
            .ok_or(Errno::STALE)
    }

    /// The inode known by `key`.
    pub(super) fn find(&self, key: &Key) -> Option<Arc<Inode>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let id = table.by_key.get(key)?;
        table.by_id.get(id).map(|entry| Arc::clone(&entry.inode))
    }

    /// Counts one lookup of the inode known by `key`, made with the next number by `make` when
    /// it is new.
    pub(super) fn remember(
        &self,
        key: Key,
        make: impl FnOnce(u64) -> Result<Inode, Errno>,
    ) -> Result<Arc<Inode>, Errno> {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let table = &mut *table;
        if let Some(entry) = table
            .by_key
            .get(&key)
            .and_then(|id| table.by_id.get_mut(id))
        {
            entry.lookups = entry.lookups.checked_add(1).ok_or(Errno::OVERFLOW)?;
            return Ok(Arc::clone(&entry.inode));
        }
        let id = table.next_id;
        let inode = Arc::new(make(id)?);
        table.next_id += 1;
        table.by_key.insert(key.clone(), id);
        table.by_id.insert(
            id,
            Entry {
                inode: Arc::clone(&inode),
                key,
                lookups: 1,
            },
        );
        Ok(inode)
    }

    /// Takes `lookups` back. A guest that forgets more than it was told of ends at zero.
    pub(super) fn forget(&self, id: u64, lookups: u64) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = table.by_id.get_mut(&id) else {
            return;
        };
        entry.lookups = entry.lookups.saturating_sub(lookups);
        if entry.lookups == 0
            && let Some(entry) = table.by_id.remove(&id)
        {
            table.by_key.remove(&entry.key);
        }
    }

    /// Lets go of every file of an export. Its inodes stay known, as stale ones.
    pub(super) fn revoke(&self, export: ExportId) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let table = &mut *table;
        for entry in table.by_id.values() {
            if entry.inode.export == export {
                entry.inode.file.revoke();
                table.by_key.remove(&entry.key);
            }
        }
    }

    /// Forgets everything: the guest has unmounted or starts anew.
    pub(super) fn clear(&self) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table.by_id.clear();
        table.by_key.clear();
    }

    /// How many inodes are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .by_id
            .len()
    }
}
