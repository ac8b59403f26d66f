//! A driver on real guest memory, so that a device can be tested from the guest's side.
//!
//! [`FakeDriver::start`] does what a guest's kernel does: accepts every feature, lays the rings
//! out in guest memory and activates the device. It honours `VIRTIO_F_EVENT_IDX` both ways, so a
//! device that loses a notification makes [`FakeDriver::wait_used`] fail. The `_raw` methods
//! write what a broken or hostile driver would.

use std::io;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT,
    VRING_DESC_F_WRITE,
};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Activation, ActiveQueue, GuestMemory, Interrupt, VirtioDevice};

/// Guest memory lies in two regions with a hole between, as below and above the MMIO gap.
pub(crate) const LOW_MEMORY: (u64, usize) = (0, 32 << 20);
/// The region above the hole.
pub(crate) const HIGH_MEMORY: (u64, usize) = (64 << 20, 1 << 20);

/// Where the rings begin; page 0 stays unused, so that address 0 is never right.
const RINGS: u64 = 0x1000;
/// Where buffers are taken from.
const BUFFERS: u64 = 4 << 20;
/// How long a device may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// One descriptor as the ring holds it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RawDescriptor {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// A chain the device has given back.
#[derive(Debug)]
pub(crate) struct Used {
    /// The head that [`FakeDriver::post`] returned.
    pub(crate) head: u16,
    /// The length the device claims to have written.
    pub(crate) len: u32,
    /// What the writable descriptors hold, cut to `len`.
    pub(crate) bytes: Vec<u8>,
}

/// Counts the interrupts of each queue.
#[derive(Default)]
pub(crate) struct Interrupts {
    queues: Mutex<Vec<u64>>,
    raised: Condvar,
}

impl Interrupt for Interrupts {
    fn signal_queue(&self, queue: u16) {
        let mut queues = self.queues.lock().unwrap();
        let queue = usize::from(queue);
        if queues.len() <= queue {
            queues.resize(queue + 1, 0);
        }
        queues[queue] += 1;
        self.raised.notify_all();
    }

    fn signal_config(&self) {}
}

/// The driver's half of one split ring.
struct DriverQueue {
    size: u16,
    descriptors: u64,
    avail: u64,
    used: u64,
    kick: EventFd,
    free: Vec<u16>,
    avail_index: u16,
    used_index: u16,
    posted: Vec<Posted>,
}

/// What the driver remembers of a chain until it comes back.
struct Posted {
    head: u16,
    descriptors: Vec<u16>,
    writable: Vec<(u64, usize)>,
}

/// A generator of numbers that repeats (xorshift64), so that a failure does too.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// See the module's documentation.
pub(crate) struct FakeDriver {
    memory: GuestMemory,
    queues: Vec<DriverQueue>,
    interrupts: Arc<Interrupts>,
    next_buffer: u64,
    outstanding: usize,
    event_idx: bool,
    /// Whether [`FakeDriver::post`] puts its chains into indirect tables.
    pub(crate) indirect: bool,
}

impl FakeDriver {
    /// Accepts all of the device's features, makes every queue ready at its largest size and
    /// activates the device.
    pub(crate) fn start(device: &mut dyn VirtioDevice) -> io::Result<Self> {
        let features = device.features() | 1 << VIRTIO_F_VERSION_1;
        Self::start_with(device, features)
    }

    /// Activates the device with only `features` accepted.
    pub(crate) fn start_with(device: &mut dyn VirtioDevice, features: u64) -> io::Result<Self> {
        let memory = GuestMemoryMmap::from_ranges(&[
            (GuestAddress(LOW_MEMORY.0), LOW_MEMORY.1),
            (GuestAddress(HIGH_MEMORY.0), HIGH_MEMORY.1),
        ])
        .unwrap();
        Self::start_on(device, features, GuestMemory::new(memory))
    }

