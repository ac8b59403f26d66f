//! Bundles to test with, and the containers made of them.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use runvm_container::cgroup::Cgroup;
use runvm_container::{
    CreateError, CreateRequest, Created, ExecError, ExecRequest, Executed, Stdio, create, exec,
    start,
};
use runvm_oci::{Plan, Process, State, Status};
use runvm_sys::ExitStatus;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::{Value, json};

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 24] = [
    "sh", "cat", "id", "ls", "stat", "mount", "env", "pwd", "hostname", "sleep", "true", "grep",
    "mkdir", "touch", "readlink", "test", "echo", "tty", "stty", "ulimit", "umask", "chmod",
    "kill", "find",
];

/// Why no container can be made here.
pub(crate) fn cannot_run() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    if !Path::new(BUSYBOX).exists() {
        return Some("needs a static busybox at /bin/busybox");
    }
    None
}

/// What is not the same for every test.
#[derive(Default)]
pub(crate) struct With<'a> {
    pub(crate) cgroup: Option<&'a Cgroup>,
    pub(crate) preserve_fds: u32,
    pub(crate) no_pivot: bool,
    /// For standard output, instead of a file.
    pub(crate) stdout: Option<&'a File>,
}

/// A bundle in a directory of its own, removed in the end.
pub(crate) struct Bundle {
    pub(crate) dir: PathBuf,
    pub(crate) config: Value,
}

impl Bundle {
    /// What `spec` gives, with a busybox rootfs, running a shell script.
    pub(crate) fn shell(script: &str) -> Self {
        Self::shell_from(&runvm_oci::default_config(None), script)
    }

