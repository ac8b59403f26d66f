//! From a container's making to its removal, and what goes in and out meanwhile.

use std::fs;

use runvm_tests::{Input, Running, Terminal};

use super::{in_cgroup, inspect, remove, sleeper};
use crate::engine::Engine;
use crate::image::NAME;
use crate::{Behaviour, behaviours};

pub(super) fn behaviours() -> Vec<Behaviour> {
    behaviours![
        a_container_runs_and_its_exit_code_is_told,
        input_goes_in_and_output_comes_out,
        a_container_has_a_terminal,
        a_session_at_a_terminal_is_resized_and_interrupted,
        exec_runs_beside_the_program,
        stop_and_kill_reach_the_program,
        a_paused_container_stands_still,
        a_stopped_container_starts_again,
        an_image_is_built,
    ]
}

pub(crate) fn a_container_runs_and_its_exit_code_is_told(engine: &Engine) {
    let run = |words: &[&str]| engine.run(&[&["--rm", NAME], words].concat());
    run(&["echo", "hello"]).prints("hello\n");
    run(&["sh", "-c", "exit 7"]).exits(7);
    // The engines tell these by the runtime's words.
    let failures = [
        ("no-such-program", 127, "executable file not found in $PATH"),
        ("/no/such/program", 127, "no such file or directory"),
        ("/etc", 126, "permission denied"),
    ];
    for (program, code, words) in failures {
        let outcome = run(&[program]).exits(code);
        let errors = outcome.errors().to_lowercase();
        assert!(errors.contains(&words.to_lowercase()), "{outcome}");
    }
}

pub(crate) fn input_goes_in_and_output_comes_out(engine: &Engine) {
    let script = "cat; echo error >&2";
    let command = engine.run_command(&["--rm", "--interactive", NAME, "sh", "-c", script]);
    let mut running = Running::spawn(command, Input::Pipe);
    running.write("one\n");
    running.output().wait_for("one\n");
    running.write("two\n");
    let outcome = running.finish().exits(0);
    assert_eq!(
        (outcome.output().as_str(), outcome.errors().as_str()),
        ("one\ntwo\n", "error\n")
    );
}

pub(crate) fn a_container_has_a_terminal(engine: &Engine) {
    let script =
        "tty; readlink -f /proc/self/fd/1; [ /dev/console -ef /dev/pts/0 ] && echo console";
    let outcome = engine.run(&["--rm", "--tty", NAME, "sh", "-c", script]);
    let output = outcome.exits(0).output();
    assert_eq!(output, "/dev/pts/0\r\n/dev/pts/0\r\nconsole\r\n");
}

