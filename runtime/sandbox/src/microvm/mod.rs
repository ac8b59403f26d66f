//! MicroVM isolation: the container behind a kernel of its own.
//!
//! [`MicroVm::create`](crate::Isolation::create) starts the VMM process ([`vmm`]), a hidden entry of this
//! executable. Its pid stands for the container on the host: it boots the guest, has the agent
//! make the container from a [rewritten](guest_config) config.json, relays stdio and signals, and
//! exits as the container's first process does. Later processes reach the agent through the VM's
//! socket in the machine's directory ([`guest`]); an exec'ed process gets a stand-in of its own
//! ([`exec`]). The VMM process lives in a [`jail`].

mod attend;
mod balloon;
mod create;
mod exec;
mod guest;
mod guest_config;
mod hidden;
mod hypervisor;
mod jail;
mod network;
mod oom;
mod ps;
mod size;
mod start;
mod stdio;
mod update;
mod vmm;
mod words;

use std::borrow::Cow;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use runvm_oci::{LinuxResources, Plan};
use runvm_proto::{Answer, Process, Request};

use crate::{
    Attached, BackendError, Blueprint, Built, Directory, Exec, Isolation, OomWatch, Record,
    Sandbox, Settings, Usage,
};

pub use hidden::run_hidden_entry;
pub use hypervisor::{
    HypervisorChosen, HypervisorError, QemuMissing, Rung, choose_hypervisor, find_qemu, kvm_usable,
};
pub(crate) use oom::GuestOomWatch;
pub use size::{GUEST_OVERHEAD_MIB, HOST_OVERHEAD_MIB};

/// The exit code of a stand-in whose guest has gone: as of a process killed with it.
const VM_DIED: i32 = 128 + nix::libc::SIGKILL;

/// How long the agent may take to deliver a signal before the guest counts as hung.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// How long the agent may take to answer a question.
const AGENT_PATIENCE: Duration = Duration::from_secs(10);

/// Makes microVMs.
#[derive(Debug)]
pub struct MicroVm;

impl Isolation for MicroVm {
    fn host_resources<'a>(&self, plan: &'a Plan, settings: &Settings) -> Cow<'a, LinuxResources> {
        Cow::Owned(size::host_resources(plan, settings))
    }

    fn can_checkpoint(&self) -> bool {
        false
    }

    fn create(&self, blueprint: Blueprint<'_>) -> Result<Built, BackendError> {
        create::create(blueprint)
    }

    fn reopen<'a>(&self, record: &'a Record, directory: &'a Directory) -> Box<dyn Sandbox + 'a> {
        Box::new(Guest { record, directory })
    }
}

/// Descriptors that cannot be passed on.
#[derive(Debug, thiserror::Error)]
#[error(
    "--preserve-fds is not supported in vm isolation: a descriptor of the host has no meaning in the guest"
)]
struct PreserveFds;

/// Words for a program that is not there.
#[derive(Debug, thiserror::Error)]
#[error(
    "arguments for ps are not supported in vm isolation: the processes are the guest's, where no ps is"
)]
struct PsArguments;

/// Why a guest could not be reached.
#[derive(Debug, thiserror::Error)]
enum ReachError {
    #[error("container not running")]
    Gone,
    #[error("the microVM is paused and cannot answer: resume it first")]
    Paused,
}

/// A microVM that an earlier process made.
struct Guest<'a> {
    record: &'a Record,
    directory: &'a Directory,
}

