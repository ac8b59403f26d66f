//! Who the program runs as: groups, user, and the five capability sets (capabilities(7)).

use std::io;

use runvm_oci::{Capabilities, Process, User};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::proc_fs::ProcFs;

/// A step to the program's credentials that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error("cannot read the capabilities held")]
    Held(#[source] io::Error),
    #[error("cannot drop capability {number} from the bounding set")]
    Bounding { number: u32, source: io::Error },
    #[error("cannot keep capabilities over the change of user")]
    Keep(#[source] io::Error),
    #[error("cannot set the supplementary groups {0:?}", .groups)]
    Groups { groups: Vec<u32>, source: io::Error },
    #[error("cannot become group {gid}")]
    Group { gid: u32, source: io::Error },
    #[error("cannot become user {uid}")]
    User { uid: u32, source: io::Error },
    #[error("cannot set the effective, permitted and inheritable capabilities")]
    Sets(#[source] io::Error),
    #[error("cannot set the ambient capabilities")]
    Ambient(#[source] io::Error),
}

/// `CAP_SYS_ADMIN` (linux/capability.h).
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Whether CAP_SYS_ADMIN stays until execve, whatever the program is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Nothing,
    SysAdmin,
}

impl Keep {
    /// Without no_new_privs a filter can be loaded with the capability only. The program does not
    /// get it by that: execve makes its sets of the bounding, inheritable and ambient ones
    /// (capabilities(7)), which are the program's already.
    pub(crate) fn for_filter(filter: bool, no_new_privileges: bool) -> Self {
        match filter && !no_new_privileges {
            true => Self::SysAdmin,
            false => Self::Nothing,
        }
    }

    fn bits(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::SysAdmin => CAP_SYS_ADMIN,
        }
    }
}

/// Takes on the user, the groups and the capabilities of `process`. Gives a warning for each kind
/// of capability that the plan wants and the runtime itself does not hold.
pub(crate) fn assume(
    proc_fs: &ProcFs,
    process: &Process,
    keep: Keep,
) -> Result<Vec<String>, CredentialError> {
    let held = capabilities(None).map_err(|errno| CredentialError::Held(errno.into()))?;
    let Some(wanted) = &process.capabilities else {
        change_user_alone(proc_fs, &process.user, &held, keep)?;
        return Ok(Vec::new());
    };
    let kept = keep.bits() & held.permitted.bits();
    let (wanted, warnings) = attainable(wanted, held.permitted.bits());
    drop_from_bounding(wanted.bounding)?;
    set_keep_capabilities(true).map_err(|errno| CredentialError::Keep(errno.into()))?;
    change_user(proc_fs, &process.user)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::from_bits_retain(wanted.effective | kept),
            permitted: CapabilitySet::from_bits_retain(wanted.permitted | kept),
            inheritable: CapabilitySet::from_bits_retain(wanted.inheritable),
        },
    )
    .map_err(|errno| CredentialError::Sets(errno.into()))?;
    set_ambient(wanted.ambient).map_err(|errno| CredentialError::Ambient(errno.into()))?;
    Ok(warnings)
}

/// The kernel takes the capabilities from all users but root.
fn change_user_alone(
    proc_fs: &ProcFs,
    user: &User,
    held: &CapabilitySets,
    keep: Keep,
) -> Result<(), CredentialError> {
    if keep == Keep::Nothing || user.uid == 0 {
        return change_user(proc_fs, user);
    }
    set_keep_capabilities(true).map_err(|errno| CredentialError::Keep(errno.into()))?;
    change_user(proc_fs, user)?;
    let kept = CapabilitySet::from_bits_retain(keep.bits()) & held.permitted;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: held.inheritable,
        },
    )
    .map_err(|errno| CredentialError::Sets(errno.into()))?;
    clear_ambient_capability_set().map_err(|errno| CredentialError::Ambient(errno.into()))
}

