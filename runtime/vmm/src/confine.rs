//! What a thread of the VMM gives up before it meets the guest: its signals, its capabilities, and
//! every system call but those that its work takes.
//!
//! Each thread's [`Confinement`] stands beside the thread's code. A thread starts with what its
//! maker has left, so those that need more than their maker are made before it is confined. A
//! forbidden call ends the process: what made it is not this program any more. The last word, which
//! call it was, goes where [`report_to`] says.
#![allow(
    unsafe_code,
    reason = "a signal handler reads what the kernel tells it, and ends the process"
)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_long, c_void};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};
use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use vmm_sys_util::signal::register_signal_handler;

/// The exit status of a process that made a forbidden call, as of one killed by SIGSYS.
pub const FORBIDDEN: i32 = 128 + libc::SIGSYS;

/// A system call that a thread may make.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    number: c_long,
    only: Only,
}

#[derive(Debug, Clone, Copy)]
enum Only {
    Anything,
    OneOf(u8, &'static [u32]),
    Masked { argument: u8, mask: u64, value: u64 },
}

/// The system call `number`, whatever its arguments.
pub const fn call(number: c_long) -> Call {
    Call {
        number,
        only: Only::Anything,
    }
}

/// The system call `number` when argument `argument`, of 32 bits, is one of `values`.
pub const fn one_of(number: c_long, argument: u8, values: &'static [u32]) -> Call {
    Call {
        number,
        only: Only::OneOf(argument, values),
    }
}

/// The system call `number` when the bits `mask` of argument `argument` are those of `value`.
pub const fn masked(number: c_long, argument: u8, mask: u64, value: u64) -> Call {
    Call {
        number,
        only: Only::Masked {
            argument,
            mask,
            value,
        },
    }
}

/// No memory becomes executable after the start (mmap(2), mprotect(2)).
const PROT_EXEC: u64 = libc::PROT_EXEC.cast_unsigned() as u64;

/// What every thread does: memory, locks, time, the use of descriptors that it has, and its end.
pub const BASE: &[Call] = &[
    call(libc::SYS_read),
    call(libc::SYS_write),
    call(libc::SYS_close),
    call(libc::SYS_fcntl),
    call(libc::SYS_brk),
    masked(libc::SYS_mmap, 2, PROT_EXEC, 0),
    masked(libc::SYS_mprotect, 2, PROT_EXEC, 0),
    call(libc::SYS_mremap),
    call(libc::SYS_munmap),
    call(libc::SYS_madvise),
    call(libc::SYS_futex),
    call(libc::SYS_sched_yield),
    call(libc::SYS_sched_getaffinity),
    call(libc::SYS_clock_gettime),
    call(libc::SYS_clock_nanosleep),
    call(libc::SYS_getrandom),
    call(libc::SYS_restart_syscall),
    call(libc::SYS_rt_sigprocmask),
    call(libc::SYS_rt_sigreturn),
    call(libc::SYS_sigaltstack),
    call(libc::SYS_gettid),
    call(libc::SYS_getpid),
    call(libc::SYS_tgkill),
    call(libc::SYS_exit),
    call(libc::SYS_exit_group),
];

/// Calls that are answered ENOSYS where a thread has no use for them: what makes them does without.
/// The C library's allocator looks for `/proc/sys/vm/overcommit_memory` when it gives a part of a
/// thread's heap back.
const DISPENSABLE: &[c_long] = &[libc::SYS_openat];

/// What a kind of thread keeps.
#[derive(Debug)]
pub struct Confinement {
    /// What the thread is called in the last word.
    pub thread: &'static str,
    /// The capabilities it keeps of those it has.
    pub capabilities: CapabilitySet,
    /// What it may call beside [`BASE`]. A call stands in one list at most.
    pub calls: &'static [&'static [Call]],
    /// What is answered ENOSYS.
    pub absent: &'static [c_long],
}

/// Why a thread could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Its signals.
    #[error("cannot block the signals of the {thread} thread")]
    Signals {
        /// The thread's name.
        thread: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Its capabilities.
    #[error("cannot take the capabilities of the {thread} thread")]
    Capabilities {
        /// The thread's name.
        thread: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The filter of its calls.
    #[error("cannot put the {thread} thread under its seccomp filter")]
    Filter {
        /// The thread's name.
        thread: &'static str,
        /// The compiler's or the kernel's answer.
        source: seccompiler::Error,
    },
}

impl From<ConfineError> for io::Error {
    fn from(error: ConfineError) -> Self {
        Self::other(error)
    }
}

impl Confinement {
    /// Confines the calling thread, and all that it makes, for good.
    pub fn enter(&self) -> Result<(), ConfineError> {
        let thread = self.thread;
        THREAD.set(thread);
        // The first one looks the kernel's shared code up, by calls that no thread makes later.
        let _ = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        prepare_last_word()
            .and_then(|()| block_signals())
            .map_err(|source| ConfineError::Signals { thread, source })?;
        keep_capabilities(self.capabilities)
            .map_err(|source| ConfineError::Capabilities { thread, source })?;
        self.load_filters()
            .map_err(|source| ConfineError::Filter { thread, source })
    }

    fn load_filters(&self) -> Result<(), seccompiler::Error> {
        let nosys = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
        let absent = self.absent().map(|number| (number, Vec::new()));
        load(absent.collect(), SeccompAction::Allow, nosys)?;
        load(self.rules()?, SeccompAction::Trap, SeccompAction::Allow)
    }

    fn calls(&self) -> impl Iterator<Item = &'static Call> {
        BASE.iter().chain(self.calls.iter().copied().flatten())
    }

    fn absent(&self) -> impl Iterator<Item = c_long> {
        let dispensable = DISPENSABLE
            .iter()
            .filter(|&&number| !self.calls().any(|call| call.number == number));
        self.absent.iter().chain(dispensable).copied()
    }

    /// What this filter lets through: also what the other one answers.
    fn rules(&self) -> Result<BTreeMap<c_long, Vec<SeccompRule>>, BackendError> {
        let absent = self.absent().map(call);
        self.calls()
            .copied()
            .chain(absent)
            .map(|call| Ok((call.number, call.only.rules()?)))
            .collect()
    }
}

