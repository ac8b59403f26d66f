//! The operations of the OCI runtime specification on containers of either isolation.

mod observe;
mod pause;
mod update;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use runvm_container::cgroup::{Cgroup, CgroupError, Location, SubCgroup};
use runvm_container::{HookError, ResctrlError, Stdio};
use runvm_oci::{ConfigError, Hook, LinuxIntelRdt, NamespaceKind, Plan, Process, State, Status};
use runvm_sys::PidFd;
use rustix::event::Timespec;

use crate::phases::Waterfall;
use crate::record::{ProcessIdentity, Record};
use crate::{
    Attached, BackendError, Blueprint, Built, Directory, Exec, IsolationKind, Operation, Sandbox,
    Settings, Store, StoreError, terminal,
};

pub use observe::ObserveError;
pub use pause::PauseError;
pub use update::UpdateError;

/// How long the processes of a container may take to die after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// What `create` is asked for.
pub struct CreateRequest<'a> {
    /// The new container's id.
    pub id: &'a str,
    /// The bundle, absolute.
    pub bundle: &'a Path,
    /// The checked configuration.
    pub plan: &'a Plan,
    /// The bytes `plan` was read from.
    pub config: &'a [u8],
    /// Which way to isolate it.
    pub isolation: IsolationKind,
    /// The runtime's settings.
    pub settings: &'a Settings,
    /// The first process's stdio, when it has no terminal.
    pub stdio: Stdio,
    /// Who gets the terminal.
    pub console: Console<'a>,
    /// Where to write the pid.
    pub pid_file: Option<&'a Path>,
    /// The unix socket of an engine that wants a pidfd.
    pub pidfd_socket: Option<&'a Path>,
    /// How many descriptors from 3 on the process inherits.
    pub preserve_fds: u32,
    /// Leave the old root by `chroot`.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Have systemd make the cgroup.
    pub systemd_cgroup: bool,
    /// Go on without a cgroup where the user may not make one and the bundle asks for none.
    pub rootless: bool,
}

/// Who gets the host's side of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console<'a> {
    /// Nobody is there: a process with a terminal is refused.
    None,
    /// The caller, who stays to relay it.
    Caller,
    /// The engine that listens on this unix socket.
    Socket(&'a Path),
}

/// Why a terminal cannot be handed over as asked.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// A terminal, and nobody to take it.
    #[error(
        "cannot allocate a terminal without --console-socket when detached (process.terminal is true)"
    )]
    Missing,
    /// A console socket, and no terminal.
    #[error("cannot use --console-socket without a terminal (process.terminal is false)")]
    Unwanted,
    /// The engine could not be given the terminal.
    #[error("cannot send the terminal to the console socket {}", path.display())]
    Send {
        /// The console socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Console<'_> {
    fn check(self, terminal: bool) -> Result<(), ConsoleError> {
        match (self, terminal) {
            (Console::None, true) => Err(ConsoleError::Missing),
            (Console::Socket(_), false) => Err(ConsoleError::Unwanted),
            _ => Ok(()),
        }
    }

    /// Gives `terminal` to the engine, or back to the caller.
    fn hand_over(self, terminal: Option<OwnedFd>) -> Result<Option<OwnedFd>, ConsoleError> {
        match (self, terminal) {
            (Console::Socket(path), Some(terminal)) => {
                terminal::send_descriptor(path, &terminal, "/dev/ptmx").map_err(|source| {
                    ConsoleError::Send {
                        path: path.to_owned(),
                        source,
                    }
                })?;
                Ok(None)
            }
            (_, terminal) => Ok(terminal),
        }
    }
}

/// Why the process could not be made known to the engine.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The pid file could not be written.
    #[error("cannot write the pid file {}", path.display())]
    PidFile {
        /// The pid file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The engine could not be given the pidfd.
    #[error("cannot send the pidfd to the socket {}", path.display())]
    Pidfd {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Where an engine wants a new process made known.
#[derive(Clone, Copy)]
struct Announcement<'a> {
    pid_file: Option<&'a Path>,
    pidfd_socket: Option<&'a Path>,
    /// What comes with the pidfd: runc's word for the kind of process.
    kind: &'static str,
}

impl Announcement<'_> {
    fn make(self, pid: u32, pidfd: &PidFd) -> Result<(), HandOverError> {
        if let Some(path) = self.pidfd_socket {
            terminal::send_descriptor(path, pidfd, self.kind).map_err(|source| {
                HandOverError::Pidfd {
                    path: path.to_owned(),
                    source,
                }
            })?;
        }
        // The file comes last: who waits for it finds the rest done.
        match self.pid_file {
            Some(path) => {
                terminal::write_pid_file(path, pid).map_err(|source| HandOverError::PidFile {
                    path: path.to_owned(),
                    source,
                })
            }
            None => Ok(()),
        }
    }
}

