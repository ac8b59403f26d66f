//! dockerd, with a runtime in its configuration.

use runvm_tests::{Input, Running};
use rustix::process::Signal;
use serde_json::json;

use crate::alike::{inspect, remove, sleeper};
use crate::enclosure::Enclosure;
use crate::engine::{Engine, runtime};
use crate::image::{self, NAME};
use crate::{Suite, alike, behaviours};

pub(crate) fn suite() -> Suite {
    let mut behaviours = behaviours![
        the_daemon_knows_the_runtime,
        a_container_is_on_a_bridge,
        health_is_checked_by_exec,
        a_container_is_restarted_by_its_policy,
        processes_and_figures_are_shown,
        an_init_reaps_for_the_program,
    ];
    behaviours.extend(alike::behaviours());
    let programs = &["dockerd", "docker", "containerd", "iptables"];
    Suite::new("docker", programs, start, behaviours)
}

/// What the daemon calls the runtime under test.
const RUNTIME: &str = "under-test";

fn start() -> Engine {
    let enclosure = Enclosure::new();
    let archive = image::write(&enclosure.path(""));
    let socket = format!("unix://{}", enclosure.path("docker.sock"));
    let state = enclosure.path("exec");
    let configuration = json!({
        "hosts": [socket],
        "data-root": enclosure.path("data"),
        "exec-root": state,
        "pidfile": enclosure.path("docker.pid"),
        "cgroup-parent": format!("/{}", enclosure.name()),
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "runtimes": { RUNTIME: { "path": runtime() } },
        "default-runtime": RUNTIME,
    });
    let configuration = enclosure.file("daemon.json", &configuration.to_string());
    let mut dockerd = enclosure.command("dockerd");
    dockerd.args(["--config-file", &configuration]);
    let daemon = Running::spawn(dockerd, Input::Null);
    daemon.errors().wait_for("API listen on");

    let mut docker = enclosure.command("docker");
    docker
        .env("DOCKER_CONFIG", enclosure.path("docker-client"))
        // BuildKit's steps are not the configured runtime's.
        .env("DOCKER_BUILDKIT", "0")
        .args(["--host", &socket]);
    let containers = format!("{state}/runtime-{RUNTIME}/moby");
    let engine = Engine::new(enclosure, docker, &containers).served_by(daemon);
    engine
        .call(&["load", "--quiet", "--input", &archive])
        .succeeds();
    engine
}

fn the_daemon_knows_the_runtime(engine: &Engine) {
    let info = engine.call(&["info", "--format", "{{.DefaultRuntime}} {{.RuncCommit.ID}}"]);
    let info = info.succeeds().output();
    let words: Vec<&str> = info.split_whitespace().collect();
    // The daemon takes the commit from what `--version` prints.
    assert_eq!(words.len(), 2, "{info}");
    assert_eq!(words[0], RUNTIME);
    assert_ne!(words[1], "N/A");
}

fn a_container_is_on_a_bridge(engine: &Engine) {
    let script = "ls /sys/class/net; ping -c 1 -W 5 $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p') | grep -c ' 0% packet loss'";
    engine
        .run(&["--rm", NAME, "sh", "-c", script])
        .prints("eth0\nlo\n1\n");
}

/// Waits until the daemon has told of an event so many times, since the test began.
#[track_caller]
fn await_events(engine: &Engine, filter: &[&str], event: &str, times: usize) {
    let events = engine.command(&[&["events", "--since=10m"], filter].concat());
    let mut events = Running::spawn(events, Input::Null);
    for _ in 0..times {
        events.output().wait_for(event);
    }
    events.process().signal(Signal::KILL);
    events.wait();
}

fn health_is_checked_by_exec(engine: &Engine) {
    let check = [
        "--health-cmd=test -e /tmp/well",
        "--health-interval=200ms",
        "--health-retries=1",
    ];
    let name = &sleeper(engine, &check);
    for (command, status) in [("rm -f", "unhealthy"), ("touch", "healthy")] {
        let command = format!("{command} /tmp/well");
        engine
            .call(&["exec", name, "sh", "-c", &command])
            .succeeds();
        let container = format!("container={name}");
        let events = ["--filter", &container, "--format={{.Action}}"];
        await_events(engine, &events, &format!("health_status: {status}\n"), 1);
        assert_eq!(inspect(engine, name, "{{.State.Health.Status}}"), status);
    }
    remove(engine, name);
}

fn a_container_is_restarted_by_its_policy(engine: &Engine) {
    let name = &engine.new_name();
    let flags = ["--detach", "--restart=on-failure:5", "--name", name];
    // The third run is the one that goes on.
    let script = "echo run >>/runs; [ $(wc -l </runs) = 3 ] || exit 3; exec sleep 1000";
    engine
        .run(&[&flags[..], &[NAME, "sh", "-c", script]].concat())
        .succeeds();
    let container = format!("container={name}");
    let events = [
        "--filter",
        &container,
        "--filter",
        "event=start",
        "--format={{.Action}}",
    ];
    await_events(engine, &events, "start\n", 3);
    assert_eq!(inspect(engine, name, "{{.RestartCount}}"), "2");
    remove(engine, name);
}

fn processes_and_figures_are_shown(engine: &Engine) {
    let name = &sleeper(engine, &["--memory=64m"]);
    engine
        .call(&["exec", "--detach", name, "sleep", "2000"])
        .succeeds();
    let top = engine
        .call(&["top", name, "-o", "pid,args"])
        .succeeds()
        .output();
    for program in ["sleep 1000", "sleep 2000"] {
        assert!(top.contains(program), "{top}");
    }
    let format = "{{.PIDs}} {{.MemUsage}}";
    let stats = engine.call(&["stats", "--no-stream", "--format", format, name]);
    let stats = stats.succeeds().output();
    assert!(
        stats.starts_with("2 ") && stats.ends_with("/ 64MiB\n"),
        "{stats}"
    );
    remove(engine, name);
}

fn an_init_reaps_for_the_program(engine: &Engine) {
    engine
        .run(&["--rm", "--init", NAME, "cat", "/proc/1/comm"])
        .prints("docker-init\n");
}
