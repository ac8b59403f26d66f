//! What no driver may make available, for the tests of devices.

use super::fake_driver::{HIGH_MEMORY, LOW_MEMORY, RawDescriptor};

/// `VIRTQ_DESC_F_*` (virtio 1.2, section 2.7.5).
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// One descriptor.
pub(crate) fn descriptor(addr: u64, len: u32, flags: u16, next: u16) -> RawDescriptor {
    RawDescriptor {
        addr,
        len,
        flags,
        next,
    }
}

/// Chains that hold nothing a device could read or write whole, each with what is wrong with it.
/// `at` is where buffers may lie, 64 KiB of them.
pub(crate) fn broken_chains(at: u64) -> Vec<(&'static str, Vec<RawDescriptor>)> {
    let hole = LOW_MEMORY.1 as u64;
    let end = HIGH_MEMORY.0 + HIGH_MEMORY.1 as u64;
    let one = |addr, len, flags, next| vec![descriptor(addr, len, flags, next)];
    vec![
        ("nothing to read", one(at, 0, 0, 0)),
        ("nothing to write", one(at, 0, WRITE, 0)),
        ("a loop to read", one(at, 64, NEXT, 0)),
        ("a loop to write", one(at, 64, WRITE | NEXT, 0)),
        ("next beyond the table", one(at, 64, WRITE | NEXT, 9999)),
        ("no memory", one(hole, 8192, WRITE, 0)),
        ("across the end", one(end - 4096, 8192, WRITE, 0)),
        ("a huge length", one(at, u32::MAX, WRITE, 0)),
        ("the last address", one(u64::MAX, 8192, WRITE, 0)),
        ("an empty indirect table", one(at, 0, INDIRECT, 0)),
        ("an indirect table in no memory", one(hole, 64, INDIRECT, 0)),
        (
            "readable after writable",
            vec![
                descriptor(at, 64, WRITE | NEXT, 1),
                descriptor(at, 64, 0, 0),
            ],
        ),
    ]
}