/// Why a container could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The terminal cannot be handed over.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The cgroup could not be made or limited.
    #[error("cannot set up the cgroup of container {id:?}")]
    Cgroup {
        /// The container.
        id: String,
        /// What failed.
        source: CgroupError,
    },
    /// The caller asked for a cgroup driver that is not there.
    #[error("--systemd-cgroup: the systemd cgroup driver is not supported yet")]
    SystemdCgroup,
    /// The isolation failed.
    #[error("cannot create container {id:?}")]
    Build {
        /// The container.
        id: String,
        /// What failed.
        source: BackendError,
    },
    /// The process ended before it could be recorded.
    #[error("container {0:?} ended while it was being created")]
    Ended(String),
    /// The pid could not be handed over.
    #[error(transparent)]
    HandOver(#[from] HandOverError),
}

/// A container at status `created`, in the hands of the process that made it.
pub struct Created {
    /// The process that stands for it, a child of this one.
    pub pid: u32,
    /// A handle on it.
    pub pidfd: PidFd,
    /// Its terminal, when the caller takes it.
    pub terminal: Option<OwnedFd>,
    /// What is odd, a line each.
    pub warnings: Vec<String>,
}

/// Makes a container, up to OCI status `created`. On failure nothing of it is left.
pub fn create(
    store: &Store,
    request: CreateRequest<'_>,
    waterfall: &mut Waterfall,
) -> Result<Created, CreateError> {
    request.console.check(request.plan.process.terminal)?;
    if request.systemd_cgroup {
        return Err(CreateError::SystemdCgroup);
    }
    let directory = store.reserve(request.id)?;
    let lock = directory.lock()?;
    let mut unfinished = Unfinished {
        directory: Some(&directory),
        cgroup: None,
        process: None,
        intel_rdt: request.plan.intel_rdt.as_ref(),
    };

    let location = locate_cgroup(&request)?;
    let mut record = new_record(&request);
    // Kept before the cgroup is made, so that a creation cut short can be cleaned up.
    record.cgroup = Some(location.record());
    directory.write_config(request.config)?;
    directory.write_record(&record)?;
    unfinished.cgroup = make_cgroup(&request, location)?;
    record.cgroup = unfinished.cgroup.as_ref().map(Cgroup::record);
    waterfall.end("reserve");

    let console = request.console;
    let announcement = Announcement {
        pid_file: request.pid_file,
        pidfd_socket: request.pidfd_socket,
        kind: "standard",
    };
    let isolation = request.isolation.isolation();
    let built = isolation
        .create(blueprint(request, &directory, unfinished.cgroup.as_ref()))
        .map_err(|source| CreateError::Build {
            id: record.id.clone(),
            source,
        })?;
    waterfall.end_built(&built.stamps);
    let Built {
        pid,
        pidfd,
        terminal,
        annotations,
        warnings,
        ..
    } = built;
    unfinished.process = Some(pidfd);

    record.process =
        Some(ProcessIdentity::of(pid).ok_or_else(|| CreateError::Ended(record.id.clone()))?);
    record.annotations.extend(
        annotations
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value)),
    );
    directory.write_record(&record)?;
    let terminal = console.hand_over(terminal)?;
    if let Some(pidfd) = &unfinished.process {
        announcement.make(pid, pidfd)?;
    }
    let pidfd = unfinished
        .keep()
        .ok_or_else(|| CreateError::Ended(record.id.clone()))?;
    drop(lock);
    Ok(Created {
        pid,
        pidfd,
        terminal,
        warnings,
    })
}

fn new_record(request: &CreateRequest<'_>) -> Record {
    let mut annotations: BTreeMap<String, String> = request.plan.annotations.clone();
    annotations.insert(
        IsolationKind::ANNOTATION.to_owned(),
        request.isolation.as_str().to_owned(),
    );
    Record {
        version: Record::VERSION,
        id: request.id.to_owned(),
        oci_version: request.plan.oci_version.clone(),
        bundle: request.bundle.to_owned(),
        rootfs: request.plan.root.path.clone(),
        isolation: request.isolation,
        created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
        owner_uid: rustix::process::geteuid().as_raw(),
        annotations,
        cgroup: None,
        process: None,
    }
}

