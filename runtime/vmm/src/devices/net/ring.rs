//! One ring, seen by its worker: chains are taken one by one and given back by the batch.
//!
//! A frame over several buffers has to become visible to the driver at once (virtio 1.2, section
//! 5.1.6.4), which the `virtio-queue` crate has no call for.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, Permissions};

use crate::devices::span::Span;
use crate::devices::{ActiveQueue, Interrupt};

/// Bytes of the used ring before its elements, and of each.
const USED_HEAD: u64 = 4;
const USED_ELEMENT: u64 = 8;
/// Bytes of the available ring before its elements, and of each.
const AVAILABLE_HEAD: u64 = 4;
const AVAILABLE_ELEMENT: u64 = 2;

/// A queue in service.
pub(super) struct Ring {
    pub(super) active: ActiveQueue,
    number: u16,
    /// The used index when the driver was last told.
    told: u16,
}

/// A chain that the driver has lent.
pub(super) struct Lent<'m> {
    pub(super) head: u16,
    /// Its memory; nothing where the chain is none that a driver may make here.
    pub(super) span: Span<'m>,
}

impl Ring {
    pub(super) fn new(active: ActiveQueue, number: u16) -> Self {
        let told = active.queue.next_used();
        Self {
            active,
            number,
            told,
        }
    }

    fn queue(&mut self) -> &mut Queue {
        &mut self.active.queue
    }

    /// The number of chains that the driver can lend at once.
    pub(super) fn size(&self) -> usize {
        self.active.queue.size().into()
    }

    /// The next chain. Where there is none, the driver is asked to say when there is.
    pub(super) fn next_chain<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
    ) -> Option<DescriptorChain<&'m GuestMemoryMmap>> {
        let queue = self.queue();
        if let Some(chain) = queue.pop_descriptor_chain(memory) {
            return Some(chain);
        }
        // One more look, not a loop: a broken ring may say for ever that there is more.
        match queue.enable_notification(memory) {
            Ok(true) => queue.pop_descriptor_chain(memory),
            _ => None,
        }
    }

    /// The memory of the next chain, which has to be for `access` alone.
    pub(super) fn next<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
        access: Permissions,
    ) -> Option<Lent<'m>> {
        let chain = self.next_chain(memory)?;
        let head = chain.head_index();
        let span = gather(chain, memory, access).unwrap_or_default();
        Some(Lent { head, span })
    }

    /// Takes back the last `count` calls of [`next`](Self::next).
    pub(super) fn put_back(&mut self, count: usize) {
        // No more than the ring's size have been taken, which fits.
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        let queue = self.queue();
        queue.set_next_avail(queue.next_avail().wrapping_sub(count));
    }

    /// Gives chains back, by their heads and with the number of bytes written: all of them at once,
    /// as the driver sees it.
    pub(super) fn give_back(&mut self, memory: &GuestMemoryMmap, used: &[(u16, u32)]) {
        let queue = self.queue();
        let mut next = queue.next_used();
        for &(head, written) in used {
            let at = USED_HEAD + USED_ELEMENT * u64::from(next % queue.size());
            let element = [u32::from(head).to_le(), written.to_le()];
            if let Some(at) = queue.used_ring().checked_add(at) {
                // It fails where the driver's ring is gone; the driver is the one who suffers.
                let _ = memory.write_obj(element, GuestAddress(at));
            }
            next = next.wrapping_add(1);
        }
        queue.set_next_used(next);
        if let Some(at) = queue.used_ring().checked_add(2) {
            let _ = memory.store(next.to_le(), GuestAddress(at), Ordering::Release);
        }
    }

    /// Tells the driver of what was given back, unless it does not want to know yet.
    pub(super) fn tell(&mut self, memory: &GuestMemoryMmap, interrupt: &dyn Interrupt) {
        let (before, now) = (self.told, self.active.queue.next_used());
        if before == now {
            return;
        }
        self.told = now;
        if self.wants_to_know(memory, before, now) {
            interrupt.signal_queue(self.number);
        }
    }

    /// Section 2.7.7.2; whoever cannot be asked is told.
    fn wants_to_know(&self, memory: &GuestMemoryMmap, before: u16, now: u16) -> bool {
        let queue = &self.active.queue;
        // The used index must be visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        if !queue.event_idx_enabled() {
            return true;
        }
        let at = AVAILABLE_HEAD + AVAILABLE_ELEMENT * u64::from(queue.size());
        let event = queue
            .avail_ring()
            .checked_add(at)
            .and_then(|at| memory.load(GuestAddress(at), Ordering::Relaxed).ok());
        let Some(event) = event.map(u16::from_le) else {
            return true;
        };
        now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
    }
}

/// The memory of a chain; `None` where it is cut off, endless, outside of memory, or not for `access`.
fn gather<'m>(
    chain: DescriptorChain<&GuestMemoryMmap>,
    memory: &'m GuestMemoryMmap,
    access: Permissions,
) -> Option<Span<'m>> {
    let mut span = Span::default();
    let mut complete = false;
    for descriptor in chain {
        // The iterator ends without a word on a loop, a bad index or a bad table.
        complete = !descriptor.has_next();
        if descriptor.is_write_only() != (access == Permissions::Write) {
            return None;
        }
        span.extend(memory, &descriptor, access)?;
    }
    complete.then_some(span)
}
