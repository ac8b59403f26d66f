//! What the guest has open.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::descriptors::Counted;
use super::exports::ExportId;
use super::inode::Inode;

/// An open file or directory.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) inode: Arc<Inode>,
    pub(super) purpose: Purpose,
    fd: Counted,
}

/// What an open file is for, with what only that needs.
#[derive(Debug)]
pub(super) enum Purpose {
    /// A regular file.
    Data {
        /// Whether the descriptor has `O_APPEND`; the guest's fcntl(2) may change it.
        append: AtomicBool,
    },
    /// A directory.
    Entries {
        /// Held while the descriptor's position is moved and read from.
        reading: Mutex<()>,
    },
}

impl Purpose {
    /// A regular file opened with `flags`.
    pub(super) fn data(flags: OFlags) -> Self {
        Self::Data {
            append: AtomicBool::new(flags.contains(OFlags::APPEND)),
        }
    }
}

impl OpenFile {
    pub(super) fn new(inode: Arc<Inode>, fd: Counted, purpose: Purpose) -> Self {
        Self { inode, purpose, fd }
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The open files, by the numbers the guest was given (`fh`).
#[derive(Debug, Default)]
pub(super) struct Files {
    open: RwLock<HashMap<u64, Arc<OpenFile>>>,
    last: AtomicU64,
}

impl Files {
    /// Gives an open file a number, which is never used again.
    pub(super) fn insert(&self, file: OpenFile) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(number, Arc::new(file));
        number
    }

    /// The open file `number` of the inode that the guest calls `nodeid`.
    pub(super) fn get(&self, number: u64, nodeid: u64) -> Result<Arc<OpenFile>, Errno> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let file = open.get(&number).filter(|file| file.inode.id == nodeid);
        file.cloned().ok_or(Errno::BADF)
    }

    /// Closes an open file, once nobody works with it any more.
    pub(super) fn remove(&self, number: u64, nodeid: u64) -> Result<(), Errno> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.get(&number).is_none_or(|file| file.inode.id != nodeid) {
            return Err(Errno::BADF);
        }
        open.remove(&number);
        Ok(())
    }

    /// Closes every file of an export.
    pub(super) fn revoke(&self, export: ExportId) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, file| file.inode.export != export);
    }

    /// Closes everything.
    pub(super) fn clear(&self) {
        self.open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// How many files are open.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}
