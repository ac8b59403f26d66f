//! The other side of [`create`](crate::create) and [`exec`](crate::exec): this executable, run
//! again under a hidden name, with one thread and an order waiting on a socket.

mod container;
mod criu;
mod joined;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use runvm_oci::Process;
use rustix::process::DumpableBehavior;
use rustix::time::{ClockId, clock_gettime};

use crate::checkpoint::MountPointError;
use crate::control::{Control, Order, Word};
use crate::credentials::CredentialError;
use crate::devices::DeviceError;
use crate::hooks::HookError;
use crate::limits::LimitError;
use crate::mounts::MountError;
use crate::namespaces::NamespaceError;
use crate::paths::PathError;
use crate::proc_fs::{ProcFs, ProcFsError};
use crate::process::ProgramError;
use crate::root::RootError;
use crate::seccomp::listener::ListenerError;
use crate::seccomp::{self, Filter, LoadError, SeccompError};
use crate::security::{self, SecurityError};
use crate::sysctl::SysctlError;
use crate::terminal::TerminalError;
use crate::{ChildError, Unsupported};

/// The first argument that makes this executable a container's process.
pub(crate) const NAME: &str = "runvm-init";

/// Why the process cannot become the program.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    #[error("cannot take over descriptor {number}")]
    Descriptor { number: i32, source: io::Error },
    #[error("the configuration changed on its way")]
    Config(#[from] runvm_oci::ConfigError),
    #[error("cannot move into the container's cgroup")]
    Cgroup(#[source] io::Error),
    #[error("cannot join the container's namespaces")]
    Join(#[source] io::Error),
    #[error("cannot become root of the container's user namespace")]
    BecomeRoot(#[source] io::Error),
    #[error("cannot take the container's own null device for a standard stream")]
    NullStreams(#[source] io::Error),
    #[error("cannot start a session")]
    Session(#[source] io::Error),
    #[error("cannot join a new session keyring")]
    Keyring(#[source] io::Error),
    #[error("cannot open the container's root")]
    OpenRoot(#[source] io::Error),
    #[error("cannot bring the loopback interface up")]
    Loopback(#[source] io::Error),
    #[error("cannot set the host name {name:?}")]
    Hostname { name: String, source: io::Error },
    #[error("cannot set the domain name {name:?}")]
    Domainname { name: String, source: io::Error },
    #[error("cannot set process.noNewPrivileges")]
    NoNewPrivileges(#[source] io::Error),
    #[error("cannot keep other processes from looking into this one")]
    Dumpable(#[source] io::Error),
    #[error("cannot outlive the caller")]
    DeathSignal(#[source] io::Error),
    #[error("cannot talk to the caller")]
    Control(#[source] io::Error),
    #[error("cannot put the signals back to their defaults")]
    Signals(#[source] io::Error),
    #[error("cannot pass on the {count} descriptors to preserve")]
    Preserve { count: u32, source: io::Error },
    #[error("cannot wait to be started")]
    Wait(#[source] io::Error),
    #[error("cannot open {}", path.display())]
    CriuDirectory { path: PathBuf, source: io::Error },
    #[error("cannot execute {}", program.display())]
    Criu { program: PathBuf, source: io::Error },
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    #[error(transparent)]
    ProcFs(#[from] ProcFsError),
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    MountPoint(#[from] MountPointError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error(transparent)]
    LoadFilter(#[from] LoadError),
    #[error(transparent)]
    Listener(#[from] ListenerError),
}

/// To be called first in `main` of a program that uses [`create`](crate::create),
/// [`exec`](crate::exec) or [`spawn_self`](crate::spawn_self) with the engine's own names: if the
/// process is such a re-execution, it does its work and does not return.
pub fn run_hidden_entry() {
    let mut args = std::env::args_os();
    if args.next().is_none_or(|name| name != NAME) {
        return;
    }
    let entered_ns = monotonic_ns();
    let number = args.next().and_then(|arg| arg.to_str()?.parse().ok());
    let control = number.and_then(|number| runvm_sys::inherited::take(number).ok());
    // What is to be preserved is for the program, not for hooks: they get no descriptors at all.
    let closed = runvm_sys::inherited::close_on_exec_from(3);
    let code = match (control, closed) {
        (Some(control), Ok(())) => obey(control.into(), entered_ns),
        // Somebody typed the hidden name.
        _ => 1,
    };
    std::process::exit(code);
}

/// Does what the order says; comes back with an exit code only on failure.
fn obey(mut control: Control, entered_ns: u64) -> i32 {
    // When the caller is gone there is nobody to tell.
    let Ok(Some(frame)) = control.receive::<Order>() else {
        return 1;
    };
    let result = match frame.message {
        Order::Create(order) => container::run(&mut control, order, &frame.bytes, entered_ns),
        Order::Exec(order) => joined::run(&mut control, *order, &frame.bytes, entered_ns),
        Order::Criu(order) => criu::run(&control, order, &frame.bytes),
    };
    if let Err(error) = result {
        let _ = control.send(&Word::Failed(ChildError::new(&error)), &[], &[]);
    }
    1
}

/// CLOCK_MONOTONIC now, in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let nanoseconds = now.tv_sec.saturating_mul(1_000_000_000) + now.tv_nsec;
    u64::try_from(nanoseconds).unwrap_or(0)
}

fn take(number: i32) -> Result<OwnedFd, InitError> {
    runvm_sys::inherited::take(number).map_err(|source| InitError::Descriptor { number, source })
}

/// Moves into the v1 cgroups. A single thread that names itself as "0" waits for no one; to be
/// moved by pid takes a lock that waits for every CPU.
fn enter_cgroups(tasks: &[i32]) -> Result<(), InitError> {
    for number in tasks {
        let tasks = take(*number)?;
        rustix::io::write(&tasks, b"0").map_err(|errno| InitError::Cgroup(errno.into()))?;
    }
    Ok(())
}

/// Closes this process to ptrace(2) and its /proc entries to others. execve undoes it.
fn hide() -> Result<(), InitError> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|errno| InitError::Dumpable(errno.into()))
}

/// The program must not end with the process that asked for it.
fn outlive_caller() -> Result<(), InitError> {
    rustix::process::set_parent_process_death_signal(None)
        .map_err(|errno| InitError::DeathSignal(errno.into()))
}

fn start_session() -> Result<(), InitError> {
    match rustix::process::setsid() {
        Ok(_) => Ok(()),
        Err(errno) => Err(InitError::Session(errno.into())),
    }
}

/// Leaves the caller's session keyring, whose keys are the host's, for one of the process's own.
fn new_keyring(proc_fs: &ProcFs, process: &Process, id: &str) -> Result<(), InitError> {
    let name = std::ffi::CString::new(format!("_ses.{id}"));
    let name = name.map_err(|nul| InitError::Keyring(nul.into()))?;
    security::with_key_label(proc_fs, process, || {
        match runvm_sys::keyring::join_session(&name) {
            // A kernel without keyrings has none to inherit.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result.map_err(InitError::Keyring),
        }
    })
}

fn forbid_new_privileges(asked: bool) -> Result<(), InitError> {
    if !asked {
        return Ok(());
    }
    rustix::thread::set_no_new_privs(true).map_err(|errno| InitError::NoNewPrivileges(errno.into()))
}

/// Standard streams that are the host's null device become the container's: what holds none of
/// the host's files open can be checkpointed.
fn own_null_streams() -> io::Result<()> {
    use rustix::fs::{CWD, Mode, OFlags, fstat, openat, stat};
    use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    let streams = [fstat(&input), fstat(&output), fstat(&error)].map(is_null);
    // An image without one, or with something else of its name, leaves it at the host's. It is
    // looked at before it is opened: to open another device can be to act.
    if streams == [false; 3] || !is_null(stat(c"/dev/null")) {
        return Ok(());
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let null = openat(CWD, c"/dev/null", flags | OFlags::NONBLOCK, Mode::empty())?;
    if !is_null(fstat(&null)) {
        return Ok(());
    }
    rustix::fs::fcntl_setfl(&null, OFlags::empty())?;
    let put = [
        dup2_stdin::<&OwnedFd>,
        dup2_stdout::<&OwnedFd>,
        dup2_stderr::<&OwnedFd>,
    ];
    for (put, _) in put.into_iter().zip(streams).filter(|(_, is_null)| *is_null) {
        put(&null)?;
    }
    Ok(())
}

fn is_null(found: rustix::io::Result<rustix::fs::Stat>) -> bool {
    use rustix::fs::{FileType, major, minor};
    found.is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
    })
}

/// The pipes and terminals the program inherits must be its user's to reopen (as /dev/stdout).
/// Not files and devices, which are others', too; and what cannot change hands stays as it is.
fn give_streams(uid: u32) {
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    give_stream(&input, uid);
    give_stream(&output, uid);
    give_stream(&error, uid);
}

fn give_stream(stream: &impl std::os::fd::AsFd, uid: u32) {
    use rustix::fs::{FileType, Uid, fchown, fstat};
    let Ok(stat) = fstat(stream) else {
        return;
    };
    let is_pipe_or_tty = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => rustix::termios::isatty(stream),
        FileType::Fifo | FileType::Socket => true,
        _ => false,
    };
    if is_pipe_or_tty && stat.st_uid != uid {
        let _ = fchown(stream, Some(Uid::from_raw(uid)), None);
    }
}

/// Loads a filter whose agent gets its listener by way of the caller.
fn load_and_offer(filter: &Filter, control: &Control) -> Result<(), InitError> {
    control
        .send(&Word::Listener, &[], &[])
        .map_err(InitError::Control)?;
    Ok(seccomp::listener::load_and_offer(filter, control.as_fd())?)
}

/// The last preparations that a failed execve could not undo.
fn let_go(preserve_fds: u32) -> Result<(), InitError> {
    let preserve = || -> io::Result<()> {
        // All that this process has opened is marked already; a mistake there would be an escape.
        runvm_sys::inherited::close_on_exec_from(3)?;
        runvm_sys::inherited::keep_over_exec(preserve_fds)
    };
    preserve().map_err(|source| InitError::Preserve {
        count: preserve_fds,
        source,
    })?;
    runvm_sys::signals::reset_all().map_err(InitError::Signals)
}
