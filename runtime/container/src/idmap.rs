//! Id mappings: of a new user namespace, written from outside it (user_namespaces(7)), and of a
//! mount, which are those of a user namespace (mount_setattr(2), "ID-mapped mounts").

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use runvm_oci::{IdMapping, Idmap};
use runvm_sys::mount_attr::{self, Reach};
use runvm_sys::user_namespace;

/// Why the ids of a mount are not mapped.
#[derive(Debug, thiserror::Error)]
pub enum IdmapError {
    /// There is no user namespace with the mappings.
    #[error("cannot make a user namespace with its uidMappings and gidMappings")]
    Mappings(#[source] io::Error),
    /// The container's own user namespace.
    #[error("cannot open the container's user namespace")]
    Container(#[source] io::Error),
    /// EINVAL of mount_setattr(2).
    #[error("its file system, or one mounted below it, cannot map ids")]
    FileSystem,
    /// Another answer of mount_setattr(2).
    #[error(transparent)]
    Kernel(io::Error),
}

/// Maps the ids of the detached `mount` for the container of the process `pid`.
pub(crate) fn map(mount: &OwnedFd, asked: &Idmap, pid: u32) -> Result<(), IdmapError> {
    let namespace = if asked.uid_mappings.is_empty() {
        let own = File::open(format!("/proc/{pid}/ns/user"));
        own.map_err(IdmapError::Container)?.into()
    } else {
        let mappings = |pid| write(&asked.uid_mappings, &asked.gid_mappings, pid);
        user_namespace::with_mappings(mappings).map_err(IdmapError::Mappings)?
    };
    let reach = if asked.recursive {
        Reach::Tree
    } else {
        Reach::Mount
    };
    mount_attr::set_idmap(mount.as_fd(), reach, namespace.as_fd()).map_err(|error| {
        match error.kind() {
            io::ErrorKind::InvalidInput => IdmapError::FileSystem,
            _ => IdmapError::Kernel(error),
        }
    })
}

/// Writes the mappings of the process `pid`, which has a new user namespace.
///
/// Who has no privileges may map their own ids alone; for others there are newuidmap(1) and
/// newgidmap(1), which know whom an administrator gave which.
pub(crate) fn write(uids: &[IdMapping], gids: &[IdMapping], pid: u32) -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let may_write = uid.is_root() || is_just(uids, uid.as_raw()) && is_just(gids, gid.as_raw());
    if !may_write {
        run_tool("newgidmap", gids, pid)?;
        return run_tool("newuidmap", uids, pid);
    }
    // Without privilege over groups the kernel takes a group mapping only from one who can no
    // longer leave groups: those may deny access, too.
    if !rustix::process::geteuid().is_root() {
        std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    }
    std::fs::write(format!("/proc/{pid}/gid_map"), text(gids))?;
    std::fs::write(format!("/proc/{pid}/uid_map"), text(uids))
}

fn is_just(mappings: &[IdMapping], id: u32) -> bool {
    matches!(mappings, [one] if (one.host_id, one.size) == (id, 1))
}

fn run_tool(name: &str, mappings: &[IdMapping], pid: u32) -> io::Result<()> {
    let text = text(mappings);
    let ran = Command::new(name)
        .arg(pid.to_string())
        .args(text.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run {name}: {error}")))?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    let first = said.lines().next().unwrap_or_default();
    Err(io::Error::other(format!("{name}: {first}")))
}

fn text(mappings: &[IdMapping]) -> String {
    let mut text = String::new();
    for mapping in mappings {
        let IdMapping {
            container_id,
            host_id,
            size,
        } = mapping;
        // Writing to a String does not fail.
        let _ = writeln!(text, "{container_id} {host_id} {size}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_a_line_of_inside_outside_and_count() {
        let mapping = IdMapping {
            container_id: 0,
            host_id: 100_000,
            size: 65_536,
        };
        assert_eq!(
            text(&[mapping, mapping]),
            "0 100000 65536\n0 100000 65536\n"
        );
    }
}
