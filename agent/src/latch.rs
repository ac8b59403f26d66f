//! Something that happens once, and that can be waited for beside other things.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::pipe::{PipeFlags, pipe_with};

/// A descriptor that polls as hung up once it has happened.
pub(crate) struct Latch {
    happened: OwnedFd,
    not_yet: Mutex<Option<OwnedFd>>,
}

impl Latch {
    pub(crate) fn new() -> io::Result<Self> {
        let (happened, not_yet) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self {
            happened,
            not_yet: Mutex::new(Some(not_yet)),
        })
    }

    /// It happens. A second time changes nothing.
    pub(crate) fn happen(&self) {
        self.not_yet
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

impl AsFd for Latch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.happened.as_fd()
    }
}
