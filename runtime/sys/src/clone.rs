//! One process from clone3(2) to execveat(2).
//!
//! [`Spawn::spawn`] and [`Spawn::begin`] may be called from a threaded process. Everything the child needs is turned
//! into numbers and terminated strings before the clone; the child then makes system calls only,
//! touches no allocator and no lock, and ends in execveat or in a report of what failed.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::{fs::File, ptr};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::PidFd;

// libc types these per function; clone3 wants them as bits of one 64-bit word (linux/sched.h).
pub(crate) const CLONE_PIDFD: u64 = 0x0000_1000;
const CLONE_PARENT: u64 = 0x0000_8000;
const CLONE_NEWTIME: u32 = 0x0000_0080;
/// A new user namespace.
pub const CLONE_NEWUSER: u32 = 0x1000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The most namespaces there are to join.
const MAX_JOINS: usize = 8;

/// A process to be made.
pub struct Spawn<'a> {
    /// What it executes.
    pub executable: BorrowedFd<'a>,
    /// Its arguments, the program's name first.
    pub argv: &'a [CString],
    /// Its whole environment.
    pub envp: &'a [CString],
    /// Its standard streams; `None` keeps the caller's.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// Descriptors it gets under the numbers they have here; all others are closed.
    pub inherit: &'a [BorrowedFd<'a>],
    /// How many descriptors from 3 on it gets besides, whoever opened them.
    pub preserve: u32,
    /// New namespaces, as `CLONE_NEW*` bits.
    pub new_namespaces: u32,
    /// The pid namespace to be born in: a namespace descriptor or a pidfd. The calling thread
    /// points its children there for the moment of the clone, which needs CAP_SYS_ADMIN.
    pub pid_namespace: Option<BorrowedFd<'a>>,
    /// A cgroup v2 directory to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Whether it is killed when the calling thread ends (PR_SET_PDEATHSIG).
    pub dies_with_parent: bool,
    /// What must be done before the clone by a process that can go no way back.
    pub gateway: Option<Gateway<'a>>,
    /// Writes the id mappings of the new user namespace of the process whose pid it gets;
    /// needed exactly with `CLONE_NEWUSER`.
    pub write_id_maps: Option<&'a mut dyn FnMut(u32) -> io::Result<()>>,
}

/// The work of an intermediate process: it joins namespaces and then makes the real child as the
/// caller's own child (CLONE_PARENT), and ends.
#[derive(Default)]
pub struct Gateway<'a> {
    /// Namespaces to join with their `CLONE_NEW*` kind. Those that the caller's privileges reach
    /// are joined before a user namespace among them, the others after it.
    pub joins: Vec<(BorrowedFd<'a>, u32)>,
    /// Makes a new time namespace with these offsets (the text for `/proc/PID/timens_offsets`).
    pub time_offsets: Option<CString>,
}

/// The process made.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid, as the caller's namespace has it.
    pub pid: u32,
    /// A handle on it.
    pub pidfd: PidFd,
}

/// A process on its way to execute. Dropped, it ends.
#[derive(Debug)]
pub struct Begun {
    process: Option<Spawned>,
    reports: File,
}

