//! This executable run again, sealed: [`spawn_self`].

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use runvm_sys::clone::{Begun, Spawn, SpawnError, Spawned};
use runvm_sys::mount_attr::{self, MountAttr, Reach};
use runvm_sys::{ExitStatus, PidFd};
use rustix::fs::{CWD, MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::cgroup::{Cgroup, Entry};
use crate::control::{Control, Order};
use crate::init;

/// A process's standard streams.
#[derive(Debug)]
pub struct Stdio {
    /// Descriptor 0.
    pub stdin: OwnedFd,
    /// Descriptor 1.
    pub stdout: OwnedFd,
    /// Descriptor 2.
    pub stderr: OwnedFd,
}

impl Stdio {
    /// Duplicates of the caller's own.
    pub fn inherit() -> io::Result<Self> {
        Ok(Self {
            stdin: io::stdin().as_fd().try_clone_to_owned()?,
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }

    /// What each is, as /proc/PID/fd has it: a path, or such as `pipe:[4711]`.
    pub fn names(&self) -> Vec<String> {
        let name = |fd: BorrowedFd<'_>| {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            link.map_or_else(
                |_| String::new(),
                |path| path.to_string_lossy().into_owned(),
            )
        };
        self.borrow().map(name).into()
    }

    pub(crate) fn borrow(&self) -> [BorrowedFd<'_>; 3] {
        [self.stdin.as_fd(), self.stdout.as_fd(), self.stderr.as_fd()]
    }
}

/// How to run this executable again.
///
/// The process starts with the given argument vector and an empty environment, with the given
/// descriptors under the numbers they have in the caller (they must be above 2) and no others,
/// with every signal that the caller handles put back to its default.
#[derive(Default)]
pub struct SpawnSelf<'a> {
    /// The argument vector, its first element included: how the process knows what it is.
    pub argv: Vec<CString>,
    /// Descriptors to pass on.
    pub inherit: Vec<BorrowedFd<'a>>,
    /// Standard streams; `None` keeps the caller's.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// New namespaces, as `CLONE_NEW*` bits; without a user namespace, which needs mappings.
    pub new_namespaces: u32,
    /// A cgroup v2 directory to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Whether it is killed when the calling thread ends.
    pub dies_with_parent: bool,
}

/// Why this executable could not be run again.
#[derive(Debug, thiserror::Error)]
pub enum SpawnSelfError {
    /// No sealed form of the own executable.
    #[error("cannot seal the runtime's own executable")]
    Seal(#[source] io::Error),
    /// No process.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

/// Runs this executable again; returns when the new process has executed it.
pub fn spawn_self(request: SpawnSelf<'_>) -> Result<Spawned, SpawnSelfError> {
    let executable = sealed_self().map_err(SpawnSelfError::Seal)?;
    Ok(Spawn {
        executable: executable.as_fd(),
        argv: &request.argv,
        envp: &[],
        stdio: request.stdio,
        inherit: &request.inherit,
        preserve: 0,
        new_namespaces: request.new_namespaces,
        pid_namespace: None,
        cgroup: request.cgroup,
        dies_with_parent: request.dies_with_parent,
        gateway: None,
        write_id_maps: None,
    }
    .spawn()?)
}

/// Descriptors for a new process, at numbers that are not those it is to preserve.
pub(crate) struct Inherited {
    floor: i32,
    fds: Vec<OwnedFd>,
}

impl Default for Inherited {
    fn default() -> Self {
        Self::above(0)
    }
}

impl Inherited {
    pub(crate) fn above(preserve: u32) -> Self {
        Self {
            floor: i32::try_from(preserve)
                .unwrap_or(i32::MAX)
                .saturating_add(3),
            fds: Vec::new(),
        }
    }

    /// Takes a descriptor on; gives its number in the new process.
    pub(crate) fn add(&mut self, fd: OwnedFd) -> io::Result<i32> {
        let fd = if fd.as_raw_fd() < self.floor {
            fcntl_dupfd_cloexec(&fd, self.floor)?
        } else {
            fd
        };
        let number = fd.as_raw_fd();
        self.fds.push(fd);
        Ok(number)
    }

    pub(crate) fn borrow(&self) -> Vec<BorrowedFd<'_>> {
        self.fds.iter().map(AsFd::as_fd).collect()
    }
}

/// How a new process gets into `cgroup`; into none but the caller's, where there is none.
pub(crate) fn way_into(cgroup: Option<&Cgroup>) -> io::Result<Entry> {
    match cgroup {
        Some(cgroup) => cgroup.entry(),
        None => Ok(Entry {
            unified: None,
            tasks: Vec::new(),
        }),
    }
}

/// The argument vector of a container's process, which finds its order at `control`.
pub(crate) fn init_argv(control: i32) -> [CString; 2] {
    // Neither has a nul byte.
    let terminated = |text: String| CString::new(text).unwrap_or_default();
    [
        terminated(init::NAME.to_owned()),
        terminated(control.to_string()),
    ]
}

/// A process that is killed and reaped when this is dropped before the process is `ready`.
#[derive(Debug)]
pub(crate) struct Newborn {
    pub(crate) pid: u32,
    pidfd: Option<PidFd>,
}

impl Newborn {
    /// Gives a process that is on its way its order; returns when it has something to say. It
    /// finds the order waiting, and the caller is woken once: for its first word or its end.
    pub(crate) fn ordered(
        begun: Begun,
        control: &Control,
        order: &Order,
        bytes: &[u8],
    ) -> Result<Self, SpawnError> {
        // A process that has died by now, or dies now, is found out below or by its silence.
        let _ = control.send(order, bytes, &[]);
        let _ = control.wait();
        let spawned = begun.executed()?;
        Ok(Self {
            pid: spawned.pid,
            pidfd: Some(spawned.pidfd),
        })
    }

