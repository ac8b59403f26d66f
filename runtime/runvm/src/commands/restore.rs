use std::path::Path;

use runvm_container::RestoreFrom;
use runvm_sandbox::lifecycle::Container;
use runvm_sandbox::phases::Waterfall;

use super::Session;
use super::checkpoint::{image_path, options};
use super::create::{console, new_container};
use super::run::{remove, stand_in, take_over};
use crate::cli::{NewContainer, Restore};

/// `runvm restore`: makes a container from the files of a checkpoint; the answer is its exit code,
/// or 0 when it is left to the caller.
pub(super) fn restore(session: &Session<'_>, args: &Restore) -> anyhow::Result<u8> {
    let bundle = args.bundle.as_deref().unwrap_or(Path::new("."));
    let signals = take_over(args.detach, args.no_subreaper)?;
    let asked = NewContainer {
        bundle: args.bundle.clone(),
        console_socket: args.console_socket.clone(),
        pid_file: args.pid_file.clone(),
        pidfd_socket: None,
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        preserve_fds: 0,
    };
    let from = RestoreFrom {
        image_path: image_path(&args.criu),
        work_path: args.criu.work_path.clone(),
        tcp_close: args.tcp_close,
        lsm_profile: args.lsm_profile.clone(),
        lsm_mount_context: args.lsm_mount_context.clone(),
        options: options(&args.criu),
    };
    let created = new_container(
        session,
        &args.id,
        bundle,
        &asked,
        Some(&from),
        console(&asked, args.detach),
        &mut Waterfall::begin(),
    )?;
    let Some(signals) = signals else { return Ok(0) };
    let container = Container::open(&session.store, &args.id)?;
    let code = stand_in(session, &container, created, &signals)?;
    remove(session, &args.id)?;
    Ok(code)
}
