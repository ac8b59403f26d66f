//! From a plan to a container in the state `created`: [`create`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use runvm_oci::{Hooks, Idmap, Plan, State, Status};
use runvm_sys::PidFd;
use runvm_sys::clone::{CLONE_NEWUSER, Spawn, SpawnError};

use crate::cgroup::{Cgroup, CgroupError};
use crate::control::{Control, CreateOrder, GoOn, Order, SourceAnswer, Stamps, Word};
use crate::hooks::{self, HookError};
use crate::idmap::{self, IdmapError};
use crate::init::monotonic_ns;
use crate::namespaces::{Arrangement, NamespaceError};
use crate::net_devices::{self, NetDeviceError};
use crate::resctrl::{self, ResctrlError};
use crate::seccomp::listener::{self, ListenerError};
use crate::spawn::{Inherited, Newborn, Stdio, init_argv, sealed_self, way_into};
use crate::{ChildError, Unsupported, limits, mounts, start, supported};

/// What to create a container from.
pub struct CreateRequest<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The checked configuration.
    pub plan: &'a Plan,
    /// The bytes `plan` was read from; the container's process reads and checks them again.
    pub config: &'a [u8],
    /// The bundle's directory, absolute.
    pub bundle: &'a Path,
    /// The container's state directory; `start.sock` is made in it.
    pub state_dir: BorrowedFd<'a>,
    /// The container's cgroup, made and limited.
    pub cgroup: Option<&'a Cgroup>,
    /// The program's standard streams; `None` with a terminal.
    pub stdio: Option<Stdio>,
    /// How many descriptors from 3 on the program gets. The caller sees to it that they are the
    /// ones meant, and that none of its own is among them.
    pub preserve_fds: u32,
    /// Whether the root is moved and changed instead of pivoted: for a host root that is the
    /// kernel's initial one.
    pub no_pivot: bool,
    /// Whether the program keeps the caller's session keyring.
    pub no_new_keyring: bool,
}

/// A container in the state `created`.
#[derive(Debug)]
pub struct Created {
    /// Its process, as the caller's pid namespace has it: a child of the caller.
    pub pid: u32,
    /// A handle on it.
    pub pidfd: PidFd,
    /// The terminal's master.
    pub terminal: Option<OwnedFd>,
    /// When it came to be.
    pub stamps: Stamps,
    /// What could not be done as the plan has it, without making the container another one.
    pub warnings: Vec<String>,
}

