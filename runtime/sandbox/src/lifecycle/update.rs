//! `update`: other limits for a container that runs.

use runvm_oci::{LinuxResources, Status};

use super::{Container, StatusError};
use crate::{BackendError, Operation, StoreError};

/// Why `update` failed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody knows whether it can be done.
    #[error(transparent)]
    Unclear(#[from] StatusError),
    /// There is nothing to limit. Engines know these words.
    #[error("cannot update container {id:?} ({status}): container not running")]
    Status {
        /// The container.
        id: String,
        /// Where it is.
        status: Status,
    },
    /// A limit could not be set.
    #[error("cannot update container {id:?}")]
    Backend {
        /// The container.
        id: String,
        /// What failed.
        source: BackendError,
    },
}

impl Container {
    /// Sets the limits that `resources` names; the others stay, and so do device rules whatever
    /// it says: engines send all of a container's resources, and would take away the devices that
    /// others have added meanwhile.
    pub fn update(&self, mut resources: LinuxResources) -> Result<(), UpdateError> {
        let _lock = self.directory.lock()?;
        let id = || self.record.id.clone();
        let status = self.status()?;
        if !Operation::Update.is_legal_from(status) {
            return Err(UpdateError::Status { id: id(), status });
        }
        resources.set_devices(None);
        self.sandbox()
            .update(&resources)
            .map_err(|source| UpdateError::Backend { id: id(), source })
    }
}