    /// Activates the device on memory that an earlier driver used: a reset driver.
    pub(crate) fn start_on(
        device: &mut dyn VirtioDevice,
        features: u64,
        memory: GuestMemory,
    ) -> io::Result<Self> {
        let mut next_ring = RINGS;
        let queues: Vec<_> = (device.queue_sizes().iter())
            .map(|&size| DriverQueue::lay_out(size, &mut next_ring))
            .collect();
        assert!(next_ring <= BUFFERS, "the rings fit below the buffers");
        for queue in &queues {
            queue.clear(&memory.memory());
        }
        let interrupts = Arc::new(Interrupts::default());
        device.activate(Activation {
            memory: memory.clone(),
            interrupt: interrupts.clone(),
            features,
            queues: queues.iter().map(|queue| Some(queue.active())).collect(),
        })?;
        Ok(Self {
            memory,
            queues,
            interrupts,
            next_buffer: BUFFERS,
            outstanding: 0,
            event_idx: features & 1 << VIRTIO_RING_F_EVENT_IDX != 0,
            indirect: features & 1 << VIRTIO_RING_F_INDIRECT_DESC != 0,
        })
    }

    /// The guest's memory.
    pub(crate) fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// How often the device has interrupted for `queue`.
    pub(crate) fn interrupts(&self, queue: usize) -> u64 {
        self.interrupts
            .queues
            .lock()
            .unwrap()
            .get(queue)
            .copied()
            .unwrap_or(0)
    }

    /// Makes a chain available: one descriptor for each readable slice, then one for each
    /// writable length. Returns its head. The device is not told until [`Self::kick`].
    pub(crate) fn post(&mut self, queue: usize, readable: &[&[u8]], writable: &[usize]) -> u16 {
        let mut chain = Vec::new();
        for bytes in readable {
            let addr = self.buffer(bytes.len());
            self.memory
                .memory()
                .write_slice(bytes, GuestAddress(addr))
                .unwrap();
            chain.push((addr, bytes.len(), false));
        }
        let mut written = Vec::new();
        for &len in writable {
            let addr = self.buffer(len);
            chain.push((addr, len, true));
            written.push((addr, len));
        }
        if self.indirect {
            self.post_indirect(queue, &chain, written)
        } else {
            self.post_direct(queue, &chain, written)
        }
    }

    fn post_direct(
        &mut self,
        queue: usize,
        chain: &[(u64, usize, bool)],
        writable: Vec<(u64, usize)>,
    ) -> u16 {
        let ring = &mut self.queues[queue];
        let indices: Vec<u16> = chain
            .iter()
            .map(|_| ring.free.pop().expect("a free descriptor"))
            .collect();
        for (descriptor, &index) in link(chain, &indices).into_iter().zip(&indices) {
            let at = ring.descriptors + 16 * u64::from(index);
            write_descriptor(&self.memory.memory(), at, descriptor);
        }
        self.publish(queue, indices[0], indices, writable)
    }

    fn post_indirect(
        &mut self,
        queue: usize,
        chain: &[(u64, usize, bool)],
        writable: Vec<(u64, usize)>,
    ) -> u16 {
        let indices: Vec<u16> = (0..u16::try_from(chain.len()).unwrap()).collect();
        let table = self.buffer(16 * chain.len());
        for (descriptor, &index) in link(chain, &indices).into_iter().zip(&indices) {
            write_descriptor(
                &self.memory.memory(),
                table + 16 * u64::from(index),
                descriptor,
            );
        }
        let ring = &mut self.queues[queue];
        let head = ring.free.pop().expect("a free descriptor");
        let flags = u16::try_from(VRING_DESC_F_INDIRECT).unwrap();
        let len = u32::try_from(16 * chain.len()).unwrap();
        let descriptor = RawDescriptor {
            addr: table,
            len,
            flags,
            next: 0,
        };
        write_descriptor(
            &self.memory.memory(),
            ring.descriptors + 16 * u64::from(head),
            descriptor,
        );
        self.publish(queue, head, vec![head], writable)
    }

    /// Keeps the first `count` descriptors of the table for [`Self::post_raw`].
    pub(crate) fn set_aside(&mut self, queue: usize, count: usize) {
        let free = &mut self.queues[queue].free;
        free.retain(|&index| usize::from(index) >= count);
    }

    /// Writes `descriptors` to the start of the descriptor table as they are and makes `head`
    /// available. Not to be mixed with chains of [`Self::post`] that are still out.
    pub(crate) fn post_raw(&mut self, queue: usize, head: u16, descriptors: &[RawDescriptor]) {
        let table = self.queues[queue].descriptors;
        for (index, &descriptor) in descriptors.iter().enumerate() {
            write_descriptor(&self.memory.memory(), table + 16 * index as u64, descriptor);
        }
        self.publish(queue, head, Vec::new(), Vec::new());
    }

