//! The VMM process's jail: where a guest that breaks out of its machine lands.
//!
//! The process has its own mount, pid, IPC and UTS namespaces, and the container's network and cgroup, from its
//! creator. What is done here comes in two steps, since a hypervisor of the host's (QEMU) starts from
//! the host's files: [`Jail::build`] while the process has one thread, and [`Jail::enter`] when the
//! machine is made and before the guest runs. After that the root of this process, and of QEMU
//! beside it, is an empty read-only directory with a `/proc` that shows these two alone; no thread
//! has capabilities but those that serve files; each has its filter of system calls
//! ([`runvm_vmm::confine`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::libc;
use runvm_sys::mount_attr::{self, MountAttr, Reach};
use runvm_vmm::confine::{Call, ConfineError, Confinement, call, masked, one_of};
use rustix::fs::{CWD, Mode, mkdirat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, chdir, fchdir, pivot_root, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{CapabilitySet, set_no_new_privs};

/// Why there is no jail around the VMM process.
#[derive(Debug, thiserror::Error)]
pub(super) enum JailError {
    #[error("cannot limit the VMM process")]
    Limit(#[source] io::Error),
    #[error("cannot make the {0} of the VMM process's root")]
    FileSystem(&'static str, #[source] io::Error),
    #[error("cannot make the VMM process's root the root")]
    Root(#[source] io::Error),
    #[error(transparent)]
    Confine(#[from] ConfineError),
}

/// What the threads of the VMM process keep that are this crate's: they relay streams, signals and
/// requests over unix sockets, and start more of their kind.
const CONFINEMENT: Confinement = Confinement {
    thread: "main",
    capabilities: CapabilitySet::empty(),
    calls: &[SOCKETS, FILES, PROCESSES],
    // Its flags lie in memory, where no filter sees them; the C library then uses clone(2).
    absent: &[libc::SYS_clone3],
};

const SOCKETS: &[Call] = &[
    one_of(libc::SYS_socket, 0, &[libc::AF_UNIX.cast_unsigned()]),
    call(libc::SYS_accept4),
    call(libc::SYS_bind),
    call(libc::SYS_connect),
    call(libc::SYS_getsockopt),
    call(libc::SYS_listen),
    call(libc::SYS_poll),
    call(libc::SYS_ppoll),
    call(libc::SYS_recvfrom),
    call(libc::SYS_recvmsg),
    call(libc::SYS_sendmsg),
    call(libc::SYS_sendto),
    call(libc::SYS_setsockopt),
    call(libc::SYS_shutdown),
];

/// The size of a terminal, and non-blocking sockets (asm-generic/ioctls.h).
const TIOCGWINSZ: u32 = 0x5413;
const FIONBIO: u32 = 0x5421;

const FILES: &[Call] = &[
    one_of(libc::SYS_ioctl, 1, &[TIOCGWINSZ, FIONBIO]),
    call(libc::SYS_fstat),
    call(libc::SYS_lseek),
    call(libc::SYS_openat),
    call(libc::SYS_statx),
    call(libc::SYS_unlink),
];

const CLONE_THREAD: u64 = libc::CLONE_THREAD.cast_unsigned() as u64;

const PROCESSES: &[Call] = &[
    // Threads, and nothing in a new namespace.
    masked(libc::SYS_clone, 0, CLONE_THREAD, CLONE_THREAD),
    one_of(libc::SYS_prctl, 0, &[libc::PR_SET_NAME.cast_unsigned()]),
    call(libc::SYS_pidfd_send_signal),
    call(libc::SYS_rseq),
    call(libc::SYS_set_robust_list),
];

/// The file systems of the new root.
pub(super) struct Jail {
    root: OwnedFd,
    proc: OwnedFd,
}

impl Jail {
    /// Makes what [`enter`](Self::enter) needs, and takes from the process what neither it nor a hypervisor
    /// that it starts has a use for. From now on `/proc` shows this process and its children
    /// alone: no descriptor of the host's is made from here on.
    pub(super) fn build() -> Result<Self, JailError> {
        limit().map_err(JailError::Limit)?;
        let proc = file_system("proc", &[("subset", "pid")]);
        let proc = proc.map_err(|error| JailError::FileSystem("/proc", error))?;
        let root = root_with_place_for_proc();
        let root = root.map_err(|error| JailError::FileSystem("directory", error))?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&proc, c"", CWD, c"/proc", flags)
            .map_err(|errno| JailError::FileSystem("/proc", errno.into()))?;
        Ok(Self { root, proc })
    }

    /// Leaves the host's root, capabilities and most system calls behind, for good.
    pub(super) fn enter(self) -> Result<(), JailError> {
        self.change_root().map_err(JailError::Root)?;
        Ok(CONFINEMENT.enter()?)
    }

    /// All processes of the mount namespace that have the host's root get the new one
    /// (pivot_root(2)).
    fn change_root(self) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&self.root, c"", CWD, c"/", flags)?;
        move_mount(&self.proc, c"", &self.root, c"proc", flags)?;
        fchdir(&self.root)?;
        // The old root lands on top of the new one: no directory for it is needed.
        pivot_root(c".", c".")?;
        unmount(c".", UnmountFlags::DETACH)?;
        Ok(chdir(c"/")?)
    }
}

/// Memory of the guest's must not end in a file, and what is not used must not be had.
fn limit() -> io::Result<()> {
    set_no_new_privs(true)?;
    // Nor may QEMU look into this process, whose user it is.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    for resource in [
        Resource::Core,
        Resource::Memlock,
        Resource::Msgqueue,
        Resource::Rtprio,
    ] {
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        setrlimit(resource, none)?;
    }
    // Where the new root is to become the directory, too.
    Ok(chdir(c"/")?)
}

fn root_with_place_for_proc() -> io::Result<OwnedFd> {
    let options = [("mode", "0555"), ("nr_inodes", "2")];
    let root = file_system("tmpfs", &options)?;
    mkdirat(&root, c"proc", Mode::from_raw_mode(0o555))?;
    let read_only = MountAttr::new(mount_attr::RDONLY, 0);
    mount_attr::set(root.as_fd(), Reach::Mount, read_only)?;
    Ok(root)
}

/// A new file system that holds no programs and no devices, mounted nowhere yet.
fn file_system(kind: &str, options: &[(&str, &str)]) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(fsmount(context.as_fd(), flags, attributes)?)
}
