//! What the driver says of one queue before it makes the device go.

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// The registers of one queue (virtio 1.2, section 4.2.2). Anything may be in them:
/// [`build`](Self::build) is where they are looked at.
#[derive(Debug, Clone)]
pub(super) struct QueueRegisters {
    pub(super) max_size: u16,
    size: u32,
    ready: bool,
    descriptor_table: u64,
    available_ring: u64,
    used_ring: u64,
}

/// A part of a queue that lies in guest memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Area {
    DescriptorTable,
    AvailableRing,
    UsedRing,
}

/// One half of a 64-bit register.
#[derive(Debug, Clone, Copy)]
pub(super) enum Half {
    Low,
    High,
}

/// A queue that the driver made ready and that cannot be served: its size is no power of two up
/// to the largest, or a part of it is misaligned or outside of guest memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidQueue;

impl QueueRegisters {
    pub(super) fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: u32::from(max_size),
            ready: false,
            descriptor_table: 0,
            available_ring: 0,
            used_ring: 0,
        }
    }

    pub(super) fn ready(&self) -> bool {
        self.ready
    }

    pub(super) fn set_ready(&mut self, ready: bool) {
        self.ready = ready;
    }

    /// Sets the size, unless the queue is ready: the specification forbids the driver to change a
    /// queue that is.
    pub(super) fn set_size(&mut self, size: u32) {
        if !self.ready {
            self.size = size;
        }
    }

    /// Sets half of an address, unless the queue is ready.
    pub(super) fn set_address(&mut self, area: Area, half: Half, value: u32) {
        if self.ready {
            return;
        }
        let address = match area {
            Area::DescriptorTable => &mut self.descriptor_table,
            Area::AvailableRing => &mut self.available_ring,
            Area::UsedRing => &mut self.used_ring,
        };
        *address = half.replaced_in(*address, value);
    }

    /// The queue for the device to serve; `None` when the driver left it disabled.
    pub(super) fn build(
        &self,
        memory: &GuestMemoryMmap,
        event_idx: bool,
    ) -> Result<Option<Queue>, InvalidQueue> {
        if !self.ready {
            return Ok(None);
        }
        let queue = self.try_build(event_idx).map_err(|_| InvalidQueue)?;
        if queue.is_valid(memory) {
            Ok(Some(queue))
        } else {
            Err(InvalidQueue)
        }
    }

    fn try_build(&self, event_idx: bool) -> Result<Queue, virtio_queue::Error> {
        let mut queue = Queue::new(self.max_size)?;
        let size = u16::try_from(self.size).map_err(|_| virtio_queue::Error::InvalidSize)?;
        queue.try_set_size(size)?;
        queue.try_set_desc_table_address(GuestAddress(self.descriptor_table))?;
        queue.try_set_avail_ring_address(GuestAddress(self.available_ring))?;
        queue.try_set_used_ring_address(GuestAddress(self.used_ring))?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Ok(queue)
    }
}

impl Half {
    /// `whole` with this half of it replaced.
    pub(super) fn replaced_in(self, whole: u64, value: u32) -> u64 {
        match self {
            Self::Low => whole & !0xffff_ffff | u64::from(value),
            Self::High => whole & 0xffff_ffff | u64::from(value) << 32,
        }
    }

    /// This half of `whole`.
    #[expect(clippy::cast_possible_truncation, reason = "half is what is asked for")]
    pub(super) fn of(self, whole: u64) -> u32 {
        match self {
            Self::Low => whole as u32,
            Self::High => (whole >> 32) as u32,
        }
    }

    /// The half that a `*Sel` register of the feature bits selects.
    pub(super) fn selected_by(value: u32) -> Option<Self> {
        match value {
            0 => Some(Self::Low),
            1 => Some(Self::High),
            _ => None,
        }
    }
}
