//! Mounts, devices, hidden paths, the root.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use serde_json::json;

use crate::bundle::{Bundle, With, chain};

crate::tests![
    a_directory_and_a_file_are_bound,
    a_bound_directory_is_read_only_where_asked,
    recursive_attributes_reach_what_is_below,
    a_bind_is_recursive_only_where_asked,
    a_tmpfs_keeps_the_mode_it_covers,
    a_tmpfs_is_filled_by_tmpcopyup,
    a_read_only_tmpfs_can_hold_mount_points,
    options_of_a_file_system_arrive,
    devices_are_as_the_specification_has_them,
    configured_devices_are_made,
    a_multiplexer_among_the_devices_is_the_containers_own,
    masked_and_read_only_paths_are,
    the_root_is_read_only,
    rootfs_propagation_is_set,
    mounts_do_not_come_back_to_the_host,
    cgroups_are_mounted_with_and_without_a_namespace,
    the_root_is_moved_where_it_cannot_be_pivoted,
    a_mount_over_the_root_is_refused,
];

fn a_directory_and_a_file_are_bound() {
    let bundle = Bundle::shell("cat /a/b/dir/inner /c/file");
    let source = bundle.dir.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("inner"), "inner\n").unwrap();
    let bundle = bundle
        .mount(json!({"destination": "/a/b/dir", "source": source, "options": ["bind"]}))
        .mount(
            json!({"destination": "/c/file", "source": source.join("inner"), "options": ["rbind"]}),
        );
    assert_eq!(bundle.run(), "inner\ninner\n");
}

fn a_bound_directory_is_read_only_where_asked() {
    let bundle = Bundle::shell("touch /w/x && ! touch /r/y; grep ' /r ' /proc/self/mounts");
    let source = bundle.dir.join("source");
    fs::create_dir(&source).unwrap();
    let bundle = bundle
        .mount(json!({"destination": "/w", "source": source, "options": ["bind"]}))
        .mount(json!({"destination": "/r", "source": source,
            "options": ["bind", "ro", "nosuid", "nodev", "noexec", "noatime"]}));
    let output = bundle.run();
    assert!(source.join("x").exists() && !source.join("y").exists());
    // A security module may add a word of its own.
    assert!(output.contains(" ro,"), "{output}");
    assert!(output.contains("nosuid,nodev,noexec,noatime"), "{output}");
}

/// A directory with a tmpfs mounted below it, for the while of a test.
pub(crate) struct Nested(std::path::PathBuf);

impl Nested {
    pub(crate) fn new(bundle: &Bundle) -> Self {
        let below = bundle.dir.join("source/below");
        fs::create_dir_all(&below).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &below, "tmpfs", flags, None).unwrap();
        fs::write(below.join("inner"), "inner\n").unwrap();
        Self(below)
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

fn recursive_attributes_reach_what_is_below() {
    let bundle = Bundle::shell("! touch /m/x && ! touch /m/below/y && touch /n/below/z");
    let nested = Nested::new(&bundle);
    let source = bundle.dir.join("source");
    let bundle = bundle
        .mount(json!({"destination": "/m", "source": source, "options": ["rbind", "rro"]}))
        .mount(json!({"destination": "/n", "source": source, "options": ["rbind", "ro"]}));
    bundle.run();
    drop(nested);
}

fn a_bind_is_recursive_only_where_asked() {
    let bundle = Bundle::shell("cat /r/below/inner; ls /b/below");
    let nested = Nested::new(&bundle);
    let source = bundle.dir.join("source");
    let bundle = bundle
        .mount(json!({"destination": "/r", "source": source, "options": ["rbind"]}))
        .mount(json!({"destination": "/b", "source": source, "options": ["bind"]}));
    assert_eq!(bundle.run(), "inner\n");
    drop(nested);
}

fn a_tmpfs_keeps_the_mode_it_covers() {
    use std::os::unix::fs::PermissionsExt;
    let bundle = Bundle::shell("stat -c %a /tmp; stat -c %a /new");
    let tmp = bundle.root().join("tmp");
    fs::create_dir(&tmp).unwrap();
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1703)).unwrap();
    let bundle = bundle
        .mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}))
        .mount(json!({"destination": "/new", "type": "tmpfs", "options": ["mode=711"]}));
    assert_eq!(bundle.run(), "1703\n711\n");
}

