//! What a filter answers: `SECCOMP_RET_*` and its data (linux/seccomp.h).

use oci_spec::runtime::LinuxSeccompAction;

use super::error::{Field, SeccompError};

/// What a filter returns to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Action(pub(super) u32);

const EPERM: u16 = 1;
const ENOSYS: u32 = 38;

const RET_ERRNO: u32 = 0x0005_0000;
const RET_TRACE: u32 = 0x7ff0_0000;

impl Action {
    pub(super) const KILL_THREAD: Self = Self(0);
    pub(super) const KILL_PROCESS: Self = Self(0x8000_0000);
    pub(super) const TRAP: Self = Self(0x0003_0000);
    pub(super) const NOTIFY: Self = Self(0x7fc0_0000);
    pub(super) const LOG: Self = Self(0x7ffc_0000);
    pub(super) const ALLOW: Self = Self(0x7fff_0000);
    pub(super) const NO_SUCH_CALL: Self = Self(RET_ERRNO | ENOSYS);

    /// The answer for `action`, with `errno` as its data: EPERM where none is given.
    pub(super) fn new(
        action: LinuxSeccompAction,
        errno: Option<u32>,
        field: Field,
    ) -> Result<Self, SeccompError> {
        let bare = match action {
            LinuxSeccompAction::ScmpActErrno => return with_data(RET_ERRNO, errno, field),
            LinuxSeccompAction::ScmpActTrace => return with_data(RET_TRACE, errno, field),
            LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
                Self::KILL_THREAD
            }
            LinuxSeccompAction::ScmpActKillProcess => Self::KILL_PROCESS,
            LinuxSeccompAction::ScmpActTrap => Self::TRAP,
            LinuxSeccompAction::ScmpActNotify => Self::NOTIFY,
            LinuxSeccompAction::ScmpActLog => Self::LOG,
            LinuxSeccompAction::ScmpActAllow => Self::ALLOW,
        };
        match errno {
            None => Ok(bare),
            // "When the action doesn't support an errno, the runtime MUST print and error and fail"
            // (OCI runtime specification, "Seccomp").
            Some(_) => Err(SeccompError::NoErrno { field, action }),
        }
    }

    /// Whether a call answered so is, or may be, made.
    pub(super) fn lets_pass(self) -> bool {
        self == Self::ALLOW || self == Self::LOG || self.0 & 0xffff_0000 == RET_TRACE
    }
}

fn with_data(base: u32, errno: Option<u32>, field: Field) -> Result<Action, SeccompError> {
    let Some(errno) = errno else {
        return Ok(Action(base | u32::from(EPERM)));
    };
    // More would reach into the bits that say which action it is.
    match u16::try_from(errno) {
        Ok(errno) => Ok(Action(base | u32::from(errno))),
        Err(_) => Err(SeccompError::Errno { field, errno }),
    }
}
