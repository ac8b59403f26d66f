//! The back end against the vhost crate's own front end.

use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::devices::Interrupt;

const PATIENCE: Duration = Duration::from_secs(20);
/// Where the front end pretends to have the guest's memory.
const FRONT_END_BASE: u64 = 0x7f00_0000_0000;
const MEMORY_BYTES: u64 = 1 << 20;
const GUEST_BASE: u64 = 0x10_0000;

/// What the device is told.
enum Told {
    Activate(Activation),
    Reset,
}

/// A device with two queues that reports what it is told.
struct Reporter(Sender<Told>);

impl VirtioDevice for Reporter {
    fn device_type(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        1 << 5
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64, 64, 64]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = u8::try_from(at).unwrap();
        }
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        self.0
            .send(Told::Activate(activation))
            .map_err(io::Error::other)
    }

    fn reset(&mut self) {
        let _ = self.0.send(Told::Reset);
    }
}

/// A front end connected to a back end with a [`Reporter`].
struct Bench {
    front: Frontend,
    memory: File,
    told: Receiver<Told>,
    failures: Receiver<String>,
    _backend: Backend,
}

impl Bench {
    /// Up to the features.
    fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (say, told) = channel();
        let (fail, failures) = channel();
        let lost = move |why| drop(fail.send(why));
        let backend = Backend::serve(Box::new(Reporter(say)), ours, lost).unwrap();
        let mut front = Frontend::from_stream(theirs, 3);
        let offered = front.get_features().unwrap();
        let protocol = front.get_protocol_features().unwrap();
        front.set_protocol_features(protocol).unwrap();
        front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        front.set_owner().unwrap();
        front.set_features(offered).unwrap();
        let memory = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&memory, MEMORY_BYTES).unwrap();
        Self {
            front,
            memory,
            told,
            failures,
            _backend: backend,
        }
    }

    /// With memory.
    fn with_memory() -> Self {
        let bench = Self::new();
        bench
            .front
            .set_mem_table(&[bench.region(MEMORY_BYTES)])
            .unwrap();
        bench
    }

    fn region(&self, bytes: u64) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: GUEST_BASE,
            memory_size: bytes,
            userspace_addr: FRONT_END_BASE,
            mmap_offset: 0,
            mmap_handle: self.memory.as_raw_fd(),
        }
    }

    /// Sets up one ring as QEMU does; it is not enabled yet.
    fn set_up_ring(&self, ring: usize) -> vhost::Result<(EventFd, EventFd)> {
        self.set_up_ring_at(ring, FRONT_END_BASE + 0x4000 * u64::try_from(ring).unwrap())
    }

    fn set_up_ring_at(&self, ring: usize, at: u64) -> vhost::Result<(EventFd, EventFd)> {
        let (kick, call) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
        self.front.set_vring_num(ring, 128)?;
        self.front.set_vring_base(ring, 7)?;
        let places = VringConfigData {
            queue_max_size: 128,
            queue_size: 128,
            flags: 0,
            desc_table_addr: at,
            used_ring_addr: at + 0x2000,
            avail_ring_addr: at + 0x1000,
            log_addr: None,
        };
        self.front.set_vring_addr(ring, &places)?;
        self.front.set_vring_kick(ring, &kick)?;
        self.front.set_vring_call(ring, &call)?;
        Ok((kick, call))
    }

    fn enable(&mut self, ring: usize) {
        self.front.set_vring_enable(ring, true).unwrap();
    }

    fn activation(&self) -> Activation {
        match self.told.recv_timeout(PATIENCE) {
            Ok(Told::Activate(activation)) => activation,
            _ => panic!("the device was not activated"),
        }
    }

    fn expect_reset(&self) {
        assert!(matches!(self.told.recv_timeout(PATIENCE), Ok(Told::Reset)));
    }
}

#[test]
fn the_device_starts_with_the_rings_that_the_driver_uses_once_all_are_enabled() {
    let mut bench = Bench::with_memory();
    bench.memory.set_len(MEMORY_BYTES).unwrap();
    let (kick, _) = bench.set_up_ring(0).unwrap();
    bench.set_up_ring(1).unwrap();
    bench.enable(0);
    assert!(bench.told.try_recv().is_err(), "ring 1 is not enabled yet");
    bench.enable(1);
    let mut activation = bench.activation();
    assert_eq!(activation.features, 1 << 5 | 1 << VIRTIO_F_VERSION_1);
    assert_eq!(activation.queues.len(), 3);
    assert!(activation.queues[2].is_none(), "the driver left it out");
    let memory = activation.memory.memory();
    assert_eq!(memory.num_regions(), 1);
    let first = activation.queues[0].take().unwrap();
    assert_eq!((first.queue.size(), first.queue.next_avail()), (128, 7));
    assert_eq!(first.queue.desc_table(), GUEST_BASE);
    assert_eq!(first.queue.used_ring(), GUEST_BASE + 0x2000);
    kick.write(1).unwrap();
    assert_eq!(first.kick.read().unwrap(), 1);
    memory
        .write_obj(0x1234_u16, GuestAddress(GUEST_BASE + 0x100))
        .unwrap();
    let mut seen = [0; 2];
    std::os::unix::fs::FileExt::read_exact_at(&bench.memory, &mut seen, 0x100).unwrap();
    assert_eq!(u16::from_le_bytes(seen), 0x1234, "it is the same memory");
}

