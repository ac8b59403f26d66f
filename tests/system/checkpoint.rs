//! `checkpoint` and `restore`, through CRIU.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::OnceLock;

use runvm_tests::{
    Bundle, ConsoleSocket, Container, Input, Running, Runtime, Terminal, container_only, skip,
    vm_only,
};
use serde_json::{Value, json};

container_only! {
    a_shell_goes_on_counting_under_another_id,
    a_container_left_running_goes_on_beside_its_checkpoint,
    a_pre_dump_is_the_parent_of_a_later_checkpoint,
    a_terminal_is_handed_over_at_the_restore,
    bind_mounts_show_the_host_again_after_a_restore,
    a_restore_in_the_foreground_answers_with_the_exit_code,
    a_restored_container_is_in_its_own_cgroup_with_its_limits,
    a_link_in_the_root_leads_no_mount_out_of_it,
    only_what_runs_is_checkpointed,
    images_that_are_none_are_refused,
    without_criu_there_is_one_clear_error,
}

vm_only! {
    a_microvm_has_no_checkpoints,
}

/// Answers each line with a number, one more than the last; `end` ends it with code 7.
const COUNT: &str = "i=0; while read line; do
    [ $line = end ] && exit 7
    i=$((i+1)); echo $line $i
done";

/// Whether the test ends here, because CRIU does not work on this machine; says why.
fn skips_without_criu() -> bool {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    let reason = REASON.get_or_init(|| match Command::new("criu").arg("check").output() {
        Err(error) => Some(format!("criu: {error}")),
        Ok(check) if check.status.success() => None,
        Ok(check) => {
            let said = String::from_utf8_lossy(&check.stderr);
            let last = said.lines().last().unwrap_or_default();
            Some(format!("criu check fails on this kernel: {last}"))
        }
    });
    if let Some(reason) = reason {
        skip(reason);
    }
    reason.is_some()
}

/// A container that counts, and has counted to two.
fn counting<'r>(runtime: &'r Runtime, bundle: &Bundle) -> Container<'r> {
    let mut container = runtime.create_with(bundle, &[], Input::Pipe);
    container.start();
    container.running().write("a\nb\n");
    container.output().wait_for("a 1\nb 2\n");
    container
}

/// `checkpoint`s a container into the images `name`.
#[track_caller]
fn checkpoint(runtime: &Runtime, container: &Container<'_>, name: &str, flags: &[&str]) {
    let (images, work) = (runtime.path(name), runtime.path("work"));
    let paths = ["--image-path", &images, "--work-path", &work];
    let words = [&["checkpoint"], &paths[..], flags, &[container.id()]].concat();
    runtime.call(words).succeeds();
}

/// The flags that `restore` from the images `name`.
fn from(runtime: &Runtime, name: &str) -> Vec<String> {
    let (images, work) = (runtime.path(name), runtime.path("work"));
    let mut flags = vec!["--image-path".into(), images, "--work-path".into(), work];
    if Runtime::is_runc() {
        // Else CRIU makes the cgroup of the first container again, where that was in cgroup v2,
        // and runc leaves it behind.
        flags.extend(["--manage-cgroups-mode".into(), "ignore".into()]);
    }
    flags
}

/// `restore`s a container from the images `name`.
#[track_caller]
fn restore<'r>(runtime: &'r Runtime, bundle: &Bundle, name: &str) -> Container<'r> {
    let flags = from(runtime, name);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    runtime.restore(bundle, &flags, Input::Pipe)
}

/// Sees that a container counts on from `last` and ends as it should.
#[track_caller]
fn counts_on(mut container: Container<'_>, last: u32) {
    container.running().write("on\n");
    let next = last + 1;
    container.output().wait_for(&format!("on {next}\n"));
    container.running().write("end\n");
    container.finish().exits(7);
    container.delete();
}

