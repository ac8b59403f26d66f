//! Which namespaces are made, which are joined, and by whom.
//!
//! New ones come with the clone; the cgroup namespace only after the process has moved into its
//! cgroup. A pid namespace to join has to be known before the clone, and so has all that a user
//! namespace stands between.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use runvm_oci::{NamespaceKind, Plan};
use runvm_sys::clone::Gateway;
use runvm_sys::user_namespace;

use crate::control::Kind;

/// `CLONE_NEWTIME`, which nix does not have (linux/sched.h).
const CLONE_NEWTIME: i32 = 0x80;

/// Why the namespaces are not as the plan says.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// Its path in `linux.namespaces`.
    #[error("cannot open the {} namespace {}", kind.word(), path.display())]
    Open {
        /// Which.
        kind: NamespaceKind,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// setns(2).
    #[error("cannot join the {} namespace", kind.word())]
    Join {
        /// Which.
        kind: NamespaceKind,
        /// Why.
        source: io::Error,
    },
    /// unshare(2).
    #[error("cannot make a cgroup namespace")]
    NewCgroup(#[source] io::Error),
    /// `linux.timeOffsets`.
    #[error("there is no clock with the offset {0}")]
    Clock(String),
}

/// A namespace of the plan, opened.
pub(crate) struct Joined {
    pub(crate) kind: NamespaceKind,
    pub(crate) fd: OwnedFd,
}

/// Who does what about the namespaces of a plan.
pub(crate) struct Arrangement {
    /// `CLONE_NEW*` bits for the clone.
    pub(crate) new: u32,
    /// All namespaces to join.
    pub(crate) joined: Vec<Joined>,
    /// Whether they are joined before the clone, by a gateway.
    pub(crate) gateway: bool,
    time_offsets: Option<CString>,
}

impl Arrangement {
    /// Opens what is to be joined and decides who joins it.
    pub(crate) fn new(plan: &Plan) -> Result<Self, NamespaceError> {
        let mut new = 0;
        let mut joined = Vec::new();
        for namespace in &plan.namespaces {
            match &namespace.path {
                Some(path) => joined.push(open(namespace.kind, path)?),
                None => new |= flag(namespace.kind).bits(),
            }
        }
        let time = new & CLONE_NEWTIME != 0;
        let user_is_new = new & CloneFlags::CLONE_NEWUSER.bits() != 0;
        let joins = |kind| joined.iter().any(|joined: &Joined| joined.kind == kind);
        let joins_user = joins(NamespaceKind::User);
        // There is no way back into the pid namespace around a user namespace of the caller's.
        let leaves_for_good = joins(NamespaceKind::Pid) && user_namespace::is_inside();
        Ok(Self {
            // What a new user namespace hides, and what must not be entered without the joined
            // one, can only be reached on the way to the clone.
            gateway: time || joins_user || leaves_for_good || (user_is_new && !joined.is_empty()),
            new: (new & !(CloneFlags::CLONE_NEWCGROUP.bits() | CLONE_NEWTIME)).cast_unsigned(),
            time_offsets: if time {
                Some(time_offsets(plan)?)
            } else {
                None
            },
            joined,
        })
    }

    /// The gateway's work, if there is to be one. A mount namespace is left to the new process:
    /// it must still find the rootfs.
    pub(crate) fn gateway(&self) -> Option<Gateway<'_>> {
        self.gateway.then(|| Gateway {
            joins: self
                .joined
                .iter()
                .filter(|joined| joined.kind != NamespaceKind::Mount)
                .map(|joined| {
                    let flag = flag(joined.kind).bits().cast_unsigned();
                    (joined.fd.as_fd(), flag)
                })
                .collect(),
            time_offsets: self.time_offsets.clone(),
        })
    }

    /// The pid namespace to be born in, where no gateway sees to it.
    pub(crate) fn pid_namespace(&self) -> Option<BorrowedFd<'_>> {
        let mut joined = self.joined.iter();
        joined
            .find(|joined| joined.kind == NamespaceKind::Pid && !self.gateway)
            .map(|joined| joined.fd.as_fd())
    }

    /// What is left for the new process to join.
    pub(crate) fn left(&self) -> impl Iterator<Item = &Joined> {
        self.joined.iter().filter(|joined| {
            let was_joined = self.gateway || joined.kind == NamespaceKind::Pid;
            joined.kind == NamespaceKind::Mount || !was_joined
        })
    }
}

