//! Removing a container's directory from a hierarchy, with all below it.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::place::Place;
use super::processes::{self, children, is_gone};
use super::{CgroupError, file};

/// How long processes that have been killed may take to be gone.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Removes a place, once its processes have ended, and what was made above it, if empty.
///
/// That it is gone already is no error. Processes are waited for, not killed.
pub(super) fn remove(place: &Place) -> Result<(), CgroupError> {
    let deadline = Instant::now() + TIMEOUT;
    let (root, path) = place.location();
    let mut pause = Duration::from_micros(100);
    loop {
        match remove_tree(&root, path) {
            Ok(()) => break,
            Err(Errno::BUSY) if Instant::now() < deadline => {
                let pids = processes::pids(place).unwrap_or_default();
                processes::wait_for_an_end(&pids, pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(errno) => {
                return Err(CgroupError::Remove {
                    path: place.full_path(),
                    source: errno.into(),
                });
            }
        }
    }
    for parent in place.made_parents() {
        // Others may have moved in, then it stays.
        if rustix::fs::unlinkat(root, parent, AtFlags::REMOVEDIR).is_err() {
            break;
        }
    }
    Ok(())
}

/// Removes a directory and all below it, the innermost first.
fn remove_tree(parent: &impl AsFd, path: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Also the answer for one that has cgroups below it.
        Err(Errno::BUSY) => {}
        Err(errno) => return Err(errno),
    }
    let directory = match file::open_directory(parent.as_fd(), path) {
        Ok(directory) => directory,
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(errno_of(&error)),
    };
    let names = children(&directory).map_err(|error| errno_of(&error))?;
    if names.is_empty() {
        return Err(Errno::BUSY);
    }
    for name in names {
        remove_tree(&directory, &name)?;
    }
    match rustix::fs::unlinkat(parent, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
