//! Descriptors handed over: to a container beyond the standard three, and to engines.

use std::process::Command;

use runvm_tests::{
    Bundle, ConsoleSocket, Input, Outcome, Process, Running, Runtime, container_only,
    each_isolation,
};
use rustix::process::Signal;
use serde_json::json;

each_isolation! {
    a_descriptor_that_is_missing_is_named,
    an_engine_gets_a_pidfd,
}

container_only! {
    hooks_get_nothing_that_the_caller_has_open,
    sockets_of_activation_come_first_and_the_program_is_told,
}

/// `run`s a bundle by way of a shell that first does `prepare`, where $1 is a file that says "third"
/// and $2 one that says "fourth".
fn run_after(runtime: &Runtime, prepare: &str, flags: &[&str], bundle: &Bundle) -> Outcome {
    let three = runtime.file("three", "third\n");
    let four = runtime.file("four", "fourth\n");
    let (path, id) = (bundle.path_text(), &runtime.new_id());
    let inner = runtime.command([&["run"], flags, &["--bundle", path, id]].concat());
    let mut outer = Command::new("sh");
    outer
        .args(["-c", &format!("{prepare}; shift 2; exec \"$@\""), "sh"])
        .args([three, four])
        .arg(inner.get_program())
        .args(inner.get_args());
    Running::spawn(outer, Input::Null).finish()
}

fn a_descriptor_that_is_missing_is_named(runtime: &Runtime) {
    if runtime.skips_runc("runc hands over what it has opened itself") {
        return;
    }
    let bundle = runtime.bundle().args(&["true"]);
    for (prepare, count, missing) in [
        ("exec 3<&-", "1", "3"),
        ("exec 3<$1 4<&-", "2", "4"),
        ("exec 3<$1 4<&- 5<$2", "3", "4"),
    ] {
        let flags = ["--preserve-fds", count];
        let word = format!("descriptor {missing} is not open");
        run_after(runtime, prepare, &flags, &bundle).refuses(1, &["--preserve-fds", &word]);
    }
    let prepare = "exec 3<$1 4<&-; export LISTEN_PID=$$ LISTEN_FDS=2";
    run_after(runtime, prepare, &[], &bundle).refuses(1, &["LISTEN_FDS", "descriptor 4"]);
    assert_eq!(runtime.ids(), Vec::<String>::new());
}

fn hooks_get_nothing_that_the_caller_has_open(runtime: &Runtime) {
    if runtime.skips_runc("runc leaves the descriptors of its caller open to hooks before 1.1.12") {
        return;
    }
    let found = runtime.path("found");
    // The list comes from a descriptor of its own.
    let script = format!("ls /proc/self/fd | tr '\\n' ' ' >> {found}");
    let hooks = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    let bundle = runtime.bundle().args(&["true"]).edit(|config| {
        config["hooks"] = json!({"createRuntime": hooks, "poststart": hooks, "poststop": hooks});
    });
    run_after(runtime, "exec 3<$1 9<$2", &["--preserve-fds", "1"], &bundle).exits(0);
    assert_eq!(
        std::fs::read_to_string(found).unwrap(),
        "0 1 2 3 ".repeat(3)
    );
}

fn sockets_of_activation_come_first_and_the_program_is_told(runtime: &Runtime) {
    let script = "echo $LISTEN_FDS $LISTEN_PID; for n in 3 4; do
                      [ -e /proc/self/fd/$n ] && eval \"cat <&$n\"
                  done; echo end";
    let bundle = runtime.bundle().shell(script);
    let prepare = "exec 3<$1 4<$2; export LISTEN_PID=$$ LISTEN_FDS=1";
    run_after(runtime, prepare, &[], &bundle).prints("1 1\nthird\nend\n");
    let flags = ["--preserve-fds", "1"];
    run_after(runtime, prepare, &flags, &bundle).prints("1 1\nthird\nfourth\nend\n");
    // Meant for another process, which has only passed its environment on.
    let prepare = "exec 3<$1 4<$2; export LISTEN_PID=1 LISTEN_FDS=1";
    run_after(runtime, prepare, &[], &bundle).prints("\nend\n");
}

fn an_engine_gets_a_pidfd(runtime: &Runtime) {
    if runtime.skips_runc("runc has --pidfd-socket since 1.2") {
        return;
    }
    let socket = ConsoleSocket::listen(runtime.path("pidfd.sock"));
    let flags = ["--pidfd-socket", socket.path()];
    let bundle = runtime.bundle().args(&["sleep", "1000"]);
    let mut container = runtime.create_with(&bundle, &flags, Input::Null);
    let (pidfd, kind) = socket.accept();
    assert_eq!(kind, "standard");
    let first = Process::from_pidfd(container.state().pid, pidfd);
    container.start();

    let pid_file = runtime.path("exec.pid");
    let flags = ["--pidfd-socket", socket.path(), "--pid-file", &pid_file];
    let exec = container.exec_command(&flags, &["sleep", "1000"]);
    let exec = Running::spawn(exec, Input::Null);
    let (pidfd, kind) = socket.accept();
    assert_eq!(kind, "setns");
    Process::from_pidfd(0, pidfd).signal(Signal::KILL);
    exec.finish().exits(137);
    assert_eq!(container.state().status, "running");

    first.signal(Signal::KILL);
    container.finish().exits(137);
    container.delete();

    let missing = runtime.path("no-such.sock");
    let path = bundle.path_text();
    let id = &runtime.new_id();
    let create = ["create", "--pidfd-socket", &missing, "--bundle", path, id];
    runtime.call(create).refuses(1, &[&missing]);
    assert_eq!(runtime.ids(), Vec::<String>::new());
}
