//! READDIR and READDIRPLUS.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::devices::fs::wire::Dirent;

/// One entry as the guest parses it.
struct Entry {
    name: String,
    next: u64,
    ino: u64,
    kind: u32,
    entry: Option<EntryOut>,
}

impl Guest {
    fn read_entries(
        &mut self,
        open: Open,
        offset: u64,
        size: usize,
        plus: bool,
    ) -> Result<Vec<Entry>, Errno> {
        let size_field = u32::try_from(size).unwrap();
        let args = ReadIn {
            fh: open.fh,
            offset,
            size: size_field,
            ..ReadIn::default()
        };
        let code = if plus {
            opcode::READDIRPLUS
        } else {
            opcode::READDIR
        };
        let body = self.request(code, open.node, &[args.as_bytes()], size)?;
        let mut rest = &body[..];
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let mut entry = None;
            let before = rest.len();
            if plus {
                let (value, after) = EntryOut::read_from_prefix(rest).unwrap();
                entry = Some(value);
                rest = after;
            }
            let (dirent, after) = Dirent::read_from_prefix(rest).unwrap();
            let (name, _) = after.split_at(dirent.namelen as usize);
            let name = String::from_utf8(name.to_vec()).unwrap();
            let length = (before - after.len() + name.len()).next_multiple_of(8);
            entries.push(Entry {
                name,
                next: dirent.off,
                ino: dirent.ino,
                kind: dirent.kind,
                entry,
            });
            rest = &body[body.len() - before + length..];
        }
        Ok(entries)
    }

    /// Lists a directory the way a kernel does, `size` bytes at a time.
    fn list(&mut self, node: u64, size: usize, plus: bool) -> Vec<Entry> {
        let open = self.opendir(node).unwrap();
        let mut all = Vec::new();
        let mut offset = 0;
        loop {
            let entries = self.read_entries(open, offset, size, plus).unwrap();
            let Some(last) = entries.last() else { break };
            offset = last.next;
            all.extend(entries);
        }
        all
    }
}

#[test]
fn a_large_directory_is_listed_whole_at_any_buffer_size() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let mut names = BTreeSet::from([".".to_owned(), "..".to_owned()]);
    for number in 0..2000 {
        let name = format!("{number}-{}", "n".repeat(number % 200));
        std::fs::write(guest.host(&name), b"").unwrap();
        names.insert(name);
    }
    for (size, plus) in [
        (4096, false),
        (65536, false),
        (4096, true),
        (512, false),
        (1 << 17, true),
    ] {
        let listed = guest.list(guest.share, size, plus);
        assert_eq!(listed.len(), names.len(), "{size} {plus}: nothing twice");
        let listed: BTreeSet<String> = listed.into_iter().map(|entry| entry.name).collect();
        assert!(listed == names, "{size} {plus}");
    }
}

#[test]
fn a_plus_listing_looks_each_entry_up_once_and_the_dots_never() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.host("file"), b"123").unwrap();
    std::fs::create_dir(guest.host("directory")).unwrap();
    std::os::unix::fs::symlink("x", guest.host("link")).unwrap();
    let entries = guest.list(guest.share, 4096, true);
    let entries: BTreeMap<_, _> = entries
        .into_iter()
        .map(|entry| (entry.name.clone(), entry))
        .collect();
    for dots in [".", ".."] {
        assert_eq!(entries[dots].entry.unwrap().nodeid, 0);
    }
    for (name, kind) in [
        ("file", libc::S_IFREG),
        ("directory", libc::S_IFDIR),
        ("link", libc::S_IFLNK),
    ] {
        let entry = entries[name].entry.unwrap();
        assert_eq!(entry.attr.mode & libc::S_IFMT, kind);
        assert_eq!(entries[name].kind, kind >> 12);
        assert_eq!(entries[name].ino, entry.attr.ino);
        assert_eq!(guest.find(name).nodeid, entry.nodeid);
        guest.forget(entry.nodeid, 2);
        assert_eq!(
            guest.getattr(entry.nodeid).unwrap_err(),
            Errno::STALE,
            "{name}"
        );
    }
}

#[test]
fn entries_that_do_not_fit_are_not_looked_up() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    for number in 0..50 {
        std::fs::write(guest.host(&format!("file-{number}")), b"").unwrap();
    }
    let before = guest.device.server.inodes.len();
    let open = guest.opendir(guest.share).unwrap();
    let told = guest.read_entries(open, 0, 1000, true).unwrap();
    let looked_up = told
        .iter()
        .filter(|entry| entry.entry.unwrap().nodeid != 0)
        .count();
    assert_eq!(guest.device.server.inodes.len(), before + looked_up);
    assert!(guest.read_entries(open, 0, 8, false).unwrap().is_empty());
}

#[test]
fn any_offset_is_answered() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let open = guest.opendir(guest.share).unwrap();
    for offset in [1, 7, 1 << 31, 1 << 40, u64::MAX >> 1, 1 << 63, u64::MAX] {
        let _ = guest.read_entries(open, offset, 4096, true);
        let root = Open {
            node: ROOT_ID,
            fh: 0,
            flags: 0,
        };
        let _ = guest.read_entries(root, offset, 4096, true);
    }
    let listed = guest.read_entries(open, 0, 4096, false).unwrap();
    assert_eq!(listed.len(), 2, "still in order");
}

#[test]
fn the_root_lists_the_exports() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    for number in 0..100 {
        guest
            .exports
            .add(&format!("export-{number}"), path_fd(&guest.host(".")), true)
            .unwrap();
    }
    guest.exports.remove("export-50").unwrap();
    for (size, plus) in [(4096, false), (1024, true)] {
        let listed = guest.list(ROOT_ID, size, plus);
        let names: BTreeSet<_> = listed.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!((listed.len(), names.len()), (102, 102));
        assert!(
            names.contains(SHARE) && names.contains("export-99") && !names.contains("export-50")
        );
    }
}

#[test]
fn a_file_is_no_directory_to_read() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let (_, open) = guest
        .create(guest.share, "file", libc::O_RDWR, 0o600)
        .unwrap();
    assert_eq!(
        guest.read_entries(open, 0, 4096, false).err(),
        Some(Errno::NOTDIR)
    );
    let directory = guest.opendir(guest.share).unwrap();
    assert_eq!(guest.read(directory, 0, 100).unwrap_err(), Errno::ISDIR);
    assert_eq!(guest.write(directory, 0, b"x").unwrap_err(), Errno::BADF);
}
