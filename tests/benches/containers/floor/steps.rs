//! The steps that make the container of a bundle: its config.json as system calls, a line each,
//! the words parted by tabs. [`super::program`] takes them.

use std::fs;
use std::path::Path;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use runvm_tests::Bundle;
use serde_json::Value;

const CGROUP: &str = "runvm-bench-floor";

/// What every container may use (runtime-linux.md, "Default Devices"), as `devices.allow` has it.
const ALLOWED: [&str; 10] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

const DEVICES: [(&str, &str); 6] = [
    ("null", "1 3"),
    ("zero", "1 5"),
    ("full", "1 7"),
    ("random", "1 8"),
    ("urandom", "1 9"),
    ("tty", "5 0"),
];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// The steps for `bundle`, whose mount points exist.
pub(super) fn of(bundle: &Bundle) -> String {
    let text = fs::read(bundle.path().join("config.json")).expect("a bundle has a config.json");
    let config: Value = serde_json::from_slice(&text).expect("it is JSON");
    let rootfs = bundle.rootfs();
    let root = rootfs.to_str().expect("a test's paths are plain text");
    let cgroups = cgroups();
    let mut steps = Steps(String::new());
    steps.make_cgroups(&cgroups);
    steps.clone(&config, &cgroups);
    steps.enter_cgroups(&cgroups);
    steps.take("hostname", &[text_of(&config["hostname"])]);
    steps.begin_root(root);
    for mount in list(&config["mounts"]) {
        steps.mount(mount, root, &cgroups);
    }
    steps.make_devices(root);
    steps.hide(&config["linux"], root);
    steps.take("pivot_root", &[root]);
    if config["root"]["readonly"] == true {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        steps.mount_call("", "/", "", flags, "");
    }
    let args: Vec<&str> = list(&config["process"]["args"]).map(text_of).collect();
    let program = format!("/bin/{}", args[0]);
    steps.take("exec", &[&[program.as_str()], args.as_slice()].concat());
    steps.0
}

/// A directory in one hierarchy.
struct Cgroup {
    /// As it is called below /sys/fs/cgroup; empty on a host of v2 alone.
    hierarchy: String,
    path: String,
    is_v2: bool,
}

/// The container's directories: below this process's own, as all hierarchies take new ones there.
fn cgroups() -> Vec<Cgroup> {
    let own = fs::read_to_string("/proc/self/cgroup").expect("the own cgroups are known");
    let is_unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let lines = own.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let hierarchy = match controllers {
            "" if is_unified => "",
            "" => "unified",
            named => named.trim_start_matches("name="),
        };
        // A process's own cgroup takes no children with controllers on v2.
        let path = if is_unified {
            ""
        } else {
            path.trim_end_matches('/')
        };
        Some(Cgroup {
            hierarchy: hierarchy.to_owned(),
            path: format!("/sys/fs/cgroup/{hierarchy}{path}/{CGROUP}"),
            is_v2: controllers.is_empty(),
        })
    });
    let is_mounted = |cgroup: &Cgroup| {
        Path::new(&cgroup.path)
            .with_file_name("cgroup.procs")
            .exists()
    };
    lines.filter(is_mounted).collect()
}

struct Steps(String);

impl Steps {
    fn take(&mut self, call: &str, words: &[&str]) {
        self.0.push_str(&[&[call], words].concat().join("\t"));
        self.0.push('\n');
    }

