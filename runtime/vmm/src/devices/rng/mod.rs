//! virtio-rng: entropy of the host's kernel for the guest's (virtio 1.2, section 5.4).
//!
//! A request is a buffer to fill. What the host gives is never in short supply (getrandom(2) with
//! its pool ready), so no rate is kept; but a request gets no more than [`MOST_BYTES`], which the
//! specification allows, so that one cannot hold the thread for long.

#[cfg(test)]
mod tests;

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::thread::CapabilitySet;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::DescriptorChain;
use vm_memory::GuestMemoryMmap;

use super::chain;
use super::queue_thread::{self, QueueThread, Serve, WAITING};
use super::{Activation, VirtioDevice};
use crate::confine::Confinement;

/// How much one request gets. Linux asks for a cache line's worth.
const MOST_BYTES: usize = 4096;

const QUEUE_SIZES: [u16; 1] = [64];

/// What the thread keeps: random bytes are among what all may have.
const CONFINEMENT: Confinement = Confinement {
    thread: "virtio-rng",
    capabilities: CapabilitySet::empty(),
    calls: &[WAITING],
    absent: &[],
};

/// A virtio-rng device.
pub(crate) struct RngDevice(QueueThread<Entropy>);

impl RngDevice {
    /// Makes the device, with its thread, which is confined and waits.
    pub(crate) fn new() -> io::Result<Self> {
        let prepare = || Ok(Entropy([0; MOST_BYTES]));
        QueueThread::start("rng".into(), &CONFINEMENT, prepare).map(Self)
    }
}

impl VirtioDevice for RngDevice {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// There is none.
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let queues = queue_thread::numbered(activation.queues, activation.features);
        self.0
            .serve(queues.collect(), activation.memory, activation.interrupt)
    }

    fn reset(&mut self) {
        self.0.stop();
    }
}

/// Where random bytes stand before they are the guest's.
struct Entropy([u8; MOST_BYTES]);

impl Serve for Entropy {
    fn serve(
        &mut self,
        _queue: u16,
        chain: DescriptorChain<&GuestMemoryMmap>,
        memory: &GuestMemoryMmap,
    ) -> u32 {
        let Some((_, mut room)) = chain::split(chain, memory) else {
            return 0;
        };
        let wanted = room.len().min(MOST_BYTES);
        // It fails where the host's own pool is not ready: then the guest gets nothing yet.
        let got = getrandom(&mut self.0[..wanted], GetRandomFlags::NONBLOCK).unwrap_or(0);
        let written = room.write(&self.0[..got]);
        // What one guest got is not to be found again.
        self.0[..got].fill(0);
        u32::try_from(written).unwrap_or(0)
    }
}
