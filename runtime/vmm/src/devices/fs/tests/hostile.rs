//! Drivers that break every rule.

use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::*;
use crate::devices::fake_driver::{HIGH_MEMORY, LOW_MEMORY, RawDescriptor};

/// Where the raw tests put a GETATTR request of 56 bytes, and where its reply may go.
const REQUEST: u64 = 8 << 20;
const REPLY: u64 = 9 << 20;

/// `VIRTQ_DESC_F_*` (virtio 1.2, section 2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Posts raw descriptors, of which the first is the head, and returns the used length.
fn raw(guest: &mut Guest, descriptors: &[RawDescriptor]) -> u32 {
    let header = guest.header(opcode::GETATTR, guest.share, 16, 0);
    let request = [header.as_bytes(), &[0; 16]].concat();
    guest
        .driver
        .memory()
        .memory()
        .write_slice(&request, GuestAddress(REQUEST))
        .unwrap();
    guest.driver.post_raw(REQUESTS, 0, descriptors);
    guest.driver.kick(REQUESTS);
    guest.driver.wait_used(REQUESTS).len
}

fn descriptor(addr: u64, len: u32, flags: u16, next: u16) -> RawDescriptor {
    RawDescriptor {
        addr,
        len,
        flags,
        next,
    }
}

#[test]
fn well_formed_raw_chains_are_answered_wherever_they_are_cut() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let whole = [
        descriptor(REQUEST, 56, NEXT, 1),
        descriptor(REPLY, 120, WRITE, 0),
    ];
    assert_eq!(raw(&mut guest, &whole), 120);
    for cut in 1..56 {
        let parts = [
            descriptor(REQUEST, cut, NEXT, 1),
            descriptor(REQUEST + u64::from(cut), 56 - cut, NEXT, 2),
            descriptor(REPLY, cut * 2, NEXT | WRITE, 3),
            descriptor(REPLY + 4096, 120 - cut * 2, WRITE, 0),
        ];
        assert_eq!(raw(&mut guest, &parts), 120, "cut at {cut}");
    }
    let empty = |at: u16| descriptor(REQUEST, 0, NEXT, at);
    let empty_writable = |at: u16| descriptor(REPLY, 0, NEXT | WRITE, at);
    let with_nothing_between = [
        empty(1),
        descriptor(REQUEST, 56, NEXT, 2),
        empty(3),
        empty_writable(4),
        descriptor(REPLY, 120, NEXT | WRITE, 5),
        descriptor(REPLY, 0, WRITE, 0),
    ];
    assert_eq!(raw(&mut guest, &with_nothing_between), 120);
}

#[test]
fn malformed_chains_are_given_back_empty_and_the_next_one_is_served() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let request = |next| descriptor(REQUEST, 56, NEXT, next);
    let hole = LOW_MEMORY.1 as u64;
    let end = HIGH_MEMORY.0 + HIGH_MEMORY.1 as u64;
    let chains: &[(&str, &[RawDescriptor])] = &[
        ("a loop of one", &[descriptor(REQUEST, 56, NEXT, 0)]),
        (
            "a loop of two",
            &[request(1), descriptor(REPLY, 120, NEXT | WRITE, 0)],
        ),
        ("next beyond the table", &[request(5000)]),
        (
            "readable after writable",
            &[
                descriptor(REPLY, 120, WRITE | NEXT, 1),
                descriptor(REQUEST, 56, 0, 0),
            ],
        ),
        (
            "a request in no memory",
            &[
                descriptor(hole, 56, NEXT, 1),
                descriptor(REPLY, 120, WRITE, 0),
            ],
        ),
        (
            "a request across the end",
            &[
                descriptor(end - 8, 56, NEXT, 1),
                descriptor(REPLY, 120, WRITE, 0),
            ],
        ),
        (
            "a reply across a hole",
            &[request(1), descriptor(hole - 8, 120, WRITE, 0)],
        ),
        (
            "the address space's end",
            &[request(1), descriptor(u64::MAX - 7, u32::MAX, WRITE, 0)],
        ),
        (
            "a huge length",
            &[request(1), descriptor(REPLY, u32::MAX, WRITE, 0)],
        ),
        (
            "more than 4 GiB",
            &[request(1), descriptor(0, 16 << 20, NEXT | WRITE, 1)],
        ),
        ("no reply", &[descriptor(REQUEST, 56, 0, 0)]),
        ("no request", &[descriptor(REPLY, 120, WRITE, 0)]),
        ("nothing at all", &[descriptor(REQUEST, 0, 0, 0)]),
        (
            "an indirect table that is no table",
            &[descriptor(REQUEST, 17, INDIRECT, 0)],
        ),
        (
            "an empty indirect table",
            &[descriptor(REQUEST, 0, INDIRECT, 0)],
        ),
        (
            "an indirect table in no memory",
            &[descriptor(hole, 32, INDIRECT, 0)],
        ),
        (
            "an endless indirect table",
            &[descriptor(REQUEST, 0xffff_fff0, INDIRECT, 0)],
        ),
    ];
    for (what, chain) in chains {
        assert_eq!(raw(&mut guest, chain), 0, "{what}");
        let whole = [request(1), descriptor(REPLY, 120, WRITE, 0)];
        assert_eq!(raw(&mut guest, &whole), 120, "after {what}");
    }
}

