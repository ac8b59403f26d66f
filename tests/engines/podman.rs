//! podman, with `--runtime`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use runvm_tests::{Input, Runtime};

use crate::alike::{inspect, remove, sleeper};
use crate::enclosure::Enclosure;
use crate::engine::{Engine, PODS, runtime};
use crate::image::{self, NAME};
use crate::{Suite, alike, behaviours};

pub(crate) fn suite() -> Suite {
    let mut behaviours = behaviours![
        a_user_namespace_is_mapped_as_asked,
        a_user_namespace_gets_ids_of_its_own,
        a_pod_shares_its_namespaces,
        a_pod_is_paused_as_a_whole,
        health_is_checked_by_exec,
        a_container_is_on_a_bridge,
        hooks_are_called,
        descriptors_are_handed_on,
        the_root_can_be_a_directory,
        a_detached_container_is_attached_to,
    ];
    behaviours.extend(alike::behaviours());
    Suite::new("podman", &["podman", "conmon"], start, behaviours)
}

/// Limits that any host lets a container have: podman's own are above what root without CAP_SYS_RESOURCE may set.
const CONFIGURATION: &str = r#"
[containers]
netns = "none"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
init_path = "/usr/bin/catatonit"
static_dir = "DIRECTORY/static"
tmp_dir = "DIRECTORY/tmp"
volume_path = "DIRECTORY/volumes"
runtime_supports_json = ["runc", "runvm"]
[network]
network_config_dir = "DIRECTORY/networks"
"#;

/// Writes a configuration that has podman keep its files in `directory`. The answer is its path.
pub(crate) fn configuration(enclosure: &Enclosure, directory: &str) -> String {
    let configuration = CONFIGURATION.replace("DIRECTORY", directory);
    enclosure.file("containers.conf", &configuration)
}

fn start() -> Engine {
    let enclosure = Enclosure::new();
    let archive = image::write(&enclosure.path(""));
    let configuration = configuration(&enclosure, &enclosure.path("podman"));
    let mut podman = enclosure.command("podman");
    podman
        .env("CONTAINERS_CONF", configuration)
        .args(["--root", &enclosure.path("storage")])
        .args(["--runroot", &enclosure.path("run")])
        .args(["--storage-driver", "overlay"])
        .args(["--runtime", &runtime()]);
    let parent = format!("--cgroup-parent=/{}", enclosure.name());
    let state = if Runtime::is_runc() {
        "/run/runc"
    } else {
        "/run/runvm"
    };
    let engine = Engine::new(enclosure, podman, state).placing(&[&parent]);
    engine
        .call(&["load", "--quiet", "--input", &archive])
        .succeeds();
    engine
}

fn a_user_namespace_is_mapped_as_asked(engine: &Engine) {
    let flags = ["--rm", "--uidmap=0:200000:5000", "--gidmap=0:300000:5000"];
    let script = "cat /proc/self/uid_map /proc/self/gid_map; touch /file; stat -c %u:%g /file
                  echo 1 >/dev/null; mount -t tmpfs tmpfs /mnt 2>/dev/null || echo confined";
    let outcome = engine.run(&[&flags[..], &[NAME, "sh", "-c", script]].concat());
    let output = outcome.exits(0).output();
    let lines: Vec<Vec<&str>> = output
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let expected: [&[&str]; 4] = [
        &["0", "200000", "5000"],
        &["0", "300000", "5000"],
        &["0:0"],
        &["confined"],
    ];
    assert_eq!(lines, expected);
    // With all devices of the host's, bound since they cannot be made.
    engine
        .run(&[&flags[..], &["--privileged", NAME, "readlink", "/dev/ptmx"]].concat())
        .prints("pts/ptmx\n");
}

fn a_user_namespace_gets_ids_of_its_own(engine: &Engine) {
    let maps = [(); 2].map(|()| {
        let name = sleeper(engine, &["--userns=auto:size=2000"]);
        let map = engine.call(&["exec", &name, "cat", "/proc/self/uid_map"]);
        (name, map.succeeds().output())
    });
    for (name, map) in &maps {
        let words: Vec<&str> = map.split_whitespace().collect();
        assert_eq!((words[0], words[2]), ("0", "2000"), "{map}");
        remove(engine, name);
    }
    assert_ne!(maps[0].1, maps[1].1);
}

/// Makes a pod in the enclosure's cgroup.
#[track_caller]
fn create_pod(engine: &Engine) -> String {
    let name = engine.new_name();
    let parent = format!("--cgroup-parent=/{}/{PODS}", engine.enclosure().name());
    let share = "--share=pid,ipc,net,uts";
    let create = [
        "pod",
        "create",
        "--network=none",
        share,
        &parent,
        "--name",
        &name,
    ];
    engine.call(&create).succeeds();
    name
}

/// `run`s a container in a pod, which places it.
fn run_in(engine: &Engine, pod: &str, args: &[&str]) -> runvm_tests::Outcome {
    engine.call(&[&["run", "--pod", pod], args].concat())
}