fn locate_cgroup(request: &CreateRequest<'_>) -> Result<Location, CreateError> {
    let path = request.plan.cgroups_path.as_deref();
    Location::find(path, request.id).map_err(|source| CreateError::Cgroup {
        id: request.id.to_owned(),
        source,
    })
}

fn make_cgroup(
    request: &CreateRequest<'_>,
    location: Location,
) -> Result<Option<Cgroup>, CreateError> {
    let plan = request.plan;
    let isolation = request.isolation.isolation();
    match location.make(&isolation.host_resources(plan, request.settings)) {
        Ok(cgroup) => Ok(Some(cgroup)),
        Err(error) if request.rootless && error.is_permission() && plan.cgroups_path.is_none() => {
            Ok(None)
        }
        Err(source) => Err(CreateError::Cgroup {
            id: request.id.to_owned(),
            source,
        }),
    }
}

fn blueprint<'a>(
    request: CreateRequest<'a>,
    directory: &'a Directory,
    cgroup: Option<&'a Cgroup>,
) -> Blueprint<'a> {
    Blueprint {
        id: request.id,
        plan: request.plan,
        config: request.config,
        bundle: request.bundle,
        directory,
        cgroup,
        stdio: request.stdio,
        preserve_fds: request.preserve_fds,
        no_pivot: request.no_pivot,
        no_new_keyring: request.no_new_keyring,
        settings: request.settings,
    }
}

/// What a creation that fails takes back.
struct Unfinished<'a> {
    directory: Option<&'a Directory>,
    cgroup: Option<Cgroup>,
    process: Option<PidFd>,
    intel_rdt: Option<&'a LinuxIntelRdt>,
}

impl Unfinished<'_> {
    /// Takes back nothing any more.
    fn keep(mut self) -> Option<PidFd> {
        self.directory = None;
        self.cgroup = None;
        self.intel_rdt = None;
        self.process.take()
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // The error on its way out is the one to tell; what cannot be taken back here is
        // shown by `list` and removed by `delete --force`.
        if let Some(process) = &self.process {
            let _ = process.send_signal(nix::libc::SIGKILL);
            let _ = wait_for_end(process, KILL_PATIENCE);
            let _ = process.reap();
        }
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.kill();
            let _ = cgroup.delete();
        }
        if let Some(directory) = self.directory {
            if let Some(asked) = self.intel_rdt {
                let _ = runvm_container::remove_resctrl(asked, directory.id());
            }
            let _ = directory.remove();
        }
    }
}

/// A container that exists.
#[derive(Debug)]
pub struct Container {
    directory: Directory,
    record: Record,
}

/// Why the configuration kept of a container cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadConfigError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not what was kept.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Why `start` failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It has been started before.
    #[error("cannot start container {id:?}: it is {status}, not created")]
    Status {
        /// The container.
        id: String,
        /// Where it is.
        status: Status,
    },
    /// The configuration kept of it cannot be read.
    #[error("cannot read the configuration of container {id:?}")]
    Config {
        /// The container.
        id: String,
        /// What failed.
        source: ReadConfigError,
    },
    /// A poststart hook failed; the container was killed.
    #[error("cannot start container {id:?}")]
    Hook {
        /// The container.
        id: String,
        /// What failed.
        source: HookError,
    },
    /// The program could not be run.
    #[error("cannot start container {id:?}")]
    Backend {
        /// The container.
        id: String,
        /// What failed.
        source: BackendError,
    },
}

/// Why `kill` failed.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// There is nothing to kill. Engines know these words.
    #[error("cannot kill container {id:?} ({status}): container not running")]
    Status {
        /// The container.
        id: String,
        /// Where it is.
        status: Status,
    },
    /// The configuration kept of it, which says who is to be killed, cannot be read.
    #[error("cannot kill container {id:?}")]
    Config {
        /// The container.
        id: String,
        /// What failed.
        source: ReadConfigError,
    },
    /// The signal could not be sent.
    #[error("cannot signal container {id:?}")]
    Backend {
        /// The container.
        id: String,
        /// What failed.
        source: BackendError,
    },
}