/// Whether a namespace to join is the one this process is in already.
pub(crate) fn is_own(joined: &Joined) -> bool {
    let file = match joined.kind {
        NamespaceKind::User => "user",
        NamespaceKind::Pid => "pid",
        NamespaceKind::Network => "net",
        NamespaceKind::Ipc => "ipc",
        NamespaceKind::Uts => "uts",
        NamespaceKind::Mount => "mnt",
        NamespaceKind::Cgroup => "cgroup",
        NamespaceKind::Time => "time",
    };
    // A namespace is known by its file's device and inode (namespaces(7)).
    let own = rustix::fs::stat(format!("/proc/self/ns/{file}"));
    let other = rustix::fs::fstat(&joined.fd);
    let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    match (own.map(identity), other.map(identity)) {
        (Ok(own), Ok(other)) => own == other,
        // What cannot be told apart must not be changed.
        _ => true,
    }
}

/// Joins one namespace; in the new process, which has one thread.
pub(crate) fn join(kind: Kind, fd: &OwnedFd) -> Result<(), NamespaceError> {
    let kind = kind.into();
    setns(fd, flag(kind)).map_err(|errno| NamespaceError::Join {
        kind,
        source: errno.into(),
    })
}

/// Makes the cgroup the process is in the root of what it sees.
pub(crate) fn new_cgroup_namespace() -> Result<(), NamespaceError> {
    unshare(CloneFlags::CLONE_NEWCGROUP).map_err(|errno| NamespaceError::NewCgroup(errno.into()))
}

/// The plan's way with one kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Not mentioned: the runtime's own.
    Runtime,
    /// A new one.
    New,
    /// One that exists.
    Joined,
}

/// How the plan comes by its namespace of `kind`.
pub(crate) fn source(plan: &Plan, kind: NamespaceKind) -> Source {
    match plan.namespaces.iter().find(|n| n.kind == kind) {
        None => Source::Runtime,
        Some(namespace) if namespace.path.is_none() => Source::New,
        Some(_) => Source::Joined,
    }
}

/// `CLONE_NEW*` of the container's namespaces that differ from the caller's: those an exec joins.
pub(crate) fn all_flags(plan: &Plan) -> u32 {
    let flags = plan.namespaces.iter().map(|n| flag(n.kind).bits());
    flags.fold(0, |all, flag| all | flag).cast_unsigned()
}

/// Joins several namespaces of one process at once; see setns(2) with a pidfd.
pub(crate) fn join_process(target: &OwnedFd, flags: u32) -> Result<(), io::Error> {
    let flags = CloneFlags::from_bits_retain(flags.cast_signed());
    Ok(setns(target, flags)?)
}

fn open(kind: NamespaceKind, path: &Path) -> Result<Joined, NamespaceError> {
    // O_NONBLOCK: a FIFO must not hold us up before setns refuses it.
    let opened = File::options()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path);
    match opened {
        Ok(file) => Ok(Joined {
            kind,
            fd: file.into(),
        }),
        Err(source) => Err(NamespaceError::Open {
            kind,
            path: path.into(),
            source,
        }),
    }
}

/// The text for `/proc/PID/timens_offsets` (time_namespaces(7)).
fn time_offsets(plan: &Plan) -> Result<CString, NamespaceError> {
    let mut text = String::new();
    for (clock, offset) in &plan.time_offsets {
        let seconds = offset.secs().unwrap_or(0);
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        // Writing to a String does not fail.
        let _ = writeln!(text, "{clock} {seconds} {nanoseconds}");
    }
    CString::new(text).map_err(|_| NamespaceError::Clock(format!("{:?}", plan.time_offsets)))
}

fn flag(kind: NamespaceKind) -> CloneFlags {
    match kind {
        NamespaceKind::User => CloneFlags::CLONE_NEWUSER,
        NamespaceKind::Pid => CloneFlags::CLONE_NEWPID,
        NamespaceKind::Network => CloneFlags::CLONE_NEWNET,
        NamespaceKind::Ipc => CloneFlags::CLONE_NEWIPC,
        NamespaceKind::Uts => CloneFlags::CLONE_NEWUTS,
        NamespaceKind::Mount => CloneFlags::CLONE_NEWNS,
        NamespaceKind::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        NamespaceKind::Time => CloneFlags::from_bits_retain(CLONE_NEWTIME),
    }
}

impl From<Kind> for NamespaceKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::User => Self::User,
            Kind::Pid => Self::Pid,
            Kind::Network => Self::Network,
            Kind::Ipc => Self::Ipc,
            Kind::Uts => Self::Uts,
            Kind::Mount => Self::Mount,
            Kind::Cgroup => Self::Cgroup,
            Kind::Time => Self::Time,
        }
    }
}
