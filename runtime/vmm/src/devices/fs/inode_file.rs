//! How the server finds an inode's file again: by a handle where the file system has them, else
//! by a descriptor it keeps.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use runvm_sys::file_handle::FileHandle;
use rustix::fs::{FileType, FsWord, Mode, OFlags, fstatfs, openat};
use rustix::io::Errno;

use super::descriptors::Counted;
use super::exports::ExportId;

/// What refers to an inode's file, without a name.
#[derive(Debug)]
pub(super) struct InodeFile(RwLock<Reference>);

#[derive(Clone, Debug)]
enum Reference {
    /// An `O_PATH` descriptor.
    Kept(Arc<Counted>),
    /// Costs no descriptor, and does not keep the file alive when its last name goes.
    Handle {
        handle: FileHandle,
        mount: Arc<OwnedFd>,
    },
    /// The export is gone.
    Revoked,
}

/// An `O_PATH` descriptor for the time of one operation.
#[derive(Debug)]
pub(super) enum PathFd {
    Kept(Arc<Counted>),
    Opened(OwnedFd),
}

impl InodeFile {
    pub(super) fn kept(fd: Counted) -> Self {
        Self(RwLock::new(Reference::Kept(Arc::new(fd))))
    }

    pub(super) fn handle(handle: FileHandle, mount: Arc<OwnedFd>) -> Self {
        Self(RwLock::new(Reference::Handle { handle, mount }))
    }

    /// The file as an `O_PATH` descriptor.
    pub(super) fn path_fd(&self) -> Result<PathFd, Errno> {
        match self.reference() {
            Reference::Kept(fd) => Ok(PathFd::Kept(fd)),
            Reference::Handle { handle, mount } => {
                let opened = handle.open(mount.as_fd(), OFlags::PATH).map_err(errno)?;
                Ok(PathFd::Opened(opened))
            }
            Reference::Revoked => Err(Errno::STALE),
        }
    }

    /// Holds on to the file by `fd` from now on, because its last name may go.
    pub(super) fn keep(&self, fd: Counted) {
        let mut reference = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Reference::Handle { .. } = *reference {
            *reference = Reference::Kept(Arc::new(fd));
        }
    }

    /// Lets go of the file for good.
    pub(super) fn revoke(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Reference::Revoked;
    }

    fn reference(&self) -> Reference {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl AsFd for PathFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Kept(fd) => fd.as_ref().as_fd(),
            Self::Opened(fd) => fd.as_fd(),
        }
    }
}

/// The number of an export, and the mount's id.
type MountKey = (u32, u64);

/// For each mount seen, a descriptor to open handles by; `None` where there are no handles.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    by_id: Mutex<HashMap<MountKey, Option<Arc<OwnedFd>>>>,
}

impl Mounts {
    /// The handle of `file` and the descriptor of its mount, if its mount has handles.
    pub(super) fn handle(
        &self,
        export: ExportId,
        mount_id: u64,
        file: BorrowedFd<'_>,
        file_type: FileType,
    ) -> Option<(FileHandle, Arc<OwnedFd>)> {
        let mount = self.mount(export, mount_id, file, file_type)?;
        Some((FileHandle::of(file).ok()?, mount))
    }

    /// Whether files of the mount are found by handles.
    pub(super) fn has_handles(&self, export: ExportId, mount_id: u64) -> bool {
        let by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(by_id.get(&(export.number, mount_id)), Some(Some(_)))
    }

    /// Closes the mounts of an export.
    pub(super) fn revoke(&self, export: ExportId) {
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        by_id.retain(|&(number, _), _| number != export.number);
    }

    /// Closes every mount.
    pub(super) fn clear(&self) {
        self.by_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn mount(
        &self,
        export: ExportId,
        mount_id: u64,
        file: BorrowedFd<'_>,
        file_type: FileType,
    ) -> Option<Arc<OwnedFd>> {
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_id.get(&(export.number, mount_id)) {
            return known.clone();
        }
        if file_type != FileType::Directory {
            // A single file, or one mounted alone: there is no directory to open handles by.
            return None;
        }
        let mount = open_mount(file).map(Arc::new);
        by_id.insert((export.number, mount_id), mount.clone());
        mount
    }
}

/// Opens a directory of a mount so that handles can be opened by it, if that works here: the
/// file system may have no handles, and the server may lack `CAP_DAC_READ_SEARCH`.
fn open_mount(directory: BorrowedFd<'_>) -> Option<OwnedFd> {
    if !outlive_the_cache(fstatfs(directory).ok()?.f_type) {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mount = openat(directory, c".", flags, Mode::empty()).ok()?;
    let handle = FileHandle::of(directory).ok()?;
    handle.open(mount.as_fd(), OFlags::PATH).ok()?;
    Some(mount)
}

/// Whether the handles of a file system of this type (statfs(2)) find files that the host's kernel
/// has dropped from its caches. A FUSE server without `FUSE_EXPORT_SUPPORT`, which nobody can ask
/// for from outside, has the kernel answer ESTALE for those (fs/fuse/inode.c, `fuse_get_dentry`).
fn outlive_the_cache(f_type: FsWord) -> bool {
    const FUSE_SUPER_MAGIC: FsWord = 0x6573_5546;
    f_type != FUSE_SUPER_MAGIC
}

/// The error number of an error that came from the kernel.
pub(super) fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, Mode, OFlags, fstatfs, openat};

    use super::outlive_the_cache;

    #[test]
    fn only_fuse_is_known_to_forget_its_handles() {
        assert!(!outlive_the_cache(0x6573_5546));
        let proc = openat(CWD, "/proc", OFlags::PATH, Mode::empty()).unwrap();
        assert!(outlive_the_cache(fstatfs(&proc).unwrap().f_type));
    }
}
