//! Where an engine lives: mounts, processes, a network and System V objects of its own.

use std::path::PathBuf;
use std::process::Command;

use runvm_tests::{Input, Running, Scratch, cgroups_of, children_of, traces_of};

/// Namespaces for one engine, its daemon and its containers. Whatever they mount, the interfaces and firewall
/// rules they make, and the processes they leave are gone with them, and they are gone with the tests' process.
#[derive(Debug)]
pub(crate) struct Enclosure {
    scratch: Scratch,
    /// unshare(1), whose child is the first process inside.
    outside: Running,
    first_pid: i32,
}

/// What the first process does, reaping the orphans meanwhile, until its input ends. Where engines write
/// without having been told to, there is nothing of the host's: /run and /var/lib.
const FIRST: &str = "
    set -e
    mount --make-rshared /
    mount -t tmpfs -o mode=755 tmpfs /run
    mount -t tmpfs -o mode=755 tmpfs /var/lib
    ip link set lo up
    for file in subuid subgid; do
        if [ -e /etc/$file ]; then mount --bind \"$1\" /etc/$file; fi
    done
    echo ready
    exec cat";

/// A user that every host has, with their id.
pub(crate) const USER: (&str, u32) = ("nobody", 65534);

/// For engines that choose the ids of a user namespace themselves, podman in the name of "containers", and for
/// [`USER`].
const SUBORDINATE_IDS: &str = "containers:100000:1000000\nnobody:2000000:65536\n";

impl Enclosure {
    /// Makes one.
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new();
        let ids = scratch.path().join("subordinate-ids");
        std::fs::write(&ids, SUBORDINATE_IDS).expect("the scratch directory is writable");
        let mut unshare = Command::new("unshare");
        unshare
            .args([
                "--fork",
                "--pid",
                "--mount-proc",
                "--mount",
                "--net",
                "--ipc",
            ])
            .args(["catatonit", "--", "sh", "-c", FIRST, "sh"])
            .arg(&ids);
        let outside = Running::spawn(unshare, Input::Pipe);
        outside.output().wait_for("ready\n");
        let first_pid = children_of(outside.process().pid());
        Self {
            scratch,
            first_pid: *first_pid.first().expect("it is ready"),
            outside,
        }
    }

    /// Its name, which is in all paths and cgroups of the engine.
    pub(crate) fn name(&self) -> &str {
        self.scratch.name()
    }

    /// A path below the enclosure's own directory, which is the same inside and outside.
    pub(crate) fn path(&self, name: &str) -> String {
        let path = self.scratch.path().join(name).into_os_string();
        path.into_string().expect("a test's paths are plain text")
    }

    /// Writes a file below the enclosure's own directory.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).expect("the scratch directory is writable");
        path
    }

    /// How a path inside is called outside.
    pub(crate) fn seen_from_outside(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.first_pid).into()
    }

    /// A command to run inside.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.first_pid.to_string()])
            .args(["--pid", "--mount", "--net", "--ipc"])
            .args(["--", program]);
        command
    }

    /// Ends all that is inside. The answer is what is left outside, a line each.
    pub(crate) fn end(mut self) -> Vec<String> {
        drop(self.outside.take_input());
        self.outside.wait();
        // Innermost first.
        for cgroup in self.cgroups().iter().rev() {
            let _ = std::fs::remove_dir(cgroup);
        }
        traces_of(self.name())
    }

    /// The enclosure's cgroups and those below them, in all hierarchies.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let mut cgroups = cgroups_of(self.name());
        let mut next = 0;
        while let Some(cgroup) = cgroups.get(next) {
            let below = std::fs::read_dir(cgroup).into_iter().flatten().flatten();
            let below: Vec<PathBuf> = below
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path())
                .filter(|path| !cgroups.contains(path))
                .collect();
            cgroups.extend(below);
            next += 1;
        }
        cgroups
    }
}
