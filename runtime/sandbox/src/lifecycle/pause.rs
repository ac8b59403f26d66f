//! `pause` and `resume`: the cgroup stands still, and with it whatever the isolation runs in it.

use runvm_container::cgroup::CgroupError;
use runvm_oci::Status;

use super::{Container, StatusError};
use crate::{Operation, StoreError};

/// Why `pause` or `resume` failed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody knows whether it can be done.
    #[error(transparent)]
    Unclear(#[from] StatusError),
    /// There is nothing to pause. Engines know these words.
    #[error("cannot pause container {id:?} ({status}): container not running")]
    NotRunning {
        /// The container.
        id: String,
        /// Where it is.
        status: Status,
    },
    /// There is nothing to resume. Engines know these words.
    #[error("cannot resume container {id:?} ({status}): container not paused")]
    NotPaused {
        /// The container.
        id: String,
        /// Where it is.
        status: Status,
    },
    /// There is nothing to freeze it by.
    #[error("cannot pause container {0:?}: it has no cgroup")]
    NoCgroup(String),
    /// The cgroup could not be frozen or thawed.
    #[error("cannot {verb} container {id:?}")]
    Cgroup {
        /// `pause` or `resume`.
        verb: &'static str,
        /// The container.
        id: String,
        /// What failed.
        source: Box<CgroupError>,
    },
}

impl Container {
    /// Stops all its processes; of a microVM, the whole machine.
    pub fn pause(&self) -> Result<(), PauseError> {
        let _lock = self.directory.lock()?;
        let not_running = |status| PauseError::NotRunning {
            id: self.record.id.clone(),
            status,
        };
        let status = self.status()?;
        if !Operation::Pause.is_legal_from(status) {
            return Err(not_running(status));
        }
        self.set_frozen(true)?;
        // What ended just before it could be frozen is not paused.
        match self.status()? {
            Status::Stopped => Err(not_running(Status::Stopped)),
            _ => Ok(()),
        }
    }

    /// Lets its processes go on.
    pub fn resume(&self) -> Result<(), PauseError> {
        let _lock = self.directory.lock()?;
        let status = self.status()?;
        if !Operation::Resume.is_legal_from(status) {
            return Err(PauseError::NotPaused {
                id: self.record.id.clone(),
                status,
            });
        }
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), PauseError> {
        let id = || self.record.id.clone();
        let failed = |source| PauseError::Cgroup {
            verb: if frozen { "pause" } else { "resume" },
            id: id(),
            source: Box::new(source),
        };
        let cgroup = self.record.cgroup().map_err(failed)?;
        let cgroup = cgroup.ok_or_else(|| PauseError::NoCgroup(id()))?;
        let done = if frozen {
            cgroup.freeze()
        } else {
            cgroup.thaw()
        };
        done.map_err(failed)
    }
}
