//! [`dump`]: a running container into images.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use runvm_oci::Plan;

use super::criu::{Criu, CriuError, CriuVersion, Notice, Setting};
use super::external::{self, ExternalError};
use super::images::{Images, ImagesError};
use super::rpc::{self, Features, Kind, Request};
use super::{CriuOptions, complete};
use crate::cgroup::Cgroup;

/// What to dump.
pub struct DumpRequest<'a> {
    /// The configuration the container was made from.
    pub plan: &'a Plan,
    /// Its first process.
    pub pid: u32,
    /// Its cgroup.
    pub cgroup: Option<&'a Cgroup>,
    /// What its standard streams were when it was made, as /proc/PID/fd has them.
    pub stream_names: &'a [String],
    /// Where to, and how.
    pub into: &'a DumpInto,
    /// Gets one zero byte when memory can be fetched (with `lazy_pages`).
    pub status: Option<OwnedFd>,
}

/// What to dump a container into, and how.
#[derive(Debug, Clone, Default)]
pub struct DumpInto {
    /// The directory of the images.
    pub image_path: PathBuf,
    /// The directory of the log; `None` is that of the images.
    pub work_path: Option<PathBuf>,
    /// The images of an earlier pre-dump, relative to `image_path`.
    pub parent_path: Option<PathBuf>,
    /// Whether the container goes on.
    pub leave_running: bool,
    /// Write its memory alone, and let it go on: the next dump has less to do.
    pub pre_dump: bool,
    /// Leave out connections that are still being made.
    pub tcp_skip_in_flight: bool,
    /// Where the memory is sent instead of being written.
    pub page_server: Option<PageServer>,
    /// The rest.
    pub options: CriuOptions,
}

/// A `criu page-server`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageServer {
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: u16,
}

/// Why there is no dump. The container goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The directories.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// What is the host's.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// CRIU.
    #[error(transparent)]
    Criu(#[from] CriuError),
    /// The caller's descriptor.
    #[error("cannot say at --status-fd that memory can be fetched")]
    Status(#[source] io::Error),
}

/// Dumps a container. Its processes have ended then, unless they are left running.
pub fn dump(request: DumpRequest<'_>) -> Result<(), DumpError> {
    let into = request.into;
    let images = Images::to_write(&into.image_path, into.work_path.as_deref())?;
    if let Some(parent) = &into.parent_path {
        images.check_parent(parent)?;
    }
    let mut options = options(&request)?;
    if !into.pre_dump {
        external::name_mounts(request.plan, request.pid, request.cgroup, &mut options)?;
        images.write_descriptors(request.stream_names)?;
    }
    let (mut criu, version) = Criu::start(Setting {
        directories: images.paths(),
        ..Setting::default()
    })?;
    images.set_in(&mut options, &criu);
    check_features(into, &mut criu, version)?;
    let kind = if into.pre_dump {
        Kind::PreDump
    } else {
        Kind::Dump
    };
    let ask = Request {
        kind: kind.into(),
        options: Some(options),
        ..Request::default()
    };
    let failed = || CriuError::Failed {
        what: "dump the container",
        said: images.last_errors(),
    };
    let mut status = request.status;
    let answer = criu.call(&ask, |notice| tell_status(&notice, &mut status))?;
    if !answer.success {
        return Err(failed().into());
    }
    // After a pre-dump it waits for the next, and takes none for a failure.
    if !criu.end()? && !into.pre_dump {
        return Err(failed().into());
    }
    Ok(())
}

fn options(request: &DumpRequest<'_>) -> Result<rpc::Options, ExternalError> {
    let into = request.into;
    let mut options = rpc::Options::default();
    let annotations = &request.plan.annotations;
    complete(&mut options, &into.options, annotations, request.cgroup);
    options.pid = i32::try_from(request.pid).ok();
    options.leave_running = into.leave_running;
    options.tcp_skip_in_flight = into.tcp_skip_in_flight;
    let freezer = request.cgroup.and_then(Cgroup::freezer_path);
    options.freeze_cgroup = freezer.map(|path| path.to_string_lossy().into_owned());
    if let Some(server) = &into.page_server {
        options.page_server = Some(rpc::PageServer {
            address: Some(server.address.clone()),
            port: Some(server.port.into()),
        });
    }
    if let Some(parent) = &into.parent_path {
        options.parent_img = Some(parent.to_string_lossy().into_owned());
    }
    // The next dump asks what has been written to since.
    options.track_mem = into.pre_dump || into.parent_path.is_some();
    external::name_namespaces(request.plan, request.pid, &mut options)?;
    Ok(options)
}

/// Asks first for what not every kernel can: else the failure comes late and has no words.
fn check_features(into: &DumpInto, criu: &mut Criu, version: CriuVersion) -> Result<(), CriuError> {
    let wanted = Features {
        mem_track: into.pre_dump.then_some(true),
        lazy_pages: into.options.lazy_pages.then_some(true),
    };
    if wanted == Features::default() {
        return Ok(());
    }
    let ask = Request {
        kind: Kind::FeatureCheck.into(),
        keep_open: true,
        features: Some(wanted),
        ..Request::default()
    };
    let found = criu.call(&ask, |_| Ok::<(), CriuError>(()))?;
    let found = found.features.unwrap_or_default();
    let lacks = |wanted: Option<bool>, found: Option<bool>| wanted.is_some() && found != Some(true);
    if lacks(wanted.mem_track, found.mem_track) {
        return Err(CriuError::Feature {
            version,
            flag: "--pre-dump",
        });
    }
    if lacks(wanted.lazy_pages, found.lazy_pages) {
        return Err(CriuError::Feature {
            version,
            flag: "--lazy-pages",
        });
    }
    Ok(())
}

fn tell_status(notice: &Notice, status: &mut Option<OwnedFd>) -> Result<(), DumpError> {
    if notice.script == "status-ready"
        && let Some(status) = status.take()
    {
        std::fs::File::from(status)
            .write_all(&[0])
            .map_err(DumpError::Status)?;
    }
    Ok(())
}
