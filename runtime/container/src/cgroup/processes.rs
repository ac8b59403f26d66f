//! The processes of a cgroup: found, frozen, killed, waited for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use runvm_sys::PidFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Dir, FileType, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::file;
use super::hierarchy::Version;
use super::place::Place;
use super::settings::is_errno;
use crate::spawn::SIGKILL;

/// How long freezing may take. A process deep in the kernel delays it.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);

/// The pids of a cgroup and those below, as this process sees them; 0 is one that it cannot see.
pub(super) fn pids(place: &Place) -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    match place.directory() {
        Ok(directory) => collect(&directory, &mut pids)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn collect(directory: &impl AsFd, pids: &mut Vec<u32>) -> io::Result<()> {
    match file::read(directory.as_fd(), "cgroup.procs") {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
        // Removed meanwhile; or threaded, and its processes are listed by the domain above.
        Err(error) if is_gone(&error) || is_errno(&error, Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    for name in children(directory)? {
        match file::open_directory(directory.as_fd(), &name) {
            Ok(child) => collect(&child, pids)?,
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The names of the cgroups below one.
pub(super) fn children(directory: &impl AsFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = match Dir::read_from(directory) {
        Ok(entries) => entries,
        Err(Errno::NOENT | Errno::NODEV) => return Ok(names),
        Err(errno) => return Err(errno.into()),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(Errno::NOENT | Errno::NODEV) => break,
            Err(errno) => return Err(errno.into()),
        };
        if entry.file_type() != FileType::Directory {
            continue;
        }
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

/// Whether a cgroup has been removed: its held directory then answers with ENODEV.
pub(super) fn is_gone(error: &io::Error) -> bool {
    is_errno(error, Errno::NOENT) || is_errno(error, Errno::NODEV)
}

/// Freezes or thaws, and waits until it is so.
pub(super) fn set_frozen(place: &Place, frozen: bool) -> io::Result<()> {
    match place.version {
        Version::V1 => set_frozen_v1(place, frozen),
        Version::V2 => set_frozen_v2(place, frozen),
    }
}

pub(super) fn is_frozen(place: &Place) -> io::Result<bool> {
    match place.version {
        // A freeze that another process has asked for counts, though it is not yet complete.
        Version::V1 => Ok(place.read("freezer.state")?.trim() != "THAWED"),
        Version::V2 => Ok(place.read("cgroup.freeze")?.trim() == "1"),
    }
}

/// Whether a process that enters the cgroup is stopped there, also for the sake of a parent.
pub(super) fn would_freeze(place: &Place) -> io::Result<bool> {
    match place.version {
        Version::V1 => is_frozen(place),
        Version::V2 => Ok(place
            .read("cgroup.events")?
            .lines()
            .any(|line| line == "frozen 1")),
    }
}

/// The v1 freezer tells nobody when it is done, and a fork at the wrong moment stops it halfway
/// until it is asked again (freezer-subsystem.rst): so it is asked until it is done.
fn set_frozen_v1(place: &Place, frozen: bool) -> io::Result<()> {
    let state = if frozen { "FROZEN" } else { "THAWED" };
    let deadline = Instant::now() + FREEZE_TIMEOUT;
    let mut pause = Duration::from_micros(50);
    loop {
        place.write("freezer.state", state)?;
        if place.read("freezer.state")?.trim() == state {
            return Ok(());
        }
        if Instant::now() >= deadline {
            if frozen {
                place.write("freezer.state", "THAWED")?;
            }
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn set_frozen_v2(place: &Place, frozen: bool) -> io::Result<()> {
    place.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
    let line = if frozen { "frozen 1" } else { "frozen 0" };
    let done = wait_for_event(place, line, Instant::now() + FREEZE_TIMEOUT)?;
    if !done {
        if frozen {
            place.write("cgroup.freeze", "0")?;
        }
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(())
}

/// Waits until cgroup.events has a line; tells whether it came to that.
fn wait_for_event(place: &Place, line: &str, deadline: Instant) -> io::Result<bool> {
    let events = file::open(place.directory()?, "cgroup.events", OFlags::RDONLY)?;
    loop {
        if file::read_from_start(&events)?.lines().any(|l| l == line) {
            return Ok(true);
        }
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            return Ok(false);
        };
        // The kernel reports a change since the last read as an exceptional condition.
        wait(&events, PollFlags::PRI, left)?;
    }
}

fn wait(fd: &OwnedFd, events: PollFlags, at_most: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(at_most).map_err(|_| io::ErrorKind::InvalidInput)?;
    match poll(&mut [PollFd::new(fd, events)], Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Has the kernel kill all processes of a v2 cgroup at once (Linux 5.14); whether it could.
pub(super) fn kill_at_once(place: &Place) -> io::Result<bool> {
    match place.write("cgroup.kill", "1") {
        Ok(()) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sends a signal to a process of the cgroup; one that is gone meanwhile, or that this process cannot
/// see, is no error.
pub(super) fn signal(pid: u32, signal: i32) -> io::Result<()> {
    if pid == 0 {
        return Ok(());
    }
    match PidFd::open(pid).and_then(|pidfd| pidfd.send_signal(signal)) {
        Err(error) if is_errno(&error, Errno::SRCH) => Ok(()),
        sent => sent,
    }
}

/// Sends SIGKILL to each.
pub(super) fn kill_each(pids: &[u32]) -> io::Result<()> {
    pids.iter().try_for_each(|pid| signal(*pid, SIGKILL))
}

/// Waits until one of the processes has ended, or some time has passed.
pub(super) fn wait_for_an_end(pids: &[u32], at_most: Duration) {
    let first = pids
        .iter()
        .find_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?));
    let pidfd = first.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    match pidfd {
        Some(pidfd) => {
            let _ = wait(&pidfd, PollFlags::IN, at_most);
        }
        None => std::thread::sleep(at_most.min(Duration::from_millis(1))),
    }
}
