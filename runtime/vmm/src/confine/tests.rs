//! Confined threads, each in a process of its own: it ends, or it must not.

use std::process::Command;
use std::thread;

use super::*;

const TEST: Confinement = Confinement {
    thread: "test",
    capabilities: CapabilitySet::DAC_OVERRIDE,
    calls: &[
        &[call(libc::SYS_prctl), call(libc::SYS_capget)],
        &[one_of(
            libc::SYS_socket,
            0,
            &[libc::AF_UNIX.cast_unsigned()],
        )],
    ],
    absent: &[libc::SYS_pipe2],
};

/// Runs `act` confined, in a process of its own: this test again, alone.
fn confined(name: &str, act: fn()) -> Option<(Option<i32>, String)> {
    if std::env::var_os("CONFINED").is_some() {
        thread::spawn(move || {
            TEST.enter().unwrap();
            act();
        })
        .join()
        .unwrap();
        return None;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("confine::tests::{name}")])
        .env("CONFINED", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Some((output.status.code(), said))
}

#[test]
fn a_forbidden_call_ends_the_process_with_a_word() {
    let ended = confined("a_forbidden_call_ends_the_process_with_a_word", || {
        let _ = rustix::fs::stat("/");
    });
    if let Some((code, said)) = ended {
        assert_eq!(code, Some(FORBIDDEN), "{said}");
        let word = "the test thread of the VMM made system call 262, which its filter forbids\n";
        assert!(said.ends_with(word), "{said}");
    }
}

#[test]
fn an_argument_can_be_forbidden_too() {
    let ended = confined("an_argument_can_be_forbidden_too", || {
        use rustix::net::{AddressFamily, SocketType, socket};
        socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        let _ = socket(AddressFamily::INET, SocketType::STREAM, None);
    });
    if let Some((code, said)) = ended {
        assert_eq!(code, Some(FORBIDDEN), "{said}");
        assert!(said.contains("made system call 41,"), "{said}");
    }
}

#[test]
fn a_thread_keeps_what_it_is_meant_to_and_no_more() {
    let ended = confined("a_thread_keeps_what_it_is_meant_to_and_no_more", || {
        let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        assert_eq!(pipe.unwrap_err(), Errno::NOSYS);
        // The C library's own, in a heap of this thread's.
        let blocks: Vec<_> = (0..1000).map(|_| vec![1_u8; 60 << 10]).collect();
        drop(blocks);
        let left = capabilities(None).unwrap();
        assert!(CapabilitySet::DAC_OVERRIDE.contains(left.permitted));
        assert_eq!(left.effective, left.permitted);
        assert!(left.inheritable.is_empty());
        // Heap and threads' own memory work.
        assert_eq!(vec![1_u8; 10 << 20].len(), 10 << 20);
    });
    if let Some((code, said)) = ended {
        assert_eq!(code, Some(0), "{said}");
    }
}