/// Sees that a checkpoint has ended a container and deleted it.
#[track_caller]
fn is_gone(runtime: &Runtime, mut container: Container<'_>) {
    container.finish().exits(137);
    let state = runtime.call(["state", container.id()]);
    assert!(state.errors().contains("does not exist"), "{state}");
    state.exits(1);
}

fn a_shell_goes_on_counting_under_another_id(runtime: &Runtime) {
    if skips_without_criu() {
        return;
    }
    let bundle = runtime.bundle().shell(COUNT);
    let container = counting(runtime, &bundle);
    checkpoint(runtime, &container, "images", &[]);
    let first_id = container.id().to_owned();
    is_gone(runtime, container);

    let pid_file = runtime.path("pid");
    let flags = from(runtime, "images");
    let flags = flags.iter().map(String::as_str);
    let flags: Vec<&str> = flags.chain(["--pid-file", &pid_file]).collect();
    let restored = runtime.restore(&bundle, &flags, Input::Pipe);
    assert_ne!(restored.id(), first_id);
    let state = restored.state();
    assert_eq!(state.status, "running");
    assert_eq!(fs::read_to_string(pid_file).unwrap(), state.pid.to_string());
    restored.exec(&["echo", "more"]).prints("more\n");
    counts_on(restored, 2);
}

fn a_container_left_running_goes_on_beside_its_checkpoint(runtime: &Runtime) {
    if skips_without_criu() {
        return;
    }
    let bundle = runtime.bundle().shell(COUNT);
    let mut container = counting(runtime, &bundle);
    checkpoint(runtime, &container, "images", &["--leave-running"]);
    assert_eq!(container.state().status, "running");
    container.running().write("c\n");
    container.output().wait_for("c 3\n");
    counts_on(restore(runtime, &bundle, "images"), 2);
    counts_on(container, 3);
}

fn a_pre_dump_is_the_parent_of_a_later_checkpoint(runtime: &Runtime) {
    if skips_without_criu() {
        return;
    }
    let bundle = runtime.bundle().shell(COUNT);
    let mut container = counting(runtime, &bundle);
    checkpoint(runtime, &container, "before", &["--pre-dump"]);
    container.running().write("c\n");
    container.output().wait_for("c 3\n");
    checkpoint(
        runtime,
        &container,
        "images",
        &["--parent-path", "../before"],
    );
    is_gone(runtime, container);
    counts_on(restore(runtime, &bundle, "images"), 3);
}

fn a_terminal_is_handed_over_at_the_restore(runtime: &Runtime) {
    if skips_without_criu() {
        return;
    }
    let socket = ConsoleSocket::listen(runtime.path("console.sock"));
    let bundle = runtime.bundle().with_terminal().shell(COUNT);
    let console = ["--console-socket", socket.path()];
    let container = runtime.create_with(&bundle, &console, Input::Null);
    let terminal = socket.accept_terminal();
    container.start();
    let answers = |terminal: &Terminal, count: u32| {
        terminal.type_in("x\n");
        terminal.output().wait_for(&format!("x {count}\r\n"));
    };
    answers(&terminal, 1);
    checkpoint(runtime, &container, "images", &[]);
    is_gone(runtime, container);

    let flags = from(runtime, "images");
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(console).collect();
    let mut restored = runtime.restore(&bundle, &flags, Input::Null);
    let terminal = socket.accept_terminal();
    answers(&terminal, 2);
    terminal.type_in("end\n");
    restored.finish().exits(7);
    restored.delete();
}

