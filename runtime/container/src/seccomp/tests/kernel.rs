//! The kernel's own word. Each case runs in a process of its own: this test executable again,
//! with the case's name in the environment.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, exit};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::json;

use super::{compile, profile};

const CASE: &str = "RUNVM_SECCOMP_CASE";
const SIGSYS: i32 = 31;

/// Runs `test` of this executable with the variable set.
pub(super) fn again(test: &str, case: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CASE, case);
    command
}

pub(super) fn case() -> Option<String> {
    std::env::var(CASE).ok()
}

fn run(case: &str) -> ExitStatus {
    again("seccomp::tests::kernel::a_case", case)
        .status()
        .unwrap()
}

fn confine(json: serde_json::Value) {
    rustix::thread::set_no_new_privs(true).unwrap();
    let listener = compile(&profile(json)).unwrap().load().unwrap();
    assert!(listener.is_none());
}

/// Does nothing unless it is asked for by name.
#[test]
fn a_case() {
    match case().as_deref() {
        Some("errno") => {
            confine(json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                "syscalls": [
                    {"names": ["getcwd"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122},
                    {"names": ["pipe2"], "action": "SCMP_ACT_ERRNO", "args": [
                        {"index": 1, "value": PipeFlags::NONBLOCK.bits(), "op": "SCMP_CMP_EQ"},
                    ]},
                ],
            }));
            assert_eq!(rustix::process::getcwd(Vec::new()), Err(Errno::DQUOT));
            assert_eq!(pipe_with(PipeFlags::NONBLOCK).map(drop), Err(Errno::PERM));
            pipe_with(PipeFlags::CLOEXEC).unwrap();
            exit(42);
        }
        Some("kill") => {
            confine(json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_KILL_PROCESS"}],
            }));
            let _ = rustix::process::getcwd(Vec::new());
            exit(42);
        }
        Some("trap") => {
            confine(json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"],
                "syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_TRAP"}],
            }));
            let _ = rustix::process::getcwd(Vec::new());
            exit(42);
        }
        Some("longest") => {
            let args = |value: u64| json!([{"index": 5, "value": value, "op": "SCMP_CMP_LT"}]);
            let rules: Vec<_> = (0..800)
                .map(|value| json!({"names": ["umask"], "action": "SCMP_ACT_KILL", "args": args(value << 33)}))
                .collect();
            confine(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
            exit(42);
        }
        Some(other) => panic!("{other} is not a case"),
        None => {}
    }
}

#[test]
fn a_denied_call_gives_the_error_and_the_others_go_on() {
    assert_eq!(run("errno").code(), Some(42));
}

#[test]
fn a_killing_filter_kills_the_process() {
    assert_eq!(run("kill").signal(), Some(SIGSYS));
}

#[test]
fn a_trapping_filter_that_is_synchronised_sends_sigsys() {
    assert_eq!(run("trap").signal(), Some(SIGSYS));
}

#[test]
fn the_kernel_takes_a_filter_with_far_jumps() {
    assert_eq!(run("longest").code(), Some(42));
}
