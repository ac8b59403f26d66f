//! Small guests for tests.

use std::fs::File;
use std::io::Write;

/// Where the code of a small guest lies and begins.
const ENTRY: u32 = 0x10_0000;

/// The smallest kernel that the loader takes: one segment of 32-bit code and one note, which
/// names the entry or is of another kind.
pub(crate) fn elf(code: &[u8], with_pvh_note: bool) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    const LOAD: u32 = 1;
    const NOTE: u32 = 4;
    let length = code.len() as u64;
    let mut elf = header();
    elf.extend(segment(LOAD, HEADERS, ENTRY.into(), length));
    elf.extend(segment(NOTE, HEADERS + length, 0, 20));
    elf.extend(code);
    let kind: u32 = if with_pvh_note { 18 } else { 17 };
    for word in [4, 4, kind] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(b"Xen\0");
    elf.extend(ENTRY.to_le_bytes());
    elf
}

/// A file in memory.
pub(crate) fn file(bytes: &[u8]) -> File {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create(c"fixture", flags).unwrap());
    file.write_all(bytes).unwrap();
    file
}

fn header() -> Vec<u8> {
    let mut header = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    header.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    header.extend(u64::from(ENTRY).to_le_bytes());
    header.extend(64u64.to_le_bytes());
    header.extend(0u64.to_le_bytes());
    header.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    header
}

fn segment(kind: u32, offset: u64, address: u64, bytes: u64) -> Vec<u8> {
    let mut header = Vec::from(kind.to_le_bytes());
    header.extend(5u32.to_le_bytes());
    for word in [offset, address, address, bytes, bytes, 4] {
        header.extend(word.to_le_bytes());
    }
    header
}
