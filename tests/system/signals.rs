//! Signals: by `kill`, and through a `run` in the foreground.

use runvm_tests::{Bundle, Input, Runtime, container_only, each_isolation};
use rustix::process::Signal;

each_isolation! {
    a_program_can_catch_signals_and_cannot_catch_sigkill,
    run_forwards_signals_to_the_program,
    run_tells_that_a_signal_killed_the_program,
    what_a_program_leaves_in_the_background_dies_with_it,
}

container_only! {
    without_a_pid_namespace_sigkill_is_for_all,
    what_outlives_the_first_process_can_be_killed,
}

/// Names each signal it gets, and goes on: `wait` is interrupted by them.
const CATCHES: &str = "for s in TERM INT HUP USR1; do trap \"echo got $s\" $s; done
                       sleep 1000 & echo ready; while :; do wait; done";

fn a_program_can_catch_signals_and_cannot_catch_sigkill(runtime: &Runtime) {
    let mut container = runtime.create(&runtime.bundle().shell(CATCHES));
    container.start();
    container.output().wait_for("ready\n");
    // By name with and without SIG, by number, and the default.
    for (word, name) in [
        ("TERM", "TERM"),
        ("SIGHUP", "HUP"),
        ("2", "INT"),
        ("usr1", "USR1"),
    ] {
        container.kill(word);
        container.output().wait_for(&format!("got {name}\n"));
    }
    runtime.call(["kill", container.id()]).succeeds();
    container.output().wait_for("got TERM\n");
    assert_eq!(container.state().status, "running");
    runtime
        .call(["kill", container.id(), "NOSUCH"])
        .refuses(1, &["NOSUCH"]);
    container.kill("KILL");
    container.finish().exits(137);
    assert_eq!(container.state().status, "stopped");
    container.delete();
}

fn run_forwards_signals_to_the_program(runtime: &Runtime) {
    let mut container = runtime.spawn_run(&runtime.bundle().shell(CATCHES), Input::Null);
    container.output().wait_for("ready\n");
    let signals = [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::USR1, "USR1"),
    ];
    for (signal, name) in signals {
        container.running().process().signal(signal);
        container.output().wait_for(&format!("got {name}\n"));
    }
    container.kill("KILL");
    container.finish().exits(137);
}

fn run_tells_that_a_signal_killed_the_program(runtime: &Runtime) {
    // A pid 1 gets no signal it does not catch, but from outside: the shell's child does.
    let bundle = runtime.bundle().shell("sh -c 'kill -TERM $$'; echo $?");
    assert_eq!(runtime.run(&bundle).exits(0).output(), "143\n");
    let bundle = runtime.bundle().shell("echo ready; exec sleep 1000");
    let mut container = runtime.spawn_run(&bundle, Input::Null);
    container.output().wait_for("ready\n");
    container.kill("KILL");
    container.finish().exits(137);
}

fn what_a_program_leaves_in_the_background_dies_with_it(runtime: &Runtime) {
    let bundle = runtime.bundle().shell(
        "setsid sh -c 'trap \"\" HUP TERM; exec sleep 1000 </dev/null >/dev/null 2>&1' &
         echo left it; exit 5",
    );
    // That nothing is left is seen when the test has ended.
    let outcome = runtime.run(&bundle).exits(5);
    assert_eq!(outcome.output(), "left it\n");
}

/// Has it see the host's processes.
fn without_pid_namespace(bundle: Bundle) -> Bundle {
    bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut();
        namespaces
            .expect("an array")
            .retain(|namespace| namespace["type"] != "pid");
    })
}

fn without_a_pid_namespace_sigkill_is_for_all(runtime: &Runtime) {
    if runtime.skips_runc("runc does so since 1.2") {
        return;
    }
    let bundle = without_pid_namespace(runtime.bundle());
    let mut container = runtime.create(&bundle.shell("sleep 1000 & echo ready; wait"));
    container.start();
    container.output().wait_for("ready\n");
    container.kill("KILL");
    // The output ends with the last of them.
    container.finish().exits(137);
    container.delete();
}

fn what_outlives_the_first_process_can_be_killed(runtime: &Runtime) {
    let bundle = without_pid_namespace(runtime.bundle());
    let mut container = runtime.create(&bundle.shell("sleep 1000 & echo ready; exit 3"));
    container.start();
    container.output().wait_for("ready\n");
    assert!(container.running().process().wait_for_end());
    assert_eq!(container.state().status, "stopped");
    let id = container.id().to_owned();
    runtime.call(["kill", "--all", &id, "KILL"]).succeeds();
    container.finish().exits(3);
    // There is nobody left, which is what was asked for.
    runtime.call(["kill", "--all", &id, "KILL"]).succeeds();
    container.delete();
}
