//! The bundles that are run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use runvm_tests::{Bundle, Scratch};
use serde_json::{Value, json};

/// What `runvm spec` writes.
pub(crate) fn of_spec(scratch: &Scratch) -> Bundle {
    Bundle::of_spec(scratch.path().join("spec")).args(&["true"])
}

/// What podman writes for a container with its default security and a network of its own.
pub(crate) fn of_podman(scratch: &Scratch) -> Result<Bundle, String> {
    let podman = Podman(scratch.path().join("podman"));
    let bundle = Bundle::of_spec(scratch.path().join("podmans"));
    let rootfs = bundle.rootfs();
    let rootfs = rootfs.to_str().expect("a test's paths are plain text");
    // Its own default limits are above what this user may have to give.
    let limits = [
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
    ];
    let create = ["create", "--network", "none", "--name", NAME, "--rootfs"];
    let [create, network @ ..] = &create;
    let words = [&[*create], &limits[..], network, &[rootfs, "true"]].concat();
    podman.call(&words)?;
    podman.call(&["init", NAME])?;
    let config = podman.config()?;
    let config = own_sources(config, bundle.path());
    podman.call(&["rm", "--force", NAME])?;
    Ok(bundle.edit(|own| *own = config))
}

const NAME: &str = "runvm-bench";

/// A podman with a state of its own below a directory.
struct Podman(PathBuf);

impl Podman {
    fn call(&self, words: &[&str]) -> Result<(), String> {
        let mut command = Command::new("podman");
        for (flag, directory) in [
            ("--root", "root"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
        ] {
            command.arg(flag).arg(self.0.join(directory));
        }
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
        command.args(["--events-backend", "none", "--runtime", "runc"]);
        command.args(words).stdin(Stdio::null());
        let output = command
            .output()
            .map_err(|error| format!("podman: {error}"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// The config.json of its only container.
    fn config(&self) -> Result<Value, String> {
        let containers = self.0.join("root/vfs-containers");
        let entries = fs::read_dir(containers).map_err(|error| error.to_string())?;
        let configs = entries
            .flatten()
            .map(|entry| entry.path().join("userdata/config.json"));
        let text = configs.map(fs::read).find_map(Result::ok);
        let text = text.ok_or("podman wrote no config.json")?;
        serde_json::from_slice(&text).map_err(|error| error.to_string())
    }
}

/// The configuration with copies of what it binds from podman's container, which goes.
fn own_sources(mut config: Value, bundle: &Path) -> Value {
    config["root"]["path"] = json!("rootfs");
    config["linux"]["cgroupsPath"] = json!(format!("/{NAME}"));
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        if mount["type"] != "bind" {
            continue;
        }
        let source = PathBuf::from(mount["source"].as_str().unwrap_or_default());
        let own = bundle.join(source.file_name().unwrap_or_default());
        match source.is_dir() {
            true => fs::create_dir_all(&own).expect("the bundle is writable"),
            false => drop(fs::copy(&source, &own).expect("podman made what it binds")),
        }
        mount["source"] = json!(own);
    }
    config
}
