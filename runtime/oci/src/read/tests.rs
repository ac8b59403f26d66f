use super::*;
use crate::mount_attr as attr;
use crate::{IdMapping, MountKind, NamespaceKind, PropagationKind, default_config};
use serde_json::{Value, json};

fn base() -> Value {
    let mut config: Value = serde_json::from_str(&default_config(None)).unwrap();
    config["linux"]["namespaces"] = json!([
        {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
        {"type": "user"}, {"type": "time"}, {"type": "cgroup"},
    ]);
    let all = json!([{"containerID": 0, "hostID": 1000, "size": 65536}]);
    config["linux"]["uidMappings"] = all.clone();
    config["linux"]["gidMappings"] = all;
    config
}

fn parse(config: &Value) -> Result<Plan, ConfigError> {
    Plan::parse(config.to_string().as_bytes(), Path::new("/bundle"))
}

/// The base configuration with the value at `pointer` (RFC 6901) replaced.
fn with(pointer: &str, value: Value) -> Value {
    let mut config = base();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = config.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        parent => parent[key] = value,
    }
    config
}

fn without_namespace(kind: &str) -> Value {
    let mut config = base();
    let list = config["linux"]["namespaces"].as_array_mut().unwrap();
    list.retain(|namespace| namespace["type"] != kind);
    config
}

#[track_caller]
fn refused(config: &Value, expected: &str) {
    match parse(config) {
        Ok(_) => panic!("accepted, expected: {expected}"),
        Err(error) => assert!(
            error.to_string().starts_with(expected),
            "got:      {error}\nexpected: {expected}"
        ),
    }
}

