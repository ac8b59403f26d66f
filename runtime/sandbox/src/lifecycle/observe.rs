//! What runs in a container and what it uses: `ps` and `events`.

use std::io;

use runvm_container::cgroup::{Cgroup, CgroupError, OomWatch, Stats};
use runvm_oci::Status;
use runvm_sys::PidFd;

use super::{Container, StatusError};
use crate::BackendError;

/// Why a container could not be looked into.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// Nobody knows whether it can be done.
    #[error(transparent)]
    Unclear(#[from] StatusError),
    /// It has stopped.
    #[error("container {id:?} ({status}) is not running")]
    Status {
        /// The container.
        id: String,
        /// Where it is.
        status: Status,
    },
    /// It was made without a cgroup.
    #[error("cannot tell what container {0:?} uses: it has no cgroup")]
    NoCgroup(String),
    /// Its cgroup could not be read.
    #[error("cannot tell what container {id:?} uses")]
    Cgroup {
        /// The container.
        id: String,
        /// What failed.
        source: CgroupError,
    },
    /// Its process could not be watched.
    #[error("cannot watch the process of container {id:?}")]
    Process {
        /// The container.
        id: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Its processes could not be listed.
    #[error("cannot list the processes of container {id:?}")]
    Pids {
        /// The container.
        id: String,
        /// What failed.
        source: BackendError,
    },
}

impl Container {
    /// The pids of its processes, by the numbers of the kernel they run on; none once stopped.
    pub fn pids(&self) -> Result<Vec<u32>, ObserveError> {
        self.sandbox().pids().map_err(|source| ObserveError::Pids {
            id: self.record.id.clone(),
            source,
        })
    }

    /// What it has used so far; of a microVM, what the whole machine has.
    pub fn stats(&self) -> Result<Stats, ObserveError> {
        self.observed()?
            .stats()
            .map_err(|source| self.unreadable(source))
    }

    /// Tells from now on when it runs out of memory.
    pub fn watch_oom(&self) -> Result<OomWatch, ObserveError> {
        self.observed()?
            .watch_oom()
            .map_err(|source| self.unreadable(source))
    }

    /// A handle on the process that stands for it, to wait for its end.
    pub fn watch_process(&self) -> Result<PidFd, ObserveError> {
        let Some(process) = self.record.process else {
            return Err(self.not_running(self.status()?));
        };
        let opened = process.open().map_err(|source| ObserveError::Process {
            id: self.record.id.clone(),
            source,
        })?;
        opened.ok_or_else(|| self.not_running(Status::Stopped))
    }

    fn observed(&self) -> Result<Cgroup, ObserveError> {
        match self.status()? {
            status @ (Status::Creating | Status::Stopped) => Err(self.not_running(status)),
            _ => self
                .record
                .cgroup()
                .map_err(|source| self.unreadable(source))?
                .ok_or_else(|| ObserveError::NoCgroup(self.record.id.clone())),
        }
    }

    fn not_running(&self, status: Status) -> ObserveError {
        ObserveError::Status {
            id: self.record.id.clone(),
            status,
        }
    }

    fn unreadable(&self, source: CgroupError) -> ObserveError {
        ObserveError::Cgroup {
            id: self.record.id.clone(),
            source,
        }
    }
}
