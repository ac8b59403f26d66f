use std::io;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::thread;

use runvm_proto::ExitStatus;

use super::{Exit, First, Reaper};

/// One for all tests, as for all of the guest: a reaper takes every child of the test program.
pub(crate) static REAPER: LazyLock<Arc<Reaper>> = LazyLock::new(|| {
    let reaper = Arc::new(Reaper::default());
    let running = Arc::clone(&reaper);
    thread::spawn(move || running.run());
    reaper
});

fn shell(script: &str) -> Arc<Exit> {
    let made = REAPER.make(|| {
        let child = Command::new("sh").args(["-c", script]).spawn()?;
        Ok::<_, io::Error>((child.id(), ()))
    });
    made.unwrap().1
}

fn wait(exit: &Exit) -> First {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    exit.wait(&ours).unwrap()
}

#[test]
fn the_end_of_a_process_is_told_to_each_who_asks_before_or_after_it() {
    let exit = shell("exit 7");
    assert_eq!(wait(&exit), First::Exit(ExitStatus::Code(7)));
    assert_eq!(wait(&exit), First::Exit(ExitStatus::Code(7)));
    assert_eq!(exit.status(), Some(ExitStatus::Code(7)));
}

#[test]
fn a_signal_is_told_from_an_exit_code_real_time_signals_too() {
    assert_eq!(
        wait(&shell("kill -KILL $$")),
        First::Exit(ExitStatus::Signal(9))
    );
    assert_eq!(
        wait(&shell("kill -35 $$")),
        First::Exit(ExitStatus::Signal(35))
    );
}

#[test]
fn a_process_in_a_session_of_its_own_is_reaped_too() {
    // Without --wait setsid(1) forks only where it leads a group, which a shell's child does not.
    assert_eq!(
        wait(&shell("exec setsid sh -c 'exit 6'")),
        First::Exit(ExitStatus::Code(6))
    );
}

#[test]
fn who_makes_a_process_can_wait_for_a_helper_of_its_own() {
    let made = REAPER.make(|| {
        // Would fail with ECHILD, had the reaper taken it.
        let helper = Command::new("sh").args(["-c", "exit 3"]).status()?;
        assert_eq!(helper.code(), Some(3));
        let child = Command::new("sh").args(["-c", "exit 4"]).spawn()?;
        Ok::<_, io::Error>((child.id(), ()))
    });
    assert_eq!(wait(&made.unwrap().1), First::Exit(ExitStatus::Code(4)));
}

#[test]
fn a_wait_ends_with_its_connection_and_can_be_repeated() {
    let mut stdin = None;
    let made = REAPER.make(|| {
        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn()?;
        stdin = cat.stdin.take();
        Ok::<_, io::Error>((cat.id(), ()))
    });
    let exit = made.unwrap().1;
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert_eq!(exit.wait(&ours).unwrap(), First::HangUp);
    drop(stdin);
    assert_eq!(wait(&exit), First::Exit(ExitStatus::Code(0)));
}
