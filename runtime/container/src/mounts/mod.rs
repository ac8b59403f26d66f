//! `mounts`: each is built detached, with all its attributes, and then attached in one step at a
//! place resolved inside the root.

mod bind;
mod cgroup;
mod copy_up;
mod file_system;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use runvm_oci::{Mount, MountKind};
use runvm_sys::mount_attr::{self, MountAttr, Reach};

use crate::control::Control;
use crate::proc_fs::ProcFs;
use crate::root;
use crate::rootfs::Rootfs;

pub(crate) use bind::clone_for;
pub(crate) use file_system::empty_read_only;

/// A mount that could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("cannot mount over the container's root: mounts has the destination /")]
    OverRoot,
    #[error("cannot make the mount point {}", target.display())]
    Target { target: PathBuf, source: io::Error },
    #[error("cannot mount {fstype} at {}: a symbolic link is in the way", target.display())]
    Link { fstype: String, target: PathBuf },
    #[error("cannot mount {fstype} at {}{said}", target.display())]
    FileSystem {
        fstype: String,
        target: PathBuf,
        /// The file system's own words, after a colon, or nothing.
        said: String,
        source: io::Error,
    },
    #[error("cannot bind {} to {}", from.display(), target.display())]
    Bind {
        from: PathBuf,
        target: PathBuf,
        source: io::Error,
    },
    #[error("cannot copy what {} holds into its tmpfs", target.display())]
    CopyUp { target: PathBuf, source: io::Error },
    #[error("cannot mount the cgroup hierarchy {name:?} at {}", target.display())]
    Cgroup {
        name: String,
        target: PathBuf,
        source: io::Error,
    },
    #[error("cannot read the cgroups the process is in")]
    OwnCgroup(#[source] io::Error),
    #[error("cannot set the attributes of the mount at {}", target.display())]
    Attributes { target: PathBuf, source: io::Error },
    #[error("cannot set the propagation of the mount at {}", target.display())]
    Propagation { target: PathBuf, source: io::Error },
    #[error("cannot give the mount at {} linux.mountLabel", target.display())]
    Label { target: PathBuf, source: io::Error },
    #[error("cannot attach the mount at {}", target.display())]
    Attach { target: PathBuf, source: io::Error },
}

/// What the mounts of a plan are made with.
pub(crate) struct Mounts<'a> {
    pub(crate) rootfs: &'a Rootfs,
    pub(crate) proc_fs: &'a ProcFs,
    /// The caller, who can reach what the root of a user namespace cannot.
    pub(crate) control: &'a mut Control,
    /// Whether the container has a user namespace.
    pub(crate) user_namespace: bool,
    /// `linux.mountLabel`, for file systems that are the container's own.
    pub(crate) label: Option<&'a str>,
    /// Whether the process is in a cgroup namespace of the container.
    pub(crate) cgroup_namespace: bool,
}

/// A mount that becomes read-only when nothing more is to be made in it.
pub(crate) struct Later {
    target: PathBuf,
    mount: OwnedFd,
}

impl Mounts<'_> {
    /// Makes them in their order.
    pub(crate) fn make(&mut self, mounts: &[Mount]) -> Result<Vec<Later>, MountError> {
        let mut later = Vec::new();
        for (index, mount) in mounts.iter().enumerate() {
            if mount.destination.parent().is_none() {
                return Err(MountError::OverRoot);
            }
            later.extend(self.make_one(index, mount)?);
        }
        Ok(later)
    }

    fn make_one(&mut self, index: usize, mount: &Mount) -> Result<Option<Later>, MountError> {
        match &mount.kind {
            MountKind::Bind { source, recursive } => {
                self.bind(index, mount, source, *recursive)?;
                Ok(None)
            }
            MountKind::FileSystem { fstype, source } => {
                self.file_system(mount, fstype, source.as_deref())
            }
            MountKind::Cgroup => {
                self.cgroup(mount)?;
                Ok(None)
            }
        }
    }

    /// The directory a file system goes to.
    fn target_dir(&self, target: &Path) -> Result<OwnedFd, MountError> {
        self.rootfs
            .make_dir(target)
            .map_err(|source| MountError::Target {
                target: target.into(),
                source,
            })
    }

    /// Attributes and propagation of a mount that is still detached, then its place.
    fn finish(&self, mount: &Mount, detached: &OwnedFd, place: &OwnedFd) -> Result<(), MountError> {
        let target = || mount.destination.clone();
        let own = MountAttr::new(mount.attr_set, mount.attr_clear);
        let tree = MountAttr::new(mount.attr_set_recursive, mount.attr_clear_recursive);
        for (reach, attr) in [(Reach::Mount, own), (Reach::Tree, tree)] {
            if attr.is_empty() {
                continue;
            }
            mount_attr::set(detached.as_fd(), reach, attr).map_err(|source| {
                MountError::Attributes {
                    target: target(),
                    source,
                }
            })?;
        }
        for propagation in &mount.propagation {
            let (reach, attr) = root::change(*propagation);
            mount_attr::set(detached.as_fd(), reach, attr).map_err(|source| {
                MountError::Propagation {
                    target: target(),
                    source,
                }
            })?;
        }
        root::attach(detached, place).map_err(|source| MountError::Attach {
            target: target(),
            source,
        })
    }
}

/// Makes those read-only that had to wait.
pub(crate) fn make_read_only(later: &[Later]) -> Result<(), MountError> {
    for Later { target, mount } in later {
        let attr = MountAttr::new(mount_attr::RDONLY, 0);
        mount_attr::set(mount.as_fd(), Reach::Mount, attr).map_err(|source| {
            MountError::Attributes {
                target: target.clone(),
                source,
            }
        })?;
    }
    Ok(())
}
