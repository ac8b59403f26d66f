//! `--systemd-cgroup`: containers in scopes of systemd. Where none runs, tests/under-systemd has one.

use std::fs;
use std::process::Command;

use runvm_tests::{Bundle, Container, Runtime, cgroups_of, container_only, each_isolation, skip};
use serde_json::{Value, json};

mod user;

each_isolation! {
    a_container_is_a_scope_in_the_slice_it_names,
    a_creation_that_fails_leaves_no_unit,
}

container_only! {
    without_a_path_the_id_names_the_scope,
    systemd_keeps_the_limits_when_it_is_reloaded,
    systemd_allows_the_devices_of_the_container_alone,
    one_process_may_be_all_that_is_allowed,
    annotations_are_properties_of_the_scope,
    a_scope_of_another_is_left_alone,
    a_path_that_names_no_scope_is_refused,
    without_systemd_its_driver_is_refused,
}

const MIB: u64 = 1 << 20;

/// Whether systemd runs here; says so if not.
fn is_under_systemd(runtime: &Runtime) -> bool {
    runtime.use_systemd_cgroups();
    let is_there = fs::exists("/run/systemd/system").unwrap();
    if !is_there {
        skip("no systemd runs here");
    }
    is_there
}

#[track_caller]
fn systemctl(args: &[&str]) -> String {
    let output = Command::new("systemctl").args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "systemctl {args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[track_caller]
fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, unit])
}

#[track_caller]
fn assert_no_unit(runtime: &Runtime) {
    let pattern = format!("*{}*", runtime.scratch().name());
    let units = systemctl(&["list-units", "--all", "--plain", "--no-legend", &pattern]);
    assert_eq!(units, "");
}

fn sleeper(runtime: &Runtime) -> Bundle {
    runtime.bundle().args(&["sleep", "1000"])
}

/// The name of a scope that no other test has, and a bundle in it.
fn in_scope(runtime: &Runtime, bundle: Bundle) -> (String, Bundle) {
    let name = runtime.scratch().name();
    let path = format!("runvmtests-deep.slice:scope:{name}");
    let bundle = bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(path));
    (format!("scope-{name}.scope"), bundle)
}

fn is_v2() -> bool {
    fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap()
}

/// The content of the file that is `v1` or `v2` in the scope's cgroup.
#[track_caller]
fn limit(unit: &str, v1: &str, v2: &str) -> String {
    let file = if is_v2() { v2 } else { v1 };
    let cgroups = cgroups_of(unit);
    let mut texts = cgroups
        .iter()
        .filter_map(|cgroup| fs::read_to_string(cgroup.join(file)).ok());
    let text = texts.next().unwrap_or_else(|| panic!("there is no {file}"));
    text.trim().to_owned()
}

fn a_container_is_a_scope_in_the_slice_it_names(runtime: &Runtime) {
    if !is_under_systemd(runtime) {
        return;
    }
    let (unit, bundle) = in_scope(runtime, sleeper(runtime));
    let container = runtime.create(&bundle);
    let state = container.state();
    assert!(
        Runtime::is_runc() || state.json["systemd-scope"] == *unit,
        "{}",
        state.json
    );
    assert_eq!(property(&unit, "Slice"), "runvmtests-deep.slice");
    assert_eq!(property(&unit, "Delegate"), "yes");
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", state.pid)).unwrap();
    let path = format!("/runvmtests.slice/runvmtests-deep.slice/{unit}");
    // On v1 runc 1.1 has the devices' elsewhere.
    let ours = |line: &&str| !(Runtime::is_runc() && line.contains(":devices:"));
    let mut lines = cgroups.lines().filter(ours);
    assert!(lines.all(|line| line.ends_with(&path)), "{cgroups}");

    container.start();
    container.exec(&["echo", "beside"]).prints("beside\n");
    runtime.call(["pause", container.id()]).succeeds();
    assert_eq!(container.state().status, "paused");
    runtime.call(["resume", container.id()]).succeeds();
    container.end();
    assert_no_unit(runtime);

    // The name is free again at once.
    runtime
        .run(&bundle.args(&["echo", "again"]))
        .prints("again\n");
}