#[test]
fn each_wrong_value_is_refused_by_its_field() {
    let big = "x".repeat(300);
    for (pointer, value, expected) in [
        (
            "/ociVersion",
            json!("2.0.0"),
            "ociVersion: \"2.0.0\" is refused: expected a version 1.x.y",
        ),
        ("/ociVersion", json!("1.0"), "ociVersion: \"1.0\""),
        ("/ociVersion", json!("1.0.0.0"), "ociVersion: "),
        ("/ociVersion", json!("10.0.0"), "ociVersion: "),
        ("/ociVersion", json!("1.x.0"), "ociVersion: "),
        ("/ociVersion", json!(null), "ociVersion is missing"),
        ("/root", json!(null), "root is missing"),
        ("/root/path", json!(""), "root.path is missing"),
        (
            "/root/path",
            json!("a\0b"),
            r#"root.path: "a\0b" is refused: expected text without a NUL"#,
        ),
        ("/process", json!(null), "process is missing"),
        ("/process/args", json!([]), "process.args is missing"),
        (
            "/process/args",
            json!(["a", "b\0"]),
            r#"process.args[1]: "b\0""#,
        ),
        (
            "/process/cwd",
            json!("tmp"),
            r#"process.cwd: "tmp" is refused: expected an absolute path"#,
        ),
        ("/process/cwd", json!(null), "process.cwd is missing"),
        ("/process/cwd", json!("/a\0"), "process.cwd: "),
        (
            "/process/env",
            json!(["A=b", "C"]),
            r#"process.env[1]: "C" is refused: expected NAME=value"#,
        ),
        ("/process/env", json!(["=b"]), "process.env[0]: "),
        ("/process/env", json!(["A=\0"]), "process.env[0]: "),
        (
            "/process/user/uid",
            json!("x"),
            r#"process.user.uid: invalid type: string "x", expected u32 (line 1, column "#,
        ),
        (
            "/process/user/uid",
            json!(-1),
            "process.user.uid: invalid value: integer `-1`, expected u32",
        ),
        (
            "/process/user/uid",
            json!(4294967295u32),
            "process.user.uid: 4294967295 is refused",
        ),
        (
            "/process/user/gid",
            json!(4294967295u32),
            "process.user.gid: ",
        ),
        (
            "/process/user/additionalGids",
            json!([4294967295u32]),
            "process.user.additionalGids: ",
        ),
        (
            "/process/user/umask",
            json!(0o1000),
            "process.user.umask: 512",
        ),
        (
            "/process/oomScoreAdj",
            json!(1001),
            "process.oomScoreAdj: 1001 is refused: expected -1000 to 1000",
        ),
        (
            "/process/consoleSize",
            json!({"height": 70000, "width": 1}),
            "process.consoleSize.height: 70000",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
            r#"process.rlimits[0].type: "RLIMIT_X""#,
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]),
            "process.rlimits[0].soft: 2 is refused: expected at most the hard limit, 1",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]),
            "process.rlimits[1].type: RLIMIT_CPU occurs twice",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 1}]),
            "process.rlimits[0]: missing field `hard`",
        ),
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
            "process.ioPriority.priority: 8",
        ),
        (
            "/process/ioPriority",
            json!({"class": "BEST", "priority": 1}),
            "process.ioPriority.class: unknown variant `BEST`",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_OTHER", "nice": 20}),
            "process.scheduler.nice: 20",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_OTHER", "priority": 1}),
            "process.scheduler.priority needs",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_FIFO", "runtime": 1}),
            "process.scheduler.{runtime,deadline,period} needs",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_FIFO", "flags": ["X"]}),
            r#"process.scheduler.flags[0]: "X""#,
        ),
        (
            "/process/execCPUAffinity",
            json!({"initial": "0-"}),
            r#"process.execCPUAffinity.initial: "0-""#,
        ),
        (
            "/linux/namespaces/0",
            json!({"type": "disk"}),
            r#"linux.namespaces[0].type: "disk""#,
        ),
        (
            "/linux/namespaces/0",
            json!({"type": "ipc"}),
            r#"linux.namespaces[2].type: "ipc" occurs twice"#,
        ),
        (
            "/linux/namespaces/0",
            json!({"type": "pid", "path": "proc/1/ns/pid"}),
            "linux.namespaces[0].path: ",
        ),
        ("/hostname", json!(big), "hostname: \"xxxxx"),
        (
            "/linux/uidMappings",
            json!([]),
            "linux.uidMappings is missing",
        ),
        (
            "/linux/uidMappings",
            json!([{"containerID": 0, "hostID": 0, "size": 0}]),
            "linux.uidMappings[0].size: 0",
        ),
        (
            "/linux/gidMappings",
            json!([{"containerID": 0, "hostID": 2, "size": 4294967295u32}]),
            "linux.gidMappings[0].size: ",
        ),
        (
            "/linux/gidMappings",
            json!([{"containerID": 0, "hostID": 0, "size": 10}, {"containerID": 9, "hostID": 100, "size": 1}]),
            "linux.gidMappings[1]: {containerID 9, hostID 100, size 1}",
        ),
        (
            "/linux/gidMappings",
            json!([{"containerID": 0, "hostID": 0, "size": 10}, {"containerID": 10, "hostID": 9, "size": 1}]),
            "linux.gidMappings[1]: ",
        ),
        (
            "/linux/timeOffsets",
            json!({"realtime": {"secs": 1}}),
            r#"linux.timeOffsets: "realtime""#,
        ),
        (
            "/linux/timeOffsets",
            json!({"boottime": {"nanosecs": 1000000000}}),
            "linux.timeOffsets.boottime.nanosecs: ",
        ),
        (
            "/linux/intelRdt",
            json!({"closID": "../x"}),
            r#"linux.intelRdt.closID: "../x""#,
        ),
        (
            "/linux/intelRdt",
            json!({"closID": "mon_groups"}),
            r#"linux.intelRdt.closID: "mon_groups""#,
        ),
        (
            "/linux/intelRdt",
            json!({"schemata": ["L3:0=f", "MB:0=1\nL3:0=0"]}),
            "linux.intelRdt.schemata[1]: ",
        ),
        (
            "/linux/memoryPolicy",
            json!({"nodes": "0"}),
            "linux.memoryPolicy.mode",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_NEAR"}),
            r#"linux.memoryPolicy.mode: "MPOL_NEAR""#,
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND", "nodes": "0-x"}),
            r#"linux.memoryPolicy.nodes: "0-x""#,
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_X"]}),
            r#"linux.memoryPolicy.flags[0]: "MPOL_F_X""#,
        ),
        (
            "/linux/netDevices",
            json!({"a/b": {}}),
            r#"linux.netDevices: "a/b""#,
        ),
        (
            "/linux/netDevices",
            json!({"a": {"name": "x"}, "b": {"name": "x"}}),
            "linux.netDevices.b.name: \"x\" occurs twice",
        ),
        (
            "/linux/devices",
            json!([{"type": "c", "path": "dev/x", "major": 1, "minor": 1}]),
            "linux.devices[0].path: ",
        ),
        (
            "/linux/devices",
            json!([{"type": "a", "path": "/dev/x"}]),
            r#"linux.devices[0].type: "a""#,
        ),
        (
            "/linux/devices",
            json!([{"type": "c", "path": "/dev/x", "major": -1, "minor": 1}]),
            "linux.devices[0].major: -1",
        ),
        (
            "/linux/devices",
            json!([{"type": "c", "path": "/dev/x", "major": 1, "minor": 1048576}]),
            "linux.devices[0].minor: 1048576",
        ),
        (
            "/linux/devices",
            json!([{"type": "b", "path": "/dev/x", "major": 1}]),
            "linux.devices[0].minor is missing",
        ),
        (
            "/linux/maskedPaths",
            json!(["proc"]),
            "linux.maskedPaths[0]: ",
        ),
        (
            "/linux/readonlyPaths",
            json!(["/proc", "x"]),
            "linux.readonlyPaths[1]: ",
        ),
        (
            "/linux/rootfsPropagation",
            json!("shard"),
            r#"linux.rootfsPropagation: "shard""#,
        ),
        (
            "/linux/rootfsPropagation",
            json!("ro"),
            r#"linux.rootfsPropagation: "ro""#,
        ),
        (
            "/linux/cgroupsPath",
            json!("/a/../../b"),
            r#"linux.cgroupsPath: "/a/../../b""#,
        ),
        ("/linux/cgroupsPath", json!("a\0"), "linux.cgroupsPath: "),
        (
            "/linux/sysctl",
            json!({"kernel.core_pattern": "|/x"}),
            r#"linux.sysctl: "kernel.core_pattern""#,
        ),
        (
            "/linux/sysctl",
            json!({"vm.swappiness": "1"}),
            "linux.sysctl: ",
        ),
        (
            "/linux/sysctl",
            json!({"kernel.hostname": "x"}),
            "linux.sysctl: ",
        ),
        (
            "/linux/sysctl",
            json!({"net/../kernel/core_pattern": "x"}),
            "linux.sysctl: ",
        ),
        (
            "/linux/sysctl",
            json!({"net.//.kernel.core_pattern": "x"}),
            "linux.sysctl: ",
        ),
        ("/linux/sysctl", json!({"net": "x"}), "linux.sysctl: "),
        ("/linux/sysctl", json!({"net..x": "x"}), "linux.sysctl: "),
        (
            "/linux/sysctl",
            json!({"net.a.b": "x", "net/a/b": "y"}),
            "linux.sysctl: \"net/a/b\" occurs twice",
        ),
        (
            "/linux/sysctl",
            json!({"net.a": "x\0"}),
            "linux.sysctl.net.a: ",
        ),
        (
            "/linux/resources/devices",
            json!([{"allow": true, "access": "rx"}]),
            r#"linux.resources.devices[0].access: "rx""#,
        ),
        (
            "/linux/resources/devices",
            json!([{"allow": true, "type": "p"}]),
            r#"linux.resources.devices[0].type: "p""#,
        ),
        (
            "/linux/resources/devices",
            json!([{"allow": true, "major": -2}]),
            "linux.resources.devices[0].major: -2",
        ),
        (
            "/linux/resources/hugepageLimits",
            json!([{"pageSize": "../x", "limit": 1}]),
            "linux.resources.hugepageLimits[0].pageSize: ",
        ),
        (
            "/linux/resources/unified",
            json!({"../memory.max": "1"}),
            "linux.resources.unified: ",
        ),
        (
            "/linux/resources/memory",
            json!({"limit": "1"}),
            "linux.resources.memory.limit: invalid type: string \"1\", expected i64",
        ),
        (
            "/linux/resources",
            json!(1),
            "linux.resources: invalid type: integer `1`, expected an object",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_X"}),
            "linux.seccomp.defaultAction: unknown variant",
        ),
        (
            "/hooks",
            json!({"prestart": [{"path": "x"}]}),
            "hooks.prestart[0].path: ",
        ),
        (
            "/hooks",
            json!({"poststop": [{}]}),
            "hooks.poststop[0].path is missing",
        ),
        (
            "/hooks",
            json!({"poststop": [{"path": "/x", "timeout": 0}]}),
            "hooks.poststop[0].timeout: 0",
        ),
        (
            "/hooks",
            json!({"createRuntime": [{"path": "/x", "env": ["X"]}]}),
            "hooks.createRuntime[0].env[0]: ",
        ),
        (
            "/hooks",
            json!({"createContainer": [{"path": "/x", "args": ["\0"]}]}),
            "hooks.createContainer[0].args[0]: ",
        ),
        ("/annotations", json!({"": "x"}), "annotations: "),
        (
            "/annotations",
            json!({"a": 1}),
            "annotations.a: invalid type: integer `1`, expected a string",
        ),
        ("/vm", json!({}), "vm.kernel is missing"),
        ("/vm", json!({"kernel": {"path": "k"}}), "vm.kernel.path: "),
        (
            "/vm",
            json!({"kernel": {"path": "/k", "initrd": "i"}}),
            "vm.kernel.initrd: ",
        ),
        (
            "/vm",
            json!({"kernel": {"path": "/k"}, "hwConfig": {"vcpus": 0}}),
            "vm.hwConfig.vcpus: 0",
        ),
        (
            "/vm",
            json!({"kernel": {"path": "/k"}, "hwConfig": {"memory": 0}}),
            "vm.hwConfig.memory: 0",
        ),
        (
            "/mounts/0",
            json!({"type": "proc"}),
            "mounts[0].destination is missing",
        ),
        (
            "/mounts/0",
            json!({"destination": "/x"}),
            "mounts[0].type is missing",
        ),
        (
            "/mounts/0",
            json!({"destination": "/x\0", "type": "proc"}),
            "mounts[0].destination: ",
        ),
        (
            "/mounts/0",
            json!({"destination": "/x", "options": ["bind"]}),
            "mounts[0].source is missing",
        ),
        (
            "/mounts/0",
            json!({"destination": "/x", "type": "proc", "options": ["a\0"]}),
            "mounts[0].options[0]: ",
        ),
        (
            "/mounts/0",
            json!({"destination": "/x", "type": "proc", "options": ["=a"]}),
            "mounts[0].options[0]: ",
        ),
        (
            "/mounts/0",
            json!({"destination": "/x", "type": "proc", "options": ["tmpcopyup"]}),
            "mounts[0].options: tmpcopyup needs the type tmpfs",
        ),
        (
            "/mounts/0",
            json!({"destination": "/x", "type": "proc", "options": ["idmap"]}),
            "mounts[0].options: idmap needs a bind mount",
        ),
        (
            "/mounts/0",
            json!({"destination": "/x", "source": "/", "options": ["bind"], "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}),
            "mounts[0].uidMappings needs gidMappings",
        ),
    ] {
        refused(&with(pointer, value), expected);
    }
}

