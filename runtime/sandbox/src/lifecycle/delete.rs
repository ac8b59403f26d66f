//! `delete`: a container and all it holds on the host, gone.

use runvm_container::ResctrlError;
use runvm_container::cgroup::CgroupError;
use runvm_oci::{Hook, Status};

use super::{Container, ReadConfigError};
use crate::{BackendError, Operation, Store, StoreError};

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
    if let Some(cgroup) = container
        .record
        .cgroup()
        .map_err(|source| DeleteError::Cgroup {
            id: id.to_owned(),
            source,
        })?
    {
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
