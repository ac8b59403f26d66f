//! Launches that fail, with stand-ins for QEMU. Real boots are the whole-system tests' matter.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};

use super::*;

fn empty_file() -> File {
    memfd_create("empty", MemfdFlags::CLOEXEC).unwrap().into()
}

fn machine() -> Machine {
    Machine {
        kernel: empty_file(),
        initramfs: empty_file(),
        command_line: String::new(),
        memory_mib: 64,
        vcpus: 1,
        serial: empty_file(),
        devices: Vec::new(),
    }
}

fn failure(machine: Machine, binary: &str) -> QemuLaunchError {
    launch(machine, Vec::new(), Path::new(binary))
        .err()
        .unwrap()
}

#[test]
fn a_missing_binary_is_named() {
    let error = failure(machine(), "/nowhere/qemu");
    assert_eq!(error.to_string(), "cannot open QEMU at /nowhere/qemu");
}

#[test]
fn a_file_that_is_no_program_is_named() {
    let error = failure(machine(), "/etc/passwd");
    assert_eq!(error.to_string(), "cannot run QEMU at /etc/passwd");
}

#[test]
fn a_program_that_gives_up_has_its_words_in_the_error() {
    // It does not know the options either.
    let error = failure(machine(), "/bin/ls").to_string();
    assert!(
        error.starts_with("QEMU at /bin/ls did not start the machine: "),
        "{error}"
    );
    assert!(error.contains("option"), "{error}");
    let silent = failure(machine(), "/bin/false").to_string();
    assert!(silent.ends_with("exit status 1"), "{silent}");
}

#[test]
fn a_command_line_with_a_zero_byte_is_refused() {
    let machine = Machine {
        command_line: "a\0b".into(),
        ..machine()
    };
    assert!(matches!(
        failure(machine, "/bin/true"),
        QemuLaunchError::CommandLine
    ));
}

#[test]
fn turning_off_comes_first_and_lasts() {
    let ending = Ending::default();
    ending.turn_off(Exit::Stopped);
    ending.note(Exit::Reset);
    ending.turn_off(Exit::Shutdown);
    assert_eq!(ending.exit(), Exit::Stopped);
    // A process that comes later is ended at once.
    let mut child = std::process::Command::new("/bin/sleep")
        .arg("100")
        .spawn()
        .unwrap();
    let began = Instant::now();
    ending.watch(runvm_sys::PidFd::open(child.id()).unwrap());
    child.wait().unwrap();
    assert!(began.elapsed() < Duration::from_secs(50));
}
