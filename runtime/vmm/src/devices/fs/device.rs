//! The virtio-fs device (virtio 1.2, section 5.11).

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;

use super::descriptors::Budget;
use super::exports::Exports;
use super::server::Server;
use super::worker::{QueueToServe, Serving};
use crate::devices::{Activation, VirtioDevice};

/// The length of the tag in the configuration space.
const TAG_BYTES: usize = 36;
/// Queues for ordinary requests. Each has one thread, and so many requests are served at once.
const REQUEST_QUEUES: u32 = 1;
/// The queue for forgets, which nobody waits for, and one for requests, which has room for the
/// largest: 256 pages of data, and headers. (Both alike, because QEMU has one size for all.)
const QUEUE_SIZES: [u16; 2] = [1024, 1024];

/// A virtio-fs device that serves a table of exports, in this process.
pub struct FsDevice {
    tag: [u8; TAG_BYTES],
    pub(super) server: Arc<Server>,
    serving: Vec<Serving>,
}

impl FsDevice {
    /// Makes a device that the guest finds by `tag`, 1 to 36 bytes long, and that serves
    /// `exports`.
    ///
    /// Opens `/proc/self/fd`, which must be there now and need not be later, and raises the
    /// process's soft limit of descriptors to the hard one.
    pub fn new(exports: Exports, tag: &str) -> io::Result<Self> {
        let mut padded = [0; TAG_BYTES];
        let fits = padded
            .get_mut(..tag.len())
            .filter(|place| !place.is_empty());
        let place = fits.ok_or_else(|| {
            let message = format!("the virtio-fs tag {tag:?} is not 1 to {TAG_BYTES} bytes long");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        place.copy_from_slice(tag.as_bytes());
        let server = Server::new(exports, Budget::of_process())?;
        Ok(Self {
            tag: padded,
            server,
            serving: Vec::new(),
        })
    }
}

impl VirtioDevice for FsDevice {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_FS
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// `struct virtio_fs_config`: the tag, then the number of request queues.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = [&self.tag[..], &REQUEST_QUEUES.to_le_bytes()].concat();
        data.fill(0);
        let Ok(offset) = usize::try_from(offset) else {
            return;
        };
        let Some(rest) = config.get(offset..) else {
            return;
        };
        let length = rest.len().min(data.len());
        data[..length].copy_from_slice(&rest[..length]);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        self.reset();
        let Activation {
            memory,
            interrupt,
            features,
            queues,
        } = activation;
        for (number, active) in (0..).zip(queues) {
            let Some(mut active) = active else { continue };
            active
                .queue
                .set_event_idx(features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
            if !active.queue.is_valid(&*memory.memory()) {
                self.reset();
                let message = format!("virtio-fs queue {number} lies outside of guest memory");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            let (memory, interrupt) = (memory.clone(), Arc::clone(&interrupt));
            let queue = QueueToServe {
                number,
                queue: active,
                memory,
                interrupt,
            };
            match Serving::start(queue, Arc::clone(&self.server)) {
                Ok(serving) => self.serving.push(serving),
                Err(error) => {
                    self.reset();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The session lives on: a guest that comes up again begins a new one with `FUSE_INIT`.
    fn reset(&mut self) {
        self.serving.clear();
    }
}
