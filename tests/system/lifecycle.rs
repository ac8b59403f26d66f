//! The operations as separate processes, in the order the specification has and in others.

use std::fs;

use runvm_tests::{Input, Process, Runtime, each_isolation};
use serde_json::{Value, json};

each_isolation! {
    create_start_and_delete_each_do_their_part,
    an_operation_out_of_order_is_refused_and_changes_nothing,
    an_unknown_id_does_not_exist,
    an_id_in_use_is_refused,
    run_in_the_background_leaves_the_container_to_the_caller,
    run_can_keep_the_container,
    a_container_killed_before_its_start_is_stopped,
    list_shows_all_containers,
    delete_by_force_ends_what_runs,
}

fn create_start_and_delete_each_do_their_part(runtime: &Runtime) {
    let pid_file = runtime.path("init.pid");
    let bundle = runtime
        .bundle()
        .edit(|config| config["annotations"] = json!({ "org.example.colour": "green" }))
        .shell("echo started; read line; echo $line; exit 4");
    let flags = ["--pid-file", &pid_file];
    let mut container = runtime.create_with(&bundle, &flags, Input::Pipe);

    let created = container.state();
    assert_eq!(created.status, "created");
    assert_eq!(
        fs::read_to_string(&pid_file).unwrap(),
        created.pid.to_string()
    );
    assert!(Process::open(created.pid).is_some());
    assert_eq!(
        container.output().text(),
        "",
        "nothing of the program's runs before start"
    );
    assert_eq!(created.json["id"], container.id());
    assert_eq!(created.json["bundle"], bundle.path_text());
    assert_eq!(created.json["annotations"]["org.example.colour"], "green");
    assert!(created.json["ociVersion"].is_string());
    if !Runtime::is_runc() {
        let isolation = &created.json["annotations"]["dev.runvm.isolation"];
        assert_eq!(isolation, runtime.isolation().as_str());
    }

    container.start();
    container.output().wait_for("started\n");
    let running = container.state();
    assert_eq!(
        (running.status.as_str(), running.pid),
        ("running", created.pid)
    );

    container.running().write("bye\n");
    let outcome = container.finish().exits(4);
    assert_eq!(
        (outcome.output().as_str(), outcome.errors().as_str()),
        ("started\nbye\n", "")
    );
    let stopped = container.state();
    assert_eq!((stopped.status.as_str(), stopped.pid), ("stopped", 0));

    container.delete();
    runtime
        .call(["state", container.id()])
        .refuses(1, &["does not exist"]);
    assert_eq!(runtime.ids(), Vec::<String>::new());
}

fn an_operation_out_of_order_is_refused_and_changes_nothing(runtime: &Runtime) {
    let mut container = runtime.create(&runtime.bundle().shell("echo ready; exec sleep 1000"));
    let id = container.id().to_owned();
    // runc deletes what has not started; the specification asks for an error.
    if !Runtime::is_runc() {
        runtime.call(["delete", &id]).refuses(1, &["not stopped"]);
    }
    assert_eq!(container.state().status, "created");

    container.start();
    container.output().wait_for("ready\n");
    runtime.call(["start", &id]).refuses(1, &["cannot start"]);
    runtime.call(["delete", &id]).refuses(1, &["not stopped"]);
    assert_eq!(container.state().status, "running");

    container.kill("KILL");
    container.finish().exits(137);
    runtime.call(["start", &id]).refuses(1, &["cannot start"]);
    runtime
        .call(["kill", &id, "TERM"])
        .refuses(1, &["container not running"]);
    container.exec(&["true"]).refuses(255, &["cannot exec"]);
    assert_eq!(container.state().status, "stopped");
    container.delete();
    runtime
        .call(["delete", &id])
        .refuses(1, &["does not exist"]);
    runtime.call(["delete", "--force", &id]).succeeds();
}

fn an_unknown_id_does_not_exist(runtime: &Runtime) {
    let id = &runtime.new_id();
    let rows: [&[&str]; 4] = [
        &["state", id],
        &["start", id],
        &["kill", id, "KILL"],
        &["delete", id],
    ];
    for row in rows {
        runtime.call(row).refuses(1, &["does not exist"]);
    }
    let exec = runtime
        .call(["exec", id, "true"])
        .refuses(255, &["does not exist"]);
    assert_eq!(exec.output(), "");
    runtime.call(["delete", "--force", id]).prints("");
    assert_eq!(runtime.ids(), Vec::<String>::new());
}

