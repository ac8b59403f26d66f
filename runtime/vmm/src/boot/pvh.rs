//! The start information of PVH: `struct hvm_start_info` and what it points at
//! (Xen, xen/include/public/arch-x86/hvm/start_info.h).

use linux_loader::loader::elf::start_info::{
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry,
    hvm_start_info,
};
use vm_memory::{ByteValued, GuestMemoryMmap};

use super::{BootError, Piece, layout, write};
use crate::memory::ram_ranges;

/// The version that has a memory map.
const VERSION: u32 = 1;

/// Writes the start information, the memory map and the module list.
pub(super) fn write_start_info(
    memory: &GuestMemoryMmap,
    memory_mib: u32,
    initramfs: Piece,
) -> Result<(), BootError> {
    let map = memory_map(memory_mib);
    let start_info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        nr_modules: 1,
        modlist_paddr: layout::MODULE_LIST,
        cmdline_paddr: layout::COMMAND_LINE,
        memmap_paddr: layout::MEMORY_MAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or_else(|_| unreachable!("3 at most")),
        ..Default::default()
    };
    let module = hvm_modlist_entry {
        paddr: initramfs.address,
        size: initramfs.bytes,
        ..Default::default()
    };
    let map: Vec<u8> = map.iter().flat_map(ByteValued::as_slice).copied().collect();

    write(
        memory,
        "start information",
        layout::START_INFO,
        start_info.as_slice(),
    )?;
    write(
        memory,
        "module list",
        layout::MODULE_LIST,
        module.as_slice(),
    )?;
    write(memory, "memory map", layout::MEMORY_MAP, &map)
}

/// RAM as the kernel may use it. The legacy area is left out though RAM is behind it: kernels
/// look there for tables such as ours, and take it for reserved.
fn memory_map(memory_mib: u32) -> Vec<hvm_memmap_table_entry> {
    let ram = |addr, end: u64| hvm_memmap_table_entry {
        addr,
        size: end - addr,
        type_: XEN_HVM_MEMMAP_TYPE_RAM,
        reserved: 0,
    };
    let mut map = vec![ram(0, layout::LEGACY_AREA)];
    for (base, len) in ram_ranges(memory_mib) {
        let start = base.max(layout::HIGH_MEMORY);
        if start < base + len {
            map.push(ram(start, base + len));
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestAddress};

    fn ranges(memory_mib: u32) -> Vec<(u64, u64)> {
        memory_map(memory_mib)
            .iter()
            .map(|entry| (entry.addr, entry.addr + entry.size))
            .collect()
    }

    #[test]
    fn the_memory_map_is_ram_without_the_legacy_area_and_the_hole() {
        let low = (0, 0xa_0000);
        assert_eq!(ranges(1), [low]);
        assert_eq!(ranges(128), [low, (0x10_0000, 128 << 20)]);
        assert_eq!(
            ranges(4096),
            [low, (0x10_0000, 0xc000_0000), (1 << 32, 5 << 30)]
        );
    }

    #[test]
    fn the_start_information_leads_to_the_initramfs_and_the_map() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        let initramfs = Piece {
            address: 0x70_0000,
            bytes: 1234,
        };
        write_start_info(&memory, 8, initramfs).unwrap();

        let info: hvm_start_info = memory.read_obj(GuestAddress(layout::START_INFO)).unwrap();
        assert_eq!(info.magic, 0x336e_c578);
        assert_eq!(
            (info.version, info.nr_modules, info.memmap_entries),
            (1, 1, 2)
        );
        assert_eq!((info.flags, info.rsdp_paddr), (0, 0));
        let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        assert_eq!((module.paddr, module.size), (0x70_0000, 1234));
        let second = info.memmap_paddr + 24;
        let high: hvm_memmap_table_entry = memory.read_obj(GuestAddress(second)).unwrap();
        assert_eq!((high.addr, high.size, high.type_), (0x10_0000, 7 << 20, 1));
    }
}
