//! A fake driver: rings in guest memory, filled and read as a guest would.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use zerocopy::{FromBytes, IntoBytes};

use crate::devices::vsock::wire::{HEADER_BYTES, HOST_CID, Header, Op, TYPE_STREAM};
use crate::devices::{Activation, ActiveQueue, GuestMemory, Interrupt};

pub(super) const GUEST_CID: u64 = 3;
pub(super) const MEMORY_BYTES: u64 = 64 << 20;
const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
/// No single wait of a test is longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// One split ring as its driver sees it. Each descriptor has a buffer of its own.
pub(super) struct Ring {
    pub(super) size: u16,
    pub(super) base: u64,
    pub(super) buffers: u64,
    pub(super) buffer_bytes: u32,
    added: u16,
    seen: u16,
    pub(super) kick: EventFd,
}

impl Ring {
    fn new(size: u16, base: u64, buffers: u64, buffer_bytes: u32) -> Self {
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        Self {
            size,
            base,
            buffers,
            buffer_bytes,
            added: 0,
            seen: 0,
            kick,
        }
    }

    fn avail(&self) -> u64 {
        self.base + 0x2000
    }

    fn used(&self) -> u64 {
        self.base + 0x3000
    }

    fn active(&self) -> ActiveQueue {
        let mut queue = Queue::new(256).unwrap();
        queue.set_size(self.size);
        let low = |address: u64| Some(u32::try_from(address).unwrap());
        queue.set_desc_table_address(low(self.base), Some(0));
        queue.set_avail_ring_address(low(self.avail()), Some(0));
        queue.set_used_ring_address(low(self.used()), Some(0));
        queue.set_ready(true);
        ActiveQueue {
            queue,
            kick: self.kick.try_clone().unwrap(),
        }
    }

    pub(super) fn write_descriptor(&self, memory: &GuestMemoryMmap, at: u16, value: Descriptor) {
        memory
            .write_obj(value, GuestAddress(self.base + u64::from(at) * 16))
            .unwrap();
    }

    /// Makes the chain that starts at descriptor `head` available and kicks.
    pub(super) fn make_available(&mut self, memory: &GuestMemoryMmap, head: u16) {
        let slot = self.avail() + 4 + u64::from(self.added % self.size) * 2;
        memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.added = self.added.wrapping_add(1);
        self.set_avail_index(memory, self.added);
    }

    pub(super) fn set_avail_index(&self, memory: &GuestMemoryMmap, index: u16) {
        let at = GuestAddress(self.avail() + 2);
        memory
            .store(index, at, std::sync::atomic::Ordering::Release)
            .unwrap();
        self.kick.write(1).unwrap();
    }

    /// The next used chain: its head and how much of it was written.
    fn take_used(&mut self, memory: &GuestMemoryMmap) -> Option<(u16, u32)> {
        let at = GuestAddress(self.used() + 2);
        let index: u16 = memory
            .load(at, std::sync::atomic::Ordering::Acquire)
            .unwrap();
        if index == self.seen {
            return None;
        }
        let slot = self.used() + 4 + u64::from(self.seen % self.size) * 8;
        let [head, len]: [u32; 2] = memory.read_obj(GuestAddress(slot)).unwrap();
        self.seen = self.seen.wrapping_add(1);
        // used_event: an interrupt for the next one, please.
        let event = GuestAddress(self.avail() + 4 + u64::from(self.size) * 2);
        memory.write_obj(self.seen, event).unwrap();
        Some((u16::try_from(head).unwrap(), len))
    }
}

struct Bell(EventFd);

impl Interrupt for Bell {
    fn signal_queue(&self, _queue: u16) {
        self.0.write(1).unwrap();
    }

    fn signal_config(&self) {}
}

/// A guest with a receive and a transmit ring.
pub(super) struct Driver {
    pub(super) memory: GuestMemoryMmap,
    pub(super) rx: Ring,
    pub(super) tx: Ring,
    bell: Arc<Bell>,
    epoll: Epoll,
    next_tx: u16,
}

impl Driver {
    pub(super) fn new() -> Self {
        let ranges = [(GuestAddress(0), usize::try_from(MEMORY_BYTES).unwrap())];
        let bell = EventFd::new(EFD_NONBLOCK).unwrap();
        let epoll = Epoll::new().unwrap();
        let readable = EpollEvent::new(EventSet::IN, 0);
        epoll
            .ctl(ControlOperation::Add, bell.as_raw_fd(), readable)
            .unwrap();
        Self {
            memory: GuestMemoryMmap::from_ranges(&ranges).unwrap(),
            rx: Ring::new(64, 0x1_0000, 0x10_0000, 4096),
            tx: Ring::new(64, 0x2_0000, 0x80_0000, 80 * 1024),
            bell: Arc::new(Bell(bell)),
            epoll,
            next_tx: 0,
        }
    }

