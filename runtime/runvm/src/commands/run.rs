use std::path::{Path, PathBuf};

use anyhow::Context;
use runvm_sandbox::lifecycle::{self, Container, Created};
use runvm_sandbox::phases::Waterfall;

use super::Session;
use super::create::{console, new_container};
use crate::cli::Run;
use crate::foreground::{ForwardedSignals, attend, copy_window_size};
use crate::notify;

/// `runvm run`: makes a container, runs its program, waits for it and deletes the container; the
/// answer is the program's exit code.
pub(super) fn run(session: &Session<'_>, args: &Run) -> anyhow::Result<u8> {
    let (id, bundle) = id_and_bundle(args);
    let signals = take_over(args.detach, args.no_subreaper)?;
    let console = console(&args.container, args.detach);
    let waterfall = &mut Waterfall::begin();
    let created = new_container(
        session,
        &id,
        &bundle,
        &args.container,
        None,
        console,
        waterfall,
    )?;

    let code = see_through(session, &id, created, signals).inspect_err(|_| {
        // The container is of no use and the caller does not know it: the first error is the one to tell.
        let _ = lifecycle::delete(&session.store, &id, true);
    })?;
    if !(args.detach || args.keep) {
        remove(session, &id)?;
    }
    Ok(code)
}

/// Makes this process ready to stand in for a container that it is about to make, unless that is
/// `detached`: from here on signals are meant for the container, also those that come while it
/// is made.
pub(super) fn take_over(
    detached: bool,
    no_subreaper: bool,
) -> anyhow::Result<Option<ForwardedSignals>> {
    if detached {
        return Ok(None);
    }
    if !no_subreaper {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context("cannot become the reaper of the container's orphans")?;
    }
    ForwardedSignals::take().map(Some)
}

/// Starts a container and, with the signals that are meant for it, waits for its end.
fn see_through(
    session: &Session<'_>,
    id: &str,
    created: Created,
    signals: Option<ForwardedSignals>,
) -> anyhow::Result<u8> {
    let container = Container::open(&session.store, id)?;
    if let Some(terminal) = &created.terminal {
        // Before the program asks for it.
        copy_window_size(terminal);
    }
    let stands_in = signals.is_some().then(std::process::id);
    notify::start(session, &container, stands_in)?;
    match signals {
        Some(signals) => stand_in(session, &container, created, &signals),
        None => Ok(0),
    }
}

/// Stands in for a running container until it ends; the answer is its exit code.
pub(super) fn stand_in(
    session: &Session<'_>,
    container: &Container,
    created: Created,
    signals: &ForwardedSignals,
) -> anyhow::Result<u8> {
    attend(&created.pidfd, created.terminal, signals, |signal| {
        if let Err(error) = container.kill(signal, false) {
            session
                .logger
                .debug(|| crate::logger::one_line(&error.into()));
        }
    })
}

/// Deletes a container that has been seen through.
pub(super) fn remove(session: &Session<'_>, id: &str) -> anyhow::Result<()> {
    for warning in lifecycle::delete(&session.store, id, true)? {
        session.logger.warn(&warning);
    }
    Ok(())
}

/// A word that cannot be an id is the bundle, and the container gets an id of its own.
fn id_and_bundle(args: &Run) -> (String, PathBuf) {
    let named = args.container.bundle.as_deref();
    let is_path = args.id.contains('/') || args.id == "." || args.id == "..";
    if named.is_none() && is_path {
        let unique = runvm_sandbox::phases::now_ns();
        return (
            format!("run-{}-{unique:x}", std::process::id()),
            PathBuf::from(&args.id),
        );
    }
    (args.id.clone(), named.unwrap_or(Path::new(".")).to_owned())
}
