//! Bind mounts: a part of what the runtime sees, at a place in the container.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use runvm_oci::{Mount, Propagation, PropagationKind};
use runvm_sys::mount_attr;
use rustix::fs::{CWD, FileType};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::{MountError, Mounts};
use crate::control::{SourceAnswer, Word};
use crate::root;
use crate::rootfs::file_type;

impl Mounts<'_> {
    pub(super) fn bind(
        &mut self,
        index: usize,
        mount: &Mount,
        from: &Path,
        recursive: bool,
    ) -> Result<(), MountError> {
        let failed = |source| MountError::Bind {
            from: from.into(),
            target: mount.destination.clone(),
            source,
        };
        let detached = if mount.idmap.is_some() {
            // Only who has privileges over the file system maps its ids.
            self.ask_for(index, from, recursive)
        } else {
            self.source(index, from, recursive)
        };
        let detached = detached.map_err(failed)?;
        let place = match file_type(&detached).map_err(failed)? {
            FileType::Directory => self.target_dir(&mount.destination)?,
            _ => self.target_file(&mount.destination)?,
        };
        self.finish(mount, &detached, &place)
    }

    /// A detached clone of what is to be bound; made by the caller where the root of the user
    /// namespace, who is an ordinary user of the host, may not go.
    fn source(&mut self, index: usize, from: &Path, recursive: bool) -> io::Result<OwnedFd> {
        match clone_of(from, recursive) {
            Err(error)
                if self.user_namespace && error.kind() == io::ErrorKind::PermissionDenied =>
            {
                self.ask_for(index, from, recursive)
            }
            cloned => cloned,
        }
    }

    fn ask_for(&mut self, index: usize, from: &Path, recursive: bool) -> io::Result<OwnedFd> {
        let path = from.to_owned();
        let word = Word::Source {
            path,
            recursive,
            index,
        };
        self.control.send(&word, &[], &[])?;
        let answer = self.control.receive::<SourceAnswer>()?;
        let answer = answer.ok_or(io::ErrorKind::UnexpectedEof)?;
        match answer.message.errno {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => answer
                .fds
                .into_iter()
                .next()
                .ok_or_else(|| io::ErrorKind::InvalidData.into()),
        }
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

/// The caller's part: a clone that takes part in the host's mounts as the container's own do,
/// receiving what comes and giving nothing back.
pub(crate) fn clone_for(from: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let detached = clone_of(from, recursive)?;
    let (reach, slave) = root::change(Propagation {
        kind: PropagationKind::Slave,
        recursive: true,
    });
    mount_attr::set(detached.as_fd(), reach, slave)?;
    Ok(detached)
}

fn clone_of(from: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    Ok(open_tree(CWD, from, flags)?)
}