impl Begun {
    /// Its pid, as the caller's namespace has it.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, |process| process.pid)
    }

    /// Waits until it has executed.
    pub fn executed(mut self) -> Result<Spawned, SpawnError> {
        match next_report(&mut self.reports) {
            Some(report) => Err(failure(report)),
            None => self.process.take().ok_or(SpawnError::Killed),
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            give_up(&process.pidfd);
        }
    }
}

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No descriptor or pipe for the child.
    #[error("cannot prepare the new process's descriptors")]
    Prepare(#[source] io::Error),
    /// The pid namespace cannot be entered.
    #[error("cannot point new processes at the pid namespace to join")]
    EnterPidNamespace(#[source] io::Error),
    /// The caller's thread could not be pointed back at its own pid namespace.
    #[error("cannot point new processes back at the own pid namespace")]
    LeavePidNamespace(#[source] io::Error),
    /// clone3 refused.
    #[error("cannot clone a process with namespaces {namespaces:#x}")]
    Clone {
        /// The `CLONE_NEW*` bits asked for.
        namespaces: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The id mappings could not be written.
    #[error("cannot write the id mappings of the user namespace")]
    IdMaps(#[source] io::Error),
    /// The child failed on its way to execveat.
    #[error("the new process cannot {step}")]
    Child {
        /// What it was doing.
        step: Step,
        /// The kernel's answer to it.
        source: io::Error,
    },
    /// The child ended without a word: it was killed.
    #[error("the new process was killed before it began")]
    Killed,
}

/// The child's steps that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// A namespace of the gateway.
    Join = 1,
    /// The new time namespace.
    TimeNamespace,
    /// The text of its offsets.
    TimeOffsets,
    /// setresuid and setresgid to 0 in the user namespace.
    BecomeRoot,
    /// The gateway's own clone3.
    SecondClone,
    /// dup2 of the standard streams.
    Stdio,
    /// Close-on-exec flags.
    Descriptors,
    /// A number from 3 on that is to be preserved.
    Preserve,
    /// execveat.
    Execute,
}

impl Step {
    const ALL: [Self; 9] = [
        Self::Join,
        Self::TimeNamespace,
        Self::TimeOffsets,
        Self::BecomeRoot,
        Self::SecondClone,
        Self::Stdio,
        Self::Descriptors,
        Self::Preserve,
        Self::Execute,
    ];

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step as u32 == number)
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Join => "join a namespace",
            Self::TimeNamespace => "make a time namespace",
            Self::TimeOffsets => "set the clock offsets of the time namespace",
            Self::BecomeRoot => "become root of its user namespace",
            Self::SecondClone => "clone itself into the joined namespaces",
            Self::Stdio => "take its standard streams",
            Self::Descriptors => "keep its descriptors",
            Self::Preserve => "keep the descriptors from 3 on that are to be preserved",
            Self::Execute => "execute the runtime",
        })
    }
}

/// What a child reports: a step's number and errno, or [`PID_REPORT`] and a pid.
type Report = [u32; 2];
const PID_REPORT: u32 = 0;

