//! Event descriptors that came over the socket.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd};

use vmm_sys_util::eventfd::EventFd;

/// The event descriptor in `file`, in the type that devices take.
pub(super) fn event_from(file: File) -> EventFd {
    // SAFETY: `into_raw_fd` gives up the ownership of an open descriptor, and this is the one
    // place that it goes to. `EventFd` makes reads and writes only, which are safe on any kind.
    unsafe { EventFd::from_raw_fd(file.into_raw_fd()) }
}
