//! Names: LOOKUP, links, RENAME, removal.

use super::*;
use crate::devices::fs::wire::{LinkIn, Rename2In};

impl Guest {
    fn rename2(&mut self, from: (u64, &str), to: (u64, &str), flags: u32) -> Result<(), Errno> {
        let args = Rename2In {
            newdir: to.0,
            flags,
            padding: 0,
        };
        self.done(
            opcode::RENAME2,
            from.0,
            &[args.as_bytes(), &nul(from.1), &nul(to.1)],
        )
    }
}

#[test]
fn no_name_leads_out_of_its_directory() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.folder.0.join("outside"), b"secret").unwrap();
    std::fs::create_dir(guest.host("sub")).unwrap();
    let sub = guest.find("sub").nodeid;
    for name in ["..", ".", "", "/", "../outside", "sub/..", "/etc", "a/b"] {
        for parent in [ROOT_ID, guest.share, sub] {
            assert_eq!(
                guest.lookup(parent, name).unwrap_err(),
                Errno::INVAL,
                "{name:?}"
            );
            assert!(guest.mkdir(parent, name, 0o755, 0).is_err(), "{name:?}");
            assert!(
                guest.create(parent, name, libc::O_RDWR, 0o600).is_err(),
                "{name:?}"
            );
            assert!(guest.symlink(parent, name, "x").is_err(), "{name:?}");
            assert!(
                guest.done(opcode::UNLINK, parent, &[&nul(name)]).is_err(),
                "{name:?}"
            );
            assert!(
                guest.done(opcode::RMDIR, parent, &[&nul(name)]).is_err(),
                "{name:?}"
            );
        }
        let share = guest.share;
        std::fs::write(guest.host("file"), b"").unwrap();
        assert_eq!(
            guest
                .rename2((share, "file"), (share, name), 0)
                .unwrap_err(),
            Errno::INVAL
        );
        assert_eq!(
            guest
                .rename2((share, name), (share, "file"), 0)
                .unwrap_err(),
            Errno::INVAL
        );
    }
    assert_eq!(
        guest.lookup(guest.share, &"x".repeat(256)).unwrap_err(),
        Errno::NAMETOOLONG
    );
    let unterminated = guest.get::<EntryOut>(opcode::LOOKUP, guest.share, &[b"file"]);
    assert_eq!(unterminated.unwrap_err(), Errno::INVAL);
}

#[test]
fn a_symbolic_link_is_told_and_never_followed() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.folder.0.join("outside"), b"secret").unwrap();
    let outside = guest.folder.0.join("outside");
    for (name, target) in [
        ("relative", "../outside"),
        ("absolute", outside.to_str().unwrap()),
    ] {
        let entry = guest.symlink(guest.share, name, target).unwrap();
        assert_eq!(entry.attr.mode & libc::S_IFMT, libc::S_IFLNK);
        let told = guest
            .request(opcode::READLINK, entry.nodeid, &[], 4096)
            .unwrap();
        assert_eq!(told, target.as_bytes());
        assert_eq!(guest.find(name).nodeid, entry.nodeid);
        assert_eq!(
            guest.open(entry.nodeid, libc::O_RDONLY).unwrap_err(),
            Errno::OPNOTSUPP
        );
        assert_eq!(guest.opendir(entry.nodeid).unwrap_err(), Errno::NOTDIR);
        assert_eq!(guest.lookup(entry.nodeid, "x").unwrap_err(), Errno::NOTDIR);
        let mode = SetattrIn {
            valid: wire::fattr::MODE,
            mode: 0,
            ..SetattrIn::default()
        };
        assert!(guest.setattr(entry.nodeid, mode).is_err());
    }
    let parent = guest.symlink(guest.share, "parent", "..").unwrap();
    assert!(guest.lookup(parent.nodeid, "outside").is_err());
    let kept = std::os::unix::fs::PermissionsExt::mode(&outside.metadata().unwrap().permissions());
    assert_eq!(kept & 0o777, 0o644);
    assert_eq!(std::fs::read(outside).unwrap(), b"secret");
}

