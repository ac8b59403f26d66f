//! buildah, with `--runtime`.

use std::fs;

use runvm_tests::{Input, Outcome, Running, Runtime, Terminal};

use crate::enclosure::Enclosure;
use crate::engine::{Engine, runtime};
use crate::image::{self, NAME};
use crate::{Suite, behaviours};

pub(crate) fn suite() -> Suite {
    let behaviours = behaviours![
        a_command_runs_in_a_working_container,
        a_command_runs_at_a_terminal,
        what_a_command_changes_is_in_the_image,
        a_step_that_fails_ends_a_build,
    ];
    Suite::new("buildah", &["buildah"], start, behaviours)
}

fn start() -> Engine {
    let enclosure = Enclosure::new();
    let archive = image::write(&enclosure.path(""));
    let mut buildah = enclosure.command("buildah");
    buildah
        .args(["--root", &enclosure.path("storage")])
        .args(["--runroot", &enclosure.path("run")])
        .args(["--storage-driver", "overlay"]);
    let state = if Runtime::is_runc() {
        "/run/runc"
    } else {
        "/run/runvm"
    };
    let runtime = format!("--runtime={}", runtime());
    let engine = Engine::new(enclosure, buildah, state).placing(&[&runtime, "--isolation=oci"]);
    engine
        .call(&["pull", "--quiet", &format!("docker-archive:{archive}")])
        .succeeds();
    engine
}

/// Makes a working container. The answer is its name.
#[track_caller]
fn from(engine: &Engine, image: &str) -> String {
    let name = engine.new_name();
    let parent = format!("--cgroup-parent=/{}", engine.enclosure().name());
    let from = ["from", "--pull-never", &parent, "--name", &name, image];
    engine.call(&from).succeeds();
    name
}

#[track_caller]
fn remove(engine: &Engine, name: &str) {
    engine.call(&["rm", name]).succeeds();
}

/// `run`s without a network of its own, which is another test's matter.
#[track_caller]
fn run(engine: &Engine, flags: &[&str], name: &str, args: &[&str]) -> Outcome {
    engine.run(&[&["--network=none"], flags, &[name, "--"], args].concat())
}

fn a_command_runs_in_a_working_container(engine: &Engine) {
    let name = &from(engine, NAME);
    run(engine, &[], name, &["echo", "hello"]).prints("hello\n");
    run(engine, &[], name, &["sh", "-c", "exit 7"]).exits(7);
    for (program, words) in [
        ("no-such-program", "executable file not found in $PATH"),
        ("/etc", "permission denied"),
    ] {
        let outcome = run(engine, &[], name, &[program]).exits(1);
        assert!(outcome.errors().contains(words), "{outcome}");
    }
    let flags = [
        "--user=5:6",
        "--workingdir=/new/place",
        "--env=COLOUR=red",
        "--hostname=site",
    ];
    let script = "echo $(id -u):$(id -g) $PWD $COLOUR $(hostname)";
    run(engine, &flags, name, &["sh", "-c", script]).prints("5:6 /new/place red site\n");
    let command = engine.run_command(&["--network=host", name, "--", "cat"]);
    let mut running = Running::spawn(command, Input::Pipe);
    running.write("through\n");
    assert_eq!(running.finish().exits(0).output(), "through\n");
    remove(engine, name);
}

fn a_command_runs_at_a_terminal(engine: &Engine) {
    let name = &from(engine, NAME);
    let terminal = Terminal::open(24, 80);
    let script = "tty; read line; echo got $line";
    let command = ["--network=none", "--tty", name, "--", "sh", "-c", script];
    let mut session = terminal.run(&engine.run_command(&command));
    terminal.output().wait_for("/dev/pts/0");
    terminal.type_in("words\n");
    terminal.output().wait_for("got words");
    assert_eq!(session.wait(), 0);
    remove(engine, name);
}

fn what_a_command_changes_is_in_the_image(engine: &Engine) {
    let name = &from(engine, NAME);
    run(
        engine,
        &[],
        name,
        &["sh", "-c", "echo changed >/file; chown 5:6 /file"],
    )
    .succeeds();
    let image = format!("localhost/{}", engine.new_name());
    engine.call(&["commit", "--quiet", name, &image]).succeeds();
    let other = &from(engine, &image);
    let outcome = run(
        engine,
        &[],
        other,
        &["sh", "-c", "cat /file; stat -c %u:%g /file"],
    );
    outcome.prints("changed\n5:6\n");
    remove(engine, name);
    remove(engine, other);
}

fn a_step_that_fails_ends_a_build(engine: &Engine) {
    let directory = engine.new_directory();
    let recipe = format!(
        "FROM {NAME}\nRUN grep Seccomp: /proc/self/status\n\
         RUN --mount=type=tmpfs,target=/mnt touch /mnt/file && grep -c ' /mnt tmpfs' /proc/mounts\n\
         RUN exit 5\n"
    );
    let file = format!("{directory}/Containerfile");
    fs::write(&file, recipe).expect("the directory is writable");
    let runtime = format!("--runtime={}", runtime());
    let parent = format!("--cgroup-parent=/{}", engine.enclosure().name());
    let build = [
        "build",
        "--isolation=oci",
        "--network=none",
        &runtime,
        &parent,
    ];
    let outcome = engine.call(&[&build[..], &["--file", &file, &directory]].concat());
    assert!(outcome.output().contains("Seccomp:\t2\n"), "{outcome}");
    assert!(outcome.output().contains("\n1\n"), "{outcome}");
    assert!(outcome.errors().contains("exit status 5"), "{outcome}");
    outcome.exits(5);
}
