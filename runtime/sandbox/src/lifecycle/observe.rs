//! What runs in a container and what it uses: `ps` and `events`.

use std::ffi::OsString;
use std::io;

use runvm_oci::Status;
use runvm_sys::PidFd;

use super::{Container, StatusError};
use crate::{BackendError, OomWatch, Sandbox, Usage};

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
    /// What it uses could not be learned.
    #[error("cannot tell what container {id:?} uses")]
    Usage {
        /// The container.
        id: String,
        /// What failed.
        source: BackendError,
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

    /// Its processes as a table, of which `ps_args` make another one than `ps -ef`.
    pub fn process_table(&self, ps_args: &[OsString]) -> Result<String, ObserveError> {
        self.sandbox()
            .process_table(ps_args)
            .map_err(|source| ObserveError::Pids {
                id: self.record.id.clone(),
                source,
            })
    }

    /// What it has used so far.
    pub fn usage(&self) -> Result<Usage, ObserveError> {
        self.observe(|sandbox| sandbox.usage())
    }

    /// Tells from now on when it runs out of memory.
    pub fn watch_oom(&self) -> Result<OomWatch, ObserveError> {
        self.observe(|sandbox| sandbox.watch_oom())
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

    fn observe<T>(
        &self,
        what: impl FnOnce(&mut dyn Sandbox) -> Result<T, BackendError>,
    ) -> Result<T, ObserveError> {
        match self.status()? {
            status @ (Status::Creating | Status::Stopped) => Err(self.not_running(status)),
            _ => what(&mut *self.sandbox()).map_err(|source| ObserveError::Usage {
                id: self.record.id.clone(),
                source,
            }),
        }
    }

    fn not_running(&self, status: Status) -> ObserveError {
        ObserveError::Status {
            id: self.record.id.clone(),
            status,
        }
    }
}
