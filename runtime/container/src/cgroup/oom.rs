//! Being told when a cgroup has run out of memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::hierarchy::Version;
use super::place::Place;
use super::processes::is_gone;
use super::{Cgroup, CgroupError, file};

/// Tells when the kernel has had to do something about a cgroup that is out of memory.
///
/// It is waited for by polling its descriptor for [`interest`](Self::interest).
#[derive(Debug)]
pub struct OomWatch(Source);

#[derive(Debug)]
enum Source {
    /// v1: an eventfd that the kernel counts up (memory.rst, "OOM Control").
    Counter { counter: OwnedFd, control: OwnedFd },
    /// v2: `memory.events`, whose change the kernel reports as an exceptional condition, and the
    /// processes killed as it last said.
    Events { events: OwnedFd, kills: u64 },
}

/// What a watch has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomNews {
    /// Nothing.
    Nothing,
    /// The cgroup has run out of memory.
    Oom,
    /// The cgroup is gone.
    Gone,
}

impl Cgroup {
    /// Begins to watch; what has happened before does not count.
    pub fn watch_oom(&self) -> Result<OomWatch, CgroupError> {
        let place = self.place_of("memory").or(self.unified());
        let place = place.ok_or_else(|| self.lacks("a watch for lack of memory", "memory"))?;
        let source = match place.version {
            Version::V1 => count(place),
            Version::V2 => follow(place),
        };
        source
            .map(OomWatch)
            .map_err(|source| CgroupError::WatchOom {
                path: place.full_path(),
                source,
            })
    }
}

fn count(place: &Place) -> io::Result<Source> {
    let directory = place.directory()?;
    let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let control = file::open(directory, "memory.oom_control", OFlags::RDONLY)?;
    let order = format!("{} {}", counter.as_raw_fd(), control.as_raw_fd());
    file::write(directory, "cgroup.event_control", &order)?;
    Ok(Source::Counter { counter, control })
}

fn follow(place: &Place) -> io::Result<Source> {
    let events = file::open(place.directory()?, "memory.events", OFlags::RDONLY)?;
    let kills = kills(&events)?;
    Ok(Source::Events { events, kills })
}

fn kills(events: &OwnedFd) -> io::Result<u64> {
    let text = file::read_from_start(events)?;
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    Ok(count.and_then(|count| count.parse().ok()).unwrap_or(0))
}

impl OomWatch {
    /// What to poll for.
    pub fn interest(&self) -> PollFlags {
        match self.0 {
            Source::Counter { .. } => PollFlags::IN,
            Source::Events { .. } => PollFlags::PRI,
        }
    }

    /// What is new; does not wait.
    pub fn news(&mut self) -> io::Result<OomNews> {
        let news = match &mut self.0 {
            // The kernel counts the eventfd up at the cgroup's removal, too; then nothing can be
            // read any more.
            Source::Counter { counter, control } => {
                take(counter).and_then(|told| file::read_from_start(control).map(|_| told))
            }
            Source::Events { events, kills: had } => {
                kills(events).map(|kills| std::mem::replace(had, kills) < kills)
            }
        };
        match news {
            Ok(true) => Ok(OomNews::Oom),
            Ok(false) => Ok(OomNews::Nothing),
            Err(error) if is_gone(&error) => Ok(OomNews::Gone),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Source::Counter { counter, .. } => counter.as_fd(),
            Source::Events { events, .. } => events.as_fd(),
        }
    }
}

/// Takes what an eventfd holds; whether that was anything.
fn take(counter: &OwnedFd) -> io::Result<bool> {
    match rustix::io::read(counter, &mut [0_u8; 8]) {
        Ok(_) => Ok(true),
        Err(Errno::AGAIN) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
