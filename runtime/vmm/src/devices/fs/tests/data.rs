//! OPEN, CREATE, READ, WRITE and what else moves data.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::devices::fs::wire::{
    CopyFileRangeIn, FOPEN_KEEP_CACHE, FallocateIn, FsyncIn, GETATTR_FH, LseekIn, LseekOut,
    OPEN_KILL_SUIDGID, WRITE_KILL_SUIDGID, fattr,
};

#[test]
fn what_is_written_is_read_back_at_any_size_and_offset() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let (_, open) = guest
        .create(guest.share, "file", libc::O_RDWR, 0o600)
        .unwrap();
    let data: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
    for (offset, size) in [(0, 1), (1, 4095), (4096, 1 << 20), (3 << 20, 70_000)] {
        assert_eq!(
            guest.write(open, offset, &data[..size]).unwrap() as usize,
            size
        );
        assert!(
            guest.read(open, offset, size).unwrap() == data[..size],
            "{offset} {size}"
        );
    }
    assert!(
        guest.read(open, 2 << 20, 100).unwrap() == [0; 100],
        "a hole"
    );
    let end = (3 << 20) + 70_000;
    assert_eq!(
        guest.read(open, end - 10, 4096).unwrap().len(),
        10,
        "short at the end"
    );
    assert!(guest.read(open, end, 4096).unwrap().is_empty());
    assert!(guest.read(open, u64::MAX, 4096).is_err());
    guest.release(open).unwrap();
    assert_eq!(guest.read(open, 0, 1).unwrap_err(), Errno::BADF);
    assert_eq!(guest.release(open).unwrap_err(), Errno::BADF);
}

#[test]
fn a_write_is_refused_when_its_size_is_not_what_was_sent() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let (_, open) = guest
        .create(guest.share, "file", libc::O_RDWR, 0o600)
        .unwrap();
    for size in [0, 3, 5, u32::MAX] {
        let args = WriteIn {
            fh: open.fh,
            size,
            ..WriteIn::default()
        };
        let answer = guest.get::<WriteOut>(opcode::WRITE, open.node, &[args.as_bytes(), b"four"]);
        assert_eq!(answer.unwrap_err(), Errno::INVAL, "{size}");
    }
    let too_much = vec![0; (1 << 20) + 1];
    assert_eq!(guest.write(open, 0, &too_much).unwrap_err(), Errno::TOOBIG);
    assert_eq!(std::fs::metadata(guest.host("file")).unwrap().len(), 0);
}

#[test]
fn a_read_fills_no_more_than_the_driver_gave_room_for() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.host("file"), [7; 10_000]).unwrap();
    let node = guest.find("file").nodeid;
    let open = guest.open(node, libc::O_RDONLY).unwrap();
    let args = ReadIn {
        fh: open.fh,
        size: u32::MAX,
        ..ReadIn::default()
    };
    let body = guest
        .request(opcode::READ, node, &[args.as_bytes()], 100)
        .unwrap();
    assert_eq!(body, [7; 100]);
}

#[test]
fn appending_goes_to_the_end_whatever_the_offset_until_the_guest_unsets_it() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.host("file"), b"12345").unwrap();
    let node = guest.find("file").nodeid;
    let mut open = guest.open(node, libc::O_WRONLY | libc::O_APPEND).unwrap();
    guest.write(open, 0, b"67").unwrap();
    assert_eq!(std::fs::read(guest.host("file")).unwrap(), b"1234567");
    open.flags = libc::O_WRONLY.cast_unsigned();
    guest.write(open, 0, b"ab").unwrap();
    assert_eq!(std::fs::read(guest.host("file")).unwrap(), b"ab34567");
    open.flags = (libc::O_WRONLY | libc::O_APPEND).cast_unsigned();
    guest.write(open, 0, b"8").unwrap();
    assert_eq!(std::fs::read(guest.host("file")).unwrap(), b"ab345678");
}