#[test]
fn a_memory_policy_is_in_the_kernels_numbers() {
    let policy = json!({"mode": "MPOL_INTERLEAVE", "nodes": "0-1,4",
        "flags": ["MPOL_F_STATIC_NODES"]});
    let plan = parse(&with("/linux/memoryPolicy", policy)).unwrap();
    let policy = plan.memory_policy.unwrap();
    assert_eq!((policy.mode, policy.flags), (3, 1 << 15));
    assert_eq!(policy.nodes, [0, 1, 4]);
}

#[test]
fn what_only_means_something_in_a_namespace_needs_it() {
    for (kind, pointer, value, expected) in [
        (
            "uts",
            "/hostname",
            json!("x"),
            "hostname needs a uts namespace",
        ),
        (
            "uts",
            "/domainname",
            json!("x"),
            "domainname needs a uts namespace",
        ),
        (
            "mount",
            "/linux/maskedPaths",
            json!(["/proc/kcore"]),
            "linux.maskedPaths needs a mount namespace",
        ),
        (
            "user",
            "/linux/uidMappings",
            json!([{"containerID": 0, "hostID": 0, "size": 1}]),
            "linux.uidMappings needs a user namespace",
        ),
        (
            "time",
            "/linux/timeOffsets",
            json!({"monotonic": {"secs": 1}}),
            "linux.timeOffsets needs a new time namespace",
        ),
        (
            "ipc",
            "/linux/sysctl",
            json!({"kernel.shmmax": "1"}),
            "linux.sysctl.kernel.shmmax needs an ipc namespace",
        ),
        (
            "ipc",
            "/linux/sysctl",
            json!({"fs.mqueue.msg_max": "1"}),
            "linux.sysctl.fs.mqueue.msg_max needs an ipc",
        ),
        (
            "network",
            "/linux/sysctl",
            json!({"net.ipv4.ip_forward": "1"}),
            "linux.sysctl.net.ipv4.ip_forward needs a network",
        ),
        (
            "network",
            "/linux/netDevices",
            json!({"eth0": {}}),
            "linux.netDevices needs a network namespace",
        ),
        (
            "uts",
            "/linux/sysctl",
            json!({"kernel.domainname": "1"}),
            "linux.sysctl.kernel.domainname needs a uts",
        ),
    ] {
        let mut config = without_namespace(kind);
        for field in ["hostname", "domainname"] {
            config.as_object_mut().unwrap().remove(field);
        }
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        if kind == "mount" {
            config["linux"]["readonlyPaths"] = json!([]);
        }
        refused(&config, expected);
    }
}

