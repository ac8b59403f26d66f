//! virtio-net (virtio 1.2, section 5.1): the guest's end of a tap.
//!
//! What the tap is connected with is not this device's business. Checksums and the cutting of long
//! frames are left to whoever needs them: the guest's frames go to the host's kernel with the
//! header that says what is still to be done, once `wire.rs` has checked it, and the host's come
//! to the guest as far as its driver can take them.
//!
//! [`NetDevice`] has a thread for each pair of queues, `worker.rs`, with a queue of the tap for
//! itself; `ring.rs` is one ring, `control.rs` the queue by which the driver chooses the pairs.

mod control;
mod ring;
#[cfg(test)]
mod tests;
mod wire;
mod worker;

use std::io;
use std::sync::Arc;

use runvm_sys::tap::{self, Tap};
use rustix::thread::CapabilitySet;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net as bit;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::control::Control;
use self::ring::Ring;
use self::wire::{Features, USO};
use self::worker::{Parts, Worker};
use super::thread::DeviceThread;
use super::{Activation, ActiveQueue, VirtioDevice};
use crate::confine::{Call, Confinement, call, one_of};

/// What a worker keeps: the wait for events, and what a tap is told. Frames are read and written.
const CONFINEMENT: Confinement = Confinement {
    thread: "virtio-net",
    capabilities: CapabilitySet::empty(),
    calls: &[TAPS],
    absent: &[],
};

const TAPS: &[Call] = &[
    call(libc::SYS_epoll_pwait),
    call(libc::SYS_epoll_wait),
    one_of(libc::SYS_ioctl, 1, &[TUNSETOFFLOAD, TUNSETQUEUE]),
];

// linux/if_tun.h
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
const TUNSETQUEUE: u32 = 0x4004_54d9;

/// The length of each receive and transmit queue, and of the control queue.
const QUEUE_SIZE: u16 = 256;
const CONTROL_QUEUE_SIZE: u16 = 64;

/// What is offered with every tap.
const FEATURES: [u32; 12] = [
    bit::VIRTIO_NET_F_CSUM,
    bit::VIRTIO_NET_F_GUEST_CSUM,
    bit::VIRTIO_NET_F_MAC,
    bit::VIRTIO_NET_F_GUEST_TSO4,
    bit::VIRTIO_NET_F_GUEST_TSO6,
    bit::VIRTIO_NET_F_GUEST_ECN,
    bit::VIRTIO_NET_F_HOST_TSO4,
    bit::VIRTIO_NET_F_HOST_TSO6,
    bit::VIRTIO_NET_F_HOST_ECN,
    bit::VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
];

/// Where the kernel can cut datagrams of UDP (Linux 6.2).
const DATAGRAM_FEATURES: [u32; 3] = [
    bit::VIRTIO_NET_F_GUEST_USO4,
    bit::VIRTIO_NET_F_GUEST_USO6,
    bit::VIRTIO_NET_F_HOST_USO,
];

/// With more than one queue.
const QUEUES_FEATURES: [u32; 2] = [bit::VIRTIO_NET_F_CTRL_VQ, bit::VIRTIO_NET_F_MQ];

/// A hardware address of Ethernet.
pub type MacAddress = [u8; 6];

/// What a network card is made of.
#[derive(Debug)]
pub struct NetConfig {
    /// The queues of one tap; one at least. The card has as many pairs of queues.
    pub taps: Vec<Tap>,
    /// The address that the card comes with. The driver may use another.
    pub mac: MacAddress,
}

/// A virtio network card.
///
/// Until the driver is ready, frames wait in the tap's queue, or are lost when that is full.
#[derive(Debug)]
pub struct NetDevice {
    taps: Arc<[Tap]>,
    mac: MacAddress,
    features: u64,
    queue_sizes: Vec<u16>,
    /// One for each queue of the tap.
    threads: Vec<DeviceThread<()>>,
    active: Option<Active>,
}

/// Workers that serve.
#[derive(Debug)]
struct Active {
    stop: EventFd,
    /// On how many of the threads, from the first on.
    workers: usize,
}

