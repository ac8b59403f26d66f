//! sd_notify(3): a supervisor hears when the program of a container is ready.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use runvm_tests::{Bundle, Input, Running, Runtime, container_only, patience};

container_only! {
    a_supervisor_hears_that_the_program_is_ready,
    a_program_that_ends_before_it_is_ready_holds_nothing_up,
    in_the_foreground_the_runtime_is_what_a_supervisor_watches,
    a_supervisor_that_is_not_there_stops_nothing,
}

/// Says that it is ready, and more than is its to say: busybox has no systemd-notify, but sends its
/// log as datagrams.
const READY: &str = "ln -s $NOTIFY_SOCKET /dev/log
                     logger \"$(printf 'STATUS=well\\nREADY=1\\nMAINPID=7')\"";

fn supervisor(runtime: &Runtime) -> (UnixDatagram, String) {
    let path = runtime.path("supervisor.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(patience())).unwrap();
    (socket, path)
}

/// The next message. A descriptor that comes with it is closed: that is the answer to a barrier.
fn hear(supervisor: &UnixDatagram) -> String {
    let mut message = [0; 256];
    let length = supervisor.recv(&mut message).expect("something is said");
    String::from_utf8_lossy(&message[..length]).into_owned()
}

/// A command of the runtime's, which a supervisor at `socket` has started.
fn supervised(runtime: &Runtime, socket: &str, args: &[&str]) -> Command {
    let mut command = runtime.command(args);
    command.env("NOTIFY_SOCKET", socket);
    command
}

/// Creates a container, which does not hold this test's pipes.
fn create(runtime: &Runtime, socket: &str, bundle: &Bundle) -> String {
    let id = runtime.new_id();
    let words = ["create", "--bundle", bundle.path_text(), &id];
    let mut create = supervised(runtime, socket, &words);
    create.stdin(Stdio::null()).stdout(Stdio::null());
    assert_eq!(Running::spawn_as_is(create).wait(), 0);
    id
}

fn pid(runtime: &Runtime, id: &str) -> i64 {
    let state = runtime.call(["state", id]).succeeds().output();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    state["pid"].as_i64().unwrap()
}

fn a_supervisor_hears_that_the_program_is_ready(runtime: &Runtime) {
    if runtime.skips_runc("runc looks at the beginning of a message alone") {
        return;
    }
    let (socket, path) = supervisor(runtime);
    // Not before it says so.
    let fifo = runtime.path("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let bundle = runtime.bundle().mount(serde_json::json!({
        "destination": "/tmp", "source": runtime.scratch().path(), "options": ["bind"]
    }));
    let bundle = bundle.shell(&format!("cat /tmp/fifo; {READY}; exec sleep 1000"));
    let id = create(runtime, &path, &bundle);
    let start = supervised(runtime, &path, &["start", &id]);
    let start = Running::spawn(start, Input::Null);
    std::fs::write(&fifo, "go\n").unwrap();
    assert_eq!(hear(&socket), "READY=1\n");
    assert_eq!(hear(&socket), format!("MAINPID={}\n", pid(runtime, &id)));
    assert_eq!(hear(&socket), "BARRIER=1");
    start.finish().succeeds();
    runtime.call(["delete", "--force", &id]).succeeds();
}

fn a_program_that_ends_before_it_is_ready_holds_nothing_up(runtime: &Runtime) {
    if runtime.skips_runc("runc waits until somebody else has reaped the program") {
        return;
    }
    let (socket, path) = supervisor(runtime);
    let bundle = runtime.bundle().shell("test -S $NOTIFY_SOCKET");
    let words = ["run", "--bundle", bundle.path_text(), &runtime.new_id()];
    let run = supervised(runtime, &path, &words);
    Running::spawn(run, Input::Null).finish().exits(0);
    let id = create(runtime, &path, &bundle);
    let start = supervised(runtime, &path, &["start", &id]);
    Running::spawn(start, Input::Null).finish().exits(0);
    runtime.call(["delete", "--force", &id]).succeeds();
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 8]).is_err());
}

fn in_the_foreground_the_runtime_is_what_a_supervisor_watches(runtime: &Runtime) {
    if runtime.skips_runc("runc looks at the beginning of a message alone") {
        return;
    }
    let (socket, path) = supervisor(runtime);
    let bundle = runtime.bundle().shell(&format!("{READY}; cat"));
    let words = ["run", "--bundle", bundle.path_text(), &runtime.new_id()];
    let run = supervised(runtime, &path, &words);
    let run = Running::spawn(run, Input::Pipe);
    assert_eq!(hear(&socket), "READY=1\n");
    let main_pid = format!("MAINPID={}\n", run.process().pid());
    assert_eq!(hear(&socket), main_pid);
    run.finish().exits(0);
}

fn a_supervisor_that_is_not_there_stops_nothing(runtime: &Runtime) {
    let path = runtime.path("nobody.sock");
    let bundle = runtime.bundle().shell(&format!("{READY}; echo ran"));
    let words = ["run", "--bundle", bundle.path_text(), &runtime.new_id()];
    let run = supervised(runtime, &path, &words);
    let outcome = Running::spawn(run, Input::Null).finish().exits(0);
    assert_eq!(outcome.output(), "ran\n");
}
