//! The transport, driven as a driver would and as an enemy would.

use std::sync::Mutex;

use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::*;
use crate::devices::fake_driver::Random;
use crate::lock::lock;

const MEMORY_BYTES: usize = 1 << 20;
const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

/// What has been done to a [`FakeDevice`].
#[derive(Default)]
struct Seen {
    activations: Vec<Activation>,
    active: bool,
    resets: u32,
    config_writes: Vec<(u64, Vec<u8>)>,
    refuse: bool,
}

#[derive(Clone, Default)]
struct FakeDevice(Arc<Mutex<Seen>>);

impl VirtioDevice for FakeDevice {
    fn device_type(&self) -> u32 {
        26
    }
    fn features(&self) -> u64 {
        EVENT_IDX | 1
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256, 64]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (byte, address) in data.iter_mut().zip(offset..) {
            *byte = address.to_le_bytes()[0];
        }
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        lock(&self.0).config_writes.push((offset, data.to_vec()));
    }
    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let mut seen = lock(&self.0);
        assert!(!seen.active, "activated twice without a reset");
        if seen.refuse {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let memory = activation.memory.memory();
        for queue in activation.queues.iter().flatten() {
            assert!(queue.queue.is_valid(&*memory), "an unusable queue came");
        }
        drop(memory);
        seen.active = true;
        seen.activations.push(activation);
        Ok(())
    }
    fn reset(&mut self) {
        let mut seen = lock(&self.0);
        seen.active = false;
        seen.resets += 1;
    }
}

struct Driver {
    transport: MmioTransport,
    device: FakeDevice,
}

