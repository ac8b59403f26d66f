//! One ring as the front end sets it up, message by message.

use std::sync::RwLock;
use std::sync::atomic::Ordering;

use vhost::vhost_user::{Error, Result};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::{ActiveQueue, Interrupt};

/// The largest ring. QEMU's virtio-mmio transport lets a driver have this many descriptors in any
/// queue, whatever its device says, and Linux takes what it can get.
const MOST_DESCRIPTORS: u16 = 1024;

/// What is known of a ring.
#[derive(Debug, Default)]
pub(super) struct Ring {
    size: u16,
    base: u16,
    places: Option<Places>,
    kick: Option<EventFd>,
    enabled: bool,
    /// The same queue as the device has, to find the base again.
    running: Option<Queue>,
}

#[derive(Clone, Copy, Debug)]
struct Places {
    descriptors: GuestAddress,
    available: GuestAddress,
    used: GuestAddress,
}

impl Ring {
    pub(super) fn set_size(&mut self, size: u32) -> Result<()> {
        let size = u16::try_from(size)
            .ok()
            .filter(|&size| size.is_power_of_two());
        self.size = size
            .filter(|&size| size <= MOST_DESCRIPTORS)
            .ok_or(Error::InvalidParam)?;
        Ok(())
    }

    pub(super) fn set_places(
        &mut self,
        descriptors: GuestAddress,
        available: GuestAddress,
        used: GuestAddress,
    ) {
        self.places = Some(Places {
            descriptors,
            available,
            used,
        });
    }

    /// Where in the available ring to start.
    pub(super) fn set_base(&mut self, base: u16) {
        self.base = base;
    }

    pub(super) fn set_kick(&mut self, kick: EventFd) {
        self.kick = Some(kick);
    }

    pub(super) fn enable(&mut self, enable: bool) {
        self.enabled = enable;
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Whether the driver uses this ring: the front end leaves others without a kick event.
    pub(super) fn is_set_up(&self) -> bool {
        self.kick.is_some()
    }

    /// The queue for the device, or `None` for a ring that the driver does not use.
    pub(super) fn take_active(
        &mut self,
        memory: &GuestMemoryMmap,
        features: u64,
    ) -> Result<Option<ActiveQueue>> {
        let Some(kick) = &self.kick else {
            return Ok(None);
        };
        let kick = kick.try_clone().map_err(Error::ReqHandlerError)?;
        let queue = self.queue(memory, features)?;
        self.running = Some(self.queue(memory, features)?);
        Ok(Some(ActiveQueue { queue, kick }))
    }

    fn queue(&self, memory: &GuestMemoryMmap, features: u64) -> Result<Queue> {
        let refused = |_| Error::InvalidParam;
        let places = self
            .places
            .ok_or(Error::InvalidOperation("a ring without addresses"))?;
        let mut queue = Queue::new(MOST_DESCRIPTORS).map_err(refused)?;
        queue.try_set_size(self.size).map_err(refused)?;
        queue
            .try_set_desc_table_address(places.descriptors)
            .map_err(refused)?;
        queue
            .try_set_avail_ring_address(places.available)
            .map_err(refused)?;
        queue
            .try_set_used_ring_address(places.used)
            .map_err(refused)?;
        queue.set_event_idx(features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
        queue.set_ready(true);
        if !queue.is_valid(memory) {
            return Err(Error::InvalidParam);
        }
        queue.set_next_avail(self.base);
        let used = queue.used_idx(memory, Ordering::Acquire).map_err(refused)?;
        queue.set_next_used(used.0);
        Ok(queue)
    }

    /// Forgets what belongs to a run of the ring, and says where a next run would start: behind
    /// everything that was used, since devices finish what they take before they stop.
    pub(super) fn stop(&mut self, memory: Option<&GuestMemoryMmap>) -> u16 {
        self.kick = None;
        self.enabled = false;
        let (Some(queue), Some(memory)) = (self.running.take(), memory) else {
            return self.base;
        };
        queue
            .used_idx(memory, Ordering::Acquire)
            .map_or(self.base, |used| used.0)
    }
}

/// The call events of all rings: the driver's interrupts.
#[derive(Debug)]
pub(super) struct Calls(Vec<RwLock<Option<EventFd>>>);

impl Calls {
    pub(super) fn new(rings: usize) -> Self {
        Self((0..rings).map(|_| RwLock::new(None)).collect())
    }

    /// Sets the event of one ring, also while the device runs; without one nobody is told.
    pub(super) fn set(&self, ring: usize, event: Option<EventFd>) {
        if let Some(mut slot) = self.0.get(ring).and_then(|slot| slot.write().ok()) {
            *slot = event;
        }
    }
}

impl Interrupt for Calls {
    fn signal_queue(&self, queue: u16) {
        let slot = self
            .0
            .get(usize::from(queue))
            .and_then(|slot| slot.read().ok());
        if let Some(Some(event)) = slot.as_deref() {
            // It can only fail when the counter is full, and then the driver is told anyway.
            let _ = event.write(1);
        }
    }

    /// No configuration of these devices changes; the front end has no channel for it either.
    fn signal_config(&self) {}
}
