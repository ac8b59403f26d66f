//! What a container is given and what it is denied.

use std::fs;

use super::{in_cgroup, inspect, remove, sleeper};
use crate::engine::Engine;
use crate::image::NAME;
use crate::{Behaviour, behaviours};

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours![
        limits_are_in_the_cgroup_and_can_be_changed,
        a_container_without_memory_is_killed,
        files_are_copied_in_and_out,
        a_root_is_read_only_and_volumes_are_not,
        the_default_confinement_and_its_exceptions,
        namespaces_are_shared_with_a_container_and_the_host,
    ]
}

fn limits_are_in_the_cgroup_and_can_be_changed(engine: &Engine) {
    let flags = [
        "--memory=64m",
        "--memory-swap=64m",
        "--pids-limit=50",
        "--cpus=0.5",
    ];
    let name = &sleeper(engine, &flags);
    let id = &inspect(engine, name, "{{.Id}}");
    let limit = |v1, v2| in_cgroup(id, v1).or_else(|| in_cgroup(id, v2));
    let memory = || limit("memory.limit_in_bytes", "memory.max");
    let processor = || limit("cpu.cfs_quota_us", "cpu.max");
    assert_eq!(memory().as_deref(), Some("67108864"));
    assert_eq!(limit("pids.max", "pids.max").as_deref(), Some("50"));
    let quota = processor().expect("the container has a cgroup");
    assert!(
        ["50000", "50000 100000"].contains(&quota.as_str()),
        "{quota}"
    );
    let flags = ["--memory=128m", "--memory-swap=128m", "--cpus=0.25"];
    engine
        .call(&[&["update"], &flags[..], &[name]].concat())
        .succeeds();
    assert_eq!(memory().as_deref(), Some("134217728"));
    let quota = processor().expect("the container has a cgroup");
    assert!(
        ["25000", "25000 100000"].contains(&quota.as_str()),
        "{quota}"
    );
    remove(engine, name);
    assert_eq!(in_cgroup(id, "cgroup.procs"), None);
}

fn a_container_without_memory_is_killed(engine: &Engine) {
    let grow = "x=x; while :; do x=$x$x; done";
    let flags = ["--rm", "--memory=32m", "--memory-swap=32m"];
    engine
        .run(&[&flags[..], &[NAME, "sh", "-c", grow]].concat())
        .exits(137);
}

fn files_are_copied_in_and_out(engine: &Engine) {
    let directory = engine.new_directory();
    let (from, to) = (format!("{directory}/from"), format!("{directory}/to"));
    fs::write(&from, "carried\n").expect("the directory is writable");
    let name = &sleeper(engine, &[]);
    engine
        .call(&["cp", &from, &format!("{name}:/tmp/file")])
        .succeeds();
    engine
        .call(&["exec", name, "cat", "/tmp/file"])
        .prints("carried\n");
    engine
        .call(&["exec", name, "cp", "/tmp/file", "/tmp/back"])
        .succeeds();
    engine
        .call(&["cp", &format!("{name}:/tmp/back"), &to])
        .succeeds();
    assert_eq!(fs::read_to_string(to).expect("it is there"), "carried\n");
    remove(engine, name);
}

pub(crate) fn a_root_is_read_only_and_volumes_are_not(engine: &Engine) {
    let directory = engine.new_directory();
    let volume = engine.new_name();
    engine.call(&["volume", "create", &volume]).succeeds();
    let mounts = [
        "--read-only",
        &format!("--volume={volume}:/data"),
        &format!("--volume={directory}:/shown:ro"),
        "--tmpfs=/scratch:size=1m",
    ];
    let script = "for d in / /shown /data /scratch; do touch $d/file 2>/dev/null && echo $d; done
                  grep -c ' /scratch tmpfs .*size=1024k' /proc/mounts";
    let run = |args: &[&str]| engine.run(&[&["--rm"], &mounts[..], &[NAME], args].concat());
    run(&["sh", "-c", script]).prints("/data\n/scratch\n1\n");
    run(&["ls", "/data", "/scratch"]).prints("/data:\nfile\n\n/scratch:\n");
    engine.call(&["volume", "rm", &volume]).succeeds();
}

fn the_default_confinement_and_its_exceptions(engine: &Engine) {
    let script = "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status | tr '\\n\\t' '  '
                  [ -n \"$(cat /proc/keys)\" ] && echo keys; ls /proc/acpi /sys/firmware
                  for w in /proc/sys/kernel/domainname /sys/x; do (echo >$w) 2>/dev/null && echo $w; done
                  mount -t tmpfs tmpfs /mnt 2>/dev/null && echo mounted; echo end";
    let run = |flags: &[&str]| {
        let outcome = engine.run(&[&["--rm"], flags, &[NAME, "sh", "-c", script]].concat());
        outcome.exits(0).output()
    };
    let end = "/proc/acpi:\n\n/sys/firmware:\nend\n";
    assert_eq!(run(&[]), format!("NoNewPrivs: 0 Seccomp: 2 {end}"));
    let flags = ["--security-opt=no-new-privileges"];
    assert_eq!(run(&flags), format!("NoNewPrivs: 1 Seccomp: 2 {end}"));
    let flags = ["--security-opt=seccomp=unconfined"];
    let unconfined = run(&flags);
    assert!(
        unconfined.starts_with("NoNewPrivs: 0 Seccomp: 0 "),
        "{unconfined}"
    );

    let flags = [
        "--rm",
        "--cap-drop=ALL",
        "--cap-add=SYS_TIME",
        "--user=5:6",
        "--group-add=7",
    ];
    let script = "grep CapBnd /proc/self/status; echo $(id -u) $(id -g) $(id -G)";
    engine
        .run(&[&flags[..], &[NAME, "sh", "-c", script]].concat())
        .prints("CapBnd:\t0000000002000000\n5 6 6 7\n");
    let flags = [
        "--rm",
        "--device=/dev/fuse",
        "--ulimit=nofile=512:512",
        "--ulimit=nproc=4096:4096",
        "--oom-score-adj=500",
    ];
    let script = "stat -c %t:%T /dev/fuse; ulimit -n; cat /proc/self/oom_score_adj";
    engine
        .run(&[&flags[..], &[NAME, "sh", "-c", script]].concat())
        .prints("a:e5\n512\n500\n");
}

fn namespaces_are_shared_with_a_container_and_the_host(engine: &Engine) {
    let first = &sleeper(engine, &["--ipc=shareable"]);
    let flags = ["pid", "ipc", "network"].map(|kind| format!("--{kind}=container:{first}"));
    let [pid, ipc, network] = &flags;
    let script = "cat /proc/1/comm; for n in pid ipc net; do
                      [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo $n; done";
    engine
        .run(&[
            "--rm",
            pid,
            ipc,
            network,
            "--cap-add=SYS_PTRACE",
            NAME,
            "sh",
            "-c",
            script,
        ])
        .prints("sleep\n");
    remove(engine, first);
    let flags = ["--rm", "--pid=host", "--uts=host", "--network=host"];
    engine
        .run(&[&flags[..], &[NAME, "cat", "/proc/1/comm"]].concat())
        .prints("catatonit\n");
}
