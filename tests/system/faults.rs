//! Processes killed where it hurts: `list` and `state` say what is, and `delete --force` leaves
//! nothing.

use std::thread;
use std::time::{Duration, Instant};

use runvm_tests::{
    Bundle, Container, Input, Isolation, Process, Running, Runtime, children_of, each_isolation,
    new_container, reap_orphans_of, skip, traces_of, vm_only,
};
use rustix::process::Signal;

each_isolation! {
    a_container_whose_process_is_killed_is_stopped,
    a_killed_run_leaves_a_container_that_can_be_deleted,
    a_create_killed_at_any_moment_can_be_deleted,
}

vm_only! {
    a_microvm_whose_qemu_is_killed_is_stopped,
    a_microvm_whose_guest_resets_it_is_stopped,
}

pub(crate) fn sleeper(runtime: &Runtime) -> Bundle {
    runtime.bundle().shell("sleep 1000 & echo ready; wait")
}

fn a_container_whose_process_is_killed_is_stopped(runtime: &Runtime) {
    for started in [false, true] {
        let mut container = runtime.create(&sleeper(runtime));
        if started {
            container.start();
            container.output().wait_for("ready\n");
        }
        let process = Process::open(container.state().pid).expect("it runs");
        process.signal(Signal::KILL);
        container.finish().exits(137);
        is_stopped_and_goes(runtime, &container);
    }
}

fn a_microvm_whose_qemu_is_killed_is_stopped(runtime: &Runtime) {
    let mut container = runtime.create(&sleeper(runtime));
    container.start();
    container.output().wait_for("ready\n");
    let children = children_of(container.state().pid);
    let is_qemu = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.contains("qemu"))
    };
    let Some(qemu) = children.into_iter().find(is_qemu) else {
        return skip("the microVM runs without QEMU");
    };
    Process::open(qemu).expect("it runs").signal(Signal::KILL);
    let outcome = container.finish();
    assert_ne!(outcome.code, 0, "{outcome}");
    is_stopped_and_goes(runtime, &container);
}

fn a_microvm_whose_guest_resets_it_is_stopped(runtime: &Runtime) {
    // In the guest's own pid namespace to reboot is to end the machine.
    let bundle = without_pid_namespace(runtime.bundle().shell("reboot -f; echo it goes on"));
    let bundle = bundle.edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            let set = config["process"]["capabilities"][set].as_array_mut();
            set.expect("an array").push("CAP_SYS_BOOT".into());
        }
    });
    let mut container = runtime.create(&bundle);
    container.start();
    let outcome = container.finish().exits(137);
    assert_eq!(outcome.output(), "");
    is_stopped_and_goes(runtime, &container);
}

/// Has a bundle's program run in the pid namespace of the runtime or of the guest's agent.
pub(crate) fn without_pid_namespace(bundle: Bundle) -> Bundle {
    bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut();
        namespaces
            .expect("an array")
            .retain(|namespace| namespace["type"] != "pid");
    })
}

#[track_caller]
fn is_stopped_and_goes(runtime: &Runtime, container: &Container<'_>) {
    let state = container.state();
    assert_eq!((state.status.as_str(), state.pid), ("stopped", 0));
    assert_eq!(runtime.ids(), [container.id()]);
    runtime
        .call(["kill", container.id(), "TERM"])
        .refuses(1, &["container not running"]);
    container.delete();
    nothing_is_left(&traces_of(container.id()));
}

fn a_killed_run_leaves_a_container_that_can_be_deleted(runtime: &Runtime) {
    let mut container = runtime.spawn_run(&sleeper(runtime), Input::Null);
    container.output().wait_for("ready\n");
    container.running().process().signal(Signal::KILL);
    assert!(container.running().process().wait_for_end());
    assert_eq!(runtime.ids(), [container.id()]);
    nothing_is_left(&delete_by_force(runtime, container.id(), "run killed"));
}

fn a_create_killed_at_any_moment_can_be_deleted(runtime: &Runtime) {
    if runtime.skips_runc("runc leaves its child behind") {
        return;
    }
    let bundle = sleeper(runtime);
    let begin = Instant::now();
    drop(runtime.create(&bundle));
    let whole = begin.elapsed();
    let times: u32 = if runtime.isolation() == Isolation::Vm {
        6
    } else {
        20
    };
    let mut left = Vec::new();
    for time in 0..times {
        let id = runtime.new_id();
        let create = runtime.command(new_container("create", &bundle, &[], &id));
        let running = Running::spawn(create, Input::Null);
        // There is no event to wait for: any moment is meant.
        thread::sleep(whole * time / times);
        running.process().signal(Signal::KILL);
        assert!(running.process().wait_for_end());
        let when = format!("create killed at {time}/{times} of its time");
        left.extend(delete_by_force(runtime, &id, &when));
    }
    nothing_is_left(&left);
}

/// Deletes what may be there; the answer is what is left nevertheless, a line each.
pub(crate) fn delete_by_force(runtime: &Runtime, id: &str, when: &str) -> Vec<String> {
    let ids = runtime.ids();
    assert!(ids.is_empty() || ids == [id], "{when}: {ids:?}");
    runtime.call(["list"]).succeeds();
    force_delete(runtime, id, when);
    assert_eq!(runtime.ids(), Vec::<String>::new(), "{when}");
    traces_of(id)
        .into_iter()
        .map(|trace| format!("{when}: {trace}"))
        .collect()
}

/// Deletes a container whose processes may have lost their parents, of which this process is the parent
/// then.
pub(crate) fn force_delete(runtime: &Runtime, id: &str, when: &str) {
    let delete = runtime.command(["delete", "--force", id]);
    let delete = Running::spawn(delete, Input::Null);
    while !delete.process().ends_within(Duration::from_millis(10)) {
        reap_orphans_of(id);
    }
    let deleted = delete.finish();
    assert_eq!(deleted.code, 0, "{when}: {deleted}");
}

#[track_caller]
pub(crate) fn nothing_is_left(left: &[String]) {
    assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
}
