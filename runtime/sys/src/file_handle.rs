//! File handles: names of inodes that cost no descriptor. See open_by_handle_at(2).
//!
//! Unsafe code is allowed here because neither rustix nor nix has these two calls.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::OFlags;

/// `MAX_HANDLE_SZ` of `include/linux/exportfs.h`: no file system makes a longer handle.
const MAX_HANDLE_BYTES: u32 = 128;
/// Room for that many.
type HandleBytes = [u8; MAX_HANDLE_BYTES as usize];

/// `struct file_handle`, with room for the longest handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: libc::c_uint,
    handle_type: libc::c_int,
    f_handle: HandleBytes,
}

impl RawHandle {
    fn new(handle_bytes: u32, handle_type: libc::c_int) -> Self {
        Self {
            handle_bytes,
            handle_type,
            f_handle: [0; MAX_HANDLE_BYTES as usize],
        }
    }
}

/// Names one inode of one file system. Unlike an inode number it is not used again for another
/// file, because it holds the inode's generation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileHandle {
    kind: libc::c_int,
    bytes: Box<[u8]>,
}

impl FileHandle {
    /// The handle of the file that `file` (which may be an `O_PATH` descriptor) refers to.
    ///
    /// Fails with `EOPNOTSUPP` on file systems that have none, such as most overlays.
    pub fn of(file: BorrowedFd<'_>) -> io::Result<Self> {
        let mut raw = RawHandle::new(MAX_HANDLE_BYTES, 0);
        let mut mount_id: libc::c_int = 0;
        // SAFETY: the path is a constant C string; `raw` says by `handle_bytes` how much room
        // follows its header, and it and `mount_id` are ours to write until the call returns.
        let done = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                file.as_raw_fd(),
                c"".as_ptr(),
                &raw mut raw,
                &raw mut mount_id,
                libc::AT_EMPTY_PATH,
            )
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        let length = usize::try_from(raw.handle_bytes).unwrap_or(usize::MAX);
        let bytes = raw
            .f_handle
            .get(..length)
            .ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            kind: raw.handle_type,
            bytes: bytes.into(),
        })
    }

    /// Opens the file. `mount` is any descriptor but an `O_PATH` one on a mount of the handle's
    /// file system. Needs `CAP_DAC_READ_SEARCH`; fails with `ESTALE` when the file is gone.
    pub fn open(&self, mount: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
        let length = u32::try_from(self.bytes.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut raw = RawHandle::new(length, self.kind);
        raw.f_handle[..self.bytes.len()].copy_from_slice(&self.bytes);
        let flags = (flags | OFlags::CLOEXEC).bits().cast_signed();
        // SAFETY: `raw` outlives the call and holds `handle_bytes` bytes after its header.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                mount.as_raw_fd(),
                &raw mut raw,
                flags,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::c_int::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
        // SAFETY: the kernel has just given us this descriptor, so nothing else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_handle_opens_the_file_it_was_made_of_and_is_stale_once_that_is_gone() {
        let folder = std::env::temp_dir().join(format!("runvm-handle-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        let file = File::create(&path).unwrap();
        let mount = File::open(&folder).unwrap();
        let handle = match FileHandle::of(file.as_fd()) {
            Ok(handle) => handle,
            Err(error) => return println!("skipped: no file handles here: {error}"),
        };
        match handle.open(mount.as_fd(), OFlags::RDONLY) {
            Ok(opened) => {
                let inode = File::from(opened).metadata().unwrap().ino();
                assert_eq!(inode, file.metadata().unwrap().ino());
            }
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                return println!("skipped: needs CAP_DAC_READ_SEARCH");
            }
            Err(error) => panic!("{error}"),
        }
        drop(file);
        std::fs::remove_dir_all(&folder).unwrap();
        let gone = handle.open(mount.as_fd(), OFlags::PATH).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::ESTALE));
    }
}
