//! From the kernel's initial root to a machine that containers can be made in.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use runvm_sys::netlink::bring_up_loopback;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{Resource, Rlimit, chdir, chroot, setrlimit};

/// Why this guest cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error("cannot move off the initial root file system")]
    Root(#[source] Errno),
    #[error("cannot mount {fstype} at {target}")]
    Mount {
        fstype: &'static str,
        target: &'static str,
        source: Errno,
    },
    #[error("cannot make the directory {path}")]
    Directory {
        path: &'static str,
        source: io::Error,
    },
    #[error("cannot hand the cgroup controllers down")]
    Controllers(#[source] io::Error),
    #[error("cannot set up the loopback interface")]
    Loopback(#[source] io::Error),
    #[error("cannot set the limit of open files")]
    OpenFiles(#[source] Errno),
}

/// The hard limit that systemd gives the services of a host, container engines among them.
const OPEN_FILES_HARD: u64 = 524_288;
/// The soft limit programs that use select(2) rely on.
const OPEN_FILES_SOFT: u64 = 1024;

const QUIET: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Brings the guest up.
pub(crate) fn boot() -> Result<(), BootError> {
    leave_initial_root().map_err(BootError::Root)?;
    mount_at("proc", "/proc", QUIET, "")?;
    mount_at("sysfs", "/sys", QUIET, "")?;
    mount_at("devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755")?;
    mount_at("cgroup2", "/sys/fs/cgroup", QUIET, "")?;
    mount_at(
        "tmpfs",
        "/run",
        MountFlags::NOSUID.union(MountFlags::NODEV),
        "mode=0755",
    )?;
    mount_share()?;
    hand_down_controllers().map_err(BootError::Controllers)?;
    bring_up_loopback().map_err(BootError::Loopback)?;
    raise_open_files().map_err(BootError::OpenFiles)
}

/// Covers the initial root with a bind mount of itself: pivot_root(2), which each container does, refuses
/// a root that lies on no other mount.
fn leave_initial_root() -> Result<(), Errno> {
    mount_bind("/", "/run")?;
    chdir("/run")?;
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")
}

fn mount_at(
    fstype: &'static str,
    target: &'static str,
    flags: MountFlags,
    data: &str,
) -> Result<(), BootError> {
    let data = std::ffi::CString::new(data).unwrap_or_default();
    mount(fstype, target, fstype, flags, data.as_c_str()).map_err(|source| BootError::Mount {
        fstype,
        target,
        source,
    })
}

fn mount_share() -> Result<(), BootError> {
    let target = runvm_proto::SHARE_PATH;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(target)
        .map_err(|source| BootError::Directory {
            path: target,
            source,
        })?;
    // Devices and set-user-id programs of a container's root are its own business.
    mount(
        runvm_proto::SHARE_TAG,
        target,
        "virtiofs",
        MountFlags::empty(),
        None,
    )
    .map_err(|source| BootError::Mount {
        fstype: "virtiofs",
        target,
        source,
    })
}

/// Lets the cgroups below the root use every controller the kernel has.
fn hand_down_controllers() -> io::Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
    let wanted: Vec<String> = controllers
        .split_whitespace()
        .map(|controller| format!("+{controller}"))
        .collect();
    fs::write(root.join("cgroup.subtree_control"), wanted.join(" "))
}

fn raise_open_files() -> Result<(), Errno> {
    let limit = Rlimit {
        current: Some(OPEN_FILES_SOFT),
        maximum: Some(OPEN_FILES_HARD),
    };
    setrlimit(Resource::Nofile, limit)
}