#[test]
fn json_that_is_broken_is_refused_with_its_place() {
    for (bytes, expected) in [
        (
            &b""[..],
            "config.json is not valid JSON: EOF while parsing a value (line 1, column 0)",
        ),
        (
            b"{",
            "config.json is not valid JSON: EOF while parsing an object",
        ),
        (
            b"{\n\"ociVersion\": \"1\" 3}",
            "config.json is not valid JSON: expected `,` or `}` (line 2, column",
        ),
        (b"[]", "config.json: invalid length 0"),
        (
            b"1",
            "config.json: invalid type: integer `1`, expected an object (line 1",
        ),
        (
            b"\xff\xfe{}",
            "config.json is not valid JSON: expected value",
        ),
        (
            b"{\"ociVersion\":\"\xff\"}",
            "config.json is not valid JSON: invalid unicode code point",
        ),
    ] {
        let error = Plan::parse(bytes, Path::new("/b")).unwrap_err().to_string();
        assert!(
            error.starts_with(expected),
            "got: {error}\nexpected: {expected}"
        );
    }
    let deep = "[".repeat(100_000);
    assert!(Plan::parse(deep.as_bytes(), Path::new("/b")).is_err());
}

#[test]
fn an_unknown_capability_is_left_out_with_a_warning() {
    let config = with(
        "/process/capabilities",
        json!({"bounding": ["CAP_KILL", "CAP_NEW"], "ambient": ["kill"]}),
    );
    let plan = parse(&config).unwrap();
    assert_eq!(plan.process.capabilities.unwrap().bounding, 1 << 5);
    assert_eq!(plan.process.capabilities.unwrap().ambient, 0);
    assert_eq!(plan.warnings.len(), 2);
    assert!(plan.warnings[0].starts_with(r#"process.capabilities.bounding[1]: "CAP_NEW""#));
}

#[test]
fn unknown_fields_are_ignored() {
    let mut config = base();
    config["x"] = json!({"y": [1, 2]});
    config["process"]["x"] = json!(1);
    config["linux"]["landlock"] = json!([]);
    assert!(parse(&config).is_ok());
}

#[test]
fn a_container_without_a_linux_section_is_a_plan_without_namespaces() {
    let config = json!({"ociVersion": "1.2.0", "root": {"path": "/r"}, "process": {"cwd": "/", "args": ["x"]}});
    let plan = parse(&config).unwrap();
    assert_eq!(plan.namespaces, []);
    assert_eq!(plan.root.path, Path::new("/r"));
    assert!(!plan.root.readonly);
}

#[test]
fn versions_1_x_are_accepted() {
    for version in ["1.0.0", "1.0.2-dev", "1.1.0+dev", "1.3.0", "1.99.1-rc.1+x"] {
        assert_eq!(
            parse(&with("/ociVersion", json!(version)))
                .unwrap()
                .oci_version,
            version
        );
    }
}

#[test]
fn a_joined_user_namespace_keeps_its_own_mappings() {
    let plan = parse(&with(
        "/linux/namespaces/5",
        json!({"type": "user", "path": "/proc/1/ns/user"}),
    ))
    .unwrap();
    assert_eq!(plan.uid_mappings, []);
    assert_eq!(plan.warnings.len(), 1);
    assert_eq!(plan.namespaces[5].kind, NamespaceKind::User);
}

#[test]
fn sysctls_are_normalised() {
    for (name, dotted, file) in [
        (
            "net.ipv4.ip_forward",
            "net.ipv4.ip_forward",
            "net/ipv4/ip_forward",
        ),
        (
            "net/ipv4/ip_forward",
            "net.ipv4.ip_forward",
            "net/ipv4/ip_forward",
        ),
        (
            "net/ipv4/conf/eno2.100/rp_filter",
            "net.ipv4.conf.eno2/100.rp_filter",
            "net/ipv4/conf/eno2.100/rp_filter",
        ),
        (
            "net.ipv4.conf.eno2/100.rp_filter",
            "net.ipv4.conf.eno2/100.rp_filter",
            "net/ipv4/conf/eno2.100/rp_filter",
        ),
        (
            "kernel.shm_rmid_forced",
            "kernel.shm_rmid_forced",
            "kernel/shm_rmid_forced",
        ),
        (
            "kernel.domainname",
            "kernel.domainname",
            "kernel/domainname",
        ),
    ] {
        let plan = parse(&with("/linux/sysctl", json!({name: "1"}))).unwrap();
        assert_eq!(plan.sysctl.keys().collect::<Vec<_>>(), [dotted]);
        assert_eq!(crate::sysctl_file(dotted), file);
    }
}

fn mount(value: Value) -> (crate::Mount, Vec<String>) {
    let mut plan = parse(&with("/mounts/0", value)).unwrap();
    (plan.mounts.swap_remove(0), plan.warnings)
}

#[test]
fn the_attributes_of_a_mount_follow_from_its_options_in_order() {
    // set, clear, recursively set, recursively cleared.
    for (options, expected) in [
        ("", [0, 0, 0, 0]),
        ("ro nosuid nodev noexec", [0xf, 0, 0, 0]),
        ("ro rw", [0, 1, 0, 0]),
        ("rw ro", [1, 0, 0, 0]),
        ("noatime", [attr::NOATIME, attr::ATIME, 0, 0]),
        ("strictatime", [attr::STRICTATIME, attr::ATIME, 0, 0]),
        ("relatime", [0, attr::ATIME, 0, 0]),
        (
            "noatime strictatime",
            [attr::STRICTATIME, attr::ATIME, 0, 0],
        ),
        ("noatime atime", [0, attr::ATIME, 0, 0]),
        ("strictatime atime", [attr::STRICTATIME, attr::ATIME, 0, 0]),
        ("noatime nostrictatime", [attr::NOATIME, attr::ATIME, 0, 0]),
        (
            "noatime nodiratime",
            [attr::NOATIME | attr::NODIRATIME, attr::ATIME, 0, 0],
        ),
        ("nodiratime diratime", [0, attr::NODIRATIME, 0, 0]),
        ("nosymfollow", [attr::NOSYMFOLLOW, 0, 0, 0]),
        ("rro rnosuid rnodev rnoexec", [0, 0, 0xf, 0]),
        ("rrw", [0, 0, 0, 1]),
        ("rnoatime", [0, 0, attr::NOATIME, attr::ATIME]),
        ("ratime", [0, 0, 0, attr::ATIME]),
        (
            "rstrictatime rnosymfollow",
            [0, 0, attr::STRICTATIME | attr::NOSYMFOLLOW, attr::ATIME],
        ),
        (
            "defaults silent loud iversion noiversion remount",
            [0, 0, 0, 0],
        ),
    ] {
        let words: Vec<&str> = options.split_whitespace().chain(["bind"]).collect();
        let (mount, warnings) =
            mount(json!({"destination": "/x", "source": "/y", "options": words}));
        let got = [
            mount.attr_set,
            mount.attr_clear,
            mount.attr_set_recursive,
            mount.attr_clear_recursive,
        ];
        assert_eq!(got, expected, "{options}");
        assert_eq!(mount.superblock_flags, []);
        assert_eq!(warnings, Vec::<String>::new());
    }
}

#[test]
fn a_file_system_gets_its_flags_and_data() {
    let (mount, _) = mount(json!({
        "destination": "dev/../x/./y", "type": "tmpfs", "source": "shm",
        "options": ["ro", "sync", "async", "lazytime", "mode=755", "size=1k", "noswap", "tmpcopyup", "rshared", "private", ""],
    }));
    assert_eq!(mount.destination, Path::new("/x/y"));
    assert_eq!(
        mount.kind,
        MountKind::FileSystem {
            fstype: "tmpfs".into(),
            source: Some("shm".into())
        }
    );
    assert_eq!(
        mount.superblock_flags,
        [("ro", true), ("sync", false), ("lazytime", true)]
    );
    let data: Vec<_> = mount
        .data
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_deref()))
        .collect();
    assert_eq!(
        data,
        [
            ("mode", Some("755")),
            ("size", Some("1k")),
            ("noswap", None)
        ]
    );
    assert!(mount.copy_up);
    let shared = crate::Propagation {
        kind: PropagationKind::Shared,
        recursive: true,
    };
    let private = crate::Propagation {
        kind: PropagationKind::Private,
        recursive: false,
    };
    assert_eq!(mount.propagation, [shared, private]);
}

