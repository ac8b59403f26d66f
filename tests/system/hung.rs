//! What does not end by itself: hooks, and guests that stand still.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use runvm_tests::{
    Bundle, Input, Isolation, Process, Running, Runtime, container_only, each_isolation,
    new_container, patience, traces_of, vm_only,
};
use rustix::process::Signal;
use serde_json::json;

use crate::faults::{delete_by_force, nothing_is_left, sleeper, without_pid_namespace};

const PATH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

each_isolation! {
    delete_by_force_ends_a_create_whose_hook_hangs,
    a_create_killed_in_a_hook_leaves_no_hook,
    a_hook_that_hangs_ends_with_its_timeout,
    a_create_that_a_hook_fails_runs_the_poststop_hooks,
    a_run_whose_output_nobody_takes_ends_with_its_container,
    a_signal_that_run_gets_before_there_is_a_program_is_the_programs,
}

container_only! {
    delete_by_force_ends_a_start_whose_hook_hangs,
}

vm_only! {
    a_microvm_that_stands_still_can_be_looked_at_killed_and_deleted,
}

/// A hook that tells its pid to the reader of a FIFO, and does not end.
fn hanging(fifo: &str) -> serde_json::Value {
    let script = format!("echo $$ > {fifo}; sleep 1000");
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script] })
}

/// Makes a FIFO and reads what is told there.
fn listener(fifo: &str) -> Running {
    let made = Command::new("mkfifo").arg(fifo).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo {fifo}");
    let mut cat = Command::new("cat");
    cat.arg(fifo);
    Running::spawn(cat, Input::Null)
}

fn with_hook(runtime: &Runtime, point: &str, hook: serde_json::Value) -> Bundle {
    sleeper(runtime).edit(|config| config["hooks"][point] = json!([hook]))
}

/// Starts to create a container, and returns when its hook hangs.
fn hung_create(runtime: &Runtime) -> (String, Running, Process) {
    let fifo = runtime.path("fifo");
    let listener = listener(&fifo);
    let bundle = with_hook(runtime, "createRuntime", hanging(&fifo));
    let id = runtime.new_id();
    let create = runtime.command(new_container("create", &bundle, &[], &id));
    let create = Running::spawn(create, Input::Null);
    let pid = listener.finish().output();
    let hook = Process::open(pid.trim().parse().expect("a pid")).expect("the hook hangs");
    (id, create, hook)
}

fn delete_by_force_ends_a_create_whose_hook_hangs(runtime: &Runtime) {
    if runtime.skips_runc("runc leaves the hook and what waits for it") {
        return;
    }
    let (id, create, hook) = hung_create(runtime);
    runtime.call(["delete", "--force", &id]).succeeds();
    assert!(hook.wait_for_end());
    create.finish().refuses(1, &["createRuntime hook"]);
    assert_eq!(runtime.ids(), Vec::<String>::new());
    nothing_is_left(&traces_of(&id));
}

fn a_create_killed_in_a_hook_leaves_no_hook(runtime: &Runtime) {
    if runtime.skips_runc("runc's hooks outlive it") {
        return;
    }
    let (id, create, hook) = hung_create(runtime);
    create.process().signal(Signal::KILL);
    assert!(hook.wait_for_end());
    nothing_is_left(&delete_by_force(runtime, &id, "create killed in a hook"));
}

