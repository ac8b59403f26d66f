//! Being told when a container runs out of memory, whichever kernel it runs on.

use runvm_container::cgroup::{self, OomNews};
use rustix::event::PollFd;

use crate::BackendError;
use crate::microvm::GuestOomWatch;

/// Tells when a container runs out of memory. Wait for it by polling [`poll_fds`](Self::poll_fds).
pub struct OomWatch {
    /// On the host: the container, or the machine around it.
    cgroup: Option<cgroup::OomWatch>,
    /// In the guest.
    guest: Option<GuestOomWatch>,
}

impl OomWatch {
    pub(crate) fn of_cgroup(cgroup: cgroup::OomWatch) -> Self {
        Self {
            cgroup: Some(cgroup),
            guest: None,
        }
    }

    pub(crate) fn of_machine(cgroup: Option<cgroup::OomWatch>, guest: GuestOomWatch) -> Self {
        Self {
            cgroup,
            guest: Some(guest),
        }
    }

    /// What to poll.
    pub fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let cgroup = self.cgroup.iter();
        cgroup
            .map(|watch| PollFd::new(watch, watch.interest()))
            .chain(self.guest.iter().map(GuestOomWatch::poll_fd))
    }

    /// What is new; does not wait.
    pub fn news(&mut self) -> Result<OomNews, BackendError> {
        let of_cgroup = self.cgroup.as_mut().map(cgroup::OomWatch::news);
        if let Some(news @ (OomNews::Oom | OomNews::Gone)) = of_cgroup.transpose()? {
            return Ok(news);
        }
        match &mut self.guest {
            Some(guest) => guest.news(),
            None => Ok(OomNews::Nothing),
        }
    }
}
