//! containerd: its shim for runc with another binary.

use std::fs;

use runvm_tests::{Input, Outcome, Running, Terminal, cgroups_of};

use crate::enclosure::Enclosure;
use crate::engine::{Engine, runtime};
use crate::image::{self, NAME};
use crate::{Suite, behaviours};

pub(crate) fn suite() -> Suite {
    let behaviours = behaviours![
        a_container_runs_and_its_exit_code_is_told,
        a_container_has_a_terminal,
        exec_runs_beside_the_program,
        a_task_is_killed_and_deleted,
        a_task_is_paused_and_resumed,
        a_task_is_limited_and_measured,
        a_task_runs_in_namespaces_of_others,
        a_task_is_as_confined_as_asked,
        all_processes_of_a_task_are_killed,
    ];
    let programs = &["containerd", "containerd-shim-runc-v2", "ctr"];
    Suite::new("containerd", programs, start, behaviours)
}

const CONFIGURATION: &str = r#"
version = 2
root = "DIRECTORY/root"
state = "DIRECTORY/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "DIRECTORY/socket"
[ttrpc]
address = "DIRECTORY/socket.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "DIRECTORY/opt"
"#;

fn start() -> Engine {
    let enclosure = Enclosure::new();
    let archive = image::write(&enclosure.path(""));
    let configuration =
        CONFIGURATION.replace("DIRECTORY", enclosure.path("").trim_end_matches('/'));
    let configuration = enclosure.file("containerd.toml", &configuration);
    let mut containerd = enclosure.command("containerd");
    containerd.args(["--config", &configuration]);
    let daemon = Running::spawn(containerd, Input::Null);
    daemon.errors().wait_for("successfully booted");

    let mut ctr = enclosure.command("ctr");
    // Where the client has no other flag for it, a container's cgroup is below its containerd namespace's name.
    ctr.args(["--address", &enclosure.path("socket")])
        .args(["--namespace", enclosure.name()]);
    let state = format!("/run/containerd/runc/{}", enclosure.name());
    let engine = Engine::new(enclosure, ctr, &state)
        .placing(&["--runc-binary", &runtime()])
        .served_by(daemon);
    engine.call(&["image", "import", &archive]).succeeds();
    engine
}

/// Runs a container whose program is a script, to its end. The client may end before it has passed on the last
/// of the output, so the script's is a file.
#[track_caller]
fn run(engine: &Engine, flags: &[&str], script: &str) -> (Outcome, String) {
    let directory = engine.new_directory();
    let mount = format!("type=bind,src={directory},dst=/out,options=rbind:rw");
    let script = format!("exec >/out/output 2>&1; {script}");
    let name = engine.new_name();
    let words = [NAME, &name, "sh", "-c", &script];
    let outcome = engine.run(&[&["--rm", "--mount", &mount], flags, &words[..]].concat());
    let output = fs::read_to_string(format!("{directory}/output")).unwrap_or_default();
    (outcome, output)
}

#[track_caller]
fn prints(engine: &Engine, flags: &[&str], script: &str, text: &str) {
    let (outcome, output) = run(engine, flags, script);
    assert_eq!(output, text, "{outcome}");
    outcome.succeeds();
}

#[track_caller]
fn sleeper(engine: &Engine, flags: &[&str]) -> String {
    let name = engine.new_name();
    let words = [NAME, &name, "sleep", "1000"];
    engine
        .run(&[&["--detach", "--null-io"], flags, &words[..]].concat())
        .succeeds();
    name
}

#[track_caller]
fn remove(engine: &Engine, name: &str) {
    engine.call(&["task", "rm", "--force", name]);
    engine.call(&["container", "rm", name]).succeeds();
}

/// What the list of tasks says of one.
#[track_caller]
fn status(engine: &Engine, name: &str) -> Option<String> {
    let list = engine.call(&["task", "ls"]).succeeds().output();
    let line = list.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().last()?.to_owned())
}

