//! The checked form of config.json that every later room works from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use oci_spec::runtime::{
    LinuxDeviceCgroup, LinuxDeviceType, LinuxIOPriority, LinuxIntelRdt, LinuxNetDevice,
    LinuxPersonality, LinuxResources, LinuxSeccomp, LinuxTimeOffset, Scheduler,
};

/// A bundle's configuration, checked: what is here can be acted on without asking again.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `ociVersion`, as written.
    pub oci_version: String,
    /// `root`.
    pub root: Root,
    /// `hostname`; only with a UTS namespace.
    pub hostname: Option<String>,
    /// `domainname`; only with a UTS namespace.
    pub domainname: Option<String>,
    /// `process`.
    pub process: Process,
    /// `mounts`, in the order they are made.
    pub mounts: Vec<Mount>,
    /// `linux.namespaces`, each type at most once.
    pub namespaces: Vec<Namespace>,
    /// `linux.uidMappings`; only with a new user namespace.
    pub uid_mappings: Vec<IdMapping>,
    /// `linux.gidMappings`; only with a new user namespace.
    pub gid_mappings: Vec<IdMapping>,
    /// `linux.devices`.
    pub devices: Vec<Device>,
    /// `linux.resources`.
    pub resources: LinuxResources,
    /// `linux.cgroupsPath`; `None` leaves the choice to the runtime.
    pub cgroups_path: Option<String>,
    /// `linux.maskedPaths`, absolute.
    pub masked_paths: Vec<PathBuf>,
    /// `linux.readonlyPaths`, absolute.
    pub readonly_paths: Vec<PathBuf>,
    /// `linux.rootfsPropagation`.
    pub rootfs_propagation: Option<Propagation>,
    /// `linux.sysctl`, in dotted form; only namespaced ones.
    pub sysctl: BTreeMap<String, String>,
    /// `linux.seccomp`.
    pub seccomp: Option<LinuxSeccomp>,
    /// `linux.mountLabel`.
    pub mount_label: Option<String>,
    /// `linux.personality`.
    pub personality: Option<LinuxPersonality>,
    /// `linux.timeOffsets`, by clock name; only with a new time namespace.
    pub time_offsets: BTreeMap<String, LinuxTimeOffset>,
    /// `linux.intelRdt`.
    pub intel_rdt: Option<LinuxIntelRdt>,
    /// `linux.memoryPolicy`.
    pub memory_policy: Option<MemoryPolicy>,
    /// `linux.netDevices`, by name on the host.
    pub net_devices: BTreeMap<String, LinuxNetDevice>,
    /// `hooks`.
    pub hooks: Hooks,
    /// `annotations`.
    pub annotations: BTreeMap<String, String>,
    /// Whether config.json has a `vm` section: the standard's way to ask for a microVM.
    pub vm: Option<Vm>,
    /// What was odd but is not refused, each a line for the log.
    pub warnings: Vec<String>,
}

/// `root`: the container's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Absolute: a relative `root.path` is taken from the bundle.
    pub path: PathBuf,
    /// Whether the root is read-only inside the container.
    pub readonly: bool,
}

/// `process`: a program and what it runs as; the container's first, or one more by `exec`.
#[derive(Debug, Clone)]
pub struct Process {
    /// Whether stdio is a terminal.
    pub terminal: bool,
    /// The terminal's first size.
    pub console_size: Option<ConsoleSize>,
    /// Who it runs as.
    pub user: User,
    /// The program and its arguments; at least one.
    pub args: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// Absolute, inside the container.
    pub cwd: PathBuf,
    /// `None` is the container's own for one more process, and no capability for the first.
    pub capabilities: Option<Capabilities>,
    /// `rlimits`, each type at most once.
    pub rlimits: Vec<Rlimit>,
    /// `noNewPrivileges`.
    pub no_new_privileges: bool,
    /// `apparmorProfile`.
    pub apparmor_profile: Option<String>,
    /// `selinuxLabel`.
    pub selinux_label: Option<String>,
    /// `oomScoreAdj`.
    pub oom_score_adj: Option<i32>,
    /// `ioPriority`.
    pub io_priority: Option<LinuxIOPriority>,
    /// `scheduler`.
    pub scheduler: Option<Scheduler>,
    /// `execCPUAffinity`.
    pub exec_cpu_affinity: Option<CpuAffinity>,
}

/// `process.consoleSize`, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsoleSize {
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// `process.user`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// User id inside the container.
    pub uid: u32,
    /// Group id inside the container.
    pub gid: u32,
    /// File mode creation mask; `None` is the runtime's default, 0o022.
    pub umask: Option<u32>,
    /// The supplementary groups, and no others.
    pub additional_gids: Vec<u32>,
}

/// `process.capabilities`: five sets, each a mask whose bit N is capability number N
/// (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Limits what any later execve can gain.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// Kept over an execve of a file with inheritable capabilities.
    pub inheritable: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Kept over an execve of an ordinary file.
    pub ambient: u64,
}

/// One of `process.rlimits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// The `RLIMIT_*` number (getrlimit(2)).
    pub resource: u32,
    /// The limit in force; `u64::MAX` is unlimited.
    pub soft: u64,
    /// The ceiling for `soft`; `u64::MAX` is unlimited.
    pub hard: u64,
}

/// `process.execCPUAffinity`, as lists of CPU numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuAffinity {
    /// While the runtime moves into the container's cgroup.
    pub initial: Option<Vec<u32>>,
    /// For the program.
    pub r#final: Option<Vec<u32>>,
}

/// One of `linux.namespaces`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Which.
    pub kind: NamespaceKind,
    /// The namespace to join; `None` makes a new one.
    pub path: Option<PathBuf>,
}

