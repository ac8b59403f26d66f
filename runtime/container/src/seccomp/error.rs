//! Why a profile cannot be a filter, by the field that says so.

use std::fmt;
use std::io;

use oci_spec::runtime::{Arch, LinuxSeccompAction};

/// A `linux.seccomp` that cannot be made a filter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    /// An architecture whose calls cannot be filtered here.
    #[error("linux.seccomp.architectures[{index}]: {arch} has not this machine's byte order")]
    Architecture {
        /// Which of the list.
        index: usize,
        /// The architecture.
        arch: Arch,
    },
    /// An error number for an action that answers none.
    #[error("{field}: {action} answers no error number")]
    NoErrno {
        /// Where it stands.
        field: Field,
        /// The action beside it.
        action: LinuxSeccompAction,
    },
    /// An error number that does not fit into an answer.
    #[error("{field}: {errno} is not an error number, which has 16 bits")]
    Errno {
        /// Where it stands.
        field: Field,
        /// The number.
        errno: u32,
    },
    /// A call without a name.
    #[error("linux.seccomp.syscalls[{syscall}].names[{name}] is empty")]
    EmptyName {
        /// Which of `syscalls`.
        syscall: usize,
        /// Which of its names.
        name: usize,
    },
    /// A seventh argument, or a later one.
    #[error("linux.seccomp.syscalls[{syscall}].args[{arg}].index: {index} is not one of 0 to 5")]
    ArgumentIndex {
        /// Which of `syscalls`.
        syscall: usize,
        /// Which of its `args`.
        arg: usize,
        /// The index given.
        index: usize,
    },
    /// Two rules for the same case that answer differently.
    #[error(
        "linux.seccomp.syscalls[{syscall}].action: the same conditions for {name} have another action before"
    )]
    Contradiction {
        /// Which of `syscalls`.
        syscall: usize,
        /// The system call.
        name: String,
    },
    /// A notification on a call that the listener could not be handed over without.
    #[error("{field}: SCMP_ACT_NOTIFY cannot be used for {what}")]
    Notify {
        /// Where it stands.
        field: Field,
        /// What it is used for.
        what: &'static str,
    },
    /// Notifications without anybody to notify.
    #[error("linux.seccomp.listenerPath is missing: SCMP_ACT_NOTIFY needs it")]
    NoListener,
    /// Metadata without anybody to send it to.
    #[error("linux.seccomp.listenerMetadata needs linux.seccomp.listenerPath")]
    MetadataAlone,
    /// More instructions than the kernel takes.
    #[error(
        "linux.seccomp.syscalls: the filter would have {instructions} instructions, and the kernel takes {}",
        super::INSTRUCTIONS_MAX
    )]
    TooLong {
        /// How many there would be.
        instructions: usize,
    },
}

/// The kernel's refusal of a filter.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Neither of the conditions of seccomp(2) holds.
    #[error(
        "cannot load the seccomp filter: it needs process.noNewPrivileges or the capability CAP_SYS_ADMIN"
    )]
    NotAllowed(#[source] io::Error),
    /// Any other.
    #[error("cannot load the seccomp filter")]
    Refused(#[source] io::Error),
}

/// A field of `linux.seccomp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `defaultAction`.
    DefaultAction,
    /// `defaultErrnoRet`.
    DefaultErrnoRet,
    /// `errnoRet` of an entry of `syscalls`.
    ErrnoRet(usize),
    /// `action` of an entry of `syscalls`.
    Action(usize),
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DefaultAction => f.write_str("linux.seccomp.defaultAction"),
            Self::DefaultErrnoRet => f.write_str("linux.seccomp.defaultErrnoRet"),
            Self::ErrnoRet(syscall) => write!(f, "linux.seccomp.syscalls[{syscall}].errnoRet"),
            Self::Action(syscall) => write!(f, "linux.seccomp.syscalls[{syscall}].action"),
        }
    }
}