#[test]
fn an_indirect_table_within_an_indirect_table_is_refused() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(10_u64 << 20).to_le_bytes());
    bytes[8..12].copy_from_slice(&16_u32.to_le_bytes());
    bytes[12..14].copy_from_slice(&INDIRECT.to_le_bytes());
    guest
        .driver
        .memory()
        .memory()
        .write_slice(&bytes, GuestAddress(10 << 20))
        .unwrap();
    assert_eq!(raw(&mut guest, &[descriptor(10 << 20, 16, INDIRECT, 0)]), 0);
}

#[test]
fn a_broken_ring_is_not_served_until_reset() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let breaks: [fn(&mut FakeDriver); 5] = [
        |driver| driver.skip_available_raw(REQUESTS, 1025),
        |driver| driver.skip_available_raw(REQUESTS, 40_000),
        |driver| driver.skip_available_raw(REQUESTS, u16::MAX),
        |driver| driver.post_raw(REQUESTS, 1024, &[]),
        |driver| driver.post_raw(REQUESTS, u16::MAX, &[]),
    ];
    for break_ring in breaks {
        break_ring(&mut guest.driver);
        guest.driver.kick_always(REQUESTS);
        guest.device.reset();
        assert!(guest.driver.take_used(REQUESTS).is_none());
        guest.driver = FakeDriver::start(&mut guest.device).unwrap();
        guest.init();
        guest.share = guest.lookup(ROOT_ID, SHARE).unwrap().nodeid;
    }
}

#[test]
fn rings_outside_of_memory_are_refused() {
    use crate::devices::{Activation, ActiveQueue};
    use virtio_queue::{Queue, QueueT};
    let mut device = FsDevice::new(Exports::new(), "runvm").unwrap();
    let memory = FakeDriver::start(&mut device).unwrap().memory().clone();
    let mut queue = Queue::new(128).unwrap();
    queue.set_desc_table_address(Some(0xffff_f000), Some(1));
    queue.set_ready(true);
    let kick = vmm_sys_util::eventfd::EventFd::new(0).unwrap();
    let interrupt = std::sync::Arc::new(crate::devices::fake_driver::Interrupts::default());
    let queues = vec![None, Some(ActiveQueue { queue, kick })];
    let activation = Activation {
        memory,
        interrupt,
        features: 0,
        queues,
    };
    assert!(device.activate(activation).is_err());
}

#[test]
fn headers_and_lengths_that_lie_are_answered_with_an_error_or_not_at_all() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let header = guest.header(opcode::GETATTR, guest.share, 16, 0);
    for length in 0..IN_HEADER_BYTES {
        let used = guest
            .driver
            .call(REQUESTS, &[&header.as_bytes()[..length]], &[256]);
        assert_eq!(used.len, 0, "{length} bytes of a header");
    }
    for len in [0, 39, 57, 1 << 20, u32::MAX] {
        let header = InHeader { len, ..header };
        let used = guest
            .driver
            .call(REQUESTS, &[header.as_bytes(), &[0; 16]], &[256]);
        let (out, _) = OutHeader::read_from_prefix(&used.bytes).unwrap();
        assert_eq!(
            (used.len, out.error),
            (16, -libc::EINVAL),
            "a length of {len}"
        );
    }
    for total_extlen in [3, u16::MAX] {
        let header = InHeader {
            total_extlen,
            ..header
        };
        let used = guest
            .driver
            .call(REQUESTS, &[header.as_bytes(), &[0; 16]], &[256]);
        let (out, _) = OutHeader::read_from_prefix(&used.bytes).unwrap();
        assert_eq!(out.error, -libc::EINVAL, "extensions of {total_extlen}");
    }
}