#[test]
fn opening_truncates_when_asked_and_only_then() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.host("file"), b"12345").unwrap();
    let node = guest.find("file").nodeid;
    guest.open(node, libc::O_RDWR).unwrap();
    assert_eq!(std::fs::metadata(guest.host("file")).unwrap().len(), 5);
    guest.open(node, libc::O_RDWR | libc::O_TRUNC).unwrap();
    assert_eq!(std::fs::metadata(guest.host("file")).unwrap().len(), 0);
    // O_CREAT, O_TMPFILE and O_PATH in an OPEN mean nothing to the host.
    guest
        .open(
            node,
            libc::O_RDONLY | libc::O_CREAT | libc::O_EXCL | libc::O_DIRECT,
        )
        .unwrap();
    assert_eq!(guest.open(node, libc::O_ACCMODE).unwrap_err(), Errno::INVAL);
    assert_eq!(
        guest.open(guest.share, libc::O_RDONLY).unwrap_err(),
        Errno::ISDIR
    );
    assert_eq!(guest.opendir(node).unwrap_err(), Errno::NOTDIR);
}

#[test]
fn create_makes_a_file_and_never_opens_one_that_is_there() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.folder.0.join("outside"), b"secret").unwrap();
    std::fs::write(guest.host("file"), b"12345").unwrap();
    std::os::unix::fs::symlink("../outside", guest.host("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        guest.host("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    for name in ["file", "link", "fifo"] {
        let flags = libc::O_RDWR | libc::O_TRUNC;
        let lost = guest.create(guest.share, name, flags, 0o666).unwrap_err();
        assert_eq!(lost, Errno::STALE, "the guest looks {name} up again");
        let exclusive = guest
            .create(guest.share, name, flags | libc::O_EXCL, 0o666)
            .unwrap_err();
        assert_eq!(exclusive, Errno::EXIST, "{name}");
    }
    assert_eq!(std::fs::read(guest.host("file")).unwrap(), b"12345");
    assert_eq!(
        std::fs::read(guest.folder.0.join("outside")).unwrap(),
        b"secret"
    );
    let (entry, open) = guest
        .create(guest.share, "new", libc::O_WRONLY, 0o444)
        .unwrap();
    assert_eq!(entry.nodeid, guest.find("new").nodeid);
    assert_eq!(guest.write(open, 0, b"fine").unwrap(), 4);
}

#[test]
fn an_unlinked_file_works_while_it_is_open_or_known() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let (entry, open) = guest
        .create(guest.share, "file", libc::O_RDWR, 0o600)
        .unwrap();
    guest.write(open, 0, b"still here").unwrap();
    guest
        .done(opcode::UNLINK, guest.share, &[&nul("file")])
        .unwrap();
    assert_eq!(guest.lookup(guest.share, "file").unwrap_err(), Errno::NOENT);
    assert_eq!(guest.read(open, 0, 100).unwrap(), b"still here");
    let by_file = GetattrIn {
        getattr_flags: GETATTR_FH,
        dummy: 0,
        fh: open.fh,
    };
    let attr: AttrOut = guest
        .get(opcode::GETATTR, entry.nodeid, &[by_file.as_bytes()])
        .unwrap();
    assert_eq!((attr.attr.nlink, attr.attr.size), (0, 10));
    let size = SetattrIn {
        valid: fattr::SIZE | fattr::FH,
        fh: open.fh,
        size: 5,
        ..SetattrIn::default()
    };
    assert_eq!(guest.setattr(entry.nodeid, size).unwrap().size, 5);
    guest.release(open).unwrap();
    // fstat(2) and fchmod(2) of an O_PATH descriptor, a FIFO or a working directory.
    assert_eq!(guest.getattr(entry.nodeid).unwrap().nlink, 0);
    guest.forget(entry.nodeid, 10);
    assert_eq!(guest.getattr(entry.nodeid).unwrap_err(), Errno::STALE);
    assert_eq!(
        descriptors_below(&guest.folder.0.join(SHARE).join("file (deleted)")),
        0
    );
}

