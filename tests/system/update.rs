//! `update`: other limits for a container that runs.

use std::fs;

use runvm_tests::{
    Container, Input, Running, Runtime, cgroups_of, container_only, each_isolation, vm_only,
};
use serde_json::json;

each_isolation! {
    a_new_limit_of_processes_holds_at_once,
    what_cannot_be_a_limit_is_refused,
}

container_only! {
    flags_and_documents_change_what_they_name,
    memory_goes_up_and_down,
}

vm_only! {
    a_machine_does_not_grow,
}

const MIB: u64 = 1 << 20;

fn sleeper<'r>(runtime: &'r Runtime, resources: &serde_json::Value) -> Container<'r> {
    let bundle = runtime.bundle().args(&["sleep", "1000"]);
    let bundle = bundle.edit(|config| {
        for (name, value) in resources.as_object().expect("an object") {
            config["linux"]["resources"][name] = value.clone();
        }
    });
    let container = runtime.create(&bundle);
    container.start();
    container
}

#[track_caller]
fn update(runtime: &Runtime, container: &Container<'_>, flags: &[&str]) {
    let words = [&["update"], flags, &[container.id()]].concat();
    runtime.call(words).prints("");
}

fn is_v2() -> bool {
    fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap()
}

/// The content of the file that is `v1` or `v2` in whichever hierarchy it is.
#[track_caller]
fn limit(container: &Container<'_>, v1: &str, v2: &str) -> String {
    let file = if is_v2() { v2 } else { v1 };
    let texts = cgroups_of(container.id());
    let mut texts = texts
        .iter()
        .filter_map(|cgroup| fs::read_to_string(cgroup.join(file)).ok());
    let text = texts.next().unwrap_or_else(|| panic!("there is no {file}"));
    text.trim().to_owned()
}

fn a_new_limit_of_processes_holds_at_once(runtime: &Runtime) {
    let container = sleeper(runtime, &json!({ "pids": { "limit": 10 } }));
    let forks = "i=0; while [ $i -lt 20 ]; do
                     sleep 1000 >/dev/null 2>&1 & i=$((i + 1)); done; echo all
                 kill $(jobs -p)";
    let few = container.exec(&["sh", "-c", forks]);
    assert!(few.errors().contains("fork"), "{few}");
    update(runtime, &container, &["--pids-limit", "100"]);
    container.exec(&["sh", "-c", forks]).prints("all\n");
    container.end();
}

fn what_cannot_be_a_limit_is_refused(runtime: &Runtime) {
    let mut container = sleeper(runtime, &json!({}));
    let id = container.id().to_owned();
    let refuses = |flags: &[&str], words: &[&str]| {
        let outcome = runtime.call([&["update"], flags, &[&id]].concat());
        assert_ne!(outcome.code, 0, "{outcome}");
        for word in words {
            assert!(outcome.errors().contains(word), "{outcome}");
        }
    };
    refuses(&["--memory", "lots"], &["memory", "lots"]);
    refuses(&["--cpu-quota", "1x"], &["cpu-quota", "1x"]);
    refuses(&["--cpuset-cpus", "9999"], &[]);
    refuses(&["--resources", "/no/such"], &["/no/such"]);
    let file = runtime.file("limits.json", "{\"memory\": {\"limit\": \"much\"}}");
    refuses(&["--resources", &file], &[]);
    container.kill("KILL");
    container.finish().exits(137);
    refuses(&["--pids-limit", "5"], &["container not running"]);
    container.delete();
    refuses(&["--pids-limit", "5"], &["does not exist"]);
}

fn flags_and_documents_change_what_they_name(runtime: &Runtime) {
    let resources = json!({
        "pids": { "limit": 77 },
        "cpu": { "quota": 25_000, "period": 50_000, "shares": 1024 },
    });
    let container = sleeper(runtime, &resources);
    let pids = || limit(&container, "pids.max", "pids.max");
    let quota = || {
        let quota = limit(&container, "cpu.cfs_quota_us", "cpu.max");
        quota.split(' ').next().unwrap_or_default().to_owned()
    };

    update(runtime, &container, &["--cpu-period", "100000"]);
    assert_eq!((quota().as_str(), pids().as_str()), ("25000", "77"));
    let period = limit(&container, "cpu.cfs_period_us", "cpu.max");
    assert!(period.ends_with("100000"), "{period}");
    update(
        runtime,
        &container,
        &["--cpu-quota", "-1", "--pids-limit", "20"],
    );
    assert_eq!(pids(), "20");
    assert_eq!(quota(), if is_v2() { "max" } else { "-1" });
    update(runtime, &container, &["--cpuset-cpus", "0"]);
    assert_eq!(limit(&container, "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(pids(), "20");

    let document = json!({ "pids": { "limit": 30 }, "cpu": { "quota": 40_000 } });
    let file = runtime.file("limits.json", &document.to_string());
    update(runtime, &container, &["--resources", &file]);
    assert_eq!((quota().as_str(), pids().as_str()), ("40000", "30"));
    for flag in [&["-r", "-"][..], &["--resources=-"]] {
        let words = [&["update"], flag, &[container.id()]].concat();
        let mut running = Running::spawn(runtime.command(words), Input::Pipe);
        running.write(r#"{"pids": {"limit": 31}}"#);
        running.finish().prints("");
        assert_eq!((quota().as_str(), pids().as_str()), ("40000", "31"));
        update(runtime, &container, &["--pids-limit", "30"]);
    }
    assert_eq!(container.state().status, "running");
    container.end();
}

fn memory_goes_up_and_down(runtime: &Runtime) {
    let limits = json!({ "memory": { "limit": 64 * MIB, "swap": 64 * MIB } });
    let container = sleeper(runtime, &limits);
    let memory = || limit(&container, "memory.limit_in_bytes", "memory.max");
    // Memory is never above memory and swap together: whichever must change first does.
    for (words, mib) in [
        (["--memory", "256M", "--memory-swap", "512m"], 256),
        (["--memory", "32m", "--memory-swap", "33554432"], 32),
        (["--memory", "48MiB", "--memory-swap", "-1"], 48),
    ] {
        update(runtime, &container, &words);
        assert_eq!(memory(), (mib * MIB).to_string());
    }
    update(runtime, &container, &["--memory-reservation", "16M"]);
    let low = limit(&container, "memory.soft_limit_in_bytes", "memory.low");
    assert_eq!(low, (16 * MIB).to_string());
    assert_eq!(memory(), (48 * MIB).to_string());
    container.end();
}

fn a_machine_does_not_grow(runtime: &Runtime) {
    let container = sleeper(runtime, &json!({ "memory": { "limit": 64 * MIB } }));
    let words = ["update", "--memory", "65M", container.id()];
    runtime
        .call(words)
        .refuses(1, &["linux.resources.memory.limit"]);
    update(runtime, &container, &["--memory", "48M"]);
    container.end();
}
