//! The change of root: from the host's mounts to the container's own.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use runvm_oci::{Propagation, PropagationKind};
use runvm_sys::mount_attr::{self, MountAttr, Reach};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use crate::rootfs::Rootfs;

/// Why the root is not the container's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    #[error("cannot set the propagation of the mounts the container starts from")]
    Propagation(#[source] io::Error),
    #[error("cannot make the mount below {} private", root.display())]
    Parent { root: PathBuf, source: io::Error },
    #[error("cannot open the root file system {}", root.display())]
    Open { root: PathBuf, source: io::Error },
    #[error("cannot mount the root file system {}", root.display())]
    Mount { root: PathBuf, source: io::Error },
    #[error("cannot make the container's root the root")]
    Pivot(#[source] io::Error),
    #[error("cannot detach the host's root")]
    Detach(#[source] io::Error),
    #[error("cannot move the container's root over the root")]
    Move(#[source] io::Error),
    #[error("cannot change the root to {}", root.display())]
    Chroot { root: PathBuf, source: io::Error },
    #[error("cannot set root.readonly")]
    ReadOnly(#[source] io::Error),
    #[error("cannot set linux.rootfsPropagation")]
    RootPropagation(#[source] io::Error),
}

/// Cuts the new mount namespace off from the host's, as far as the plan says, and mounts `root`
/// over itself, so that it can become the root. Everything is then mounted into what this gives.
pub(crate) fn mount(root: &Path, propagation: Option<Propagation>) -> Result<Rootfs, RootError> {
    cut_off(root, propagation)?;
    mount_at(root, root)
}

/// As [`mount`], where it is not this process that makes it the root: nothing is cut off.
pub(crate) fn mount_at(root: &Path, place: &Path) -> Result<Rootfs, RootError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Path| {
        openat(CWD, path, flags, Mode::empty()).map_err(|errno| RootError::Open {
            root: path.into(),
            source: errno.into(),
        })
    };
    let failed_mount = |source: io::Error| RootError::Mount {
        root: root.into(),
        source,
    };
    let tree = clone_tree(&open(root)?).map_err(failed_mount)?;
    // What is mounted into the container is nobody else's; pivot_root(2) wants it so, too.
    mount_attr::set(tree.as_fd(), Reach::Mount, private()).map_err(failed_mount)?;
    attach(&tree, &open(place)?).map_err(failed_mount)?;
    Ok(Rootfs::new(tree))
}

/// Makes the mounted `rootfs` the root, and lets go of every mount of the host.
pub(crate) fn pivot(rootfs: &Rootfs, propagation: Option<Propagation>) -> Result<(), RootError> {
    let pivot = || -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let host = openat(CWD, c"/", flags, Mode::empty())?;
        fchdir(rootfs.fd())?;
        // The old root lands on top of the new one: no directory for it is needed (pivot_root(2)).
        pivot_root(c".", c".")?;
        Ok(host)
    };
    let host = pivot().map_err(RootError::Pivot)?;
    let detach = || -> io::Result<()> {
        fchdir(&host)?;
        if is_shared(propagation) {
            // Else the host would lose what is detached here.
            let slave = MountAttr::propagation(libc_flag(PropagationKind::Slave));
            mount_attr::set_at_path(c".", Reach::Tree, slave)?;
        }
        unmount(c".", UnmountFlags::DETACH)?;
        Ok(chdir(c"/")?)
    };
    detach().map_err(RootError::Detach)
}

/// Puts the mounted `rootfs` over the root instead, where pivot_root is impossible: the
/// initial root file system of a kernel has nothing below it.
pub(crate) fn move_over(rootfs: &Rootfs) -> Result<(), RootError> {
    // The way back under the container's root would lead to the whole of these.
    for full_view in [c"/proc", c"/sys"] {
        // Not every host has them mounted.
        let _ = unmount(full_view, UnmountFlags::DETACH);
    }
    let change = || -> io::Result<()> {
        fchdir(rootfs.fd())?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(rootfs.fd(), c"", CWD, c"/", flags)?;
        chroot(c".")?;
        Ok(chdir(c"/")?)
    };
    change().map_err(RootError::Move)
}

/// Only the root directory changes: for a container that has the host's mounts.
pub(crate) fn change_directory(root: &Path) -> Result<(), RootError> {
    let change = || -> io::Result<()> {
        chroot(root)?;
        Ok(chdir(c"/")?)
    };
    change().map_err(|source| RootError::Chroot {
        root: root.into(),
        source,
    })
}

/// The last touches, when nothing more is made in the root: `root.readonly` and
/// `linux.rootfsPropagation`.
pub(crate) fn finish(
    rootfs: &Rootfs,
    readonly: bool,
    propagation: Option<Propagation>,
) -> Result<(), RootError> {
    if readonly {
        let attr = MountAttr::new(mount_attr::RDONLY, 0);
        mount_attr::set(rootfs.fd().as_fd(), Reach::Mount, attr).map_err(RootError::ReadOnly)?;
    }
    if let Some(propagation) = propagation {
        let (reach, attr) = change(propagation);
        mount_attr::set(rootfs.fd().as_fd(), reach, attr).map_err(RootError::RootPropagation)?;
    }
    Ok(())
}

/// A copy of the mounts at and below a place, attached nowhere.
pub(crate) fn clone_tree(place: &OwnedFd) -> io::Result<OwnedFd> {
    // AT_RECURSIVE (linux/fcntl.h) is the recursive flag of this call, too.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(place, c"", flags)?)
}

/// A copy of the one mount at a place, attached nowhere.
pub(crate) fn clone_mount(place: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(place, c"", flags)?)
}

/// Attaches a detached mount at a place.
pub(crate) fn attach(mount: &OwnedFd, place: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", place, c"", flags)?)
}

/// What mount_setattr(2) is to do for a propagation, and how far.
pub(crate) fn change(propagation: Propagation) -> (Reach, MountAttr) {
    let reach = if propagation.recursive {
        Reach::Tree
    } else {
        Reach::Mount
    };
    (reach, MountAttr::propagation(libc_flag(propagation.kind)))
}

/// Cuts the mount namespace off from the host's, as far as `propagation` says.
pub(crate) fn cut_off(root: &Path, propagation: Option<Propagation>) -> Result<(), RootError> {
    let (reach, attr) = match propagation {
        // Unbindable would keep the root itself from being bound; it is set at the end.
        Some(propagation) if propagation.kind != PropagationKind::Unbindable => change(propagation),
        // Host to container, never back.
        _ => (
            Reach::Tree,
            MountAttr::propagation(libc_flag(PropagationKind::Slave)),
        ),
    };
    mount_attr::set_at_path(c"/", reach, attr).map_err(RootError::Propagation)?;
    if is_shared(propagation) {
        make_parent_private(root).map_err(|source| RootError::Parent {
            root: root.into(),
            source,
        })?;
    }
    Ok(())
}

/// Makes the mount that `root` is on private: what is mounted at `root` would reach the host.
fn make_parent_private(root: &Path) -> io::Result<()> {
    let root = root.canonicalize()?;
    for place in root.ancestors() {
        let path = CString::new(place.as_os_str().as_bytes())?;
        match mount_attr::set_at_path(&path, Reach::Mount, private()) {
            // Not the root of a mount.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            done => return done,
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn is_shared(propagation: Option<Propagation>) -> bool {
    propagation.is_some_and(|propagation| propagation.kind == PropagationKind::Shared)
}

fn private() -> MountAttr {
    MountAttr::propagation(libc_flag(PropagationKind::Private))
}

/// `MS_*` (linux/mount.h).
fn libc_flag(kind: PropagationKind) -> u64 {
    match kind {
        PropagationKind::Shared => 1 << 20,
        PropagationKind::Slave => 1 << 19,
        PropagationKind::Private => 1 << 18,
        PropagationKind::Unbindable => 1 << 17,
    }
}