#[test]
fn a_removed_or_replaced_file_stays_usable_by_its_inode() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let directory = guest
        .mkdir(guest.share, "directory", 0o755, 0)
        .unwrap()
        .nodeid;
    guest
        .done(opcode::RMDIR, guest.share, &[&nul("directory")])
        .unwrap();
    assert_eq!(guest.getattr(directory).unwrap().nlink, 0);
    assert_eq!(guest.lookup(directory, "x").unwrap_err(), Errno::NOENT);

    guest
        .create(guest.share, "new", libc::O_RDWR, 0o600)
        .unwrap();
    let (old, _) = guest
        .create(guest.share, "old", libc::O_RDWR, 0o600)
        .unwrap();
    let rename = wire::RenameIn {
        newdir: guest.share,
    };
    let args: [&[u8]; 3] = [rename.as_bytes(), &nul("new"), &nul("old")];
    guest.done(opcode::RENAME, guest.share, &args).unwrap();
    assert_eq!(guest.getattr(old.nodeid).unwrap().nlink, 0);
}

#[test]
fn an_inode_number_used_again_by_the_host_is_another_inode() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let mut seen = std::collections::HashMap::new();
    for round in 0..50 {
        std::fs::write(guest.host("file"), b"").unwrap();
        let entry = guest.find("file");
        assert_eq!(
            seen.insert(entry.nodeid, round),
            None,
            "inode {}",
            entry.attr.ino
        );
        std::fs::remove_file(guest.host("file")).unwrap();
    }
}

#[test]
fn writing_clears_set_id_bits_as_the_guest_says() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let (entry, open) = guest
        .create(guest.share, "file", libc::O_RDWR, 0o755)
        .unwrap();
    let path = guest.host("file");
    let set = || std::fs::set_permissions(&path, PermissionsExt::from_mode(0o6755)).unwrap();
    let mode = || std::fs::metadata(&path).unwrap().mode() & 0o7777;
    set();
    guest.write_with(open, 0, b"x", 0).unwrap();
    assert_eq!(mode(), 0o6755, "the writer has CAP_FSETID");
    guest.write_with(open, 0, b"x", WRITE_KILL_SUIDGID).unwrap();
    assert_eq!(mode(), 0o755);
    set();
    guest
        .open_out(
            entry.nodeid,
            libc::O_RDWR | libc::O_TRUNC,
            OPEN_KILL_SUIDGID,
        )
        .unwrap();
    assert_eq!(mode(), 0o755);
    set();
    let size = |kill| SetattrIn {
        valid: fattr::SIZE | kill,
        size: 1,
        ..SetattrIn::default()
    };
    guest.setattr(entry.nodeid, size(0)).unwrap();
    assert_eq!(mode(), 0o6755);
    guest
        .setattr(entry.nodeid, size(fattr::KILL_SUIDGID))
        .unwrap();
    assert_eq!(mode(), 0o755);
    set();
    let owner = SetattrIn {
        valid: fattr::UID,
        uid: 5,
        ..SetattrIn::default()
    };
    guest.setattr(entry.nodeid, owner).unwrap();
    assert_eq!(mode(), 0o755);
}

#[test]
fn writing_drops_file_capabilities() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let (_, open) = guest
        .create(guest.share, "file", libc::O_RDWR, 0o755)
        .unwrap();
    // struct vfs_cap_data, revision 2: CAP_NET_RAW permitted.
    let mut capability = [0_u8; 20];
    capability[3] = 2;
    capability[5] = 0x20;
    let name = "security.capability";
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(guest.host("file"), name, &capability, flags).unwrap();
    guest.write(open, 0, b"x").unwrap();
    let left = rustix::fs::getxattr(guest.host("file"), name, &mut [0_u8; 64]);
    assert_eq!(left.unwrap_err(), Errno::NODATA);
}

