//! Processes as /proc tells them.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use runvm_proto::ProcessEntry;
use rustix::time::{ClockId, clock_gettime};

/// The kernel's unit of time for its users on every architecture that this agent runs on (proc_pid_stat(5)).
const USER_HZ: u64 = 100;
/// `ESRCH`: what /proc answers about a process that ends while it is read.
const NO_SUCH_PROCESS: i32 = nix::libc::ESRCH;

/// Why processes could not be described.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessesError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot make sense of {}", .0.display())]
    Form(PathBuf),
}

/// Describes those of `pids` that still are.
pub(crate) fn describe(pids: &[u32]) -> Result<Vec<ProcessEntry>, ProcessesError> {
    let mut entries = Vec::new();
    for pid in pids {
        match entry(*pid) {
            Err(ProcessesError::Read { source, .. })
                if source.kind() == ErrorKind::NotFound
                    || source.raw_os_error() == Some(NO_SUCH_PROCESS) => {}
            result => entries.push(result?),
        }
    }
    Ok(entries)
}

fn entry(pid: u32) -> Result<ProcessEntry, ProcessesError> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let stat = Stat::read(&directory.join("stat"))?;
    let age_s = seconds(ClockId::Boottime).saturating_sub(stat.started_ticks / USER_HZ);
    Ok(ProcessEntry {
        pid,
        parent: stat.parent,
        uid: effective_uid(&directory.join("status"))?,
        started_s: seconds(ClockId::Realtime).saturating_sub(age_s),
        age_s,
        cpu_s: stat.cpu_ticks / USER_HZ,
        terminal: stat.terminal,
        command: command(&directory.join("cmdline"), &stat.name)?,
    })
}

/// What is used of /proc/PID/stat.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
    terminal: u32,
    cpu_ticks: u64,
    started_ticks: u64,
}

impl Stat {
    fn read(path: &Path) -> Result<Self, ProcessesError> {
        Self::parse(&read(path)?).ok_or_else(|| ProcessesError::Form(path.to_owned()))
    }

    fn parse(text: &str) -> Option<Self> {
        // The name is in brackets, and may hold some itself.
        let (before, after) = text.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        // The first of these is the manual's field 3.
        let fields: Vec<&str> = after.split_whitespace().collect();
        let field = |number: usize| fields.get(number.checked_sub(3)?);
        let count = |number| field(number)?.parse::<u64>().ok();
        Some(Self {
            name: name.to_owned(),
            parent: field(4)?.parse().ok()?,
            // Written as a signed number.
            terminal: field(7)?.parse::<i32>().ok()?.cast_unsigned(),
            cpu_ticks: count(14)?.saturating_add(count(15)?),
            started_ticks: count(22)?,
        })
    }
}

fn effective_uid(path: &Path) -> Result<u32, ProcessesError> {
    let text = read(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = line.and_then(|uids| uids.split_whitespace().nth(1));
    uid.and_then(|uid| uid.parse().ok())
        .ok_or_else(|| ProcessesError::Form(path.to_owned()))
}

fn command(path: &Path, name: &str) -> Result<String, ProcessesError> {
    let text = read(path)?;
    let arguments = text.trim_end_matches('\0');
    if arguments.is_empty() {
        return Ok(format!("[{name}]"));
    }
    Ok(arguments.replace('\0', " "))
}

fn read(path: &Path) -> Result<String, ProcessesError> {
    let bytes = fs::read(path).map_err(|source| ProcessesError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn seconds(clock: ClockId) -> u64 {
    u64::try_from(clock_gettime(clock).tv_sec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Stat, describe};

    #[test]
    fn this_process_is_described_and_one_that_is_not_is_left_out() {
        let own = std::process::id();
        let entries = describe(&[u32::MAX, own]).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].pid, own);
        assert_eq!(entries[0].parent, std::os::unix::process::parent_id());
        assert!(entries[0].command.contains("runvm_agent"), "{entries:?}");
        assert!(entries[0].age_s < 24 * 60 * 60, "{entries:?}");
    }

    #[test]
    fn a_name_may_hold_brackets_and_spaces() {
        let text = "7 (a) b (c) S 3 7 7 34817 7 4194560 1 2 3 4 150 50 0 0 20 0 1 0 900 1 2 3";
        let stat = Stat {
            name: "a) b (c".into(),
            parent: 3,
            terminal: 34817,
            cpu_ticks: 200,
            started_ticks: 900,
        };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse("7 (a) S 3"), None);
    }
}