    pub(super) fn activation(&self, event_idx: bool) -> Activation {
        let mut queues = [self.rx.active(), self.tx.active()];
        for active in &mut queues {
            active.queue.set_event_idx(event_idx);
        }
        Activation {
            memory: GuestMemory::clone(&GuestMemoryAtomic::new(self.memory.clone())),
            interrupt: Arc::clone(&self.bell) as Arc<dyn Interrupt>,
            features: 0,
            queues: queues.into_iter().map(Some).chain([None]).collect(),
        }
    }

    /// Gives the device `count` receive buffers.
    pub(super) fn add_room(&mut self, count: u16) {
        for at in 0..count {
            self.add_rx_buffer(at, self.rx.buffer_bytes);
        }
    }

    pub(super) fn add_rx_buffer(&mut self, at: u16, len: u32) {
        let address = self.rx.buffers + u64::from(at) * u64::from(self.rx.buffer_bytes);
        let descriptor = Descriptor::new(address, len, WRITE, 0);
        self.rx.write_descriptor(&self.memory, at, descriptor);
        self.rx.make_available(&self.memory, at);
    }

    /// The next packet from the device; its buffer is given back to it.
    pub(super) fn receive(&mut self) -> (Header, Vec<u8>) {
        let (head, packet) = self.receive_and_keep();
        self.rx.make_available(&self.memory, head);
        packet
    }

    pub(super) fn receive_and_keep(&mut self) -> (u16, (Header, Vec<u8>)) {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(packet) = self.poll() {
                return packet;
            }
            self.wait_for_interrupt(until).expect("no packet came");
        }
    }

    /// The next packet, if there is one already.
    pub(super) fn poll(&mut self) -> Option<(u16, (Header, Vec<u8>))> {
        let (head, len) = self.rx.take_used(&self.memory)?;
        let address = self.rx.buffers + u64::from(head) * u64::from(self.rx.buffer_bytes);
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        if bytes.is_empty() {
            return Some((head, (Header::default(), bytes)));
        }
        let (header, payload) = Header::read_from_prefix(&bytes).unwrap();
        assert_eq!(payload.len(), usize::try_from(header.len.get()).unwrap());
        Some((head, (header, payload.to_vec())))
    }

    fn wait_for_interrupt(&self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        let mut events = [EpollEvent::default()];
        let ready = self.epoll.wait(i32::try_from(left).unwrap(), &mut events)?;
        let _ = self.bell.0.read();
        if ready == 0 {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(())
        }
    }

    /// Sends a packet as Linux does: the header and the payload in a descriptor each.
    pub(super) fn send(&mut self, header: Header, payload: &[u8]) {
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(payload);
        let rest = u32::try_from(payload.len()).unwrap();
        if rest == 0 {
            self.send_cut(&bytes, &[44]);
        } else {
            self.send_cut(&bytes, &[44, rest]);
        }
    }

    /// Sends bytes cut into descriptors of these lengths; waits until the device has taken them.
    pub(super) fn send_cut(&mut self, bytes: &[u8], cuts: &[u32]) {
        let head = self.next_tx;
        let address = self.tx.buffers + u64::from(head) * u64::from(self.tx.buffer_bytes);
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
        let mut at = address;
        let mut descriptors = Vec::new();
        for &len in cuts {
            descriptors.push((at, len, 0));
            at += u64::from(len);
        }
        self.send_descriptors(&descriptors);
    }

    /// Sends a chain of (address, length, flags) and waits until the device has taken it.
    pub(super) fn send_descriptors(&mut self, descriptors: &[(u64, u32, u16)]) {
        let head = self.next_tx;
        for (at, &(address, len, flags)) in (head..).zip(descriptors) {
            let last = usize::from(at - head) + 1 == descriptors.len();
            let flags = if last { flags } else { flags | NEXT };
            let next = (at + 1) % self.tx.size;
            let value = Descriptor::new(address, len, flags, next);
            self.tx
                .write_descriptor(&self.memory, at % self.tx.size, value);
        }
        let count = u16::try_from(descriptors.len()).unwrap();
        self.next_tx = (head + count) % self.tx.size;
        self.tx.make_available(&self.memory, head);
        let until = Instant::now() + PATIENCE;
        while self.tx.take_used(&self.memory).is_none() {
            self.wait_for_interrupt(until)
                .expect("the device took no packet");
        }
    }
}

/// A header from the guest to the host, with plenty of room.
pub(super) fn header(op: Op, guest_port: u32, host_port: u32) -> Header {
    Header {
        src_cid: GUEST_CID.into(),
        dst_cid: HOST_CID.into(),
        src_port: guest_port.into(),
        dst_port: host_port.into(),
        kind: TYPE_STREAM.into(),
        op: (op as u16).into(),
        buf_alloc: (1 << 20).into(),
        ..Header::default()
    }
}

/// A data packet's header.
pub(super) fn data(guest_port: u32, host_port: u32, len: usize) -> Header {
    Header {
        len: u32::try_from(len).unwrap().into(),
        ..header(Op::Rw, guest_port, host_port)
    }
}

const _: () = assert!(HEADER_BYTES == 44);
