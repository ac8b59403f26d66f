//! Session keyrings (keyrings(7)).

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;

const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;

/// Leaves the session keyring inherited from the caller for a new one called `name`.
pub fn join_session(name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is a terminated string that outlives the call.
    let answer =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
