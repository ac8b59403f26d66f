//! Telling the host each time a container runs out of memory.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use runvm_container::cgroup::{OomNews, OomWatch};
use runvm_proto::{Answer, FrameError, frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use crate::latch::Latch;

/// How long the host may take to hear the last news.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a watch broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error("cannot watch the memory of a container")]
    Watch(#[from] io::Error),
    #[error("cannot tell that a container has run out of memory")]
    Tell(#[from] FrameError),
}

/// The watches of this guest. A container that runs out of memory often ends, and the guest with
/// it: the end of the guest waits until each watch has told of that.
pub(crate) struct Watches {
    ending: Latch,
    /// Held for reading by each watch.
    watched: RwLock<()>,
}

impl Watches {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            ending: Latch::new()?,
            watched: RwLock::new(()),
        })
    }

    /// Tells `connection` each time, until nobody listens there, the container is gone, or the guest
    /// ends.
    pub(crate) fn tell(&self, mut watch: OomWatch, connection: &File) -> Result<(), WatchError> {
        let _watched = self.watched.read().unwrap_or_else(PoisonError::into_inner);
        loop {
            let came = wait(&mut [
                PollFd::new(&watch, watch.interest()),
                PollFd::new(connection, PollFlags::RDHUP),
                PollFd::new(&self.ending, PollFlags::IN),
            ])?;
            match watch.news()? {
                OomNews::Nothing => {}
                OomNews::Oom => frame::write(&mut &*connection, &Answer::Oom, b"")?,
                OomNews::Gone => break,
            }
            if came[1] || came[2] {
                break;
            }
        }
        await_hearing(connection);
        Ok(())
    }

    /// Ends them all, when they have told what there was to tell.
    pub(crate) fn end(&self) {
        self.ending.happen();
        drop(self.watched.write());
    }
}

/// Waits for one of three; says which came.
fn wait(fds: &mut [PollFd<'_>; 3]) -> io::Result<[bool; 3]> {
    match poll(fds, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok([0, 1, 2].map(|index: usize| !fds[index].revents().is_empty()))
}

/// Ends our side, and waits until the host has ended its own: it has heard all then.
fn await_hearing(connection: impl AsFd) {
    // Fails where the host has gone.
    let _ = shutdown(&connection, Shutdown::Write);
    if let Ok(patience) = Timespec::try_from(PATIENCE) {
        let mut fds = [PollFd::new(&connection, PollFlags::RDHUP)];
        while let Err(Errno::INTR) = poll(&mut fds, Some(&patience)) {}
    }
}
