//! The device between a fake driver and a wire: a pair of sockets, one of which it takes for its tap.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use runvm_sys::tap::{HEADER_BYTES, Tap};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net as bit;
use virtio_bindings::virtio_ring::{
    VIRTIO_RING_F_INDIRECT_DESC, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use zerocopy::{FromBytes, IntoBytes};

use super::wire::{Header, MOST_FRAME_BYTES, NEEDS_CHECKSUM};
use super::*;
use crate::devices::fake_driver::{
    FakeDriver, HIGH_MEMORY, Interrupts, LOW_MEMORY, Random, RawDescriptor,
};

const RX: usize = 0;
const TX: usize = 1;
const MAC: MacAddress = [2, 0, 0, 0, 0, 9];

struct Bench {
    device: NetDevice,
    driver: FakeDriver,
    wire: UnixDatagram,
}

fn device(queues: usize) -> (NetDevice, Vec<UnixDatagram>) {
    let (taps, wires) = (0..queues)
        .map(|_| {
            let (tap, wire) = UnixDatagram::pair().unwrap();
            tap.set_nonblocking(true).unwrap();
            wire.set_read_timeout(Some(std::time::Duration::from_secs(20)))
                .unwrap();
            (Tap::from_fd(OwnedFd::from(tap)), wire)
        })
        .unzip();
    (NetDevice::new(NetConfig { taps, mac: MAC }).unwrap(), wires)
}

impl Bench {
    fn new() -> Self {
        let (mut device, mut wires) = device(1);
        let driver = FakeDriver::start(&mut device).unwrap();
        let wire = wires.remove(0);
        Self {
            device,
            driver,
            wire,
        }
    }

    fn with_features(wanted: u64) -> Self {
        let (mut device, mut wires) = device(1);
        let features = 1 << VIRTIO_F_VERSION_1 | wanted;
        let driver = FakeDriver::start_with(&mut device, features).unwrap();
        let wire = wires.remove(0);
        Self {
            device,
            driver,
            wire,
        }
    }

    /// The next frame on the wire, with its header.
    fn taken(&self) -> (Header, Vec<u8>) {
        let mut bytes = vec![0; HEADER_BYTES + MOST_FRAME_BYTES + 1];
        let length = self.wire.recv(&mut bytes).expect("a frame comes");
        let (header, frame) = Header::read_from_prefix(&bytes[..length]).unwrap();
        (header, frame.to_vec())
    }

    /// Puts a frame on the wire.
    fn put(&self, header: Header, frame: &[u8]) {
        let bytes = [header.as_bytes(), frame].concat();
        self.wire.send(&bytes).unwrap();
    }

    /// Whether frames still pass both ways.
    fn works(&mut self) {
        let frame = pattern(100);
        self.driver
            .post(TX, &[Header::default().as_bytes(), &frame], &[]);
        self.driver.kick_always(TX);
        while self.taken().1 != frame {}
        // One for what was on the wire before.
        for _ in 0..2 {
            self.driver.post(RX, &[], &[2048]);
        }
        self.driver.kick_always(RX);
        self.put(Header::default(), &frame);
        while !self.driver.wait_used(RX).bytes.ends_with(&frame) {}
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..=250).cycle().take(bytes).collect()
}

#[test]
fn the_configuration_says_the_address_and_the_number_of_queue_pairs() {
    let (device, _wires) = device(3);
    let mut config = [0xff; 12];
    device.read_config(0, &mut config);
    assert_eq!(config, [2, 0, 0, 0, 0, 9, 0, 0, 3, 0, 0, 0]);
    device.read_config(u64::MAX, &mut config);
    assert_eq!(config, [0; 12]);
    assert_eq!(device.queue_sizes().len(), 7);
}

#[test]
fn a_frame_of_the_guest_reaches_the_wire_however_it_is_cut_into_descriptors() {
    let mut bench = Bench::new();
    let header = Header {
        flags: NEEDS_CHECKSUM,
        gso_type: 1,
        header_len: 54.into(),
        gso_size: 1448.into(),
        checksum_start: 34.into(),
        checksum_offset: 16.into(),
        buffers: 9.into(),
    };
    let frame = pattern(MOST_FRAME_BYTES);
    let whole = [header.as_bytes(), &frame].concat();
    for cuts in [
        vec![],
        vec![12],
        vec![1, 7, 11, 20],
        vec![12, 26, 4000, 60_000],
    ] {
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut from = 0;
        for to in cuts.into_iter().chain([whole.len()]) {
            parts.push(&whole[from..to]);
            from = to;
        }
        bench.driver.call(TX, &parts, &[]);
        let (sent, bytes) = bench.taken();
        assert_eq!(
            sent,
            Header {
                buffers: 0.into(),
                ..header
            }
        );
        assert_eq!(bytes, frame);
    }
}

#[test]
fn what_is_no_frame_is_given_back_and_never_reaches_the_wire() {
    let mut bench = Bench::new();
    let segments_of_nothing = Header {
        gso_type: 1,
        ..Header::default()
    };
    let cases: [&[u8]; 5] = [
        &[],
        &[0; HEADER_BYTES - 1],
        &[0; HEADER_BYTES + 13],
        &vec![0; HEADER_BYTES + MOST_FRAME_BYTES + 1],
        &[segments_of_nothing.as_bytes(), &[0; 100]].concat(),
    ];
    for bytes in cases {
        assert_eq!(bench.driver.call(TX, &[bytes], &[]).len, 0);
    }
    let frame = pattern(14);
    bench.driver.call(TX, &[&[0; HEADER_BYTES], &frame], &[]);
    assert_eq!(bench.taken().1, frame);
}

#[test]
fn a_frame_of_the_wire_lies_over_as_many_buffers_as_it_takes() {
    let mut bench = Bench::new();
    let frame = pattern(MOST_FRAME_BYTES);
    for _ in 0..40 {
        bench.driver.post(RX, &[], &[1000, 800]);
    }
    bench.driver.kick(RX);
    bench.put(Header::default(), &frame);
    let first = bench.driver.wait_used(RX);
    let (header, mut bytes) = {
        let (header, bytes) = Header::read_from_prefix(&first.bytes).unwrap();
        (header, bytes.to_vec())
    };
    // (12 + 65550) / 1800, rounded up.
    assert_eq!(header.buffers.get(), 37);
    for _ in 1..37 {
        // All at once: nothing has to be waited for.
        bytes.extend(bench.driver.take_used(RX).expect("it is there").bytes);
    }
    assert_eq!(bytes, frame);
    assert!(bench.driver.take_used(RX).is_none());
}

#[test]
fn a_frame_waits_until_the_driver_has_buffers_for_all_of_it() {
    let mut bench = Bench::new();
    let frame = pattern(1500);
    bench.driver.post(RX, &[], &[1000]);
    bench.driver.kick(RX);
    bench.put(Header::default(), &frame);
    // The transmit queue is served by the same thread: after it, the frame has been looked at.
    bench.driver.call(TX, &[&[0; HEADER_BYTES], &frame], &[]);
    assert!(bench.driver.take_used(RX).is_none());
    bench.driver.post(RX, &[], &[1000]);
    bench.driver.kick(RX);
    assert_eq!(bench.driver.wait_used(RX).len, 1000);
    assert_eq!(bench.driver.take_used(RX).expect("it is there").len, 512);
}

#[test]
fn a_driver_without_mergeable_buffers_loses_what_does_not_fit_into_one() {
    let mut bench = Bench::with_features(0);
    let frame = pattern(200);
    bench.driver.post(RX, &[], &[100]);
    bench.driver.post(RX, &[], &[300]);
    bench.driver.kick_always(RX);
    let checked = Header {
        flags: 2,
        ..Header::default()
    };
    bench.put(checked, &frame);
    bench.put(checked, &frame);
    assert_eq!(bench.driver.wait_used(RX).len, 0);
    let used = bench.driver.wait_used(RX);
    let (header, bytes) = Header::read_from_prefix(&used.bytes).unwrap();
    // What was not negotiated is not said.
    assert_eq!((header.flags, header.buffers.get()), (0, 1));
    assert_eq!(bytes, frame);
}

#[test]
fn chains_that_no_driver_may_make_do_not_keep_frames_from_passing() {
    let next = u16::try_from(VRING_DESC_F_NEXT).unwrap();
    let write = u16::try_from(VRING_DESC_F_WRITE).unwrap();
    let indirect = u16::try_from(VRING_DESC_F_INDIRECT).unwrap();
    let buffer = |addr, len, flags, next| RawDescriptor {
        addr,
        len,
        flags,
        next,
    };
    let low = 8 << 20;
    let cases = [
        vec![buffer(low, 64, next, 0)],
        vec![buffer(low, 64, next, 1), buffer(low, 64, next, 0)],
        vec![buffer(low, 64, next, 999)],
        vec![buffer(low, u32::MAX, 0, 0)],
        vec![buffer(u64::MAX, 64, 0, 0)],
        vec![buffer(LOW_MEMORY.1 as u64 - 10, 64, 0, 0)],
        vec![buffer(HIGH_MEMORY.0 - 1, 64, 0, 0)],
        vec![buffer(low, 64, write, 0)],
        vec![buffer(low, 64, next, 1), buffer(low, 64, write, 0)],
        vec![buffer(low, 64, indirect, 0)],
        vec![buffer(low, 16 * 65_536, indirect, 0)],
        vec![buffer(u64::MAX - 15, 16, indirect, 0)],
    ];
    for queue in [RX, TX] {
        for descriptors in &cases {
            let mut bench = Bench::with_features(
                1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << bit::VIRTIO_NET_F_MRG_RXBUF,
            );
            let mut descriptors = descriptors.clone();
            if queue == RX {
                descriptors.iter_mut().for_each(|one| one.flags ^= write);
            }
            bench.driver.set_aside(queue, descriptors.len());
            bench.driver.post_raw(queue, 0, &descriptors);
            bench.driver.kick_always(queue);
            bench.put(Header::default(), &pattern(60));
            bench.works();
        }
    }
}

#[test]
fn a_ring_that_promises_more_than_it_holds_can_be_left_by_a_reset() {
    for queue in [RX, TX] {
        for by in [1, 300, 40_000, u16::MAX] {
            let mut bench = Bench::new();
            bench.driver.skip_available_raw(queue, by);
            bench.driver.kick_always(queue);
            bench.put(Header::default(), &pattern(60));
            bench.device.reset();
        }
    }
}

#[test]
fn commands_of_the_control_queue_that_mean_nothing_are_refused() {
    let (mut device, _wires) = device(2);
    let mut driver = FakeDriver::start(&mut device).unwrap();
    let control = 4;
    let commands: [&[u8]; 7] = [
        &[],
        &[4],
        &[4, 0, 1],
        &[4, 0, 0, 0],
        &[4, 0, 3, 0],
        &[4, 1, 1, 0],
        &[9, 9, 9, 9],
    ];
    for command in commands {
        let used = driver.call(control, &[command], &[1]);
        assert_eq!(used.bytes, [1], "{command:?}");
    }
    // Without room for an answer there is none.
    assert_eq!(driver.call(control, &[&[4, 0, 1, 0]], &[]).len, 0);
}

fn any_descriptor(random: &mut Random) -> RawDescriptor {
    let addr = match random.below(4) {
        0 => random.next(),
        1 => HIGH_MEMORY.0 + random.below(HIGH_MEMORY.1 as u64),
        _ => (8 << 20) + random.below(1 << 20),
    };
    let len = match random.below(4) {
        0 => random.below(1 << 32),
        1 => random.below(1 << 17),
        _ => random.below(2000),
    };
    RawDescriptor {
        addr,
        len: u32::try_from(len).unwrap(),
        flags: u16::try_from(random.below(8)).unwrap(),
        next: u16::try_from(random.below(20)).unwrap(),
    }
}

#[test]
fn nothing_that_a_driver_writes_into_its_rings_stops_the_device_for_good() {
    for seed in 1..=60 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let (mut device, mut wires) = device(1);
        let wire = wires.remove(0);
        let features = device.features() & random.next() | 1 << VIRTIO_F_VERSION_1;
        let mut driver = FakeDriver::start_with(&mut device, features).unwrap();
        for _ in 0..60 {
            let queue = usize::try_from(random.below(2)).unwrap();
            let descriptors: Vec<_> = (0..16).map(|_| any_descriptor(&mut random)).collect();
            let head = u16::try_from(random.below(17)).unwrap();
            driver.post_raw(queue, head, &descriptors);
            if random.below(16) == 0 {
                let by = u16::try_from(random.below(65_536)).unwrap();
                driver.skip_available_raw(queue, by);
            }
            driver.kick_always(queue);
            // Full of frames, the wire takes no more.
            wire.set_nonblocking(true).unwrap();
            let frame = vec![0; usize::try_from(random.below(70_000)).unwrap()];
            let _ = wire.send(&frame);
            while wire.recv(&mut [0; 100]).is_ok() {}
        }
        let memory = driver.memory().clone();
        device.reset();
        // What still waits would keep the wire full.
        while device.taps[0].receive(&mut [0; 8]).is_ok() {}
        wire.set_nonblocking(false).unwrap();
        let driver = FakeDriver::start_on(&mut device, features, memory).unwrap();
        let mut bench = Bench {
            device,
            driver,
            wire,
        };
        bench.works();
    }
}

#[test]
fn a_device_without_its_queues_does_not_start() {
    let (mut device, _wires) = device(1);
    let driver = FakeDriver::start(&mut device).unwrap();
    let activation = Activation {
        memory: driver.memory().clone(),
        interrupt: Arc::new(Interrupts::default()),
        features: 1 << VIRTIO_F_VERSION_1,
        queues: vec![None, None],
    };
    assert!(device.activate(activation).is_err());
}