fn without_a_path_the_id_names_the_scope(runtime: &Runtime) {
    if !is_under_systemd(runtime) {
        return;
    }
    let bundle = runtime.bundle().args(&["true"]);
    let mut container = runtime.create(&bundle);
    let prefix = if Runtime::is_runc() { "runc" } else { "runvm" };
    let unit = format!("{prefix}-{}.scope", container.id());
    assert_eq!(property(&unit, "Slice"), "system.slice");
    container.start();
    container.finish().exits(0);
    container.delete();
    assert_no_unit(runtime);
}

fn a_creation_that_fails_leaves_no_unit(runtime: &Runtime) {
    if !is_under_systemd(runtime) {
        return;
    }
    let bundle = runtime.bundle().args(&["/no/such/program"]);
    let outcome = runtime.run(&bundle);
    assert_ne!(outcome.code, 0, "{outcome}");
    assert_no_unit(runtime);
}

fn limited<'r>(runtime: &'r Runtime, resources: &Value) -> (String, Container<'r>) {
    let (unit, bundle) = in_scope(runtime, sleeper(runtime));
    let bundle = bundle.edit(|config| {
        for (name, value) in resources.as_object().expect("an object") {
            config["linux"]["resources"][name] = value.clone();
        }
    });
    let container = runtime.create(&bundle);
    container.start();
    (unit, container)
}

fn systemd_keeps_the_limits_when_it_is_reloaded(runtime: &Runtime) {
    if !is_under_systemd(runtime) {
        return;
    }
    let resources = json!({
        "memory": { "limit": 48 * MIB, "reservation": 16 * MIB },
        "pids": { "limit": 77 },
        "cpu": { "shares": 512, "quota": 25_000, "period": 50_000, "cpus": "0" },
    });
    let (unit, container) = limited(runtime, &resources);
    let limits = || {
        [
            limit(&unit, "memory.limit_in_bytes", "memory.max"),
            limit(&unit, "pids.max", "pids.max"),
            limit(&unit, "cpu.shares", "cpu.weight"),
            limit(&unit, "cpu.cfs_quota_us", "cpu.max"),
            limit(&unit, "cpuset.cpus", "cpuset.cpus"),
            limit(&unit, "memory.soft_limit_in_bytes", "memory.low"),
        ]
    };
    let memory = if is_v2() { "MemoryMax" } else { "MemoryLimit" };
    let told = || [memory, "TasksMax", "CPUQuotaPerSecUSec"].map(|name| property(&unit, name));
    let bytes = |mib: u64| (mib * MIB).to_string();

    let first = limits();
    assert_eq!(first[..2], [bytes(48), "77".into()]);
    assert_eq!(told(), [bytes(48), "77".into(), "500ms".into()]);
    systemctl(&["daemon-reload"]);
    assert_eq!(limits(), first);

    let flags = [
        "--memory",
        "64M",
        "--memory-swap",
        "64M",
        "--pids-limit",
        "20",
    ];
    let words = [
        &["update"],
        &flags[..],
        &["--cpu-quota", "10000"],
        &[container.id()],
    ];
    runtime.call(words.concat()).prints("");
    let second = limits();
    assert_eq!(second[..2], [bytes(64), "20".into()]);
    assert_eq!(told(), [bytes(64), "20".into(), "200ms".into()]);
    assert_eq!((&second[2], &second[4..]), (&first[2], &first[4..]));
    systemctl(&["daemon-reload"]);
    assert_eq!(limits(), second);
    container.end();
    assert_no_unit(runtime);
}

