//! `create`: a container up to OCI status `created`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::SystemTime;

use runvm_container::cgroup::Cgroup;
use runvm_container::{RestoreFrom, Stdio};
use runvm_oci::{Hook, LinuxIntelRdt, Plan, State, Status};
use runvm_sys::PidFd;

use super::console::{Announcement, Console, ConsoleError, HandOverError};
use super::delete::run_poststop;
use super::{KILL_PATIENCE, wait_for_end};
use crate::cgroup::{MadeCgroup, NewCgroup};
use crate::phases::Waterfall;
use crate::record::{ProcessIdentity, Record};
use crate::{
    BackendError, Blueprint, Built, CgroupDriver, CgroupDriverError, Directory, IsolationKind,
    Lock, Settings, Store, StoreError,
};

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
    /// Make the [`notify_directory`](super::notify_directory), which `plan` binds into the container.
    pub notifies: bool,
    /// Leave the old root by `chroot`.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Who makes the cgroup.
    pub cgroup_driver: CgroupDriver,
    /// Go on without a cgroup where the user may not make one and the bundle asks for none.
    pub rootless: bool,
    /// Take its processes from a checkpoint: it runs then.
    pub restore: Option<&'a RestoreFrom>,
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
        source: Box<CgroupDriverError>,
    },
    /// There is no place for the socket at which the program says that it is ready.
    #[error("cannot make the directory that container {id:?} notifies in")]
    Notify {
        /// The container.
        id: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The isolation has no checkpoints.
    #[error(
        "cannot restore container {id:?}: checkpoints are not supported in {isolation} isolation"
    )]
    Checkpoint {
        /// The container.
        id: String,
        /// How it was to be isolated.
        isolation: IsolationKind,
    },
    /// The isolation failed.
    #[error("cannot {verb} container {id:?}")]
    Build {
        /// `create` or `restore`.
        verb: &'static str,
        /// The container.
        id: String,
        /// What failed.
        source: BackendError,
    },
    /// The process cannot be told from others.
    #[error("cannot look at process {pid} of container {id:?}")]
    Identify {
        /// The container.
        id: String,
        /// Its process.
        pid: u32,
        /// The kernel's answer.
        source: io::Error,
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

/// Makes a container, up to OCI status `created`; or `running`, from a checkpoint. On failure nothing of it is left.
pub fn create(
    store: &Store,
    request: CreateRequest<'_>,
    waterfall: &mut Waterfall,
) -> Result<Created, CreateError> {
    request.console.check(request.plan.process.terminal)?;
    if request.restore.is_some() && !request.isolation.isolation().can_checkpoint() {
        return Err(CreateError::Checkpoint {
            id: request.id.to_owned(),
            isolation: request.isolation,
        });
    }
    let (directory, lock) = store.reserve(request.id)?;
    let mut unfinished = Unfinished {
        _lock: lock,
        directory: Some(&directory),
        cgroup: None,
        process: None,
        intel_rdt: request.plan.intel_rdt.as_ref(),
        poststop: None,
    };

    let new_cgroup = find_cgroup(&request)?;
    let mut record = new_record(&request);
    // Kept before the cgroup is made, so that a creation cut short can be cleaned up.
    new_cgroup.note(&mut record);
    directory.write_config(request.config)?;
    directory.write_record(&record)?;
    if request.notifies {
        super::notify::make_directory(&directory).map_err(|source| CreateError::Notify {
            id: request.id.to_owned(),
            source,
        })?;
    }
    unfinished.cgroup = make_cgroup(&request, new_cgroup)?;
    record.cgroup = unfinished.cgroup().map(Cgroup::record);
    waterfall.end("reserve");

    let console = request.console;
    let announcement = Announcement {
        pid_file: request.pid_file,
        pidfd_socket: request.pidfd_socket,
        kind: "standard",
    };
    // From here on hooks run, and what they do is undone by others (OCI runtime specification,
    // "Lifecycle").
    unfinished.poststop = Some((&request.plan.hooks.poststop, record.state(Status::Stopped)));
    let isolation = request.isolation.isolation();
    // What is restored runs, and may have ended by the time it is recorded.
    let (verb, identity): (_, Identity) = match request.restore {
        Some(_) => ("restore", ProcessIdentity::of_child),
        None => ("create", ProcessIdentity::of),
    };
    let built = isolation
        .create(blueprint(request, &directory, unfinished.cgroup()))
        .map_err(|source| CreateError::Build {
            verb,
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
    if let Some(cgroup) = &mut unfinished.cgroup {
        cgroup.settle().map_err(cgroup_failed(&record.id))?;
    }

    record.process = Some(identify(&record.id, pid, identity)?);
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
    Ok(Created {
        pid,
        pidfd,
        terminal,
        warnings,
    })
}

/// A way to tell a process from others that have had its pid.
type Identity = fn(u32) -> io::Result<Option<ProcessIdentity>>;

fn identify(id: &str, pid: u32, identity: Identity) -> Result<ProcessIdentity, CreateError> {
    let process = identity(pid).map_err(|source| CreateError::Identify {
        id: id.to_owned(),
        pid,
        source,
    })?;
    process.ok_or_else(|| CreateError::Ended(id.to_owned()))
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
        no_new_keyring: request.no_new_keyring,
        cgroup: None,
        scope: None,
        stream_names: match request.plan.process.terminal {
            true => Vec::new(),
            false => request.stdio.names(),
        },
        process: None,
    }
}

fn find_cgroup(request: &CreateRequest<'_>) -> Result<NewCgroup, CreateError> {
    NewCgroup::find(request.cgroup_driver, request.plan, request.id)
        .map_err(cgroup_failed(request.id))
}

fn make_cgroup(
    request: &CreateRequest<'_>,
    cgroup: NewCgroup,
) -> Result<Option<MadeCgroup>, CreateError> {
    let plan = request.plan;
    let isolation = request.isolation.isolation();
    match cgroup.make(&isolation.host_resources(plan, request.settings)) {
        Ok(cgroup) => Ok(Some(cgroup)),
        Err(CgroupDriverError::Cgroup(error))
            if request.rootless && error.is_permission() && plan.cgroups_path.is_none() =>
        {
            Ok(None)
        }
        Err(source) => Err(cgroup_failed(request.id)(source)),
    }
}

fn cgroup_failed(id: &str) -> impl FnOnce(CgroupDriverError) -> CreateError {
    let id = id.to_owned();
    |source| CreateError::Cgroup {
        id,
        source: Box::new(source),
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
        restore: request.restore,
    }
}

/// What a creation that fails takes back.
struct Unfinished<'a> {
    /// Nobody else takes the container up, or makes one of its id, until all is taken back.
    _lock: Lock,
    directory: Option<&'a Directory>,
    cgroup: Option<MadeCgroup>,
    process: Option<PidFd>,
    intel_rdt: Option<&'a LinuxIntelRdt>,
    poststop: Option<(&'a [Hook], State)>,
}

impl Unfinished<'_> {
    fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref().map(|made| &made.cgroup)
    }

    /// Takes back nothing any more.
    fn keep(mut self) -> Option<PidFd> {
        self.directory = None;
        self.cgroup = None;
        self.intel_rdt = None;
        self.poststop = None;
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
        if let Some(cgroup) = self.cgroup.take() {
            cgroup.undo();
        }
        if let Some(directory) = self.directory {
            if let Some(asked) = self.intel_rdt {
                let _ = runvm_container::remove_resctrl(asked, directory.id());
            }
            let _ = directory.remove();
        }
        if let Some((hooks, state)) = &self.poststop {
            run_poststop(hooks, state);
        }
    }
}
