//! Puts a guest into memory so that a vCPU can run it: the kernel, the initramfs, the command
//! line, and what tells the kernel of them and of the machine.
//!
//! The kernel is entered by PVH (Xen's direct boot protocol, docs/misc/pvh.pandoc): 32-bit, no
//! firmware, and the same entry that QEMU uses for an uncompressed kernel. The Linux 64-bit entry
//! was turned down: it wants page tables and a zero page of the VMM's making.

#[cfg(test)]
pub(crate) mod fixture;
mod layout;
mod mptable;
mod pvh;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{self, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

pub(crate) use self::mptable::{IO_APIC_PINS, MAX_VCPUS};

/// What to put into memory.
pub(crate) struct Images<'a> {
    pub(crate) kernel: &'a File,
    pub(crate) initramfs: &'a File,
    pub(crate) command_line: &'a str,
    pub(crate) vcpus: u8,
    pub(crate) memory_mib: u32,
}

/// Where the first vCPU begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryPoint {
    /// The kernel's 32-bit entry.
    pub(crate) instruction_pointer: u64,
    /// The address of the start information, for the register in which the kernel expects it.
    pub(crate) start_info: u64,
}

/// Why a guest could not be put into memory.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file could not be read.
    #[error("cannot read the {what}")]
    Read {
        /// Which file.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel is not of the one kind that can be booted.
    #[error("the kernel is not an uncompressed 64-bit x86 ELF file (vmlinux)")]
    KernelFormat,
    /// The ELF file could not be loaded.
    #[error("cannot load the kernel into {memory_mib} MiB of memory")]
    LoadKernel {
        /// Size of the memory.
        memory_mib: u32,
        /// The loader's answer.
        source: loader::Error,
    },
    /// The kernel was built without `CONFIG_PVH`.
    #[error("the kernel has no PVH entry")]
    NoPvhEntry,
    /// The initramfs has no byte in it.
    #[error("the initramfs is empty")]
    EmptyInitramfs,
    /// The initramfs does not fit behind the kernel.
    #[error(
        "an initramfs of {bytes} bytes does not fit into {memory_mib} MiB of memory beside the kernel"
    )]
    InitramfsTooLarge {
        /// Size of the initramfs.
        bytes: u64,
        /// Size of the memory.
        memory_mib: u32,
    },
    /// The command line is longer than the kernel takes.
    #[error("the kernel's command line has {length} bytes, and {limit} is the most")]
    CommandLineTooLong {
        /// Length.
        length: usize,
        /// The most.
        limit: usize,
    },
    /// The command line has a byte in it that ends or breaks it.
    #[error("the kernel's command line has a control character in it")]
    CommandLineControl,
    /// Guest memory has no place for what must be at a fixed address.
    #[error("cannot write the {what} to guest memory")]
    Write {
        /// What was to be written.
        what: &'static str,
        /// The memory's answer.
        source: GuestMemoryError,
    },
}

/// Loads `images` into `memory`.
pub(crate) fn load(memory: &GuestMemoryMmap, images: &Images) -> Result<EntryPoint, BootError> {
    let kernel = load_kernel(memory, images)?;
    let initramfs = load_initramfs(memory, images, kernel.end)?;
    write_command_line(memory, images.command_line)?;
    write_mp_table(memory, images.vcpus)?;
    pvh::write_start_info(memory, images.memory_mib, initramfs)?;
    Ok(EntryPoint {
        instruction_pointer: kernel.entry,
        start_info: layout::START_INFO,
    })
}

struct LoadedKernel {
    entry: u64,
    end: u64,
}

fn load_kernel(memory: &GuestMemoryMmap, images: &Images) -> Result<LoadedKernel, BootError> {
    check_kernel_format(images.kernel)?;
    let lowest = Some(GuestAddress(layout::HIGH_MEMORY));
    let mut kernel = images.kernel;
    let loaded =
        Elf::load(memory, None, &mut kernel, lowest).map_err(|source| BootError::LoadKernel {
            memory_mib: images.memory_mib,
            source,
        })?;
    match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(entry) => Ok(LoadedKernel {
            entry: entry.0,
            end: loaded.kernel_end,
        }),
        _ => Err(BootError::NoPvhEntry),
    }
}

