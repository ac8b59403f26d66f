//! GETATTR, SETATTR, STATFS.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::devices::fs::wire::{Statfs, fattr};

#[test]
fn attributes_are_the_hosts() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.host("file"), b"12345").unwrap();
    std::os::unix::fs::chown(guest.host("file"), Some(1234), Some(4321)).unwrap();
    std::fs::set_permissions(guest.host("file"), PermissionsExt::from_mode(0o4751)).unwrap();
    let host = std::fs::metadata(guest.host("file")).unwrap();
    let attr = guest.find("file").attr;
    assert_eq!(
        (attr.size, attr.mode, attr.nlink),
        (5, libc::S_IFREG | 0o4751, 1)
    );
    assert_eq!((attr.uid, attr.gid, attr.ino), (1234, 4321, host.ino()));
    assert_eq!(attr.mtime.cast_signed(), host.mtime());
    assert_eq!(i64::from(attr.mtimensec), host.mtime_nsec());
}

#[test]
fn mode_owner_size_and_times_can_be_set() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.host("file"), b"12345").unwrap();
    let node = guest.find("file").nodeid;
    let valid = fattr::MODE | fattr::SIZE | fattr::ATIME | fattr::MTIME | fattr::UID | fattr::GID;
    let wanted = SetattrIn {
        valid,
        size: 3,
        mode: 0o2640,
        uid: 7,
        gid: 8,
        atime: 1_000_000_000,
        atimensec: 5,
        mtime: (-5_i64).cast_unsigned(),
        mtimensec: 999_999_999,
        ..SetattrIn::default()
    };
    let attr = guest.setattr(node, wanted).unwrap();
    assert_eq!((attr.size, attr.uid, attr.gid), (3, 7, 8));
    assert_eq!((attr.atime, attr.atimensec), (1_000_000_000, 5));
    let host = std::fs::metadata(guest.host("file")).unwrap();
    assert_eq!((host.mtime(), host.mtime_nsec()), (-5, 999_999_999));
    assert_eq!(std::fs::read(guest.host("file")).unwrap(), b"123");
}

#[test]
fn one_owner_alone_can_be_set_and_no_id_is_no_owner() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.host("file"), b"").unwrap();
    let node = guest.find("file").nodeid;
    let group = SetattrIn {
        valid: fattr::GID,
        uid: 99,
        gid: 5,
        ..SetattrIn::default()
    };
    let attr = guest.setattr(node, group).unwrap();
    assert_eq!((attr.uid, attr.gid), (0, 5));
    let nobody = SetattrIn {
        valid: fattr::UID,
        uid: u32::MAX,
        ..SetattrIn::default()
    };
    assert_eq!(guest.setattr(node, nobody).unwrap_err(), Errno::INVAL);
}

#[test]
fn times_can_be_now_or_left_alone_but_not_out_of_range() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.host("file"), b"").unwrap();
    let node = guest.find("file").nodeid;
    let valid = fattr::ATIME | fattr::MTIME;
    guest
        .setattr(
            node,
            SetattrIn {
                valid,
                atime: 1,
                mtime: 2,
                ..SetattrIn::default()
            },
        )
        .unwrap();
    let valid = fattr::MTIME | fattr::MTIME_NOW;
    let attr = guest
        .setattr(
            node,
            SetattrIn {
                valid,
                ..SetattrIn::default()
            },
        )
        .unwrap();
    assert_eq!(attr.atime, 1);
    assert!(attr.mtime > 1_600_000_000);
    // UTIME_OMIT and UTIME_NOW in the kernel's own numbers, and one nanosecond too many.
    for nsec in [(1 << 30) - 2, (1 << 30) - 1, 1_000_000_000, u32::MAX] {
        let wanted = SetattrIn {
            valid: fattr::MTIME,
            mtimensec: nsec,
            ..SetattrIn::default()
        };
        assert_eq!(
            guest.setattr(node, wanted).unwrap_err(),
            Errno::INVAL,
            "{nsec}"
        );
    }
}

#[test]
fn truncating_works_by_inode_and_by_open_file_and_only_on_files() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let (entry, open) = guest
        .create(guest.share, "file", libc::O_RDWR, 0o400)
        .unwrap();
    let size = |fh: Option<u64>, size| SetattrIn {
        valid: fattr::SIZE | if fh.is_some() { fattr::FH } else { 0 },
        fh: fh.unwrap_or(0),
        size,
        ..SetattrIn::default()
    };
    assert_eq!(
        guest.setattr(entry.nodeid, size(None, 10)).unwrap().size,
        10
    );
    assert_eq!(
        guest
            .setattr(entry.nodeid, size(Some(open.fh), 20))
            .unwrap()
            .size,
        20
    );
    assert_eq!(
        guest.setattr(entry.nodeid, size(Some(99), 1)).unwrap_err(),
        Errno::BADF
    );
    assert_eq!(
        guest
            .setattr(entry.nodeid, size(None, u64::MAX))
            .unwrap_err(),
        Errno::INVAL
    );
    assert_eq!(
        guest.setattr(guest.share, size(None, 0)).unwrap_err(),
        Errno::ISDIR
    );
    let link = guest.symlink(guest.share, "link", "file").unwrap().nodeid;
    assert_eq!(
        guest.setattr(link, size(None, 0)).unwrap_err(),
        Errno::INVAL
    );
    assert_eq!(std::fs::metadata(guest.host("file")).unwrap().len(), 20);
}

#[test]
fn a_symbolic_links_own_attributes_are_set_not_its_targets() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.host("target"), b"").unwrap();
    let link = guest.symlink(guest.share, "link", "target").unwrap().nodeid;
    let valid = fattr::UID | fattr::MTIME;
    let attr = guest.setattr(
        link,
        SetattrIn {
            valid,
            uid: 42,
            mtime: 77,
            ..SetattrIn::default()
        },
    );
    let attr = attr.unwrap();
    assert_eq!(
        (attr.uid, attr.mtime, attr.mode & libc::S_IFMT),
        (42, 77, libc::S_IFLNK)
    );
    let target = std::fs::metadata(guest.host("target")).unwrap();
    assert!(target.uid() == 0 && target.mtime() != 77);
}

#[test]
fn the_file_systems_numbers_are_the_hosts() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let ours: Statfs = guest.get(opcode::STATFS, guest.share, &[]).unwrap();
    let host = rustix::fs::statvfs(guest.host(".")).unwrap();
    assert_eq!(
        (ours.blocks, u64::from(ours.bsize)),
        (host.f_blocks, host.f_bsize)
    );
    assert_eq!(u64::from(ours.namelen), host.f_namemax);
    let root: Statfs = guest.get(opcode::STATFS, ROOT_ID, &[]).unwrap();
    assert_eq!(root.blocks, 0);
}