/// Why there is no container. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Part of the plan is not done by this engine.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// Neither a terminal nor streams were given, or both.
    #[error("process.terminal and the given standard streams contradict each other")]
    Stdio,
    /// A namespace to join.
    #[error(transparent)]
    Namespaces(#[from] NamespaceError),
    /// The runtime's own executable.
    #[error("cannot seal the runtime's own executable")]
    Seal(#[source] io::Error),
    /// The socket to be started through.
    #[error("cannot listen at start.sock in the state directory")]
    Listen(#[source] io::Error),
    /// The way into the cgroup.
    #[error("cannot open the container's cgroup")]
    Cgroup(#[source] io::Error),
    /// The container's cgroup, which is to be its own.
    #[error("cannot hand the container its cgroup")]
    Delegate(#[source] CgroupError),
    /// Descriptors for the process.
    #[error("cannot prepare the descriptors of the container's process")]
    Descriptors(#[source] io::Error),
    /// The process itself.
    #[error("cannot make the container's process")]
    Spawn(#[source] SpawnError),
    /// The process and its creator lost each other.
    #[error("cannot talk to the container's process")]
    Control(#[source] io::Error),
    /// The process ended without a word: somebody, or the lack of memory, killed it.
    #[error("the container's process ended while it set itself up, with the exit code {code}")]
    Ended {
        /// As a shell has it: 128 more than the signal.
        code: i32,
    },
    /// `linux.intelRdt`.
    #[error("cannot put the container into its resctrl class")]
    Resctrl(#[source] ResctrlError),
    /// One of `linux.netDevices`.
    #[error("cannot move the network device {name:?} into the container")]
    NetDevice {
        /// Its name on the host.
        name: String,
        /// Why.
        source: NetDeviceError,
    },
    /// `idmap`, `ridmap`, or a mount's own mappings.
    #[error("cannot map the ids of mounts[{index}]")]
    Idmap {
        /// Which of `mounts`.
        index: usize,
        /// Why.
        source: IdmapError,
    },
    /// The kernel killed the process for what its cgroup may use. Engines know these words.
    #[error("container init was OOM-killed (memory limit too low?)")]
    OomKilled,
    /// A hook of the runtime's namespaces.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The seccomp agent does not get its listener.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// The container's process says what it could not do.
    #[error("cannot set up the container")]
    Child(#[source] ChildError),
}

/// Creates a container up to OCI's `created`: everything is set up and nothing of the user's has
/// run but hooks. On an error nothing is left of it: its process is dead and reaped.
pub fn create(request: CreateRequest<'_>) -> Result<Created, CreateError> {
    supported::check(request.plan)?;
    if request.plan.process.terminal == request.stdio.is_some() {
        return Err(CreateError::Stdio);
    }
    let arrangement = Arrangement::new(request.plan)?;
    supported::check_sysctl(request.plan, &arrangement)?;
    if let Some(cgroup) = request.cgroup {
        cgroup
            .delegate(request.plan)
            .map_err(CreateError::Delegate)?;
    }
    let listener = start::listen(request.state_dir).map_err(CreateError::Listen)?;
    let created = spawn(&request, &arrangement, listener).and_then(|(newborn, conversation)| {
        join_resctrl(&request, newborn.pid)?;
        net_devices::move_all(request.plan, &arrangement, newborn.pid)
            .map_err(|(name, source)| CreateError::NetDevice { name, source })
            .and_then(|()| conversation.until_ready(&request, newborn))
            .inspect_err(|_| leave_resctrl(&request))
    });
    created.map_err(|error| {
        start::forget(request.state_dir);
        blame_memory(error, request.cgroup)
    })
}

/// Says why the process was killed, where it was for the memory limit.
fn blame_memory(error: CreateError, cgroup: Option<&Cgroup>) -> CreateError {
    use CreateError::{Control, Ended, OomKilled, Spawn};
    match error {
        Ended { .. } | Control(_) | Spawn(SpawnError::Killed)
            if cgroup.is_some_and(Cgroup::has_oom_killed) =>
        {
            OomKilled
        }
        error => error,
    }
}

fn join_resctrl(request: &CreateRequest<'_>, pid: u32) -> Result<(), CreateError> {
    match &request.plan.intel_rdt {
        Some(asked) => resctrl::join(asked, request.id, pid).map_err(CreateError::Resctrl),
        None => Ok(()),
    }
}

fn leave_resctrl(request: &CreateRequest<'_>) {
    if let Some(asked) = &request.plan.intel_rdt {
        // The error on its way out is the one to tell.
        let _ = resctrl::remove(asked, request.id);
    }
}

/// Makes the process and gives it its order.
fn spawn(
    request: &CreateRequest<'_>,
    arrangement: &Arrangement,
    listener: OwnedFd,
) -> Result<(Newborn, Conversation), CreateError> {
    let executable = sealed_self().map_err(CreateError::Seal)?;
    let (ours, theirs) = Control::pair().map_err(CreateError::Control)?;
    let entry = way_into(request.cgroup).map_err(CreateError::Cgroup)?;
    let mut inherited = Inherited::above(request.preserve_fds);
    let (control, order) = pass_on(request, arrangement, &mut inherited, |inherited| {
        let control = inherited.add(theirs.into())?;
        let listener = inherited.add(listener)?;
        let tasks = entry.tasks.into_iter().map(|tasks| inherited.add(tasks));
        Ok((control, listener, tasks.collect::<io::Result<_>>()?))
    })
    .map_err(CreateError::Descriptors)?;
    let plan = request.plan;
    let mut write_id_maps = |pid| idmap::write(&plan.uid_mappings, &plan.gid_mappings, pid);
    let makes_user_namespace = arrangement.new & CLONE_NEWUSER != 0;
    let spawned_ns = monotonic_ns();
    let begun = Spawn {
        executable: executable.as_fd(),
        argv: &init_argv(control),
        envp: &[],
        stdio: request.stdio.as_ref().map(Stdio::borrow),
        inherit: &inherited.borrow(),
        preserve: request.preserve_fds,
        new_namespaces: arrangement.new,
        pid_namespace: arrangement.pid_namespace(),
        cgroup: entry.unified.as_ref().map(AsFd::as_fd),
        dies_with_parent: true,
        gateway: arrangement.gateway(),
        write_id_maps: makes_user_namespace.then_some(&mut write_id_maps),
    }
    .begin()
    .map_err(CreateError::Spawn)?;
    drop(inherited);
    limits::raise_rlimits(begun.pid(), &plan.process.rlimits)
        .map_err(|error| CreateError::Child(ChildError::new(&error)))?;
    let newborn = Newborn::ordered(begun, &ours, &Order::Create(order), request.config);
    let conversation = Conversation {
        control: ours,
        terminal: None,
        spawned_ns,
    };
    Ok((newborn.map_err(CreateError::Spawn)?, conversation))
}

/// Collects the descriptors the process inherits, and its order with their numbers.
fn pass_on(
    request: &CreateRequest<'_>,
    arrangement: &Arrangement,
    inherited: &mut Inherited,
    own: impl FnOnce(&mut Inherited) -> io::Result<(i32, i32, Vec<i32>)>,
) -> io::Result<(i32, CreateOrder)> {
    let (control, listener, tasks) = own(inherited)?;
    let mut joins = Vec::new();
    for joined in arrangement.left() {
        joins.push((joined.kind.into(), inherited.add(joined.fd.try_clone()?)?));
    }
    let order = CreateOrder {
        id: request.id.to_owned(),
        bundle: request.bundle.to_owned(),
        listener,
        tasks,
        joins,
        no_pivot: request.no_pivot,
        no_new_keyring: request.no_new_keyring,
        preserve_fds: request.preserve_fds,
    };
    Ok((control, order))
}

/// The talk with a process that has its order.
struct Conversation {
    control: Control,
    terminal: Option<OwnedFd>,
    spawned_ns: u64,
}

impl Conversation {
    fn until_ready(
        mut self,
        request: &CreateRequest<'_>,
        newborn: Newborn,
    ) -> Result<Created, CreateError> {
        loop {
            let frame = self.control.receive::<Word>();
            let Some(frame) = frame.map_err(CreateError::Control)? else {
                let code = newborn.end().map_err(CreateError::Control)?.code();
                return Err(CreateError::Ended { code });
            };
            match frame.message {
                Word::RuntimeHooks => {
                    let state = state_of(request, newborn.pid);
                    run_runtime_hooks(&request.plan.hooks, &state, newborn.pidfd())?;
                    self.control
                        .send(&GoOn, &[], &[])
                        .map_err(CreateError::Control)?;
                }
                Word::Source {
                    path,
                    recursive,
                    index,
                } => {
                    let idmap = idmap_of(request.plan, index);
                    self.send_source(&path, recursive, idmap, newborn.pid)?;
                }
                Word::Listener => {
                    let state = state_of(request, newborn.pid);
                    listener::forward_of(request.plan, &newborn, self.control.as_fd(), state)?;
                }
                Word::Terminal => self.terminal = frame.fds.into_iter().next(),
                Word::Criu { .. } => {
                    return Err(CreateError::Control(io::ErrorKind::InvalidData.into()));
                }
                Word::Failed(error) => return Err(CreateError::Child(error)),
                Word::Ready {
                    entered_ns,
                    warnings,
                } => return self.created(request.plan, newborn, entered_ns, warnings),
            }
        }
    }

    /// Clones what is to be bound, and maps its ids for the container of the process `pid`.
    fn send_source(
        &self,
        path: &Path,
        recursive: bool,
        idmap: Option<(usize, &Idmap)>,
        pid: u32,
    ) -> Result<(), CreateError> {
        let mount = mounts::clone_for(path, recursive);
        if let (Ok(mount), Some((index, asked))) = (&mount, idmap) {
            idmap::map(mount, asked, pid).map_err(|source| CreateError::Idmap { index, source })?;
        }
        let answer = SourceAnswer {
            errno: mount.as_ref().err().and_then(io::Error::raw_os_error),
        };
        let fds: Vec<_> = mount.iter().map(AsFd::as_fd).collect();
        self.control
            .send(&answer, &[], &fds)
            .map_err(CreateError::Control)
    }

    fn created(
        self,
        plan: &Plan,
        newborn: Newborn,
        entered_ns: u64,
        warnings: Vec<String>,
    ) -> Result<Created, CreateError> {
        let ready_ns = monotonic_ns();
        Ok(Created {
            pid: newborn.pid,
            pidfd: newborn.ready().map_err(CreateError::Control)?,
            terminal: self.terminal,
            stamps: Stamps {
                spawned_ns: self.spawned_ns,
                entered_ns: on_own_clock(plan, entered_ns).clamp(self.spawned_ns, ready_ns),
                ready_ns,
            },
            warnings,
        })
    }
}

fn idmap_of(plan: &Plan, index: usize) -> Option<(usize, &Idmap)> {
    Some((index, plan.mounts.get(index)?.idmap.as_ref()?))
}

/// The process's clock goes by its time namespace.
fn on_own_clock(plan: &Plan, entered_ns: u64) -> u64 {
    let Some(offset) = plan.time_offsets.get("monotonic") else {
        return entered_ns;
    };
    let seconds = i128::from(offset.secs().unwrap_or(0));
    let offset_ns = seconds * 1_000_000_000 + i128::from(offset.nanosecs().unwrap_or(0));
    u64::try_from(i128::from(entered_ns) - offset_ns).unwrap_or(0)
}

fn state_of(request: &CreateRequest<'_>, pid: u32) -> State {
    state(request.id, request.plan, request.bundle, pid)
}

/// The state of a container that is being made of `plan`, for hooks.
pub(crate) fn state(id: &str, plan: &Plan, bundle: &Path, pid: u32) -> State {
    State {
        oci_version: plan.oci_version.clone(),
        id: id.to_owned(),
        status: Status::Creating,
        pid,
        bundle: bundle.to_owned(),
        annotations: plan.annotations.clone(),
    }
}

/// Runs the hooks that come when the namespaces of the process `container` are there.
pub(crate) fn run_runtime_hooks(
    hooks: &Hooks,
    state: &State,
    container: Option<&PidFd>,
) -> Result<(), HookError> {
    hooks::run("prestart", &hooks.prestart, state, container)?;
    hooks::run("createRuntime", &hooks.create_runtime, state, container)
}
