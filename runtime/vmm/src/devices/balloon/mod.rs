//! virtio-balloon: memory that the guest has no use for goes back to the host (virtio 1.2, section
//! 5.5).
//!
//! By itself the guest reports pages that it has freed, in the free page reporting queue; and it
//! gives up as much as [`Target::set`] asks for, in the inflate queue, from which it takes
//! pages back when it runs out of memory. In both cases the host forgets the pages' contents, and a
//! later access finds zeros. Nothing has to be done for the deflate queue.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use rustix::thread::CapabilitySet;
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::DescriptorChain;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::chain;
use super::queue_thread::{self, QueueThread, Serve, WAITING};
use super::{Activation, Interrupt, VirtioDevice};
use crate::confine::Confinement;
use crate::lock::lock;
use crate::memory::discard;

/// `VIRTIO_BALLOON_F_DEFLATE_ON_OOM` and `VIRTIO_BALLOON_F_PAGE_REPORTING`
/// (linux/virtio_balloon.h).
const F_DEFLATE_ON_OOM: u64 = 2;
const F_PAGE_REPORTING: u64 = 5;

/// Inflate, deflate and, without the queues of features that are not offered, reporting.
const QUEUE_SIZES: [u16; 3] = [128, 128, 128];
const INFLATE: u16 = 0;
const REPORTING: u16 = 2;

/// The unit of `num_pages`, `actual` and of what is in the inflate queue: 4 KiB.
const PAGE_SHIFT: u32 = 12;

/// The most page numbers in one chain of the inflate queue. Linux sends 256.
const MOST_PAGES: usize = 1024;

/// What the thread keeps: to let go of memory is among what all may do.
const CONFINEMENT: Confinement = Confinement {
    thread: "virtio-balloon",
    capabilities: CapabilitySet::empty(),
    calls: &[WAITING],
    absent: &[],
};

/// How large the balloon is to be: a handle for whoever decides that.
#[derive(Clone, Default)]
pub(crate) struct Target(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// What the guest is asked to give up, in pages of 4 KiB.
    target: AtomicU32,
    /// What the guest says it has given up.
    actual: AtomicU32,
    /// While the driver runs.
    interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
}

impl Target {
    /// Asks the guest to give up `mib` of its memory, in place of what it was asked for before.
    pub(crate) fn set(&self, mib: u32) {
        let pages = mib.saturating_mul(1 << (20 - PAGE_SHIFT));
        self.0.target.store(pages, Ordering::SeqCst);
        if let Some(interrupt) = &*lock(&self.0.interrupt) {
            interrupt.signal_config();
        }
    }
}

/// A virtio-balloon device.
pub(crate) struct BalloonDevice {
    target: Target,
    thread: QueueThread<Giver>,
}

impl BalloonDevice {
    /// Makes the device, with its thread, which is confined and waits.
    pub(crate) fn new(target: Target) -> io::Result<Self> {
        let prepare = || Ok(Giver(vec![0; MOST_PAGES * size_of::<u32>()]));
        let thread = QueueThread::start("balloon".into(), &CONFINEMENT, prepare)?;
        Ok(Self { target, thread })
    }

    /// `struct virtio_balloon_config` as far as the features go: `num_pages` and `actual`.
    fn config(&self) -> [u8; 8] {
        let Shared { target, actual, .. } = &*self.target.0;
        let fields = [target, actual].map(|field| field.load(Ordering::SeqCst).to_le_bytes());
        let [[a, b, c, d], [e, f, g, h]] = fields;
        [a, b, c, d, e, f, g, h]
    }
}

impl VirtioDevice for BalloonDevice {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        1 << F_DEFLATE_ON_OOM
            | 1 << F_PAGE_REPORTING
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let config = self.config();
        let rest = usize::try_from(offset).ok().and_then(|at| config.get(at..));
        for (to, from) in data.iter_mut().zip(rest.unwrap_or_default()) {
            *to = *from;
        }
    }

    /// The driver writes `actual`, a word at offset 4, whole.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (4, &[a, b, c, d]) = (offset, data) {
            let actual = u32::from_le_bytes([a, b, c, d]);
            self.target.0.actual.store(actual, Ordering::SeqCst);
        }
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let interrupt = activation.interrupt;
        *lock(&self.target.0.interrupt) = Some(Arc::clone(&interrupt));
        let queues = queue_thread::numbered(activation.queues, activation.features);
        self.thread
            .serve(queues.collect(), activation.memory, interrupt)
    }

    fn reset(&mut self) {
        *lock(&self.target.0.interrupt) = None;
        self.target.0.actual.store(0, Ordering::SeqCst);
        self.thread.stop();
    }
}

/// Gives the host its memory back; holds the page numbers of one chain.
struct Giver(Vec<u8>);

impl Serve for Giver {
    fn serve(
        &mut self,
        queue: u16,
        chain: DescriptorChain<&GuestMemoryMmap>,
        memory: &GuestMemoryMmap,
    ) -> u32 {
        match queue {
            INFLATE => self.inflate(chain, memory),
            REPORTING => report(chain, memory),
            _ => {}
        }
        // The pages' contents are no reply.
        0
    }
}

impl Giver {
    /// The readable part is an array of page numbers, 32 bits each.
    fn inflate(&mut self, chain: DescriptorChain<&GuestMemoryMmap>, memory: &GuestMemoryMmap) {
        let Some((mut numbers, _)) = chain::split(chain, memory) else {
            return;
        };
        let read = numbers.read(&mut self.0);
        let (numbers, _) = self.0[..read].as_chunks::<4>();
        let mut run = Run::default();
        for number in numbers {
            let at = u64::from(u32::from_le_bytes(*number)) << PAGE_SHIFT;
            run.extend(at, 1 << PAGE_SHIFT, memory);
        }
        run.give_back(memory);
    }
}

/// The writable part is the free memory itself. A chain that is broken further on is taken up to
/// there.
fn report(chain: DescriptorChain<&GuestMemoryMmap>, memory: &GuestMemoryMmap) {
    for free in chain.filter(|descriptor| descriptor.is_write_only()) {
        discard(memory, free.addr(), free.len().into());
    }
}

/// Pages that follow each other, up or down: one call to the host's kernel for all of them.
#[derive(Default)]
struct Run {
    start: u64,
    len: u64,
}

impl Run {
    fn extend(&mut self, at: u64, len: u64, memory: &GuestMemoryMmap) {
        if self.len > 0 && at == self.start + self.len {
            self.len += len;
        } else if self.len > 0 && at + len == self.start {
            self.start = at;
            self.len += len;
        } else {
            self.give_back(memory);
            *self = Self { start: at, len };
        }
    }

    fn give_back(&self, memory: &GuestMemoryMmap) {
        discard(memory, GuestAddress(self.start), self.len);
    }
}
