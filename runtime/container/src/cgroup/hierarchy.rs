//! The cgroup hierarchies of this host, and where in them the runtime itself is.
//!
//! Start-up counts every call: hierarchies are sought at their conventional mount points, and
//! /proc/self/mountinfo, long on a busy host, is read only if one is not there.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use super::CgroupError;

/// Where systemd, and everyone since, mounts cgroups.
const ROOT: &str = "/sys/fs/cgroup";

/// File systems' magic numbers, from linux/magic.h.
const CGROUP_SUPER_MAGIC: u64 = 0x0027_e0eb;
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// Which kind of hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// One mounted hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// What it controls; empty on v2, where that depends on the cgroup.
    pub(super) controllers: Vec<String>,
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    pub(super) root: OwnedFd,
    /// What relative paths are taken from, as /proc/self/cgroup has it; empty where it was not
    /// asked for.
    pub(super) own: String,
}

/// Finds the host's hierarchies: the unified one, or the v1 ones with or without it.
///
/// `with_own` tells whether the runtime's own cgroup must be known.
pub(super) fn find(with_own: bool) -> Result<Vec<Hierarchy>, CgroupError> {
    let root = Path::new(ROOT);
    if let Some(fd) = open_if_there(root, Version::V2)? {
        return Ok(vec![Hierarchy {
            version: Version::V2,
            controllers: Vec::new(),
            mount: root.into(),
            root: fd,
            own: if with_own {
                parent_of_own()?
            } else {
                String::new()
            },
        }]);
    }
    let mut mounts = None;
    let mut found = Vec::new();
    for line in read_own()?.lines().filter_map(OwnLine::parse) {
        if let Some(hierarchy) = open_hierarchy(&line, &mut mounts)? {
            found.push(hierarchy);
        }
    }
    if found.is_empty() {
        return Err(CgroupError::NotMounted { path: root.into() });
    }
    Ok(found)
}

/// Opens the mount point of a hierarchy, to resolve paths from.
pub(super) fn open_mount(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Opens the mount point `path`, if a hierarchy of that kind is to be had there.
fn open_if_there(path: &Path, kind: Version) -> Result<Option<OwnedFd>, CgroupError> {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    match open_mount(path) {
        Ok(fd) => Ok(Some(fd).filter(|fd| version(fd) == Some(kind))),
        Err(error) if matches!(error.kind(), NotADirectory | NotFound | PermissionDenied) => {
            Ok(None)
        }
        // A container without one of its cgroups would be one without that one's limits.
        Err(source) => Err(CgroupError::Open {
            path: path.into(),
            source,
        }),
    }
}

/// Which kind of cgroup file system `directory` is in, if in one at all.
pub(super) fn version(directory: &OwnedFd) -> Option<Version> {
    let magic = rustix::fs::fstatfs(directory).ok()?.f_type;
    match u64::try_from(magic).ok()? {
        CGROUP_SUPER_MAGIC => Some(Version::V1),
        CGROUP2_SUPER_MAGIC => Some(Version::V2),
        _ => None,
    }
}

/// A line of /proc/self/cgroup (cgroups(7)): `hierarchy:controllers:path`.
struct OwnLine<'a> {
    controllers: &'a str,
    path: &'a str,
}

impl<'a> OwnLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        Some(Self { controllers, path })
    }

    fn version(&self) -> Version {
        if self.controllers.is_empty() {
            Version::V2
        } else {
            Version::V1
        }
    }

    /// Where the hierarchy is mounted by convention; `None` for one that is no concern of ours.
    fn directory(&self) -> Option<&str> {
        match self.controllers {
            "" => Some("unified"),
            "name=systemd" => Some("systemd"),
            named if named.starts_with("name=") => None,
            controllers => Some(controllers),
        }
    }
}

fn open_hierarchy(
    line: &OwnLine<'_>,
    mounts: &mut Option<String>,
) -> Result<Option<Hierarchy>, CgroupError> {
    let Some(directory) = line.directory() else {
        return Ok(None);
    };
    let mut mount = Path::new(ROOT).join(directory);
    let mut root = open_if_there(&mount, line.version())?;
    if root.is_none() {
        let mounts = match mounts {
            Some(mounts) => mounts,
            None => mounts.insert(read_file("/proc/self/mountinfo")?),
        };
        if let Some((point, _)) = find_mount(mounts, line.version(), line.controllers) {
            mount = point.into();
            root = open_if_there(&mount, line.version())?;
        }
    }
    Ok(root.map(|root| Hierarchy {
        version: line.version(),
        controllers: line
            .controllers
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        mount,
        root,
        own: line.path.to_owned(),
    }))
}