/// Looks at what the loader does not: the class of the file and the machine it is for.
fn check_kernel_format(kernel: &File) -> Result<(), BootError> {
    const ELF_CLASS_64: u8 = 2;
    const MACHINE_X86_64: [u8; 2] = [62, 0];
    let mut header = [0; 20];
    match kernel.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(BootError::KernelFormat);
        }
        Err(source) => {
            return Err(BootError::Read {
                what: "kernel",
                source,
            });
        }
    }
    let elf = header.starts_with(b"\x7fELF");
    if elf && header[4] == ELF_CLASS_64 && header[18..] == MACHINE_X86_64 {
        Ok(())
    } else {
        Err(BootError::KernelFormat)
    }
}

/// A piece of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    address: u64,
    bytes: u64,
}

/// Puts the initramfs at the end of low memory, as far from the kernel as can be: the kernel
/// grows behind its end before it looks at its modules.
fn load_initramfs(
    memory: &GuestMemoryMmap,
    images: &Images,
    kernel_end: u64,
) -> Result<Piece, BootError> {
    let read_error = |source| BootError::Read {
        what: "initramfs",
        source,
    };
    let bytes = images.initramfs.metadata().map_err(read_error)?.len();
    if bytes == 0 {
        return Err(BootError::EmptyInitramfs);
    }
    let too_large = BootError::InitramfsTooLarge {
        bytes,
        memory_mib: images.memory_mib,
    };
    let Some(address) = place_initramfs(images.memory_mib, kernel_end, bytes) else {
        return Err(too_large);
    };
    let Ok(count) = usize::try_from(bytes) else {
        return Err(too_large);
    };
    let mut from_start = images.initramfs;
    io::Seek::rewind(&mut from_start).map_err(read_error)?;
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut from_start, count)
        .map_err(|source| BootError::Write {
            what: "initramfs",
            source,
        })?;
    Ok(Piece { address, bytes })
}

fn place_initramfs(memory_mib: u32, kernel_end: u64, bytes: u64) -> Option<u64> {
    const PAGE: u64 = 4096;
    let low_ram_end = crate::memory::ram_ranges(memory_mib)
        .first()
        .map(|(base, len)| base + len)?;
    let address = low_ram_end.checked_sub(bytes)? & !(PAGE - 1);
    (address >= kernel_end).then_some(address)
}

fn write_command_line(memory: &GuestMemoryMmap, command_line: &str) -> Result<(), BootError> {
    let limit = layout::COMMAND_LINE_BYTES - 1;
    if command_line.len() > limit {
        return Err(BootError::CommandLineTooLong {
            length: command_line.len(),
            limit,
        });
    }
    if command_line.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(BootError::CommandLineControl);
    }
    let mut bytes = Vec::from(command_line);
    bytes.push(0);
    write(memory, "command line", layout::COMMAND_LINE, &bytes)
}

fn write_mp_table(memory: &GuestMemoryMmap, vcpus: u8) -> Result<(), BootError> {
    let table = mptable::mp_table(layout::MP_TABLE, vcpus);
    write(memory, "MP table", layout::MP_TABLE.into(), &table)
}

fn write(
    memory: &GuestMemoryMmap,
    what: &'static str,
    address: u64,
    bytes: &[u8],
) -> Result<(), BootError> {
    memory
        .write_slice(bytes, GuestAddress(address))
        .map_err(|source| BootError::Write { what, source })
}

#[cfg(test)]
mod tests {
    use super::fixture::{elf, file};
    use super::*;