/// Why `exec` failed.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The container cannot take a process now.
    #[error("cannot exec in container {id:?}: it is {status}")]
    Status {
        /// The container.
        id: String,
        /// Where it is.
        status: Status,
    },
    /// It would not run.
    #[error("cannot exec in container {0:?}: it is paused (use --ignore-paused to override)")]
    Paused(String),
    /// The terminal cannot be handed over.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The process asked for is none.
    #[error("cannot exec in container {id:?}")]
    Process {
        /// The container.
        id: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The configuration kept of the container cannot be read.
    #[error("cannot exec in container {id:?}")]
    Config {
        /// The container.
        id: String,
        /// What failed.
        source: ReadConfigError,
    },
    /// The program could not be run.
    #[error("cannot exec in container {id:?}")]
    Backend {
        /// The container.
        id: String,
        /// What failed.
        source: BackendError,
    },
    /// The pid could not be handed over.
    #[error(transparent)]
    HandOver(#[from] HandOverError),
}

/// Why `delete` failed.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Only force deletes a container that is not stopped.
    #[error("cannot delete container {id:?} that is not stopped: {status}")]
    Status {
        /// The container.
        id: String,
        /// Where it is.
        status: Status,
    },
    /// Its processes could not be killed, or did not die.
    #[error("cannot kill the processes of container {id:?}")]
    Kill {
        /// The container.
        id: String,
        /// What failed.
        source: BackendError,
    },
    /// Its resctrl class could not be removed.
    #[error("cannot remove the resctrl class of container {id:?}")]
    Resctrl {
        /// The container.
        id: String,
        /// What failed.
        source: ResctrlError,
    },
    /// Its cgroup could not be removed.
    #[error("cannot remove the cgroup of container {id:?}")]
    Cgroup {
        /// The container.
        id: String,
        /// What failed.
        source: CgroupError,
    },
}

/// What `exec` is asked for.
pub struct ExecRequest<'a> {
    /// The OCI process object, as JSON.
    pub process_json: &'a [u8],
    /// Its stdio, when it has no terminal.
    pub stdio: Stdio,
    /// Who gets the terminal.
    pub console: Console<'a>,
    /// Where to write the pid.
    pub pid_file: Option<&'a Path>,
    /// The unix socket of an engine that wants a pidfd.
    pub pidfd_socket: Option<&'a Path>,
    /// How many descriptors from 3 on the process inherits.
    pub preserve_fds: u32,
    /// Cgroups below the container's to run in.
    pub sub_cgroups: &'a [SubCgroup],
    /// Whether a paused container takes it: it then waits for `resume`.
    pub ignore_paused: bool,
}

impl Container {
    /// Finds the container `id`.
    pub fn open(store: &Store, id: &str) -> Result<Self, StoreError> {
        let directory = store.find(id)?;
        let record = directory
            .read_record()?
            .ok_or_else(|| StoreError::Missing(id.to_owned()))?;
        Ok(Self { directory, record })
    }

    /// What the store keeps of it.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The configuration it was made from.
    pub fn config(&self) -> Result<Vec<u8>, StoreError> {
        self.directory.read_config()
    }

    /// Where it is now.
    pub fn status(&self) -> Status {
        let Some(process) = self.record.process else {
            return if self.directory.is_locked() {
                Status::Creating
            } else {
                Status::Stopped
            };
        };
        if !process.is_alive() {
            Status::Stopped
        } else if self.is_frozen() {
            Status::Paused
        } else if self.sandbox().is_waiting() {
            Status::Created
        } else {
            Status::Running
        }
    }

    /// The pid of the process that stands for it; 0 once that has ended.
    pub fn pid(&self) -> u32 {
        self.record
            .process
            .filter(ProcessIdentity::is_alive)
            .map_or(0, |process| process.pid)
    }

    /// Runs the user's program.
    pub fn start(&self) -> Result<(), StartError> {
        let _lock = self.directory.lock()?;
        let id = || self.record.id.clone();
        let status = self.status();
        if !Operation::Start.is_legal_from(status) {
            return Err(StartError::Status { id: id(), status });
        }
        let plan = self
            .plan()
            .map_err(|source| StartError::Config { id: id(), source })?;
        self.sandbox()
            .start()
            .map_err(|source| StartError::Backend { id: id(), source })?;
        let state = self.state(Status::Running);
        runvm_container::run_hooks("poststart", &plan.hooks.poststart, &state).map_err(|source| {
            // A container whose poststart hook failed is not one that was started.
            if let Some(process) = self.record.process
                && let Ok(pidfd) = process.open()
            {
                let _ = pidfd.send_signal(nix::libc::SIGKILL);
            }
            StartError::Hook { id: id(), source }
        })
    }

