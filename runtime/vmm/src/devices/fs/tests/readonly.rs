//! A read-only export, whatever the guest's kernel believes.

use super::*;
use crate::devices::fs::wire::{LinkIn, Rename2In, RenameIn, SetxattrIn};

#[test]
fn nothing_in_a_read_only_export_can_be_changed() {
    let Some(mut guest) = Guest::mounted_with(true) else {
        return;
    };
    std::fs::write(guest.host("file"), b"12345").unwrap();
    std::fs::create_dir(guest.host("sub")).unwrap();
    let (share, node) = (guest.share, guest.find("file").nodeid);
    let rofs = Errno::ROFS;
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(guest.open(node, flags).unwrap_err(), rofs);
    }
    assert_eq!(
        guest.create(share, "new", libc::O_RDWR, 0o600).unwrap_err(),
        rofs
    );
    let tmpfile = guest.create_with(opcode::TMPFILE, share, "/", libc::O_RDWR, 0o600, 0);
    assert_eq!(tmpfile.unwrap_err(), rofs);
    assert_eq!(guest.mkdir(share, "new", 0o755, 0).unwrap_err(), rofs);
    assert_eq!(
        guest.mknod(share, "new", libc::S_IFIFO, 0).unwrap_err(),
        rofs
    );
    assert_eq!(guest.symlink(share, "new", "x").unwrap_err(), rofs);
    let link = LinkIn { oldnodeid: node };
    assert_eq!(
        guest
            .done(opcode::LINK, share, &[link.as_bytes(), &nul("new")])
            .unwrap_err(),
        rofs
    );
    assert_eq!(
        guest
            .done(opcode::UNLINK, share, &[&nul("file")])
            .unwrap_err(),
        rofs
    );
    assert_eq!(
        guest
            .done(opcode::RMDIR, share, &[&nul("sub")])
            .unwrap_err(),
        rofs
    );
    let names: [&[u8]; 2] = [&nul("file"), &nul("new")];
    let rename = RenameIn { newdir: share };
    let answer = guest.done(
        opcode::RENAME,
        share,
        &[rename.as_bytes(), names[0], names[1]],
    );
    assert_eq!(answer.unwrap_err(), rofs);
    let rename = Rename2In {
        newdir: share,
        ..Rename2In::default()
    };
    let answer = guest.done(
        opcode::RENAME2,
        share,
        &[rename.as_bytes(), names[0], names[1]],
    );
    assert_eq!(answer.unwrap_err(), rofs);
    for bit in 0..12 {
        let wanted = SetattrIn {
            valid: 1 << bit,
            ..SetattrIn::default()
        };
        assert_eq!(guest.setattr(node, wanted).unwrap_err(), rofs, "bit {bit}");
    }
    let value = SetxattrIn {
        size: 1,
        ..SetxattrIn::default()
    };
    let set = guest.done(
        opcode::SETXATTR,
        node,
        &[value.as_bytes(), &nul("user.x"), b"v"],
    );
    assert_eq!(set.unwrap_err(), rofs);
    assert_eq!(
        guest
            .done(opcode::REMOVEXATTR, node, &[&nul("user.x")])
            .unwrap_err(),
        rofs
    );
    assert_eq!(std::fs::read(guest.host("file")).unwrap(), b"12345");
    assert_eq!(std::fs::read_dir(guest.host(".")).unwrap().count(), 2);
}

#[test]
fn a_read_only_export_can_be_read_and_is_not_marked_as_read() {
    let Some(mut guest) = Guest::mounted_with(true) else {
        return;
    };
    std::fs::write(guest.host("file"), b"12345").unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5);
    let times = std::fs::FileTimes::new().set_accessed(old);
    File::options()
        .write(true)
        .open(guest.host("file"))
        .unwrap()
        .set_times(times)
        .unwrap();
    let node = guest.find("file").nodeid;
    let open = guest.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(guest.read(open, 0, 10).unwrap(), b"12345");
    assert_eq!(guest.write(open, 0, b"x").unwrap_err(), Errno::ROFS);
    assert_eq!(guest.getattr(node).unwrap().atime, 5);
    let sync = wire::FsyncIn {
        fh: open.fh,
        ..wire::FsyncIn::default()
    };
    guest.done(opcode::FSYNC, node, &[sync.as_bytes()]).unwrap();
}
