//! Bind mounts: a part of what the runtime sees, at a place in the container.

use std::os::fd::OwnedFd;
use std::path::Path;

use runvm_oci::Mount;
use rustix::fs::{CWD, FileType};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::{MountError, Mounts};
use crate::rootfs::file_type;

impl Mounts<'_> {
    pub(super) fn bind(
        &self,
        mount: &Mount,
        from: &Path,
        recursive: bool,
    ) -> Result<(), MountError> {
        let failed = |source| MountError::Bind {
            from: from.into(),
            target: mount.destination.clone(),
            source,
        };
        let detached = clone_of(from, recursive).map_err(failed)?;
        let place = match file_type(&detached).map_err(failed)? {
            FileType::Directory => self.target_dir(&mount.destination)?,
            _ => self.target_file(&mount.destination)?,
        };
        self.finish(mount, &detached, &place)
    }

    fn target_file(&self, target: &Path) -> Result<OwnedFd, MountError> {
        self.rootfs
            .make_file(target)
            .map_err(|source| MountError::Target {
                target: target.into(),
                source,
            })
    }
}

fn clone_of(from: &Path, recursive: bool) -> std::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    Ok(open_tree(CWD, from, flags)?)
}
