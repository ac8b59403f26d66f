//! Each operation by itself: create, start, exec and delete, alone and many at a time.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use runvm_tests::Bundle;

use crate::contestant::{Contestant, PAUSE};
use crate::samples::{Samples, ms};
use crate::together;

const OPERATIONS: [&str; 4] = ["create", "start", "exec", "delete"];

/// Prints what each operation takes on a container of a `bundle` whose program waits.
pub(crate) fn compare(bundle: Bundle, contestants: &[Contestant], rounds: usize) {
    let mut times = vec![<[Samples; 4]>::default(); contestants.len()];
    for _ in 0..rounds {
        for (contestant, times) in contestants.iter().zip(&mut times) {
            for (time, times) in one_life(contestant, &bundle).into_iter().zip(times) {
                times.add(time);
            }
        }
    }
    println!("\n### Each operation by itself\n");
    println!("Medians of {rounds}, in turns, {PAUSE:?} before each; ms.\n");
    println!("| | {} |", OPERATIONS.join(" | "));
    println!("| --- | --- | --- | --- | --- |");
    for (contestant, times) in contestants.iter().zip(&times) {
        let cells = times.each_ref().map(|times| ms(times.median()));
        println!("| {} | {} |", contestant.name(), cells.join(" | "));
    }
    together::compare(&bundle, contestants);
}

fn one_life(contestant: &Contestant, bundle: &Bundle) -> [Duration; 4] {
    let id = "runvm-bench";
    let paused = |words: &[&str]| {
        std::thread::sleep(PAUSE);
        contestant.time(contestant.command(words))
    };
    std::thread::sleep(PAUSE);
    let (created, pid) = create(contestant, bundle, id)
        .unwrap_or_else(|reason| panic!("{}: {reason}", contestant.name()));
    let started = paused(&["start", id]);
    let executed = paused(&["exec", id, "true"]);
    end(pid);
    let deleted = paused(&["delete", id]);
    [created, started, executed, deleted]
}

/// Creates a container: how long it took, and its process.
pub(crate) fn create(
    contestant: &Contestant,
    bundle: &Bundle,
    id: &str,
) -> Result<(Duration, Pid), String> {
    let pid_file = bundle
        .path()
        .join(format!("{}-{id}.pid", contestant.name()));
    let pid_word = pid_file.to_str().expect("a test's paths are plain text");
    let words = [
        "create",
        "--bundle",
        bundle.path_text(),
        "--pid-file",
        pid_word,
        id,
    ];
    let took = contestant.try_time(contestant.command(&words))?;
    let pid = fs::read_to_string(&pid_file).map_err(|error| error.to_string())?;
    let pid = pid
        .trim()
        .parse()
        .map_err(|_| format!("the pid is {pid:?}"))?;
    Ok((took, Pid::from_raw(pid)))
}

/// Kills a container's process and, as its reaper, sees it off.
pub(crate) fn end(pid: Pid) {
    kill(pid, Signal::SIGKILL).expect("it has not ended by itself");
    waitpid(pid, None).expect("orphans of the runtimes are this process's");
}