fn a_hook_that_hangs_ends_with_its_timeout(runtime: &Runtime) {
    let hook = json!({ "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1 });
    let bundle = with_hook(runtime, "prestart", hook);
    let id = runtime.new_id();
    let outcome = runtime.call(new_container("create", &bundle, &[], &id));
    assert_eq!(outcome.code, 1, "{outcome}");
    if !Runtime::is_runc() {
        outcome.refuses(1, &["prestart hook", "timeout"]);
    }
    assert_eq!(runtime.ids(), Vec::<String>::new());
}

fn a_create_that_a_hook_fails_runs_the_poststop_hooks(runtime: &Runtime) {
    let marker = runtime.path("poststop");
    let undo = json!({ "path": "/bin/sh", "args": ["sh", "-c", format!("cat > {marker}")] });
    let bundle = with_hook(runtime, "createRuntime", json!({ "path": "/bin/false" }))
        .edit(|config| config["hooks"]["poststop"] = json!([undo]));
    let id = runtime.new_id();
    let outcome = runtime.call(new_container("create", &bundle, &[], &id));
    assert_eq!(outcome.code, 1, "{outcome}");
    let state = fs::read_to_string(&marker).expect("the poststop hook has run");
    let state: serde_json::Value = serde_json::from_str(&state).expect("it got the state");
    assert_eq!(
        (&state["id"], &state["status"]),
        (&json!(id), &json!("stopped"))
    );
}

fn delete_by_force_ends_a_start_whose_hook_hangs(runtime: &Runtime) {
    if runtime.skips_runc("of runc's start, nothing is known when its container is gone") {
        return;
    }
    let bundle = with_hook(runtime, "startContainer", hanging("/tmp/fifo"));
    let fifo = bundle.rootfs().join("tmp/fifo");
    let listener = listener(fifo.to_str().expect("a test's paths are plain text"));
    let container = runtime.create(&bundle);
    let start = Running::spawn(runtime.command(["start", container.id()]), Input::Null);
    listener.finish().succeeds();
    runtime
        .call(["delete", "--force", container.id()])
        .succeeds();
    start.finish().refuses(1, &["cannot start container"]);
    nothing_is_left(&traces_of(container.id()));
}

fn a_signal_that_run_gets_before_there_is_a_program_is_the_programs(runtime: &Runtime) {
    let signals = [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)];
    let count = match runtime.isolation() {
        Isolation::Container => signals.len(),
        Isolation::Vm => 1,
    };
    for (signal, code) in signals.into_iter().take(count) {
        let (up, go_on) = (runtime.path("up"), runtime.path("go-on"));
        let told = listener(&up);
        let script = format!("mkfifo {go_on}; echo > {up}; echo > {go_on}");
        let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": [PATH] });
        // The first process of a pid namespace would ignore the signal.
        let bundle = without_pid_namespace(with_hook(runtime, "createRuntime", hook));
        let mut run = runtime.spawn_run(&bundle, Input::Null);
        told.finish().succeeds();
        run.running().process().signal(signal);
        fs::read(&go_on).expect("the hook waits for a reader");
        run.finish().exits(code);
        for fifo in [up, go_on] {
            fs::remove_file(fifo).expect("it was made");
        }
    }
}

fn a_run_whose_output_nobody_takes_ends_with_its_container(runtime: &Runtime) {
    if runtime.skips_runc("runc waits for a reader") {
        return;
    }
    // A pipe that is full from the start.
    let (_reader, writer) = std::io::pipe().expect("a descriptor is free");
    let size = rustix::pipe::fcntl_setpipe_size(&writer, 4096).expect("a pipe can be small");
    (&writer).write_all(&vec![0; size]).expect("there is room");
    let script = "touch /tmp/up; yes";
    let bundle = runtime.bundle().shell(script).with_terminal().writable();
    let id = runtime.new_id();
    let mut run = runtime.command(new_container("run", &bundle, &[], &id));
    run.stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::null());
    let mut run = Running::spawn_as_is(run);
    let begin = Instant::now();
    while runtime.call(["exec", &id, "test", "-e", "/tmp/up"]).code != 0 {
        assert!(begin.elapsed() < patience(), "it does not come up");
    }
    runtime.call(["kill", &id, "KILL"]).succeeds();
    assert_eq!(run.wait(), 137);
    assert_eq!(runtime.ids(), Vec::<String>::new());
}

fn a_microvm_that_stands_still_can_be_looked_at_killed_and_deleted(runtime: &Runtime) {
    for delete in [false, true] {
        let mut container = runtime.create(&sleeper(runtime));
        container.start();
        container.output().wait_for("ready\n");
        let vmm = Process::open(container.state().pid).expect("it runs");
        vmm.signal(Signal::STOP);
        assert_eq!(container.state().status, "running");
        if delete {
            runtime
                .call(["delete", "--force", container.id()])
                .succeeds();
        } else {
            let exec = container.exec(&["true"]);
            exec.refuses(255, &["the guest does not answer"]);
            container.kill("KILL");
        }
        container.finish().exits(137);
    }
}
