//! Signal dispositions, to be put back as a program expects them from its execve.

#![allow(unsafe_code)]

use std::io;

/// Signals are numbered from 1 to this on Linux (`_NSIG`, asm/signal.h).
const LAST_SIGNAL: i32 = 64;
/// The size of the kernel's own signal set, in bytes.
const SIGNAL_SET_BYTES: usize = 8;

/// Gives every signal its default action and unblocks all.
///
/// Rust's start-up ignores SIGPIPE, and an engine may have ignored or blocked others; both would
/// pass through execve to the user's program. The calls are made raw: libc keeps two signals to
/// itself and would leave those as they are.
pub fn reset_all() -> io::Result<()> {
    // All-zero is SIG_DFL, no flags, an empty mask in the kernel's `struct sigaction`, which is of
    // at most this size on 64-bit machines.
    let default = [0_u64; 4];
    for signal in 1..=LAST_SIGNAL {
        // SIGKILL and SIGSTOP refuse, which cannot be ignored in the first place.
        // SAFETY: `default` outlives the call and no old action is asked for.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                std::ptr::null_mut::<u64>(),
                SIGNAL_SET_BYTES,
            )
        };
    }
    let empty = 0_u64;
    // SAFETY: `empty` is a signal set of the size given, outlives the call, and no old mask is
    // asked for.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const empty,
            std::ptr::null_mut::<u64>(),
            SIGNAL_SET_BYTES,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