#[test]
fn space_holes_syncs_and_copies() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let (_, open) = guest
        .create(guest.share, "file", libc::O_RDWR, 0o600)
        .unwrap();
    let (_, copy) = guest
        .create(guest.share, "copy", libc::O_RDWR, 0o600)
        .unwrap();
    let space = FallocateIn {
        fh: open.fh,
        length: 1 << 20,
        ..FallocateIn::default()
    };
    guest
        .done(opcode::FALLOCATE, open.node, &[space.as_bytes()])
        .unwrap();
    assert_eq!(
        std::fs::metadata(guest.host("file")).unwrap().len(),
        1 << 20
    );
    let strange = FallocateIn {
        mode: 1 << 31,
        ..space
    };
    assert!(
        guest
            .done(opcode::FALLOCATE, open.node, &[strange.as_bytes()])
            .is_err()
    );

    guest.write(open, 1 << 20, b"data").unwrap();
    let sync = FsyncIn {
        fh: open.fh,
        ..FsyncIn::default()
    };
    guest
        .done(opcode::FSYNC, open.node, &[sync.as_bytes()])
        .unwrap();
    guest.done(opcode::SYNCFS, ROOT_ID, &[&[0; 8]]).unwrap();
    let hole = LseekIn {
        fh: open.fh,
        whence: 4,
        ..LseekIn::default()
    };
    let found: LseekOut = guest
        .get(opcode::LSEEK, open.node, &[hole.as_bytes()])
        .unwrap();
    assert!(found.offset <= (1 << 20) + 4);
    for whence in [0, 1, 2, 5, u32::MAX] {
        let position = LseekIn { whence, ..hole };
        let answer = guest.get::<LseekOut>(opcode::LSEEK, open.node, &[position.as_bytes()]);
        assert_eq!(answer.unwrap_err(), Errno::INVAL);
    }
    let range = CopyFileRangeIn {
        fh_in: open.fh,
        off_in: 1 << 20,
        nodeid_out: copy.node,
        fh_out: copy.fh,
        off_out: 2,
        len: u64::MAX >> 1,
        flags: 0,
    };
    let copied: WriteOut = guest
        .get(opcode::COPY_FILE_RANGE, open.node, &[range.as_bytes()])
        .unwrap();
    assert_eq!(copied.size, 4);
    assert_eq!(std::fs::read(guest.host("copy")).unwrap(), b"\0\0data");
}

#[test]
fn a_cached_file_is_read_anew_after_the_host_changed_it_and_not_before() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.host("file"), b"one").unwrap();
    let node = guest.find("file").nodeid;
    let mut keeps = || {
        let (open, out) = guest.open_out(node, libc::O_RDONLY, 0).unwrap();
        guest.release(open).unwrap();
        out.open_flags & FOPEN_KEEP_CACHE != 0
    };
    assert!(!keeps(), "the first time");
    assert!(
        !keeps(),
        "so new that a second change could look like the first"
    );
    let old = std::time::Duration::from_millis(100);
    std::thread::sleep(old);
    keeps();
    assert!(keeps(), "unchanged");
    std::fs::write(guest.folder.0.join(SHARE).join("file"), b"two").unwrap();
    assert!(!keeps_after_change(&mut guest, node), "changed");
}

fn keeps_after_change(guest: &mut Guest, node: u64) -> bool {
    let (_, out) = guest.open_out(node, libc::O_RDONLY, 0).unwrap();
    out.open_flags & FOPEN_KEEP_CACHE != 0
}

#[test]
fn a_file_without_a_name_can_be_made_and_linked() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let share = guest.share;
    let (entry, open) = guest
        .create_with(opcode::TMPFILE, share, "/", libc::O_RDWR, 0o640, 0)
        .unwrap();
    assert_eq!(entry.attr.nlink, 0);
    guest.write(open, 0, b"hidden").unwrap();
    assert_eq!(guest.getattr(entry.nodeid).unwrap().size, 6);
    let link = wire::LinkIn {
        oldnodeid: entry.nodeid,
    };
    let linked: EntryOut = guest
        .get(opcode::LINK, share, &[link.as_bytes(), &nul("shown")])
        .unwrap();
    assert_eq!(linked.attr.nlink, 1);
    assert_eq!(std::fs::read(guest.host("shown")).unwrap(), b"hidden");
}

#[test]
fn an_open_file_is_only_reached_by_its_own_inode() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let (_, open) = guest
        .create(guest.share, "file", libc::O_RDWR, 0o600)
        .unwrap();
    let (other, _) = guest
        .create(guest.share, "other", libc::O_RDWR, 0o600)
        .unwrap();
    let crossed = Open {
        node: other.nodeid,
        ..open
    };
    assert_eq!(guest.read(crossed, 0, 1).unwrap_err(), Errno::BADF);
    assert_eq!(guest.release(crossed).unwrap_err(), Errno::BADF);
    assert!(guest.read(open, 0, 1).is_ok());
}