    fn plan(&self) -> Result<Plan, ReadConfigError> {
        Ok(Plan::parse(&self.config()?, &self.record.bundle)?)
    }

    /// The state document of a container at `status`.
    pub fn state(&self, status: Status) -> State {
        State {
            oci_version: self.record.oci_version.clone(),
            id: self.record.id.clone(),
            status,
            pid: if status == Status::Stopped {
                0
            } else {
                self.pid()
            },
            bundle: self.record.bundle.clone(),
            annotations: self.record.annotations.clone(),
        }
    }

    /// Sends `signal` to the first process, or to all.
    ///
    /// SIGKILL goes to all where the container has no pid namespace of its own: there the end of
    /// the first process is not that of the others.
    pub fn kill(&self, signal: i32, all: bool) -> Result<(), KillError> {
        let id = || self.record.id.clone();
        let failed = |source| KillError::Backend { id: id(), source };
        let status = self.status();
        let is_sigkill = signal == nix::libc::SIGKILL;
        let everyone = all || (is_sigkill && !self.has_own_pid_namespace()?);
        let is_survived = || status == Status::Stopped && everyone && self.has_survivors();
        if !Operation::Kill.is_legal_from(status) && !is_survived() {
            // Engines kill all of a container whose first process has just ended.
            return if all && status == Status::Stopped {
                Ok(())
            } else {
                Err(KillError::Status { id: id(), status })
            };
        }
        self.sandbox().kill(signal, everyone).map_err(failed)?;
        if is_sigkill && status == Status::Paused {
            // On cgroup v1 what is frozen does not even die.
            self.thaw().map_err(|error| failed(error.into()))?;
        }
        Ok(())
    }

    fn has_own_pid_namespace(&self) -> Result<bool, KillError> {
        let plan = self.plan().map_err(|source| KillError::Config {
            id: self.record.id.clone(),
            source,
        })?;
        let own = |namespace: &runvm_oci::Namespace| {
            namespace.kind == NamespaceKind::Pid && namespace.path.is_none()
        };
        Ok(plan.namespaces.iter().any(own))
    }

    /// Whether processes are left of a container whose first one has ended.
    fn has_survivors(&self) -> bool {
        matches!(self.cgroup(), Ok(Some(cgroup)) if cgroup.pids().is_ok_and(|pids| !pids.is_empty()))
    }

    fn thaw(&self) -> Result<(), CgroupError> {
        match self.cgroup()? {
            Some(cgroup) => cgroup.thaw(),
            None => Ok(()),
        }
    }

    /// Adds a process.
    pub fn exec(&self, request: ExecRequest<'_>) -> Result<Attached, ExecError> {
        let id = || self.record.id.clone();
        match self.status() {
            Status::Paused if request.ignore_paused => {}
            Status::Paused => return Err(ExecError::Paused(id())),
            status if Operation::Exec.is_legal_from(status) => {}
            status => return Err(ExecError::Status { id: id(), status }),
        }
        let process = Process::parse(request.process_json)
            .map_err(|source| ExecError::Process { id: id(), source })?;
        request.console.check(process.terminal)?;
        let plan = self
            .plan()
            .map_err(|source| ExecError::Config { id: id(), source })?;
        let exec = Exec {
            process: &process,
            process_json: request.process_json,
            plan: &plan,
            stdio: request.stdio,
            preserve_fds: request.preserve_fds,
            sub_cgroups: request.sub_cgroups,
        };
        let announcement = Announcement {
            pid_file: request.pid_file,
            pidfd_socket: request.pidfd_socket,
            kind: "setns",
        };
        let attached = self
            .sandbox()
            .exec(exec)
            .map_err(|source| ExecError::Backend { id: id(), source })?;
        hand_over(attached, request.console, announcement)
    }

