//! Where things lie in guest physical memory. RAM itself is `memory.rs`'s matter.

/// The PVH start information; the guest copies it before it uses this memory.
pub(super) const START_INFO: u64 = 0x6000;
/// The list of modules: the initramfs.
pub(super) const MODULE_LIST: u64 = 0x6100;
/// The table of RAM ranges.
pub(super) const MEMORY_MAP: u64 = 0x7000;
/// The kernel's command line.
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
/// What Linux takes of it, with its final zero (COMMAND_LINE_SIZE of x86).
pub(super) const COMMAND_LINE_BYTES: usize = 2048;

/// Where a PC's legacy video and firmware area begins: RAM ends for now.
pub(super) const LEGACY_AREA: u64 = 0xa_0000;
/// The MP floating pointer, at the start of the firmware's area, which is one of the places that
/// a kernel looks at. The tables follow it.
pub(super) const MP_TABLE: u32 = 0xf_0000;
/// Where RAM goes on, and the lowest address of a kernel.
pub(super) const HIGH_MEMORY: u64 = 0x10_0000;

/// Where the hardware's I/O APIC and local APICs are, on every PC and in KVM.
pub(super) const IO_APIC: u32 = 0xfec0_0000;
pub(super) const LOCAL_APIC: u32 = 0xfee0_0000;
