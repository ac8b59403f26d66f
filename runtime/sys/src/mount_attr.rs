//! mount_setattr(2), which rustix does not have.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// Read-only.
pub const RDONLY: u64 = 0x0000_0001;
/// No set-user-id, set-group-id or file capabilities.
pub const NOSUID: u64 = 0x0000_0002;
/// No device nodes.
pub const NODEV: u64 = 0x0000_0004;
/// No execve.
pub const NOEXEC: u64 = 0x0000_0008;
/// The field that holds the access time mode; it must be cleared whole when one is set.
pub const ATIME_FIELD: u64 = 0x0000_0070;
/// The mount's ids are mapped by a user namespace.
pub const IDMAP: u64 = 0x0010_0000;

/// Changes to a mount. Layout: `struct mount_attr` (linux/mount.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear, before `set` is set.
    pub clear: u64,
    /// One of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0.
    pub propagation: u64,
    userns_fd: u64,
}

impl MountAttr {
    /// Attributes to set and to clear; when an access time mode is among them, its whole field
    /// is cleared first, as the kernel demands.
    pub fn new(set: u64, clear: u64) -> Self {
        let field = if (set | clear) & ATIME_FIELD != 0 {
            ATIME_FIELD
        } else {
            0
        };
        Self {
            set,
            clear: clear | field,
            ..Self::default()
        }
    }

    /// A change of propagation alone: one of `libc::MS_{PRIVATE,SLAVE,SHARED,UNBINDABLE}`.
    pub fn propagation(kind: u64) -> Self {
        Self {
            propagation: kind,
            ..Self::default()
        }
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Which mounts a change is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The one mount.
    Mount,
    /// The mount and all below it.
    Tree,
}

/// Changes the mount whose root `mount` is. `mount` may be detached.
pub fn set(mount: BorrowedFd<'_>, reach: Reach, attr: MountAttr) -> io::Result<()> {
    set_raw(mount.as_fd().as_raw_fd(), c"", reach, attr)
}

/// Changes the mount whose root is at the absolute `path`.
pub fn set_at_path(path: &CStr, reach: Reach, attr: MountAttr) -> io::Result<()> {
    set_raw(libc::AT_FDCWD, path, reach, attr)
}

/// Gives the detached mount `mount` the id mapping of the user namespace `userns`.
pub fn set_idmap(mount: BorrowedFd<'_>, reach: Reach, userns: BorrowedFd<'_>) -> io::Result<()> {
    let attr = MountAttr {
        set: IDMAP,
        userns_fd: u64::from(userns.as_raw_fd().unsigned_abs()),
        ..MountAttr::default()
    };
    set_raw(mount.as_raw_fd(), c"", reach, attr)
}

fn set_raw(dir: RawFd, path: &CStr, reach: Reach, attr: MountAttr) -> io::Result<()> {
    let recursive = match reach {
        Reach::Mount => 0,
        Reach::Tree => libc::AT_RECURSIVE,
    };
    // SAFETY: `path` is terminated, `attr` has the kernel's layout and its size is passed; both
    // outlive the call, which writes to neither.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir,
            path.as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_time_mode_clears_its_whole_field() {
        const NOATIME: u64 = 0x10;
        assert_eq!(MountAttr::new(NOATIME, 0).clear, ATIME_FIELD);
        assert_eq!(MountAttr::new(RDONLY, NODEV).clear, NODEV);
    }
}
