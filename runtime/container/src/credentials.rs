//! Who the program runs as: groups, user, and the five capability sets (capabilities(7)).

use std::io;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use runvm_oci::{CAPABILITY_NAMES, Capabilities, Process, User};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, remove_capability_from_bounding_set, set_keep_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use crate::proc_fs::ProcFs;

/// A step to the program's credentials that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error("cannot read the capabilities held")]
    Held(#[source] CapsError),
    #[error("cannot drop {name} from the bounding set")]
    Bounding {
        name: &'static str,
        source: CapsError,
    },
    #[error("cannot drop capability {number} from the bounding set")]
    NewerBounding { number: u32, source: io::Error },
    #[error("cannot keep capabilities over the change of user")]
    Keep(#[source] io::Error),
    #[error("cannot set the supplementary groups {0:?}", .groups)]
    Groups { groups: Vec<u32>, source: io::Error },
    #[error("cannot become group {gid}")]
    Group { gid: u32, source: io::Error },
    #[error("cannot become user {uid}")]
    User { uid: u32, source: io::Error },
    #[error("cannot set the {set} capabilities")]
    Set {
        set: &'static str,
        source: CapsError,
    },
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
    let held = read(CapSet::Permitted)?;
    let kept = keep.bits() & held;
    let wanted = process.capabilities.unwrap_or_default();
    let (mut wanted, warnings) = attainable(&wanted, held);
    drop_from_bounding(wanted.bounding)?;
    set_keep_capabilities(true).map_err(|errno| CredentialError::Keep(errno.into()))?;
    change_user(proc_fs, &process.user)?;
    wanted.effective |= kept;
    wanted.permitted |= kept;
    set(&wanted)?;
    Ok(warnings)
}

fn read(kind: CapSet) -> Result<u64, CredentialError> {
    Ok(mask(
        &caps::read(None, kind).map_err(CredentialError::Held)?,
    ))
}

/// What can be had of `wanted` by one who holds `held`: nobody can give what he does not have.
fn attainable(wanted: &Capabilities, held: u64) -> (Capabilities, Vec<String>) {
    let permitted = wanted.permitted & held;
    let inheritable = wanted.inheritable & held;
    // Ambient ones must be both (capabilities(7), "PR_CAP_AMBIENT_RAISE"). That the plan's own
    // sets rule some out is no one's concern: the customary default configuration's do.
    let ambient = wanted.ambient & wanted.permitted & wanted.inheritable;
    let had = Capabilities {
        // Dropping from it needs nothing; nothing can be added to it.
        bounding: wanted.bounding,
        effective: wanted.effective & held,
        inheritable,
        permitted,
        ambient: ambient & held,
    };
    let sets = [
        ("effective", wanted.effective, had.effective),
        ("inheritable", wanted.inheritable, had.inheritable),
        ("permitted", wanted.permitted, had.permitted),
        ("ambient", ambient, had.ambient),
    ];
    let warnings = sets.into_iter().filter(|(_, wanted, had)| wanted != had);
    let warnings = warnings.map(|(set, wanted, had)| {
        let names: Vec<_> = named(wanted & !had).map(|(name, _)| name).collect();
        let names = names.join(", ");
        format!("process.capabilities.{set}: {names} cannot be had here and are left out")
    });
    (had, warnings.collect())
}

/// The capabilities of a mask; it has none that has no name, as the plan's come from names.
fn named(mask: u64) -> impl Iterator<Item = (&'static str, Capability)> {
    let of_mask = move |(number, _): &(usize, _)| mask & (1_u64 << *number) != 0;
    let names = CAPABILITY_NAMES.into_iter().enumerate().filter(of_mask);
    names.filter_map(|(_, name)| Some((name, name.parse().ok()?)))
}

fn mask(set: &CapsHashSet) -> u64 {
    set.iter().fold(0, |mask, one| mask | one.bitmask())
}

fn drop_from_bounding(keep: u64) -> Result<(), CredentialError> {
    for (name, capability) in named(!keep) {
        // The kernel may be older than a name; what it does not know it does not grant.
        match caps::drop(None, CapSet::Bounding, capability) {
            Err(_) if !exists(capability) => break,
            dropped => dropped.map_err(|source| CredentialError::Bounding { name, source })?,
        }
    }
    drop_newer_from_bounding()
}

fn exists(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Bounding, capability).is_ok()
}

/// Those a newer kernel has beside the ones with names: no plan can ask for them.
fn drop_newer_from_bounding() -> Result<(), CredentialError> {
    for number in (0..u64::BITS).skip(CAPABILITY_NAMES.len()) {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The kernel has no capability of this number, nor of any above.
            Err(Errno::INVAL) => break,
            Err(errno) => {
                return Err(CredentialError::NewerBounding {
                    number,
                    source: errno.into(),
                });
            }
        }
    }
    Ok(())
}

/// Inheritable ones come first, while they can be taken from what is permitted; permitted ones
/// after the effective, which must be among them.
fn set(wanted: &Capabilities) -> Result<(), CredentialError> {
    for (name, kind, mask) in [
        ("inheritable", CapSet::Inheritable, wanted.inheritable),
        ("effective", CapSet::Effective, wanted.effective),
        ("permitted", CapSet::Permitted, wanted.permitted),
    ] {
        let all = named(mask).map(|(_, capability)| capability).collect();
        caps::set(None, kind, &all).map_err(failed(name))?;
    }
    caps::clear(None, CapSet::Ambient).map_err(failed("ambient"))?;
    for (_, capability) in named(wanted.ambient) {
        caps::raise(None, CapSet::Ambient, capability).map_err(failed("ambient"))?;
    }
    Ok(())
}

fn failed(set: &'static str) -> impl Fn(CapsError) -> CredentialError {
    move |source| CredentialError::Set { set, source }
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
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].contains("CAP_DAC_READ_SEARCH"), "{warnings:?}");
    }
    #[test]
    fn ambient_capabilities_that_the_plan_itself_rules_out_are_left_out_in_silence() {
        let default = Capabilities {
            bounding: 0b1,
            effective: 0b1,
            inheritable: 0,
            permitted: 0b1,
            ambient: 0b1,
        };
        let (had, warnings) = attainable(&default, 0b1);
        assert_eq!(had.ambient, 0);
        assert_eq!(warnings, Vec::<String>::new());
        let meant = Capabilities {
            inheritable: 0b1,
            ..default
        };
        let (had, warnings) = attainable(&meant, 0b0);
        assert_eq!(had.ambient, 0);
        assert!(
            warnings.iter().any(|line| line.contains(".ambient")),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_capability_has_the_number_its_name_has_here() {
        for (number, (name, capability)) in named(u64::MAX).enumerate() {
            assert_eq!(usize::from(capability.index()), number, "{name}");
        }
        assert_eq!(named(u64::MAX).count(), CAPABILITY_NAMES.len());
    }
}