#[test]
fn a_bind_mount_is_told_by_its_options_or_type() {
    for (kind, options, recursive) in [
        (json!(null), json!(["bind"]), false),
        (json!("none"), json!(["rbind"]), true),
        (json!("ext4"), json!(["rbind", "bind"]), true),
        (json!("bind"), json!([]), false),
    ] {
        let (mount, _) =
            mount(json!({"destination": "/x", "type": kind, "source": "data", "options": options}));
        assert_eq!(
            mount.kind,
            MountKind::Bind {
                source: "/bundle/data".into(),
                recursive
            }
        );
    }
    for kind in ["cgroup", "cgroup2"] {
        assert_eq!(
            mount(json!({"destination": "/x", "type": kind})).0.kind,
            MountKind::Cgroup
        );
    }
}

#[test]
fn options_without_an_effect_on_a_bind_are_a_warning() {
    let (mount, warnings) =
        mount(json!({"destination": "x", "source": "/", "options": ["bind", "mode=1"]}));
    assert!(mount.data.is_empty());
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("mounts[0].destination: \"x\" is relative"));
}

#[test]
fn ids_of_a_bind_are_mapped_as_asked() {
    let own = json!([{"containerID": 0, "hostID": 7, "size": 1}]);
    for (options, mappings, recursive, count) in [
        (json!(["bind", "idmap"]), json!([]), false, 0),
        (json!(["bind", "ridmap"]), own.clone(), true, 1),
        (json!(["bind"]), own, false, 1),
    ] {
        let (mount, _) = mount(json!({
            "destination": "/x", "source": "/", "options": options, "uidMappings": mappings, "gidMappings": mappings,
        }));
        let idmap = mount.idmap.unwrap();
        assert_eq!(
            (idmap.recursive, idmap.uid_mappings.len()),
            (recursive, count)
        );
        for mapping in idmap.gid_mappings {
            assert_eq!(
                mapping,
                IdMapping {
                    container_id: 0,
                    host_id: 7,
                    size: 1
                }
            );
        }
    }
}