fn load(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    mismatch: SeccompAction,
    matched: SeccompAction,
) -> Result<(), seccompiler::Error> {
    let filter = SeccompFilter::new(rules, mismatch, matched, TargetArch::x86_64)?;
    let program: seccompiler::BpfProgram = filter.try_into()?;
    apply_filter(&program)
}

impl Only {
    /// The conditions of which one must hold; none for a call that is always allowed.
    fn rules(self) -> Result<Vec<SeccompRule>, BackendError> {
        let rule = |argument, length, operator, value| {
            let condition = SeccompCondition::new(argument, length, operator, value)?;
            SeccompRule::new(vec![condition])
        };
        match self {
            Self::Anything => Ok(Vec::new()),
            Self::OneOf(argument, values) => values
                .iter()
                .map(|value| {
                    let length = SeccompCmpArgLen::Dword;
                    rule(argument, length, SeccompCmpOp::Eq, u64::from(*value))
                })
                .collect(),
            Self::Masked {
                argument,
                mask,
                value,
            } => {
                let operator = SeccompCmpOp::MaskedEq(mask);
                Ok(vec![rule(
                    argument,
                    SeccompCmpArgLen::Qword,
                    operator,
                    value,
                )?])
            }
        }
    }
}

/// Leaves all signals to other threads but SIGSYS, which is how the thread learns of a forbidden
/// call: blocked, it would kill without a word.
pub(crate) fn block_signals() -> io::Result<()> {
    let mut others = SigSet::all();
    others.remove(Signal::SIGSYS);
    Ok(pthread_sigmask(
        SigmaskHow::SIG_SETMASK,
        Some(&others),
        None,
    )?)
}

/// Leaves the calling thread `keep` of its capabilities, and none to programs that it executes.
pub fn keep_capabilities(keep: CapabilitySet) -> io::Result<()> {
    let had = capabilities(None)?;
    if had.effective.contains(CapabilitySet::SETPCAP) {
        empty_bounding_set()?;
    }
    clear_ambient_capability_set()?;
    let left = had.permitted.intersection(keep);
    set_capabilities(
        None,
        CapabilitySets {
            effective: left,
            permitted: left,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}

fn empty_bounding_set() -> io::Result<()> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The kernel has no capability of this number, nor of any above.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

thread_local! {
    // Constant and without a destructor, so that a signal handler can read it.
    // A thread without a confinement of its own has its maker's.
    static THREAD: Cell<&'static str> = const { Cell::new("main") };
}

static LAST_WORD: OnceLock<OwnedFd> = OnceLock::new();

/// Has the last word, a line, written to `log` instead of to standard error. The first call
/// holds.
pub fn report_to(log: OwnedFd) {
    // A later one is closed: nothing was promised for it.
    let _ = LAST_WORD.set(log);
}

fn prepare_last_word() -> io::Result<()> {
    static HANDLER: OnceLock<Result<(), i32>> = OnceLock::new();
    HANDLER
        .get_or_init(|| {
            register_signal_handler(libc::SIGSYS, forbidden).map_err(|error| error.errno())
        })
        .map_err(io::Error::from_raw_os_error)
}

/// `si_code` of a filter's SIGSYS (asm-generic/siginfo.h).
const SYS_SECCOMP: c_int = 1;

/// The end of a thread that made a forbidden call. Touches no lock and no allocator.
extern "C" fn forbidden(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a siginfo_t, valid while the handler runs.
    let code = unsafe { (*info).si_code };
    if code != SYS_SECCOMP {
        // Sent by somebody.
        return;
    }
    // SAFETY: a siginfo_t has 128 bytes; in that of a filter's SIGSYS the number of the call is
    // the int at offset 24 (`_sigsys._syscall` in asm-generic/siginfo.h).
    let number = unsafe { info.cast::<c_int>().wrapping_add(6).read() };
    let mut line = [0; 160];
    let mut rest = &mut line[..];
    // The names are short; what does not fit is cut off.
    let _ = writeln!(
        rest,
        "the {} thread of the VMM made system call {number}, which its filter forbids",
        THREAD.get()
    );
    let left = rest.len();
    let written = &line[..line.len() - left];
    // Where there is no room for the word, the exit status has to do.
    let _ = match LAST_WORD.get() {
        Some(log) => rustix::io::write(log.as_fd(), written),
        None => rustix::io::write(io::stderr(), written),
    };
    // SAFETY: _exit runs nothing of this process's any more, so it may be called from a handler.
    unsafe { libc::_exit(FORBIDDEN) }
}

#[cfg(test)]
mod tests;