impl Spawn<'_> {
    /// Makes the process; returns when it has executed.
    pub fn spawn(self) -> Result<Spawned, SpawnError> {
        self.begin()?.executed()
    }

    /// Makes the process, which goes on to execute meanwhile.
    pub fn begin(mut self) -> Result<Begun, SpawnError> {
        let streams = self.streams().map_err(SpawnError::Prepare)?;
        let pipes = Pipes::new().map_err(SpawnError::Prepare)?;
        let argv = pointers(self.argv);
        let envp = pointers(self.envp);
        let inherit: Vec<RawFd> = self.inherit.iter().map(AsRawFd::as_raw_fd).collect();
        let mut joins = [(-1, 0); MAX_JOINS];
        let gateway = self.gateway.as_ref();
        let asked = gateway.map_or(&[][..], |gateway| &gateway.joins);
        if asked.len() > MAX_JOINS {
            return Err(SpawnError::Prepare(io::ErrorKind::InvalidInput.into()));
        }
        for (slot, (fd, kind)) in joins.iter_mut().zip(asked) {
            *slot = (fd.as_raw_fd(), *kind);
        }
        let child = Child {
            executable: self.executable.as_raw_fd(),
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            streams: streams
                .as_ref()
                .map(|s| s.each_ref().map(AsRawFd::as_raw_fd)),
            inherit: &inherit,
            preserve: self.preserve,
            new_namespaces: self.new_namespaces,
            report: pipes.report_write.as_raw_fd(),
            gate: pipes.gate_read.as_raw_fd(),
            gate_write: pipes.gate_write.as_raw_fd(),
            dies_with_parent: self.dies_with_parent,
            gateway: gateway.map(|gateway| RawGateway {
                joins: &joins[..gateway.joins.len()],
                time_offsets: gateway.time_offsets.as_deref(),
            }),
        };
        let first = self.clone_into_pid_namespace(&child)?;
        self.see_off(first, pipes)
    }

    /// The standard streams as descriptors above the standard numbers, so that taking one cannot
    /// overwrite the next.
    fn streams(&self) -> io::Result<Option<[OwnedFd; 3]>> {
        let Some([input, output, error]) = self.stdio else {
            return Ok(None);
        };
        let above = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
        Ok(Some([above(input)?, above(output)?, above(error)?]))
    }

    fn clone_into_pid_namespace(&self, child: &Child<'_>) -> Result<Spawned, SpawnError> {
        let Some(namespace) = self.pid_namespace else {
            return self.clone_child(child);
        };
        let own = PidFd::open(std::process::id()).map_err(SpawnError::EnterPidNamespace)?;
        // A namespace descriptor and a pidfd both take the one kind as their flag (setns(2)).
        let enter = |fd: BorrowedFd<'_>| {
            move_into_thread_name_spaces(fd, ThreadNameSpaceType::PROCESS_ID)
                .map_err(io::Error::from)
        };
        enter(namespace).map_err(SpawnError::EnterPidNamespace)?;
        let spawned = self.clone_child(child);
        let left = enter(own.as_fd()).map_err(SpawnError::LeavePidNamespace);
        match (spawned, left) {
            (Ok(spawned), Err(error)) => {
                give_up(&spawned.pidfd);
                Err(error)
            }
            (spawned, _) => spawned,
        }
    }

    fn clone_child(&self, child: &Child<'_>) -> Result<Spawned, SpawnError> {
        // A gateway makes the new namespaces only for the child it clones itself.
        let namespaces = match child.gateway {
            Some(_) => 0,
            None => self.new_namespaces,
        };
        let mut pidfd: RawFd = -1;
        let mut args = clone_args(u64::from(namespaces) | CLONE_PIDFD | CLONE_CLEAR_SIGHAND);
        args.pidfd = ptr::from_mut(&mut pidfd).addr() as u64;
        if let Some(cgroup) = self.cgroup {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
        }
        // SAFETY: without CLONE_VM the child has its own copy of this memory, and it runs only
        // `Child::run`, which makes system calls with numbers and strings prepared by `spawn`.
        let answer = unsafe { clone3(&args) };
        match u32::try_from(answer) {
            // SAFETY: this is the new child of the clone above, single-threaded.
            Ok(0) => unsafe { child.run() },
            Ok(pid) => {
                // SAFETY: clone3 succeeded with CLONE_PIDFD, so it stored a new descriptor.
                let pidfd = PidFd::from_fd(unsafe { OwnedFd::from_raw_fd(pidfd) });
                Ok(Spawned { pid, pidfd })
            }
            Err(_) => Err(SpawnError::Clone {
                namespaces,
                source: io::Error::last_os_error(),
            }),
        }
    }

    fn see_off(&mut self, first: Spawned, pipes: Pipes) -> Result<Begun, SpawnError> {
        let Pipes {
            report_read,
            report_write,
            gate_read,
            gate_write,
        } = pipes;
        drop((report_write, gate_read));
        let mut reports = File::from(report_read);
        let spawned = match self.gateway {
            None => first,
            Some(_) => through_gateway(&first, &mut reports)?,
        };
        let pid = spawned.pid;
        let begun = Begun {
            process: Some(spawned),
            reports,
        };
        self.open_gate(pid, gate_write)?;
        Ok(begun)
    }

    /// Writes the id mappings and lets the child go on, where it waits for that.
    fn open_gate(&mut self, pid: u32, gate: OwnedFd) -> Result<(), SpawnError> {
        let Some(write_id_maps) = &mut self.write_id_maps else {
            return Ok(());
        };
        write_id_maps(pid).map_err(SpawnError::IdMaps)?;
        // A child that died meanwhile shows in its report, or in the lack of one.
        let _ = File::from(gate).write_all(&[1]);
        Ok(())
    }
}