impl Sandbox for Guest<'_> {
    fn is_waiting(&self) -> io::Result<bool> {
        match self.machine() {
            // Its creator has not come that far.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            machine => start::is_waiting(machine?.as_fd()),
        }
    }

    fn start(&mut self) -> Result<(), BackendError> {
        let bridged = network::connect(self.record, self.directory)?;
        let machine = self.machine()?;
        Ok(start::start(machine.as_fd(), &self.record.id, &bridged)?)
    }

    fn exec(&mut self, exec: Exec<'_>) -> Result<Attached, BackendError> {
        exec::exec(self.directory, exec)
    }

    fn kill(&mut self, signal: i32, all: bool) -> Result<(), BackendError> {
        if self.record.is_frozen()? {
            return match signal {
                nix::libc::SIGKILL => self.kill_vmm(),
                _ => Err(ReachError::Paused.into()),
            };
        }
        let process = Process::first(&self.record.id);
        let request = Request::Kill {
            process,
            signal,
            all,
        };
        let delivered = guest::Control::open(self.machine()?.as_fd(), Some(KILL_PATIENCE))
            .and_then(|mut control| control.demand(&request, b""));
        match delivered {
            Ok(()) => Ok(()),
            // An agent that answers is right; one that does not must not save its container.
            Err(guest::GuestError::Remote(remote)) => Err(remote.into()),
            Err(_) if signal == nix::libc::SIGKILL => self.kill_vmm(),
            Err(error) => Err(error.into()),
        }
    }

    fn pids(&mut self) -> Result<Vec<u32>, BackendError> {
        if !self.is_alive()? {
            return Ok(Vec::new());
        }
        let container = self.record.id.clone();
        match self.ask(&Request::Pids { container })? {
            Answer::Pids(pids) => Ok(pids),
            answer => Err(guest::GuestError::Unexpected(answer).into()),
        }
    }

    fn process_table(&mut self, ps_args: &[OsString]) -> Result<String, BackendError> {
        if !ps_args.is_empty() {
            return Err(PsArguments.into());
        }
        if !self.is_alive()? {
            return Ok(ps::table(&[]));
        }
        let container = self.record.id.clone();
        match self.ask(&Request::Processes { container })? {
            Answer::Processes(processes) => Ok(ps::table(&processes)),
            answer => Err(guest::GuestError::Unexpected(answer).into()),
        }
    }

    fn usage(&mut self) -> Result<Usage, BackendError> {
        let container = self.record.id.clone();
        let container = match self.ask(&Request::Stats { container })? {
            Answer::Stats(stats) => serde_json::from_value(stats)?,
            answer => return Err(guest::GuestError::Unexpected(answer).into()),
        };
        let cgroup = self.record.cgroup()?;
        Ok(Usage {
            container,
            machine: cgroup.map(|cgroup| cgroup.stats()).transpose()?,
        })
    }

    fn watch_oom(&mut self) -> Result<OomWatch, BackendError> {
        let guest = GuestOomWatch::begin(self.control()?, &self.record.id)?;
        let cgroup = self.record.cgroup()?;
        let cgroup = cgroup.map(|cgroup| cgroup.watch_oom()).transpose()?;
        Ok(OomWatch::of_machine(cgroup, guest))
    }

    fn update(&mut self, resources: &LinuxResources) -> Result<(), BackendError> {
        update::update(self, resources)
    }

    fn unexpected_end(&self) -> Option<String> {
        let said = words::of_the_end(self.machine().ok()?.as_fd())?;
        Some(format!("the microVM ended unexpectedly: {said}"))
    }

    fn release(&mut self) -> Result<(), BackendError> {
        Ok(network::release(self.directory)?)
    }
}

impl Guest<'_> {
    fn machine(&self) -> io::Result<OwnedFd> {
        guest::open_machine(self.directory.as_fd())
    }

    fn is_alive(&self) -> io::Result<bool> {
        self.record
            .process
            .map_or(Ok(false), |process| process.is_alive())
    }

    fn ask(&self, request: &Request) -> Result<Answer, BackendError> {
        Ok(self.control()?.ask(request, b"")?)
    }

    /// A conversation with the agent; refused at once where nobody would answer.
    fn control(&self) -> Result<guest::Control, BackendError> {
        if self.record.is_frozen()? {
            return Err(ReachError::Paused.into());
        }
        Ok(guest::Control::open(
            self.machine()?.as_fd(),
            Some(AGENT_PATIENCE),
        )?)
    }

    fn kill_vmm(&self) -> Result<(), BackendError> {
        let process = self.record.process.ok_or(ReachError::Gone)?;
        process
            .signal(nix::libc::SIGKILL)?
            .ok_or(ReachError::Gone)?;
        Ok(())
    }
}
