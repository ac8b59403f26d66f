//! A bundle's configuration as the guest gets it: host paths turned into exports, what only the
//! host can do taken out, what neither can do refused by name.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use runvm_oci::{Device, DeviceKind, Mount, MountKind, NamespaceKind, Plan};
use runvm_proto::SHARE_PATH;
use runvm_sys::mount_attr::{self, MountAttr, Reach};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, major, minor, open};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use serde_json::{Value, json};

use super::size;

/// Why a bundle cannot run in a microVM.
#[derive(Debug, thiserror::Error)]
pub(super) enum GuestConfigError {
    /// A field asks for what a guest of its own kernel cannot have.
    #[error("{field} is not supported in vm isolation: {why}")]
    Unsupported {
        /// The field of config.json.
        field: String,
        /// Why.
        why: String,
    },
    /// A path on the host cannot be opened.
    #[error("cannot open {field} {}", path.display())]
    Open {
        /// The field of config.json.
        field: String,
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The configuration is not the object that was checked before.
    #[error("cannot rewrite config.json for the guest")]
    Json(#[source] serde_json::Error),
}

type Result<T, E = GuestConfigError> = std::result::Result<T, E>;

/// A directory or file of the host that the guest sees under a name.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) name: String,
    /// `O_PATH`; of a mount of its own where the caller may make one, so that nothing beside it can be
    /// reached.
    pub(super) fd: OwnedFd,
    pub(super) read_only: bool,
}

/// What the guest gets.
#[derive(Debug)]
pub(super) struct GuestConfig {
    /// config.json.
    pub(super) json: Vec<u8>,
    /// What it names.
    pub(super) exports: Vec<Export>,
    /// What was left out, a line each.
    pub(super) warnings: Vec<String>,
}

/// The name of the container's root among the exports.
pub(super) const ROOTFS: &str = "rootfs";

/// Turns the checked configuration `plan`, read from `config`, into the guest's.
pub(super) fn guest_config(plan: &Plan, config: &[u8]) -> Result<GuestConfig> {
    refuse(plan)?;
    let mut config: Value = serde_json::from_slice(config).map_err(GuestConfigError::Json)?;
    let mut exports = vec![export_root(plan)?];
    config["root"]["path"] = json!(shared(ROOTFS));
    for (i, mount) in plan.mounts.iter().enumerate() {
        if let MountKind::Bind { source, recursive } = &mount.kind {
            let source = export_mount(i, mount, source, *recursive, &mut exports)?;
            config["mounts"][i]["source"] = json!(source);
        }
    }
    let warnings = take_out_host_fields(plan, &mut config);
    let json = serde_json::to_vec(&config).map_err(GuestConfigError::Json)?;
    Ok(GuestConfig {
        json,
        exports,
        warnings,
    })
}

fn shared(name: &str) -> PathBuf {
    Path::new(SHARE_PATH).join(name)
}

fn unsupported<T>(field: impl Into<String>, why: impl Into<String>) -> Result<T> {
    Err(GuestConfigError::Unsupported {
        field: field.into(),
        why: why.into(),
    })
}

fn refuse(plan: &Plan) -> Result<()> {
    let mut kinds = plan.namespaces.iter().map(|namespace| namespace.kind);
    if !kinds.any(|kind| kind == NamespaceKind::Network) {
        return unsupported(
            "linux.namespaces without a network namespace",
            "the host's own network cannot be shared with a guest",
        );
    }
    for (i, namespace) in plan.namespaces.iter().enumerate() {
        if namespace.path.is_some() && namespace.kind != NamespaceKind::Network {
            let field = format!("linux.namespaces[{i}].path");
            return unsupported(
                field,
                "a namespace of the host's kernel has no meaning in the guest",
            );
        }
    }
    for (i, device) in plan.devices.iter().enumerate() {
        if !guest_has(device) {
            let Device {
                path, major, minor, ..
            } = device;
            let why = format!(
                "the guest has no device {major}:{minor} for {}",
                path.display()
            );
            return unsupported(format!("linux.devices[{i}]"), why);
        }
    }
    for (i, mount) in plan.mounts.iter().enumerate() {
        if let MountKind::FileSystem { fstype, .. } = &mount.kind
            && !GUEST_FILE_SYSTEMS.contains(&fstype.as_str())
        {
            let why =
                format!("{fstype} is not among the file systems that need nothing of the host");
            return unsupported(format!("mounts[{i}].type"), why);
        }
    }
    if !plan.hooks.create_container.is_empty() {
        return unsupported(
            "hooks.createContainer",
            "the guest has none of the host's programs",
        );
    }
    if plan
        .seccomp
        .as_ref()
        .is_some_and(|seccomp| seccomp.listener_path().is_some())
    {
        return unsupported(
            "linux.seccomp.listenerPath",
            "the agent it names is on the host",
        );
    }
    if !plan.net_devices.is_empty() {
        return unsupported(
            "linux.netDevices",
            "a device of the host cannot move into the guest",
        );
    }
    if plan.intel_rdt.is_some() {
        return unsupported("linux.intelRdt", "it would have to be applied to the VMM");
    }
    Ok(())
}

/// File systems that hold nothing of the host's.
const GUEST_FILE_SYSTEMS: [&str; 8] = [
    "proc",
    "sysfs",
    "tmpfs",
    "ramfs",
    "devpts",
    "mqueue",
    "hugetlbfs",
    "binfmt_misc",
];

/// The device nodes that mean the same in every Linux, and that the guest's kernel has
/// (Documentation/admin-guide/devices.txt).
const GUEST_DEVICES: [(u32, u32, &str); 9] = [
    (1, 3, "/dev/null"),
    (1, 5, "/dev/zero"),
    (1, 7, "/dev/full"),
    (1, 8, "/dev/random"),
    (1, 9, "/dev/urandom"),
    (5, 0, "/dev/tty"),
    (5, 1, "/dev/console"),
    (5, 2, "/dev/ptmx"),
    (10, 229, "/dev/fuse"),
];

fn guest_has(device: &Device) -> bool {
    match device.kind {
        DeviceKind::Fifo => true,
        DeviceKind::Block => false,
        DeviceKind::Char => guest_path(device.major, device.minor).is_some(),
    }
}

fn guest_path(major: u32, minor: u32) -> Option<&'static str> {
    let same = |&&(m, n, _): &&(u32, u32, &str)| (m, n) == (major, minor);
    GUEST_DEVICES.iter().find(same).map(|&(_, _, path)| path)
}