/// Takes over the child that the gateway made as ours, and reaps the gateway.
fn through_gateway(gateway: &Spawned, reports: &mut File) -> Result<Spawned, SpawnError> {
    let report = next_report(reports);
    let opened = match report {
        // The child is ours and not yet reaped, so its pid can be nobody else's.
        Some([PID_REPORT, pid]) => PidFd::open(pid)
            .map(|pidfd| Spawned { pid, pidfd })
            .map_err(SpawnError::Prepare),
        Some(report) => Err(failure(report)),
        None => Err(SpawnError::Killed),
    };
    give_up(&gateway.pidfd);
    opened
}

fn next_report(reports: &mut File) -> Option<Report> {
    let mut bytes = [0; size_of::<Report>()];
    reports.read_exact(&mut bytes).ok()?;
    let (kind, value) = bytes.split_at(4);
    let number = |bytes: &[u8]| bytes.try_into().map(u32::from_ne_bytes).ok();
    Some([number(kind)?, number(value)?])
}

fn failure([step, errno]: Report) -> SpawnError {
    match Step::from_number(step) {
        Some(step) => SpawnError::Child {
            step,
            source: io::Error::from_raw_os_error(errno.cast_signed()),
        },
        None => SpawnError::Killed,
    }
}

/// Ends a child that is not wanted any more. Errors mean that it has ended already.
fn give_up(pidfd: &PidFd) {
    let _ = pidfd.send_signal(libc::SIGKILL);
    let _ = pidfd.reap();
}

/// The two pipes between parent and child: the child's report, which execve closes, and the
/// gate, which the parent opens when the id mappings are written.
struct Pipes {
    report_read: OwnedFd,
    report_write: OwnedFd,
    gate_read: OwnedFd,
    gate_write: OwnedFd,
}

