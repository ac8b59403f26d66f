//! From a name to an inode.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{FileType, Mode, OFlags, Statx, openat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use crate::devices::fs::attr::{self, TIMEOUT, file_type, stat};
use crate::devices::fs::call::{Call, Reply};
use crate::devices::fs::exports::{Export, ExportId};
use crate::devices::fs::inode::{Inode, Key};
use crate::devices::fs::inode_file::InodeFile;
use crate::devices::fs::server::Server;
use crate::devices::fs::wire::EntryOut;

/// Whether a file can be found again by its handle once its descriptor is closed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Yes,
    /// It has no name: only a descriptor keeps it alive.
    No,
}

impl Server {
    pub(in crate::devices::fs) fn lookup(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let parent = self.inode(call.header.nodeid)?;
        let name = call.args.name()?;
        let directory = parent.path_fd()?;
        Ok(Reply::of(&self.entry_at(
            parent.export,
            directory.as_fd(),
            name,
        )?))
    }

    /// The root of an export, counted as looked up once more.
    pub(in crate::devices::fs) fn entry_of_export(
        &self,
        export: &Export,
    ) -> Result<EntryOut, Errno> {
        let root = fcntl_dupfd_cloexec(export, 0)?;
        let (inode, stat) = self.remember(export.id, root, Named::Yes)?;
        Ok(entry_out(&inode, &stat))
    }

    /// The file that `name` is in `directory`, counted as looked up once more.
    pub(super) fn entry_at(
        &self,
        export: ExportId,
        directory: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<EntryOut, Errno> {
        let (inode, stat) = self.remember(export, look_at(directory, name)?, Named::Yes)?;
        Ok(entry_out(&inode, &stat))
    }

    /// Finds or makes the inode of a file, and counts one lookup of it.
    pub(super) fn remember(
        &self,
        export: ExportId,
        file: OwnedFd,
        named: Named,
    ) -> Result<(Arc<Inode>, Statx), Errno> {
        let stat = stat(file.as_fd())?;
        let kind = file_type(&stat);
        let found = match named {
            Named::Yes => self
                .mounts
                .handle(export, stat.stx_mnt_id, file.as_fd(), kind),
            Named::No => None,
        };
        let key = Key::new(
            export,
            &stat,
            found.as_ref().map(|(handle, _)| handle.clone()),
        );
        let space = self.spaces.of(&stat);
        let inode = self.inodes.remember(key, |id| {
            let file = match found {
                Some((handle, mount)) => InodeFile::handle(handle, mount),
                None => InodeFile::kept(self.budget.count(file)?),
            };
            let cached = Mutex::new(None);
            Ok(Inode {
                id,
                export,
                file_type: kind,
                space,
                file,
                cached,
            })
        })?;
        self.check_offered(export)?;
        Ok((inode, stat))
    }

    /// Undoes what a request put into the tables of an export that was removed meanwhile.
    pub(super) fn check_offered(&self, export: ExportId) -> Result<(), Errno> {
        if self.exports.has(export) {
            return Ok(());
        }
        self.revoke(export);
        Err(Errno::STALE)
    }

    /// Holds on to the file that `name` is, if the guest knows it and this may be its last name:
    /// a handle would not find it again, but the guest may still use it.
    pub(super) fn keep_before_removal(
        &self,
        parent: &Inode,
        directory: BorrowedFd<'_>,
        name: &CStr,
    ) {
        let Ok(file) = look_at(directory, name) else {
            return;
        };
        let Ok(stat) = stat(file.as_fd()) else { return };
        let kind = file_type(&stat);
        if !self.mounts.has_handles(parent.export, stat.stx_mnt_id)
            || (stat.stx_nlink > 1 && kind != FileType::Directory)
        {
            return;
        }
        let found = self
            .mounts
            .handle(parent.export, stat.stx_mnt_id, file.as_fd(), kind);
        let key = Key::new(parent.export, &stat, found.map(|(handle, _)| handle));
        // Without a descriptor to spare the file becomes stale, as it does when the host
        // removes it.
        if let Some(inode) = self.inodes.find(&key)
            && let Ok(file) = self.budget.count(file)
        {
            inode.file.keep(file);
        }
    }
}

/// Opens what `name` is, without following it and without any effect on it.
pub(super) fn look_at(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

/// Tells the guest of an inode.
pub(super) fn entry_out(inode: &Inode, stat: &Statx) -> EntryOut {
    EntryOut {
        nodeid: inode.id,
        generation: 0,
        entry_valid: TIMEOUT.as_secs(),
        attr_valid: TIMEOUT.as_secs(),
        entry_valid_nsec: TIMEOUT.subsec_nanos(),
        attr_valid_nsec: TIMEOUT.subsec_nanos(),
        attr: attr::to_wire(stat, inode.space),
    }
}