    fn sandbox(&self) -> Box<dyn Sandbox + '_> {
        self.record
            .isolation
            .isolation()
            .reopen(&self.record, &self.directory)
    }

    fn cgroup(&self) -> Result<Option<Cgroup>, CgroupError> {
        self.record.cgroup.as_ref().map(Cgroup::open).transpose()
    }

    fn is_frozen(&self) -> bool {
        matches!(self.cgroup(), Ok(Some(cgroup)) if cgroup.is_frozen().unwrap_or(false))
    }

    fn kill_everything(&self) -> Result<(), BackendError> {
        if let Some(process) = self.record.process
            && let Ok(pidfd) = process.open()
        {
            pidfd.send_signal(nix::libc::SIGKILL)?;
            self.thaw()?;
            wait_for_end(&pidfd, KILL_PATIENCE)?;
        }
        if let Some(cgroup) = self.cgroup()? {
            cgroup.kill()?;
        }
        Ok(())
    }
}

/// Hands a process over as the engine wants it; ends one that cannot be.
fn hand_over(
    mut attached: Attached,
    console: Console<'_>,
    announcement: Announcement<'_>,
) -> Result<Attached, ExecError> {
    let handed = console
        .hand_over(attached.terminal.take())
        .map_err(ExecError::from)
        .and_then(|terminal| {
            announcement.make(attached.pid, &attached.pidfd)?;
            Ok(terminal)
        });
    match handed {
        Ok(terminal) => Ok(Attached {
            terminal,
            ..attached
        }),
        Err(error) => {
            // Nobody else knows it. The error is the one to tell.
            let _ = attached.pidfd.send_signal(nix::libc::SIGKILL);
            let _ = attached.pidfd.reap();
            Err(error)
        }
    }
}

/// Removes the container `id` and all it holds on the host; with `force` also one that has not
/// stopped, whose creation was cut short, or that does not exist.
///
/// The answer is what is odd, a line each: a poststop hook that fails does not keep the container
/// (OCI runtime specification, "Lifecycle").
pub fn delete(store: &Store, id: &str, force: bool) -> Result<Vec<String>, DeleteError> {
    let directory = match store.find(id) {
        Err(StoreError::Missing(_)) if force => return Ok(Vec::new()),
        found => found?,
    };
    let lock = match directory.lock() {
        Err(StoreError::Missing(_)) if force => return Ok(Vec::new()),
        locked => locked?,
    };
    let record = match directory.read_record() {
        Ok(record) => record,
        Err(_) if force => None,
        Err(error) => return Err(error.into()),
    };
    let Some(record) = record else {
        directory.remove()?;
        return Ok(Vec::new());
    };
    let container = Container { directory, record };
    // The lock is ours, so a creation that has no process by now never gets one.
    let status = if container.record.process.is_none() {
        Status::Stopped
    } else {
        container.status()
    };
    if !force && !Operation::Delete.is_legal_from(status) {
        return Err(DeleteError::Status {
            id: id.to_owned(),
            status,
        });
    }
    container
        .kill_everything()
        .map_err(|source| DeleteError::Kill {
            id: id.to_owned(),
            source,
        })?;
    if let Some(cgroup) = container.cgroup().map_err(|source| DeleteError::Cgroup {
        id: id.to_owned(),
        source,
    })? {
        cgroup.delete().map_err(|source| DeleteError::Cgroup {
            id: id.to_owned(),
            source,
        })?;
    }
    let plan = container.plan();
    if let Ok(plan) = &plan
        && let Some(asked) = &plan.intel_rdt
    {
        let removed = runvm_container::remove_resctrl(asked, id);
        removed.map_err(|source| DeleteError::Resctrl {
            id: id.to_owned(),
            source,
        })?;
    }
    let hooks = plan.map(|plan| plan.hooks.poststop);
    container.directory.remove()?;
    drop(lock);
    Ok(run_poststop(&container, hooks))
}

fn run_poststop(container: &Container, hooks: Result<Vec<Hook>, ReadConfigError>) -> Vec<String> {
    let state = container.state(Status::Stopped);
    let run_each = |hooks: Vec<Hook>| {
        hooks
            .chunks(1)
            .filter_map(|hook| runvm_container::run_hooks("poststop", hook, &state).err())
            .map(|error| error.to_string())
            .collect()
    };
    hooks.map_or_else(
        |error| vec![format!("no poststop hooks run: {error}")],
        run_each,
    )
}

/// Waits until the process behind `pidfd` has ended.
fn wait_for_end(pidfd: &PidFd, patience: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
    if pidfd.wait_exit(Some(&timeout))? {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "it did not end after SIGKILL",
        ))
    }
}
