//! The operations of the OCI runtime specification on containers of either isolation.

mod checkpoint;
mod console;
mod create;
mod delete;
mod notify;
mod observe;
mod pause;
mod update;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runvm_container::cgroup::{CgroupError, SubCgroup};
use runvm_container::{HookError, Stdio};
use runvm_oci::{ConfigError, Later, NamespaceKind, Plan, Process, Status};
use runvm_sys::PidFd;
use rustix::event::Timespec;

use crate::record::Record;
use crate::{Attached, BackendError, Directory, Exec, Operation, Sandbox, Store, StoreError};

pub use checkpoint::{CheckpointError, checkpoint};
use console::Announcement;
pub use console::{Console, ConsoleError, HandOverError};
pub use create::{CreateError, CreateRequest, Created, create};
pub use delete::{DeleteError, delete};
pub use notify::{NotifyError, Readiness};
pub use observe::ObserveError;
pub use pause::PauseError;
pub use update::UpdateError;

/// How long the processes of a container may take to die after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// A container that exists.
#[derive(Debug)]
pub struct Container {
    directory: Directory,
    record: Record,
}

/// Why it cannot be told where a container is.
#[derive(Debug, thiserror::Error)]
#[error("cannot tell the status of container {id:?}")]
pub struct StatusError {
    /// The container.
    pub id: String,
    /// What failed.
    pub source: BackendError,
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
    /// Nobody knows whether it can be done.
    #[error(transparent)]
    Unclear(#[from] StatusError),
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
    /// Nobody knows whether it can be done.
    #[error(transparent)]
    Unclear(#[from] StatusError),
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
    /// Nobody knows whether it can be done.
    #[error(transparent)]
    Unclear(#[from] StatusError),
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
    pub fn status(&self) -> Result<Status, StatusError> {
        self.find_status().map_err(|source| StatusError {
            id: self.record.id.clone(),
            source,
        })
    }

    fn find_status(&self) -> Result<Status, BackendError> {
        let Some(process) = self.record.process else {
            return Ok(if self.directory.is_locked()? {
                Status::Creating
            } else {
                Status::Stopped
            });
        };
        Ok(if !process.is_alive()? {
            Status::Stopped
        } else if self.record.is_frozen()? {
            Status::Paused
        } else if self.sandbox().is_waiting()? {
            Status::Created
        } else {
            Status::Running
        })
    }

    /// Runs the user's program.
    pub fn start(&self) -> Result<(), StartError> {
        let lock = self.directory.lock()?;
        let id = || self.record.id.clone();
        let status = self.status()?;
        if !Operation::Start.is_legal_from(status) {
            return Err(StartError::Status { id: id(), status });
        }
        let later = self
            .later()
            .map_err(|source| StartError::Config { id: id(), source })?;
        self.sandbox()
            .start()
            .map_err(|source| StartError::Backend { id: id(), source })?;
        // It runs, and may be deleted while its hooks take their time.
        drop(lock);
        let state = self.record.state(Status::Running);
        let hooks = &later.hooks.poststart;
        runvm_container::run_hooks("poststart", hooks, &state, None).map_err(|source| {
            // A container whose poststart hook failed is not one that was started.
            let _ = self.record.kill_process();
            StartError::Hook { id: id(), source }
        })
    }

    fn later(&self) -> Result<Later, ReadConfigError> {
        Ok(Later::parse(&self.config()?)?)
    }

    fn plan(&self) -> Result<Plan, ReadConfigError> {
        read_plan(&self.directory, &self.record.bundle)
    }

    /// Sends `signal` to the first process, or to all.
    ///
    /// SIGKILL goes to all where the container has no pid namespace of its own: there the end of
    /// the first process is not that of the others.
    pub fn kill(&self, signal: i32, all: bool) -> Result<(), KillError> {
        let id = || self.record.id.clone();
        let failed = |source| KillError::Backend { id: id(), source };
        let status = self.status()?;
        let is_sigkill = signal == nix::libc::SIGKILL;
        let everyone = all || (is_sigkill && !self.has_own_pid_namespace()?);
        let is_survived = status == Status::Stopped
            && everyone
            && self.has_survivors().map_err(|error| failed(error.into()))?;
        if !Operation::Kill.is_legal_from(status) && !is_survived {
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
            let thawed = self.record.thaw();
            thawed.map_err(|error| failed(error.into()))?;
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
    fn has_survivors(&self) -> Result<bool, CgroupError> {
        match self.record.cgroup()? {
            Some(cgroup) => Ok(!cgroup.pids()?.is_empty()),
            None => Ok(false),
        }
    }

    /// Adds a process.
    pub fn exec(&self, request: ExecRequest<'_>) -> Result<Attached, ExecError> {
        let id = || self.record.id.clone();
        match self.status()? {
            Status::Paused if request.ignore_paused => {}
            Status::Paused => return Err(ExecError::Paused(id())),
            status if Operation::Exec.is_legal_from(status) => {}
            status => return Err(ExecError::Status { id: id(), status }),
        }
        let (process, mut warnings) = Process::parse_warned(request.process_json)
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
        let mut attached = self
            .sandbox()
            .exec(exec)
            .map_err(|source| ExecError::Backend { id: id(), source })?;
        warnings.append(&mut attached.warnings);
        attached.warnings = warnings;
        hand_over(attached, request.console, announcement)
    }

    fn sandbox(&self) -> Box<dyn Sandbox + '_> {
        self.record
            .isolation
            .isolation()
            .reopen(&self.record, &self.directory)
    }
}

/// Reads the configuration that `directory` keeps of a container from `bundle`.
fn read_plan(directory: &Directory, bundle: &Path) -> Result<Plan, ReadConfigError> {
    Ok(Plan::parse(&directory.read_config()?, bundle)?)
}

/// The directory, in the state directory of a container, that is bound into it for sd_notify(3).
pub fn notify_directory(state: &Path) -> PathBuf {
    state.join(notify::DIRECTORY)
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