#[test]
fn the_vm_section_becomes_the_plans() {
    let vm = json!({
        "hypervisor": {"path": "/bin/qemu"}, "kernel": {"path": "/k", "parameters": ["a=b"], "initrd": "/i"},
        "hwConfig": {"vcpus": 2, "memory": 1 << 30, "deviceTree": "/dt"},
    });
    let plan = parse(&with("/vm", vm)).unwrap();
    let vm = plan.vm.unwrap();
    assert_eq!((vm.vcpus, vm.memory_bytes), (Some(2), Some(1 << 30)));
    assert_eq!(
        (vm.kernel.to_str(), vm.initrd),
        (Some("/k"), Some("/i".into()))
    );
    assert_eq!(plan.warnings.len(), 2);
}

#[test]
fn a_process_of_its_own_has_the_same_rules() {
    let process = Process::parse(
        br#"{"cwd":"/","args":["id"],"user":{"uid":1,"gid":2,"additionalGids":[3]}}"#,
    )
    .unwrap();
    assert_eq!(
        (
            process.user.uid,
            process.user.gid,
            process.user.additional_gids
        ),
        (1, 2, vec![3])
    );
    for (bytes, expected) in [
        (&b"{}"[..], "process.args is missing"),
        (
            br#"{"cwd":"/","args":[1]}"#,
            "process.args[0]: invalid type: integer `1`, expected a string",
        ),
        (b"[", "process.json is not valid JSON: "),
        (b"3", "process.json: invalid type"),
    ] {
        let error = Process::parse(bytes).unwrap_err().to_string();
        assert!(
            error.starts_with(expected),
            "got: {error}\nexpected: {expected}"
        );
    }
}