fn a_pod_shares_its_namespaces(engine: &Engine) {
    let pod = &create_pod(engine);
    let member = &engine.new_name();
    run_in(
        engine,
        pod,
        &["--detach", "--name", member, NAME, "sleep", "1000"],
    )
    .succeeds();
    let script = "ps -o comm | grep -E 'catatonit|sleep' | sort; hostname";
    let outcome = run_in(engine, pod, &["--rm", NAME, "sh", "-c", script]);
    outcome.prints(&format!("catatonit\nsleep\n{pod}\n"));
    engine.call(&["pod", "stop", "--time=0", pod]).succeeds();
    assert_eq!(inspect(engine, member, "{{.State.Status}}"), "exited");
    engine.call(&["pod", "start", pod]).succeeds();
    assert_eq!(inspect(engine, member, "{{.State.Status}}"), "running");
    engine
        .call(&["pod", "rm", "--force", "--time=0", pod])
        .succeeds();
}

fn a_pod_is_paused_as_a_whole(engine: &Engine) {
    let pod = &create_pod(engine);
    let member = &engine.new_name();
    run_in(
        engine,
        pod,
        &["--detach", "--name", member, NAME, "sleep", "1000"],
    )
    .succeeds();
    engine.call(&["pod", "pause", pod]).succeeds();
    assert_eq!(inspect(engine, member, "{{.State.Status}}"), "paused");
    engine.call(&["pod", "unpause", pod]).succeeds();
    engine.call(&["exec", member, "true"]).succeeds();
    engine
        .call(&["pod", "rm", "--force", "--time=0", pod])
        .succeeds();
}

fn health_is_checked_by_exec(engine: &Engine) {
    let check = [
        "--health-cmd=test -e /tmp/well",
        "--health-interval=disable",
        "--health-retries=1",
    ];
    let name = &sleeper(engine, &check);
    engine.call(&["healthcheck", "run", name]).exits(1);
    assert_eq!(
        inspect(engine, name, "{{.State.Health.Status}}"),
        "unhealthy"
    );
    engine
        .call(&["exec", name, "touch", "/tmp/well"])
        .succeeds();
    engine.call(&["healthcheck", "run", name]).succeeds();
    assert_eq!(inspect(engine, name, "{{.State.Health.Status}}"), "healthy");
    remove(engine, name);
}

fn a_container_is_on_a_bridge(engine: &Engine) {
    let script = "ls /sys/class/net; ping -c 1 -W 5 $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p') | grep -c ' 0% packet loss'";
    engine
        .run(&[
            "--rm",
            "--network=bridge",
            "--cap-add=NET_RAW",
            NAME,
            "sh",
            "-c",
            script,
        ])
        .prints("eth0\nlo\n1\n");
}

fn hooks_are_called(engine: &Engine) {
    let directory = engine.new_directory();
    let (hook, log) = (format!("{directory}/hook"), format!("{directory}/log"));
    let script = format!(
        "#!/bin/sh\necho $1 $(sed -n 's/.*\"status\": *\"\\([a-z]*\\)\".*/\\1/p') >>{log}\n"
    );
    fs::write(&hook, script).expect("the directory is writable");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("it is the test's own");
    for stage in ["prestart", "poststart", "poststop"] {
        let definition = serde_json::json!({
            "version": "1.0.0",
            "hook": { "path": hook, "args": ["hook", stage] },
            "when": { "always": true },
            "stages": [stage],
        });
        let path = format!("{directory}/{stage}.json");
        fs::write(path, definition.to_string()).expect("the directory is writable");
    }
    let run = ["--hooks-dir", &directory, "run", "--rm"];
    let parent = format!("--cgroup-parent=/{}", engine.enclosure().name());
    engine
        .call(&[&run[..], &[&parent, NAME, "true"]].concat())
        .succeeds();
    let log = fs::read_to_string(log).expect("the hooks have run");
    // At poststart runc 1.1.5 says "created" of a container that runs, or has ended already.
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 3, "{log}");
    assert_eq!(
        (lines[0], lines[2]),
        ("prestart creating", "poststop stopped")
    );
    assert!(lines[1].starts_with("poststart "), "{log}");
}

fn descriptors_are_handed_on(engine: &Engine) {
    let file = engine.enclosure().file("handed-on", "handed on\n");
    let command = engine.run_command(&[
        "--rm",
        "--preserve-fds=1",
        NAME,
        "sh",
        "-c",
        "cat <&3; [ -e /proc/self/fd/4 ] || echo none",
    ]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "exec 3<\"$1\"; shift; exec \"$@\"", "sh", &file]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let outcome = runvm_tests::Running::spawn(shell, Input::Null).finish();
    outcome.prints("handed on\nnone\n");
}

fn the_root_can_be_a_directory(engine: &Engine) {
    let root = engine.new_directory();
    runvm_tests::make_root(root.as_ref());
    engine
        .run(&[
            "--rm",
            "--rootfs",
            &root,
            "sh",
            "-c",
            "echo mine >/file; cat /file",
        ])
        .prints("mine\n");
    assert!(fs::exists(format!("{root}/file")).expect("it can be looked for"));
}

fn a_detached_container_is_attached_to(engine: &Engine) {
    let name = &engine.new_name();
    let script = "read line; echo got $line; exit 5";
    engine
        .run(&[
            "--detach",
            "--interactive",
            "--name",
            name,
            NAME,
            "sh",
            "-c",
            script,
        ])
        .succeeds();
    let attach = engine.command(&["attach", name]);
    let mut attached = runvm_tests::Running::spawn(attach, Input::Pipe);
    attached.write("something\n");
    attached.output().wait_for("got something\n");
    attached.finish();
    assert_eq!(engine.call(&["wait", name]).succeeds().output(), "5\n");
    remove(engine, name);
}