    /// A handle on it.
    pub(crate) fn pidfd(&self) -> Option<&PidFd> {
        self.pidfd.as_ref()
    }

    /// Lets it live on.
    pub(crate) fn ready(mut self) -> io::Result<PidFd> {
        self.pidfd
            .take()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Waits for its end, which it has announced by closing its socket.
    pub(crate) fn end(self) -> io::Result<ExitStatus> {
        self.ready()?.reap()
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            // Errors mean that it has ended already.
            let _ = pidfd.send_signal(SIGKILL);
            let _ = pidfd.reap();
        }
    }
}

pub(crate) const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;

/// The own executable in a form that no process, whatever it reaches through `/proc/PID/exe`, can
/// write to (CVE-2019-5736): on a detached read-only mount, or copied where mounts are refused.
pub(crate) fn sealed_self() -> io::Result<OwnedFd> {
    read_only_mount().or_else(|_| sealed_copy())
}

const SELF: &str = "/proc/self/exe";

fn read_only_mount() -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, SELF, flags)?;
    let attr = MountAttr::new(mount_attr::RDONLY | mount_attr::NOSUID, 0);
    mount_attr::set(tree.as_fd(), Reach::Mount, attr)?;
    Ok(tree)
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC is unknown before Linux 6.3, and executable is the default there.
    let copy = memfd_create(c"runvm", flags | MemfdFlags::EXEC)
        .or_else(|_| memfd_create(c"runvm", flags))?;
    let mut copy = File::from(copy);
    io::copy(&mut File::open(SELF)?, &mut copy)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&copy, seals)?;
    // A descriptor open for writing cannot be executed.
    let number = copy.as_raw_fd();
    Ok(File::open(format!("/proc/self/fd/{number}"))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_cannot_be_written_to() {
        let copy = sealed_copy().unwrap();
        let number = copy.as_raw_fd();
        let path = format!("/proc/self/fd/{number}");
        let writer = File::options().write(true).open(path);
        let refused = match writer {
            Err(_) => true,
            Ok(mut file) => io::Write::write(&mut file, b"x").is_err(),
        };
        assert!(refused);
    }

    #[test]
    fn the_mount_cannot_be_written_to() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let tree = read_only_mount().unwrap();
        let number = tree.as_raw_fd();
        let opened = File::options()
            .write(true)
            .open(format!("/proc/self/fd/{number}"));
        assert!(opened.is_err());
    }
}
