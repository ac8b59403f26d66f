//! Limits: of memory and of processes.

use std::fs;

use runvm_tests::{Runtime, cgroups_of, container_only, each_isolation};
use serde_json::json;

each_isolation! {
    a_program_cannot_have_more_processes_than_its_limit,
    a_program_that_outgrows_its_memory_is_killed,
}

container_only! {
    a_cgroup_is_where_the_bundle_says,
    limits_are_written_to_the_cgroup,
}

const MIB: u64 = 1 << 20;

fn a_program_cannot_have_more_processes_than_its_limit(runtime: &Runtime) {
    // A shell that cannot fork gives up: the one inside does, and the one outside counts.
    let script = "(i=0; while [ $i -lt 50 ]; do sleep 1000 & i=$((i + 1)); done)
                  set -- /proc/[0-9]*; echo $#";
    let bundle = runtime
        .bundle()
        .edit(|config| config["linux"]["resources"]["pids"] = json!({ "limit": 20 }))
        .shell(script);
    let outcome = runtime.run(&bundle).exits(0);
    let count: u32 = outcome.output().trim().parse().expect("a number");
    assert!((10..=20).contains(&count), "{outcome}");
    assert!(outcome.errors().contains("fork"), "{outcome}");
}

fn a_program_that_outgrows_its_memory_is_killed(runtime: &Runtime) {
    let limited = |script: &str| {
        let limit = json!({ "limit": 64 * MIB, "swap": 64 * MIB });
        let bundle = runtime.bundle().shell(script);
        bundle.edit(|config| config["linux"]["resources"]["memory"] = limit)
    };
    let grow = "x=x; while :; do x=$x$x; done";
    let outcome = runtime
        .run(&limited(&format!("echo ready; {grow}")))
        .exits(137);
    assert_eq!(outcome.output(), "ready\n", "{outcome}");

    // It alone is killed: not its parent, nor the machine around it.
    let outcome = runtime
        .run(&limited(&format!("sh -c '{grow}'; echo $?")))
        .exits(0);
    assert_eq!(outcome.output(), "137\n", "{outcome}");
}

fn a_cgroup_is_where_the_bundle_says(runtime: &Runtime) {
    if runtime.skips_runc("runc leaves the cgroups above the container's behind") {
        return;
    }
    let name = runtime.scratch().name().to_owned();
    for path in [
        format!("/{name}-top/{name}"),
        format!("{name}-below/{name}"),
    ] {
        let bundle = runtime.bundle().args(&["sleep", "1000"]);
        let bundle = bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(path));
        let container = runtime.run_detached(&bundle, &[]);
        let pid = container.state().pid;
        let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        // Relative ones begin at the runtime's own cgroup, or beside it.
        let is_there = |line: &str| match path.strip_prefix('/') {
            Some(_) => line.ends_with(&format!(":{path}")),
            None => line.ends_with(&format!("/{path}")),
        };
        assert!(lines.lines().all(is_there), "{path}:\n{lines}");
        container.end();
    }
}

fn limits_are_written_to_the_cgroup(runtime: &Runtime) {
    let bundle = runtime.bundle().args(&["sleep", "1000"]).edit(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 48 * MIB });
        config["linux"]["resources"]["pids"] = json!({ "limit": 77 });
        config["linux"]["resources"]["cpu"] = json!({ "quota": 25_000, "period": 50_000 });
    });
    let container = runtime.create(&bundle);
    let cgroups = cgroups_of(container.id());
    let read = |file: &str| {
        let texts = cgroups
            .iter()
            .filter_map(|cgroup| fs::read_to_string(cgroup.join(file)).ok());
        texts.map(|text| text.trim().to_owned()).collect::<Vec<_>>()
    };
    let memory = (48 * MIB).to_string();
    if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap() {
        assert_eq!(read("memory.max"), [memory]);
        assert_eq!(read("cpu.max"), ["25000 50000"]);
    } else {
        assert_eq!(read("memory.limit_in_bytes"), [memory]);
        assert_eq!(read("cpu.cfs_quota_us"), ["25000"]);
        assert_eq!(read("cpu.cfs_period_us"), ["50000"]);
    }
    assert_eq!(read("pids.max"), ["77"]);
    let pid = container.state().pid.to_string();
    for cgroup in &cgroups {
        let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
        assert!(
            members.lines().any(|member| member == pid),
            "{}: {members}",
            cgroup.display()
        );
    }
    assert!(!cgroups.is_empty());
}
