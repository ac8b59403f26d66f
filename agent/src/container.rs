//! The containers of this guest, and what can be done with them. The work is the `container` crate's,
//! the same as on a host.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use runvm_container::cgroup::{Cgroup, CgroupError, OomWatch, SubCgroup, SubCgroupError};
use runvm_container::network::{Bridged, NetworkError};
use runvm_container::{
    CreateError, CreateRequest, Created, ExecError, ExecRequest, Executed, StartError,
};
use runvm_oci::{ConfigError, LinuxResources, Plan, State, Status};
use runvm_proto::{Process, ProcessEntry, Remote, Stream};
use runvm_sys::PidFd;
use rustix::fs::{Mode, OFlags, open};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;

use crate::oom::Watches;
use crate::processes::{self, ProcessesError};
use crate::reaper::{Exit, Reaper};
use crate::stdio::{self, Pipes, Streams};

/// Where the directories of the containers are.
const STATE: &str = "/run/runvm/containers";

/// Why something could not be done with a container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerError {
    #[error("container {0:?} exists in this guest already")]
    Exists(String),
    #[error("{0} does not exist in this guest")]
    Missing(Process),
    #[error("{0} exists already")]
    ProcessExists(Process),
    #[error("{0} is not running")]
    NotRunning(Process),
    #[error("container {0:?} has been started already")]
    Started(String),
    #[error("{0} has no terminal")]
    NoTerminal(Process),
    #[error("the streams announced for {process} are not those of a process {} terminal", if *.terminal { "with a" } else { "without" })]
    Streams { process: Process, terminal: bool },
    #[error("cannot use the configuration of container {container:?} in the guest")]
    Config {
        container: String,
        source: ConfigError,
    },
    #[error("cannot read the resources for container {container:?}")]
    Resources {
        container: String,
        source: serde_json::Error,
    },
    #[error("cannot write down what container {container:?} has used")]
    Stats {
        container: String,
        source: serde_json::Error,
    },
    #[error(transparent)]
    Processes(#[from] ProcessesError),
    #[error("cannot make the directory {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot make the stdio of {process}")]
    Stdio { process: Process, source: io::Error },
    #[error("cannot watch over a new process")]
    Watch(#[from] io::Error),
    #[error("cannot {what} the cgroup of container {container:?} in the guest")]
    Cgroup {
        what: &'static str,
        container: String,
        source: Box<CgroupError>,
    },
    #[error("cannot read the network for container {container:?}")]
    NetworkJson {
        container: String,
        source: serde_json::Error,
    },
    #[error("cannot open the network namespace of container {container:?} in the guest")]
    NetworkNamespace {
        container: String,
        source: io::Error,
    },
    #[error("cannot make the network of container {container:?} in the guest")]
    Network {
        container: String,
        source: NetworkError,
    },
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    SubCgroup(#[from] SubCgroupError),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error("cannot send signal {signal} to {process}")]
    Signal {
        signal: i32,
        process: Process,
        source: io::Error,
    },
    #[error("cannot resize the terminal of {process}")]
    Resize { process: Process, source: io::Error },
}

impl From<ContainerError> for Remote {
    fn from(error: ContainerError) -> Self {
        Self::from_error(&error)
    }
}

type Result<T, E = ContainerError> = std::result::Result<T, E>;

/// All there is.
pub(crate) struct Containers {
    pub(crate) reaper: Arc<Reaper>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) watches: Watches,
    /// By id; `None` is one that is being made.
    table: Mutex<HashMap<String, Option<Arc<Container>>>>,
}

/// One that has been made.
struct Container {
    id: String,
    plan: Plan,
    /// Whether its processes keep the agent's session keyring.
    no_new_keyring: bool,
    cgroup: Arc<Cgroup>,
    /// Its directory, where the start socket is.
    directory: OwnedFd,
    started: Mutex<bool>,
    first: Arc<Running>,
    /// By exec id; `None` is one that is being made.
    execs: Mutex<HashMap<String, Option<Arc<Running>>>>,
}

/// A process that has been made; it may have ended.
struct Running {
    pid: u32,
    pidfd: PidFd,
    exit: Arc<Exit>,
    /// Its terminal, which lives as long as its relays.
    terminal: Option<Weak<File>>,
}

/// When a container got how far: CLOCK_MONOTONIC, nanoseconds; and what was odd.
pub(crate) struct Made {
    pub(crate) isolated_ns: u64,
    pub(crate) ready_ns: u64,
    pub(crate) warnings: Vec<String>,
}

impl Containers {
    /// None so far.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            reaper: Arc::default(),
            streams: Arc::default(),
            watches: Watches::new()?,
            table: Mutex::default(),
        })
    }

    /// Makes a container, up to OCI status `created`.
    pub(crate) fn create(
        &self,
        id: &str,
        config: &[u8],
        streams: &[Stream],
        no_new_keyring: bool,
    ) -> Result<Made> {
        match self.table().entry(id.to_owned()) {
            Entry::Occupied(_) => return Err(ContainerError::Exists(id.to_owned())),
            Entry::Vacant(vacant) => vacant.insert(None),
        };
        let made = self.make(id, config, streams, no_new_keyring);
        if made.is_err() {
            self.table().remove(id);
            self.streams.forget(id);
        }
        let (container, made) = made?;
        self.table()
            .insert(id.to_owned(), Some(Arc::new(container)));
        Ok(made)
    }

    fn make(
        &self,
        id: &str,
        config: &[u8],
        streams: &[Stream],
        no_new_keyring: bool,
    ) -> Result<(Container, Made)> {
        let process = Process::first(id);
        let bundle = Path::new(runvm_proto::SHARE_PATH);
        let plan = Plan::parse(config, bundle).map_err(|source| ContainerError::Config {
            container: id.to_owned(),
            source,
        })?;
        check_streams(&process, plan.process.terminal, streams)?;
        let (stdio, pipes) = stdio::pipes(streams).map_err(|source| ContainerError::Stdio {
            process: process.clone(),
            source,
        })?;
        let mut unfinished = Unfinished::new(id);
        let directory = unfinished.make_directory()?;
        let cgroup = unfinished.make_cgroup(&plan.resources)?;
        let (created, exit) = self.reaper.make(|| {
            let created = runvm_container::create(CreateRequest {
                id,
                plan: &plan,
                config,
                bundle,
                state_dir: directory.as_fd(),
                cgroup: Some(&cgroup),
                stdio: (!plan.process.terminal).then_some(stdio),
                preserve_fds: 0,
                no_pivot: false,
                no_new_keyring,
            })?;
            Ok::<_, ContainerError>((created.pid, created))
        })?;
        let Created {
            pid,
            pidfd,
            terminal,
            stamps,
            warnings,
        } = created;
        let first = self.attend(
            Running {
                pid,
                pidfd,
                exit,
                terminal: None,
            },
            pipes,
            terminal,
            &process,
        )?;
        let container = Container {
            id: id.to_owned(),
            plan,
            no_new_keyring,
            cgroup,
            directory,
            started: Mutex::new(false),
            first: Arc::new(first),
            execs: Mutex::default(),
        };
        unfinished.keep();
        let made = Made {
            isolated_ns: stamps.entered_ns,
            ready_ns: stamps.ready_ns,
            warnings,
        };
        Ok((container, made))
    }

    /// Connects a new process with the host. One that cannot be is killed.
    fn attend(
        &self,
        mut running: Running,
        pipes: Pipes,
        terminal: Option<OwnedFd>,
        process: &Process,
    ) -> Result<Running> {
        let master = terminal.map(|master| Arc::new(File::from(master)));
        running.terminal = master.as_ref().map(Arc::downgrade);
        let relayed = match master {
            Some(master) => stdio::relay_terminal(master, &self.streams, process, &running.exit),
            None => pipes.relay(&self.streams, process, &running.exit),
        };
        relayed.map_err(|source| {
            // The reaper has it in charge, and nobody else will ask for it.
            let _ = running.pidfd.send_signal(nix::libc::SIGKILL);
            ContainerError::Stdio {
                process: process.clone(),
                source,
            }
        })?;
        Ok(running)
    }

    /// Gives a created container its network and lets its program run.
    pub(crate) fn start(&self, id: &str, bridged_json: &[u8]) -> Result<()> {
        let container = self.find(id)?;
        let mut started = container
            .started
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *started {
            return Err(ContainerError::Started(id.to_owned()));
        }
        container.connect(bridged_json)?;
        runvm_container::start(container.directory.as_fd())?;
        *started = true;
        Ok(())
    }

    /// Runs one more process in a container.
    pub(crate) fn exec(
        &self,
        process: &Process,
        process_json: &[u8],
        streams: &[Stream],
        sub_cgroups: &[String],
    ) -> Result<()> {
        let container = self.find(&process.container)?;
        let sub_cgroups = sub_cgroups.iter().map(|text| SubCgroup::parse(text));
        let sub_cgroups = sub_cgroups.collect::<Result<Vec<_>, _>>()?;
        let Some(exec) = &process.exec else {
            return Err(ContainerError::ProcessExists(process.clone()));
        };
        match container.execs().entry(exec.clone()) {
            Entry::Occupied(_) => return Err(ContainerError::ProcessExists(process.clone())),
            Entry::Vacant(vacant) => vacant.insert(None),
        };
        let running = self.run_beside(&container, process, process_json, streams, &sub_cgroups);
        if running.is_err() {
            container.execs().remove(exec);
        }
        container
            .execs()
            .insert(exec.clone(), Some(Arc::new(running?)));
        Ok(())
    }

    fn run_beside(
        &self,
        container: &Container,
        process: &Process,
        process_json: &[u8],
        streams: &[Stream],
        sub_cgroups: &[SubCgroup],
    ) -> Result<Running> {
        let parsed =
            runvm_oci::Process::parse(process_json).map_err(|source| ContainerError::Config {
                container: container.id.clone(),
                source,
            })?;
        check_streams(process, parsed.terminal, streams)?;
        let (stdio, pipes) = stdio::pipes(streams).map_err(|source| ContainerError::Stdio {
            process: process.clone(),
            source,
        })?;
        let (executed, exit) = self.reaper.make(|| {
            let executed = runvm_container::exec(ExecRequest {
                process: &parsed,
                process_json,
                plan: &container.plan,
                target: &container.first.pidfd,
                state: &State {
                    oci_version: container.plan.oci_version.clone(),
                    id: container.id.clone(),
                    status: Status::Running,
                    pid: container.first.pid,
                    bundle: runvm_proto::SHARE_PATH.into(),
                    annotations: container.plan.annotations.clone(),
                },
                cgroup: Some(&container.cgroup),
                sub_cgroups,
                stdio: (!parsed.terminal).then_some(stdio),
                preserve_fds: 0,
                no_new_keyring: container.no_new_keyring,
            })?;
            Ok::<_, ContainerError>((executed.pid, executed))
        })?;
        let Executed {
            pid,
            pidfd,
            terminal,
            ..
        } = executed;
        self.attend(
            Running {
                pid,
                pidfd,
                exit,
                terminal: None,
            },
            pipes,
            terminal,
            process,
        )
    }

    /// Sends a signal to a process, or to all of its container.
    pub(crate) fn kill(&self, process: &Process, signal: i32, all: bool) -> Result<()> {
        let failed = |source| ContainerError::Signal {
            signal,
            process: process.clone(),
            source,
        };
        if !all {
            let running = self.process(process)?;
            if running.exit.status().is_some() {
                return Err(ContainerError::NotRunning(process.clone()));
            }
            return running.pidfd.send_signal(signal).map_err(failed);
        }
        let container = self.find(&process.container)?;
        container
            .cgroup
            .signal(signal)
            .map_err(cgroup_error("signal", &container.id))
    }

    /// The end of a process.
    pub(crate) fn exit(&self, process: &Process) -> Result<Arc<Exit>> {
        Ok(Arc::clone(&self.process(process)?.exit))
    }

    /// Forgets an exec'ed process, whose end has been told.
    pub(crate) fn forget_exec(&self, process: &Process) {
        if let (Ok(container), Some(exec)) = (self.find(&process.container), &process.exec) {
            container.execs().remove(exec);
        }
    }

    /// Sets the size of a process's terminal.
    pub(crate) fn resize(&self, process: &Process, height: u16, width: u16) -> Result<()> {
        let running = self.process(process)?;
        let master = running
            .terminal
            .as_ref()
            .ok_or_else(|| ContainerError::NoTerminal(process.clone()))?;
        let Some(master) = master.upgrade() else {
            return Err(ContainerError::NotRunning(process.clone()));
        };
        let size = Winsize {
            ws_row: height,
            ws_col: width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&*master, size).map_err(|errno| ContainerError::Resize {
            process: process.clone(),
            source: errno.into(),
        })
    }

    /// The processes of a container, by their pids in this guest.
    pub(crate) fn pids(&self, id: &str) -> Result<Vec<u32>> {
        self.find(id)?.pids()
    }

    /// The processes of a container, described.
    pub(crate) fn processes(&self, id: &str) -> Result<Vec<ProcessEntry>> {
        Ok(processes::describe(&self.pids(id)?)?)
    }

    /// What a container has used.
    pub(crate) fn stats(&self, id: &str) -> Result<Value> {
        let stats = self.find(id)?.cgroup.stats();
        let stats = stats.map_err(cgroup_error("read", id))?;
        serde_json::to_value(stats).map_err(|source| ContainerError::Stats {
            container: id.to_owned(),
            source,
        })
    }

    /// Begins to watch the memory of a container.
    pub(crate) fn watch_oom(&self, id: &str) -> Result<OomWatch> {
        let watch = self.find(id)?.cgroup.watch_oom();
        watch.map_err(cgroup_error("watch", id))
    }

    /// Freezes a container, or thaws it.
    pub(crate) fn freeze(&self, id: &str, freeze: bool) -> Result<()> {
        let container = self.find(id)?;
        let (what, done) = if freeze {
            ("freeze", container.cgroup.freeze())
        } else {
            ("thaw", container.cgroup.thaw())
        };
        done.map_err(cgroup_error(what, id))
    }

    /// Sets a container's limits.
    pub(crate) fn update(&self, id: &str, resources_json: &[u8]) -> Result<()> {
        let container = self.find(id)?;
        let resources: LinuxResources =
            serde_json::from_slice(resources_json).map_err(|source| ContainerError::Resources {
                container: id.to_owned(),
                source,
            })?;
        container
            .cgroup
            .update(&resources)
            .map_err(cgroup_error("update", id))
    }

    /// Kills what is left of a container and forgets it.
    pub(crate) fn delete(&self, id: &str) -> Result<()> {
        let container = self.find(id)?;
        container.cgroup.kill().map_err(cgroup_error("kill", id))?;
        container
            .cgroup
            .delete()
            .map_err(cgroup_error("delete", id))?;
        self.table().remove(id);
        self.streams.forget(id);
        fs::remove_dir_all(state_path(id)).map_err(|source| ContainerError::Directory {
            path: state_path(id),
            source,
        })
    }

    fn find(&self, id: &str) -> Result<Arc<Container>> {
        let found = self.table().get(id).cloned().flatten();
        found.ok_or_else(|| ContainerError::Missing(Process::first(id)))
    }

    fn process(&self, process: &Process) -> Result<Arc<Running>> {
        let container = self.find(&process.container)?;
        let found = match &process.exec {
            None => Some(Arc::clone(&container.first)),
            Some(exec) => container.execs().get(exec).cloned().flatten(),
        };
        found.ok_or_else(|| ContainerError::Missing(process.clone()))
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Container>>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Container {
    /// Makes its network, which the host describes, of the guest's network cards.
    fn connect(&self, bridged_json: &[u8]) -> Result<()> {
        let container = || self.id.clone();
        let bridged: Bridged =
            serde_json::from_slice(bridged_json).map_err(|source| ContainerError::NetworkJson {
                container: container(),
                source,
            })?;
        let namespace =
            File::open(format!("/proc/{}/ns/net", self.first.pid)).map_err(|source| {
                ContainerError::NetworkNamespace {
                    container: container(),
                    source,
                }
            })?;
        bridged
            .apply(namespace.as_fd())
            .map_err(|source| ContainerError::Network {
                container: container(),
                source,
            })
    }

    fn pids(&self) -> Result<Vec<u32>> {
        self.cgroup.pids().map_err(cgroup_error("read", &self.id))
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Running>>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cgroup_error(what: &'static str, id: &str) -> impl FnOnce(CgroupError) -> ContainerError {
    move |source| ContainerError::Cgroup {
        what,
        container: id.to_owned(),
        source: Box::new(source),
    }
}

fn check_streams(process: &Process, terminal: bool, streams: &[Stream]) -> Result<()> {
    if streams
        .iter()
        .all(|stream| (*stream == Stream::Terminal) == terminal)
    {
        return Ok(());
    }
    Err(ContainerError::Streams {
        process: process.clone(),
        terminal,
    })
}

fn state_path(id: &str) -> PathBuf {
    Path::new(STATE).join(id)
}

/// What making a container has left so far, taken back unless it is made.
struct Unfinished {
    id: String,
    cgroup: Option<Arc<Cgroup>>,
    kept: bool,
}

impl Unfinished {
    fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            cgroup: None,
            kept: false,
        }
    }

    fn make_directory(&self) -> Result<OwnedFd> {
        let path = state_path(&self.id);
        let failed = |source| ContainerError::Directory {
            path: path.clone(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(failed)?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(&path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))
    }

    fn make_cgroup(&mut self, resources: &LinuxResources) -> Result<Arc<Cgroup>> {
        let made = Cgroup::create(Some(&format!("/{}", self.id)), &self.id, resources);
        let cgroup = made.map_err(cgroup_error("make", &self.id))?;
        Ok(Arc::clone(self.cgroup.insert(Arc::new(cgroup))))
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // The error on its way out is the one to tell.
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.kill();
            let _ = cgroup.delete();
        }
        let _ = fs::remove_dir_all(state_path(&self.id));
    }
}
