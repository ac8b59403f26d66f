//! One more process in a container: [`exec`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use runvm_oci::{NamespaceKind, Plan, Process, State};
use runvm_sys::clone::{CLONE_NEWUSER, Gateway, Spawn, SpawnError};
use runvm_sys::{PidFd, user_namespace};

use crate::cgroup::{Cgroup, Entry, SubCgroup, SubCgroupError};
use crate::control::{Control, ExecOrder, Order, Word};
use crate::namespaces::{self, Source, source};
use crate::resctrl::{self, ResctrlError};
use crate::seccomp::listener::{self, ListenerError};
use crate::spawn::{Inherited, Newborn, Stdio, init_argv, sealed_self, way_into};
use crate::{ChildError, Unsupported, limits, supported};

/// `CLONE_NEWPID` (linux/sched.h).
const CLONE_NEWPID: u32 = 0x2000_0000;

/// What to run in which container.
pub struct ExecRequest<'a> {
    /// The checked process.
    pub process: &'a Process,
    /// The bytes `process` was read from; the new process reads and checks them again.
    pub process_json: &'a [u8],
    /// The container's plan, for what holds for all its processes.
    pub plan: &'a Plan,
    /// The container's first process: its namespaces are joined.
    pub target: &'a PidFd,
    /// The container's state.
    pub state: &'a State,
    /// The container's cgroup.
    pub cgroup: Option<&'a Cgroup>,
    /// Cgroups below it to run in, in the hierarchies that they are in.
    pub sub_cgroups: &'a [SubCgroup],
    /// The program's standard streams; `None` with a terminal.
    pub stdio: Option<Stdio>,
    /// How many descriptors from 3 on the program gets.
    pub preserve_fds: u32,
    /// Whether the program keeps the caller's session keyring.
    pub no_new_keyring: bool,
}

/// A process that runs its program.
#[derive(Debug)]
pub struct Executed {
    /// Its pid, as the caller's pid namespace has it: a child of the caller.
    pub pid: u32,
    /// A handle on it.
    pub pidfd: PidFd,
    /// The terminal's master.
    pub terminal: Option<OwnedFd>,
    /// What could not be done as asked, without making the process another one.
    pub warnings: Vec<String>,
}

