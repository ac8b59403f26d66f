//! The guest's RAM: where it lies in guest physical memory, and the mapping behind it.
//!
//! RAM is private, anonymous and not reserved: the host gives pages as the guest touches them.

use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::devices::GuestMemory;

const MIB: u64 = 1 << 20;

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
    use super::*;

    #[test]
    fn ram_leaves_the_hole_below_4_gib_free() {
        let gib = 1 << 30;
        assert_eq!(ram_ranges(128), [(0, 128 * MIB)]);
        assert_eq!(ram_ranges(3072), [(0, 3 * gib)]);
        assert_eq!(ram_ranges(3073), [(0, 3 * gib), (4 * gib, MIB)]);
        assert_eq!(ram_ranges(8192), [(0, 3 * gib), (4 * gib, 5 * gib)]);
    }
}
