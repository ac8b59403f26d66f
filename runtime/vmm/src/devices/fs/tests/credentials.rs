//! In whose name files are made.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::devices::fs::thread::Caller;
use crate::devices::fs::wire::{EXT_GROUPS, SetxattrIn};

/// uid, gid and permission bits.
fn owner(path: &Path) -> (u32, u32, u32) {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
}

#[test]
fn what_is_made_belongs_to_the_guests_process() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    (guest.uid, guest.gid) = (1000, 2000);
    let share = guest.share;
    guest.create(share, "file", libc::O_RDWR, 0o4711).unwrap();
    guest.mkdir(share, "directory", 0o1700, 0).unwrap();
    guest.symlink(share, "link", "x").unwrap();
    guest
        .mknod(share, "fifo", libc::S_IFIFO | 0o620, 0)
        .unwrap();
    assert_eq!(owner(&guest.host("file")), (1000, 2000, 0o4711));
    assert_eq!(owner(&guest.host("directory")), (1000, 2000, 0o1700));
    assert_eq!(owner(&guest.host("link")).0, 1000);
    assert_eq!(owner(&guest.host("fifo")), (1000, 2000, 0o620));
    let (entry, _) = guest
        .create_with(opcode::TMPFILE, share, "/", libc::O_RDWR, 0o600, 0)
        .unwrap();
    assert_eq!((entry.attr.uid, entry.attr.gid), (1000, 2000));
    (guest.uid, guest.gid) = (0, 0);
    guest.create(share, "roots", libc::O_RDWR, 0o600).unwrap();
    assert_eq!(owner(&guest.host("roots")), (0, 0, 0o600));
}

#[test]
fn a_device_node_can_be_made_for_an_ordinary_user_the_guest_let_do_so() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    (guest.uid, guest.gid) = (1000, 1000);
    match guest.mknod(guest.share, "null", libc::S_IFCHR | 0o666, 0x103) {
        Err(Errno::PERM) => println!("skipped: needs CAP_MKNOD"),
        entry => assert_eq!(entry.unwrap().attr.uid, 1000),
    }
}

#[test]
fn no_user_is_not_a_user() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
        (guest.uid, guest.gid) = (uid, gid);
        let answer = guest.mkdir(guest.share, "directory", 0o755, 0);
        assert_eq!(answer.unwrap_err(), Errno::INVAL);
    }
    assert!(!guest.host("directory").exists());
}

#[test]
fn the_umask_is_applied_by_the_host() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let share = guest.share;
    guest
        .create_with(opcode::CREATE, share, "file", libc::O_RDWR, 0o666, 0o027)
        .unwrap();
    guest.mkdir(share, "directory", 0o777, 0o077).unwrap();
    guest.mkdir(share, "open", 0o777, 0).unwrap();
    assert_eq!(owner(&guest.host("file")).2, 0o640);
    assert_eq!(owner(&guest.host("directory")).2, 0o700);
    assert_eq!(
        owner(&guest.host("open")).2,
        0o777,
        "the umask does not stay"
    );
    let all = guest.mkdir(share, "all", 0o777, u32::MAX).unwrap();
    assert_eq!(all.attr.mode & 0o777, 0);
}

#[test]
fn a_default_acl_goes_before_the_umask() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    // struct posix_acl_xattr_header, and user::rwx, group::rwx, other::r-x.
    let acl: Vec<u8> = [2_u32.to_le_bytes().to_vec()]
        .into_iter()
        .chain([(1_u16, 7_u16), (4, 7), (32, 5)].map(|(tag, permissions)| {
            [
                &tag.to_le_bytes()[..],
                &permissions.to_le_bytes(),
                &u32::MAX.to_le_bytes(),
            ]
            .concat()
        }))
        .collect::<Vec<_>>()
        .concat();
    let directory = guest
        .mkdir(guest.share, "directory", 0o755, 0)
        .unwrap()
        .nodeid;
    let size = u32::try_from(acl.len()).unwrap();
    let args = SetxattrIn {
        size,
        ..SetxattrIn::default()
    };
    let name = nul("system.posix_acl_default");
    match guest.done(opcode::SETXATTR, directory, &[args.as_bytes(), &name, &acl]) {
        Err(Errno::OPNOTSUPP) => return println!("skipped: no ACLs in the temporary directory"),
        set => set.unwrap(),
    }
    guest
        .create_with(
            opcode::CREATE,
            directory,
            "file",
            libc::O_RDWR,
            0o666,
            0o077,
        )
        .unwrap();
    assert_eq!(owner(&guest.host("directory/file")).2, 0o664);
}

