//! What podman and docker are asked in the same words, and what both leave to the runtime.

use std::fs;

use runvm_tests::{Input, Running, Terminal, cgroups_of};

use crate::engine::Engine;
use crate::image::NAME;
use crate::{Behaviour, behaviours};

pub(crate) fn behaviours() -> Vec<Behaviour> {
    behaviours![
        a_container_runs_and_its_exit_code_is_told,
        input_goes_in_and_output_comes_out,
        a_container_has_a_terminal,
        a_session_at_a_terminal_is_resized_and_interrupted,
        exec_runs_beside_the_program,
        stop_and_kill_reach_the_program,
        a_paused_container_stands_still,
        limits_are_in_the_cgroup_and_can_be_changed,
        files_are_copied_in_and_out,
        a_root_is_read_only_and_volumes_are_not,
        the_default_confinement_and_its_exceptions,
        a_stopped_container_starts_again,
        a_container_without_memory_is_killed,
        namespaces_are_shared_with_a_container_and_the_host,
        an_image_is_built,
    ]
}

/// Starts a container that waits to be ended, in the background. The answer is its name.
#[track_caller]
pub(crate) fn sleeper(engine: &Engine, flags: &[&str]) -> String {
    let name = engine.new_name();
    let detached = ["--detach", "--name", &name];
    engine
        .run(&[&detached[..], flags, &[NAME, "sleep", "1000"]].concat())
        .succeeds();
    name
}

#[track_caller]
pub(crate) fn remove(engine: &Engine, name: &str) {
    engine.call(&["rm", "--force", name]).succeeds();
}

/// One line of what `inspect` tells.
#[track_caller]
pub(crate) fn inspect(engine: &Engine, name: &str, format: &str) -> String {
    let outcome = engine.call(&["inspect", name, "--format", format]);
    outcome.succeeds().output().trim_end().to_owned()
}

fn a_container_runs_and_its_exit_code_is_told(engine: &Engine) {
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

fn input_goes_in_and_output_comes_out(engine: &Engine) {
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

fn a_container_has_a_terminal(engine: &Engine) {
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

fn exec_runs_beside_the_program(engine: &Engine) {
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

fn stop_and_kill_reach_the_program(engine: &Engine) {
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

/// What `file` says in the cgroup of the container `id`, where there is such a file.
fn in_cgroup(id: &str, file: &str) -> Option<String> {
    let mut paths = cgroups_of(id).into_iter().map(|path| path.join(file));
    let text = fs::read_to_string(paths.find(|path| path.exists())?).expect("it can be read");
    Some(text.trim_end().to_owned())
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

fn a_root_is_read_only_and_volumes_are_not(engine: &Engine) {
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

fn a_stopped_container_starts_again(engine: &Engine) {
    let name = &engine.new_name();
    let script = "echo again >>/count; cat /count";
    engine
        .run(&["--name", name, NAME, "sh", "-c", script])
        .prints("again\n");
    let outcome = engine.call(&["start", "--attach", name]);
    outcome.prints("again\nagain\n");
    remove(engine, name);
}

fn a_container_without_memory_is_killed(engine: &Engine) {
    let grow = "x=x; while :; do x=$x$x; done";
    let flags = ["--rm", "--memory=32m", "--memory-swap=32m"];
    engine
        .run(&[&flags[..], &[NAME, "sh", "-c", grow]].concat())
        .exits(137);
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