fn export_root(plan: &Plan) -> Result<Export> {
    let fd = open_tree_or_path("root.path", &plan.root.path, true)?;
    let stat = fstat(&fd).map_err(|errno| not_opened("root.path", &plan.root.path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(not_opened("root.path", &plan.root.path, Errno::NOTDIR));
    }
    // A read-only root is made so once the mount points in it are made: see the VMM process.
    Ok(Export {
        name: ROOTFS.to_owned(),
        fd,
        read_only: false,
    })
}

/// Exports the source of a bind mount; returns where the guest finds it.
fn export_mount(
    i: usize,
    mount: &Mount,
    source: &Path,
    recursive: bool,
    exports: &mut Vec<Export>,
) -> Result<PathBuf> {
    let field = format!("mounts[{i}].source");
    let fd = open_tree_or_path(&field, source, recursive)?;
    let opened = |errno: Errno| GuestConfigError::Open {
        field: field.clone(),
        path: source.to_owned(),
        source: errno.into(),
    };
    let stat = fstat(&fd).map_err(opened)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory | FileType::RegularFile => {}
        FileType::CharacterDevice => {
            let (major, minor) = (major(stat.st_rdev), minor(stat.st_rdev));
            return match guest_path(major, minor) {
                Some(path) => Ok(path.into()),
                None => unsupported(field, format!("the guest has no device {major}:{minor}")),
            };
        }
        kind => {
            return unsupported(
                field,
                format!("{} is a {}", source.display(), word_for(kind)),
            );
        }
    }
    let read_only = mount.attr_set & mount_attr::RDONLY != 0;
    let read_only_below = mount.attr_set_recursive & mount_attr::RDONLY != 0;
    if read_only || read_only_below {
        let reach = if read_only_below {
            Reach::Tree
        } else {
            Reach::Mount
        };
        // The server refuses writes as well; where the caller may not make mounts, it alone.
        let _ = mount_attr::set(fd.as_fd(), reach, MountAttr::new(mount_attr::RDONLY, 0));
    }
    let name = format!("mount-{i}");
    let path = shared(&name);
    exports.push(Export {
        name,
        fd,
        read_only: read_only || read_only_below,
    });
    Ok(path)
}

fn word_for(kind: FileType) -> &'static str {
    match kind {
        FileType::Socket => "socket, which connects to nothing through a shared file system",
        FileType::Fifo => "fifo, which connects to nothing through a shared file system",
        FileType::BlockDevice => "block device of the host",
        _ => "file of an unknown kind",
    }
}

/// A mount of its own of what lies at `path`, and with `recursive` of what is mounted below; the path
/// itself where the caller may not make mounts.
fn open_tree_or_path(field: &str, path: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let opened = match open_tree(CWD, path, flags) {
        Err(Errno::PERM | Errno::NOSYS | Errno::INVAL) => {
            open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        }
        opened => opened,
    };
    opened.map_err(|errno| not_opened(field, path, errno))
}

fn not_opened(field: &str, path: &Path, errno: Errno) -> GuestConfigError {
    GuestConfigError::Open {
        field: field.to_owned(),
        path: path.to_owned(),
        source: errno.into(),
    }
}

/// Takes out what is the host's to do, or means nothing to the guest's kernel.
fn take_out_host_fields(plan: &Plan, config: &mut Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for hook in ["prestart", "createRuntime", "poststart", "poststop"] {
        remove(config, "hooks", hook);
    }
    remove(config, "linux", "cgroupsPath");
    if let Some(config) = config.as_object_mut() {
        config.remove("vm");
    }
    for (object, field, label) in [
        ("process", "apparmorProfile", &plan.process.apparmor_profile),
        ("process", "selinuxLabel", &plan.process.selinux_label),
        ("linux", "mountLabel", &plan.mount_label),
    ] {
        if label.is_some() {
            remove(config, object, field);
            warnings.push(format!(
                "{object}.{field}: the host's policy has no effect in the guest"
            ));
        }
    }
    if config["linux"].is_object() {
        config["linux"]["resources"] = json!(size::guest_resources(&plan.resources));
    }
    if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        for namespace in namespaces.iter_mut().filter_map(Value::as_object_mut) {
            namespace.remove("path");
        }
    }
    warnings
}

fn remove(config: &mut Value, object: &str, field: &str) {
    if let Some(object) = config.get_mut(object).and_then(Value::as_object_mut) {
        object.remove(field);
    }
}

#[cfg(test)]
mod tests;
