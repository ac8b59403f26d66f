//! What every virtio device is, whichever transport carries it.
//!
//! A device owns its queues and its worker threads from [`VirtioDevice::activate`] to
//! [`VirtioDevice::reset`]. It does not know whether a virtio-mmio register file of ours or a
//! vhost-user connection from QEMU stands in front of it: both hand it an [`Activation`].

use std::io;
use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

pub(crate) mod balloon;
#[cfg(test)]
mod broken_chains;
mod chain;
mod epoll;
#[cfg(test)]
mod fake_driver;
pub mod fs;
pub(crate) mod mmio;
pub mod net;
mod queue_thread;
pub(crate) mod reset;
pub(crate) mod rng;
pub(crate) mod serial;
mod span;
mod thread;
pub mod vsock;

/// The guest's memory as devices see it: a snapshot is taken for each batch of work.
pub type GuestMemory = GuestMemoryAtomic<GuestMemoryMmap>;

/// A virtio device (Virtual I/O Device specification 1.2), seen from its transport.
///
/// The guest is not trusted: no call may panic or block on the guest, whatever it wrote.
pub trait VirtioDevice: Send {
    /// The device type number (virtio 1.2, section 5).
    fn device_type(&self) -> u32;

    /// The feature bits offered: the device's own and the ring's. `VIRTIO_F_VERSION_1` is
    /// the transport's to add.
    fn features(&self) -> u64;

    /// The largest size of each queue, in descriptors, in queue order.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the device's configuration space. What lies beyond its end reads as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the device's configuration space. Most devices have nothing writable there.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Takes over the queues and starts to serve them.
    fn activate(&mut self, activation: Activation) -> io::Result<()>;

    /// Stops every worker and forgets the queues; the device can be activated again. When this
    /// returns, no thread of the device touches guest memory any more.
    fn reset(&mut self);
}

/// What the driver and the transport agreed on, handed to a device when the driver is ready.
pub struct Activation {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// How to tell the driver of used buffers.
    pub interrupt: Arc<dyn Interrupt>,
    /// The feature bits the driver acknowledged.
    pub features: u64,
    /// The queues, in queue order; a queue that the driver left disabled is `None`.
    pub queues: Vec<Option<ActiveQueue>>,
}

/// A queue that the driver made ready, with the event that tells of new buffers in it.
pub struct ActiveQueue {
    /// The split ring.
    pub queue: Queue,
    /// Readable when the driver has added buffers.
    pub kick: EventFd,
}

/// The way from a device to the driver's interrupt handler.
pub trait Interrupt: Send + Sync {
    /// Says that queue number `queue` has used buffers.
    fn signal_queue(&self, queue: u16);

    /// Says that the configuration space has changed.
    fn signal_config(&self);
}
