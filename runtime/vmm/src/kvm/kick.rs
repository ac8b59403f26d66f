//! Getting another thread out of `KVM_RUN`.
#![allow(
    unsafe_code,
    reason = "the flag that does it lies in memory shared with the kernel, and a thread is signalled"
)]

use std::ffi::{c_int, c_void};
use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

use super::power::Wake;

/// Makes one vCPU's thread leave the guest, or not enter it.
///
/// `immediate_exit` is set before the signal is sent (KVM API, "KVM_RUN"): a thread that is about
/// to enter the guest sees the flag, and one that is inside gets the signal.
pub(super) struct Kick {
    immediate_exit: *const AtomicU8,
    thread: libc::pthread_t,
}

// SAFETY: the pointer is used for atomic stores only, and stays valid as `of_this_thread` demands;
// a pthread_t is a name that any thread of the process may use.
unsafe impl Send for Kick {}

impl Kick {
    /// Makes the kick for the vCPU that the calling thread runs.
    ///
    /// # Safety
    ///
    /// Until the value is dropped, `vcpu` must not be dropped and the calling thread must not end.
    pub(super) unsafe fn of_this_thread(vcpu: &mut VcpuFd) -> Self {
        prepare_signal();
        let immediate_exit = &raw mut vcpu.get_kvm_run().immediate_exit;
        Self {
            immediate_exit: immediate_exit.cast_const().cast::<AtomicU8>(),
            // SAFETY: pthread_self has no precondition.
            thread: unsafe { libc::pthread_self() },
        }
    }
}

impl Wake for Kick {
    fn wake(&self) {
        // SAFETY: the byte lies in the mapping that the VcpuFd owns, which outlives this value
        // (`of_this_thread`). The kernel and the vCPU's thread only ever read it.
        let immediate_exit = unsafe { &*self.immediate_exit };
        immediate_exit.store(1, Ordering::SeqCst);
        // SAFETY: the thread has not ended (`of_this_thread`), so its name is valid.
        let sent = unsafe { libc::pthread_kill(self.thread, SIGRTMIN()) };
        debug_assert_eq!(sent, 0, "the signal's number is valid");
    }
}

/// Gives the signal a handler, that it interrupts and does not kill.
fn prepare_signal() {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        let set = register_signal_handler(SIGRTMIN(), ignore);
        debug_assert!(set.is_ok(), "SIGRTMIN is a signal that can be handled");
    });
}

/// Lets the signal through to the calling thread.
pub(super) fn let_signal_through() -> io::Result<()> {
    unblock_signal(SIGRTMIN()).map_err(|error| io::Error::other(error.to_string()))
}

extern "C" fn ignore(_signal: c_int, _info: *mut libc::siginfo_t, _context: *mut c_void) {}
