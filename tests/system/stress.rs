//! Many operations on few containers, by many at once, in any order.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use runvm_tests::{
    Bundle, Input, Isolation, Running, Runtime, each_isolation, new_container, reap_orphans_of,
    stress,
};

use crate::faults::{force_delete, sleeper};

each_isolation! {
    whatever_many_do_to_few_containers_in_any_order_can_be_deleted,
    containers_come_and_go_side_by_side_and_leave_nothing,
}

/// What one operation may answer besides success, by the words of its error.
const REFUSALS: [&str; 13] = [
    "already exists",
    "does not exist",
    "not running",
    "not paused",
    "not created",
    "not stopped",
    "it is stopped",
    "it is paused",
    "it is creating",
    "ended",
    "was killed",
    // An exec that comes when the container's processes just end.
    "no such process",
    "annot allocate memory",
];

/// A sequence of numbers that differs from one seed to the next (Marsaglia's xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).expect("less than sides")
    }
}

fn whatever_many_do_to_few_containers_in_any_order_can_be_deleted(runtime: &Runtime) {
    if runtime.skips_runc("runc loses its state to concurrent operations") {
        return;
    }
    let bundle = &sleeper(runtime);
    let (threads, rounds, ids) = match runtime.isolation() {
        Isolation::Container if stress() => (16, 200, 6),
        Isolation::Container => (6, 12, 3),
        Isolation::Vm if stress() => (4, 30, 3),
        Isolation::Vm => (3, 4, 1),
    };
    let ids: Vec<String> = (0..ids).map(|_| runtime.new_id()).collect();
    let commands: Vec<Vec<_>> = (0..threads)
        .map(|thread| {
            let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (thread + 1));
            (0..rounds)
                .flat_map(|_| {
                    let id = &ids[dice.roll(ids.len())];
                    any_operation(&mut dice, bundle, id)
                })
                .map(|words| runtime.command(words))
                .collect()
        })
        .collect();
    let (working, done) = channel::<()>();
    thread::scope(|scope| {
        for commands in commands {
            let working = working.clone();
            scope.spawn(move || {
                let _working = working;
                commands.into_iter().for_each(run);
            });
        }
        drop(working);
        while done.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout) {
            reap_orphans_of(runtime.scratch().name());
        }
    });
    for id in &ids {
        force_delete(runtime, id, "all done");
    }
}

/// One operation; or two, where what waits for a paused container would else wait for ever.
fn any_operation(dice: &mut Dice, bundle: &Bundle, id: &str) -> Vec<Vec<String>> {
    let operations: &[&[&str]] = match dice.roll(14) {
        0..=3 => return vec![new_container("create", bundle, &[], id)],
        4..=5 => &[&["start", id]],
        6 => &[&["kill", id, "KILL"]],
        7 => &[&["kill", id, "TERM"]],
        8..=9 => &[&["exec", id, "true"]],
        10 => &[&["pause", id], &["resume", id]],
        11 => &[&["state", id]],
        12 => &[&["delete", id]],
        _ => &[&["delete", "--force", id]],
    };
    let owned = |words: &&[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    operations.iter().map(owned).collect()
}

/// Runs an operation, which has to succeed or to say in one line why it did not.
fn run(command: std::process::Command) {
    let mut running = Running::spawn(command, Input::Null);
    if running.wait() == 0 {
        return;
    }
    let outcome = running.finish();
    let errors = outcome.errors();
    let is_told = |words: &&str| errors.contains(words);
    assert_eq!(errors.lines().count(), 1, "{outcome}");
    assert!(REFUSALS.iter().any(is_told), "{outcome}");
}

fn containers_come_and_go_side_by_side_and_leave_nothing(runtime: &Runtime) {
    let bundle = &runtime.bundle().shell("read line; exit $line");
    let (at_once, rounds) = match runtime.isolation() {
        Isolation::Container if stress() => (50, 10),
        Isolation::Container => (12, 2),
        Isolation::Vm if stress() => (4, 10),
        Isolation::Vm => (2, 1),
    };
    for _ in 0..rounds {
        let mut containers: Vec<_> = (0..at_once)
            .map(|_| runtime.spawn_run(bundle, Input::Pipe))
            .collect();
        for (code, container) in (0..).zip(&mut containers) {
            container.running().write(&format!("{code}\n"));
        }
        for (code, container) in (0..).zip(&mut containers) {
            container.finish().exits(code);
        }
        assert_eq!(runtime.ids(), Vec::<String>::new());
    }
}
