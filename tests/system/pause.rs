//! `pause` and `resume`.

use runvm_tests::{Container, Input, Isolation, Running, Runtime, each_isolation};

each_isolation! {
    a_paused_container_stands_still_until_it_is_resumed,
    pause_and_resume_are_refused_where_they_make_no_sense,
    sigkill_and_delete_by_force_end_a_paused_container,
    another_signal_never_ends_up_lost,
    a_program_can_be_added_to_wait_for_the_resume,
}

/// A container whose program answers each line.
fn echo(runtime: &Runtime) -> Container<'_> {
    let script = "trap 'echo got TERM' TERM
                  echo ready; while :; do read line && echo $line; done";
    let container = runtime.create_with(&runtime.bundle().shell(script), &[], Input::Pipe);
    container.start();
    container.output().wait_for("ready\n");
    container
}

fn pause(runtime: &Runtime, container: &Container<'_>) {
    runtime.call(["pause", container.id()]).prints("");
    assert_eq!(container.state().status, "paused");
}

fn resume(runtime: &Runtime, container: &Container<'_>) {
    runtime.call(["resume", container.id()]).prints("");
    assert_eq!(container.state().status, "running");
}

fn a_paused_container_stands_still_until_it_is_resumed(runtime: &Runtime) {
    let mut container = echo(runtime);
    pause(runtime, &container);
    let pid = container.state().pid;
    assert!(pid > 0);
    let list = runtime.call(["list"]).succeeds().output();
    let line = list.lines().find(|line| line.starts_with(container.id()));
    assert!(line.is_some_and(|line| line.contains(" paused ")), "{list}");
    container.running().write("hello\n");
    container
        .exec(&["true"])
        .refuses(255, &["paused", "--ignore-paused"]);
    assert_eq!(container.output().text(), "ready\n");

    resume(runtime, &container);
    container.output().wait_for("hello\n");
    assert_eq!(container.state().pid, pid);
    container.exec(&["echo", "again"]).prints("again\n");
    container.end();
}

fn pause_and_resume_are_refused_where_they_make_no_sense(runtime: &Runtime) {
    let mut container = echo(runtime);
    let id = container.id().to_owned();
    let call = |verb: &str, words: &[&str]| runtime.call([verb, &id]).refuses(1, words);
    call("resume", &["container not paused"]);
    pause(runtime, &container);
    call("pause", &["container not running"]);
    resume(runtime, &container);
    container.kill("KILL");
    container.finish().exits(137);
    call("pause", &["container not running"]);
    call("resume", &["container not paused"]);
    container.delete();
    call("pause", &["does not exist"]);
    call("resume", &["does not exist"]);
}

fn sigkill_and_delete_by_force_end_a_paused_container(runtime: &Runtime) {
    let mut killed = echo(runtime);
    pause(runtime, &killed);
    killed.kill("KILL");
    killed.finish().exits(137);
    assert_eq!(killed.state().status, "stopped");
    killed.delete();

    let mut deleted = echo(runtime);
    pause(runtime, &deleted);
    let id = deleted.id().to_owned();
    runtime.call(["delete", "--force", &id]).succeeds();
    deleted.finish().exits(137);
    runtime.call(["state", &id]).refuses(1, &["does not exist"]);
}

fn another_signal_never_ends_up_lost(runtime: &Runtime) {
    let container = echo(runtime);
    pause(runtime, &container);
    if runtime.isolation() == Isolation::Vm {
        // The one who would deliver it stands still, too.
        runtime
            .call(["kill", container.id(), "TERM"])
            .refuses(1, &["paused"]);
        resume(runtime, &container);
    } else {
        container.kill("TERM");
        assert_eq!(container.state().status, "paused");
        resume(runtime, &container);
        container.output().wait_for("got TERM\n");
    }
    container.end();
}

fn a_program_can_be_added_to_wait_for_the_resume(runtime: &Runtime) {
    let container = echo(runtime);
    pause(runtime, &container);
    let exec = container.exec_command(&["--ignore-paused"], &["echo", "later"]);
    let exec = Running::spawn(exec, Input::Null);
    resume(runtime, &container);
    exec.finish().prints("later\n");
    container.end();
}