fn a_container_runs_and_its_exit_code_is_told(engine: &Engine) {
    prints(engine, &["--env", "COLOUR=red"], "echo $COLOUR", "red\n");
    run(engine, &[], "exit 7").0.exits(7);
    for (program, words) in [
        ("no-such-program", "executable file not found in $PATH"),
        ("/etc", "permission denied"),
    ] {
        let name = engine.new_name();
        let outcome = engine.run(&["--rm", NAME, &name, program]).exits(1);
        // The shim has it from the runtime's log.
        assert!(
            outcome.errors().contains("OCI runtime create failed"),
            "{outcome}"
        );
        assert!(outcome.errors().contains(words), "{outcome}");
    }
    // Images name working directories that they do not have.
    prints(engine, &["--cwd", "/new/place"], "pwd", "/new/place\n");
    prints(engine, &["--no-pivot"], "ls -d /bin", "/bin\n");
}

fn a_container_has_a_terminal(engine: &Engine) {
    let script = "trap 'exit 9' INT; tty; read line; echo got $line
                  until [ \"$(stty size)\" = '33 99' ]; do sleep 0.1; done
                  echo resized; while :; do sleep 0.1; done";
    let terminal = Terminal::open(24, 80);
    let name = engine.new_name();
    let command = engine.run_command(&["--rm", "--tty", NAME, &name, "sh", "-c", script]);
    let mut session = terminal.run(&command);
    terminal.output().wait_for("/dev/pts/0");
    terminal.type_in("words\n");
    terminal.output().wait_for("got words");
    terminal.resize(33, 99);
    terminal.output().wait_for("resized");
    terminal.type_in("\u{3}");
    assert_eq!(session.wait(), 9);
}

fn exec_runs_beside_the_program(engine: &Engine) {
    let directory = engine.new_directory();
    let mount = format!("type=bind,src={directory},dst=/out,options=rbind:rw");
    let name = &sleeper(engine, &["--mount", &mount]);
    let exec = |id: &str, flags: &[&str], args: &[&str]| {
        let exec = ["task", "exec", "--exec-id", id];
        engine.call(&[&exec[..], flags, &[name], args].concat())
    };
    let script = "echo $(cat /proc/1/comm) $(id -u) $PWD >/out/exec; exit 4";
    exec("one", &["--cwd=/tmp"], &["sh", "-c", script]).exits(4);
    let output = fs::read_to_string(format!("{directory}/exec")).expect("it was written");
    assert_eq!(output, "sleep 0 /tmp\n");
    exec("two", &["--user=12"], &["sh", "-c", "exit $(id -u)"]).exits(12);
    for (id, program, words) in [
        (
            "three",
            "no-such-program",
            "executable file not found in $PATH",
        ),
        ("four", "/etc", "permission denied"),
    ] {
        let outcome = exec(id, &[], &[program]).exits(1);
        assert!(outcome.errors().contains(words), "{outcome}");
    }
    let terminal = Terminal::open(24, 80);
    let tty = [
        "task",
        "exec",
        "--tty",
        "--exec-id=five",
        name,
        "sh",
        "-c",
        "tty; read line; exit 6",
    ];
    let mut session = terminal.run(&engine.command(&tty));
    terminal.output().wait_for("/dev/pts/0");
    terminal.type_in("\n");
    assert_eq!(session.wait(), 6);
    remove(engine, name);
}

fn a_task_is_killed_and_deleted(engine: &Engine) {
    let name = &engine.new_name();
    let script = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let command = engine.run_command(&[NAME, name, "sh", "-c", script]);
    let running = Running::spawn(command, Input::Null);
    running.output().wait_for("ready\n");
    assert_eq!(status(engine, name).as_deref(), Some("RUNNING"));
    engine.call(&["task", "kill", name]).succeeds();
    running.finish().exits(3);
    assert_eq!(status(engine, name), None);
    engine.call(&["container", "rm", name]).succeeds();
}

fn a_task_is_paused_and_resumed(engine: &Engine) {
    let name = &sleeper(engine, &[]);
    engine.call(&["task", "pause", name]).succeeds();
    assert_eq!(status(engine, name).as_deref(), Some("PAUSED"));
    engine.call(&["task", "resume", name]).succeeds();
    assert_eq!(status(engine, name).as_deref(), Some("RUNNING"));
    engine
        .call(&["task", "exec", "--exec-id=after", name, "true"])
        .succeeds();
    remove(engine, name);
}

fn a_task_is_limited_and_measured(engine: &Engine) {
    let flags = ["--memory-limit=67108864", "--cpus=0.5"];
    let name = &sleeper(engine, &flags);
    let limit = |files: [&str; 2]| {
        let mut paths = cgroups_of(name)
            .into_iter()
            .flat_map(|cgroup| files.map(|file| cgroup.join(file)));
        let path = paths.find(|path| path.exists()).expect("it has a cgroup");
        fs::read_to_string(path).expect("it can be read")
    };
    assert_eq!(limit(["memory.limit_in_bytes", "memory.max"]), "67108864\n");
    let quota = limit(["cpu.cfs_quota_us", "cpu.max"]);
    assert!(
        ["50000\n", "50000 100000\n"].contains(&quota.as_str()),
        "{quota}"
    );
    let metrics = engine.call(&["task", "metrics", name]).succeeds().output();
    let value = |names: [&str; 2]| {
        let line = metrics
            .lines()
            .find(|line| names.contains(&line.split_whitespace().next().unwrap_or_default()));
        line.and_then(|line| line.split_whitespace().last())
            .map(str::to_owned)
    };
    assert_eq!(
        value(["pids.current"; 2]).as_deref(),
        Some("1"),
        "{metrics}"
    );
    let usage = value(["memory.usage_in_bytes", "memory.usage"]);
    assert!(usage.is_some_and(|usage| usage != "0"), "{metrics}");
    let pids = engine.call(&["task", "ps", name]).succeeds().output();
    assert_eq!(pids.lines().count(), 2, "{pids}");
    remove(engine, name);
    assert_eq!(cgroups_of(name), [""; 0].map(std::path::PathBuf::from));
}

fn a_task_runs_in_namespaces_of_others(engine: &Engine) {
    prints(
        engine,
        &["--with-ns", "pid:/proc/1/ns/pid", "--net-host"],
        "cat /proc/1/comm; ls /sys/class/net",
        "catatonit\nlo\n",
    );
    let flags = ["--uidmap=0:200000:5000", "--gidmap=0:200000:5000"];
    let name = &sleeper(engine, &flags);
    let map = "set -- $(cat /proc/self/uid_map); [ $2 = 200000 ] && [ $3 = 5000 ]";
    let exec = ["task", "exec", "--exec-id=map", name, "sh", "-c", map];
    engine.call(&exec).succeeds();
    remove(engine, name);
}

fn a_task_is_as_confined_as_asked(engine: &Engine) {
    let script = "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status | tr '\\n\\t' '  '; (touch /file) 2>/dev/null && echo wrote; true";
    prints(
        engine,
        &["--seccomp", "--read-only"],
        script,
        "NoNewPrivs: 1 Seccomp: 2 ",
    );
    prints(
        engine,
        &["--allow-new-privs"],
        script,
        "NoNewPrivs: 0 Seccomp: 0 wrote\n",
    );
    let script = "grep CapBnd /proc/self/status; stat -c %t:%T /dev/fuse";
    prints(
        engine,
        &["--cap-add=CAP_SYS_TIME", "--device=/dev/fuse"],
        script,
        "CapBnd:\t00000000aa0425fb\na:e5\n",
    );
}

fn all_processes_of_a_task_are_killed(engine: &Engine) {
    // Without a process namespace of its own the rest outlives the first: the shim has the runtime kill them.
    let name = &engine.new_name();
    let script = "sleep 2000 & exec sleep 1000";
    let flags = ["--detach", "--null-io", "--with-ns", "pid:/proc/1/ns/pid"];
    engine
        .run(&[&flags[..], &[NAME, name, "sh", "-c", script]].concat())
        .succeeds();
    engine
        .call(&["task", "kill", "--signal=KILL", "--all", name])
        .succeeds();
    engine.call(&["task", "rm", "--force", name]);
    engine.call(&["container", "rm", name]).succeeds();
    assert_eq!(cgroups_of(name), [""; 0].map(std::path::PathBuf::from));
}