#[test]
fn directories_of_others_are_no_obstacle_where_the_guest_found_none() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let directory = guest.mkdir(guest.share, "roots", 0o700, 0).unwrap().nodeid;
    (guest.uid, guest.gid) = (1000, 1000);
    // In the guest the process may have CAP_DAC_OVERRIDE, or a group that the host does not see.
    guest
        .create(directory, "file", libc::O_RDWR, 0o600)
        .unwrap();
    assert_eq!(owner(&guest.host("roots/file")), (1000, 1000, 0o600));
}

#[test]
fn set_group_id_survives_only_for_members_of_the_group() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let directory = guest
        .mkdir(guest.share, "directory", 0o777, 0)
        .unwrap()
        .nodeid;
    std::os::unix::fs::chown(guest.host("directory"), None, Some(3000)).unwrap();
    std::fs::set_permissions(guest.host("directory"), PermissionsExt::from_mode(0o2777)).unwrap();
    (guest.uid, guest.gid) = (1000, 2000);
    // CVE-2022-0358: a stranger makes an executable of a foreign group.
    guest
        .create(directory, "stranger", libc::O_RDWR, 0o2755)
        .unwrap();
    assert_eq!(
        owner(&guest.host("directory/stranger")),
        (1000, 3000, 0o755)
    );
    guest.mkdir(directory, "sub", 0o755, 0).unwrap();
    assert_eq!(
        owner(&guest.host("directory/sub")),
        (1000, 3000, 0o2755),
        "directories inherit it"
    );

    let group = [16, EXT_GROUPS, 1, 3000].map(u32::to_le_bytes).concat();
    let flags = libc::O_RDWR.cast_unsigned();
    let args = CreateIn {
        flags,
        mode: libc::S_IFREG | 0o2755,
        umask: 0,
        open_flags: 0,
    };
    let args: [&[u8]; 2] = [args.as_bytes(), &nul("member")];
    guest
        .request_with(opcode::CREATE, directory, &args, &group, 144)
        .unwrap();
    assert_eq!(owner(&guest.host("directory/member")), (1000, 3000, 0o2755));

    guest
        .create(directory, "again", libc::O_RDWR, 0o2755)
        .unwrap();
    assert_eq!(
        owner(&guest.host("directory/again")).2,
        0o755,
        "the group does not stay"
    );
}

#[test]
fn a_thread_is_itself_again_after_each_request_also_a_failed_one() {
    let Some(guest) = Guest::mounted() else {
        return;
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let thread = guest.device.server.worker().unwrap().thread;
            assert!(thread.is_itself());
            let (uid, gid) = (rustix::fs::Uid::from_raw(5), rustix::fs::Gid::from_raw(6));
            let umask = rustix::fs::Mode::from_raw_mode(0o77);
            let caller = Caller {
                uid,
                gid,
                group: Some(gid),
                umask,
            };
            let within = thread
                .as_caller(&caller, || Ok(thread.is_itself()))
                .unwrap();
            assert!(!within);
            assert!(thread.is_itself());
            thread
                .as_caller(&caller, || Err::<(), _>(Errno::IO))
                .unwrap_err();
            assert!(thread.is_itself());
            thread
                .without_fsetid(|| Err::<(), _>(Errno::IO))
                .unwrap_err();
            assert!(thread.is_itself());
        });
    });
    assert!(
        rustix::process::geteuid().is_root(),
        "the other threads never changed"
    );
}