impl NetDevice {
    /// Makes the device, with its threads, which are confined and wait.
    pub fn new(config: NetConfig) -> io::Result<Self> {
        let [first, ..] = &config.taps[..] else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut features = mask(&FEATURES);
        if first.set_offload(tap::OFFLOAD_CHECKSUM | USO).is_ok() {
            features |= mask(&DATAGRAM_FEATURES);
        }
        let mut queue_sizes = vec![QUEUE_SIZE; 2 * config.taps.len()];
        if config.taps.len() > 1 {
            features |= mask(&QUEUES_FEATURES);
            queue_sizes.push(CONTROL_QUEUE_SIZE);
        }
        let thread = |pair| DeviceThread::start(format!("net-{pair}"), &CONFINEMENT, || Ok(()));
        Ok(Self {
            threads: (0..config.taps.len())
                .map(thread)
                .collect::<io::Result<_>>()?,
            taps: config.taps.into(),
            mac: config.mac,
            features,
            queue_sizes,
            active: None,
        })
    }

    /// The things of each worker.
    fn parts(&self, activation: Activation) -> io::Result<Vec<Parts>> {
        let features = Features(activation.features);
        let memory = activation.memory.memory();
        let mut queues = Queues {
            queues: activation.queues,
            memory: &memory,
        };
        let pairs = if features.has(bit::VIRTIO_NET_F_MQ) {
            self.taps.len()
        } else {
            1
        };
        let control = if features.has(bit::VIRTIO_NET_F_CTRL_VQ) {
            queues.take(2 * pairs)
        } else {
            None
        };
        let mut control = control.map(|ring| Control {
            ring,
            taps: Arc::clone(&self.taps),
        });
        let mut parts = Vec::with_capacity(pairs);
        for pair in 0..pairs {
            let rings = (queues.take(2 * pair), queues.take(2 * pair + 1));
            let (Some(rx), Some(tx)) = rings else {
                let text = "one of the driver's queues is missing or lies outside its memory";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            };
            parts.push(Parts {
                memory: activation.memory.clone(),
                interrupt: Arc::clone(&activation.interrupt),
                features,
                taps: Arc::clone(&self.taps),
                pair,
                rx,
                tx,
                control: control.take(),
            });
        }
        Ok(parts)
    }
}

/// The driver's queues that no worker has yet.
struct Queues<'m> {
    queues: Vec<Option<ActiveQueue>>,
    memory: &'m GuestMemoryMmap,
}

impl Queues<'_> {
    /// A queue, if it can be served.
    fn take(&mut self, number: usize) -> Option<Ring> {
        let queue = self.queues.get_mut(number)?.take()?;
        let number = u16::try_from(number).ok()?;
        let valid = queue.queue.is_valid(self.memory);
        valid.then(|| Ring::new(queue, number))
    }
}

fn mask(numbers: &[u32]) -> u64 {
    numbers.iter().fold(0, |mask, number| mask | 1 << number)
}

impl VirtioDevice for NetDevice {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    /// `struct virtio_net_config` as far as the features go: the address, a status that is not
    /// offered, and the number of queue pairs.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 10];
        config[..6].copy_from_slice(&self.mac);
        let pairs = u16::try_from(self.taps.len()).unwrap_or(u16::MAX);
        config[8..].copy_from_slice(&pairs.to_le_bytes());
        let from = usize::try_from(offset).map_or(config.len(), |at| at.min(config.len()));
        let count = data.len().min(config.len() - from);
        data.fill(0);
        data[..count].copy_from_slice(&config[from..from + count]);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        self.reset();
        let parts = self.parts(activation)?;
        let active = self.active.insert(Active {
            stop: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
            workers: 0,
        });
        for (parts, thread) in parts.into_iter().zip(&self.threads) {
            let worker = Worker::new(parts, &active.stop)?;
            // It fails for want of the kernel's memory: the device is silent then.
            thread.give(move |()| drop(worker.run()))?;
            active.workers += 1;
        }
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(active) = self.active.take() {
            // A write to an event descriptor of our own that is 0 cannot fail, and the threads
            // end their work at the next event.
            let _ = active.stop.write(1);
            for thread in &self.threads[..active.workers] {
                thread.wait();
            }
        }
    }
}

impl Drop for NetDevice {
    fn drop(&mut self) {
        self.reset();
    }
}