impl Driver {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
        let device = FakeDevice::default();
        let transport =
            MmioTransport::new(Box::new(device.clone()), GuestMemory::new(memory)).unwrap();
        Self { transport, device }
    }

    fn read(&mut self, offset: u32) -> u32 {
        let mut data = [0xaa; 4];
        self.transport.read(offset.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, offset: u32, value: u32) {
        self.transport.write(offset.into(), &value.to_le_bytes());
    }

    fn status(&mut self) -> u32 {
        self.read(register::VIRTIO_MMIO_STATUS)
    }

    fn add_status(&mut self, bits: u32) -> u32 {
        let status = self.status();
        self.write(register::VIRTIO_MMIO_STATUS, status | bits);
        self.status()
    }

    fn accept(&mut self, features: u64) {
        for (select, half) in [(0, Half::Low), (1, Half::High)] {
            self.write(register::VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.write(register::VIRTIO_MMIO_DRIVER_FEATURES, half.of(features));
        }
    }

    fn negotiate(&mut self, features: u64) -> u32 {
        self.add_status(ACKNOWLEDGE);
        self.add_status(DRIVER);
        self.accept(features);
        self.add_status(FEATURES_OK)
    }

    fn set_up_queue(&mut self, number: u32, size: u32, at: u64) {
        self.write(register::VIRTIO_MMIO_QUEUE_SEL, number);
        self.write(register::VIRTIO_MMIO_QUEUE_NUM, size);
        for (low, address) in [
            (register::VIRTIO_MMIO_QUEUE_DESC_LOW, at),
            (register::VIRTIO_MMIO_QUEUE_AVAIL_LOW, at + 0x1000),
            (register::VIRTIO_MMIO_QUEUE_USED_LOW, at + 0x2000),
        ] {
            self.write(low, Half::Low.of(address));
            self.write(low + 4, Half::High.of(address));
        }
        self.write(register::VIRTIO_MMIO_QUEUE_READY, 1);
    }

    fn start(&mut self) {
        self.negotiate(VERSION_1 | EVENT_IDX);
        self.set_up_queue(0, 128, 0x1000);
        self.set_up_queue(1, 64, 0x8000);
        let status = self.add_status(DRIVER_OK);
        assert_eq!(status, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }
}

#[test]
fn the_driver_finds_a_version_2_device_of_the_right_type() {
    let mut driver = Driver::new();
    assert_eq!(driver.read(register::VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(driver.read(register::VIRTIO_MMIO_VERSION), 2);
    assert_eq!(driver.read(register::VIRTIO_MMIO_DEVICE_ID), 26);
    assert_eq!(driver.read(register::VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    assert_eq!(driver.read(register::VIRTIO_MMIO_SHM_LEN_HIGH), u32::MAX);
    assert_eq!(driver.read(QUEUE_RESET), 0);
    for (queue, size) in [(0, 256), (1, 64), (2, 0), (u32::MAX, 0)] {
        driver.write(register::VIRTIO_MMIO_QUEUE_SEL, queue);
        assert_eq!(driver.read(register::VIRTIO_MMIO_QUEUE_NUM_MAX), size);
    }
}

#[test]
fn features_are_offered_in_halves_with_version_1_among_them() {
    let mut driver = Driver::new();
    let offered = EVENT_IDX | 1 | VERSION_1;
    for (select, bits) in [
        (0, Half::Low.of(offered)),
        (1, Half::High.of(offered)),
        (2, 0),
        (u32::MAX, 0),
    ] {
        driver.write(register::VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
        assert_eq!(driver.read(register::VIRTIO_MMIO_DEVICE_FEATURES), bits);
    }
}

#[test]
fn a_driver_that_goes_by_the_book_starts_the_device_with_what_it_set() {
    let mut driver = Driver::new();
    driver.start();
    let seen = lock(&driver.device.0);
    let [activation] = &seen.activations[..] else {
        panic!("activated {} times", seen.activations.len());
    };
    assert_eq!(activation.features, VERSION_1 | EVENT_IDX);
    let queues: Vec<_> = activation.queues.iter().flatten().collect();
    assert_eq!(queues.len(), 2);
    assert_eq!(queues[0].queue.size(), 128);
    assert_eq!(queues[0].queue.desc_table(), 0x1000);
    assert_eq!(queues[0].queue.avail_ring(), 0x2000);
    assert_eq!(queues[0].queue.used_ring(), 0x3000);
    assert!(queues[0].queue.event_idx_enabled());
    assert_eq!(queues[1].queue.size(), 64);
}

#[test]
fn a_queue_left_disabled_is_none() {
    let mut driver = Driver::new();
    driver.negotiate(VERSION_1);
    driver.set_up_queue(1, 64, 0x8000);
    driver.add_status(DRIVER_OK);
    let seen = lock(&driver.device.0);
    let queues = &seen.activations[0].queues;
    assert!(queues[0].is_none() && queues[1].is_some());
    assert!(!queues[1].as_ref().unwrap().queue.event_idx_enabled());
}

#[test]
fn features_that_were_not_offered_or_lack_version_1_are_not_agreed_on() {
    for features in [0, EVENT_IDX, VERSION_1 | 1 << 40, VERSION_1 | 2] {
        let mut driver = Driver::new();
        assert_eq!(
            driver.negotiate(features),
            ACKNOWLEDGE | DRIVER,
            "{features:#x}"
        );
        assert_eq!(driver.add_status(DRIVER_OK), ACKNOWLEDGE | DRIVER);
        assert!(lock(&driver.device.0).activations.is_empty());
    }
}

#[test]
fn features_do_not_change_once_agreed_on() {
    let mut driver = Driver::new();
    driver.negotiate(VERSION_1);
    driver.accept(VERSION_1 | EVENT_IDX);
    driver.add_status(DRIVER_OK);
    assert_eq!(lock(&driver.device.0).activations[0].features, VERSION_1);
}

#[test]
fn status_bits_out_of_order_are_ignored_and_none_is_taken_back() {
    let cases = [
        ("driver first", DRIVER, 0),
        ("ok first", DRIVER_OK, 0),
        (
            "features first",
            ACKNOWLEDGE | FEATURES_OK | DRIVER_OK,
            ACKNOWLEDGE,
        ),
        ("the device's own bit", NEEDS_RESET, 0),
        ("bits that do not exist", 0xffff_ff30, 0),
    ];
    for (name, written, expected) in cases {
        let mut driver = Driver::new();
        driver.write(register::VIRTIO_MMIO_STATUS, written);
        assert_eq!(driver.status(), expected, "{name}");
    }
    let mut driver = Driver::new();
    driver.start();
    driver.write(register::VIRTIO_MMIO_STATUS, ACKNOWLEDGE);
    assert_eq!(
        driver.status(),
        ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
    );
}

#[test]
fn nothing_of_a_queue_changes_after_driver_ok() {
    let mut driver = Driver::new();
    driver.start();
    for queue in [0, 1] {
        driver.set_up_queue(queue, 1024, 0xffff_ffff_ffff_0000);
        driver.write(register::VIRTIO_MMIO_QUEUE_READY, 0);
        assert_eq!(driver.read(register::VIRTIO_MMIO_QUEUE_READY), 1);
    }
    driver.add_status(DRIVER_OK);
    let seen = lock(&driver.device.0);
    assert_eq!(seen.activations.len(), 1);
    assert_eq!(seen.resets, 0);
}

#[test]
fn a_ready_queue_keeps_its_addresses_and_size() {
    let mut driver = Driver::new();
    driver.negotiate(VERSION_1);
    driver.set_up_queue(0, 128, 0x1000);
    driver.set_up_queue(0, 4, 0x9000);
    driver.add_status(DRIVER_OK);
    let seen = lock(&driver.device.0);
    let queue = &seen.activations[0].queues[0].as_ref().unwrap().queue;
    assert_eq!((queue.size(), queue.desc_table()), (128, 0x1000));
}

#[test]
fn a_queue_that_cannot_be_served_asks_for_a_reset_and_the_device_does_not_start() {
    let cases = [
        ("size zero", 0, 0x1000),
        ("size not a power of two", 100, 0x1000),
        ("size above the largest", 512, 0x1000),
        ("size beyond 16 bits", 0x10080, 0x1000),
        ("misaligned", 128, 0x1001),
        ("outside of memory", 128, MEMORY_BYTES as u64),
        (
            "across the end of memory",
            128,
            MEMORY_BYTES as u64 - 0x2010,
        ),
        ("at the end of the address space", 128, u64::MAX - 0x2fff),
    ];
    for (name, size, at) in cases {
        let mut driver = Driver::new();
        driver.negotiate(VERSION_1);
        driver.set_up_queue(0, size, at);
        let status = driver.add_status(DRIVER_OK);
        assert_eq!(status & NEEDS_RESET, NEEDS_RESET, "{name}");
        assert_eq!(driver.read(register::VIRTIO_MMIO_INTERRUPT_STATUS), 2);
        assert!(lock(&driver.device.0).activations.is_empty(), "{name}");

        driver.write(register::VIRTIO_MMIO_STATUS, 0);
        driver.start();
    }
}

#[test]
fn a_device_that_cannot_start_asks_for_a_reset() {
    let mut driver = Driver::new();
    lock(&driver.device.0).refuse = true;
    driver.negotiate(VERSION_1);
    let status = driver.add_status(DRIVER_OK);
    assert_eq!(status & NEEDS_RESET, NEEDS_RESET);
}

#[test]
fn a_reset_stops_the_device_and_forgets_all() {
    let mut driver = Driver::new();
    for round in 1..=3 {
        driver.start();
        lock(&driver.device.0).activations[round - 1]
            .interrupt
            .signal_queue(0);
        driver.write(register::VIRTIO_MMIO_STATUS, 0);
        assert_eq!(lock(&driver.device.0).resets, u32::try_from(round).unwrap());
        assert_eq!(driver.status(), 0);
        assert_eq!(driver.read(register::VIRTIO_MMIO_QUEUE_READY), 0);
        assert_eq!(driver.read(register::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    }
    drop(driver.transport);
    assert_eq!(lock(&driver.device.0).resets, 3);
}

#[test]
fn the_end_of_the_machine_stops_the_device() {
    let mut driver = Driver::new();
    driver.start();
    drop(driver.transport);
    assert!(!lock(&driver.device.0).active);
}

#[test]
fn an_interrupt_is_seen_until_it_is_acknowledged() {
    let mut driver = Driver::new();
    driver.start();
    let interrupt = Arc::clone(&lock(&driver.device.0).activations[0].interrupt);
    let generation = driver.read(register::VIRTIO_MMIO_CONFIG_GENERATION);
    interrupt.signal_queue(1);
    interrupt.signal_config();
    assert_eq!(driver.transport.interrupt_event().read().unwrap(), 2);
    assert_eq!(driver.read(register::VIRTIO_MMIO_INTERRUPT_STATUS), 3);
    driver.write(register::VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(driver.read(register::VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    driver.write(register::VIRTIO_MMIO_INTERRUPT_ACK, u32::MAX);
    assert_eq!(driver.read(register::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    assert_eq!(
        driver.read(register::VIRTIO_MMIO_CONFIG_GENERATION),
        generation + 1
    );
}

#[test]
fn a_notification_kicks_the_queue_it_names() {
    let mut driver = Driver::new();
    driver.write(register::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    driver.start();
    for queue in [1, 2, u32::MAX] {
        driver.write(register::VIRTIO_MMIO_QUEUE_NOTIFY, queue);
    }
    let seen = lock(&driver.device.0);
    let kick = |queue: usize| {
        let queue = seen.activations[0].queues[queue].as_ref().unwrap();
        queue.kick.read()
    };
    assert_eq!(kick(1).unwrap(), 1);
    assert_eq!(kick(0).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn configuration_space_takes_any_width_and_registers_only_their_own() {
    let mut driver = Driver::new();
    let mut data = [0xaa; 8];
    driver.transport.read(0x104, &mut data);
    assert_eq!(data, [4, 5, 6, 7, 8, 9, 10, 11]);
    driver.transport.write(0x104, &[1]);
    assert!(lock(&driver.device.0).config_writes.is_empty());
    driver.start();
    driver.transport.write(0x104, &[1]);
    assert_eq!(lock(&driver.device.0).config_writes, [(4, vec![1])]);

    for (offset, len) in [(0, 1), (0, 2), (0, 8), (1, 4), (0xfe, 4), (4, 0)] {
        let mut data = vec![0xaa; len];
        driver.transport.read(offset, &mut data);
        assert_eq!(data, vec![0; len], "{offset} {len}");
    }
    driver
        .transport
        .write(register::VIRTIO_MMIO_STATUS.into(), &[0]);
    assert_ne!(driver.status(), 0);
}

/// One access of an enemy who knows the registers, and prefers values that mean something.
fn attack(driver: &mut Driver, random: &mut Random) {
    let offset = match random.below(8) {
        0 => random.next(),
        1 => random.below(MMIO_LEN),
        _ => random.below(0x41) * 4,
    };
    let value = match random.below(4) {
        0 => random.next(),
        1 => 1 << random.below(64),
        2 => random.below(16),
        _ => random.below(0x100) << 12,
    };
    let len = if random.below(8) == 0 {
        usize::try_from(random.below(9)).unwrap()
    } else {
        4
    };
    if random.below(3) == 0 {
        driver.transport.read(offset, &mut [0; 8][..len]);
    } else {
        driver.transport.write(offset, &value.to_le_bytes()[..len]);
    }
}

#[test]
fn no_sequence_of_accesses_breaks_the_register_file() {
    // The fake device holds what must be true: queues that came are usable, and no activation
    // comes without a reset between.
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut activations = 0;
    for round in 0..200 {
        let mut driver = Driver::new();
        for _ in 0..500 {
            // By itself chance would hardly ever come past FEATURES_OK.
            match random.below(60) {
                0 => drop(driver.negotiate(VERSION_1 | random.below(2))),
                1 => driver.set_up_queue(0, 128, random.below(0x40) << 12),
                2 => drop(driver.add_status(DRIVER_OK)),
                3 if round % 4 == 0 => driver.write(register::VIRTIO_MMIO_STATUS, 0),
                _ => attack(&mut driver, &mut random),
            }
        }
        activations += lock(&driver.device.0).activations.len();
        driver.write(register::VIRTIO_MMIO_STATUS, 0);
        driver.start();
    }
    assert!(activations > 50, "chance never started the device");
}
