//! The synthetic root, and exports that come and go.

use super::*;

#[test]
fn exports_appear_and_disappear_while_the_guest_runs() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    assert_eq!(guest.lookup(ROOT_ID, "later").unwrap_err(), Errno::NOENT);
    std::fs::create_dir(guest.folder.0.join("later")).unwrap();
    guest
        .exports
        .add("later", path_fd(&guest.folder.0.join("later")), false)
        .unwrap();
    let entry = guest.lookup(ROOT_ID, "later").unwrap();
    assert_eq!(
        (entry.entry_valid, entry.entry_valid_nsec),
        (0, 0),
        "names here are not cached"
    );
    let (_, open) = guest
        .create(entry.nodeid, "file", libc::O_RDWR, 0o600)
        .unwrap();

    guest.exports.remove("later").unwrap();
    assert_eq!(guest.lookup(ROOT_ID, "later").unwrap_err(), Errno::NOENT);
    assert_eq!(guest.getattr(entry.nodeid).unwrap_err(), Errno::STALE);
    assert_eq!(
        guest.lookup(entry.nodeid, "file").unwrap_err(),
        Errno::STALE
    );
    assert_eq!(guest.write(open, 0, b"x").unwrap_err(), Errno::BADF);
    assert_eq!(
        descriptors_below(&guest.folder.0.join("later")),
        0,
        "it can be unmounted"
    );
    assert!(guest.getattr(guest.share).is_ok(), "the other export stays");
}

#[test]
fn the_root_directory_cannot_be_changed() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    assert_eq!(
        guest.mkdir(ROOT_ID, "new", 0o755, 0).unwrap_err(),
        Errno::ROFS
    );
    assert_eq!(
        guest
            .create(ROOT_ID, "new", libc::O_RDWR, 0o644)
            .unwrap_err(),
        Errno::ROFS
    );
    assert_eq!(guest.symlink(ROOT_ID, "new", "x").unwrap_err(), Errno::ROFS);
    assert_eq!(
        guest.setattr(ROOT_ID, SetattrIn::default()).unwrap_err(),
        Errno::ROFS
    );
    assert_eq!(
        guest
            .done(opcode::RMDIR, ROOT_ID, &[&nul(SHARE)])
            .unwrap_err(),
        Errno::ROFS
    );
    assert_eq!(
        guest
            .done(opcode::UNLINK, ROOT_ID, &[&nul(SHARE)])
            .unwrap_err(),
        Errno::ROFS
    );
    let newdir = ROOT_ID;
    let rename = wire::RenameIn { newdir };
    let answer = guest.done(
        opcode::RENAME,
        guest.share,
        &[rename.as_bytes(), &nul("a"), &nul("b")],
    );
    assert_eq!(answer.unwrap_err(), Errno::ROFS);
    assert_eq!(guest.getattr(ROOT_ID).unwrap().mode, libc::S_IFDIR | 0o555);
    assert_eq!(
        guest.open(ROOT_ID, libc::O_RDONLY).unwrap_err(),
        Errno::ISDIR
    );
}

#[test]
fn a_single_file_can_be_exported() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.folder.0.join("single"), b"hello").unwrap();
    guest
        .exports
        .add("single", path_fd(&guest.folder.0.join("single")), false)
        .unwrap();
    let entry = guest.lookup(ROOT_ID, "single").unwrap();
    assert_eq!(entry.attr.mode & libc::S_IFMT, libc::S_IFREG);
    let open = guest.open(entry.nodeid, libc::O_RDWR).unwrap();
    assert_eq!(guest.read(open, 0, 100).unwrap(), b"hello");
    guest.write(open, 5, b" world").unwrap();
    assert_eq!(
        std::fs::read(guest.folder.0.join("single")).unwrap(),
        b"hello world"
    );
    assert_eq!(guest.lookup(entry.nodeid, "x").unwrap_err(), Errno::NOTDIR);
}

#[test]
fn one_directory_exported_twice_is_two_directories_with_their_own_rules() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    guest
        .exports
        .add("ro", path_fd(&guest.folder.0.join(SHARE)), true)
        .unwrap();
    let readonly = guest.lookup(ROOT_ID, "ro").unwrap().nodeid;
    assert_ne!(readonly, guest.share);
    let (made, _) = guest
        .create(guest.share, "file", libc::O_RDWR, 0o644)
        .unwrap();
    let seen = guest.lookup(readonly, "file").unwrap();
    assert_ne!(seen.nodeid, made.nodeid);
    assert_eq!(
        guest.open(seen.nodeid, libc::O_RDWR).unwrap_err(),
        Errno::ROFS
    );
    let rename = wire::RenameIn { newdir: readonly };
    let args: [&[u8]; 3] = [rename.as_bytes(), &nul("file"), &nul("moved")];
    assert_eq!(
        guest.done(opcode::RENAME, guest.share, &args).unwrap_err(),
        Errno::ROFS
    );
    std::fs::create_dir(guest.folder.0.join("other")).unwrap();
    guest
        .exports
        .add("other", path_fd(&guest.folder.0.join("other")), false)
        .unwrap();
    let other = guest.lookup(ROOT_ID, "other").unwrap().nodeid;
    let rename = wire::RenameIn { newdir: other };
    let args: [&[u8]; 3] = [rename.as_bytes(), &nul("file"), &nul("moved")];
    assert_eq!(
        guest.done(opcode::RENAME, guest.share, &args).unwrap_err(),
        Errno::XDEV
    );
    let link = wire::LinkIn {
        oldnodeid: made.nodeid,
    };
    let answer = guest.done(opcode::LINK, other, &[link.as_bytes(), &nul("linked")]);
    assert_eq!(answer.unwrap_err(), Errno::XDEV);
}

#[test]
fn files_of_different_host_file_systems_have_different_inode_numbers() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    guest
        .exports
        .add("proc", path_fd(Path::new("/proc")), true)
        .unwrap();
    let share = guest.getattr(guest.share).unwrap().ino;
    let host = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(guest.host(".")).unwrap());
    assert_eq!(share, host, "the first file system keeps its numbers");
    let proc = guest.lookup(ROOT_ID, "proc").unwrap();
    assert_eq!(proc.attr.ino >> 56, 1);
    let root = guest.getattr(ROOT_ID).unwrap().ino;
    assert!(root != share && root != proc.attr.ino);
}
