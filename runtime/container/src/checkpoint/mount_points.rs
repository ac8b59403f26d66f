//! The container's root as CRIU wants it: a mount, in which every mount of the container finds its
//! place.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use runvm_oci::{Mount, MountKind, Plan};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::control::RestoreOrder;
use crate::mounts::clone_for;
use crate::root::{self, RootError};
use crate::rootfs::{Rootfs, file_type};

/// A root that is not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountPointError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("cannot make the mount point {}", target.display())]
    Make { target: PathBuf, source: io::Error },
    #[error("cannot bind {} to {}", from.display(), target.display())]
    Bind {
        from: PathBuf,
        target: PathBuf,
        source: io::Error,
    },
    /// CRIU would follow it, on the host.
    #[error("cannot mount at {}: a symbolic link is in the way", target.display())]
    Link { target: PathBuf },
    #[error("cannot look at the mount point {}", target.display())]
    Look { target: PathBuf, source: io::Error },
    #[error("cannot unmount {} again", place.display())]
    Unmount { place: PathBuf, source: io::Error },
}

/// Mounts the root of `plan` where `order` has it, in a mount namespace of the process's own, after
/// the mount points have been made that are not on a tmpfs, whose content is in the images.
pub(crate) fn prepare(plan: &Plan, order: &RestoreOrder) -> Result<(), MountPointError> {
    let (root, place) = (&plan.root.path, &order.root);
    root::cut_off(root, None)?;
    let rootfs = root::mount_at(root, place)?;
    for mount in &plan.mounts {
        if !is_on_tmpfs(&plan.mounts, &mount.destination) {
            make(&rootfs, mount)?;
        }
    }
    for target in &order.mount_points {
        if !is_on_tmpfs(&plan.mounts, target) {
            refuse_link(&rootfs, target)?;
        }
    }
    // The binds were there for the mount points inside them.
    unmount(place, UnmountFlags::DETACH).map_err(|errno| MountPointError::Unmount {
        place: place.into(),
        source: errno.into(),
    })?;
    root::mount_at(root, place)?;
    Ok(())
}

fn is_on_tmpfs(mounts: &[Mount], target: &Path) -> bool {
    mounts.iter().any(|above| {
        matches!(&above.kind, MountKind::FileSystem { fstype, .. } if fstype == "tmpfs")
            && target != above.destination
            && target.starts_with(&above.destination)
    })
}

fn refuse_link(rootfs: &Rootfs, target: &Path) -> Result<(), MountPointError> {
    let target = || target.to_owned();
    match rootfs.open_without_links(&target()) {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::LOOP) => Err(MountPointError::Link { target: target() }),
            // Inside of what only CRIU mounts.
            Some(Errno::NOENT) => Ok(()),
            _ => Err(MountPointError::Look {
                target: target(),
                source: error,
            }),
        },
    }
}

fn make(rootfs: &Rootfs, mount: &Mount) -> Result<(), MountPointError> {
    let target = &mount.destination;
    let failed_make = |source| MountPointError::Make {
        target: target.clone(),
        source,
    };
    let MountKind::Bind { source, recursive } = &mount.kind else {
        return rootfs.make_dir(target).map(drop).map_err(failed_make);
    };
    let failed_bind = |error| MountPointError::Bind {
        from: source.clone(),
        target: target.clone(),
        source: error,
    };
    let detached = clone_for(source, *recursive).map_err(failed_bind)?;
    let place: OwnedFd = match file_type(&detached).map_err(failed_bind)? {
        FileType::Directory => rootfs.make_dir(target),
        _ => rootfs.make_file(target),
    }
    .map_err(failed_make)?;
    root::attach(&detached, &place).map_err(failed_bind)
}
