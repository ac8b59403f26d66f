//! `linux.seccomp` made a filter: classic BPF that the kernel runs before each system call.
//!
//! [`compile`] turns a profile into a [`Filter`]; it touches nothing but its argument, so what it
//! gives may be kept and used again wherever the profile is the same. [`Filter::load`] puts the
//! calling thread under it. Where calls are answered by notification, [`listener`] carries the
//! listener from the confined process to the agent at `listenerPath`.
//!
//! The meaning of a profile is that of runc with libseccomp:
//! * An architecture that is not listed is answered by killing the thread; the machine's own is
//!   always listed.
//! * Names that are no system call's are passed over.
//! * Of several rules for one call, one without conditions beats those with some, and the first of
//!   those without any beats the others. Among rules with conditions the order is
//!   libseccomp's; nearly always they exclude each other, and it does not matter.
//! * A system call newer than all that the profile names is answered ENOSYS, unless the default
//!   lets it pass: programs try new calls and fall back on that answer alone.
//! * i386's `socketcall` and `ipc` are understood as the calls they make.
//!
//! Where libseccomp refuses a rule that holds in more cases than an earlier one with another
//! action, the narrower rule comes first here.

mod action;
mod error;
pub mod listener;
mod profile;
mod program;
mod rules;
mod syscalls;
mod table;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};
use runvm_sys::seccomp::{self, Instruction};

use action::Action;
pub use error::{Field, LoadError, SeccompError};
use profile::Profile;
use program::Section;
use syscalls::{Abi, Machine};

/// `BPF_MAXINSNS` (linux/bpf_common.h).
pub const INSTRUCTIONS_MAX: usize = 4096;

/// What libseccomp answers to an architecture without rules.
const BAD_ARCHITECTURE: Action = Action::KILL_THREAD;

/// A profile, ready for the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    instructions: Vec<Instruction>,
    flags: u64,
    warnings: Vec<String>,
    unknown: Vec<String>,
}

/// Makes a filter of `linux.seccomp`.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    compile_for(Machine::NATIVE, seccomp)
}

fn compile_for(machine: Machine, seccomp: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    let profile = Profile::read(seccomp, machine)?;
    check_listener(seccomp, &profile)?;
    let sections = sections(&profile)?;
    let instructions = program::assemble(&sections, profile.default, BAD_ARCHITECTURE);
    if instructions.len() > INSTRUCTIONS_MAX {
        return Err(SeccompError::TooLong {
            instructions: instructions.len(),
        });
    }
    let (flags, warnings) = flags(seccomp, profile.notifies);
    Ok(Filter {
        instructions,
        flags,
        warnings,
        unknown: profile.unknown,
    })
}

impl Filter {
    /// The program.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// Whether loading it gives a listener, which must be handed over for the program to go on.
    pub fn needs_listener(&self) -> bool {
        self.flags & seccomp::FLAG_NEW_LISTENER != 0
    }

    /// What of the profile has no effect, for whoever wrote it.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Names in the profile that are no system call's; engines' profiles have many, for other
    /// kernels and other processors.
    pub fn unknown_syscalls(&self) -> &[String] {
        &self.unknown
    }

    /// Puts the calling thread, and all it makes from now on, under the filter for ever. Gives the
    /// listener if the filter [needs](Self::needs_listener) one.
    ///
    /// Must come after `PR_SET_NO_NEW_PRIVS`, or while the thread has CAP_SYS_ADMIN in its user
    /// namespace (seccomp(2)).
    pub fn load(&self) -> Result<Option<OwnedFd>, LoadError> {
        seccomp::load(&self.instructions, self.flags).map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => LoadError::NotAllowed(error),
            _ => LoadError::Refused(error),
        })
    }
}

/// One section for each architecture the kernel tells apart: x32 is a part of x86-64's.
fn sections(profile: &Profile) -> Result<Vec<Section>, SeccompError> {
    let default = profile.default;
    let unknown = match default.lets_pass() {
        true => default,
        false => Action::NO_SUCH_CALL,
    };
    let mut sections = Vec::new();
    for abi in profile.abis.iter().filter(|abi| **abi != Abi::X32) {
        let mut section = Section::new(*abi, default);
        section.add(profile.answers(*abi)?, default, unknown);
        if *abi == Abi::X86_64 && profile.abis.contains(&Abi::X32) {
            section.end_before_x32(default);
            section.add(profile.answers(Abi::X32)?, default, unknown);
        } else if *abi == Abi::X86_64 {
            section.end_before_x32(BAD_ARCHITECTURE);
            section.answer_skipped(default);
        }
        sections.push(section);
    }
    Ok(sections)
}

/// As runc has it: the confined process must be able to say which descriptor the listener is, and
/// it says so by `write`.
fn check_listener(seccomp: &LinuxSeccomp, profile: &Profile) -> Result<(), SeccompError> {
    if profile.default == Action::NOTIFY {
        return Err(SeccompError::Notify {
            field: Field::DefaultAction,
            what: "all calls",
        });
    }
    for (i, syscall) in seccomp.syscalls().iter().flatten().enumerate() {
        let notifies = syscall.action() == LinuxSeccompAction::ScmpActNotify;
        if notifies && syscall.names().iter().any(|name| name == "write") {
            return Err(SeccompError::Notify {
                field: Field::Action(i),
                what: "write",
            });
        }
    }
    let has_path = seccomp
        .listener_path()
        .as_ref()
        .is_some_and(|path| !path.as_os_str().is_empty());
    let has_metadata = seccomp
        .listener_metadata()
        .as_ref()
        .is_some_and(|metadata| !metadata.is_empty());
    match (profile.notifies, has_path, has_metadata) {
        (true, false, _) => Err(SeccompError::NoListener),
        (_, false, true) => Err(SeccompError::MetadataAlone),
        _ => Ok(()),
    }
}

/// The flags of seccomp(2), and warnings for those that have no effect.
fn flags(seccomp: &LinuxSeccomp, notifies: bool) -> (u64, Vec<String>) {
    let mut flags = 0;
    let mut warnings = Vec::new();
    let Some(asked) = seccomp.flags() else {
        // runc's default: without it the mitigation of speculative store bypass slows all down.
        flags |= seccomp::FLAG_SPEC_ALLOW;
        return (flags | listener_flag(notifies), warnings);
    };
    for (i, flag) in asked.iter().enumerate() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => seccomp::FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => seccomp::FLAG_SPEC_ALLOW,
            // The kernel wants the other one beside it when there is a listener: both use the
            // return value.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync if notifies => {
                seccomp::FLAG_TSYNC | seccomp::FLAG_TSYNC_ESRCH
            }
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => seccomp::FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notifies => {
                seccomp::FLAG_WAIT_KILLABLE_RECV
            }
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                warnings.push(format!(
                    "linux.seccomp.flags[{i}]: {flag} has no effect without SCMP_ACT_NOTIFY"
                ));
                0
            }
        };
    }
    (flags | listener_flag(notifies), warnings)
}

fn listener_flag(notifies: bool) -> u64 {
    match notifies {
        true => seccomp::FLAG_NEW_LISTENER,
        false => 0,
    }
}
