//! State directories and bundles that are not as the runtime left them.

use std::fs;
use std::path::PathBuf;

use runvm_tests::{Container, Runtime, each_isolation, traces_of};
use serde_json::{Value, json};

use crate::faults::{nothing_is_left, sleeper};

each_isolation! {
    a_container_whose_state_is_damaged_can_be_deleted,
    a_container_outlives_its_bundle,
    a_stranger_that_has_the_pid_of_a_container_is_left_alone,
}

fn running<'r>(runtime: &'r Runtime, bundle: &runvm_tests::Bundle) -> Container<'r> {
    let container = runtime.create(bundle);
    container.start();
    container.output().wait_for("ready\n");
    container
}

fn state_file(runtime: &Runtime, container: &Container<'_>) -> PathBuf {
    runtime.root().join(container.id()).join("state.json")
}

fn a_container_whose_state_is_damaged_can_be_deleted(runtime: &Runtime) {
    if runtime.skips_runc("runc cannot delete it") {
        return;
    }
    let other = runtime.create(&sleeper(runtime));
    let container = running(runtime, &sleeper(runtime));
    let id = container.id();
    let path = state_file(runtime, &container);
    let whole = fs::read_to_string(&path).expect("it has a state");
    let half = &whole[..whole.len() / 2];
    for text in ["", "{}", "\0\0\0\0", "[1, 2", half] {
        fs::write(&path, text).expect("it is a file");
        runtime.call(["state", id]).refuses(1, &[id]);
        runtime.call(["delete", id]).refuses(1, &[id]);
        let list = runtime.call(["list"]).succeeds();
        assert!(list.output().contains(other.id()), "{list}");
        assert!(list.errors().contains(id), "{list}");
    }
    runtime.call(["delete", "--force", id]).succeeds();
    assert_eq!(runtime.ids(), [other.id()]);
    nothing_is_left(&traces_of(id));
    // One whose making was cut short right at its begin.
    fs::create_dir(runtime.root().join(id)).expect("the id is free");
    runtime.call(["state", id]).refuses(1, &["does not exist"]);
    runtime.call(["delete", "--force", id]).succeeds();
    assert_eq!(runtime.ids(), [other.id()]);
}

fn a_container_outlives_its_bundle(runtime: &Runtime) {
    let bundle = sleeper(runtime);
    let container = running(runtime, &bundle);
    fs::remove_file(bundle.path().join("config.json")).expect("it is there");
    assert_eq!(container.state().status, "running");
    fs::rename(bundle.path(), runtime.path("moved")).expect("it is a directory");
    assert_eq!(container.state().status, "running");
    container.end();
}

fn a_stranger_that_has_the_pid_of_a_container_is_left_alone(runtime: &Runtime) {
    if runtime.skips_runc("its state has other names") {
        return;
    }
    let container = running(runtime, &sleeper(runtime));
    container.kill("KILL");
    let path = state_file(runtime, &container);
    let mut record: Value = serde_json::from_slice(&fs::read(&path).expect("it has a state"))
        .expect("the state is JSON");
    // The pid of this very process, that would die of the signals below.
    record["process"]["pid"] = json!(std::process::id());
    fs::write(&path, record.to_string()).expect("it is a file");
    let state = container.state();
    assert_eq!((state.status.as_str(), state.pid), ("stopped", 0));
    for signal in ["KILL", "TERM"] {
        let kill = runtime.call(["kill", container.id(), signal]);
        kill.refuses(1, &["container not running"]);
    }
    container.delete();
}
