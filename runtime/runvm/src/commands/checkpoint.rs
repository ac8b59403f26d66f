use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::{Context, bail};
use runvm_container::{CgroupsMode, CriuOptions, DumpInto};
use runvm_sandbox::lifecycle;
use rustix::fs::{OFlags, fcntl_getfl};

use super::Session;
use crate::cli::{Checkpoint, Criu, ManageCgroupsMode};

/// `runvm checkpoint`: writes a running container to files.
pub(super) fn checkpoint(session: &Session<'_>, args: &Checkpoint) -> anyhow::Result<u8> {
    let status = args.status_fd.map(take_status).transpose()?;
    let into = DumpInto {
        image_path: image_path(&args.criu),
        work_path: args.criu.work_path.clone(),
        parent_path: args.parent_path.clone(),
        leave_running: args.leave_running,
        pre_dump: args.pre_dump,
        tcp_skip_in_flight: args.tcp_skip_in_flight,
        page_server: args.page_server.clone(),
        options: options(&args.criu),
    };
    for warning in lifecycle::checkpoint(&session.store, &args.id, &into, status)? {
        session.logger.warn(&warning);
    }
    Ok(0)
}

fn take_status(number: i32) -> anyhow::Result<OwnedFd> {
    let wrong = || format!("--status-fd: cannot use descriptor {number}");
    let status = runvm_sys::inherited::take(number).with_context(wrong)?;
    let flags = fcntl_getfl(&status).with_context(wrong)?;
    if !flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
        bail!("--status-fd: descriptor {number} cannot be written to");
    }
    Ok(status)
}

/// The directory of the files.
pub(super) fn image_path(args: &Criu) -> PathBuf {
    let path = args.image_path.clone();
    path.unwrap_or_else(|| "checkpoint".into())
}

/// What CRIU is asked for at a checkpoint and at a restore.
pub(super) fn options(args: &Criu) -> CriuOptions {
    CriuOptions {
        tcp_established: args.tcp_established,
        ext_unix_sk: args.ext_unix_sk,
        shell_job: args.shell_job,
        file_locks: args.file_locks,
        link_remap: args.link_remap,
        auto_dedup: args.auto_dedup,
        lazy_pages: args.lazy_pages,
        cgroups_mode: args.manage_cgroups_mode.map(|mode| match mode {
            ManageCgroupsMode::Ignore => CgroupsMode::Ignore,
            ManageCgroupsMode::Soft => CgroupsMode::Soft,
            ManageCgroupsMode::Full => CgroupsMode::Full,
            ManageCgroupsMode::Strict => CgroupsMode::Strict,
        }),
    }
}
