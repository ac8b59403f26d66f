//! Operations under strace(1), which kills the runtime at a system call or makes the call fail.
//!
//! A first run tells which calls an operation makes; then it is done again for each of them. A few,
//! spread over the whole operation, are tried; with `RUNVM_TEST_STRESS` set, all.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use runvm_tests::{
    Bundle, Container, Input, Isolation, Running, Runtime, each_isolation, stress, traces_of,
};

use crate::faults::{delete_by_force, nothing_is_left, sleeper};

each_isolation! {
    an_operation_killed_at_a_system_call_can_be_cleaned_up,
    a_system_call_that_fails_is_told_once_and_nothing_is_left_half_made,
}

/// What is done, in the runtime's words before the id, and to what.
struct Operation {
    words: &'static [&'static str],
    /// What follows the id.
    after: &'static [&'static str],
    target: Target,
}

#[derive(Clone, Copy, PartialEq)]
enum Target {
    New,
    Created,
    Running,
    Stopped,
}

const fn operation(words: &'static [&'static str], target: Target) -> Operation {
    Operation {
        words,
        after: &[],
        target,
    }
}

const OPERATIONS: [Operation; 9] = [
    operation(&["create"], Target::New),
    operation(&["start"], Target::Created),
    Operation {
        words: &["exec"],
        after: &["true"],
        target: Target::Running,
    },
    Operation {
        words: &["kill"],
        after: &["KILL"],
        target: Target::Running,
    },
    operation(&["pause"], Target::Running),
    operation(&["update", "--cpu-share", "512"], Target::Running),
    operation(&["delete", "--force"], Target::Created),
    operation(&["delete", "--force"], Target::Running),
    operation(&["delete"], Target::Stopped),
];

/// The calls that change something outside of the process, or on which it decides what to change.
const CHANGING: &[&str] = &[
    "mkdir",
    "mkdirat",
    "rename",
    "renameat",
    "unlink",
    "unlinkat",
    "rmdir",
    "flock",
    "write",
    "fdatasync",
    "clone3",
    "socket",
    "bind",
    "connect",
    "sendmsg",
    "sendto",
    "recvmsg",
    "recvfrom",
    "setns",
    "mount_setattr",
    "pidfd_send_signal",
    "waitid",
    "exit_group",
];

/// How calls fail, and which.
const FAILING: [(&str, &[&str]); 3] = [
    (
        "EMFILE",
        &[
            "openat",
            "openat2",
            "socket",
            "socketpair",
            "pipe2",
            "pidfd_open",
        ],
    ),
    (
        "ENOSPC",
        &["mkdir", "mkdirat", "write", "fdatasync", "bind"],
    ),
    (
        "EIO",
        &[
            "read", "pread64", "recvmsg", "fstat", "setns", "rename", "renameat",
        ],
    ),
];

/// The codes of a process that has not ended in an orderly way: of a panic, and of signals.
const CRASHES: [i32; 4] = [101, 134, 137, 139];

/// One call of an operation.
#[derive(Debug)]
struct Step {
    call: String,
    /// From 1: which of the calls of that name.
    time: usize,
}

fn an_operation_killed_at_a_system_call_can_be_cleaned_up(runtime: &Runtime) {
    if runtime.skips_runc("runc leaves its child behind, or no state to find it by") {
        return;
    }
    let bundle = sleeper(runtime);
    let mut left = Vec::new();
    let (mut tried, mut reached) = (0, 0);
    for operation in operations(runtime) {
        let mut steps = steps(runtime, &bundle, operation);
        steps.retain(|step| CHANGING.contains(&step.call.as_str()));
        for step in some(runtime, steps) {
            let (_target, id) = operation.target(runtime, &bundle);
            let killed = operation
                .under(runtime, &bundle, &id, &step, "signal=KILL")
                .wait();
            let when = format!("{:?} killed at {step:?}", operation.words);
            // What waits for the kernel asks now more often, now less.
            assert!(killed == 137 || killed == 0, "{when}: {killed}");
            tried += 1;
            reached += u32::from(killed == 137);
            left.extend(delete_by_force(runtime, &id, &when));
        }
    }
    nothing_is_left(&left);
    assert!(
        tried < 2 * reached,
        "{reached} of {tried} steps were reached"
    );
}

