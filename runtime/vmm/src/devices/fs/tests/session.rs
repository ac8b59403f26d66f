//! Configuration, INIT, DESTROY, forgetting, activation and reset.

use super::*;
use crate::devices::fs::wire::{BatchForgetIn, ForgetOne};

#[test]
fn the_configuration_space_holds_the_tag_and_the_number_of_request_queues() {
    let device = FsDevice::new(Exports::new(), "runvm").unwrap();
    let mut config = [0xff; 48];
    device.read_config(0, &mut config);
    assert_eq!(&config[..6], b"runvm\0");
    assert_eq!(config[36..40], [1, 0, 0, 0]);
    assert_eq!(config[40..], [0; 8], "beyond the end");
    let mut part = [0xff; 4];
    device.read_config(36, &mut part);
    assert_eq!(part, [1, 0, 0, 0]);
    device.read_config(u64::MAX, &mut part);
    assert_eq!(part, [0; 4]);
}

#[test]
fn a_tag_is_1_to_36_bytes_long() {
    assert!(FsDevice::new(Exports::new(), &"x".repeat(36)).is_ok());
    assert!(FsDevice::new(Exports::new(), &"x".repeat(37)).is_err());
    assert!(FsDevice::new(Exports::new(), "").is_err());
}

#[test]
fn init_agrees_on_what_both_sides_understand() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let out = guest.init();
    assert_eq!((out.major, out.minor), (7, 38));
    assert_eq!((out.max_write, out.max_pages), (1 << 20, 256));
    let flags = u64::from(out.flags) | u64::from(out.flags2) << 32;
    let wanted = init::POSIX_ACL | init::HANDLE_KILLPRIV_V2 | init::CREATE_SUPP_GROUP;
    assert_eq!(flags & wanted, wanted);
    let (posix_locks, flock_locks, writeback_cache) = (1 << 1, 1 << 10, 1 << 16);
    assert_eq!(flags & (posix_locks | flock_locks | writeback_cache), 0);
}

#[test]
fn init_refuses_versions_that_are_too_old_and_negotiates_with_newer_ones() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    for (major, minor) in [(6, 40), (7, 30)] {
        let init = InitIn {
            major,
            minor,
            max_readahead: 0,
            flags: 0,
        };
        let answer = guest.get::<InitOut>(opcode::INIT, 0, &[init.as_bytes()]);
        assert_eq!(answer.unwrap_err(), Errno::PROTO);
    }
    let init = InitIn {
        major: 8,
        minor: 0,
        max_readahead: 0,
        flags: 0,
    };
    let answer: InitOut = guest.get(opcode::INIT, 0, &[init.as_bytes()]).unwrap();
    assert_eq!(answer.major, 7);
}

#[test]
fn a_new_session_knows_nothing_of_the_old_one() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let (entry, open) = guest
        .create(guest.share, "file", libc::O_RDWR, 0o600)
        .unwrap();
    guest.init();
    assert_eq!(guest.getattr(entry.nodeid).unwrap_err(), Errno::STALE);
    assert_eq!(guest.read(open, 0, 1).unwrap_err(), Errno::BADF);
    guest.done(opcode::DESTROY, 0, &[]).unwrap();
    assert_eq!(
        guest.lookup(ROOT_ID, SHARE).unwrap_err(),
        Errno::IO,
        "before INIT"
    );
    assert_eq!(
        descriptors_below(&guest.folder.0),
        1,
        "the export's root alone"
    );
}

#[test]
fn what_is_not_implemented_says_so() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    // GETLK, SETLK, SETLKW, ACCESS, BMAP, IOCTL, POLL, SETUPMAPPING, STATX, and none.
    for code in [31, 32, 33, 34, 37, 39, 40, 48, 52, 53, 4096, u32::MAX] {
        let answer = guest.request(code, guest.share, &[&[0; 64]], 256);
        assert_eq!(answer.unwrap_err(), Errno::NOSYS, "{code}");
    }
}

