//! What can go wrong with a cgroup: each with the directory, file or field it was about.

use std::io;
use std::path::PathBuf;

/// Why a cgroup could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// `linux.cgroupsPath` is none that a cgroup can have.
    #[error("linux.cgroupsPath: {path:?} is refused: {why}")]
    Path {
        /// The path, as given.
        path: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// The host has no cgroup hierarchy mounted where one is expected.
    #[error("no cgroup file system at {}", path.display())]
    NotMounted {
        /// Where one was sought.
        path: PathBuf,
    },
    /// A directory is not a cgroup, though one is expected there.
    #[error("{} is not in a cgroup file system", path.display())]
    NotACgroup {
        /// The directory.
        path: PathBuf,
    },
    /// A file that tells about cgroups could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A directory could not be made.
    #[error("cannot make cgroup {}", path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A directory could not be opened.
    #[error("cannot open cgroup {}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The cgroup was there before, and not empty.
    #[error("cgroup {} is in use: it holds process {pid}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// One of the processes.
        pid: u32,
    },
    /// The cgroup's parent is threaded, and a container's processes cannot be there.
    #[error("cgroup {} is {kind}: its parent holds threads, not processes", path.display())]
    Threaded {
        /// The directory.
        path: PathBuf,
        /// Its cgroup.type.
        kind: String,
    },
    /// What enters the cgroup stands still.
    #[error("cgroup {} is unexpectedly frozen", path.display())]
    Frozen {
        /// The directory.
        path: PathBuf,
    },
    /// The cgroup cannot be handed to the container's root.
    #[error("cannot hand over {}", path.display())]
    Delegate {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A limit needs a controller that is not to be had here.
    #[error("cannot set {field}: no {controller} controller for cgroup {}{why}", path.display())]
    NoController {
        /// The field of config.json.
        field: &'static str,
        /// The controller.
        controller: &'static str,
        /// The directory.
        path: PathBuf,
        /// What kept it away, if that is known; else empty.
        why: String,
    },
    /// The kernel does not have the file that a limit is written to.
    #[error("cannot set {field}: this kernel has no {file} in cgroup {}", path.display())]
    NoFile {
        /// The field of config.json.
        field: &'static str,
        /// The file.
        file: String,
        /// The directory.
        path: PathBuf,
    },
    /// A limit was refused.
    #[error("cannot set {field}: writing {value:?} to {file} of cgroup {}", path.display())]
    Set {
        /// The field of config.json.
        field: &'static str,
        /// What was written.
        value: String,
        /// The file.
        file: String,
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A limit makes no sense by itself.
    #[error("{field}: {value} is refused: {why}")]
    Value {
        /// The field of config.json.
        field: &'static str,
        /// The value.
        value: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// The memory limit is below what is in use, and `checkBeforeUpdate` was asked for.
    #[error("linux.resources.memory.limit: {limit} is below the {usage} bytes in use")]
    BelowUsage {
        /// The new limit in bytes.
        limit: u64,
        /// What is in use, in bytes.
        usage: u64,
    },
    /// The device program could not be loaded or attached.
    #[error("cannot set linux.resources.devices: {step} for cgroup {}", path.display())]
    DeviceProgram {
        /// What failed.
        step: &'static str,
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The processes could not be frozen or thawed.
    #[error("cannot {verb} cgroup {}", path.display())]
    Freeze {
        /// `freeze` or `thaw`.
        verb: &'static str,
        /// The directory.
        path: PathBuf,
        /// The kernel's answer, or that it took too long.
        source: io::Error,
    },
    /// A lack of memory cannot be watched for.
    #[error("cannot watch the memory of cgroup {}", path.display())]
    WatchOom {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A process could not be signalled.
    #[error("cannot send signal {signal} to process {pid}")]
    Signal {
        /// The signal's number.
        signal: i32,
        /// The process.
        pid: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A process could not be killed.
    #[error("cannot kill the processes of cgroup {}", path.display())]
    Kill {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A directory could not be removed.
    #[error("cannot remove cgroup {}", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl CgroupError {
    /// Whether there is no such cgroup, or nothing of the kind that was asked for.
    pub fn is_absence(&self) -> bool {
        match self {
            Self::NotMounted { .. } | Self::NotACgroup { .. } | Self::NoController { .. } => true,
            Self::Open { source, .. } | Self::Read { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
            }
            _ => false,
        }
    }

    /// Whether the caller lacks the right to make cgroups: a user that nobody delegated one to.
    pub fn is_permission(&self) -> bool {
        matches!(
            self,
            Self::Make { source, .. } | Self::Open { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                )
        )
    }
}
