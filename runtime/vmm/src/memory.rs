//! The guest's RAM: where it lies in guest physical memory, and the mapping behind it.
//!
//! RAM is private, anonymous and not reserved: the host gives pages as the guest touches them, and takes
//! back what the guest has no use for ([`discard`]).
#![allow(unsafe_code, reason = "pages of a mapping are given back by address")]

use vm_memory::{GuestAddress, GuestMemory as _, GuestMemoryMmap, Permissions};

use crate::devices::GuestMemory;

const MIB: u64 = 1 << 20;
/// The host's smallest page.
const PAGE_BYTES: usize = 4096;

/// Where RAM makes room for devices: virtio-mmio, the I/O APIC, the local APICs and KVM's own
/// pages lie between here and [`HIGH_RAM_START`].
pub(crate) const MMIO_HOLE_START: u64 = 0xc000_0000;

/// Where RAM that did not fit below the hole goes on.
pub(crate) const HIGH_RAM_START: u64 = 1 << 32;

/// Why guest memory could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot map {memory_mib} MiB of guest memory")]
pub struct AllocateError {
    memory_mib: u32,
    source: vm_memory::mmap::FromRangesError,
}

/// The ranges of guest physical memory that `memory_mib` of RAM takes, as (address, bytes).
pub(crate) fn ram_ranges(memory_mib: u32) -> Vec<(u64, u64)> {
    let total = u64::from(memory_mib) * MIB;
    let low = total.min(MMIO_HOLE_START);
    let mut ranges = vec![(0, low)];
    if total > low {
        ranges.push((HIGH_RAM_START, total - low));
    }
    ranges
}

/// Maps `memory_mib` of RAM.
pub(crate) fn allocate(memory_mib: u32) -> Result<GuestMemory, AllocateError> {
    let ranges: Vec<_> = ram_ranges(memory_mib)
        .into_iter()
        .map(|(base, len)| (GuestAddress(base), to_usize(len)))
        .collect();
    GuestMemoryMmap::from_ranges(&ranges)
        .map(GuestMemory::new)
        .map_err(|source| AllocateError { memory_mib, source })
}

/// Gives the host back the whole pages among the `len` bytes of guest memory at `at`: they read as
/// zeros then, until somebody writes. Nothing happens where that is not all memory.
pub(crate) fn discard(memory: &GuestMemoryMmap, at: GuestAddress, len: u64) {
    let slices = memory.get_slices(at, to_usize(len), Permissions::Write);
    for slice in slices.into_iter().flatten().map_while(Result::ok) {
        let guard = slice.ptr_guard_mut();
        let start = guard.as_ptr();
        let skipped = start.addr().next_multiple_of(PAGE_BYTES) - start.addr();
        let Some(left) = slice.len().checked_sub(skipped) else {
            continue;
        };
        let first = start.wrapping_add(skipped);
        let whole = left / PAGE_BYTES * PAGE_BYTES;
        // SAFETY: the pages lie in a mapping that `memory`, which is borrowed, keeps. Nobody has a
        // Rust reference into guest memory: vm-memory allows volatile access only.
        let _given = unsafe { libc::madvise(first.cast(), whole, libc::MADV_DONTNEED) };
    }
}

/// A size of guest memory as a size of ours: the host is 64-bit.
#[expect(
    clippy::cast_possible_truncation,
    reason = "usize is 64 bits on x86_64"
)]
fn to_usize(bytes: u64) -> usize {
    bytes as usize
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddressSpace};

    use super::*;

    #[test]
    fn ram_leaves_the_hole_below_4_gib_free() {
        let gib = 1 << 30;
        assert_eq!(ram_ranges(128), [(0, 128 * MIB)]);
        assert_eq!(ram_ranges(3072), [(0, 3 * gib)]);
        assert_eq!(ram_ranges(3073), [(0, 3 * gib), (4 * gib, MIB)]);
        assert_eq!(ram_ranges(8192), [(0, 3 * gib), (4 * gib, 5 * gib)]);
    }

    #[test]
    fn whole_pages_are_given_back_and_what_is_beside_them_stays() {
        let shared = allocate(1).unwrap();
        let memory = shared.memory();
        memory
            .write_slice(&[7; 4 * PAGE_BYTES], GuestAddress(0))
            .unwrap();
        let page = PAGE_BYTES as u64;
        discard(&memory, GuestAddress(page - 8), 2 * page + 16);
        let mut seen = [0; 4 * PAGE_BYTES];
        memory.read_slice(&mut seen, GuestAddress(0)).unwrap();
        let left = |byte: &u8| *byte == 7;
        assert!(seen[..PAGE_BYTES].iter().all(left));
        assert!(!seen[PAGE_BYTES..3 * PAGE_BYTES].iter().any(left));
        assert!(seen[3 * PAGE_BYTES..].iter().all(left));
        // Nowhere, in part nowhere, less than a page, and nothing.
        for (at, len) in [(u64::MAX, 1), (MIB - page, 2 * page), (8, page), (0, 0)] {
            discard(&memory, GuestAddress(at), len);
        }
        memory.read_slice(&mut seen, GuestAddress(0)).unwrap();
        assert!(seen[..PAGE_BYTES].iter().all(left));
    }
}