fn bind_mounts_show_the_host_again_after_a_restore(runtime: &Runtime) {
    if skips_without_criu() {
        return;
    }
    let directory = runtime.path("shared");
    fs::create_dir(&directory).unwrap();
    let file = runtime.file("motd", "before\n");
    let bind = |source: &str, destination: &str| -> Value {
        json!({"destination": destination, "source": source, "type": "bind", "options": ["rbind"]})
    };
    let script =
        "while read line; do [ $line = end ] && exit 7; cat /etc/motd /srv/data/word; done";
    let bundle = runtime.bundle().shell(script);
    // A destination goes by its name in config.json, wherever the root leads it.
    fs::create_dir(bundle.rootfs().join("srv-1")).unwrap();
    symlink("srv-1", bundle.rootfs().join("srv")).unwrap();
    let bundle = bundle
        .mount(bind(&directory, "/srv/data"))
        .mount(bind(&file, "/etc/motd"));
    fs::write(format!("{directory}/word"), "1\n").unwrap();
    let mut container = runtime.create_with(&bundle, &[], Input::Pipe);
    container.start();
    container.running().write("x\n");
    container.output().wait_for("before\n1\n");
    checkpoint(runtime, &container, "images", &[]);
    is_gone(runtime, container);

    // Not in place: CRIU compares the files that processes have open, and none has these.
    fs::write(&file, "after\n").unwrap();
    fs::write(format!("{directory}/word"), "2\n").unwrap();
    let mut restored = restore(runtime, &bundle, "images");
    restored.running().write("x\n");
    restored.output().wait_for("after\n2\n");
    restored.running().write("end\n");
    restored.finish().exits(7);
    restored.delete();
}

fn a_restore_in_the_foreground_answers_with_the_exit_code(runtime: &Runtime) {
    if skips_without_criu() {
        return;
    }
    let bundle = runtime.bundle().shell(COUNT);
    let container = counting(runtime, &bundle);
    checkpoint(runtime, &container, "images", &[]);
    is_gone(runtime, container);
    let id = runtime.new_id();
    let flags = from(runtime, "images");
    let words = ["restore", "--bundle", bundle.path_text()];
    let words = words.into_iter().chain(flags.iter().map(String::as_str));
    let command = runtime.command(words.chain([id.as_str()]));
    let mut running = Running::spawn(command, Input::Pipe);
    running.write("on\nend\n");
    running.finish().exits(7);
    assert!(!runtime.ids().contains(&id));
}

fn a_restored_container_is_in_its_own_cgroup_with_its_limits(runtime: &Runtime) {
    if skips_without_criu() {
        return;
    }
    let bundle = runtime.bundle().shell(COUNT).edit(|config| {
        config["linux"]["resources"]["pids"] = json!({"limit": 77});
    });
    let container = counting(runtime, &bundle);
    checkpoint(runtime, &container, "images", &[]);
    is_gone(runtime, container);
    let restored = restore(runtime, &bundle, "images");
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", restored.state().pid)).unwrap();
    let own = cgroups
        .lines()
        .filter(|line| line.ends_with(restored.id()))
        .count();
    assert!(own > 0, "{cgroups}");
    let stats = runtime
        .call(["events", "--stats", restored.id()])
        .succeeds();
    let stats: Value = serde_json::from_slice(&stats.output).unwrap();
    assert_eq!(stats["data"]["pids"]["limit"], 77, "{stats}");
    counts_on(restored, 2);
}

fn a_link_in_the_root_leads_no_mount_out_of_it(runtime: &Runtime) {
    if runtime.skips_runc("runc has CRIU follow the link") || skips_without_criu() {
        return;
    }
    let source = runtime.path("source");
    fs::create_dir(&source).unwrap();
    let mount =
        json!({"destination": "/data", "source": source, "type": "bind", "options": ["bind"]});
    let bundle = runtime.bundle().shell(COUNT).mount(mount);
    let container = counting(runtime, &bundle);
    checkpoint(runtime, &container, "images", &[]);
    is_gone(runtime, container);

    fs::remove_dir(bundle.rootfs().join("data")).unwrap();
    symlink("/usr/bin", bundle.rootfs().join("data")).unwrap();
    let flags = from(runtime, "images");
    let words = ["restore", "--detach", "--bundle", bundle.path_text()];
    let words = words.into_iter().chain(flags.iter().map(String::as_str));
    let id = runtime.new_id();
    runtime
        .call(words.chain([id.as_str()]))
        .refuses(1, &["/data", "symbolic link"]);
}