    /// Moves the index of the available ring by `by`, whatever was posted.
    pub(crate) fn skip_available_raw(&mut self, queue: usize, by: u16) {
        let ring = &mut self.queues[queue];
        ring.avail_index = ring.avail_index.wrapping_add(by);
        ring.store_avail_index(&self.memory.memory());
    }

    fn publish(
        &mut self,
        queue: usize,
        head: u16,
        descriptors: Vec<u16>,
        writable: Vec<(u64, usize)>,
    ) -> u16 {
        let memory = self.memory.memory();
        let ring = &mut self.queues[queue];
        let slot = ring.avail + 4 + 2 * u64::from(ring.avail_index % ring.size);
        memory.write_obj(head.to_le(), GuestAddress(slot)).unwrap();
        ring.avail_index = ring.avail_index.wrapping_add(1);
        ring.store_avail_index(&memory);
        ring.posted.push(Posted {
            head,
            descriptors,
            writable,
        });
        self.outstanding += 1;
        head
    }

    /// Tells the device of new chains, unless it asked not to be told yet.
    pub(crate) fn kick(&self, queue: usize) {
        let ring = &self.queues[queue];
        if self.event_idx {
            fence(Ordering::SeqCst);
            let at = ring.used + 4 + 8 * u64::from(ring.size);
            let event = u16::from_le(self.memory.memory().read_obj(GuestAddress(at)).unwrap());
            // All that was posted since the last kick is not remembered: one chain at a time is
            // what most tests post, and a superfluous kick is allowed.
            let behind = ring.avail_index.wrapping_sub(event).wrapping_sub(1);
            if behind >= ring.size {
                return;
            }
        }
        ring.kick.write(1).unwrap();
    }

    /// Tells the device of new chains in any case.
    pub(crate) fn kick_always(&self, queue: usize) {
        self.queues[queue].kick.write(1).unwrap();
    }

    /// Takes the next chain the device has given back, if there is one.
    pub(crate) fn take_used(&mut self, queue: usize) -> Option<Used> {
        let memory = self.memory.memory();
        let ring = &mut self.queues[queue];
        if ring.load_used_index(&memory) == ring.used_index {
            return None;
        }
        let slot = ring.used + 4 + 8 * u64::from(ring.used_index % ring.size);
        let head: u32 = memory.read_obj(GuestAddress(slot)).unwrap();
        let len: u32 = memory.read_obj(GuestAddress(slot + 4)).unwrap();
        let head = u16::try_from(u32::from_le(head)).expect("the used ring names a descriptor");
        ring.used_index = ring.used_index.wrapping_add(1);
        let at = ring.posted.iter().position(|posted| posted.head == head);
        let posted = ring
            .posted
            .remove(at.expect("the device gives back what was posted"));
        ring.free.extend(&posted.descriptors);
        let mut bytes = Vec::new();
        for &(addr, len) in &posted.writable {
            let mut part = vec![0; len];
            memory.read_slice(&mut part, GuestAddress(addr)).unwrap();
            bytes.extend(part);
        }
        let len = u32::from_le(len);
        assert!(
            posted.writable.is_empty() || len as usize <= bytes.len(),
            "the device overran"
        );
        bytes.truncate(len as usize);
        self.outstanding -= 1;
        if self.outstanding == 0 {
            self.next_buffer = BUFFERS;
        }
        Some(Used { head, len, bytes })
    }

