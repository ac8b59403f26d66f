//! Loading of seccomp filters (seccomp(2)).

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// All other threads come under the filter too.
pub const FLAG_TSYNC: u64 = libc::SECCOMP_FILTER_FLAG_TSYNC;
/// All answers but that of allowing are logged.
pub const FLAG_LOG: u64 = libc::SECCOMP_FILTER_FLAG_LOG;
/// The mitigation of speculative store bypass stays off.
pub const FLAG_SPEC_ALLOW: u64 = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
/// Loading gives a descriptor on which notifications are received.
pub const FLAG_NEW_LISTENER: u64 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
/// A failure to bring the other threads under the filter is ESRCH instead of the thread's id.
pub const FLAG_TSYNC_ESRCH: u64 = libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
/// A process whose notification has been received can only be woken by a fatal signal.
pub const FLAG_WAIT_KILLABLE_RECV: u64 = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;

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

/// Installs `filter` for the calling thread with `flags` (`FLAG_*`), and gives the listener when
/// [`FLAG_NEW_LISTENER`] is among them.
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
    match answer {
        ..0 => Err(io::Error::last_os_error()),
        number if flags & FLAG_NEW_LISTENER != 0 => {
            let number = RawFd::try_from(number).map_err(|_| io::ErrorKind::InvalidData)?;
            // SAFETY: the kernel has just given us this descriptor, so nothing else owns it.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(number) }))
        }
        0 => Ok(None),
        // FLAG_TSYNC: the id of a thread that has another filter. Nothing has been installed.
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}
