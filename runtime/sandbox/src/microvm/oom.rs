//! Being told when a container runs out of memory in its guest.

use runvm_container::cgroup::OomNews;
use runvm_proto::{Answer, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::guest::{Control, GuestError};
use crate::BackendError;

/// A conversation in which the agent tells each time.
pub(crate) struct GuestOomWatch {
    control: Control,
    /// Whether the agent has ended it.
    over: bool,
}

impl GuestOomWatch {
    /// Has the agent begin.
    pub(super) fn begin(mut control: Control, container: &str) -> Result<Self, GuestError> {
        let container = container.to_owned();
        control.demand(&Request::WatchOom { container }, b"")?;
        Ok(Self {
            control,
            over: false,
        })
    }

    pub(crate) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(&self.control, PollFlags::IN)
    }

    /// What the agent has said; does not wait for it to begin to speak.
    pub(crate) fn news(&mut self) -> Result<OomNews, BackendError> {
        if self.over {
            return Ok(OomNews::Gone);
        }
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if poll(&mut [self.poll_fd()], Some(&now))? == 0 {
            return Ok(OomNews::Nothing);
        }
        match self.control.hear()? {
            Some(Answer::Oom) => Ok(OomNews::Oom),
            Some(answer) => Err(GuestError::Unexpected(answer).into()),
            None => {
                self.over = true;
                Ok(OomNews::Gone)
            }
        }
    }
}
