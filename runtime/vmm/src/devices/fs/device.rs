//! The virtio-fs device (virtio 1.2, section 5.11).

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::descriptors::Budget;
use super::exports::Exports;
use super::server::Server;
use super::worker::{self, Files};
use crate::devices::queue_thread::{self, QueueThread};
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
    #[cfg(test)]
    pub(super) server: Arc<Server>,
    /// One for each queue.
    threads: Vec<QueueThread<Files>>,
}

impl FsDevice {
    /// Makes a device that the guest finds by `tag`, 1 to 36 bytes long, and that serves
    /// `exports`.
    ///
    /// Opens `/proc/self/fd`, which must be there now and need not be later, and raises the
    /// process's soft limit of descriptors to the hard one. The threads that will serve are
    /// started and confined here.
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
        let threads = (0..QUEUE_SIZES.len())
            .map(|number| worker::start(number, Arc::clone(&server)))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            tag: padded,
            #[cfg(test)]
            server,
            threads,
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
        for queue in queue_thread::numbered(queues, features) {
            let Some(thread) = self.threads.get_mut(usize::from(queue.0)) else {
                break;
            };
            let served = thread.serve(vec![queue], memory.clone(), Arc::clone(&interrupt));
            if let Err(error) = served {
                self.reset();
                return Err(error);
            }
        }
        Ok(())
    }

    /// The session lives on: a guest that comes up again begins a new one with `FUSE_INIT`.
    fn reset(&mut self) {
        self.threads.iter_mut().for_each(QueueThread::stop);
    }
}