#[test]
fn a_bundle_without_a_readable_config_is_refused_by_name() {
    let directory = std::env::temp_dir().join(format!("runvm-test-oci-{}", std::process::id()));
    let read = |bundle: &Path| Plan::read(bundle).map(|_| ()).unwrap_err();
    assert!(matches!(read(&directory), ConfigError::Bundle { .. }));
    std::fs::create_dir(&directory).unwrap();
    assert!(matches!(read(&directory), ConfigError::Read { .. }));
    let config = directory.join("config.json");
    std::fs::create_dir(&config).unwrap();
    assert!(matches!(read(&directory), ConfigError::NotAFile { .. }));
    std::fs::remove_dir(&config).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&config)
            .status()
            .unwrap()
            .success()
    );
    assert!(matches!(read(&directory), ConfigError::NotAFile { .. }));
    std::fs::remove_file(&config).unwrap();
    std::fs::File::create(&config)
        .unwrap()
        .set_len(CONFIG_BYTES_MAX + 1)
        .unwrap();
    assert!(matches!(read(&directory), ConfigError::TooLarge { .. }));
    assert!(matches!(read(&config), ConfigError::Bundle { .. }));
    std::fs::write(&config, default_config(None)).unwrap();
    let (plan, bytes) = Plan::read(&directory).unwrap();
    assert_eq!(plan.root.path, directory.join("rootfs"));
    assert_eq!(bytes, default_config(None).as_bytes());
    std::fs::remove_dir_all(&directory).unwrap();
}