impl Pipes {
    fn new() -> io::Result<Self> {
        let (report_read, report_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (gate_read, gate_write) = pipe_with(PipeFlags::CLOEXEC)?;
        // Dup2 onto the standard numbers must not hit them.
        let above = |fd: OwnedFd| -> io::Result<OwnedFd> {
            if fd.as_raw_fd() > libc::STDERR_FILENO {
                return Ok(fd);
            }
            Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
        };
        Ok(Self {
            report_read: above(report_read)?,
            report_write: above(report_write)?,
            gate_read: above(gate_read)?,
            gate_write: above(gate_write)?,
        })
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    let all = strings.iter().map(|string| string.as_ptr());
    all.chain([ptr::null()]).collect()
}

/// Layout: `struct clone_args`, third version (linux/sched.h).
#[repr(C)]
#[derive(Default)]
pub(crate) struct CloneArgs {
    flags: u64,
    pub(crate) pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

pub(crate) fn clone_args(flags: u64) -> CloneArgs {
    CloneArgs {
        flags,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        ..CloneArgs::default()
    }
}

/// # Safety
/// The child, for which this returns 0, may only make system calls: other threads of the parent
/// do not exist in it, and the locks they held stay held.
pub(crate) unsafe fn clone3(args: &CloneArgs) -> i64 {
    // SAFETY: `args` has the kernel's layout and its size is passed; without CLONE_VM and with no
    // stack the child goes on in its own copy of this very stack.
    unsafe {
        libc::syscall(
            libc::SYS_clone3,
            ptr::from_ref(args),
            size_of::<CloneArgs>(),
        )
    }
}

struct RawGateway<'a> {
    joins: &'a [(RawFd, u32)],
    time_offsets: Option<&'a CStr>,
}

/// All that the child works from. The parent keeps what the numbers and pointers stand for alive
/// over the clone; the child has a copy of it.
struct Child<'a> {
    executable: RawFd,
    argv: *const *const c_char,
    envp: *const *const c_char,
    streams: Option<[RawFd; 3]>,
    inherit: &'a [RawFd],
    preserve: u32,
    new_namespaces: u32,
    report: RawFd,
    gate: RawFd,
    gate_write: RawFd,
    dies_with_parent: bool,
    gateway: Option<RawGateway<'a>>,
}

// SAFETY, for each call below: plain system calls on numbers and on terminated strings that
// `Spawn::spawn` made before the clone and that this process has its own copy of; none of them
// returns into Rust code that allocates or locks.
impl Child<'_> {
    /// # Safety
    /// Only in the child of a clone.
    unsafe fn run(&self) -> ! {
        if let Some(gateway) = &self.gateway {
            // SAFETY: as above.
            unsafe { self.pass(gateway) };
        }
        if self.new_namespaces & CLONE_NEWUSER != 0 {
            // SAFETY: as above.
            unsafe { self.wait_for_id_maps() };
        }
        if self.dies_with_parent {
            // SAFETY: as above.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
        }
        // SAFETY: as above.
        unsafe { self.take_streams() };
        // SAFETY: as above.
        unsafe { self.keep_descriptors() };
        // SAFETY: as above; on success it does not return.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                self.executable,
                c"".as_ptr(),
                self.argv,
                self.envp,
                libc::AT_EMPTY_PATH,
            )
        };
        // SAFETY: as above.
        unsafe { self.fail(Step::Execute) }
    }

    /// Joins the gateway's namespaces, then returns in a new child of the original caller.
    unsafe fn pass(&self, gateway: &RawGateway<'_>) {
        // SAFETY: as for `run`.
        unsafe { self.join(gateway.joins) };
        if let Some(offsets) = gateway.time_offsets {
            // SAFETY: as for `run`.
            unsafe { self.make_time_namespace(offsets) };
        }
        let flags = u64::from(self.new_namespaces) | CLONE_PARENT | CLONE_CLEAR_SIGHAND;
        let mut args = clone_args(flags);
        // The kernel takes the exit signal over from us with CLONE_PARENT, and wants none named.
        args.exit_signal = 0;
        // SAFETY: as for `run`: the child returns into the same system calls.
        let answer = unsafe { clone3(&args) };
        match u32::try_from(answer) {
            Ok(0) => {}
            Ok(pid) => {
                // SAFETY: as for `run`.
                unsafe { self.send([PID_REPORT, pid]) };
                // SAFETY: ends this process without running anything of Rust's.
                unsafe { libc::_exit(0) }
            }
            // SAFETY: as for `run`.
            Err(_) => unsafe { self.fail(Step::SecondClone) },
        }
    }

    unsafe fn join(&self, joins: &[(RawFd, u32)]) {
        let mut user = false;
        let mut later = [false; MAX_JOINS];
        for (&(fd, kind), later) in joins.iter().zip(&mut later) {
            if kind == CLONE_NEWUSER {
                user = true;
                continue;
            }
            // SAFETY: as for `run`.
            *later = unsafe { libc::setns(fd, kind.cast_signed()) } < 0;
        }
        for &(fd, kind) in joins.iter().filter(|(_, kind)| *kind == CLONE_NEWUSER) {
            // SAFETY: as for `run`.
            if unsafe { libc::setns(fd, kind.cast_signed()) } < 0 {
                // SAFETY: as for `run`.
                unsafe { self.fail(Step::Join) };
            }
        }
        if user {
            // SAFETY: as for `run`.
            unsafe { self.become_root() };
        }
        for (&(fd, kind), _) in joins.iter().zip(&later).filter(|(_, later)| **later) {
            // SAFETY: as for `run`.
            if unsafe { libc::setns(fd, kind.cast_signed()) } < 0 {
                // SAFETY: as for `run`.
                unsafe { self.fail(Step::Join) };
            }
        }
    }

    unsafe fn make_time_namespace(&self, offsets: &CStr) {
        // SAFETY: as for `run`.
        if unsafe { libc::unshare(CLONE_NEWTIME.cast_signed()) } < 0 {
            // SAFETY: as for `run`.
            unsafe { self.fail(Step::TimeNamespace) };
        }
        let path = c"/proc/self/timens_offsets".as_ptr();
        // SAFETY: as for `run`.
        let file = unsafe { libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC) };
        let bytes = offsets.to_bytes();
        // SAFETY: as for `run`; a failed open shows as EBADF here.
        let written = unsafe { libc::write(file, bytes.as_ptr().cast(), bytes.len()) };
        if usize::try_from(written) != Ok(bytes.len()) {
            // SAFETY: as for `run`.
            unsafe { self.fail(Step::TimeOffsets) };
        }
    }

    unsafe fn wait_for_id_maps(&self) {
        // Else the end of the parent would not show as the end of the pipe.
        // SAFETY: this number is ours alone in this process, and no owner of it is left.
        unsafe { libc::close(self.gate_write) };
        let mut byte = 0_u8;
        // SAFETY: as for `run`; `byte` has room for the one byte.
        let read = unsafe { libc::read(self.gate, ptr::from_mut(&mut byte).cast(), 1) };
        if read != 1 {
            // SAFETY: ends this process without running anything of Rust's.
            unsafe { libc::_exit(1) };
        }
        // SAFETY: as for `run`.
        unsafe { self.become_root() };
    }

    /// Capabilities in the user namespace outlive execve only for its uid 0. Raw calls: the
    /// wrappers of libc would signal the parent's other threads.
    unsafe fn become_root(&self) {
        // SAFETY: as for `run`.
        let group = unsafe { libc::syscall(libc::SYS_setresgid, 0, 0, 0) };
        // SAFETY: as for `run`.
        let user = unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) };
        if group < 0 || user < 0 {
            // SAFETY: as for `run`.
            unsafe { self.fail(Step::BecomeRoot) };
        }
    }

    unsafe fn take_streams(&self) {
        for (target, fd) in (0..).zip(self.streams.iter().flatten()) {
            // SAFETY: as for `run`.
            if unsafe { libc::dup2(*fd, target) } < 0 {
                // SAFETY: as for `run`.
                unsafe { self.fail(Step::Stdio) };
            }
        }
    }

    unsafe fn keep_descriptors(&self) {
        let all = libc::CLOSE_RANGE_CLOEXEC;
        // SAFETY: as for `run`.
        if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, all) } < 0 {
            // SAFETY: as for `run`.
            unsafe { self.fail(Step::Descriptors) };
        }
        for fd in self.inherit {
            // SAFETY: as for `run`.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } < 0 {
                // SAFETY: as for `run`.
                unsafe { self.fail(Step::Descriptors) };
            }
        }
        for fd in 3..3_u32.saturating_add(self.preserve) {
            // SAFETY: as for `run`.
            if unsafe { libc::fcntl(fd.cast_signed(), libc::F_SETFD, 0) } < 0 {
                // SAFETY: as for `run`.
                unsafe { self.fail(Step::Preserve) };
            }
        }
    }

    unsafe fn send(&self, report: Report) {
        // SAFETY: as for `run`; the report is a copy of ours. Nobody is left to hear of an error.
        unsafe { libc::write(self.report, report.as_ptr().cast(), size_of::<Report>()) };
    }

    unsafe fn fail(&self, step: Step) -> ! {
        // SAFETY: gives the address of this thread's own word.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: as above; nothing else refers to that word.
        let errno = unsafe { *errno };
        // SAFETY: as for `run`.
        unsafe { self.send([step as u32, errno.unsigned_abs()]) };
        // SAFETY: ends this process without running anything of Rust's.
        unsafe { libc::_exit(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLONE_NEWPID: u32 = 0x2000_0000;

    /// A shell to spawn; what it is made of is leaked for the short life of the test.
    fn shell<'a>(script: &str) -> Spawn<'a> {
        let shell: &'a File = Box::leak(Box::new(File::open("/bin/sh").unwrap()));
        let argv = [c"sh".into(), c"-c".into(), CString::new(script).unwrap()];
        Spawn {
            executable: shell.as_fd(),
            argv: Box::leak(Box::new(argv)),
            envp: Box::leak(Box::new([c"PATH=/bin:/usr/bin".into()])),
            stdio: None,
            inherit: &[],
            preserve: 0,
            new_namespaces: 0,
            pid_namespace: None,
            cgroup: None,
            dies_with_parent: true,
            gateway: None,
            write_id_maps: None,
        }
    }

    fn exit_code(spawn: Spawn<'_>) -> i32 {
        spawn.spawn().unwrap().pidfd.reap().unwrap().code()
    }

    fn is_root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("skipped: needs root");
        }
        root
    }

    #[test]
    fn a_child_runs_and_its_status_comes_back() {
        assert_eq!(exit_code(shell("exit 7")), 7);
    }

    #[test]
    fn only_the_named_descriptors_cross() {
        let null = File::open("/dev/null").unwrap();
        let kept = crate::inherited::duplicate(null.as_raw_fd(), 40).unwrap();
        let leaky = crate::inherited::duplicate(null.as_raw_fd(), 50).unwrap();
        rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
        let kept_alive = [kept.as_fd()];
        let mut spawn = shell(&format!(
            "test -e /proc/self/fd/{} && ! test -e /proc/self/fd/{}",
            kept.as_raw_fd(),
            leaky.as_raw_fd()
        ));
        spawn.inherit = &kept_alive;
        assert_eq!(exit_code(spawn), 0);
    }

    #[test]
    fn a_file_that_cannot_be_executed_is_told_by_step() {
        let text = File::open("/etc/passwd").unwrap();
        let mut spawn = shell("");
        spawn.executable = text.as_fd();
        let error = spawn.spawn().unwrap_err();
        let step = match error {
            SpawnError::Child { step, .. } => step,
            other => panic!("{other}"),
        };
        assert_eq!(step, Step::Execute);
    }

    #[test]
    fn a_number_to_preserve_that_is_not_open_is_told() {
        let mut spawn = shell("exit 0");
        spawn.preserve = 900;
        let error = spawn.spawn().unwrap_err();
        assert!(error.to_string().contains("preserved"), "{error}");
    }

    #[test]
    fn a_new_user_namespace_waits_for_its_mappings() {
        if !is_root() {
            return;
        }
        let mut write = |pid: u32| {
            std::fs::write(format!("/proc/{pid}/uid_map"), "0 100000 10")?;
            std::fs::write(format!("/proc/{pid}/gid_map"), "0 100000 10")
        };
        let mut spawn = shell("test $(id -u) = 0 && test $$ = 1");
        spawn.new_namespaces = CLONE_NEWUSER | CLONE_NEWPID;
        spawn.write_id_maps = Some(&mut write);
        assert_eq!(exit_code(spawn), 0);
    }

    #[test]
    fn failed_mappings_leave_no_child() {
        if !is_root() {
            return;
        }
        let mut child = 0;
        let mut refuse = |pid: u32| {
            child = pid;
            Err(io::ErrorKind::PermissionDenied.into())
        };
        let mut spawn = shell("exit 0");
        spawn.new_namespaces = CLONE_NEWUSER;
        spawn.write_id_maps = Some(&mut refuse);
        assert!(matches!(spawn.spawn(), Err(SpawnError::IdMaps(_))));
        assert!(PidFd::open(child).is_err());
    }

    #[test]
    fn a_gateway_child_is_the_callers_and_lives_in_the_new_time() {
        if !is_root() {
            return;
        }
        let mut spawn = shell("exec grep -q 'boottime *77777 ' /proc/self/timens_offsets");
        spawn.gateway = Some(Gateway {
            joins: Vec::new(),
            time_offsets: Some(c"boottime 77777 0\n".into()),
        });
        assert_eq!(exit_code(spawn), 0);
    }

    #[test]
    fn a_child_is_born_in_the_pid_namespace_of_another_and_the_caller_stays() {
        if !is_root() {
            return;
        }
        let mut first = shell("exec sleep 60");
        first.new_namespaces = CLONE_NEWPID;
        let first = first.spawn().unwrap();
        let mut second = shell("test $$ = 2");
        second.pid_namespace = Some(first.pidfd.as_fd());
        assert_eq!(exit_code(second), 0);
        assert_eq!(exit_code(shell("test $$ -gt 2")), 0);
        give_up(&first.pidfd);
    }
}