fn a_tmpfs_is_filled_by_tmpcopyup() {
    let bundle = Bundle::shell(
        "cd /data; cat dir/file; readlink link; stat -c %a:%u:%g dir/file; touch new; \
         grep -c ' /data tmpfs' /proc/self/mounts",
    );
    let data = bundle.root().join("data");
    fs::create_dir_all(data.join("dir")).unwrap();
    fs::write(data.join("dir/file"), "text\n").unwrap();
    symlink("/etc/passwd", data.join("link")).unwrap();
    let owner = (Some(5), Some(6));
    std::os::unix::fs::chown(data.join("dir/file"), owner.0, owner.1).unwrap();
    let mount = json!({"destination": "/data", "type": "tmpfs", "options": ["tmpcopyup", "ro"]});
    let read_only = "! touch /data/new && cat /data/dir/file";
    let writable = json!({"destination": "/data", "type": "tmpfs", "options": ["tmpcopyup"]});
    let bundle = bundle.mount(writable);
    assert_eq!(bundle.run(), "text\n/etc/passwd\n644:5:6\n1\n");
    assert!(!data.join("new").exists());
    let mut bundle = bundle.set("/process/args", json!(["sh", "-c", read_only]));
    *bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .last_mut()
        .unwrap() = mount;
    assert!(bundle.run().ends_with("text\n"));
}

fn a_read_only_tmpfs_can_hold_mount_points() {
    let bundle = Bundle::shell("touch /m/in/x && ! touch /m/y")
        .mount(json!({"destination": "/m", "type": "tmpfs", "options": ["ro"]}))
        .mount(json!({"destination": "/m/in", "type": "tmpfs"}));
    bundle.run();
}

fn options_of_a_file_system_arrive() {
    let bundle = Bundle::shell("grep ' /m ' /proc/self/mounts").mount(json!({
        "destination": "/m", "type": "tmpfs",
        "options": ["size=64k", "nr_inodes=7", "nosuid", "strictatime", "uid=3"],
    }));
    let output = bundle.run();
    for option in ["size=64k", "nr_inodes=7", "nosuid", "uid=3"] {
        assert!(output.contains(option), "{output}");
    }
    assert!(!output.contains("relatime"), "{output}");
}

fn devices_are_as_the_specification_has_them() {
    let bundle = Bundle::shell(
        "cd /dev; stat -c '%n %t:%T %a' null zero full random urandom tty; \
         for l in fd stdin stdout stderr ptmx; do readlink $l; done; \
         grep -c mqueue /proc/self/mounts; stat -c %a shm",
    );
    assert_eq!(
        bundle.run(),
        "null 1:3 666\nzero 1:5 666\nfull 1:7 666\nrandom 1:8 666\nurandom 1:9 666\ntty 5:0 666\n\
         /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n1\n1777\n"
    );
}

