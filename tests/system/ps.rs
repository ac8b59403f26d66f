//! `ps`: what runs in a container.

use runvm_tests::{Container, Isolation, Runtime, container_only, each_isolation, vm_only};
use serde_json::Value;

each_isolation! {
    the_pids_of_all_processes_are_told_as_json,
    a_table_shows_the_processes,
}

container_only! {
    the_words_for_ps_make_another_table,
}

vm_only! {
    words_for_ps_are_refused,
}

/// A container of two processes.
fn pair(runtime: &Runtime) -> Container<'_> {
    let script = "sleep 1000 & echo ready; wait";
    let container = runtime.create(&runtime.bundle().shell(script));
    container.start();
    container.output().wait_for("ready\n");
    container
}

fn pids(runtime: &Runtime, container: &Container<'_>) -> Vec<i64> {
    let ps = runtime
        .call(["ps", "--format", "json", container.id()])
        .succeeds();
    let pids: Value = serde_json::from_slice(&ps.output).expect("ps prints JSON");
    // runc has null for none.
    let pids = pids.as_array().cloned().unwrap_or_default();
    pids.iter().filter_map(Value::as_i64).collect()
}

fn the_pids_of_all_processes_are_told_as_json(runtime: &Runtime) {
    let mut container = pair(runtime);
    let pid = container.state().pid;
    let told = pids(runtime, &container);
    assert_eq!(told.len(), 2, "{told:?}");
    // In a microVM they are the guest's.
    if runtime.isolation() == Isolation::Container {
        assert!(told.contains(&pid.into()), "{told:?} without {pid}");
    }
    container.kill("KILL");
    container.finish().exits(137);
    assert_eq!(pids(runtime, &container), [0_i64; 0]);
    container.delete();
    runtime
        .call(["ps", container.id()])
        .refuses(1, &["does not exist"]);
}

fn a_table_shows_the_processes(runtime: &Runtime) {
    let container = pair(runtime);
    let table = runtime.call(["ps", container.id()]).succeeds().output();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    let titles: Vec<&str> = lines[0].split_whitespace().collect();
    let expected = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
    assert_eq!(titles, expected);
    for pid in pids(runtime, &container) {
        let pid = pid.to_string();
        let has_pid = |line: &&str| line.split_whitespace().nth(1) == Some(&pid);
        assert!(lines[1..].iter().any(has_pid), "{table} without {pid}");
    }
    assert!(
        lines[1..].iter().any(|line| line.ends_with(" sleep 1000")),
        "{table}"
    );
    container.end();
}

fn the_words_for_ps_make_another_table(runtime: &Runtime) {
    let container = pair(runtime);
    let pid = container.state().pid.to_string();
    let flags = ["ps", container.id(), "-e", "-o", "pid,args"];
    let table = runtime.call(flags).succeeds().output();
    assert!(
        table
            .lines()
            .any(|line| line.trim_start().starts_with(&pid)),
        "{table}"
    );
    assert_eq!(table.lines().count(), 3, "{table}");
    let flags = ["ps", container.id(), "-e", "-o", "args"];
    runtime.call(flags).refuses(1, &["PID"]);
    container.end();
}

fn words_for_ps_are_refused(runtime: &Runtime) {
    let container = pair(runtime);
    runtime
        .call(["ps", container.id(), "-e", "-o", "pid"])
        .refuses(1, &["arguments for ps", "vm isolation"]);
    container.end();
}