    fn make_cgroups(&mut self, cgroups: &[Cgroup]) {
        for Cgroup {
            hierarchy, path, ..
        } in cgroups
        {
            self.take("cgroup", &[path]);
            if hierarchy == "cpuset" {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let above = Path::new(path).with_file_name(file);
                    let above = fs::read_to_string(above).expect("the own cpuset is known");
                    self.take("write", &[&format!("{path}/{file}"), above.trim()]);
                }
            }
            if hierarchy == "devices" {
                self.take("write", &[&format!("{path}/devices.deny"), "a"]);
                for rule in ALLOWED {
                    self.take("write", &[&format!("{path}/devices.allow"), rule]);
                }
            }
        }
    }

    fn clone(&mut self, config: &Value, cgroups: &[Cgroup]) {
        let namespaces = list(&config["linux"]["namespaces"]).map(|namespace| {
            match text_of(&namespace["type"]) {
                "pid" => CloneFlags::CLONE_NEWPID,
                "network" => CloneFlags::CLONE_NEWNET,
                "ipc" => CloneFlags::CLONE_NEWIPC,
                "uts" => CloneFlags::CLONE_NEWUTS,
                "mount" => CloneFlags::CLONE_NEWNS,
                "cgroup" => CloneFlags::CLONE_NEWCGROUP,
                other => panic!("the floor knows no namespace {other}"),
            }
        });
        let flags = namespaces.fold(CloneFlags::empty(), |flags, flag| flags | flag);
        let unified = cgroups.iter().find(|cgroup| cgroup.is_v2);
        let unified = unified.map_or("", |cgroup| &cgroup.path);
        self.take("clone", &[&flags.bits().to_string(), unified]);
    }

    fn enter_cgroups(&mut self, cgroups: &[Cgroup]) {
        for Cgroup { path, .. } in cgroups.iter().filter(|cgroup| !cgroup.is_v2) {
            self.take("write", &[&format!("{path}/tasks"), "0"]);
        }
    }

    fn mount_call(&mut self, source: &str, target: &str, fstype: &str, flags: MsFlags, data: &str) {
        let flags = flags.bits().to_string();
        self.take("mount", &[source, target, fstype, &flags, data]);
    }

    fn begin_root(&mut self, root: &str) {
        self.mount_call("", "/", "", MsFlags::MS_REC | MsFlags::MS_SLAVE, "");
        self.mount_call(root, root, "", MsFlags::MS_REC | MsFlags::MS_BIND, "");
        self.mount_call("", root, "", MsFlags::MS_PRIVATE, "");
    }

    fn mount(&mut self, mount: &Value, root: &str, cgroups: &[Cgroup]) {
        let place = text_of(&mount["destination"]);
        let target = format!("{root}{place}");
        let (flags, data) = options(mount);
        if place.starts_with("/dev/") {
            self.take("mkdir", &[&target]);
        }
        match text_of(&mount["type"]) {
            "bind" => self.bind(text_of(&mount["source"]), &target, flags),
            "cgroup" => self.mount_cgroups(&target, flags, cgroups),
            fstype => self.mount_call(fstype, &target, fstype, flags, &data),
        }
    }

    fn bind(&mut self, source: &str, target: &str, flags: MsFlags) {
        self.mount_call(source, target, "", MsFlags::MS_BIND, "");
        if !flags.is_empty() {
            let flags = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
            self.mount_call("", target, "", flags, "");
        }
    }

    fn mount_cgroups(&mut self, target: &str, flags: MsFlags, cgroups: &[Cgroup]) {
        if let [only] = cgroups {
            return self.bind(&only.path, target, flags);
        }
        self.mount_call(
            "tmpfs",
            target,
            "tmpfs",
            flags - MsFlags::MS_RDONLY,
            "mode=755",
        );
        for Cgroup {
            hierarchy, path, ..
        } in cgroups
        {
            let target = format!("{target}/{hierarchy}");
            self.take("mkdir", &[&target]);
            self.bind(path, &target, flags);
        }
        let flags = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        self.mount_call("", target, "", flags, "");
    }

    fn make_devices(&mut self, root: &str) {
        for (name, number) in DEVICES {
            self.take("mknod", &[&format!("{root}/dev/{name}"), number]);
        }
        for (name, target) in LINKS {
            self.take("symlink", &[target, &format!("{root}/dev/{name}")]);
        }
    }

    /// Masked and read-only paths, as far as this kernel has them.
    fn hide(&mut self, linux: &Value, root: &str) {
        let mut empty = String::new();
        for path in existing(&linux["maskedPaths"]) {
            let target = format!("{root}{path}");
            if !Path::new(path).is_dir() {
                self.bind("/dev/null", &target, MsFlags::empty());
            } else if empty.is_empty() {
                self.mount_call("tmpfs", &target, "tmpfs", MsFlags::MS_RDONLY, "nr_inodes=1");
                empty = target;
            } else {
                self.bind(&empty, &target, MsFlags::empty());
            }
        }
        for path in existing(&linux["readonlyPaths"]) {
            let target = format!("{root}{path}");
            self.bind(&target, &target, MsFlags::MS_RDONLY);
        }
    }
}

/// The flags and the file system's own options of one of `mounts`.
fn options(mount: &Value) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in list(&mount["options"]).map(text_of) {
        match option {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "relatime" => flags |= MsFlags::MS_RELATIME,
            "strictatime" => flags |= MsFlags::MS_STRICTATIME,
            "bind" | "rbind" | "rprivate" => {}
            own => data.push(own),
        }
    }
    (flags, data.join(","))
}

fn existing(paths: &Value) -> impl Iterator<Item = &str> {
    list(paths)
        .map(text_of)
        .filter(|path| Path::new(path).exists())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