/// Why there is no process. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Part of what is asked is not done by this engine.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// Neither a terminal nor streams were given, or both.
    #[error("process.terminal and the given standard streams contradict each other")]
    Stdio,
    /// The runtime's own executable.
    #[error("cannot seal the runtime's own executable")]
    Seal(#[source] io::Error),
    /// The container's process is gone.
    #[error("container not running: process {pid} has ended")]
    NotRunning {
        /// The container's process.
        pid: u32,
    },
    /// The way into the cgroup.
    #[error("cannot open the container's cgroup")]
    Cgroup(#[source] io::Error),
    /// The way into a cgroup below it.
    #[error(transparent)]
    SubCgroup(#[from] SubCgroupError),
    /// A cgroup below none.
    #[error("cannot run in a cgroup of the container: it has none")]
    NoCgroup,
    /// Descriptors for the process.
    #[error("cannot prepare the descriptors of the process")]
    Descriptors(#[source] io::Error),
    /// The process itself.
    #[error("cannot make the process")]
    Spawn(#[source] SpawnError),
    /// The process and its creator lost each other.
    #[error("cannot talk to the process")]
    Control(#[source] io::Error),
    /// `linux.intelRdt` of the container.
    #[error("cannot put the process into the container's resctrl class")]
    Resctrl(#[source] ResctrlError),
    /// The process ended without a word: somebody, or the lack of memory, killed it.
    #[error("the process ended while it set itself up, with the exit code {code}")]
    Ended {
        /// As a shell has it: 128 more than the signal.
        code: i32,
    },
    /// The seccomp agent does not get its listener.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// The process says what it could not do.
    #[error("cannot run the process in the container")]
    Child(#[source] ChildError),
}

/// Runs one more process in a container; returns when its program has been executed. The process
/// is a child of the caller.
pub fn exec(request: ExecRequest<'_>) -> Result<Executed, ExecError> {
    supported::check_exec(request.process)?;
    if request.process.terminal == request.stdio.is_some() {
        return Err(ExecError::Stdio);
    }
    // A process cannot be born in a pid namespace that is going away; tell why.
    if request.target.has_exited().map_err(ExecError::Control)? {
        return Err(ExecError::NotRunning {
            pid: request.state.pid,
        });
    }
    let (newborn, control) = spawn(&request)?;
    until_executed(&request, newborn, control)
}

fn spawn(request: &ExecRequest<'_>) -> Result<(Newborn, Control), ExecError> {
    let executable = sealed_self().map_err(ExecError::Seal)?;
    let (ours, theirs) = Control::pair().map_err(ExecError::Control)?;
    let entry = entry(request)?;
    let mut inherited = Inherited::above(request.preserve_fds);
    let mut add = |fd| inherited.add(fd).map_err(ExecError::Descriptors);
    let control = add(theirs.into())?;
    let target = request.target.as_fd().try_clone_to_owned();
    let target = add(target.map_err(ExecError::Descriptors)?)?;
    let tasks = entry.tasks.into_iter().map(add);
    let tasks = tasks.collect::<Result<_, _>>()?;
    let has_pid_namespace = source(request.plan, NamespaceKind::Pid) != Source::Runtime;
    let joins = gateway(request, has_pid_namespace).map_or(Vec::new(), |gateway| gateway.joins);
    let joined = joins.iter().fold(0, |kinds, (_, kind)| kinds | kind);
    let spawn_in = |unified: Option<OwnedFd>| {
        Spawn {
            executable: executable.as_fd(),
            argv: &init_argv(control),
            envp: &[],
            stdio: request.stdio.as_ref().map(Stdio::borrow),
            inherit: &inherited.borrow(),
            preserve: request.preserve_fds,
            new_namespaces: 0,
            pid_namespace: (has_pid_namespace && joined & CLONE_NEWPID == 0)
                .then(|| request.target.as_fd()),
            cgroup: unified.as_ref().map(AsFd::as_fd),
            dies_with_parent: true,
            gateway: gateway(request, has_pid_namespace),
            write_id_maps: None,
        }
        .begin()
    };
    let begun = match (spawn_in(entry.unified), request.cgroup) {
        (Err(SpawnError::Clone { source, .. }), Some(cgroup))
            if is_busy(&source) && request.sub_cgroups.is_empty() =>
        {
            let beside = cgroup.entry_beside(request.state.pid);
            spawn_in(beside.map_err(ExecError::Cgroup)?.unified)
        }
        (begun, _) => begun,
    };
    let begun = begun.map_err(ExecError::Spawn)?;
    drop(inherited);
    if request.plan.intel_rdt.is_some() {
        resctrl::follow(request.state.pid, begun.pid()).map_err(ExecError::Resctrl)?;
    }
    limits::raise_rlimits(begun.pid(), &request.process.rlimits)
        .map_err(|error| ExecError::Child(ChildError::new(&error)))?;
    let mut order = order(request, target, tasks);
    order.join &= !joined;
    let order = Order::Exec(Box::new(order));
    let newborn = Newborn::ordered(begun, &ours, &order, request.process_json);
    Ok((newborn.map_err(ExecError::Spawn)?, ours))
}

/// EBUSY of clone3(2): the cgroup has handed controllers to those below it.
fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy
}

/// For a caller without privileges: only from within the user namespace, which is its own, can it
/// enter the others, and a pid namespace is entered by being born there. One with privileges joins
/// the user namespace last: until then nobody in the container can look into the new process. Where
/// they reach no further than a user namespace of the caller's, it could not leave the pid namespace
/// again that it has pointed its children at.
fn gateway<'a>(request: &'a ExecRequest<'_>, has_pid_namespace: bool) -> Option<Gateway<'a>> {
    let target = request.target.as_fd();
    let is_root = rustix::process::geteuid().is_root();
    let mut joins = Vec::new();
    if !is_root && source(request.plan, NamespaceKind::User) != Source::Runtime {
        joins.push((target, CLONE_NEWUSER));
    }
    if has_pid_namespace && (!is_root || user_namespace::is_inside()) {
        joins.push((target, CLONE_NEWPID));
    }
    (!joins.is_empty()).then_some(Gateway {
        joins,
        time_offsets: None,
    })
}

fn entry(request: &ExecRequest<'_>) -> Result<Entry, ExecError> {
    match (request.cgroup, request.sub_cgroups) {
        (cgroup, []) => way_into(cgroup).map_err(ExecError::Cgroup),
        (Some(cgroup), below) => Ok(cgroup.entry_below(below)?),
        (None, _) => Err(ExecError::NoCgroup),
    }
}

fn order(request: &ExecRequest<'_>, target: i32, tasks: Vec<i32>) -> ExecOrder {
    let container = &request.plan.process;
    ExecOrder {
        tasks,
        target,
        keyring_of: (!request.no_new_keyring).then(|| request.state.id.clone()),
        join: namespaces::all_flags(request.plan) & !CLONE_NEWPID,
        capabilities: container.capabilities.map(|sets| {
            [
                sets.bounding,
                sets.effective,
                sets.inheritable,
                sets.permitted,
                sets.ambient,
            ]
        }),
        no_new_privileges: container.no_new_privileges,
        seccomp: request.plan.seccomp.clone(),
        apparmor_profile: container.apparmor_profile.clone(),
        selinux_label: container.selinux_label.clone(),
        umask: container.user.umask,
        oom_score_adj: container.oom_score_adj,
        io_priority: container.io_priority,
        scheduler: container.scheduler.clone(),
        personality: request.plan.personality.clone(),
        memory_policy: (request.plan.memory_policy.as_ref())
            .map(|policy| (policy.mode | policy.flags, policy.nodes.clone())),
        preserve_fds: request.preserve_fds,
    }
}

/// The end of the conversation is the execve: it closes the process's end.
fn until_executed(
    request: &ExecRequest<'_>,
    newborn: Newborn,
    mut control: Control,
) -> Result<Executed, ExecError> {
    let mut terminal = None;
    let mut ready = None;
    while let Some(frame) = control.receive::<Word>().map_err(ExecError::Control)? {
        match frame.message {
            Word::Terminal => terminal = frame.fds.into_iter().next(),
            Word::Ready { warnings, .. } => ready = Some(warnings),
            Word::Failed(error) => return Err(ExecError::Child(error)),
            Word::Listener => {
                let state = request.state.clone();
                listener::forward_of(request.plan, &newborn, control.as_fd(), state)?;
            }
            // Others say these.
            Word::Criu { .. } | Word::RuntimeHooks | Word::Source { .. } => {}
        }
    }
    let Some(warnings) = ready else {
        let code = newborn.end().map_err(ExecError::Control)?.code();
        return Err(ExecError::Ended { code });
    };
    Ok(Executed {
        pid: newborn.pid,
        pidfd: newborn.ready().map_err(ExecError::Control)?,
        terminal,
        warnings,
    })
}
