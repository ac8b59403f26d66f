//! `linux.maskedPaths` and `linux.readonlyPaths`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use runvm_sys::mount_attr::{self, MountAttr, RDONLY, Reach};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, major, minor, openat};
use rustix::io::Errno;

use crate::mounts::empty_read_only;
use crate::root::{attach, clone_mount, clone_tree};
use crate::rootfs::{Rootfs, file_type};

/// A path that could not be hidden or protected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PathError {
    #[error("cannot mask {}", path.display())]
    Mask { path: PathBuf, source: io::Error },
    #[error("cannot make {} read-only", path.display())]
    ReadOnly { path: PathBuf, source: io::Error },
}

/// Covers each path that exists: a directory with an empty one, anything else with the null
/// device of the host, never with that of the image (CVE-2025-31133).
pub(crate) fn mask(
    rootfs: &Rootfs,
    paths: &[PathBuf],
    label: Option<&str>,
) -> Result<(), PathError> {
    let mut covers = Covers {
        label,
        dir: None,
        null: None,
    };
    for path in paths {
        let Some(place) = existing(rootfs, path).map_err(|source| PathError::Mask {
            path: path.clone(),
            source,
        })?
        else {
            continue;
        };
        covers.put(&place).map_err(|source| PathError::Mask {
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Makes each path that exists read-only: what was resolved is what is bound over itself.
pub(crate) fn make_read_only(rootfs: &Rootfs, paths: &[PathBuf]) -> Result<(), PathError> {
    for path in paths {
        let protect = || -> io::Result<()> {
            let Some(place) = existing(rootfs, path)? else {
                return Ok(());
            };
            let tree = clone_tree(&place)?;
            mount_attr::set(tree.as_fd(), Reach::Mount, MountAttr::new(RDONLY, 0))?;
            attach(&tree, &place)
        };
        protect().map_err(|source| PathError::ReadOnly {
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

fn existing(rootfs: &Rootfs, path: &Path) -> io::Result<Option<OwnedFd>> {
    match rootfs.open(path) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            _ => Err(error),
        },
    }
}

/// What paths are covered with. The first cover of each kind is attached as it was made, the next
/// are clones of it: one superblock serves all directories, and takes its time to die only once.
struct Covers<'a> {
    /// `linux.mountLabel`.
    label: Option<&'a str>,
    dir: Option<OwnedFd>,
    null: Option<OwnedFd>,
}

impl Covers<'_> {
    fn put(&mut self, place: &OwnedFd) -> io::Result<()> {
        let is_dir = file_type(place)? == FileType::Directory;
        let cover = if is_dir {
            &mut self.dir
        } else {
            &mut self.null
        };
        match cover {
            Some(attached) => attach(&clone_mount(attached)?, place),
            None => {
                let first = if is_dir {
                    empty_read_only(self.label)?
                } else {
                    null_device()?
                };
                attach(&first, place)?;
                *cover = Some(first);
                Ok(())
            }
        }
    }
}

/// The host's null device, verified to be it.
fn null_device() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = openat(CWD, c"/dev/null", flags, Mode::empty())?;
    let stat = fstat(&null)?;
    let is_char = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_char || (major(stat.st_rdev), minor(stat.st_rdev)) != (1, 3) {
        return Err(io::Error::other(
            "the host's /dev/null is not the null device",
        ));
    }
    clone_mount(&null)
}
