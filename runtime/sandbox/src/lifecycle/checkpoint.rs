//! `checkpoint`: a running container written to files, from which `restore` makes it again.

use std::os::fd::OwnedFd;

use runvm_container::{DumpError, DumpInto, DumpRequest};
use runvm_oci::Status;

use super::{Container, ReadConfigError, StatusError, delete};
use crate::{BackendError, IsolationKind, Operation, Store, StoreError};

/// Why `checkpoint` failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its isolation has no checkpoints.
    #[error(
        "cannot checkpoint container {id:?}: checkpoints are not supported in {isolation} isolation"
    )]
    Isolation {
        /// The container.
        id: String,
        /// How it is isolated.
        isolation: IsolationKind,
    },
    /// It cannot be told where it is.
    #[error(transparent)]
    Unclear(#[from] StatusError),
    /// It has not been started, or has ended.
    #[error("cannot checkpoint container {id:?}: it is {status}")]
    Status {
        /// The container.
        id: String,
        /// Where it is.
        status: Status,
    },
    /// The configuration kept of it cannot be read.
    #[error("cannot checkpoint container {id:?}")]
    Config {
        /// The container.
        id: String,
        /// What failed.
        source: ReadConfigError,
    },
    /// Its process or cgroup could not be found again.
    #[error("cannot checkpoint container {id:?}")]
    Reach {
        /// The container.
        id: String,
        /// What failed.
        source: BackendError,
    },
    /// The dump failed.
    #[error("cannot checkpoint container {id:?}")]
    Dump {
        /// The container.
        id: String,
        /// What failed.
        source: DumpError,
    },
}

/// Writes the container `id` to files. It is deleted then, unless it was to be left running or
/// its memory alone was written.
///
/// `status` gets a byte when memory that was left behind can be fetched. The answer is what is
/// odd, a line each: that the container could not be deleted does not unmake the checkpoint.
pub fn checkpoint(
    store: &Store,
    id: &str,
    into: &DumpInto,
    status: Option<OwnedFd>,
) -> Result<Vec<String>, CheckpointError> {
    Container::open(store, id)?.dump(into, status)?;
    if into.leave_running || into.pre_dump {
        return Ok(Vec::new());
    }
    Ok(delete(store, id, true).unwrap_or_else(|error| vec![error.to_string()]))
}

impl Container {
    fn dump(&self, into: &DumpInto, status_fd: Option<OwnedFd>) -> Result<(), CheckpointError> {
        let id = || self.record.id.clone();
        let isolation = self.record.isolation;
        if !isolation.isolation().can_checkpoint() {
            return Err(CheckpointError::Isolation {
                id: id(),
                isolation,
            });
        }
        let _lock = self.directory.lock()?;
        let status = self.status()?;
        let process = self.record.process;
        let Some(process) = process.filter(|_| Operation::Checkpoint.is_legal_from(status)) else {
            return Err(CheckpointError::Status { id: id(), status });
        };
        let plan = self
            .plan()
            .map_err(|source| CheckpointError::Config { id: id(), source })?;
        let cgroup = self
            .record
            .cgroup()
            .map_err(|error| CheckpointError::Reach {
                id: id(),
                source: error.into(),
            })?;
        let request = DumpRequest {
            plan: &plan,
            pid: process.pid,
            cgroup: cgroup.as_ref(),
            stream_names: &self.record.stream_names,
            into,
            status: status_fd,
        };
        runvm_container::dump(request).map_err(|source| CheckpointError::Dump { id: id(), source })
    }
}
