//! The server's share of the process's descriptors, so that a guest cannot use them up.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Enough for any one server; beyond it a hard limit of "unlimited" means nothing.
const MOST: u64 = 1 << 20;

/// How many descriptors the guest may still make the server hold (CVE-2020-10717).
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicUsize,
}

/// A descriptor held on the guest's account.
#[derive(Debug)]
pub(super) struct Counted {
    fd: OwnedFd,
    budget: Arc<Budget>,
}

impl Budget {
    /// Three quarters of what the process may have; the rest is for the VMM and for descriptors
    /// that live no longer than a request. Raises the soft limit to the hard one.
    pub(super) fn of_process() -> Arc<Self> {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        let most = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit.maximum,
            Err(_) => limit.current,
        };
        let most = most.unwrap_or(MOST).min(MOST);
        Self::new(usize::try_from(most / 4 * 3).unwrap_or(usize::MAX))
    }

    pub(super) fn new(left: usize) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(left),
        })
    }

    /// Counts `fd` in, or closes it and answers `ENFILE`.
    pub(super) fn count(self: &Arc<Self>, fd: OwnedFd) -> Result<Counted, Errno> {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .map_err(|_| Errno::NFILE)?;
        Ok(Counted {
            fd,
            budget: Arc::clone(self),
        })
    }
}

impl AsFd for Counted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.budget.left.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn descriptors_are_refused_beyond_the_budget_and_counted_back_when_closed() {
        let budget = Budget::new(1);
        let open = || OwnedFd::from(File::open("/").unwrap());
        let held = budget.count(open()).unwrap();
        assert_eq!(budget.count(open()).unwrap_err(), Errno::NFILE);
        drop(held);
        budget.count(open()).unwrap();
    }
}
