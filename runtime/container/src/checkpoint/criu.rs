//! A CRIU at work: `criu swrk`, a process that takes requests on a socket (<https://criu.org/RPC>).

use std::env;
use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use prost::Message;
use runvm_sys::PidFd;
use runvm_sys::clone::{Spawn, SpawnError};
use rustix::fs::{Access, access};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

use super::rpc::{Kind, Request, Response};
use crate::ChildError;
use crate::cgroup::Cgroup;
use crate::control::{Control, CriuOrder, Order, RestoreOrder, Word};
use crate::spawn::{Inherited, Stdio, init_argv, sealed_self, way_into};

/// The first release that does all that is asked of it here: external pid namespaces, and the
/// notice that the pages can be fetched.
const OLDEST: CriuVersion = CriuVersion([3, 15, 0]);

/// The longest message that is taken, in bytes; CRIU's are some hundred.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// A release of CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CriuVersion([i32; 3]);

impl std::fmt::Display for CriuVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            [major, minor, 0] => write!(f, "{major}.{minor}"),
            [major, minor, sublevel] => write!(f, "{major}.{minor}.{sublevel}"),
        }
    }
}

/// Why CRIU does not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CriuError {
    /// It is not installed.
    #[error("criu is not installed: there is no such program in $PATH")]
    Missing,
    /// It is installed, and of no use.
    #[error("criu {found} is too old: {OLDEST} or later is needed")]
    TooOld {
        /// What is installed.
        found: CriuVersion,
    },
    /// The kernel is not one that it can work with.
    #[error("criu {version} cannot work on this kernel (`criu check` says why)")]
    Kernel {
        /// What is installed.
        version: CriuVersion,
    },
    /// Descriptors for it.
    #[error("cannot prepare the descriptors of criu")]
    Prepare(#[source] io::Error),
    /// No process.
    #[error("cannot make a process for criu")]
    Spawn(#[from] SpawnError),
    /// What has to be done before it is executed.
    #[error("cannot start criu")]
    Child(#[source] ChildError),
    /// The connection broke.
    #[error("cannot talk to criu")]
    Talk(#[source] io::Error),
    /// It said something else.
    #[error("criu sent no answer to what it was asked")]
    Answer,
    /// It ended without a word.
    #[error("criu ended without an answer")]
    Ended,
    /// It cannot do what the caller asks for.
    #[error("criu {version} has not what {flag} needs on this kernel")]
    Feature {
        /// What is installed.
        version: CriuVersion,
        /// The caller's flag.
        flag: &'static str,
    },
    /// It failed.
    #[error("criu cannot {what}{said}")]
    Failed {
        /// `dump the container` or the like.
        what: &'static str,
        /// The last errors of its log and the log's path, after a colon.
        said: String,
    },
}

/// Whether CRIU is installed, new enough, and can work with this kernel.
pub fn check_criu() -> Result<CriuVersion, CriuError> {
    let (mut criu, version) = Criu::start(Setting::default())?;
    let check = Request {
        kind: Kind::Check.into(),
        ..Request::default()
    };
    let answer = criu.call(&check, |_| Ok::<(), CriuError>(()))?;
    if answer.success {
        Ok(version)
    } else {
        Err(CriuError::Kernel { version })
    }
}

/// Whether a program of its name is installed.
pub fn criu_is_installed() -> bool {
    find().is_ok()
}

/// What it is started with.
#[derive(Default)]
pub(super) struct Setting<'a> {
    /// The cgroup it runs in, and what it restores.
    pub(super) cgroup: Option<&'a Cgroup>,
    /// Its standard streams; `None` keeps the caller's.
    pub(super) stdio: Option<&'a Stdio>,
    /// Descriptors it gets under the numbers they have here.
    pub(super) inherited: Inherited,
    /// What it is to open, in its own mount namespace.
    pub(super) directories: Vec<PathBuf>,
    /// For a restore: what to make ready, and config.json.
    pub(super) restore: Option<(RestoreOrder, &'a [u8])>,
}

/// What CRIU tells on its way.
pub(super) struct Notice {
    pub(super) script: String,
    /// The first process, once there is one.
    pub(super) pid: Option<u32>,
    /// What came along.
    pub(super) fds: Vec<OwnedFd>,
}

/// The process. When this is dropped it has given up what it did, and ended.
pub(super) struct Criu {
    socket: Option<OwnedFd>,
    /// The numbers it has the directories under that it was to open.
    pub(super) directories: Vec<i32>,
    process: Option<PidFd>,
}

impl Criu {
    /// Starts it and asks for its version.
    pub(super) fn start(setting: Setting<'_>) -> Result<(Self, CriuVersion), CriuError> {
        let mut criu = Self::spawn(setting)?;
        let ask = Request {
            kind: Kind::Version.into(),
            keep_open: true,
            ..Request::default()
        };
        let answer = criu.call(&ask, |_| Ok::<(), CriuError>(()))?;
        let version = answer.version.ok_or(CriuError::Answer)?;
        let found = CriuVersion([version.major, version.minor, version.sublevel.unwrap_or(0)]);
        if found < OLDEST {
            return Err(CriuError::TooOld { found });
        }
        Ok((criu, found))
    }

    fn spawn(setting: Setting<'_>) -> Result<Self, CriuError> {
        let program = find()?;
        let executable = sealed_self().map_err(CriuError::Prepare)?;
        let (mut control, theirs) = Control::pair().map_err(CriuError::Prepare)?;
        let entry = way_into(setting.cgroup).map_err(CriuError::Prepare)?;
        let mut inherited = setting.inherited;
        let mut add = |fd| inherited.add(fd).map_err(CriuError::Prepare);
        let number = add(theirs.into())?;
        let (restore, config) = setting.restore.unzip();
        let order = CriuOrder {
            program,
            tasks: entry.tasks.into_iter().map(add).collect::<Result<_, _>>()?,
            directories: setting.directories,
            restore,
        };
        // Mounts made for a restore are nobody else's.
        let new_namespaces = match order.restore {
            Some(_) => nix::libc::CLONE_NEWNS.cast_unsigned(),
            None => 0,
        };
        let spawned = Spawn {
            executable: executable.as_fd(),
            argv: &init_argv(number),
            envp: &environment(),
            stdio: setting.stdio.map(Stdio::borrow),
            inherit: &inherited.borrow(),
            preserve: 0,
            new_namespaces,
            pid_namespace: None,
            cgroup: entry.unified.as_ref().map(AsFd::as_fd),
            // It is to undo what it has done, not to be torn away from it.
            dies_with_parent: false,
            gateway: None,
            write_id_maps: None,
        }
        .spawn()?;
        drop(inherited);
        let mut criu = Self {
            socket: None,
            directories: Vec::new(),
            process: Some(spawned.pidfd),
        };
        control
            .send(&Order::Criu(order), config.unwrap_or_default(), &[])
            .map_err(CriuError::Talk)?;
        // The control socket closes when criu is executed.
        while let Some(frame) = control.receive::<Word>().map_err(CriuError::Talk)? {
            match frame.message {
                Word::Criu { directories } => {
                    criu.directories = directories;
                    criu.socket = frame.fds.into_iter().next();
                }
                Word::Failed(error) => return Err(CriuError::Child(error)),
                _ => return Err(CriuError::Answer),
            }
        }
        Ok(criu)
    }

    /// Sends a request and waits for the answer, `notified` of what comes before it.
    pub(super) fn call<E: From<CriuError>>(
        &mut self,
        request: &Request,
        mut notified: impl FnMut(Notice) -> Result<(), E>,
    ) -> Result<Response, E> {
        self.send(request)?;
        loop {
            let (response, fds) = self.receive()?;
            if response.kind() != Kind::Notify {
                // What it cannot even begin it answers as nothing.
                let is_answer = response.kind == request.kind || !response.success;
                return is_answer
                    .then_some(response)
                    .ok_or_else(|| CriuError::Answer.into());
            }
            if !response.success {
                return Ok(response);
            }
            let notify = response.notify.unwrap_or_default();
            notified(Notice {
                pid: notify.pid.and_then(|pid| u32::try_from(pid).ok()),
                script: notify.script.unwrap_or_default(),
                fds,
            })?;
            self.send(&Request {
                kind: Kind::Notify.into(),
                notify_success: true,
                ..Request::default()
            })?;
        }
    }

    /// Waits for its end; the answer is whether it was a good one.
    pub(super) fn end(mut self) -> Result<bool, CriuError> {
        self.socket = None;
        let process = self.process.take().ok_or(CriuError::Ended)?;
        let status = process.reap().map_err(CriuError::Talk)?;
        Ok(status.code() == 0)
    }

    fn send(&self, request: &Request) -> Result<(), CriuError> {
        let socket = self.socket.as_ref().ok_or(CriuError::Ended)?;
        let bytes = request.encode_to_vec();
        rustix::io::retry_on_intr(|| send(socket, &bytes, SendFlags::NOSIGNAL))
            .map(drop)
            .map_err(|errno| match errno {
                rustix::io::Errno::PIPE => CriuError::Ended,
                errno => CriuError::Talk(errno.into()),
            })
    }

    fn receive(&self) -> Result<(Response, Vec<OwnedFd>), CriuError> {
        let socket = self.socket.as_ref().ok_or(CriuError::Ended)?;
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::TRUNC;
        let message = rustix::io::retry_on_intr(|| {
            let mut room = [IoSliceMut::new(&mut bytes)];
            recvmsg(socket, &mut room, &mut ancillary, flags)
        })
        .map_err(|errno| CriuError::Talk(errno.into()))?;
        let fds = ancillary.drain().filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fds = fds.flatten().collect();
        match bytes.get(..message.bytes) {
            Some([]) => Err(CriuError::Ended),
            Some(bytes) => Response::decode(bytes)
                .map(|response| (response, fds))
                .map_err(|_| CriuError::Answer),
            None => Err(CriuError::Answer),
        }
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        // Without its client it takes back what it has begun: what it stopped goes on.
        self.socket = None;
        if let Some(process) = self.process.take() {
            let _ = process.reap();
        }
    }
}

/// Finds the program as a shell would.
fn find() -> Result<PathBuf, CriuError> {
    let search = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    env::split_paths(&search)
        .map(|dir| dir.join("criu"))
        .find(|path| is_program(path))
        .ok_or(CriuError::Missing)
}

/// Where programs are, for a caller that does not say: criu uses some of iptables, ip and tar.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn is_program(path: &Path) -> bool {
    path.is_absolute() && path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

/// The caller's environment, in which its criu has its own settings.
fn environment() -> Vec<CString> {
    let path = env::var_os("PATH")
        .is_none()
        .then(|| ("PATH".into(), DEFAULT_PATH.into()));
    env::vars_os()
        .chain(path)
        .filter_map(|(name, value)| {
            let pair = [name.into_vec(), value.into_vec()].join(&b'=');
            CString::new(pair).ok()
        })
        .collect()
}
