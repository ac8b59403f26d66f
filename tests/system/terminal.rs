//! Terminals: of `run`, of `exec`, and over a console socket.

use runvm_tests::{ConsoleSocket, Input, Running, Runtime, Terminal, each_isolation};
use rustix::termios::LocalModes;

each_isolation! {
    a_session_at_the_users_terminal,
    a_terminal_is_sent_to_the_console_socket,
    exec_has_a_terminal_of_its_own,
    a_detached_terminal_needs_a_console_socket,
}

/// Tells the size at the start and at each change, and ends at a line of input. A signal cuts
/// `read` short.
const SIZES: &str = "trap 'stty size' WINCH; stty size; tty
                     while [ \"$line\" != end ]; do read line; done; exit 3";

fn a_session_at_the_users_terminal(runtime: &Runtime) {
    let bundle = runtime.bundle().with_terminal().args(&["sh"]);
    let terminal = Terminal::open(40, 100);
    let modes_before = format!("{:?}", terminal.modes());
    let path = bundle.path_text();
    let command = runtime.command(["run", "--bundle", path, &runtime.new_id()]);
    let running = terminal.run(&command);

    terminal.output().wait_for(" # ");
    // The container's terminal echoes and edits lines; the user's must not do so as well.
    assert!(
        !terminal
            .modes()
            .local_modes
            .intersects(LocalModes::ECHO | LocalModes::ICANON)
    );
    terminal.type_in("stty size; tty\n");
    terminal.output().wait_for("40 100\r\n/dev/");
    terminal.type_in("trap 'stty size' WINCH; echo re''ady; read line\n");
    terminal.output().wait_for("ready\r\n");
    terminal.resize(50, 120);
    terminal.output().wait_for("50 120\r\n");
    terminal.type_in("\n");
    // Interrupting from the keyboard is the business of the container's terminal.
    terminal.type_in("echo sl''eeping; sleep 1000\n");
    terminal.output().wait_for("sleeping\r\n");
    terminal.type_in("\x03");
    terminal.output().wait_for(" # ");
    terminal.type_in("exit 9\n");
    running.finish().exits(9);
    assert_eq!(format!("{:?}", terminal.modes()), modes_before);
}

fn a_terminal_is_sent_to_the_console_socket(runtime: &Runtime) {
    let socket = ConsoleSocket::listen(runtime.path("console.sock"));
    let bundle = runtime.bundle().with_terminal().shell(SIZES);
    let flags = ["--console-socket", socket.path()];
    let mut container = runtime.create_with(&bundle, &flags, Input::Null);
    let terminal = socket.accept_terminal();
    terminal.resize(33, 77);
    container.start();
    terminal.output().wait_for("33 77\r\n/dev/");
    terminal.resize(44, 88);
    terminal.output().wait_for("44 88\r\n");
    terminal.type_in("end\n");
    container.finish().exits(3);
    container.delete();
}

fn exec_has_a_terminal_of_its_own(runtime: &Runtime) {
    let mut container = runtime.create(&runtime.bundle().args(&["sleep", "1000"]));
    container.start();
    let terminal = Terminal::open(20, 60);
    let modes_before = format!("{:?}", terminal.modes());
    let running = terminal.run(&container.exec_command(&["--tty"], &["sh", "-c", SIZES]));
    // The size may come after the program has begun.
    terminal.output().wait_for("20 60\r\n");
    terminal.resize(21, 61);
    terminal.output().wait_for("21 61\r\n");
    terminal.type_in("end\n");
    running.finish().exits(3);
    assert_eq!(format!("{:?}", terminal.modes()), modes_before);

    // Without the flag the terminal of the caller stays the caller's.
    let terminal = Terminal::open(20, 60);
    let running = terminal.run(&container.exec_command(&[], &["sh", "-c", "tty; true"]));
    running.finish().exits(0);
    container.kill("KILL");
    container.finish().exits(137);
    container.delete();
}

fn a_detached_terminal_needs_a_console_socket(runtime: &Runtime) {
    let bundle = runtime.bundle().with_terminal();
    let path = bundle.path_text();
    let create = ["create", "--bundle", path, &runtime.new_id()];
    runtime.call(create).refuses(1, &["console"]);

    let socket = ConsoleSocket::listen(runtime.path("console.sock"));
    let socket = socket.path();
    let bundle = runtime.bundle();
    let path = bundle.path_text();
    let create = [
        "create",
        "--bundle",
        path,
        "--console-socket",
        socket,
        &runtime.new_id(),
    ];
    let create = Running::spawn(runtime.command(create), Input::Null).finish();
    create.refuses(1, &["console"]);
}
