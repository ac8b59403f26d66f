//! Container isolation: namespaces on the host's kernel.

mod ps;

use std::borrow::Cow;
use std::ffi::OsString;
use std::io;

use runvm_container::cgroup::Cgroup;
use runvm_container::{CreateRequest, ExecRequest, RestoreRequest};
use runvm_oci::{LinuxResources, Plan, Status};
use runvm_sys::PidFd;

use crate::phases::Stamps;
use crate::{
    Attached, BackendError, Blueprint, Built, Directory, Exec, Isolation, OomWatch, Record,
    Sandbox, Settings, Usage,
};

/// Makes namespaced containers.
#[derive(Debug)]
pub struct Host;

impl Isolation for Host {
    fn host_resources<'a>(&self, plan: &'a Plan, _settings: &Settings) -> Cow<'a, LinuxResources> {
        Cow::Borrowed(&plan.resources)
    }

    fn can_checkpoint(&self) -> bool {
        true
    }

    fn create(&self, blueprint: Blueprint<'_>) -> Result<Built, BackendError> {
        let stdio = (!blueprint.plan.process.terminal).then_some(blueprint.stdio);
        let created = match blueprint.restore {
            Some(from) => runvm_container::restore(RestoreRequest {
                id: blueprint.id,
                plan: blueprint.plan,
                config: blueprint.config,
                bundle: blueprint.bundle,
                state_path: blueprint.directory.path(),
                cgroup: blueprint.cgroup,
                stdio,
                from,
            })?,
            None => runvm_container::create(CreateRequest {
                id: blueprint.id,
                plan: blueprint.plan,
                config: blueprint.config,
                bundle: blueprint.bundle,
                state_dir: rustix::fd::AsFd::as_fd(blueprint.directory),
                cgroup: blueprint.cgroup,
                stdio,
                preserve_fds: blueprint.preserve_fds,
                no_pivot: blueprint.no_pivot,
                no_new_keyring: blueprint.no_new_keyring,
            })?,
        };
        Ok(Built {
            pid: created.pid,
            pidfd: created.pidfd,
            terminal: created.terminal,
            stamps: Stamps {
                isolated_ns: created.stamps.entered_ns,
                ready_ns: created.stamps.ready_ns,
                within_isolate: Vec::new(),
            },
            annotations: Vec::new(),
            warnings: created.warnings,
        })
    }

    fn reopen<'a>(&self, record: &'a Record, directory: &'a Directory) -> Box<dyn Sandbox + 'a> {
        Box::new(Container { record, directory })
    }
}

/// A container that an earlier process made.
struct Container<'a> {
    record: &'a Record,
    directory: &'a Directory,
}

/// Why a process of a container could not be reached.
#[derive(Debug, thiserror::Error)]
enum ReachError {
    #[error("container not running")]
    Gone,
    #[error("it has no cgroup")]
    NoCgroup,
    #[error("cannot take hold of process {pid}")]
    Open { pid: u32, source: io::Error },
    #[error("cannot send signal {signal} to process {pid}")]
    Signal {
        signal: i32,
        pid: u32,
        source: io::Error,
    },
}

impl Container<'_> {
    /// A handle on the container's first process, checked to be that and no later owner of its pid.
    fn first_process(&self) -> Result<PidFd, ReachError> {
        let process = self.record.process.ok_or(ReachError::Gone)?;
        let pidfd = process.open().map_err(|source| ReachError::Open {
            pid: process.pid,
            source,
        })?;
        pidfd.ok_or(ReachError::Gone)
    }

    fn cgroup(&self) -> Result<Cgroup, BackendError> {
        Ok(self.record.cgroup()?.ok_or(ReachError::NoCgroup)?)
    }
}

impl Sandbox for Container<'_> {
    fn is_waiting(&self) -> io::Result<bool> {
        runvm_container::is_waiting(rustix::fd::AsFd::as_fd(self.directory))
    }

    fn start(&mut self) -> Result<(), BackendError> {
        Ok(runvm_container::start(rustix::fd::AsFd::as_fd(
            self.directory,
        ))?)
    }

    fn exec(&mut self, exec: Exec<'_>) -> Result<Attached, BackendError> {
        let target = self.first_process()?;
        let cgroup = self.record.cgroup()?;
        self.record.reach_cgroup()?;
        let executed = runvm_container::exec(ExecRequest {
            process: exec.process,
            process_json: exec.process_json,
            plan: exec.plan,
            target: &target,
            state: &self.record.state(Status::Running),
            cgroup: cgroup.as_ref(),
            stdio: (!exec.process.terminal).then_some(exec.stdio),
            preserve_fds: exec.preserve_fds,
            no_new_keyring: self.record.no_new_keyring,
            sub_cgroups: exec.sub_cgroups,
        })?;
        Ok(Attached {
            pid: executed.pid,
            pidfd: executed.pidfd,
            terminal: executed.terminal,
            warnings: executed.warnings,
        })
    }

    fn kill(&mut self, signal: i32, all: bool) -> Result<(), BackendError> {
        // Without a cgroup, the first process is all that is known.
        if all && let Some(cgroup) = self.record.cgroup()? {
            return Ok(cgroup.signal(signal)?);
        }
        let process = self.record.process.ok_or(ReachError::Gone)?;
        let sent = process
            .signal(signal)
            .map_err(|source| ReachError::Signal {
                signal,
                pid: process.pid,
                source,
            })?;
        sent.ok_or(ReachError::Gone)?;
        Ok(())
    }

    fn pids(&mut self) -> Result<Vec<u32>, BackendError> {
        Ok(self.cgroup()?.pids()?)
    }

    fn process_table(&mut self, ps_args: &[OsString]) -> Result<String, BackendError> {
        Ok(ps::table(&self.pids()?, ps_args)?)
    }

    fn usage(&mut self) -> Result<Usage, BackendError> {
        Ok(Usage {
            container: self.cgroup()?.stats()?,
            machine: None,
        })
    }

    fn watch_oom(&mut self) -> Result<OomWatch, BackendError> {
        Ok(OomWatch::of_cgroup(self.cgroup()?.watch_oom()?))
    }

    fn update(&mut self, resources: &LinuxResources) -> Result<(), BackendError> {
        Ok(self.record.limit(&self.cgroup()?, resources)?)
    }

    /// The process is the container's own: its exit status says all.
    fn unexpected_end(&self) -> Option<String> {
        None
    }

    /// The kernel takes back all that there is.
    fn release(&mut self) -> Result<(), BackendError> {
        Ok(())
    }
}
