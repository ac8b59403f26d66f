//! What the store keeps of a sandbox, so that a later process finds it again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{fs, io};

use runvm_container::cgroup::{Cgroup, CgroupError, CgroupRecord};
use runvm_oci::{State, Status};
use runvm_sys::PidFd;
use serde::{Deserialize, Serialize};

use crate::cgroup::ScopeRecord;
use crate::{BackendError, IsolationKind};

/// One sandbox, as `state.json` holds it. Written whole at each change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The layout of this record; another number is another runtime's.
    pub version: u32,
    /// The container's id.
    pub id: String,
    /// config.json's `ociVersion`.
    pub oci_version: String,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The container's root, absolute.
    pub rootfs: PathBuf,
    /// Which way it is isolated; fixed for its life.
    pub isolation: IsolationKind,
    /// When it was made, RFC 3339 in UTC.
    pub created: String,
    /// The user that made it.
    pub owner_uid: u32,
    /// config.json's annotations and the runtime's own (`dev.runvm.*`).
    pub annotations: BTreeMap<String, String>,
    /// Whether its processes keep the session keyring of whoever makes them.
    #[serde(default)]
    pub no_new_keyring: bool,
    /// Its cgroup; absent until made.
    pub cgroup: Option<CgroupRecord>,
    /// systemd's unit whose cgroup that is; absent where systemd did not make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ScopeRecord>,
    /// What its standard streams are, where they are not a terminal: `checkpoint` keeps it.
    #[serde(default)]
    pub stream_names: Vec<String>,
    /// The process that stands for it; absent while it is being made.
    pub process: Option<ProcessIdentity>,
}

impl Record {
    /// The layout this code reads and writes.
    pub const VERSION: u32 = 1;

    /// The state document of the container at `status`.
    pub fn state(&self, status: Status) -> State {
        State {
            oci_version: self.oci_version.clone(),
            id: self.id.clone(),
            status,
            pid: self.pid_at(status),
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }

    /// The pid of the process that stands for it at `status`; 0 before there is one and once it has
    /// ended.
    pub fn pid_at(&self, status: Status) -> u32 {
        match self.process {
            Some(process) if status != Status::Stopped => process.pid,
            _ => 0,
        }
    }

    /// Lets its processes on the host go on.
    pub(crate) fn thaw(&self) -> Result<(), CgroupError> {
        match self.cgroup()? {
            Some(cgroup) => cgroup.thaw(),
            None => Ok(()),
        }
    }

    /// Kills the process that stands for it, frozen or not. The answer is a handle on it, to wait
    /// for its end; none where it has ended.
    pub(crate) fn kill_process(&self) -> Result<Option<PidFd>, BackendError> {
        let process = match self.process {
            Some(process) => process.signal(nix::libc::SIGKILL)?,
            None => None,
        };
        if process.is_some() {
            self.thaw()?;
        }
        Ok(process)
    }

    /// Kills what is in its cgroup on the host.
    pub(crate) fn kill_cgroup(&self) -> Result<(), CgroupError> {
        match self.cgroup()? {
            Some(cgroup) => cgroup.kill(),
            None => Ok(()),
        }
    }

    /// Whether its processes on the host are frozen.
    pub(crate) fn is_frozen(&self) -> Result<bool, CgroupError> {
        let Some(record) = &self.cgroup else {
            return Ok(false);
        };
        match Cgroup::open_freezer(record).and_then(|freezer| freezer.is_frozen()) {
            Err(error) if error.is_absence() => Ok(false),
            frozen => frozen,
        }
    }
}

/// A process by pid and start time, which the reuse of its pid cannot mislead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessIdentity {
    /// The pid.
    pub pid: u32,
    /// Clock ticks after boot at which it started (proc_pid_stat(5), field 22).
    pub start_time: u64,
}

impl ProcessIdentity {
    /// The identity of the process that has `pid` now; `None` when there is none or it is a zombie.
    pub fn of(pid: u32) -> io::Result<Option<Self>> {
        let found = Self::with_state(pid)?;
        let alive = found.filter(|(state, _)| !matches!(state, 'Z' | 'X' | 'x'));
        Ok(alive.map(|(_, identity)| identity))
    }

    /// As [`of`](Self::of), of a child of this process that may have ended: it has its pid until
    /// it is reaped.
    pub(crate) fn of_child(pid: u32) -> io::Result<Option<Self>> {
        Ok(Self::with_state(pid)?.map(|(_, identity)| identity))
    }

    fn with_state(pid: u32) -> io::Result<Option<(char, Self)>> {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => Ok(Self::in_stat(pid, &stat)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn in_stat(pid: u32, stat: &str) -> Option<(char, Self)> {
        // The command name may hold spaces and parentheses: fields are counted after the last one.
        let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
        let state = fields.next()?.chars().next()?;
        let start_time = fields.nth(18)?.parse().ok()?;
        Some((state, Self { pid, start_time }))
    }

    /// A handle on this very process; `None` when it has ended.
    pub fn open(&self) -> io::Result<Option<PidFd>> {
        let pidfd = match PidFd::open(self.pid) {
            Ok(pidfd) => pidfd,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        // The pid cannot change hands while the handle is open, so looking now is late enough.
        Ok(self.is_alive()?.then_some(pidfd))
    }

    /// Sends a signal to this very process, and to no later owner of its pid. The answer is a handle
    /// on it; `None` when it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<Option<PidFd>> {
        let Some(pidfd) = self.open()? else {
            return Ok(None);
        };
        match pidfd.send_signal(signal) {
            Ok(()) => Ok(Some(pidfd)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether this very process still runs. That it cannot be told is not that it has ended.
    pub fn is_alive(&self) -> io::Result<bool> {
        Ok(Self::of(self.pid)?.as_ref() == Some(self))
    }
}

/// Whether there is no process: /proc has no entry, or the process ended while that was read.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::ProcessIdentity;

    #[test]
    fn a_process_is_told_from_another_that_has_its_pid() {
        let here = ProcessIdentity::of(std::process::id()).unwrap();
        let here = here.expect("this process runs");
        assert!(here.is_alive().unwrap());
        let stranger = ProcessIdentity {
            start_time: here.start_time + 1,
            ..here
        };
        assert!(!stranger.is_alive().unwrap());
        assert!(stranger.signal(nix::libc::SIGKILL).unwrap().is_none());
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        let identity = identity.expect("it waits for its input");
        assert!(identity.is_alive().unwrap());
        drop(child.stdin.take());
        // Waits for the end without reaping, so that the zombie stays.
        let pid = rustix::process::Pid::from_child(&child);
        let options =
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();
        assert!(!identity.is_alive().unwrap());
        let ended = ProcessIdentity::of_child(child.id()).unwrap();
        assert_eq!(ended, Some(identity));
        child.wait().unwrap();
        assert_eq!(ProcessIdentity::of_child(child.id()).unwrap(), None);
    }
}
