//! File attributes: as the host has them, and as the guest is told.

use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};
use rustix::io::Errno;

use super::wire::Attr;

/// How long the guest may believe what it was told of a file or name.
///
/// The host, or another container, may change what is below an export at any time and cannot
/// tell the guest so: a second bounds how long the guest can be wrong about attributes and names,
/// and still saves most of the round trips of a path walk. Data is fresher (see
/// `FOPEN_KEEP_CACHE` in `passthrough/open.rs`). Names that do not exist are not cached.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);

/// Reads the attributes of an open (also `O_PATH`) file.
pub(super) fn stat(file: BorrowedFd<'_>) -> Result<Statx, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted)
}

/// The type in a mode.
pub(super) fn file_type(stat: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(stat.stx_mode))
}

/// Tells the guest of attributes; `space` comes from [`InodeSpaces`].
pub(super) fn to_wire(stat: &Statx, space: InodeSpace) -> Attr {
    Attr {
        ino: space.ino(stat.stx_ino),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: stat.stx_atime.tv_sec.cast_unsigned(),
        mtime: stat.stx_mtime.tv_sec.cast_unsigned(),
        ctime: stat.stx_ctime.tv_sec.cast_unsigned(),
        atimensec: stat.stx_atime.tv_nsec,
        mtimensec: stat.stx_mtime.tv_nsec,
        ctimensec: stat.stx_ctime.tv_nsec,
        mode: u32::from(stat.stx_mode),
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: encode_device(stat.stx_rdev_major, stat.stx_rdev_minor),
        blksize: stat.stx_blksize,
        flags: 0,
    }
}

/// `new_encode_dev` of `include/linux/kdev_t.h`.
pub(super) fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// `new_decode_dev` of `include/linux/kdev_t.h`: major and minor.
pub(super) fn decode_device(device: u32) -> (u32, u32) {
    (
        (device & 0xf_ff00) >> 8,
        (device & 0xff) | ((device >> 12) & 0xf_ff00),
    )
}

/// Which of the host's file systems an inode number belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InodeSpace(u8);

impl InodeSpace {
    /// The space of the synthetic root directory.
    pub(super) const ROOT: Self = Self(u8::MAX);

    /// The number the guest sees.
    pub(super) fn ino(self, host: u64) -> u64 {
        host ^ (u64::from(self.0) << 56)
    }
}

/// Keeps inode numbers of different host file systems apart.
///
/// The guest sees one device number for all exports and for what is mounted below them, and its
/// programs take (device, inode) to name a file. So, as overlayfs does with `xino`, the highest
/// byte of the number names the file system; the first one seen keeps its numbers as they are.
/// (Announcing each as a sub-mount, `FUSE_ATTR_SUBMOUNT`, would give each a device number of its
/// own, but also a second inode, with a page cache of its own, to whoever reaches the directory
/// without triggering the automount.)
#[derive(Debug, Default)]
pub(super) struct InodeSpaces {
    devices: Mutex<Vec<(u32, u32)>>,
}

impl InodeSpaces {
    /// The space of the file system that `stat` was read from.
    pub(super) fn of(&self, stat: &Statx) -> InodeSpace {
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let known = devices.iter().position(|&known| known == device);
        let index = known.unwrap_or_else(|| {
            devices.push(device);
            devices.len() - 1
        });
        // Beyond 254 file systems the rest share one space, and may collide in it.
        InodeSpace(u8::try_from(index).unwrap_or(u8::MAX - 1).min(u8::MAX - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_wire() {
        for (major, minor) in [(0, 0), (1, 3), (8, 17), (259, 1 << 19), (4095, 0xf_ffff)] {
            assert_eq!(decode_device(encode_device(major, minor)), (major, minor));
        }
    }
}
