//! The one place where a device's worker waits.
//!
//! Everything is watched edge-triggered: an event says that something has changed, and what can
//! be read or written is remembered until the kernel says EAGAIN. So a host socket that has data
//! while the guest leaves its receive queue empty costs nothing, and neither does one that hung up.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use vmm_sys_util::epoll::{ControlOperation, Epoll as EpollFd, EpollEvent, EventSet};

/// How many events one wait takes in.
const EVENTS: usize = 64;

/// An epoll instance.
#[derive(Debug)]
pub(super) struct Epoll(EpollFd);

/// What has changed for the one that was watched under `token`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) token: u64,
    /// No more can be written, and reading comes to an end.
    pub(super) hung_up: bool,
}

impl Epoll {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(EpollFd::new()?))
    }

    /// Watches `source` until it is closed, for becoming readable.
    pub(super) fn watch(&self, source: &impl AsRawFd, token: u64) -> io::Result<()> {
        self.control(ControlOperation::Add, source, token, EventSet::IN)
    }

    /// Watches a socket until it is closed, for becoming readable or writable and for its end.
    pub(super) fn watch_socket(&self, socket: &impl AsRawFd, token: u64) -> io::Result<()> {
        self.control(ControlOperation::Add, socket, token, SOCKET_CHANGES)
    }

    /// Gives a watched socket another token, and tells its state anew.
    pub(super) fn rename_socket(&self, socket: &impl AsRawFd, token: u64) -> io::Result<()> {
        self.control(ControlOperation::Modify, socket, token, SOCKET_CHANGES)
    }

    fn control(
        &self,
        operation: ControlOperation,
        source: &impl AsRawFd,
        token: u64,
        changes: EventSet,
    ) -> io::Result<()> {
        let event = EpollEvent::new(changes | EventSet::EDGE_TRIGGERED, token);
        self.0.ctl(operation, source.as_raw_fd(), event)
    }

    /// Waits for changes, at most for `timeout`.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Change>> {
        let mut events = [EpollEvent::default(); EVENTS];
        let count = match self.0.wait(timeout.map_or(-1, milliseconds), &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        let changes = events[..count].iter().map(|event| Change {
            token: event.data(),
            hung_up: event
                .event_set()
                .intersects(EventSet::HANG_UP | EventSet::ERROR),
        });
        Ok(changes.collect())
    }
}

const SOCKET_CHANGES: EventSet = EventSet::IN
    .union(EventSet::OUT)
    .union(EventSet::READ_HANG_UP);

/// A timeout as epoll_wait(2) takes it, rounded up: a wait must not end just too early.
fn milliseconds(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}
