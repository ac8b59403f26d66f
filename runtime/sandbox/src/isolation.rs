//! The one interface behind which a container and a microVM are the same thing.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::str::FromStr;

use runvm_container::cgroup::{Cgroup, Stats, SubCgroup};
use runvm_container::{RestoreFrom, Stdio};
use runvm_oci::{LinuxResources, Plan, Process};
use runvm_sys::PidFd;
use serde::{Deserialize, Serialize};

use crate::phases::Stamps;
use crate::{Directory, OomWatch, Record, Settings};

/// Why an isolation could not do what it was asked; [`lifecycle`](crate::lifecycle) says to what.
pub type BackendError = Box<dyn std::error::Error + Send + Sync>;

/// The ways to isolate a bundle, by the words users choose them with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IsolationKind {
    /// Namespaces on the host's kernel.
    Container,
    /// A microVM with a kernel of its own.
    Vm,
}

impl IsolationKind {
    /// The annotation that chooses, and in `runvm state` tells, the isolation.
    pub const ANNOTATION: &str = "dev.runvm.isolation";

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Vm => "vm",
        }
    }

    /// The implementation.
    pub fn isolation(self) -> &'static dyn Isolation {
        match self {
            Self::Container => &crate::host::Host,
            Self::Vm => &crate::microvm::MicroVm,
        }
    }
}

impl fmt::Display for IsolationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no isolation.
#[derive(Debug, thiserror::Error)]
#[error("unknown isolation {0:?}: expected \"container\" or \"vm\"")]
pub struct UnknownIsolation(String);

impl FromStr for IsolationKind {
    type Err = UnknownIsolation;

    fn from_str(word: &str) -> Result<Self, UnknownIsolation> {
        match word {
            "container" => Ok(Self::Container),
            "vm" => Ok(Self::Vm),
            _ => Err(UnknownIsolation(word.to_owned())),
        }
    }
}

/// What a sandbox is to be made from.
pub struct Blueprint<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The checked configuration.
    pub plan: &'a Plan,
    /// The bytes `plan` was read from.
    pub config: &'a [u8],
    /// The bundle, absolute.
    pub bundle: &'a Path,
    /// The container's place in the store: sockets and logs go there.
    pub directory: &'a Directory,
    /// The container's cgroup, made and limited; `None` where the user may not make one.
    pub cgroup: Option<&'a Cgroup>,
    /// The first process's stdio; unused when it has a terminal.
    pub stdio: Stdio,
    /// How many descriptors from 3 on the process inherits.
    pub preserve_fds: u32,
    /// Leave the old root by `chroot`, for roots that `pivot_root` refuses.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// The runtime's settings.
    pub settings: &'a Settings,
    /// Take its processes from a checkpoint; only for an isolation that
    /// [can](Isolation::can_checkpoint).
    pub restore: Option<&'a RestoreFrom>,
}

/// A sandbox at OCI status `created`: all is set up, nothing of the user's has run; or one that
/// was restored, and runs.
pub struct Built {
    /// The process on the host that stands for the container: its first process, or the VMM. It
    /// is a child of the caller and exits with the container's exit status.
    pub pid: u32,
    /// A handle on `pid`.
    pub pidfd: PidFd,
    /// The host's side of the terminal, when the process has one.
    pub terminal: Option<OwnedFd>,
    /// When it got how far.
    pub stamps: Stamps,
    /// What `runvm state` says about the sandbox besides, by annotation.
    pub annotations: Vec<(&'static str, String)>,
    /// What is odd, a line each.
    pub warnings: Vec<String>,
}

/// One more process for a sandbox.
pub struct Exec<'a> {
    /// What to run.
    pub process: &'a Process,
    /// The OCI process object `process` was read from.
    pub process_json: &'a [u8],
    /// The container's configuration.
    pub plan: &'a Plan,
    /// Its stdio; unused when it has a terminal.
    pub stdio: Stdio,
    /// How many descriptors from 3 on it inherits.
    pub preserve_fds: u32,
    /// Cgroups below the container's to run in.
    pub sub_cgroups: &'a [SubCgroup],
}

/// A process the caller can wait for: a child that exits with the process's status.
pub struct Attached {
    /// Its pid on the host.
    pub pid: u32,
    /// A handle on it.
    pub pidfd: PidFd,
    /// The host's side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// What is odd, a line each.
    pub warnings: Vec<String>,
}

/// What a sandbox has used since it was made.
pub struct Usage {
    /// What the container has, by the kernel it runs on.
    pub container: Stats,
    /// What the machine around it has, by the host's; only a microVM has one.
    pub machine: Option<Stats>,
}

/// A way to isolate a bundle.
pub trait Isolation: Sync {
    /// The limits of the container's cgroup on the host.
    fn host_resources<'a>(&self, plan: &'a Plan, settings: &Settings) -> Cow<'a, LinuxResources>;

    /// Whether a sandbox can be written to files and made again from them.
    fn can_checkpoint(&self) -> bool;

    /// Builds the sandbox up to OCI status `created`. On failure nothing of it is left but what
    /// the caller handed in.
    fn create(&self, blueprint: Blueprint<'_>) -> Result<Built, BackendError>;

    /// Takes up a sandbox that an earlier process made.
    fn reopen<'a>(&self, record: &'a Record, directory: &'a Directory) -> Box<dyn Sandbox + 'a>;
}

/// A sandbox that exists. A method belongs here only if both isolations can honour it.
pub trait Sandbox {
    /// Whether the process still waits for [`start`](Self::start). Asked only of a live one.
    fn is_waiting(&self) -> io::Result<bool>;

    /// Lets the container's process run the user's program; returns when it does.
    fn start(&mut self) -> Result<(), BackendError>;

    /// Adds a process beside the container's own; returns when its program runs.
    fn exec(&mut self, exec: Exec<'_>) -> Result<Attached, BackendError>;

    /// Sends `signal` to the container's first process, or to every process in the container.
    fn kill(&mut self, signal: i32, all: bool) -> Result<(), BackendError>;

    /// The pids of the container's processes, by the numbers of the kernel they run on; none
    /// once they have ended.
    fn pids(&mut self) -> Result<Vec<u32>, BackendError>;

    /// Its processes as a table: a head line, and a line a process, whose pid is by the kernel it runs
    /// on. `ps_args` are for ps(1), instead of `-ef`.
    fn process_table(&mut self, ps_args: &[OsString]) -> Result<String, BackendError>;

    /// What it has used so far.
    fn usage(&mut self) -> Result<Usage, BackendError>;

    /// Begins to tell when it runs out of memory.
    fn watch_oom(&mut self) -> Result<OomWatch, BackendError>;

    /// Sets the limits that `resources` names; the others stay.
    fn update(&mut self, resources: &LinuxResources) -> Result<(), BackendError>;

    /// Why it ended, in words, when its program's end was not the reason.
    fn unexpected_end(&self) -> Option<String>;

    /// Takes back what its processes, which have ended, leave on the host outside of its cgroup and
    /// directory. May be repeated.
    fn release(&mut self) -> Result<(), BackendError>;
}
