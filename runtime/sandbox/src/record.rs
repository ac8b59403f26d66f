//! What the store keeps of a sandbox, so that a later process finds it again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{fs, io};

use runvm_container::cgroup::{Cgroup, CgroupError, CgroupRecord};
use runvm_oci::{State, Status};
use runvm_sys::PidFd;
use serde::{Deserialize, Serialize};

use crate::IsolationKind;

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
    /// The process that stands for it; absent while it is being made.
    pub process: Option<ProcessIdentity>,
}

impl Record {
    /// The layout this code reads and writes.
    pub const VERSION: u32 = 1;

    /// The state document that says so.
    pub(crate) fn state(&self, status: Status, pid: u32) -> State {
        State {
            oci_version: self.oci_version.clone(),
            id: self.id.clone(),
            status,
            pid,
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }

    /// Its cgroup; `None` where none was made.
    pub(crate) fn cgroup(&self) -> Result<Option<Cgroup>, CgroupError> {
        self.cgroup.as_ref().map(Cgroup::open).transpose()
    }

    /// Whether its processes on the host are frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        matches!(self.cgroup(), Ok(Some(cgroup)) if cgroup.is_frozen().unwrap_or(false))
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
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command name may hold spaces and parentheses: fields are counted after the last one.
        let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
        let state = fields.next()?;
        if matches!(state, "Z" | "X" | "x") {
            return None;
        }
        let start_time = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, start_time })
    }

    /// A handle on this very process; `NotFound` when it has ended.
    pub fn open(&self) -> io::Result<PidFd> {
        let pidfd = PidFd::open(self.pid)?;
        // The pid cannot change hands while the handle is open, so looking now is late enough.
        if self.is_alive() {
            Ok(pidfd)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    /// Whether this very process still runs.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::ProcessIdentity;

    #[test]
    fn a_process_is_told_from_another_that_has_its_pid() {
        let here = ProcessIdentity::of(std::process::id()).expect("this process runs");
        assert!(here.is_alive());
        let stranger = ProcessIdentity {
            start_time: here.start_time + 1,
            ..here
        };
        assert!(!stranger.is_alive());
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let identity = ProcessIdentity::of(child.id()).expect("it waits for its input");
        assert!(identity.is_alive());
        drop(child.stdin.take());
        // Waits for the end without reaping, so that the zombie stays.
        let pid = rustix::process::Pid::from_child(&child);
        let options =
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();
        assert!(!identity.is_alive());
        child.wait().unwrap();
    }
}
