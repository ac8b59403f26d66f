//! How much memory a command takes.

use std::process::{Command, Stdio};

use nix::sys::resource::{UsageWho, getrusage};

/// The first argument that makes this program [`print_peak`].
pub(crate) const NAME: &str = "peak";

/// The most memory, in KiB, that the largest of a command's processes had at a time. A new process counts as
/// large as who made it until it executes: so a small one, this program anew, makes it.
pub(crate) fn peak_kib(command: Command) -> u64 {
    let mut measured = Command::new(std::env::current_exe().expect("a program has a path"));
    measured
        .arg(NAME)
        .arg(command.get_program())
        .args(command.get_args());
    let output = measured
        .stderr(Stdio::inherit())
        .output()
        .expect("this program runs");
    let text = String::from_utf8(output.stdout).expect("a number");
    text.trim().parse().expect("a number")
}

/// Runs a command and prints its peak.
pub(crate) fn print_peak(words: &[String]) {
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let status = command.status().expect("the command runs");
    assert!(status.success(), "{words:?}: {status}");
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the own usage is known");
    println!("{}", usage.max_rss());
}
