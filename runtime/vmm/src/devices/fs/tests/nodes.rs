//! Device nodes, FIFOs and sockets: made, shown, never opened.

use super::*;

#[test]
fn special_files_are_made_and_shown_as_nodes_and_never_opened_by_the_host() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let kinds = [
        (
            "zero",
            libc::S_IFCHR,
            crate::devices::fs::attr::encode_device(1, 5),
        ),
        (
            "disk",
            libc::S_IFBLK,
            crate::devices::fs::attr::encode_device(259, 70_000),
        ),
        ("fifo", libc::S_IFIFO, 0),
        ("socket", libc::S_IFSOCK, 0),
    ];
    for (name, kind, rdev) in kinds {
        let entry = match guest.mknod(guest.share, name, kind | 0o640, rdev) {
            Err(Errno::PERM) => return println!("skipped: needs CAP_MKNOD"),
            entry => entry.unwrap(),
        };
        assert_eq!(
            (entry.attr.mode, entry.attr.rdev),
            (kind | 0o640, rdev),
            "{name}"
        );
        // A FIFO opened by the host would wait for ever, a device would be the host's.
        for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR | libc::O_TRUNC] {
            assert_eq!(
                guest.open(entry.nodeid, flags).unwrap_err(),
                Errno::OPNOTSUPP,
                "{name}"
            );
        }
        assert_eq!(guest.opendir(entry.nodeid).unwrap_err(), Errno::NOTDIR);
        let size = SetattrIn {
            valid: wire::fattr::SIZE,
            ..SetattrIn::default()
        };
        assert_eq!(guest.setattr(entry.nodeid, size).unwrap_err(), Errno::INVAL);
        let mode = SetattrIn {
            valid: wire::fattr::MODE,
            mode: 0o600,
            ..SetattrIn::default()
        };
        assert_eq!(
            guest.setattr(entry.nodeid, mode).unwrap().mode,
            kind | 0o600
        );
        guest
            .done(opcode::UNLINK, guest.share, &[&nul(name)])
            .unwrap();
        assert_eq!(
            guest.getattr(entry.nodeid).unwrap().nlink,
            0,
            "{name} is still in use"
        );
    }
}

#[test]
fn a_fifo_put_in_a_files_place_is_not_opened() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let (entry, open) = guest
        .create(guest.share, "file", libc::O_RDWR, 0o600)
        .unwrap();
    guest.release(open).unwrap();
    std::fs::remove_file(guest.host("file")).unwrap();
    guest
        .mknod(guest.share, "file", libc::S_IFIFO | 0o600, 0)
        .unwrap();
    let open = guest.open(entry.nodeid, libc::O_RDWR);
    assert!(
        matches!(open, Err(Errno::STALE) | Ok(_)),
        "the old file or none: {open:?}"
    );
    let fifo = guest.find("file").nodeid;
    assert_eq!(
        guest.open(fifo, libc::O_RDWR).unwrap_err(),
        Errno::OPNOTSUPP
    );
}

#[test]
fn mknod_makes_regular_files_and_refuses_what_is_no_node() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let entry = guest
        .mknod(guest.share, "file", libc::S_IFREG | 0o604, 0)
        .unwrap();
    assert_eq!(entry.attr.mode, libc::S_IFREG | 0o604);
    for kind in [libc::S_IFDIR, libc::S_IFLNK, 0o030_000] {
        let answer = guest.mknod(guest.share, "odd", kind | 0o600, 0);
        assert_eq!(answer.unwrap_err(), Errno::INVAL, "{kind:o}");
    }
}