fn a_system_call_that_fails_is_told_once_and_nothing_is_left_half_made(runtime: &Runtime) {
    if runtime.skips_runc("runc tells in several lines, or not at all") {
        return;
    }
    let bundle = sleeper(runtime);
    let mut left = Vec::new();
    for operation in operations(runtime) {
        let faults = steps(runtime, &bundle, operation)
            .into_iter()
            .filter_map(|step| {
                let fails = |(_, calls): &&(&str, &[&str])| calls.contains(&step.call.as_str());
                let (error, _) = FAILING.iter().find(fails)?;
                Some((step, *error))
            });
        for (step, error) in some(runtime, faults.collect()) {
            let (_target, id) = operation.target(runtime, &bundle);
            let fault = format!("error={error}");
            let mut running = operation.under(runtime, &bundle, &id, &step, &fault);
            let failed = running.wait() != 0;
            let when = format!("{:?} with {error} of {step:?}", operation.words);
            if failed && operation.target == Target::New {
                assert_eq!(runtime.ids(), Vec::<String>::new(), "{when}");
                let traces = traces_of(&id);
                left.extend(traces.iter().map(|trace| format!("{when}: {trace}")));
            }
            left.extend(delete_by_force(runtime, &id, &when));
            let outcome = running.finish();
            let lines = outcome.errors().lines().count();
            assert!(!failed || lines == 1, "{when}: {outcome}");
            assert!(!CRASHES.contains(&outcome.code), "{when}: {outcome}");
        }
    }
    nothing_is_left(&left);
}

/// A microVM takes its time to start: there, what is its own.
fn operations(runtime: &Runtime) -> &'static [Operation] {
    if runtime.isolation() == Isolation::Vm && !stress() {
        &OPERATIONS[..1]
    } else {
        &OPERATIONS
    }
}

/// All of `cases`, or some, from the first to the last.
fn some<T>(runtime: &Runtime, cases: Vec<T>) -> Vec<T> {
    let most = match runtime.isolation() {
        _ if stress() => usize::MAX,
        Isolation::Container => 4,
        Isolation::Vm => 2,
    };
    let stride = cases.len().div_ceil(most).max(1);
    cases.into_iter().step_by(stride).collect()
}

/// The calls that an operation makes.
fn steps(runtime: &Runtime, bundle: &Bundle, operation: &Operation) -> Vec<Step> {
    let (_target, id) = operation.target(runtime, bundle);
    let trace = runtime.path("trace");
    let mut running = operation.strace(runtime, bundle, &id, &["-o", &trace]);
    assert_eq!(running.wait(), 0, "{:?}", operation.words);
    delete_by_force(runtime, &id, "the operation traced");
    running.finish();
    let text = fs::read_to_string(&trace).expect("strace writes it");
    let mut times = BTreeMap::new();
    let calls = text.lines().filter_map(|line| line.split_once('('));
    calls
        .map(|(call, _)| {
            let time = times.entry(call).or_insert(0);
            *time += 1;
            Step {
                call: call.to_owned(),
                time: *time,
            }
        })
        .collect()
}

impl Operation {
    /// The container it is done to, unless it makes one, and the id.
    fn target<'r>(&self, runtime: &'r Runtime, bundle: &Bundle) -> (Option<Container<'r>>, String) {
        if self.target == Target::New {
            return (None, runtime.new_id());
        }
        let mut container = runtime.create(bundle);
        if self.target != Target::Created {
            container.start();
            container.output().wait_for("ready\n");
        }
        if self.target == Target::Stopped {
            container.kill("KILL");
            container.running().wait();
        }
        let id = container.id().to_owned();
        (Some(container), id)
    }

    /// Does it with a fault at a step.
    fn under(
        &self,
        runtime: &Runtime,
        bundle: &Bundle,
        id: &str,
        step: &Step,
        fault: &str,
    ) -> Running {
        let Step { call, time } = step;
        let trace = format!("trace={call}");
        let inject = format!("inject={call}:{fault}:when={time}");
        self.strace(
            runtime,
            bundle,
            id,
            &["-o", "/dev/null", "-e", &trace, "-e", &inject],
        )
    }

    fn strace(&self, runtime: &Runtime, bundle: &Bundle, id: &str, flags: &[&str]) -> Running {
        let place: &[&str] = match self.target {
            Target::New => &["--bundle", bundle.path_text()],
            _ => &[],
        };
        let words = runtime.command([self.words, place, &[id], self.after].concat());
        let mut command = Command::new("strace");
        command.arg("-qq").args(flags);
        command.arg(words.get_program()).args(words.get_args());
        Running::spawn(command, Input::Null)
    }
}
