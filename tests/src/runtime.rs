//! The runtime under test.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::leftovers::taps;
use crate::{Bundle, Container, Input, Isolation, Outcome, Running, Scratch, skip};

/// The runtime under test, with an isolation and a state directory for one test alone.
#[derive(Debug)]
pub struct Runtime {
    isolation: Isolation,
    scratch: Scratch,
    made: Cell<u32>,
    systemd_cgroup: Cell<bool>,
    taps_before: Vec<String>,
}

impl Runtime {
    /// The runtime for one test.
    pub(crate) fn new(isolation: Isolation) -> Self {
        Self {
            isolation,
            scratch: Scratch::new(),
            made: Cell::new(0),
            systemd_cgroup: Cell::new(false),
            taps_before: taps(),
        }
    }

    /// The binary: `RUNVM_BIN`, or what `make build` has made.
    pub fn binary() -> &'static Path {
        static BINARY: OnceLock<PathBuf> = OnceLock::new();
        BINARY.get_or_init(|| match std::env::var_os("RUNVM_BIN") {
            Some(binary) => binary.into(),
            None => {
                let staged =
                    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/stage/bin/runvm");
                assert!(
                    staged.exists(),
                    "nothing to test: set RUNVM_BIN, or run `make build`"
                );
                staged
            }
        })
    }

    /// What `spec` writes.
    pub(crate) fn default_config() -> &'static Value {
        static CONFIG: OnceLock<Value> = OnceLock::new();
        CONFIG.get_or_init(|| {
            let scratch = Scratch::new();
            let mut spec = Command::new(Self::binary());
            spec.current_dir(scratch.path()).arg("spec");
            Running::spawn(spec, Input::Null).finish().succeeds();
            let text =
                fs::read(scratch.path().join("config.json")).expect("spec writes config.json");
            serde_json::from_slice(&text).expect("spec writes JSON")
        })
    }

    /// Whether runc is in runvm's place.
    pub fn is_runc() -> bool {
        Self::binary().file_name() == Some(OsStr::new("runc"))
    }

    /// Whether the test ends here because runc is in runvm's place; says so with `reason`.
    pub fn skips_runc(&self, reason: &str) -> bool {
        if Self::is_runc() {
            skip(reason);
        }
        Self::is_runc()
    }

    /// Has systemd make the cgroups of the containers that are made from now on.
    pub fn use_systemd_cgroups(&self) {
        self.systemd_cgroup.set(true);
    }

    /// How it isolates.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// The test's own directory: its name is in every id, path and cgroup of the test.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The host's taps before the test.
    pub(crate) fn taps_before(&self) -> &[String] {
        &self.taps_before
    }

    /// Where it keeps its containers.
    pub fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    /// An id for a new container.
    pub fn new_id(&self) -> String {
        format!("{}-c{}", self.scratch.name(), self.count())
    }

    /// A new bundle.
    pub fn bundle(&self) -> Bundle {
        let path = self.scratch.path().join(format!("bundle-{}", self.count()));
        Bundle::of_spec(path)
    }

    /// Where a file of the test's own on the host may be, as a word for a command line.
    pub fn path(&self, name: &str) -> String {
        let path = self.scratch.path().join(name);
        path.into_os_string()
            .into_string()
            .expect("a test's paths are plain text")
    }

    /// A file of the test's own on the host, with this content.
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        fs::write(&path, content).expect("the scratch directory is writable");
        path
    }

    /// The runtime's command with its global flags, and `args`.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let isolation = ["--isolation", self.isolation.as_str()];
        let mut command = self.undecided_command(if Self::is_runc() { &[] } else { &isolation });
        if self.systemd_cgroup.get() {
            command.arg("--systemd-cgroup");
        }
        command.args(args);
        command
    }

    /// The runtime's command that leaves the choice of isolation to `args`.
    pub fn undecided_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(Self::binary());
        command.arg("--root").arg(self.root()).args(args);
        command
    }

    /// Runs a command of the runtime to its end.
    #[track_caller]
    pub fn call<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Outcome {
        Running::spawn(self.command(args), Input::Null).finish()
    }

    /// `run`s a bundle to its end, without input.
    #[track_caller]
    pub fn run(&self, bundle: &Bundle) -> Outcome {
        self.run_with(bundle, &[])
    }

    /// `run`s a bundle to its end, with more flags.
    #[track_caller]
    pub fn run_with(&self, bundle: &Bundle, flags: &[&str]) -> Outcome {
        let id = self.new_id();
        self.call(new_container("run", bundle, flags, &id))
    }

    /// Starts to `run` a bundle in the foreground.
    #[track_caller]
    pub fn spawn_run(&self, bundle: &Bundle, input: Input) -> Container<'_> {
        let id = self.new_id();
        let command = self.command(new_container("run", bundle, &[], &id));
        Container::in_foreground(self, id, Running::spawn(command, input))
    }

    /// `run`s a bundle in the background.
    #[track_caller]
    pub fn run_detached(&self, bundle: &Bundle, flags: &[&str]) -> Container<'_> {
        let id = self.new_id();
        let flags: Vec<&str> = ["--detach"].iter().chain(flags).copied().collect();
        let command = self.command(new_container("run", bundle, &flags, &id));
        Container::in_background(self, id, Running::spawn(command, Input::Null))
    }

    /// `create`s a container from a bundle.
    #[track_caller]
    pub fn create(&self, bundle: &Bundle) -> Container<'_> {
        self.create_with(bundle, &[], Input::Null)
    }

    /// `create`s a container from a bundle, with more flags.
    #[track_caller]
    pub fn create_with(&self, bundle: &Bundle, flags: &[&str], input: Input) -> Container<'_> {
        let id = self.new_id();
        let command = self.command(new_container("create", bundle, flags, &id));
        Container::in_background(self, id, Running::spawn(command, input))
    }

    /// `restore`s a container into a bundle, in the background.
    #[track_caller]
    pub fn restore(&self, bundle: &Bundle, flags: &[&str], input: Input) -> Container<'_> {
        let id = self.new_id();
        let flags: Vec<&str> = ["--detach"].iter().chain(flags).copied().collect();
        let command = self.command(new_container("restore", bundle, &flags, &id));
        Container::in_background(self, id, Running::spawn(command, input))
    }

    /// The ids that `list` shows.
    #[track_caller]
    pub fn ids(&self) -> Vec<String> {
        let list = self.call(["list", "--quiet"]).succeeds();
        list.output().lines().map(str::to_owned).collect()
    }

    fn count(&self) -> u32 {
        self.made.update(|count| count + 1);
        self.made.get()
    }
}

/// The words of `create` or `run`.
pub fn new_container(verb: &str, bundle: &Bundle, flags: &[&str], id: &str) -> Vec<String> {
    let path = bundle
        .path()
        .to_str()
        .expect("a test's paths are plain text");
    let words = [verb, "--bundle", path]
        .into_iter()
        .chain(flags.iter().copied())
        .chain([id]);
    words.map(str::to_owned).collect()
}
