//! What of a container is the host's: it is named in the images, not dumped, and brought again at
//! a restore.
//!
//! A mount goes by its destination as config.json has it, never by the path the root leads to:
//! whoever changes a link there could else have one source mounted in the place of another
//! (CVE-2026-119101, CVE-2026-115520).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use runvm_oci::{DeviceKind, MountKind, NamespaceKind, Plan};
use rustix::fs::{CWD, FileType, Mode, OFlags, openat};

use super::rpc::{ExternalMount, InheritFd, JoinNamespace, Options};
use crate::cgroup::Cgroup;
use crate::devices;
use crate::namespaces::{Source, source};
use crate::rootfs::{Rootfs, file_type};
use crate::spawn::Inherited;

/// The name in the images of what masks a file; no destination is like it.
const MASK: &str = "maskedPaths";

/// Something of the host's that the container has or is to have.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// The container's own view.
    #[error("cannot look into the root of process {pid}")]
    Root {
        /// The container's first process.
        pid: u32,
        /// Why not.
        source: io::Error,
    },
    /// A path in it.
    #[error("cannot find {} in the container", path.display())]
    MountPoint {
        /// As config.json has it.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A namespace.
    #[error("cannot open the {} namespace {}", kind.word(), path.display())]
    Namespace {
        /// Which.
        kind: NamespaceKind,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// CRIU has no way.
    #[error("criu cannot join a {} namespace", .0.word())]
    NoWay(NamespaceKind),
}

/// Names the mounts of a running container that are not dumped.
pub(super) fn name_mounts(
    plan: &Plan,
    pid: u32,
    cgroup: Option<&Cgroup>,
    options: &mut Options,
) -> Result<(), ExternalError> {
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, &root, flags, Mode::empty()).map_err(|errno| ExternalError::Root {
        pid,
        source: errno.into(),
    })?;
    let view = View(Rootfs::new(root));
    for (destination, _) in mounts_of_host(plan, cgroup) {
        if let Some((_, path)) = view.find(&destination)? {
            push_mount(options, path, text(&destination));
        }
    }
    for masked in &plan.masked_paths {
        match view.find(masked)? {
            Some((FileType::Directory, _)) | None => {}
            Some((_, path)) => push_mount(options, path, MASK.to_owned()),
        }
    }
    Ok(())
}

/// Says what is mounted for each of those names.
pub(super) fn bring_mounts(plan: &Plan, cgroup: Option<&Cgroup>, options: &mut Options) {
    for (destination, source) in mounts_of_host(plan, cgroup) {
        push_mount(options, text(&destination), text(&source));
    }
    push_mount(options, MASK.to_owned(), "/dev/null".to_owned());
}

/// Names the namespaces that are not dumped: a network and a pid namespace that were joined.
pub(super) fn name_namespaces(
    plan: &Plan,
    pid: u32,
    options: &mut Options,
) -> Result<(), ExternalError> {
    for namespace in plan.namespaces.iter().filter(|one| one.path.is_some()) {
        let Some(key) = external_key(namespace.kind) else {
            continue;
        };
        let word = criu_word(namespace.kind);
        let path = PathBuf::from(format!("/proc/{pid}/ns/{word}"));
        let inode = fs::metadata(&path).map_err(|source| ExternalError::Namespace {
            kind: namespace.kind,
            path,
            source,
        })?;
        options
            .external
            .push(format!("{word}[{}]:{key}", inode.ino()));
    }
    Ok(())
}

/// Brings the namespaces of `plan` that are joined.
pub(super) fn bring_namespaces(
    plan: &Plan,
    inherited: &mut Inherited,
    options: &mut Options,
) -> Result<(), ExternalError> {
    for namespace in &plan.namespaces {
        let kind = namespace.kind;
        let Some(path) = &namespace.path else {
            continue;
        };
        if let Some(key) = external_key(kind) {
            let opened = fs::File::open(path).map(OwnedFd::from);
            let fd = opened.and_then(|fd| inherited.add(fd));
            let fd = fd.map_err(|source| ExternalError::Namespace {
                kind,
                path: path.clone(),
                source,
            })?;
            options.inherit_fd.push(InheritFd {
                key: key.to_owned(),
                fd,
            });
        } else if kind == NamespaceKind::Cgroup {
            return Err(ExternalError::NoWay(kind));
        } else {
            options.join_ns.push(JoinNamespace {
                kind: criu_word(kind).to_owned(),
                file: text(path),
            });
        }
    }
    Ok(())
}

/// Destination and source of each mount that shows a part of the host.
fn mounts_of_host(plan: &Plan, cgroup: Option<&Cgroup>) -> Vec<(PathBuf, PathBuf)> {
    let mut mounts = Vec::new();
    for mount in &plan.mounts {
        match &mount.kind {
            MountKind::Bind { source, .. } => {
                mounts.push((mount.destination.clone(), source.clone()));
            }
            // In a cgroup namespace it is a mount of its own.
            MountKind::Cgroup if source(plan, NamespaceKind::Cgroup) == Source::Runtime => {
                for told in cgroup.into_iter().flat_map(Cgroup::told) {
                    let destination = match told.mount_name {
                        Some(name) => mount.destination.join(name),
                        None => mount.destination.clone(),
                    };
                    mounts.push((destination, told.full_path));
                }
            }
            MountKind::Cgroup | MountKind::FileSystem { .. } => {}
        }
    }
    // Those that are bound and not made; CRIU has no use for the names of the others.
    let devices = plan
        .devices
        .iter()
        .filter(|device| device.kind != DeviceKind::Fifo)
        .map(|device| device.path.clone())
        .chain(devices::default_paths());
    for path in devices {
        if !mounts.iter().any(|(destination, _)| *destination == path) {
            mounts.push((path.clone(), path));
        }
    }
    mounts
}

/// A container's root, as its processes have it.
struct View(Rootfs);

impl View {
    /// What is at `path`, and its path without links; `None` where there is nothing.
    fn find(&self, path: &Path) -> Result<Option<(FileType, String)>, ExternalError> {
        let failed = |source| ExternalError::MountPoint {
            path: path.into(),
            source,
        };
        let Some(found) = crate::rootfs::found(self.0.open(path)).map_err(failed)? else {
            return Ok(None);
        };
        let resolved = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()));
        let resolved = resolved.map_err(failed)?;
        Ok(Some((file_type(&found).map_err(failed)?, text(&resolved))))
    }
}

fn push_mount(options: &mut Options, key: String, value: String) {
    options.ext_mnt.push(ExternalMount { key, value });
}

/// The name in the images of a namespace that is brought by descriptor.
fn external_key(kind: NamespaceKind) -> Option<&'static str> {
    match kind {
        NamespaceKind::Network => Some("extRootNetNS"),
        NamespaceKind::Pid => Some("extRootPidNS"),
        _ => None,
    }
}

/// CRIU's word for a kind of namespace, which is the one of /proc/PID/ns.
fn criu_word(kind: NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::Network => "net",
        NamespaceKind::Mount => "mnt",
        _ => kind.word(),
    }
}

/// Paths of config.json are text already.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