fn a_session_at_a_terminal_is_resized_and_interrupted(engine: &Engine) {
    let script = "trap 'echo interrupted; exit 9' INT
                  echo ready
                  until [ \"$(stty size)\" = '33 99' ]; do sleep 0.1; done
                  echo resized; while :; do sleep 0.1; done";
    let terminal = Terminal::open(24, 80);
    let command = engine.run_command(&["--rm", "-it", NAME, "sh", "-c", script]);
    let mut session = terminal.run(&command);
    terminal.output().wait_for("ready");
    terminal.resize(33, 99);
    terminal.output().wait_for("resized");
    terminal.type_in("\u{3}");
    terminal.output().wait_for("interrupted");
    assert_eq!(session.wait(), 9);
}

pub(crate) fn exec_runs_beside_the_program(engine: &Engine) {
    let name = &sleeper(engine, &["--hostname", "neighbour"]);
    let exec = |words: &[&str]| engine.call(&[&["exec"], words].concat());
    exec(&[name, "hostname"]).prints("neighbour\n");
    exec(&[name, "sh", "-c", "exit 4"]).exits(4);
    exec(&[name, "sh", "-c", "kill -KILL $$"]).exits(137);
    exec(&["--tty", name, "tty"]).prints("/dev/pts/0\r\n");
    let flags = [
        "--user",
        "12:34",
        "--workdir",
        "/tmp",
        "--env",
        "COLOUR=green",
    ];
    let script = "echo $(id -u):$(id -g) $PWD $COLOUR";
    exec(&[&flags[..], &[name, "sh", "-c", script]].concat()).prints("12:34 /tmp green\n");
    for (program, words) in [
        ("no-such-program", "executable file not found in $PATH"),
        ("/etc", "permission denied"),
    ] {
        let outcome = exec(&[name, program]);
        assert!([126, 127].contains(&outcome.code), "{outcome}");
        let told = format!("{}{}", outcome.output(), outcome.errors()).to_lowercase();
        assert!(told.contains(&words.to_lowercase()), "{outcome}");
    }
    let mut command = Running::spawn(engine.command(&["exec", "-i", name, "cat"]), Input::Pipe);
    command.write("through\n");
    assert_eq!(command.finish().exits(0).output(), "through\n");
    exec(&["--detach", name, "touch", "/dev/shm/there"]).succeeds();
    let wait = "until [ -e /dev/shm/there ]; do sleep 0.1; done";
    exec(&[name, "sh", "-c", wait]).succeeds();
    remove(engine, name);
}

pub(crate) fn stop_and_kill_reach_the_program(engine: &Engine) {
    let script = "trap 'echo one more' USR1; trap 'echo asked to end; exit 3' TERM
                  echo ready; while :; do sleep 0.1; done";
    let name = &engine.new_name();
    let command = engine.run_command(&["--name", name, NAME, "sh", "-c", script]);
    let running = Running::spawn(command, Input::Null);
    running.output().wait_for("ready\n");
    assert_eq!(inspect(engine, name, "{{.State.Status}}"), "running");
    engine.call(&["kill", "--signal", "USR1", name]).succeeds();
    running.output().wait_for("one more\n");
    engine.call(&["stop", name]).succeeds();
    assert_eq!(
        running.finish().exits(3).output(),
        "ready\none more\nasked to end\n"
    );
    let state = "{{.State.Status}} {{.State.ExitCode}}";
    assert_eq!(inspect(engine, name, state), "exited 3");
    let logs = engine.call(&["logs", name]).succeeds().output();
    assert_eq!(logs, "ready\none more\nasked to end\n");
    remove(engine, name);

    let name = &sleeper(engine, &[]);
    engine.call(&["kill", name]).succeeds();
    assert_eq!(engine.call(&["wait", name]).succeeds().output(), "137\n");
    remove(engine, name);
}

fn a_paused_container_stands_still(engine: &Engine) {
    let name = &sleeper(engine, &[]);
    let id = &inspect(engine, name, "{{.Id}}");
    let frozen = |v1, v2| {
        let (v1_file, v2_file) = (
            in_cgroup(id, "freezer.state"),
            in_cgroup(id, "cgroup.freeze"),
        );
        v1_file.as_deref() == Some(v1) || v1_file.is_none() && v2_file.as_deref() == Some(v2)
    };
    engine.call(&["pause", name]).succeeds();
    assert_eq!(inspect(engine, name, "{{.State.Status}}"), "paused");
    assert!(frozen("FROZEN", "1"));
    engine.call(&["unpause", name]).succeeds();
    assert!(frozen("THAWED", "0"));
    engine.call(&["exec", name, "true"]).succeeds();
    remove(engine, name);
}

pub(crate) fn a_stopped_container_starts_again(engine: &Engine) {
    let name = &engine.new_name();
    let script = "echo again >>/count; cat /count";
    engine
        .run(&["--name", name, NAME, "sh", "-c", script])
        .prints("again\n");
    let outcome = engine.call(&["start", "--attach", name]);
    outcome.prints("again\nagain\n");
    remove(engine, name);
}

fn an_image_is_built(engine: &Engine) {
    let directory = engine.new_directory();
    let recipe = format!(
        "FROM {NAME}\nRUN echo built >/file && chown 5:6 /file\nWORKDIR /new/place\nUSER 5:6\n\
         CMD cat /file; pwd; stat -c %u:%g /file\n"
    );
    let file = format!("{directory}/Dockerfile");
    fs::write(&file, recipe).expect("the directory is writable");
    let tag = engine.new_name();
    engine
        .call(&["build", "--tag", &tag, "--file", &file, &directory])
        .succeeds();
    engine
        .run(&["--rm", &tag])
        .prints("built\n/new/place\n5:6\n");
}
