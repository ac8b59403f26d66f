//! A cgroup handed to the container's own root (config-linux.md, "Cgroup ownership").

use std::io;

use runvm_oci::{MountKind, NamespaceKind, Plan};
use runvm_sys::mount_attr::RDONLY;
use rustix::fs::{AtFlags, Uid, chownat};
use rustix::io::Errno;

use super::hierarchy::Version;
use super::{Cgroup, CgroupError};
use crate::namespaces::{Source, source};

/// Which files may be handed over, a name a line (cgroups(7), "Cgroups delegation").
const DELEGATED: &str = "/sys/kernel/cgroup/delegate";
/// Those of kernels before Linux 4.15, which do not say.
const ALWAYS_DELEGATED: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

impl Cgroup {
    /// Hands the cgroup to the user of `plan`'s process, where that is meant: in a cgroup namespace
    /// of its own, with a cgroup file system that it may write to. Not on cgroup v1, which is not
    /// safe to hand over.
    pub fn delegate(&self, plan: &Plan) -> Result<(), CgroupError> {
        let [place] = self.places.as_slice() else {
            return Ok(());
        };
        let Some(owner) = owner(plan).filter(|_| place.version == Version::V2) else {
            return Ok(());
        };
        let delegated = std::fs::read_to_string(DELEGATED);
        let delegated = delegated.as_deref().unwrap_or(ALWAYS_DELEGATED);
        let hand_over = |name: &str| -> io::Result<()> {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            match chownat(place.directory()?, name, Some(owner), None, flags) {
                // Listed for controllers that this cgroup has not.
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(errno.into()),
            }
        };
        for name in std::iter::once(".").chain(delegated.lines()) {
            hand_over(name).map_err(|source| CgroupError::Delegate {
                path: place.full_path().join(name),
                source,
            })?;
        }
        Ok(())
    }
}

/// The user, as the host has it, that the cgroup is handed to; `None` leaves it as it is.
fn owner(plan: &Plan) -> Option<Uid> {
    let is_writable = plan
        .mounts
        .iter()
        .any(|mount| mount.kind == MountKind::Cgroup && mount.attr_set & RDONLY == 0);
    if !is_writable || source(plan, NamespaceKind::Cgroup) != Source::New {
        return None;
    }
    let uid = plan.process.user.uid;
    match source(plan, NamespaceKind::User) {
        Source::Runtime => Some(Uid::from_raw(uid)),
        Source::New => plan.uid_mappings.iter().find_map(|mapping| {
            let offset = uid.checked_sub(mapping.container_id)?;
            (offset < mapping.size).then(|| Uid::from_raw(mapping.host_id + offset))
        }),
        // Its mappings are not the plan's to know.
        Source::Joined => None,
    }
}
