use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use runvm_oci::Plan;
use serde_json::{Value, json};

use super::{GuestConfig, guest_config};

struct Bundle(PathBuf);

impl Bundle {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("runvm-test-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("rootfs")).unwrap();
        Self(path)
    }

    fn config(&self, more: &[(&str, Value)]) -> Result<GuestConfig, String> {
        let mut config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "network"}]},
        });
        for (pointer, value) in more {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[field] = value.clone();
        }
        let bytes = serde_json::to_vec(&config).unwrap();
        let plan = Plan::parse(&bytes, &self.0).map_err(|error| error.to_string())?;
        guest_config(&plan, &bytes).map_err(|error| error.to_string())
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn json_of(config: &GuestConfig) -> Value {
    serde_json::from_slice(&config.json).unwrap()
}

fn bind(source: &Path, options: &[&str]) -> Value {
    json!([{"destination": "/data", "type": "bind", "source": source, "options": options}])
}

#[test]
fn host_paths_become_exports() {
    let bundle = Bundle::new("paths");
    let guest = bundle
        .config(&[("/mounts", bind(&bundle.0, &["rbind", "ro"]))])
        .unwrap();
    let config = json_of(&guest);
    assert_eq!(config["root"]["path"], "/run/runvm/share/rootfs");
    assert_eq!(config["mounts"][0]["source"], "/run/runvm/share/mount-0");
    let exports: Vec<_> = guest
        .exports
        .iter()
        .map(|export| (export.name.as_str(), export.read_only))
        .collect();
    assert_eq!(exports, [("rootfs", false), ("mount-0", true)]);
}

#[test]
fn a_read_only_bind_cannot_be_written_through_its_descriptor() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let bundle = Bundle::new("readonly");
    let guest = bundle
        .config(&[("/mounts", bind(&bundle.0, &["bind", "ro"]))])
        .unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&guest.exports[1].fd);
    let error = fs::write(format!("/proc/self/fd/{fd}/file"), "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn the_guest_gets_its_own_device_for_one_of_the_hosts() {
    let bundle = Bundle::new("device");
    let guest = bundle
        .config(&[("/mounts", bind(Path::new("/dev/zero"), &["bind"]))])
        .unwrap();
    assert_eq!(json_of(&guest)["mounts"][0]["source"], "/dev/zero");
    assert_eq!(guest.exports.len(), 1);
}

#[test]
fn what_is_the_hosts_is_taken_out() {
    let bundle = Bundle::new("host");
    let guest = bundle
        .config(&[
            (
                "/hooks",
                json!({"prestart": [{"path": "/bin/true"}], "poststop": [{"path": "/bin/true"}]}),
            ),
            ("/linux/cgroupsPath", json!("/kubepods/pod1")),
            (
                "/linux/namespaces",
                json!([{"type": "mount"}, {"type": "network", "path": "/var/run/netns/a"}]),
            ),
            (
                "/linux/resources",
                json!({"cpu": {"quota": 50000}, "pids": {"limit": 7}}),
            ),
            ("/process/apparmorProfile", json!("docker-default")),
        ])
        .unwrap();
    let config = json_of(&guest);
    assert_eq!(config["hooks"], json!({}));
    assert_eq!(config["linux"]["namespaces"][1], json!({"type": "network"}));
    assert_eq!(config["linux"]["resources"], json!({"pids": {"limit": 7}}));
    assert!(config["linux"].get("cgroupsPath").is_none());
    assert!(config["process"].get("apparmorProfile").is_none());
    assert_eq!(guest.warnings.len(), 1);
}

#[test]
fn what_a_guest_cannot_have_is_refused_by_field() {
    let bundle = Bundle::new("refused");
    let socket = bundle.0.join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let cases = [
        (
            "/linux/namespaces",
            json!([{"type": "network"}, {"type": "pid", "path": "/proc/1/ns/pid"}]),
            "linux.namespaces[1].path",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "pid"}]),
            "linux.namespaces",
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]),
            "linux.devices[0]",
        ),
        ("/mounts", bind(&socket, &["bind"]), "mounts[0].source"),
        (
            "/mounts",
            bind(Path::new("/nowhere"), &["bind"]),
            "mounts[0].source",
        ),
        (
            "/mounts",
            json!([{"destination": "/d", "type": "ext4", "source": "/dev/sda"}]),
            "mounts[0].type",
        ),
        (
            "/hooks",
            json!({"createContainer": [{"path": "/bin/true"}]}),
            "hooks.createContainer",
        ),
    ];
    for (pointer, value, field) in cases {
        let error = bundle.config(&[(pointer, value)]).unwrap_err();
        assert!(error.contains(field), "{pointer}: {error}");
    }
}
