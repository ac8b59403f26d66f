//! Bundles to run: busybox, and the configuration that `spec` writes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::Runtime;

const BUSYBOX: &str = "/bin/busybox";

/// A bundle in a test's scratch directory. It is what the runtime's `spec` makes, without terminal
/// and ambient capabilities, until it is changed.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    config: Value,
}

impl Bundle {
    /// Makes a bundle at `path` of what the runtime's `spec` writes.
    pub fn of_spec(path: PathBuf) -> Self {
        Self::create(path, Runtime::default_config().clone())
    }

    /// Makes a bundle at `path` with a root of busybox and this configuration.
    pub(crate) fn create(path: PathBuf, config: Value) -> Self {
        let bundle = Self { path, config };
        make_root(&bundle.rootfs());
        bundle.edit(|config| {
            config["process"]["terminal"] = json!(false);
            // runc 1.1.5 asks for ambient capabilities without the inheritable ones they need, which
            // a runtime has to warn of; later ones do not ask.
            config["process"]["capabilities"]["ambient"] = json!([]);
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is, as a word for a command line.
    pub fn path_text(&self) -> &str {
        self.path.to_str().expect("a test's paths are plain text")
    }

    /// Where its root is.
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// Has it run `script` in a shell.
    pub fn shell(self, script: &str) -> Self {
        self.args(&["sh", "-c", script])
    }

    /// Has it run a program.
    pub fn args(self, args: &[&str]) -> Self {
        self.edit(|config| config["process"]["args"] = json!(args))
    }

    /// Makes its root writable.
    pub fn writable(self) -> Self {
        self.edit(|config| config["root"]["readonly"] = json!(false))
    }

    /// Gives it a terminal.
    pub fn with_terminal(self) -> Self {
        self.edit(|config| config["process"]["terminal"] = json!(true))
    }

    /// Gives it a new user namespace, whose ids are those of the host from 100000 on.
    pub fn user_namespace(self) -> Self {
        self.edit(|config| {
            let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            let linux = &mut config["linux"];
            linux["uidMappings"] = mapping.clone();
            linux["gidMappings"] = mapping;
            let namespaces = linux["namespaces"].as_array_mut().expect("an array");
            namespaces.push(json!({"type": "user"}));
        })
    }

    /// Adds a mount after those it has.
    pub fn mount(self, mount: Value) -> Self {
        self.edit(|config| {
            config["mounts"]
                .as_array_mut()
                .expect("an array")
                .push(mount)
        })
    }

    /// Changes its configuration.
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.config);
        self.write_config(&self.config.to_string());
        self
    }

    /// Replaces config.json with this text.
    pub fn write_config(&self, text: &str) {
        fs::write(self.path.join("config.json"), text).expect("the bundle is writable");
    }
}

/// Makes a root of busybox at `rootfs`.
pub fn make_root(rootfs: &Path) {
    for directory in [
        "bin", "sbin", "usr/bin", "usr/sbin", "dev", "etc", "proc", "sys", "tmp",
    ] {
        fs::create_dir_all(rootfs.join(directory)).expect("the scratch directory is writable");
    }
    fs::copy(BUSYBOX, rootfs.join("bin/busybox"))
        .unwrap_or_else(|error| panic!("{BUSYBOX} (Debian's busybox-static): {error}"));
    for applet in applets() {
        symlink(BUSYBOX, rootfs.join(applet)).expect("an applet is listed once");
    }
    fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").expect("it is writable");
    fs::write(rootfs.join("etc/group"), "root:x:0:\n").expect("it is writable");
}

/// The paths of busybox's programs, relative to a root.
fn applets() -> &'static [String] {
    static APPLETS: OnceLock<Vec<String>> = OnceLock::new();
    APPLETS.get_or_init(|| {
        let list = Command::new(BUSYBOX)
            .arg("--list-full")
            .output()
            .unwrap_or_else(|error| panic!("{BUSYBOX} (Debian's busybox-static): {error}"));
        let list = String::from_utf8(list.stdout).expect("busybox lists plain names");
        list.lines()
            .filter(|path| *path != "bin/busybox")
            .map(str::to_owned)
            .collect()
    })
}
