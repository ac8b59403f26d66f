//! [`restore`]: a running container from images.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use runvm_oci::Plan;
use runvm_sys::PidFd;

use super::criu::{Criu, CriuError, Notice, Setting};
use super::external::{self, ExternalError};
use super::images::{Images, ImagesError};
use super::rpc::{CgroupRoot, InheritFd, Kind, Options, Request};
use super::{CriuOptions, complete};
use crate::cgroup::Cgroup;
use crate::control::{RestoreOrder, Stamps};
use crate::init::monotonic_ns;
use crate::spawn::{Inherited, Stdio};
use crate::{Created, HookError, create};

/// What to restore a container from.
#[derive(Debug, Clone, Default)]
pub struct RestoreFrom {
    /// The directory of the images.
    pub image_path: PathBuf,
    /// The directory of the log; `None` is that of the images.
    pub work_path: Option<PathBuf>,
    /// Let TCP connections be as if they had been closed.
    pub tcp_close: bool,
    /// The AppArmor profile or SELinux label, in place of the one there was.
    pub lsm_profile: Option<String>,
    /// The SELinux context of mounts, in place of the one there was.
    pub lsm_mount_context: Option<String>,
    /// The rest.
    pub options: CriuOptions,
}

/// What to restore a container into.
pub struct RestoreRequest<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The checked configuration.
    pub plan: &'a Plan,
    /// The bytes `plan` was read from.
    pub config: &'a [u8],
    /// The bundle's directory, absolute.
    pub bundle: &'a Path,
    /// The container's state directory.
    pub state_path: &'a Path,
    /// The container's cgroup, made and limited.
    pub cgroup: Option<&'a Cgroup>,
    /// In place of the pipes that were its standard streams; `None` with a terminal.
    pub stdio: Option<Stdio>,
    /// The images.
    pub from: &'a RestoreFrom,
}

/// Why there is no container. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The directories.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// What is the host's.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// CRIU.
    #[error(transparent)]
    Criu(#[from] CriuError),
    /// A hook of the runtime's namespaces.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The directory that its root is mounted at.
    #[error("cannot {what} {}", path.display())]
    Root {
        /// What was tried.
        what: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The process that CRIU made.
    #[error("cannot take over the restored process {pid}")]
    Process {
        /// Its pid.
        pid: i32,
        /// Why not.
        source: io::Error,
    },
}

/// Restores a container: its processes go on where they were. The first is a child of the caller.
pub fn restore(request: RestoreRequest<'_>) -> Result<Created, RestoreError> {
    let spawned_ns = monotonic_ns();
    let from = request.from;
    let images = Images::to_read(&from.image_path, from.work_path.as_deref())?;
    let root = MountPlace::make(request.state_path.join("criu-root"))?;
    let mut inherited = Inherited::default();
    let mut options = options(&request, &images, &root.0, &mut inherited)?;
    let nothing;
    let stdio = match &request.stdio {
        Some(stdio) => stdio,
        None => {
            nothing = null_streams().map_err(CriuError::Prepare)?;
            &nothing
        }
    };
    let order = RestoreOrder {
        bundle: request.bundle.into(),
        root: root.0.clone(),
        mount_points: images.mount_points()?,
    };
    let (mut criu, _) = Criu::start(Setting {
        cgroup: request.cgroup,
        stdio: Some(stdio),
        inherited,
        directories: images.paths(),
        restore: Some((order, request.config)),
    })?;
    images.set_in(&mut options, &criu);
    let entered_ns = monotonic_ns();
    let ask = Request {
        kind: Kind::Restore.into(),
        options: Some(options),
        ..Request::default()
    };
    let mut terminal = None;
    let answer = criu.call(&ask, |notice| see_to(&request, notice, &mut terminal))?;
    let restored = answer.restored.filter(|_| answer.success);
    let restored = restored.ok_or_else(|| CriuError::Failed {
        what: "restore the container",
        said: images.last_errors(),
    })?;
    criu.end()?;
    let failed = |source| RestoreError::Process {
        pid: restored.pid,
        source,
    };
    let pid = u32::try_from(restored.pid).map_err(|_| failed(io::ErrorKind::InvalidData.into()))?;
    Ok(Created {
        pid,
        pidfd: PidFd::open(pid).map_err(failed)?,
        terminal,
        stamps: Stamps {
            spawned_ns,
            entered_ns,
            ready_ns: monotonic_ns(),
        },
        warnings: Vec::new(),
    })
}

fn options(
    request: &RestoreRequest<'_>,
    images: &Images,
    root: &Path,
    inherited: &mut Inherited,
) -> Result<Options, RestoreError> {
    let (plan, from) = (request.plan, request.from);
    let mut options = Options::default();
    complete(
        &mut options,
        &from.options,
        &plan.annotations,
        request.cgroup,
    );
    options.root = Some(root.to_string_lossy().into_owned());
    // The first process is to be a child of this one, as that of any container is.
    options.rst_sibling = true;
    options.evasive_devices = true;
    options.tcp_close = from.tcp_close;
    options.lsm_profile.clone_from(&from.lsm_profile);
    options
        .lsm_mount_context
        .clone_from(&from.lsm_mount_context);
    for told in request.cgroup.into_iter().flat_map(Cgroup::told) {
        let of = |controller| CgroupRoot {
            controller: Some(controller),
            path: told.path.clone(),
        };
        options.cg_root.extend(told.controllers.into_iter().map(of));
    }
    external::bring_mounts(plan, request.cgroup, &mut options);
    external::bring_namespaces(plan, inherited, &mut options)?;
    if request.stdio.is_some() {
        // Pipes alone: whatever else they were is in the images.
        for (fd, key) in (0..).zip(images.read_descriptors()?) {
            if key.starts_with("pipe:[") {
                options.inherit_fd.push(InheritFd { key, fd });
            }
        }
    }
    Ok(options)
}

/// What has to be done while CRIU waits.
fn see_to(
    request: &RestoreRequest<'_>,
    notice: Notice,
    terminal: &mut Option<OwnedFd>,
) -> Result<(), RestoreError> {
    match (notice.script.as_str(), notice.pid) {
        ("setup-namespaces", Some(pid)) => {
            let state = create::state(request.id, request.plan, request.bundle, pid);
            // One that has gone has failed the restore anyway.
            let process = PidFd::open(pid).ok();
            create::run_runtime_hooks(&request.plan.hooks, &state, process.as_ref())?;
        }
        ("orphan-pts-master", _) => *terminal = notice.fds.into_iter().next(),
        _ => {}
    }
    Ok(())
}

fn null_streams() -> io::Result<Stdio> {
    let open = || File::options().read(true).write(true).open("/dev/null");
    Ok(Stdio {
        stdin: open()?.into(),
        stdout: open()?.into(),
        stderr: open()?.into(),
    })
}

/// A directory to mount the container's root at while it is restored.
struct MountPlace(PathBuf);

impl MountPlace {
    fn make(path: PathBuf) -> Result<Self, RestoreError> {
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(RestoreError::Root {
                what: "make",
                path,
                source,
            }),
        }
    }
}

impl Drop for MountPlace {
    fn drop(&mut self) {
        // Mounts there are in the mount namespace of CRIU alone. What stays goes with the state.
        let _ = fs::remove_dir(&self.0);
    }
}
