//! Operations that lack descriptors or room on the disk.

use std::process::Command;

use runvm_tests::{
    Bundle, Input, Outcome, Running, Runtime, container_only, each_isolation, new_container,
    stress, traces_of,
};

use crate::faults::{force_delete, nothing_is_left, sleeper};

each_isolation! {
    a_full_state_directory_refuses_a_container_and_takes_the_next,
}

container_only! {
    a_create_with_few_descriptors_fails_wholly,
    a_container_is_what_it_is_however_few_descriptors_there_are,
}

/// More descriptors than any operation takes.
const ENOUGH: usize = 64;

/// The limits to try: all, or a few.
fn limits() -> impl Iterator<Item = usize> {
    (0..ENOUGH).step_by(if stress() { 1 } else { 7 })
}

fn with_limit(runtime: &Runtime, limit: usize, words: &[String]) -> Running {
    let limited = runtime.command(words);
    let mut prlimit = Command::new("prlimit");
    prlimit.arg(format!("--nofile={limit}"));
    prlimit.arg(limited.get_program()).args(limited.get_args());
    Running::spawn(prlimit, Input::Null)
}

fn a_create_with_few_descriptors_fails_wholly(runtime: &Runtime) {
    if runtime.skips_runc("runc hangs") {
        return;
    }
    let bundle = sleeper(runtime);
    let mut left = Vec::new();
    let mut failed = 0;
    for limit in limits() {
        let id = runtime.new_id();
        let mut create = with_limit(runtime, limit, &new_container("create", &bundle, &[], &id));
        if create.wait() == 0 {
            force_delete(runtime, &id, "created");
        } else {
            failed += 1;
            left.extend(traces_of(&id));
            assert_eq!(runtime.ids(), Vec::<String>::new(), "{limit} descriptors");
            is_one_line(&create.finish());
        }
    }
    nothing_is_left(&left);
    assert!(failed > 0, "{ENOUGH} limits were enough");
}

fn is_one_line(outcome: &Outcome) {
    assert_eq!(outcome.errors().lines().count(), 1, "{outcome}");
}

/// That it cannot be found out whether a container runs is not that it has stopped.
fn a_container_is_what_it_is_however_few_descriptors_there_are(runtime: &Runtime) {
    if runtime.skips_runc("runc hangs") {
        return;
    }
    let container = runtime.create(&sleeper(runtime));
    container.start();
    container.output().wait_for("ready\n");
    for limit in limits() {
        for words in [&["delete"][..], &["state"], &["pause"], &["start"]] {
            let words: Vec<String> = words
                .iter()
                .chain([&container.id()])
                .map(|word| (*word).to_owned())
                .collect();
            let outcome = with_limit(runtime, limit, &words).finish();
            if outcome.code == 0 {
                assert!(["state", "pause"].contains(&words[0].as_str()), "{outcome}");
            } else {
                is_one_line(&outcome);
            }
            if outcome.code == 0 && words[0] == "pause" {
                runtime.call(["resume", container.id()]).succeeds();
            }
        }
        assert_eq!(container.state().status, "running", "{limit} descriptors");
    }
    container.end();
}

fn a_full_state_directory_refuses_a_container_and_takes_the_next(runtime: &Runtime) {
    let bundle = sleeper(runtime);
    let words = |runtime: &Runtime, bundle: &Bundle, id: &str| {
        let create = runtime.command(new_container("create", bundle, &[], id));
        let words = [create.get_program()].into_iter().chain(create.get_args());
        words.map(|word| word.to_os_string()).collect::<Vec<_>>()
    };
    let id = runtime.new_id();
    // All in a mount namespace that goes with the shell.
    let script = r#"mkdir -p "$0" && mount -t tmpfs -o size=1m none "$0" || exit 9
        cat /dev/zero > "$0/filler" 2>/dev/null
        "$@" >/dev/null && exit 8
        rm "$0/filler"
        [ -z "$(ls "$0")" ] || exit 7
        "$@" >/dev/null 2>&1 || exit 6
        shift $(($# - 1))
        exec "$RUNVM" --root "$0" delete --force "$1""#;
    let mut shell = Command::new("unshare");
    shell
        .args(["--mount", "sh", "-c", script])
        .arg(runtime.root())
        .args(words(runtime, &bundle, &id))
        .env("RUNVM", Runtime::binary());
    let outcome = Running::spawn(shell, Input::Null).finish();
    assert_eq!(outcome.code, 0, "{outcome}");
    if !Runtime::is_runc() {
        is_one_line(&outcome);
        assert!(outcome.errors().contains("No space left"), "{outcome}");
    }
    nothing_is_left(&traces_of(&id));
}