impl Hierarchy {
    /// [`Self::own`] below the mount, for a mount that does not show the hierarchy
    /// from its root: in a container without a cgroup namespace, /proc/self/cgroup names what
    /// only the host sees.
    pub(super) fn own_below_mount(&self) -> Result<String, CgroupError> {
        let controllers = self.controllers.join(",");
        let mounts = read_file("/proc/self/mountinfo")?;
        let root = find_mount(&mounts, self.version, &controllers).map_or("/", |(_, root)| root);
        Ok(below(root, &self.own).to_owned())
    }
}

/// The part of `path` below `root`; all of it is outside if `root` is not its beginning.
fn below<'a>(root: &str, path: &'a str) -> &'a str {
    match path.strip_prefix(root.trim_end_matches('/')) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => "",
    }
}

/// The mount point and the root of the mount of a hierarchy, from /proc/self/mountinfo
/// (proc_pid_mountinfo(5)). Mount points of cgroups have none of the characters it escapes.
fn find_mount<'a>(
    mountinfo: &'a str,
    version: Version,
    controllers: &str,
) -> Option<(&'a str, &'a str)> {
    mountinfo.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut rest = rest.split(' ');
        let fstype = rest.next()?;
        let options = rest.nth(1)?;
        let is_it = match version {
            Version::V2 => fstype == "cgroup2",
            Version::V1 => {
                fstype == "cgroup"
                    && controllers
                        .split(',')
                        .all(|name| options.split(',').any(|option| option == name))
            }
        };
        is_it.then_some((point, root))
    })
}

/// The parent of the runtime's own cgroup in the unified hierarchy: the runtime is a process in
/// its own one, which for that can hand no controllers to children.
fn parent_of_own() -> Result<String, CgroupError> {
    let own = read_own()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"));
    let parent = path.and_then(|path| path.rsplit_once('/'));
    Ok(parent.map_or("/", |(parent, _)| parent).to_owned())
}

fn read_own() -> Result<String, CgroupError> {
    read_file("/proc/self/cgroup")
}

fn read_file(path: &str) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::Read {
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
24 1 0:22 / /proc rw - proc proc rw
40 30 0:35 /docker/x /sys/fs/cgroup/cpu,cpuacct ro shared:9 - cgroup cgroup rw,cpu,cpuacct
41 30 0:36 / /elsewhere/unified rw - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn a_mount_is_found_by_its_controllers() {
        let find = |version, controllers| find_mount(MOUNTINFO, version, controllers);
        let cpu = Some(("/sys/fs/cgroup/cpu,cpuacct", "/docker/x"));
        assert_eq!(find(Version::V1, "cpu,cpuacct"), cpu);
        assert_eq!(find(Version::V1, "cpuacct"), cpu);
        assert_eq!(find(Version::V1, "memory"), None);
        assert_eq!(find(Version::V2, ""), Some(("/elsewhere/unified", "/")));
    }

    #[test]
    fn a_path_is_taken_from_the_root_of_the_mount() {
        for (root, path, expected) in [
            ("/", "/a/b", "/a/b"),
            ("/docker/x", "/docker/x/y", "/y"),
            ("/docker/x", "/docker/x", ""),
            ("/docker/x", "/docker/xy", ""),
            ("/..", "/", ""),
        ] {
            assert_eq!(below(root, path), expected, "{root} {path}");
        }
    }

    #[test]
    fn a_line_of_proc_self_cgroup_names_its_directory() {
        for (line, directory, path) in [
            ("4:cpu,cpuacct:/a", Some("cpu,cpuacct"), "/a"),
            ("1:name=systemd:/", Some("systemd"), "/"),
            ("2:name=other:/", None, "/"),
            ("0::/a:b", Some("unified"), "/a:b"),
        ] {
            let parsed = OwnLine::parse(line).unwrap();
            assert_eq!(
                (parsed.directory(), parsed.path),
                (directory, path),
                "{line}"
            );
        }
    }
}
