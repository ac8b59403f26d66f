//! The container's view of its cgroups: one cgroup2 mount, or a tmpfs with the v1 hierarchies.
//!
//! In a cgroup namespace a new mount shows the container's own part by itself. Without one the
//! process's own cgroup is bound, never the hierarchy's root (CVE-2023-25809).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use runvm_oci::Mount;
use runvm_sys::mount_attr::{self, MountAttr, NODEV, NOEXEC, NOSUID, RDONLY, Reach};
use rustix::fs::{CWD, FsWord, Mode, OFlags, mkdirat, openat, statfs, symlinkat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, fsconfig_set_flag, fsconfig_set_string, open_tree};

use super::file_system::{mounted, open_named};
use super::{MountError, Mounts};
use crate::root;

const HOST: &str = "/sys/fs/cgroup";
/// linux/magic.h.
const CGROUP2_SUPER_MAGIC: FsWord = 0x6367_7270;

/// A line of `/proc/self/cgroup` (cgroups(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Membership {
    /// The controllers, or `name=...`, or nothing for the unified hierarchy.
    controllers: String,
    /// From the hierarchy's root, without the leading slash.
    path: PathBuf,
}

impl Mounts<'_> {
    pub(super) fn cgroup(&self, mount: &Mount) -> Result<(), MountError> {
        let memberships = self
            .proc_fs
            .read("self/cgroup")
            .map_err(MountError::OwnCgroup)?;
        let memberships: Vec<_> = memberships.lines().filter_map(membership).collect();
        let place = self.target_dir(&mount.destination)?;
        let is_unified = statfs(HOST).is_ok_and(|host| host.f_type == CGROUP2_SUPER_MAGIC);
        if is_unified {
            return self.unified(mount, &memberships, &place);
        }
        self.hierarchies(mount, &memberships, &place)
    }

    fn unified(
        &self,
        mount: &Mount,
        memberships: &[Membership],
        place: &OwnedFd,
    ) -> Result<(), MountError> {
        let failed = |source| MountError::Cgroup {
            name: "cgroup2".into(),
            target: mount.destination.clone(),
            source,
        };
        let own = memberships.iter().find(|m| m.controllers.is_empty());
        let own = own.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let detached = if self.cgroup_namespace {
            open_named("cgroup2")
                .and_then(|context| mounted(&context))
                .map_err(|errno| failed(errno.into()))?
        } else {
            bound(Path::new(HOST), own).map_err(failed)?
        };
        self.finish(mount, &detached, place)
    }

    fn hierarchies(
        &self,
        mount: &Mount,
        memberships: &[Membership],
        place: &OwnedFd,
    ) -> Result<(), MountError> {
        let failed = |name: &str, source: io::Error| MountError::Cgroup {
            name: name.into(),
            target: mount.destination.clone(),
            source,
        };
        let frame = tmpfs(self.label).map_err(|errno| failed("tmpfs", errno.into()))?;
        let attr = MountAttr::new(NOSUID | NODEV | NOEXEC, 0);
        mount_attr::set(frame.as_fd(), Reach::Mount, attr)
            .and_then(|()| root::attach(&frame, place))
            .map_err(|source| failed("tmpfs", source))?;
        for own in memberships.iter().filter(|m| !m.controllers.is_empty()) {
            let name = own.name();
            let dir = make_dir(&frame, name).map_err(|errno| failed(name, errno.into()))?;
            let detached = self.hierarchy(own).map_err(|source| failed(name, source))?;
            self.finish(mount, &detached, &dir)?;
            alias(&frame, name).map_err(|errno| failed(name, errno.into()))?;
        }
        if mount.attr_set & RDONLY == 0 {
            return Ok(());
        }
        mount_attr::set(frame.as_fd(), Reach::Mount, MountAttr::new(RDONLY, 0))
            .map_err(|source| failed("tmpfs", source))
    }

    /// One v1 hierarchy, mounted nowhere yet.
    fn hierarchy(&self, own: &Membership) -> io::Result<OwnedFd> {
        if !self.cgroup_namespace {
            return bound(&Path::new(HOST).join(own.name()), own);
        }
        let context = open_named("cgroup")?;
        match own.controllers.strip_prefix("name=") {
            Some(name) => {
                fsconfig_set_flag(context.as_fd(), "none")?;
                fsconfig_set_string(context.as_fd(), "name", name)?;
            }
            None => {
                for controller in own.controllers.split(',') {
                    fsconfig_set_flag(context.as_fd(), controller)?;
                }
            }
        }
        Ok(mounted(&context)?)
    }
}

impl Membership {
    /// The customary name of the hierarchy's directory.
    fn name(&self) -> &str {
        self.controllers
            .strip_prefix("name=")
            .unwrap_or(&self.controllers)
    }
}

fn membership(line: &str) -> Option<Membership> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    Some(Membership {
        controllers: controllers.into(),
        path: path.trim_start_matches('/').into(),
    })
}

/// The own cgroup of a hierarchy that the host has mounted at `hierarchy`.
fn bound(hierarchy: &Path, own: &Membership) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, hierarchy.join(&own.path), flags)?)
}

fn tmpfs(label: Option<&str>) -> rustix::io::Result<OwnedFd> {
    let context = open_named("tmpfs")?;
    fsconfig_set_string(context.as_fd(), "mode", "0755")?;
    if let Some(label) = label {
        fsconfig_set_string(context.as_fd(), "context", label)?;
    }
    mounted(&context)
}

fn make_dir(frame: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    mkdirat(frame, name, Mode::from_raw_mode(0o755))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(frame, name, flags, Mode::empty())
}

/// Controllers mounted together are found under each name: cpu is a link to cpu,cpuacct.
fn alias(frame: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    for part in name.split(',').filter(|part| *part != name) {
        match symlinkat(name, frame, part) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_names_its_hierarchy_and_path() {
        let named = membership("9:name=systemd:/a/b").unwrap();
        assert_eq!(named.name(), "systemd");
        assert_eq!(named.path, Path::new("a/b"));
        assert_eq!(membership("4:cpu,cpuacct:/").unwrap().name(), "cpu,cpuacct");
        assert_eq!(membership("0::/x").unwrap().controllers, "");
        assert_eq!(membership("nonsense"), None);
    }
}