fn a_multiplexer_among_the_devices_is_the_containers_own() {
    let ptmx =
        json!([{"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2, "fileMode": 0o666}]);
    let bundle = || Bundle::shell("readlink /dev/ptmx").set("/linux/devices", ptmx.clone());
    for bundle in [bundle(), bundle().user_namespace()] {
        assert_eq!(bundle.run(), "pts/ptmx\n");
    }
}

fn configured_devices_are_made() {
    let bundle = Bundle::shell("stat -c '%n %t:%T %a %u %g' /dev/fuse /sub/loop; test -p /dev/pipe")
        .set(
            "/linux/devices",
            json!([
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 3, "gid": 4},
                {"path": "/sub/loop", "type": "b", "major": 7, "minor": 1, "fileMode": 0o600},
                {"path": "/dev/pipe", "type": "p"},
            ]),
        );
    assert_eq!(
        bundle.run(),
        "/dev/fuse a:e5 640 3 4\n/sub/loop 7:1 600 0 0\n"
    );
}

fn masked_and_read_only_paths_are() {
    let bundle = Bundle::shell(
        "ls /secret; cat /hidden; ls /secret2; ! touch /secret/x; ! touch /protected/x; \
         stat -c %t:%T /hidden; ! echo 1 > /proc/sys/kernel/domainname; cat /proc/kcore | grep -c .",
    );
    for dir in ["secret", "secret2", "protected"] {
        fs::create_dir(bundle.root().join(dir)).unwrap();
        fs::write(bundle.root().join(dir).join("inner"), "").unwrap();
    }
    fs::write(bundle.root().join("hidden"), "secret").unwrap();
    let mut bundle = bundle;
    let linux = &mut bundle.config["linux"];
    let masked = linux["maskedPaths"].as_array_mut().unwrap();
    masked.extend(
        [
            "/secret",
            "/secret2",
            "/hidden",
            "/not/there",
            "/hidden/below",
        ]
        .map(|p| json!(p)),
    );
    linux["readonlyPaths"]
        .as_array_mut()
        .unwrap()
        .push(json!("/protected"));
    let container = bundle
        .create()
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    container.start();
    let (_, output) = container.finish();
    let is_error = |line: &&str| line.contains(": ");
    let printed: Vec<_> = output.lines().filter(|line| !is_error(line)).collect();
    assert_eq!(printed, ["1:3", "0"], "{output}");
    assert!(
        output.matches("Read-only file system").count() >= 3,
        "{output}"
    );
}

fn the_root_is_read_only() {
    let bundle = Bundle::shell("! touch /x; touch /dev/shm/y").set("/root/readonly", json!(true));
    assert!(bundle.run().contains("Read-only file system"));
    assert!(!bundle.root().join("x").exists());
}

fn rootfs_propagation_is_set() {
    let script = "grep ' / / ' /proc/self/mountinfo || grep 'rootfs / ' /proc/self/mountinfo";
    for (asked, tag) in [("shared", "shared:"), ("unbindable", "unbindable")] {
        let bundle = Bundle::shell(script).set("/linux/rootfsPropagation", json!(asked));
        let output = bundle.run();
        assert!(output.contains(tag), "{asked}: {output}");
    }
    for asked in ["private", "rslave"] {
        let bundle = Bundle::shell(script).set("/linux/rootfsPropagation", json!(asked));
        let output = bundle.run();
        assert!(!output.contains("shared:"), "{asked}: {output}");
    }
}

fn mounts_do_not_come_back_to_the_host() {
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for propagation in ["", "shared", "rshared", "rprivate"] {
        let bundle = Bundle::shell("true").set("/linux/rootfsPropagation", json!(propagation));
        let container = bundle
            .create()
            .unwrap_or_else(|error| panic!("{propagation}: {}", chain(&error)));
        assert_eq!(
            fs::read_to_string("/proc/self/mountinfo").unwrap(),
            before,
            "{propagation}"
        );
        drop(container);
        assert_eq!(
            fs::read_to_string("/proc/self/mountinfo").unwrap(),
            before,
            "{propagation}"
        );
    }
}

fn cgroups_are_mounted_with_and_without_a_namespace() {
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]});
    for own in [None, Some(None)] {
        let mut bundle = Bundle::shell("ls -d /sys/fs/cgroup/*; grep cgroup /proc/self/mounts")
            .namespace("cgroup", own);
        let mounts = bundle.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
        let output = bundle.mount(mount.clone()).run();
        assert!(output.contains("/sys/fs/cgroup/"), "{output}");
        for line in output.lines().filter(|line| line.contains(" cgroup")) {
            assert!(line.contains(" ro,nosuid,nodev,noexec"), "{line}");
        }
    }
}

fn the_root_is_moved_where_it_cannot_be_pivoted() {
    let bundle = Bundle::shell("ls /; test -e /proc/1/status");
    let container = bundle
        .create_with(&With {
            no_pivot: true,
            ..With::default()
        })
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    container.start();
    let (status, output) = container.finish();
    assert_eq!(status.code(), 0, "{output}");
    assert_eq!(output, "bin\ndev\nproc\nsys\n");
}

fn a_mount_over_the_root_is_refused() {
    let bundle = Bundle::shell("").mount(json!({"destination": "/", "type": "tmpfs"}));
    assert!(
        bundle
            .error()
            .contains("cannot mount over the container's root")
    );
    assert_ne!(fs::metadata(bundle.root()).unwrap().ino(), 0);
}
