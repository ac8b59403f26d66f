//! Packets in descriptor chains: where a header and its payload lie in guest memory.
//!
//! Headers are copied out once; every later decision is made on the copy, which the guest cannot
//! change.

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemoryMmap, Permissions};
use zerocopy::IntoBytes;

use super::wire::{HEADER_BYTES, Header};
use crate::devices::span::Span;

/// A packet that the guest sent.
#[derive(Debug)]
pub(super) struct Packet<'m> {
    pub(super) header: Header,
    /// As long as the header says.
    pub(super) payload: Span<'m>,
}

impl<'m> Packet<'m> {
    /// The packet in a chain of the transmit queue, or `None` where the chain does not hold a
    /// whole one.
    pub(super) fn read(
        memory: &'m GuestMemoryMmap,
        chain: DescriptorChain<&GuestMemoryMmap>,
    ) -> Option<Self> {
        let span = Span::gather(memory, chain.readable(), Permissions::Read)?;
        let (front, rest) = span.split_at(HEADER_BYTES)?;
        let mut header = Header::default();
        front.copy_to(header.as_mut_bytes());
        let (payload, _) = rest.split_at(usize::try_from(header.len.get()).ok()?)?;
        Some(Self { header, payload })
    }
}

/// An empty buffer of the receive queue.
#[derive(Debug)]
pub(super) struct Room<'m> {
    header: Span<'m>,
    /// Where a payload goes: all of the buffer behind the header.
    pub(super) payload: Span<'m>,
}

impl<'m> Room<'m> {
    /// The buffer that a chain of the receive queue names, or `None` where it cannot take even a
    /// header.
    pub(super) fn find(
        memory: &'m GuestMemoryMmap,
        chain: DescriptorChain<&GuestMemoryMmap>,
    ) -> Option<Self> {
        let span = Span::gather(memory, chain.writable(), Permissions::Write)?;
        let (header, payload) = span.split_at(HEADER_BYTES)?;
        Some(Self { header, payload })
    }

    /// Writes the header; says how many bytes of the buffer are used with it and its payload.
    pub(super) fn finish(&self, header: &Header) -> u32 {
        self.header.copy_from(header.as_bytes());
        u32::try_from(HEADER_BYTES)
            .unwrap_or(0)
            .saturating_add(header.len.get())
    }
}