#[test]
fn interrupts_go_to_the_call_event_of_their_ring_also_to_a_new_one() {
    let mut bench = Bench::with_memory();
    let (_, call) = bench.set_up_ring(0).unwrap();
    bench.enable(0);
    let interrupt: Arc<dyn Interrupt> = bench.activation().interrupt;
    interrupt.signal_queue(0);
    assert_eq!(call.read().unwrap(), 1);
    let newer = EventFd::new(0).unwrap();
    bench.front.set_vring_call(0, &newer).unwrap();
    interrupt.signal_queue(0);
    assert_eq!(newer.read().unwrap(), 1);
    // Rings without event and rings that do not exist.
    interrupt.signal_queue(1);
    interrupt.signal_queue(9);
    interrupt.signal_config();
}

#[test]
fn a_ring_that_stops_stops_the_device_and_says_where_it_was() {
    let mut bench = Bench::with_memory();
    bench.set_up_ring(0).unwrap();
    bench.enable(0);
    let activation = bench.activation();
    let used_index = GuestAddress(GUEST_BASE + 0x2002);
    activation
        .memory
        .memory()
        .write_obj(9_u16, used_index)
        .unwrap();
    assert_eq!(bench.front.get_vring_base(0).unwrap(), 9);
    bench.expect_reset();
    assert_eq!(bench.front.get_vring_base(1).unwrap(), 0, "it never ran");
    // And again, as after a reset by the guest.
    bench.set_up_ring(0).unwrap();
    bench.enable(0);
    assert_eq!(
        bench.activation().queues[0]
            .as_ref()
            .unwrap()
            .queue
            .next_used(),
        9
    );
}

#[test]
fn a_disabled_ring_stops_the_device() {
    let mut bench = Bench::with_memory();
    bench.set_up_ring(0).unwrap();
    bench.enable(0);
    bench.activation();
    bench.front.set_vring_enable(0, false).unwrap();
    bench.expect_reset();
}

#[test]
fn a_front_end_that_leaves_stops_the_device_and_is_no_failure() {
    let mut bench = Bench::with_memory();
    bench.set_up_ring(0).unwrap();
    bench.enable(0);
    bench.activation();
    let Bench {
        front,
        told,
        failures,
        ..
    } = bench;
    drop(front);
    assert!(matches!(told.recv_timeout(PATIENCE), Ok(Told::Reset)));
    assert!(failures.recv_timeout(PATIENCE).is_err());
}

#[test]
fn rings_outside_of_the_guests_memory_are_refused() {
    for at in [
        0,
        FRONT_END_BASE - 1,
        FRONT_END_BASE + MEMORY_BYTES,
        u64::MAX - 0x2000,
    ] {
        let bench = Bench::with_memory();
        assert!(bench.set_up_ring_at(0, at).is_err(), "{at:#x}");
        assert!(bench.failures.recv_timeout(PATIENCE).is_ok());
    }
    // It begins inside and ends outside; and it is not aligned.
    for at in [FRONT_END_BASE + MEMORY_BYTES - 0x2010, FRONT_END_BASE + 1] {
        let mut bench = Bench::with_memory();
        let set_up = bench.set_up_ring_at(0, at);
        let enabled = set_up.and_then(|_| bench.front.set_vring_enable(0, true));
        assert!(enabled.is_err(), "{at:#x}");
    }
}

#[test]
fn memory_that_its_file_does_not_have_is_refused() {
    let bench = Bench::new();
    assert!(
        bench
            .front
            .set_mem_table(&[bench.region(MEMORY_BYTES + 4096)])
            .is_err()
    );
    let overlapping = Bench::new();
    let region = overlapping.region(MEMORY_BYTES);
    assert!(overlapping.front.set_mem_table(&[region, region]).is_err());
}

#[test]
fn ring_numbers_and_sizes_that_cannot_be_are_refused() {
    for size in [0, 3, 2048] {
        let bench = Bench::with_memory();
        assert!(bench.front.set_vring_num(0, size).is_err(), "{size}");
    }
    let bench = Bench::with_memory();
    bench.set_up_ring(0).unwrap();
    let features = bench.front.get_features().unwrap();
    assert!(bench.front.set_features(features | 1 << 60).is_err());
}

#[test]
fn the_configuration_space_is_the_devices() {
    let mut bench = Bench::new();
    let flags = VhostUserConfigFlags::WRITABLE;
    let (_, bytes) = bench.front.get_config(4, 3, flags, &[0; 3]).unwrap();
    assert_eq!(bytes, [4, 5, 6]);
    assert_eq!(bench.front.get_queue_num().unwrap(), 3);
}