    fn kernel(with_pvh_note: bool) -> Vec<u8> {
        elf(b"code", with_pvh_note)
    }

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap()
    }

    fn load_files(
        kernel: &[u8],
        initramfs: &[u8],
        command_line: &str,
    ) -> Result<EntryPoint, BootError> {
        load_into(&memory(), kernel, initramfs, command_line)
    }

    fn load_into(
        memory: &GuestMemoryMmap,
        kernel: &[u8],
        initramfs: &[u8],
        command_line: &str,
    ) -> Result<EntryPoint, BootError> {
        let images = Images {
            kernel: &file(kernel),
            initramfs: &file(initramfs),
            command_line,
            vcpus: 2,
            memory_mib: 4,
        };
        load(memory, &images)
    }

    fn bytes_at(memory: &GuestMemoryMmap, address: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    #[test]
    fn a_guest_is_put_where_its_parts_belong() {
        let memory = memory();
        let entry = load_into(&memory, &kernel(true), b"initramfs", "quiet").unwrap();
        assert_eq!(entry.instruction_pointer, 0x10_0000);
        assert_eq!(bytes_at(&memory, 0x10_0000, 4), b"code");
        assert_eq!(bytes_at(&memory, (4 << 20) - 4096, 9), b"initramfs");
        assert_eq!(bytes_at(&memory, layout::COMMAND_LINE, 6), b"quiet\0");
        assert_eq!(bytes_at(&memory, layout::MP_TABLE.into(), 4), b"_MP_");
        let start_info = bytes_at(&memory, entry.start_info, 4);
        assert_eq!(start_info, 0x336e_c578u32.to_le_bytes());
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let mut for_32_bits = kernel(true);
        for_32_bits[4] = 1;
        let mut for_arm = kernel(true);
        for_arm[18] = 183;
        let cases = [
            ("nothing", Vec::new()),
            ("a bzImage", b"MZ\xea\x07".repeat(100)),
            ("32-bit", for_32_bits),
            ("for another machine", for_arm),
        ];
        for (name, kernel) in cases {
            let error = load_files(&kernel, b"x", "").unwrap_err();
            assert!(matches!(error, BootError::KernelFormat), "{name}: {error}");
        }
        let cut = &kernel(true)[..100];
        let error = load_files(cut, b"x", "").unwrap_err();
        assert!(matches!(error, BootError::LoadKernel { .. }), "{error}");
        let error = load_files(&kernel(false), b"x", "").unwrap_err();
        assert!(matches!(error, BootError::NoPvhEntry), "{error}");
    }

    #[test]
    fn an_initramfs_must_fit_beside_the_kernel() {
        let error = load_files(&kernel(true), b"", "").unwrap_err();
        assert!(matches!(error, BootError::EmptyInitramfs), "{error}");
        let error = load_files(&kernel(true), &vec![1; 3 << 20], "").unwrap_err();
        assert!(
            matches!(error, BootError::InitramfsTooLarge { .. }),
            "{error}"
        );
        assert_eq!(place_initramfs(4, 0x10_0000, u64::MAX), None);
        assert_eq!(place_initramfs(4, 0x10_0000, 3 << 20), Some(1 << 20));
        assert_eq!(place_initramfs(8192, 0x10_0000, 1), Some(0xbfff_f000));
    }

    #[test]
    fn a_command_line_must_be_one_line_that_the_kernel_takes_whole() {
        let error = load_files(&kernel(true), b"x", &"a".repeat(2048)).unwrap_err();
        assert!(matches!(
            error,
            BootError::CommandLineTooLong {
                length: 2048,
                limit: 2047
            }
        ));
        load_files(&kernel(true), b"x", &"a".repeat(2047)).unwrap();
        for text in ["a\nb", "a\0b"] {
            let error = load_files(&kernel(true), b"x", text).unwrap_err();
            assert!(matches!(error, BootError::CommandLineControl), "{text:?}");
        }
    }

    #[test]
    fn memory_too_small_for_the_fixed_places_is_an_error() {
        let small = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        load_into(&small, &kernel(true), b"x", "").unwrap_err();
    }
}