/// What can be had of `wanted` by one who holds `held`: nobody can give what he does not have.
fn attainable(wanted: &Capabilities, held: u64) -> (Capabilities, Vec<String>) {
    let permitted = wanted.permitted & held;
    let inheritable = wanted.inheritable & held;
    let had = Capabilities {
        // Dropping from it needs nothing; nothing can be added to it.
        bounding: wanted.bounding,
        effective: wanted.effective & held,
        inheritable,
        permitted,
        // Ambient ones must be both (capabilities(7), "PR_CAP_AMBIENT_RAISE").
        ambient: wanted.ambient & permitted & inheritable,
    };
    let sets = [
        ("effective", wanted.effective, had.effective),
        ("inheritable", wanted.inheritable, had.inheritable),
        ("permitted", wanted.permitted, had.permitted),
        ("ambient", wanted.ambient, had.ambient),
    ];
    let warnings = sets.into_iter().filter(|(_, wanted, had)| wanted != had);
    let warnings = warnings.map(|(set, wanted, had)| {
        let names = names(wanted & !had).join(", ");
        format!("process.capabilities.{set}: {names} cannot be had here and are left out")
    });
    (had, warnings.collect())
}

fn names(set: u64) -> Vec<String> {
    let numbers = (0..64_usize).filter(|number| set & (1 << number) != 0);
    let name = |number: usize| match runvm_oci::CAPABILITY_NAMES.get(number) {
        Some(name) => (*name).to_owned(),
        None => format!("capability {number}"),
    };
    numbers.map(name).collect()
}

fn drop_from_bounding(keep: u64) -> Result<(), CredentialError> {
    for number in 0..u64::BITS {
        let one = 1_u64 << number;
        if keep & one != 0 {
            continue;
        }
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(one)) {
            Ok(()) => {}
            // The kernel has no capability of this number, nor of any above.
            Err(Errno::INVAL) => break,
            Err(errno) => {
                return Err(CredentialError::Bounding {
                    number,
                    source: errno.into(),
                });
            }
        }
    }
    Ok(())
}

/// The groups are set even when there are none: those of the caller must not stay.
fn change_user(proc_fs: &ProcFs, user: &User) -> Result<(), CredentialError> {
    let groups: Vec<Gid> = user
        .additional_gids
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    match set_thread_groups(&groups) {
        Ok(()) => {}
        // A user namespace of an unprivileged user forbids even to leave groups.
        Err(Errno::PERM) if groups.is_empty() && groups_are_fixed(proc_fs) => {}
        Err(errno) => {
            return Err(CredentialError::Groups {
                groups: user.additional_gids.clone(),
                source: errno.into(),
            });
        }
    }
    let gid = Gid::from_raw(user.gid);
    set_thread_res_gid(gid, gid, gid).map_err(|errno| CredentialError::Group {
        gid: user.gid,
        source: errno.into(),
    })?;
    let uid = Uid::from_raw(user.uid);
    set_thread_res_uid(uid, uid, uid).map_err(|errno| CredentialError::User {
        uid: user.uid,
        source: errno.into(),
    })
}

fn groups_are_fixed(proc_fs: &ProcFs) -> bool {
    let setgroups = proc_fs.read("self/setgroups");
    setgroups.is_ok_and(|word| word.trim() == "deny")
}

fn set_ambient(wanted: u64) -> rustix::io::Result<()> {
    clear_ambient_capability_set()?;
    for number in (0..u64::BITS).filter(|number| wanted & (1 << number) != 0) {
        let one = CapabilitySet::from_bits_retain(1 << number);
        configure_capability_in_ambient_set(one, true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_held_is_left_out_with_a_warning() {
        let all = Capabilities {
            bounding: 0b111,
            effective: 0b111,
            inheritable: 0,
            permitted: 0b111,
            ambient: 0b100,
        };
        let (had, warnings) = attainable(&all, 0b011);
        assert_eq!(had.permitted, 0b011);
        assert_eq!(had.effective, 0b011);
        assert_eq!(had.ambient, 0);
        assert_eq!(had.inheritable, 0);
        assert_eq!(warnings.len(), 3);
        assert!(warnings[0].contains("CAP_DAC_READ_SEARCH"), "{warnings:?}");
    }
}