#[test]
fn a_reply_never_exceeds_the_room_for_it() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    for room in 1..120 {
        let header = guest.header(opcode::GETATTR, guest.share, 16, 0);
        let used = guest
            .driver
            .call(REQUESTS, &[header.as_bytes(), &[0; 16]], &[room]);
        // The header with an error, once that fits.
        assert_eq!(
            used.len,
            if room < OUT_HEADER_BYTES { 0 } else { 16 },
            "room for {room}"
        );
    }
}

#[test]
fn a_request_without_room_for_a_reply_is_not_carried_out() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let name = nul("directory");
    let args = [
        MkdirIn {
            mode: 0o755,
            umask: 0,
        }
        .as_bytes(),
        &name,
    ]
    .concat();
    let header = guest.header(opcode::MKDIR, guest.share, args.len(), 0);
    let used = guest
        .driver
        .call(REQUESTS, &[header.as_bytes(), &args], &[15]);
    assert_eq!(used.len, 0);
    assert!(!guest.host("directory").exists());
}

/// A generator of the same numbers each time (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number of the kind that arithmetic goes wrong with.
    fn odd(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => (1 << self.below(64)) - 1,
            4 => u64::from(u32::MAX),
            5 => self.next(),
            _ => self.below(16),
        }
    }
}

#[test]
fn requests_of_any_shape_neither_stop_the_device_nor_leave_the_export() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let outside = guest.folder.0.join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), b"secret").unwrap();
    let names: [&[u8]; 9] = [
        b"a",
        b"b",
        b"c",
        b"..",
        b".",
        b"",
        b"../outside",
        b"a/b",
        b"\xff\xfe",
    ];
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for round in 0..20_000 {
        // All opcodes but INIT and DESTROY, which would make the rest dull, and SYNCFS.
        let code = match numbers.below(60) {
            26 | 38 | 50 => continue,
            code => u32::try_from(code).unwrap(),
        };
        let node = match numbers.below(4) {
            0 => numbers.odd(),
            _ => numbers.below(12),
        };
        let mut args = Vec::new();
        for _ in 0..numbers.below(8) {
            match numbers.below(3) {
                0 => args.extend(
                    names[usize::try_from(numbers.below(9)).unwrap()]
                        .iter()
                        .chain(b"\0"),
                ),
                1 => args.extend(numbers.odd().to_le_bytes()),
                _ => args.extend(numbers.odd().to_le_bytes()[..4].iter()),
            }
        }
        guest.uid = u32::try_from(numbers.below(3)).unwrap();
        guest.gid = u32::try_from(numbers.below(3)).unwrap();
        let mut header = guest.header(code, node, args.len(), 0);
        if numbers.below(16) == 0 {
            header.total_extlen = (numbers.odd() & 0xffff) as u16;
        }
        let room = usize::try_from(numbers.below(6000)).unwrap() + 1;
        let used = guest
            .driver
            .call(REQUESTS, &[header.as_bytes(), &args], &[room]);
        assert!(used.len as usize <= room, "round {round}");
    }
    (guest.uid, guest.gid) = (0, 0);
    assert!(guest.lookup(ROOT_ID, SHARE).is_ok());
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"secret");
    let around: Vec<_> = std::fs::read_dir(&guest.folder.0).unwrap().collect();
    assert_eq!(
        around.len(),
        2,
        "nothing was made beside the export: {around:?}"
    );
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn rings_of_random_bytes_are_survived() {
    let Some(mut guest) = Guest::mounted() else {
        return;
    };
    let mut numbers = Numbers(42);
    for _ in 0..2000 {
        let mut chain = Vec::new();
        for _ in 0..1 + numbers.below(6) {
            let addr = match numbers.below(3) {
                0 => numbers.odd(),
                1 => REQUEST,
                _ => REPLY,
            };
            let len = u32::try_from(numbers.odd() & 0xffff_ffff).unwrap();
            let flags = u16::try_from(numbers.below(8)).unwrap();
            // Never the rings themselves, which only the driver may break: that is tested above.
            let addr = if addr < REQUEST { REQUEST } else { addr };
            chain.push(descriptor(
                addr,
                len.min(16 << 20),
                flags,
                u16::try_from(numbers.below(8)).unwrap(),
            ));
        }
        raw(&mut guest, &chain);
    }
    assert!(guest.lookup(ROOT_ID, SHARE).is_ok());
}
