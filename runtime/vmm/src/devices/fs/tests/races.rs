//! The host, or another guest, changing names while the guest uses them.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Runs `disturb` again and again on another thread while `act` runs.
fn while_disturbed(disturb: impl Fn() + Send + Sync, act: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                disturb();
            }
        });
        act();
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_directory_swapped_for_a_symbolic_link_leads_nowhere_else() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let outside = guest.folder.0.join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), b"secret").unwrap();
    std::fs::create_dir(guest.host("swapped")).unwrap();
    std::fs::write(guest.host("swapped/file"), b"public").unwrap();
    std::os::unix::fs::symlink(&outside, guest.host("link")).unwrap();
    let (swapped, link) = (guest.host("swapped"), guest.host("link"));
    let exchange = || {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, &swapped, CWD, &link, RenameFlags::EXCHANGE).unwrap();
    };
    let mut read = 0;
    while_disturbed(exchange, || {
        for _ in 0..3000 {
            let Ok(directory) = guest.lookup(guest.share, "swapped") else {
                continue;
            };
            let Ok(file) = guest.lookup(directory.nodeid, "file") else {
                continue;
            };
            let open = guest.open(file.nodeid, libc::O_RDWR).unwrap();
            assert_eq!(guest.read(open, 0, 100).unwrap(), b"public");
            guest.write(open, 0, b"public").unwrap();
            let _ = guest.create(directory.nodeid, "new", libc::O_RDWR, 0o600);
            let _ = guest.done(opcode::UNLINK, directory.nodeid, &[&nul("new")]);
            guest.release(open).unwrap();
            read += 1;
        }
    });
    assert!(read > 0, "the race was run");
    assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(outside).unwrap().count(), 1);
}

#[test]
fn a_file_swapped_for_a_fifo_is_never_waited_for() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    guest
        .mknod(guest.share, "fifo", libc::S_IFIFO | 0o600, 0)
        .unwrap();
    std::fs::write(guest.host("file"), b"data").unwrap();
    let (file, fifo) = (guest.host("file"), guest.host("fifo"));
    let exchange = || {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, &file, CWD, &fifo, RenameFlags::EXCHANGE).unwrap();
    };
    while_disturbed(exchange, || {
        for _ in 0..3000 {
            let entry = guest.lookup(guest.share, "file").unwrap();
            match guest.open(entry.nodeid, libc::O_RDONLY) {
                Ok(open) => assert_eq!(guest.read(open, 0, 10).unwrap(), b"data"),
                Err(error) => assert_eq!(error, Errno::OPNOTSUPP),
            }
            let _ = guest.create(guest.share, "file", libc::O_RDWR, 0o600);
        }
    });
}

#[test]
fn a_directory_moved_out_of_the_export_does_not_take_the_guest_along() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::create_dir(guest.host("inside")).unwrap();
    std::fs::write(guest.folder.0.join("secret"), b"secret").unwrap();
    let inside = guest.find("inside").nodeid;
    std::fs::rename(guest.host("inside"), guest.folder.0.join("moved")).unwrap();
    assert_eq!(guest.lookup(inside, "..").unwrap_err(), Errno::INVAL);
    assert_eq!(guest.lookup(inside, "../secret").unwrap_err(), Errno::INVAL);
    // What the guest had is still its own, as an open directory of a process would be.
    guest.create(inside, "file", libc::O_RDWR, 0o600).unwrap();
    assert!(guest.folder.0.join("moved/file").exists());
}

#[test]
fn an_export_removed_in_the_middle_of_requests_leaves_nothing_open() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let directory = guest.folder.0.join("volatile");
    std::fs::create_dir(&directory).unwrap();
    let exports = guest.exports.clone();
    let come_and_go = || {
        exports.add("volatile", path_fd(&directory), false).unwrap();
        std::thread::yield_now();
        exports.remove("volatile").unwrap();
    };
    while_disturbed(come_and_go, || {
        for _ in 0..2000 {
            let Ok(entry) = guest.lookup(ROOT_ID, "volatile") else {
                continue;
            };
            let _ = guest.create(entry.nodeid, "file", libc::O_RDWR, 0o600);
            let _ = guest.opendir(entry.nodeid);
            guest.forget(entry.nodeid, 1);
        }
    });
    assert_eq!(descriptors_below(&guest.folder.0.join("volatile")), 0);
    assert_eq!(guest.device.server.files.len(), 0);
}
