//! `delete`: a container and all it holds on the host, gone.

use std::time::{Duration, Instant};

use runvm_container::ResctrlError;
use runvm_container::cgroup::Cgroup;
use runvm_oci::{Hook, State, Status};
use runvm_proto::Remote;
use runvm_systemd::{Instance, ScopeName};

use super::{Container, KILL_PATIENCE, StatusError, read_plan, wait_for_end};
use crate::{
    BackendError, CgroupDriverError, Directory, Lock, Operation, Record, Store, StoreError,
};

/// How often it is tried to hold a container that another operation holds.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Why `delete` failed.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody knows whether it can be done.
    #[error(transparent)]
    Unclear(#[from] StatusError),
    /// Only force deletes a container that is not stopped.
    #[error("cannot delete container {id:?} that is not stopped: {status}")]
    Status {
        /// The container.
        id: String,
        /// Where it is.
        status: Status,
    },
    /// Somebody holds on to it.
    #[error("cannot delete container {0:?}: another operation on it does not end")]
    Held(String),
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
    /// Something of it on the host could not be taken back.
    #[error("cannot take back what container {id:?} has on the host")]
    Release {
        /// The container.
        id: String,
        /// What failed.
        source: BackendError,
    },
    /// Its cgroup could not be removed.
    #[error("cannot remove the cgroup of container {id:?}")]
    Cgroup {
        /// The container.
        id: String,
        /// What failed.
        source: Box<CgroupDriverError>,
    },
}

/// Removes the container `id` and all it holds on the host; with `force` also one that has not
/// stopped, whose creation was cut short, or that does not exist.
///
/// The answer is what is odd, a line each: an end that was not its program's, and poststop hooks that
/// failed: such a hook does not keep the container (OCI runtime specification, "Lifecycle").
pub fn delete(store: &Store, id: &str, force: bool) -> Result<Vec<String>, DeleteError> {
    let directory = match store.find(id) {
        Err(StoreError::Missing(_)) if force => return Ok(Vec::new()),
        found => found?,
    };
    let lock = if force {
        match take_over(&directory) {
            Err(DeleteError::Store(StoreError::Missing(_))) => return Ok(Vec::new()),
            locked => locked?,
        }
    } else {
        directory.lock()?
    };
    let record = match directory.read_record() {
        Err(StoreError::Damaged { .. } | StoreError::Version { .. }) if force => {
            remove_without_record(&directory)?;
            None
        }
        record => record?,
    };
    let Some(record) = record else {
        directory.remove()?;
        return Ok(Vec::new());
    };
    let container = Container { directory, record };
    if !force {
        refuse_unless_stopped(&container)?;
    }
    kill(&container.record).map_err(|source| DeleteError::Kill {
        id: id.to_owned(),
        source,
    })?;
    container
        .sandbox()
        .release()
        .map_err(|source| DeleteError::Release {
            id: id.to_owned(),
            source,
        })?;
    container
        .record
        .remove_cgroup()
        .map_err(|source| DeleteError::Cgroup {
            id: id.to_owned(),
            source: Box::new(source),
        })?;
    let later = container.later();
    if let Ok(later) = &later
        && let Some(asked) = &later.intel_rdt
    {
        let removed = runvm_container::remove_resctrl(asked, id);
        removed.map_err(|source| DeleteError::Resctrl {
            id: id.to_owned(),
            source,
        })?;
    }
    let end = container.sandbox().unexpected_end();
    container.directory.remove()?;
    drop(lock);
    let state = container.record.state(Status::Stopped);
    let failed = match later {
        Ok(later) => run_poststop(&later.hooks.poststop, &state),
        Err(error) => vec![format!(
            "no poststop hooks run: {}",
            Remote::from_error(&error)
        )],
    };
    Ok(end.into_iter().chain(failed).collect())
}

/// With the container held: a creation that has no process by now never gets one.
fn refuse_unless_stopped(container: &Container) -> Result<(), DeleteError> {
    let status = match container.record.process {
        Some(_) => container.status()?,
        None => Status::Stopped,
    };
    if Operation::Delete.is_legal_from(status) {
        return Ok(());
    }
    Err(DeleteError::Status {
        id: container.record.id.clone(),
        status,
    })
}

/// Runs each hook, whatever becomes of the others; the answer is what failed, a line each.
pub(super) fn run_poststop(hooks: &[Hook], state: &State) -> Vec<String> {
    let run = |hook| runvm_container::run_hooks("poststop", hook, state, None);
    hooks
        .chunks(1)
        .filter_map(|hook| run(hook).err())
        .map(|error| Remote::from_error(&error).to_string())
        .collect()
}

/// Removes what a container whose record is of no use has on the host, as far as the configuration
/// kept of it tells.
fn remove_without_record(directory: &Directory) -> Result<(), DeleteError> {
    let id = directory.id();
    let Ok(plan) = read_plan(directory, directory.path()) else {
        return Ok(());
    };
    let path = plan.cgroups_path.as_deref();
    let scope = path.and_then(|path| ScopeName::parse(Some(path), id, Instance::System).ok());
    let found = match scope {
        // systemd forgets it once it is empty.
        Some(scope) => Cgroup::of_scope(&scope.cgroup()),
        None => Cgroup::find(path, id),
    };
    let Ok(cgroup) = found else {
        return Ok(());
    };
    let removed = cgroup.kill().and_then(|()| cgroup.delete());
    removed.map_err(|source| DeleteError::Cgroup {
        id: id.to_owned(),
        source: Box::new(source.into()),
    })
}

/// Holds the container. An operation that holds it, and may wait for its processes without end, loses
/// them, and with them its reason to go on.
fn take_over(directory: &Directory) -> Result<Lock, DeleteError> {
    if let Some(lock) = directory.try_lock()? {
        return Ok(lock);
    }
    if let Ok(Some(record)) = directory.read_record() {
        let killed = record
            .kill_process()
            .and_then(|_| Ok(record.kill_cgroup()?));
        killed.map_err(|source| DeleteError::Kill {
            id: directory.id().to_owned(),
            source,
        })?;
    }
    let deadline = Instant::now() + KILL_PATIENCE;
    while Instant::now() < deadline {
        // A lock cannot be waited for with a limit (flock(2)).
        std::thread::sleep(LOCK_PAUSE);
        if let Some(lock) = directory.try_lock()? {
            return Ok(lock);
        }
    }
    Err(DeleteError::Held(directory.id().to_owned()))
}

fn kill(record: &Record) -> Result<(), BackendError> {
    if let Some(process) = record.kill_process()? {
        wait_for_end(&process, KILL_PATIENCE)?;
    }
    Ok(record.kill_cgroup()?)
}