fn systemd_allows_the_devices_of_the_container_alone(runtime: &Runtime) {
    if !is_under_systemd(runtime) {
        return;
    }
    let full = json!([
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" },
    ]);
    let (unit, container) = limited(runtime, &json!({ "devices": full }));
    assert_eq!(property(&unit, "DevicePolicy"), "strict");
    for _ in 0..2 {
        container.exec(&["sh", "-c", "echo >/dev/null"]).exits(0);
        // The kernel's messages, by a node of the container's own.
        let script = "cd /dev && rm -f kmsg && mknod kmsg c 1 11 && head -c 1 kmsg";
        let outcome = container.exec(&["sh", "-c", script]);
        assert!(outcome.errors().contains("not permitted"), "{outcome}");
        systemctl(&["daemon-reload"]);
    }
    container.end();
}

fn one_process_may_be_all_that_is_allowed(runtime: &Runtime) {
    if !is_under_systemd(runtime) || runtime.skips_runc("it has threads, more than one") {
        return;
    }
    let bundle = runtime.bundle().args(&["echo", "alone"]);
    let bundle = bundle.edit(|config| {
        config["linux"]["resources"]["pids"] = json!({ "limit": 1 });
    });
    runtime.run(&bundle).prints("alone\n");
}

fn annotations_are_properties_of_the_scope(runtime: &Runtime) {
    if !is_under_systemd(runtime) {
        return;
    }
    let annotated = |name: &str, value: &str| {
        let (unit, bundle) = in_scope(runtime, sleeper(runtime));
        let key = format!("org.systemd.property.{name}");
        let bundle = bundle.edit(|config| config["annotations"] = json!({ key: value }));
        (unit, bundle)
    };
    let (unit, bundle) = annotated("TimeoutStopSec", "uint64 7");
    let container = runtime.create(&bundle);
    assert_eq!(property(&unit, "TimeoutStopUSec"), "7s");
    container.start();
    container.end();
    for (name, value) in [("TimeoutStopUSec", "soon"), ("NoSuchProperty", "true")] {
        let (_, bundle) = annotated(name, value);
        let outcome = runtime.run(&bundle).exits(1);
        assert!(outcome.errors().contains(name), "{outcome}");
    }
    assert_no_unit(runtime);
}

fn a_scope_of_another_is_left_alone(runtime: &Runtime) {
    if !is_under_systemd(runtime) || runtime.skips_runc("runc 1.1 moves in") {
        return;
    }
    let (unit, bundle) = in_scope(runtime, sleeper(runtime));
    let option = format!("--unit={unit}");
    let mut other = Command::new("systemd-run")
        .args([
            "--quiet",
            "--scope",
            "--slice=runvmtests-deep.slice",
            &option,
        ])
        .args(["sh", "-c", "echo there; read word"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut there = [0; 6];
    std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut there).unwrap();
    let outcome = runtime.run(&bundle);
    assert_ne!(outcome.code, 0, "{outcome}");
    assert_eq!(property(&unit, "ActiveState"), "active");
    systemctl(&["stop", &unit]);
    other.wait().unwrap();
    assert_no_unit(runtime);
}

fn a_path_that_names_no_scope_is_refused(runtime: &Runtime) {
    runtime.use_systemd_cgroups();
    if runtime.skips_runc("it words it otherwise, and not all are refused") {
        return;
    }
    for path in [
        "/a/b",
        "a.slice:b",
        "a.slice:b:c:d",
        "a:b:c",
        "a/b.slice:b:c",
        "a--b.slice:b:c",
        "a.slice:b:../c",
        "a.slice:b:",
        "a.slice:b:c.slice",
    ] {
        let bundle = sleeper(runtime).edit(|config| config["linux"]["cgroupsPath"] = json!(path));
        let words = ["linux.cgroupsPath", path];
        runtime.run(&bundle).refuses(1, &words);
    }
}

fn without_systemd_its_driver_is_refused(runtime: &Runtime) {
    runtime.use_systemd_cgroups();
    if fs::exists("/run/systemd/system").unwrap() {
        return skip("systemd runs here");
    }
    let outcome = runtime.run(&sleeper(runtime));
    assert_ne!(outcome.code, 0, "{outcome}");
    assert!(outcome.errors().contains("systemd"), "{outcome}");
    if !Runtime::is_runc() {
        outcome.refuses(1, &["--systemd-cgroup", "systemd is not running"]);
    }
}