    /// As [`Bundle::shell`], from another configuration.
    pub(crate) fn shell_from(config: &str, script: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("runvm-engine-{}-{count}", std::process::id()));
        fs::create_dir_all(dir.join("state")).unwrap();
        let bin = dir.join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy(BUSYBOX, bin.join("busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        let mut config: Value = serde_json::from_str(config).unwrap();
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["process"]["terminal"] = json!(false);
        config["process"]["env"] = json!(["PATH=/bin"]);
        // The limits of the specification's example are above what every machine allows.
        config["process"]["rlimits"] = json!([]);
        config["root"]["readonly"] = json!(false);
        Self { dir, config }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        self.config.pointer_mut(parent).unwrap()[key] = value;
        self
    }

    pub(crate) fn mount(mut self, mount: Value) -> Self {
        self.config["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    /// Removes a namespace, or gives it a path.
    pub(crate) fn namespace(mut self, kind: &str, path: Option<Option<&str>>) -> Self {
        let namespaces = self.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != kind);
        match path {
            None => {}
            Some(None) => namespaces.push(json!({"type": kind})),
            Some(Some(path)) => namespaces.push(json!({"type": kind, "path": path})),
        }
        self
    }

    /// A new user namespace with root mapped to 100000.
    pub(crate) fn user_namespace(self) -> Self {
        let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        rustix::fs::chown(
            self.root(),
            Some(rustix::fs::Uid::from_raw(100_000)),
            Some(rustix::fs::Gid::from_raw(100_000)),
        )
        .unwrap();
        self.set("/linux/uidMappings", mapping.clone())
            .set("/linux/gidMappings", mapping)
            .namespace("user", Some(None))
    }

    pub(crate) fn plan(&self) -> (Plan, Vec<u8>) {
        let bytes = serde_json::to_vec(&self.config).unwrap();
        (Plan::parse(&bytes, &self.dir).unwrap(), bytes)
    }

    pub(crate) fn state_dir(&self) -> File {
        File::open(self.dir.join("state")).unwrap()
    }

    pub(crate) fn create(&self) -> Result<Container<'_>, CreateError> {
        self.create_with(&With::default())
    }

    pub(crate) fn create_with(&self, with: &With<'_>) -> Result<Container<'_>, CreateError> {
        let (plan, config) = self.plan();
        let output = memory_file();
        let has_terminal = self.config["process"]["terminal"] == true;
        let created = create(CreateRequest {
            id: "test",
            plan: &plan,
            config: &config,
            bundle: &self.dir,
            state_dir: self.state_dir().as_fd(),
            cgroup: with.cgroup,
            stdio: (!has_terminal).then(|| streams(with.stdout.unwrap_or(&output))),
            preserve_fds: with.preserve_fds,
            no_pivot: with.no_pivot,
            no_new_keyring: false,
        })?;
        Ok(Container {
            created,
            bundle: self,
            output,
            plan,
        })
    }

    /// Runs to the end; gives what it printed. It must succeed.
    pub(crate) fn run(&self) -> String {
        let container = self
            .create()
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        container.start();
        let (status, output) = container.finish();
        assert_eq!(status.code(), 0, "{output}");
        output
    }

    /// Fails to create; gives the error with its sources.
    pub(crate) fn error(&self) -> String {
        match self.create() {
            Err(error) => chain(&error),
            Ok(_) => panic!("the container was created"),
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub(crate) fn memory_file() -> File {
    memfd_create(c"test", MemfdFlags::CLOEXEC).unwrap().into()
}

fn streams(output: &File) -> Stdio {
    Stdio {
        stdin: File::open("/dev/null").unwrap().into(),
        stdout: output.try_clone().unwrap().into(),
        stderr: output.try_clone().unwrap().into(),
    }
}

/// An error and its sources on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// A created container, killed in the end.
pub(crate) struct Container<'a> {
    pub(crate) created: Created,
    pub(crate) bundle: &'a Bundle,
    output: File,
    plan: Plan,
}

impl std::fmt::Debug for Container<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.created.fmt(f)
    }
}

impl Container<'_> {
    pub(crate) fn start(&self) {
        start(self.bundle.state_dir().as_fd()).unwrap_or_else(|error| panic!("{}", chain(&error)));
    }

    /// Waits for the end; gives the status and what was printed.
    pub(crate) fn finish(self) -> (ExitStatus, String) {
        let status = self.created.pidfd.reap().unwrap();
        (status, read_all(&self.output))
    }

    pub(crate) fn exec(&self, process: &Value) -> Result<(Executed, File), ExecError> {
        let output = memory_file();
        let stdio = (process["terminal"] != true).then(|| streams(&output));
        let bytes = serde_json::to_vec(process).unwrap();
        let executed = exec(ExecRequest {
            process: &Process::parse(&bytes).unwrap(),
            process_json: &bytes,
            plan: &self.plan,
            target: &self.created.pidfd,
            state: &State {
                oci_version: self.plan.oci_version.clone(),
                id: "test".into(),
                status: Status::Running,
                pid: self.created.pid,
                bundle: self.bundle.dir.clone(),
                annotations: Default::default(),
            },
            cgroup: None,
            sub_cgroups: &[],
            stdio,
            preserve_fds: 0,
            no_new_keyring: false,
        })?;
        Ok((executed, output))
    }

    /// Runs a script in it to the end; gives what it printed. It must succeed.
    pub(crate) fn run(&self, script: &str) -> String {
        let process = shell_process(script);
        let (executed, output) = self
            .exec(&process)
            .unwrap_or_else(|e| panic!("{}", chain(&e)));
        let status = executed.pidfd.reap().unwrap();
        let output = read_all(&output);
        assert_eq!(status.code(), 0, "{output}");
        output
    }
}

pub(crate) fn shell_process(script: &str) -> Value {
    json!({
        "user": {"uid": 0, "gid": 0},
        "args": ["sh", "-c", script],
        "env": ["PATH=/bin"],
        "cwd": "/",
    })
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.created.pidfd.send_signal(9);
        let _ = self.created.pidfd.reap();
    }
}

pub(crate) fn read_all(file: &File) -> String {
    let mut file = file;
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// Reads a terminal's master to its end, which is EIO when the last slave is closed.
pub(crate) fn read_terminal(master: OwnedFd) -> String {
    let mut master = File::from(master);
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        wait_readable(&master);
        match master.read(&mut buffer) {
            Ok(length @ 1..) => bytes.extend(&buffer[..length]),
            Ok(_) | Err(_) => return String::from_utf8_lossy(&bytes).into_owned(),
        }
    }
}

fn wait_readable(file: &File) {
    let mut fds = [PollFd::new(file, PollFlags::IN)];
    poll(&mut fds, None).unwrap();
}
