//! Terminals: of `run`, of `exec`, and over a console socket.

use std::fs;

use runvm_tests::{Bundle, ConsoleSocket, Input, Runtime, Terminal, each_isolation};
use rustix::termios::LocalModes;

each_isolation! {
    a_session_at_the_users_terminal,
    a_terminal_is_sent_to_the_console_socket,
    exec_has_a_terminal_of_its_own,
    a_program_finds_the_size_of_its_terminal_from_the_first,
    a_detached_terminal_needs_a_console_socket,
}

/// Tells the size of its terminal after each line, and that a signal told it of a change.
const SIZES: &str = "trap 'echo winched' WINCH; tty
while [ \"$line\" != end ]; do read line; echo size $(stty size); done
exit 3
";

fn with_sizes(bundle: Bundle) -> Bundle {
    fs::write(bundle.rootfs().join("sizes"), SIZES).unwrap();
    bundle
}

/// Resizes the window, and waits until the program that runs [`SIZES`] knows.
#[track_caller]
fn resize_reaches_the_program(terminal: &Terminal, rows: u16, columns: u16) {
    terminal.resize(rows, columns);
    // The size may be on its way when the first line arrives; each line has its answer.
    let size = loop {
        terminal.type_in("\n");
        let size = terminal.output().wait_for_line("size ");
        if size == format!("{rows} {columns}") || terminal.output().text().len() > 100_000 {
            break size;
        }
    };
    assert_eq!(size, format!("{rows} {columns}"));
    // The shell runs its trap when a command has ended.
    terminal.type_in("\n");
    terminal.output().wait_for("size ");
    assert!(
        terminal.output().text().contains("winched\r\n"),
        "{:?}",
        terminal.output().text()
    );
}

fn a_session_at_the_users_terminal(runtime: &Runtime) {
    let bundle = with_sizes(runtime.bundle().with_terminal().args(&["sh"]));
    let terminal = Terminal::open(40, 100);
    let modes_before = format!("{:?}", terminal.modes());
    let command = runtime.command(["run", "--bundle", bundle.path_text(), &runtime.new_id()]);
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
    terminal.type_in("sh /sizes; echo code $?\n");
    terminal.output().wait_for("\n/dev/");
    resize_reaches_the_program(&terminal, 50, 120);
    terminal.type_in("end\n");
    terminal.output().wait_for("code 3\r\n");
    // Interrupting from the keyboard is the business of the container's terminal.
    terminal.type_in("sh -c 'echo sleep\"\"ing; exec sleep 1000'\n");
    terminal.output().wait_for("sleeping\r\n");
    terminal.type_in("\x03");
    terminal.output().wait_for(" # ");
    terminal.type_in("exit 9\n");
    running.finish().exits(9);
    assert_eq!(format!("{:?}", terminal.modes()), modes_before);
}

fn a_terminal_is_sent_to_the_console_socket(runtime: &Runtime) {
    let socket = ConsoleSocket::listen(runtime.path("console.sock"));
    let bundle = with_sizes(runtime.bundle().with_terminal().args(&["sh", "/sizes"]));
    let flags = ["--console-socket", socket.path()];
    let mut container = runtime.create_with(&bundle, &flags, Input::Null);
    let terminal = socket.accept_terminal();
    terminal.resize(33, 77);
    container.start();
    terminal.output().wait_for("/dev/");
    terminal.type_in("\n");
    assert_eq!(terminal.output().wait_for_line("size "), "33 77");
    resize_reaches_the_program(&terminal, 44, 88);
    terminal.type_in("end\n");
    container.finish().exits(3);
    container.delete();
}

fn exec_has_a_terminal_of_its_own(runtime: &Runtime) {
    let bundle = with_sizes(runtime.bundle().args(&["sleep", "1000"]));
    let mut container = runtime.create(&bundle);
    container.start();
    let terminal = Terminal::open(20, 60);
    let modes_before = format!("{:?}", terminal.modes());
    let running = terminal.run(&container.exec_command(&["--tty"], &["sh", "/sizes"]));
    terminal.output().wait_for("/dev/pts/");
    resize_reaches_the_program(&terminal, 21, 61);
    terminal.type_in("end\n");
    running.finish().exits(3);
    assert_eq!(format!("{:?}", terminal.modes()), modes_before);

    container.kill("KILL");
    container.finish().exits(137);
    container.delete();
}

fn a_detached_terminal_needs_a_console_socket(runtime: &Runtime) {
    let bundle = runtime.bundle().with_terminal();
    let create = ["create", "--bundle", bundle.path_text(), &runtime.new_id()];
    runtime.call(create).refuses(1, &["console"]);

    let socket = ConsoleSocket::listen(runtime.path("console.sock"));
    let bundle = runtime.bundle();
    let flags = [
        "create",
        "--console-socket",
        socket.path(),
        "--bundle",
        bundle.path_text(),
    ];
    runtime
        .call(flags.iter().chain(&[runtime.new_id().as_str()]))
        .refuses(1, &["console"]);
}

fn a_program_finds_the_size_of_its_terminal_from_the_first(runtime: &Runtime) {
    let bundle = runtime.bundle().with_terminal().args(&["stty", "size"]);
    let terminal = Terminal::open(41, 101);
    let command = runtime.command(["run", "--bundle", bundle.path_text(), &runtime.new_id()]);
    let running = terminal.run(&command);
    terminal.output().wait_for("41 101\r\n");
    running.finish().exits(0);

    let container = runtime.create(&runtime.bundle().args(&["sleep", "1000"]));
    container.start();
    let terminal = Terminal::open(22, 62);
    let running = terminal.run(&container.exec_command(&["--tty"], &["stty", "size"]));
    terminal.output().wait_for("22 62\r\n");
    running.finish().exits(0);
    container.end();
}