#[test]
fn hard_links_are_names_of_one_file() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let (entry, _) = guest
        .create(guest.share, "file", libc::O_RDWR, 0o600)
        .unwrap();
    let sub = guest.mkdir(guest.share, "sub", 0o755, 0).unwrap().nodeid;
    let link = LinkIn {
        oldnodeid: entry.nodeid,
    };
    let args: [&[u8]; 2] = [link.as_bytes(), &nul("linked")];
    let linked: EntryOut = guest.get(opcode::LINK, sub, &args).unwrap();
    assert_eq!((linked.nodeid, linked.attr.nlink), (entry.nodeid, 2));
    assert_eq!(
        guest.get::<EntryOut>(opcode::LINK, sub, &args).unwrap_err(),
        Errno::EXIST
    );
    let symlink = guest.symlink(guest.share, "symlink", "nowhere").unwrap();
    let link = LinkIn {
        oldnodeid: symlink.nodeid,
    };
    let linked: EntryOut = guest
        .get(opcode::LINK, sub, &[link.as_bytes(), &nul("s")])
        .unwrap();
    assert_eq!(
        linked.nodeid, symlink.nodeid,
        "the link itself, not what it points to"
    );
    let link = LinkIn { oldnodeid: sub };
    let answer = guest.get::<EntryOut>(opcode::LINK, sub, &[link.as_bytes(), &nul("d")]);
    assert_eq!(answer.unwrap_err(), Errno::PERM);
}

#[test]
fn renaming_replaces_refuses_or_exchanges_as_it_is_told() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let share = guest.share;
    let sub = guest.mkdir(share, "sub", 0o755, 0).unwrap().nodeid;
    std::fs::write(guest.host("a"), b"a").unwrap();
    std::fs::write(guest.host("sub/b"), b"b").unwrap();
    let (no_replace, exchange, whiteout) = (1, 2, 4);
    let refused = guest
        .rename2((share, "a"), (sub, "b"), no_replace)
        .unwrap_err();
    assert_eq!(refused, Errno::EXIST);
    guest.rename2((share, "a"), (sub, "b"), exchange).unwrap();
    assert_eq!(std::fs::read(guest.host("a")).unwrap(), b"b");
    assert_eq!(std::fs::read(guest.host("sub/b")).unwrap(), b"a");
    guest.rename2((share, "a"), (sub, "b"), 0).unwrap();
    assert_eq!(std::fs::read(guest.host("sub/b")).unwrap(), b"b");
    assert!(!guest.host("a").exists());
    guest.rename2((sub, "b"), (share, "c"), whiteout).unwrap();
    assert_eq!(guest.lookup(sub, "b").unwrap().attr.rdev, 0);
    assert_eq!(
        guest.lookup(sub, "b").unwrap().attr.mode & libc::S_IFMT,
        libc::S_IFCHR
    );
    assert_eq!(
        guest.rename2((share, "c"), (share, "d"), 8).unwrap_err(),
        Errno::INVAL
    );
    assert_eq!(
        guest.rename2((share, "sub"), (sub, "x"), 0).unwrap_err(),
        Errno::INVAL
    );
    assert_eq!(
        guest.rename2((share, "none"), (sub, "x"), 0).unwrap_err(),
        Errno::NOENT
    );
}

#[test]
fn an_inode_follows_its_file_through_renames() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let share = guest.share;
    let (entry, open) = guest.create(share, "file", libc::O_RDWR, 0o600).unwrap();
    let sub = guest.mkdir(share, "sub", 0o755, 0).unwrap().nodeid;
    guest.rename2((share, "file"), (sub, "moved"), 0).unwrap();
    guest
        .rename2((share, "sub"), (share, "renamed"), 0)
        .unwrap();
    guest.write(open, 0, b"data").unwrap();
    assert_eq!(guest.getattr(entry.nodeid).unwrap().size, 4);
    assert_eq!(guest.lookup(sub, "moved").unwrap().nodeid, entry.nodeid);
    assert_eq!(std::fs::read(guest.host("renamed/moved")).unwrap(), b"data");
}

#[test]
fn removal_tells_files_from_directories() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::create_dir_all(guest.host("full/sub")).unwrap();
    std::fs::write(guest.host("file"), b"").unwrap();
    let share = guest.share;
    let mut remove = |code, name: &str| guest.done(code, share, &[&nul(name)]);
    assert_eq!(remove(opcode::RMDIR, "full").unwrap_err(), Errno::NOTEMPTY);
    assert_eq!(remove(opcode::UNLINK, "full").unwrap_err(), Errno::ISDIR);
    assert_eq!(remove(opcode::RMDIR, "file").unwrap_err(), Errno::NOTDIR);
    assert_eq!(remove(opcode::UNLINK, "none").unwrap_err(), Errno::NOENT);
    remove(opcode::UNLINK, "file").unwrap();
}
