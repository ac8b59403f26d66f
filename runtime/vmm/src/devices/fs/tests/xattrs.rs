//! Extended attributes.

use super::*;
use crate::devices::fs::wire::{Getxattr, SetxattrIn};

impl Guest {
    fn setxattr(&mut self, node: u64, name: &str, value: &[u8], flags: u32) -> Result<(), Errno> {
        let size = u32::try_from(value.len()).unwrap();
        let args = SetxattrIn {
            size,
            flags,
            setxattr_flags: 0,
            padding: 0,
        };
        self.done(
            opcode::SETXATTR,
            node,
            &[args.as_bytes(), &nul(name), value],
        )
    }

    fn getxattr(&mut self, node: u64, name: &str, size: u32) -> Result<Vec<u8>, Errno> {
        let args = Getxattr { size, padding: 0 };
        let room = (size as usize).max(8);
        self.request(opcode::GETXATTR, node, &[args.as_bytes(), &nul(name)], room)
    }

    fn listxattr(&mut self, node: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let args = Getxattr { size, padding: 0 };
        self.request(
            opcode::LISTXATTR,
            node,
            &[args.as_bytes()],
            (size as usize).max(8),
        )
    }
}

#[test]
fn attributes_are_set_read_listed_and_removed_on_files_and_directories() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let share = guest.share;
    let (file, _) = guest.create(share, "file", libc::O_RDWR, 0o600).unwrap();
    let directory = guest.mkdir(share, "directory", 0o700, 0).unwrap();
    for node in [file.nodeid, directory.nodeid] {
        let name = "user.runvm";
        match guest.setxattr(node, name, b"value", 0) {
            Err(Errno::OPNOTSUPP) => return println!("skipped: no attributes in this directory"),
            set => set.unwrap(),
        }
        assert_eq!(guest.getxattr(node, name, 100).unwrap(), b"value");
        let size = Getxattr::read_from_bytes(&guest.getxattr(node, name, 0).unwrap()).unwrap();
        assert_eq!(size.size, 5);
        assert_eq!(guest.getxattr(node, name, 4).unwrap_err(), Errno::RANGE);
        let list = guest.listxattr(node, 1000).unwrap();
        assert!(
            list.split(|&byte| byte == 0)
                .any(|listed| listed == name.as_bytes())
        );
        let (create, replace) = (1, 2);
        assert_eq!(
            guest.setxattr(node, name, b"v", create).unwrap_err(),
            Errno::EXIST
        );
        guest.setxattr(node, name, b"v", replace).unwrap();
        guest
            .done(opcode::REMOVEXATTR, node, &[&nul(name)])
            .unwrap();
        assert_eq!(guest.getxattr(node, name, 4).unwrap_err(), Errno::NODATA);
    }
}

#[test]
fn attributes_that_the_host_keeps_to_itself_are_refused() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let share = guest.share;
    let (file, _) = guest.create(share, "file", libc::O_RDWR, 0o600).unwrap();
    let fifo = guest
        .mknod(share, "fifo", libc::S_IFIFO | 0o600, 0)
        .unwrap();
    let link = guest.symlink(share, "link", "file").unwrap();
    for (node, name) in [
        (file.nodeid, "trusted.runvm"),
        (fifo.nodeid, "user.runvm"),
        (link.nodeid, "user.runvm"),
    ] {
        match guest.setxattr(node, name, b"value", 0) {
            Err(Errno::OPNOTSUPP) => return println!("skipped: no attributes in this directory"),
            set => assert_eq!(set.unwrap_err(), Errno::PERM, "{name}"),
        }
        assert_eq!(guest.getxattr(node, name, 10).unwrap_err(), Errno::NODATA);
    }
}

#[test]
fn the_root_directory_has_none() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    assert_eq!(
        guest
            .getxattr(ROOT_ID, "system.posix_acl_access", 0)
            .unwrap_err(),
        Errno::NODATA
    );
    assert!(guest.listxattr(ROOT_ID, 100).unwrap().is_empty());
    assert_eq!(
        guest.setxattr(ROOT_ID, "user.x", b"", 0).unwrap_err(),
        Errno::ROFS
    );
}

#[test]
fn labels_of_the_hosts_security_modules_cannot_be_changed() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let (file, _) = guest
        .create(guest.share, "file", libc::O_RDWR, 0o600)
        .unwrap();
    for name in [
        "security.selinux",
        "security.ima",
        "security.",
        "security.capabilityx",
    ] {
        assert_eq!(
            guest.setxattr(file.nodeid, name, b"x", 0).unwrap_err(),
            Errno::OPNOTSUPP
        );
        let removed = guest.done(opcode::REMOVEXATTR, file.nodeid, &[&nul(name)]);
        assert_eq!(removed.unwrap_err(), Errno::OPNOTSUPP);
    }
}

#[test]
fn sizes_and_names_out_of_bounds_are_refused() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let (file, _) = guest
        .create(guest.share, "file", libc::O_RDWR, 0o600)
        .unwrap();
    let node = file.nodeid;
    let long = format!("user.{}", "x".repeat(251));
    assert_eq!(
        guest.setxattr(node, &long, b"", 0).unwrap_err(),
        Errno::RANGE
    );
    assert_eq!(guest.setxattr(node, "", b"", 0).unwrap_err(), Errno::RANGE);
    assert_eq!(
        guest.setxattr(node, "user.x", b"", 4).unwrap_err(),
        Errno::INVAL
    );
    let args = SetxattrIn {
        size: u32::MAX,
        ..SetxattrIn::default()
    };
    let answer = guest.done(
        opcode::SETXATTR,
        node,
        &[args.as_bytes(), &nul("user.x"), b"short"],
    );
    assert_eq!(answer.unwrap_err(), Errno::INVAL);
    let args = Getxattr {
        size: u32::MAX,
        padding: 0,
    };
    let answer = guest.request(
        opcode::GETXATTR,
        node,
        &[args.as_bytes(), &nul("user.x")],
        64,
    );
    assert!(answer.is_err());
    let huge = vec![b'x'; 70_000];
    assert_eq!(
        guest.setxattr(node, "user.x", &huge, 0).unwrap_err(),
        Errno::TOOBIG
    );
}

#[test]
fn a_file_system_without_acls_is_one_whose_files_have_none() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    guest
        .exports
        .add("proc", path_fd(Path::new("/proc/self")), false)
        .unwrap();
    let node = guest.lookup(ROOT_ID, "proc").unwrap().nodeid;
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        assert_eq!(guest.getxattr(node, name, 0).unwrap_err(), Errno::NODATA);
    }
}