fn only_what_runs_is_checkpointed(runtime: &Runtime) {
    let images = runtime.path("images");
    let checkpoint = |id: &str| runtime.call(["checkpoint", "--image-path", &images, id]);
    let nobody = runtime.new_id();
    let outcome = checkpoint(&nobody);
    assert!(outcome.errors().contains("does not exist"), "{outcome}");
    outcome.exits(1);

    let mut container = runtime.create(&runtime.bundle().args(&["true"]));
    checkpoint(container.id()).refuses(1, &["created"]);
    container.start();
    container.finish().exits(0);
    checkpoint(container.id()).refuses(1, &["stopped"]);
    container.delete();
}

fn images_that_are_none_are_refused(runtime: &Runtime) {
    if runtime.skips_runc("runc's words are others") {
        return;
    }
    let bundle = runtime.bundle();
    let refused = |images: &str, words: &[&str]| {
        let id = runtime.new_id();
        let call = ["restore", "--bundle", bundle.path_text(), "--image-path"];
        let words = [&[images], words].concat();
        runtime
            .call(call.into_iter().chain([images, id.as_str()]))
            .refuses(1, &words);
        assert_eq!(runtime.ids(), [""; 0]);
    };
    let images = runtime.path("images");
    refused(&images, &["cannot open"]);
    fs::create_dir(&images).unwrap();
    refused(&images, &["no inventory.img"]);
    fs::write(format!("{images}/inventory.img"), "none").unwrap();
    refused(&images, &["descriptors.json"]);
    fs::write(format!("{images}/descriptors.json"), "[1]").unwrap();
    refused(&images, &["descriptors.json"]);
    fs::write(format!("{images}/descriptors.json"), "[]").unwrap();
    fs::write(format!("{images}/mountpoints-1.img"), "none").unwrap();
    refused(&images, &["mountpoints-"]);
    fs::remove_file(format!("{images}/mountpoints-1.img")).unwrap();
    // A log is never written through a link.
    let victim = runtime.file("victim", "whole");
    symlink(&victim, format!("{images}/restore.log")).unwrap();
    refused(&images, &["criu", "restore.log"]);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "whole");
}

fn without_criu_there_is_one_clear_error(runtime: &Runtime) {
    if runtime.skips_runc("runc's words are others") {
        return;
    }
    let mut container = runtime.create_with(&runtime.bundle().shell(COUNT), &[], Input::Pipe);
    container.start();
    let images = runtime.path("images");
    let without = |args: &[&str]| {
        let mut command = runtime.command(args);
        command.env("PATH", "/nowhere");
        Running::spawn(command, Input::Null).finish()
    };
    without(&["checkpoint", "--image-path", &images, container.id()])
        .refuses(1, &["criu is not installed"]);
    assert_eq!(container.state().status, "running");
    let features = without(&["features"]).succeeds();
    let features: Value = serde_json::from_slice(&features.output).unwrap();
    let enabled = &features["annotations"]["org.opencontainers.runc.checkpoint.enabled"];
    assert_eq!(enabled, "false");
    container.running().write("end\n");
    container.finish().exits(7);
    container.delete();
}

fn a_microvm_has_no_checkpoints(runtime: &Runtime) {
    let bundle = runtime.bundle().args(&["sleep", "1000"]);
    let container = runtime.run_detached(&bundle, &[]);
    runtime
        .call(["checkpoint", container.id()])
        .refuses(1, &["checkpoints are not supported in vm isolation"]);
    let id = runtime.new_id();
    runtime
        .call(["restore", "--bundle", bundle.path_text(), &id])
        .refuses(1, &["checkpoints are not supported in vm isolation"]);
    container.end();
}