/// The kinds of namespace (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NamespaceKind {
    /// `CLONE_NEWUSER`.
    User,
    /// `CLONE_NEWPID`.
    Pid,
    /// `CLONE_NEWNET`.
    Network,
    /// `CLONE_NEWIPC`.
    Ipc,
    /// `CLONE_NEWUTS`.
    Uts,
    /// `CLONE_NEWNS`.
    Mount,
    /// `CLONE_NEWCGROUP`.
    Cgroup,
    /// `CLONE_NEWTIME`.
    Time,
}

/// A run of user or group ids (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMapping {
    /// The first id inside.
    pub container_id: u32,
    /// The first id outside.
    pub host_id: u32,
    /// How many; not zero, and both runs end within 32 bits.
    pub size: u32,
}

/// One of `linux.devices`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Absolute, inside the container.
    pub path: PathBuf,
    /// Which kind of node.
    pub kind: DeviceKind,
    /// Major number; 0 for a FIFO.
    pub major: u32,
    /// Minor number; 0 for a FIFO.
    pub minor: u32,
    /// Permission bits; default 0o666.
    pub mode: u32,
    /// Owner inside the container.
    pub uid: u32,
    /// Group inside the container.
    pub gid: u32,
}

/// The kinds of device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// `b`.
    Block,
    /// `c` or `u`.
    Char,
    /// `p`.
    Fifo,
}

/// How mount events cross (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// Which way.
    pub kind: PropagationKind,
    /// Whether the mounts below are meant too (the `r` forms).
    pub recursive: bool,
}

/// The propagation types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropagationKind {
    /// `MS_SHARED`.
    Shared,
    /// `MS_SLAVE`.
    Slave,
    /// `MS_PRIVATE`.
    Private,
    /// `MS_UNBINDABLE`.
    Unbindable,
}

/// One of `mounts`, with its options told apart by who acts on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute, inside the container.
    pub destination: PathBuf,
    /// What to mount.
    pub kind: MountKind,
    /// Attributes to set on the mount itself, `MOUNT_ATTR_*` (mount_setattr(2)).
    pub attr_set: u64,
    /// Attributes to clear on the mount itself.
    pub attr_clear: u64,
    /// Attributes to set on the mount and all below it (`rro`, `rnosuid`, ...).
    pub attr_set_recursive: u64,
    /// Attributes to clear on the mount and all below it.
    pub attr_clear_recursive: u64,
    /// Superblock flags by their fsconfig(2) names (`ro`, `sync`, `dirsync`, `mand`, `lazytime`, ...),
    /// each with whether it is set or taken back.
    pub superblock_flags: Vec<(&'static str, bool)>,
    /// Options for the file system, in order: `key=value` or a bare `key`.
    pub data: Vec<(String, Option<String>)>,
    /// Propagation of the mount, in the order asked.
    pub propagation: Vec<Propagation>,
    /// `tmpcopyup`: what the destination holds is copied into the new tmpfs.
    pub copy_up: bool,
    /// Id mapping of the mount: `idmap`/`ridmap`, or own mappings.
    pub idmap: Option<Idmap>,
}

/// What a mount is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A part of the file system the runtime sees, bound into the container.
    Bind {
        /// Absolute: a relative source is taken from the bundle.
        source: PathBuf,
        /// Whether the mounts below it come along (`rbind`).
        recursive: bool,
    },
    /// A file system of its own.
    FileSystem {
        /// `type`, as in filesystems(5).
        fstype: String,
        /// `source`, as the file system understands it.
        source: Option<String>,
    },
    /// The container's view of its own cgroups: cgroup2, or the v1 hierarchies on a v1 host.
    Cgroup,
}

/// How a mount's ids are mapped (mount_setattr(2), `MOUNT_ATTR_IDMAP`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idmap {
    /// Whether the mounts below are mapped too.
    pub recursive: bool,
    /// `uidMappings` of the mount; empty means those of the container.
    pub uid_mappings: Vec<IdMapping>,
    /// `gidMappings` of the mount; empty means those of the container.
    pub gid_mappings: Vec<IdMapping>,
}

/// `linux.memoryPolicy`, in the numbers of set_mempolicy(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// `MPOL_*`.
    pub mode: i32,
    /// `MPOL_F_*`.
    pub flags: i32,
    /// Numbers of NUMA nodes.
    pub nodes: Vec<u32>,
}

/// `hooks`, by the point at which they run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// In the runtime's namespaces, before the root changes; the older name of `create_runtime`.
    pub prestart: Vec<Hook>,
    /// In the runtime's namespaces, before the root changes.
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before the root changes.
    pub create_container: Vec<Hook>,
    /// In the container, before the program.
    pub start_container: Vec<Hook>,
    /// In the runtime's namespaces, after the program has started.
    pub poststart: Vec<Hook>,
    /// In the runtime's namespaces, after the container is gone.
    pub poststop: Vec<Hook>,
}

/// One hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Absolute.
    pub path: PathBuf,
    /// `argv`, its first element included; empty means the path alone.
    pub args: Vec<String>,
    /// The whole environment; `None` is that of the process that runs it.
    pub env: Option<Vec<String>>,
    /// When to give it up.
    pub timeout: Option<Duration>,
}

/// `vm`: the standard's section for a virtual machine (config-vm.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// `vm.kernel.path`, absolute.
    pub kernel: PathBuf,
    /// `vm.kernel.parameters`.
    pub kernel_parameters: Vec<String>,
    /// `vm.kernel.initrd`, absolute.
    pub initrd: Option<PathBuf>,
    /// `vm.hwConfig.vcpus`.
    pub vcpus: Option<u32>,
    /// `vm.hwConfig.memory`.
    pub memory_bytes: Option<u64>,
}