fn an_id_in_use_is_refused(runtime: &Runtime) {
    let mut container = runtime.create(&runtime.bundle().shell("echo it lives"));
    let bundle = runtime.bundle();
    let path = bundle.path_text();
    for verb in ["create", "run"] {
        let outcome = runtime.call([verb, "--bundle", path, container.id()]);
        outcome.refuses(1, &["already exists"]);
    }
    container.start();
    assert_eq!(container.finish().exits(0).output(), "it lives\n");
    container.delete();
}

fn run_in_the_background_leaves_the_container_to_the_caller(runtime: &Runtime) {
    let pid_file = runtime.path("init.pid");
    let bundle = runtime.bundle().shell("echo ready; exec sleep 1000");
    let flags = ["--pid-file", &pid_file];
    let mut container = runtime.run_detached(&bundle, &flags);
    container.output().wait_for("ready\n");
    let state = container.state();
    assert_eq!(state.status, "running");
    assert_eq!(
        fs::read_to_string(&pid_file).unwrap(),
        state.pid.to_string()
    );
    container.kill("KILL");
    container.finish().exits(137);
    container.delete();
}

fn run_can_keep_the_container(runtime: &Runtime) {
    if runtime.skips_runc("runc 1.1.5 has --keep, and forgets it where the program fails") {
        return;
    }
    let bundle = runtime.bundle().shell("exit 6");
    let id = runtime.new_id();
    let path = bundle.path_text();
    runtime
        .call(["run", "--keep", "--bundle", path, &id])
        .exits(6);
    assert_eq!(runtime.ids(), [id.as_str()]);
    let state = runtime.call(["state", &id]).succeeds();
    let state: Value = serde_json::from_slice(&state.output).unwrap();
    assert_eq!(
        (&state["status"], &state["pid"]),
        (&json!("stopped"), &json!(0))
    );
    runtime.call(["delete", &id]).succeeds();
}

fn a_container_killed_before_its_start_is_stopped(runtime: &Runtime) {
    let mut container = runtime.create(&runtime.bundle().shell("echo ran"));
    container.kill("KILL");
    assert_eq!(container.finish().exits(137).output(), "");
    assert_eq!(container.state().status, "stopped");
    runtime
        .call(["start", container.id()])
        .refuses(1, &["cannot start"]);
    container.delete();
}

fn list_shows_all_containers(runtime: &Runtime) {
    runtime.call(["list", "--quiet"]).prints("");
    let bundle = runtime.bundle().shell("exec sleep 1000");
    let (one, two) = (runtime.create(&bundle), runtime.create(&bundle));
    one.start();
    assert_eq!(runtime.ids(), [one.id(), two.id()]);

    let list = runtime.call(["list", "--format", "json"]).succeeds();
    let states: Vec<Value> = serde_json::from_slice(&list.output).unwrap();
    let words = states
        .iter()
        .map(|state| (&state["id"], &state["status"], &state["pid"]));
    let (pid_one, pid_two) = (json!(one.state().pid), json!(two.state().pid));
    let expected = [
        (&json!(one.id()), &json!("running"), &pid_one),
        (&json!(two.id()), &json!("created"), &pid_two),
    ];
    assert!(words.eq(expected), "{list}");

    let table = runtime.call(["list"]).succeeds().output();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[0],
        ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    );
    assert_eq!(rows[1][..3], [one.id(), &pid_one.to_string(), "running"]);
    assert_eq!(rows[2][..3], [two.id(), &pid_two.to_string(), "created"]);
    assert_eq!(rows[2][5], "root");
    for container in [one, two] {
        runtime
            .call(["delete", "--force", container.id()])
            .succeeds();
    }
    assert_eq!(runtime.ids(), Vec::<String>::new());
}

fn delete_by_force_ends_what_runs(runtime: &Runtime) {
    let bundle = runtime
        .bundle()
        .shell("trap '' TERM; sleep 1000 & echo ready; wait");
    let mut container = runtime.create(&bundle);
    container.start();
    container.output().wait_for("ready\n");
    runtime
        .call(["delete", "--force", container.id()])
        .prints("");
    container.finish().exits(137);
    runtime
        .call(["state", container.id()])
        .refuses(1, &["does not exist"]);
}