#[test]
fn a_file_is_one_inode_under_all_its_names_until_it_is_forgotten() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.host("a"), b"").unwrap();
    std::fs::hard_link(guest.host("a"), guest.host("b")).unwrap();
    let node = guest.find("a").nodeid;
    assert_eq!(guest.find("b").nodeid, node);
    assert_eq!(guest.device.server.inodes.len(), 2);
    guest.forget(node, 1);
    assert!(guest.getattr(node).is_ok(), "one lookup is left");
    guest.forget(node, u64::MAX);
    assert_eq!(guest.getattr(node).unwrap_err(), Errno::STALE);
    assert_ne!(guest.find("a").nodeid, node, "numbers are not used again");
    guest.forget(ROOT_ID, 1);
    guest.forget(12345, 1);
    assert!(guest.lookup(ROOT_ID, SHARE).is_ok());
}

#[test]
fn batches_of_forgets_end_where_their_bytes_do() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    std::fs::write(guest.host("a"), b"").unwrap();
    let nodeid = guest.find("a").nodeid;
    let batch = BatchForgetIn {
        count: u32::MAX,
        dummy: 0,
    };
    let one = ForgetOne { nodeid, nlookup: 1 };
    let args = [batch.as_bytes(), one.as_bytes()].concat();
    let header = guest.header(opcode::BATCH_FORGET, 0, args.len(), 0);
    let used = guest.driver.call(HIPRIO, &[header.as_bytes(), &args], &[]);
    assert_eq!(used.len, 0);
    assert_eq!(guest.getattr(nodeid).unwrap_err(), Errno::STALE);
}

#[test]
fn inodes_cost_no_descriptors_where_the_file_system_has_handles() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    if !has_handles(&guest.folder.0) {
        return println!("skipped: no file handles in {}", guest.folder.0.display());
    }
    let before = descriptors_below(&guest.folder.0);
    for number in 0..100 {
        let name = format!("file-{number}");
        std::fs::write(guest.host(&name), b"").unwrap();
        guest.find(&name);
    }
    assert_eq!(guest.device.server.inodes.len(), 101);
    assert_eq!(descriptors_below(&guest.folder.0), before);
}

#[test]
fn a_reset_device_can_be_activated_again_and_keeps_its_session() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let kicks_nobody_hears = guest.driver.memory().clone();
    guest.device.reset();
    let share = guest.share;
    let features = guest.device.features();
    guest.driver = FakeDriver::start_on(&mut guest.device, features, kicks_nobody_hears).unwrap();
    assert!(guest.getattr(share).is_ok());
    guest.device.reset();
    guest.device.reset();
}

#[test]
fn a_reset_device_does_not_touch_guest_memory() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let header = guest.header(opcode::GETATTR, guest.share, 16, 0);
    guest.device.reset();
    guest
        .driver
        .post(REQUESTS, &[header.as_bytes(), &[0; 16]], &[16, 104]);
    guest.driver.kick_always(REQUESTS);
    assert!(guest.driver.take_used(REQUESTS).is_none());
}

#[test]
fn the_device_works_without_indirect_descriptors_and_event_index() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    guest.device.reset();
    guest.driver = FakeDriver::start_with(&mut guest.device, 1 << 32).unwrap();
    guest.init();
    let share = guest.lookup(ROOT_ID, SHARE).unwrap().nodeid;
    for round in 0..3000 {
        assert!(guest.getattr(share).is_ok(), "round {round}");
    }
}

#[test]
fn many_requests_are_answered_once_each_and_in_any_order() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let mut heads = Vec::new();
    for _ in 0..500 {
        let header = guest.header(opcode::GETATTR, guest.share, 16, 0);
        heads.push(
            guest
                .driver
                .post(REQUESTS, &[header.as_bytes(), &[0; 16]], &[16, 104]),
        );
    }
    guest.driver.kick(REQUESTS);
    let mut used: Vec<u16> = heads
        .iter()
        .map(|_| guest.driver.wait_used(REQUESTS).head)
        .collect();
    used.sort_unstable();
    heads.sort_unstable();
    assert_eq!(used, heads);
    assert!(guest.driver.interrupts(REQUESTS) > 0);
}
