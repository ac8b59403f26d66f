//! Loading of seccomp filters (seccomp(2)).

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// One instruction of a filter. Layout: `struct sock_filter` (linux/filter.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// How many instructions to skip when true.
    pub jt: u8,
    /// How many instructions to skip when false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Installs `filter` for the calling thread with `flags` (`SECCOMP_FILTER_FLAG_*`), and gives the
/// listener when `SECCOMP_FILTER_FLAG_NEW_LISTENER` is among them.
pub fn load(filter: &[Instruction], flags: u64) -> io::Result<Option<OwnedFd>> {
    let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog {
        len,
        // The kernel copies from the pointer and never writes through it.
        filter: filter.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: `program` points at `len` instructions of the kernel's layout; both outlive the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    let number = RawFd::try_from(answer).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just given us this descriptor, so nothing else owns it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(number) }))
}
