use std::path::{Path, PathBuf};

use anyhow::Context;
use runvm_container::{RestoreFrom, Stdio};
use runvm_oci::Plan;
use runvm_sandbox::IsolationKind;
use runvm_sandbox::lifecycle::{self, Console, CreateRequest, Created};
use runvm_sandbox::phases::Waterfall;

use super::Session;
use crate::cli::{Create, NewContainer};
use crate::notify;

/// `runvm create`: makes a container and stops before its program.
pub(super) fn create(session: &Session<'_>, args: &Create) -> anyhow::Result<u8> {
    let bundle = args.container.bundle.as_deref().unwrap_or(Path::new("."));
    let console = console(&args.container, true);
    new_container(
        session,
        &args.id,
        bundle,
        &args.container,
        None,
        console,
        &mut Waterfall::begin(),
    )?;
    Ok(0)
}

/// Who gets the terminal of a new container.
pub(super) fn console(args: &NewContainer, detached: bool) -> Console<'_> {
    match &args.console_socket {
        Some(socket) => Console::Socket(socket),
        None if detached => Console::None,
        None => Console::Caller,
    }
}

/// Reads the bundle, chooses the isolation and makes the container, anew or from a checkpoint.
pub(super) fn new_container(
    session: &Session<'_>,
    id: &str,
    bundle: &Path,
    args: &NewContainer,
    restore: Option<&RestoreFrom>,
    console: Console<'_>,
    waterfall: &mut Waterfall,
) -> anyhow::Result<Created> {
    let bundle = absolute(bundle)?;
    let (mut plan, mut config) = Plan::read(&bundle)?;
    if session.preserved.is_activated() {
        config = session.preserved.tell_program(&config)?;
        plan = Plan::parse(&config, &bundle)?;
    }
    for warning in &plan.warnings {
        session.logger.warn(warning);
    }
    let settings = session.settings()?;
    let isolation = session.isolation(&plan, &settings)?;
    let notifies = notify::supervisor().is_some() && isolation == IsolationKind::Container;
    if notifies {
        let state = std::path::absolute(session.store.root())?.join(id);
        config = notify::tell_program(&config, &lifecycle::notify_directory(&state))?;
        plan = Plan::parse(&config, &bundle)?;
    } else if notify::supervisor().is_some() {
        session.logger.warn(
            "NOTIFY_SOCKET is not passed on in vm isolation: a socket of the host is out of the \
             guest's reach",
        );
    }
    waterfall.end("read");
    let pid_file = args
        .pid_file
        .as_deref()
        .map(std::path::absolute)
        .transpose()?;
    let request = CreateRequest {
        id,
        bundle: &bundle,
        plan: &plan,
        config: &config,
        isolation,
        settings: &settings,
        stdio: Stdio::inherit().context("cannot take over standard input, output and error")?,
        console,
        pid_file: pid_file.as_deref(),
        pidfd_socket: args.pidfd_socket.as_deref(),
        preserve_fds: session.preserved.count,
        notifies,
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        cgroup_driver: session.cgroup_driver(),
        rootless: session.rootless(),
        restore,
    };
    let created = lifecycle::create(&session.store, request, waterfall)?;
    for warning in &created.warnings {
        session.logger.warn(warning);
    }
    session.logger.debug(|| {
        let spans = serde_json::to_string(waterfall.spans()).unwrap_or_default();
        format!(
            "container {id:?} created in {isolation} isolation, pid {}: {spans}",
            created.pid
        )
    });
    Ok(created)
}

fn absolute(bundle: &Path) -> anyhow::Result<PathBuf> {
    std::fs::canonicalize(bundle)
        .with_context(|| format!("cannot use the bundle {}", bundle.display()))
}