    /// Waits for the device to give a chain back; fails the test when it does not.
    pub(crate) fn wait_used(&mut self, queue: usize) -> Used {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = self.interrupts(queue);
            self.queues[queue].ask_for_interrupt(&self.memory.memory());
            if let Some(used) = self.take_used(queue) {
                return used;
            }
            let queues = self.interrupts.queues.lock().unwrap();
            let patience = deadline.saturating_duration_since(Instant::now());
            let (_queues, waited) = (self.interrupts.raised)
                .wait_timeout_while(queues, patience, |queues| {
                    queues.get(queue).copied().unwrap_or(0) == before
                })
                .unwrap();
            assert!(
                !waited.timed_out(),
                "the device never used a chain of queue {queue}"
            );
        }
    }

    /// Posts a chain, kicks and waits until it comes back.
    pub(crate) fn call(&mut self, queue: usize, readable: &[&[u8]], writable: &[usize]) -> Used {
        let head = self.post(queue, readable, writable);
        self.kick(queue);
        let used = self.wait_used(queue);
        assert_eq!(used.head, head, "no other chain was out");
        used
    }

    /// An address for a buffer of `len` bytes. Buffers are reused once no chain is out.
    fn buffer(&mut self, len: usize) -> u64 {
        let addr = self.next_buffer;
        self.next_buffer += (len as u64).next_multiple_of(16);
        assert!(
            self.next_buffer <= LOW_MEMORY.1 as u64,
            "guest memory is full of chains"
        );
        addr
    }
}

impl DriverQueue {
    fn lay_out(size: u16, next_ring: &mut u64) -> Self {
        let entries = u64::from(size);
        let descriptors = *next_ring;
        let avail = descriptors + 16 * entries;
        let used = (avail + 6 + 2 * entries).next_multiple_of(4);
        *next_ring = (used + 6 + 8 * entries).next_multiple_of(4096);
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        let free = (0..size).rev().collect();
        Self {
            size,
            descriptors,
            avail,
            used,
            kick,
            free,
            avail_index: 0,
            used_index: 0,
            posted: Vec::new(),
        }
    }

    fn clear(&self, memory: &GuestMemoryMmap) {
        let end = self.used + 6 + 8 * u64::from(self.size);
        let zeros = vec![0; usize::try_from(end - self.descriptors).unwrap()];
        memory
            .write_slice(&zeros, GuestAddress(self.descriptors))
            .unwrap();
    }

    fn active(&self) -> ActiveQueue {
        let mut queue = Queue::new(self.size).unwrap();
        queue.set_size(self.size);
        let low = |address: u64| u32::try_from(address).ok();
        queue.set_desc_table_address(low(self.descriptors), Some(0));
        queue.set_avail_ring_address(low(self.avail), Some(0));
        queue.set_used_ring_address(low(self.used), Some(0));
        queue.set_ready(true);
        ActiveQueue {
            queue,
            kick: self.kick.try_clone().unwrap(),
        }
    }

    fn store_avail_index(&self, memory: &GuestMemoryMmap) {
        let at = GuestAddress(self.avail + 2);
        memory
            .store(self.avail_index.to_le(), at, Ordering::Release)
            .unwrap();
    }

    fn load_used_index(&self, memory: &GuestMemoryMmap) -> u16 {
        let at = GuestAddress(self.used + 2);
        u16::from_le(memory.load(at, Ordering::Acquire).unwrap())
    }

    /// Writes `used_event`: an interrupt is wanted for the next used chain.
    fn ask_for_interrupt(&self, memory: &GuestMemoryMmap) {
        let at = GuestAddress(self.avail + 4 + 2 * u64::from(self.size));
        memory
            .store(self.used_index.to_le(), at, Ordering::Relaxed)
            .unwrap();
        fence(Ordering::SeqCst);
    }
}

/// Chains buffers at the given places of a descriptor table.
fn link(chain: &[(u64, usize, bool)], indices: &[u16]) -> Vec<RawDescriptor> {
    let write = u16::try_from(VRING_DESC_F_WRITE).unwrap();
    let next = u16::try_from(VRING_DESC_F_NEXT).unwrap();
    (chain.iter().enumerate())
        .map(|(position, &(addr, len, writable))| RawDescriptor {
            addr,
            len: u32::try_from(len).unwrap(),
            flags: if writable { write } else { 0 }
                | if position + 1 < chain.len() { next } else { 0 },
            next: indices.get(position + 1).copied().unwrap_or(0),
        })
        .collect()
}

fn write_descriptor(memory: &GuestMemoryMmap, at: u64, descriptor: RawDescriptor) {
    let RawDescriptor {
        addr,
        len,
        flags,
        next,
    } = descriptor;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&addr.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    memory.write_slice(&bytes, GuestAddress(at)).unwrap();
}