/// A small deterministic generator (xorshift64), so that a failure can be had again.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

#[test]
fn mutated_configs_are_answered_not_panicked_on() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut rich = base();
    rich["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]});
    rich["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.sem": "1 2 3 4"});
    rich["linux"]["devices"] =
        json!([{"type": "c", "path": "/dev/x", "major": 1, "minor": 3, "fileMode": 438}]);
    rich["process"]["execCPUAffinity"] = json!({"initial": "0-3,7", "final": "1"});
    rich["hooks"] =
        json!({"prestart": [{"path": "/x", "args": ["a"], "env": ["A=b"], "timeout": 3}]});
    let text = rich.to_string().into_bytes();
    assert!(Plan::parse(&text, Path::new("/b")).is_ok());
    let pieces: [&[u8]; 12] = [
        b"null",
        b"-1",
        b"18446744073709551616",
        b"\"\\u0000\"",
        b"[]",
        b"{}",
        b"..",
        b"/",
        b"\xc3\xa9",
        b"\"",
        b"4294967295",
        b"1e999",
    ];
    let mut accepted = 0;
    for _ in 0..4000 {
        let mut bytes = text.clone();
        for _ in 0..=numbers.below(3) {
            let at = numbers.below(bytes.len());
            match numbers.below(4) {
                0 => bytes[at] = u8::try_from(numbers.below(256)).unwrap(),
                1 => drop(bytes.drain(at..bytes.len().min(at + numbers.below(40)))),
                2 => bytes.truncate(at.max(1)),
                _ => {
                    drop(bytes.splice(at..at, pieces[numbers.below(pieces.len())].iter().copied()))
                }
            }
            if bytes.is_empty() {
                bytes.push(b'{');
            }
        }
        match Plan::parse(&bytes, Path::new("/b")) {
            Ok(_) => accepted += 1,
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(
        accepted > 0,
        "the mutations are too wild to reach past the JSON"
    );
}

#[test]
fn every_value_of_another_type_is_answered_not_panicked_on() {
    fn pointers(value: &Value, at: String, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => map
                .iter()
                .for_each(|(k, v)| pointers(v, format!("{at}/{k}"), found)),
            Value::Array(list) => list
                .iter()
                .enumerate()
                .for_each(|(i, v)| pointers(v, format!("{at}/{i}"), found)),
            _ => {}
        }
        found.push(at);
    }
    let mut found = Vec::new();
    pointers(&base(), String::new(), &mut found);
    for pointer in found.iter().filter(|pointer| !pointer.is_empty()) {
        for value in [
            json!(null),
            json!(-1),
            json!(1.5),
            json!("\0"),
            json!(""),
            json!([]),
            json!({}),
            json!(true),
            json!(u64::MAX),
        ] {
            let mut config = base();
            *config.pointer_mut(pointer).unwrap() = value;
            let _ = parse(&config);
        }
    }
}
