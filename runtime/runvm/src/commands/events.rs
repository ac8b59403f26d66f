//! `runvm events`: what a container uses, and when it runs out of memory, as lines of JSON.

mod document;

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use runvm_container::cgroup::OomNews;
use runvm_sandbox::OomWatch;
use runvm_sandbox::lifecycle::Container;
use runvm_sys::PidFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::document::Event;
use super::Session;
use crate::cli::Events;

/// Prints events until the container has stopped, or its figures once.
pub(super) fn events(session: &Session<'_>, args: &Events) -> anyhow::Result<u8> {
    let container = Container::open(&session.store, &args.id)?;
    if args.stats {
        print_stats(&container, &args.id)?;
        return Ok(0);
    }
    let process = container.watch_process()?;
    let mut oom = container.watch_oom()?;
    let mut next = Instant::now() + args.interval;
    loop {
        let has_ended = wait(&process, &oom, next)?;
        match oom
            .news()
            .map_err(anyhow::Error::from_boxed)
            .context("cannot watch the memory")?
        {
            OomNews::Oom => print(&Event::oom(&args.id))?,
            OomNews::Gone => break,
            OomNews::Nothing => {}
        }
        if has_ended {
            break;
        }
        if Instant::now() >= next {
            // Figures that cannot be read now may be there next time.
            if let Err(error) = print_stats(&container, &args.id) {
                if is_broken_pipe(&error) {
                    return Err(error);
                }
                session.logger.warn(&crate::logger::one_line(&error));
            }
            next += args.interval;
        }
    }
    Ok(0)
}

/// Waits for news, the container's end or the time `until`; whether it was the end.
fn wait(process: &PidFd, oom: &OomWatch, until: Instant) -> anyhow::Result<bool> {
    let mut set = vec![PollFd::new(process, PollFlags::IN)];
    set.extend(oom.poll_fds());
    let left = until.saturating_duration_since(Instant::now());
    // A time that does not fit is longer than any container runs.
    let timeout = Timespec::try_from(left.min(Duration::from_secs(1 << 31)))?;
    rustix::io::retry_on_intr(|| poll(&mut set, Some(&timeout)))?;
    Ok(!set[0].revents().is_empty())
}

fn print_stats(container: &Container, id: &str) -> anyhow::Result<()> {
    print(&Event::stats(id, container.usage()?))
}

fn print(event: &Event<'_>) -> anyhow::Result<()> {
    let line = serde_json::to_string(event)? + "\n";
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())?;
    Ok(out.flush()?)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
