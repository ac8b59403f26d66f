//! Containers of runvm beside those of other runtimes, in figures that can be compared: printed as
//! Markdown tables.
//!
//! All that is compared is run in turns, so that what the machine does besides falls on all alike,
//! and with a pause before each start: the kernel lets a process into a cgroup sooner shortly
//! after another, which would flatter a tight loop. `RUNVM_BIN` names runvm; the others are sought
//! in PATH. `BENCH_ROUNDS` is how often each is measured.

mod bundles;
mod contestant;
mod floor;
mod host;
mod memory;
mod operations;
mod samples;
mod together;

use std::path::Path;

use runvm_tests::{Bundle, Scratch};

use contestant::Contestant;
use samples::{Samples, ratio};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some(floor::NAME) => floor::run(Path::new(&words[1])),
        Some(memory::NAME) => memory::print_peak(&words[1..]),
        _ => bench(),
    }
}

fn bench() {
    assert!(
        rustix::process::geteuid().is_root(),
        "must be root: it makes namespaces and cgroups"
    );
    let rounds = match std::env::var("BENCH_ROUNDS") {
        Ok(text) => text.parse().expect("BENCH_ROUNDS is a number"),
        Err(_) => 30,
    };
    let scratch = Scratch::new();
    let _view = host::View::enter(&scratch);
    let spec = bundles::of_spec(&scratch);
    let contestants = Contestant::find_all(&scratch, &spec);

    compare(
        "`runvm spec`'s configuration",
        &spec,
        &contestants,
        &scratch,
        rounds,
    );
    match bundles::of_podman(&scratch) {
        Ok(podman) => {
            let title = "podman's configuration, with its seccomp profile";
            compare(title, &podman, &contestants, &scratch, rounds);
        }
        Err(reason) => println!("\nLeft out podman's configuration: {reason}"),
    }
    operations::compare(spec.args(&["sleep", "1000"]), &contestants, rounds);
}

/// `run` of `true` in a bundle: times beside the floor's, and peak memory.
fn compare(
    title: &str,
    bundle: &Bundle,
    contestants: &[Contestant],
    scratch: &Scratch,
    rounds: usize,
) {
    // Makes the mount points in the root, which the floor takes for granted.
    contestants.iter().for_each(|contestant| {
        contestant.run(bundle);
    });
    let floor = floor::Floor::new(bundle, scratch);
    let mut floor_times = Samples::default();
    let mut times = vec![Samples::default(); contestants.len()];
    for _ in 0..rounds {
        floor_times.add(floor.run());
        for (contestant, times) in contestants.iter().zip(&mut times) {
            times.add(contestant.run(bundle));
        }
    }
    println!("\n### `run` of `true`: {title}\n");
    println!(
        "{rounds} runs each, in turns, {:?} before each; ms.\n",
        contestant::PAUSE
    );
    println!("| | min | median | p90 | of crun's median | of the floor's | peak memory, KiB |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let crun = contestants
        .iter()
        .position(|contestant| contestant.name() == "crun");
    let crun = crun.map(|crun| times[crun].median());
    let row = |name: &str, times: &Samples, peak: &str| {
        let of_crun = crun.map_or(String::new(), |crun| ratio(times.median(), crun));
        let of_floor = ratio(times.median(), floor_times.median());
        println!("| {name} | {times} | {of_crun} | {of_floor} | {peak} |");
    };
    row("the floor", &floor_times, "");
    for (contestant, times) in contestants.iter().zip(&times) {
        let peak = memory::peak_kib(contestant.run_command(bundle));
        row(contestant.name(), times, &peak.to_string());
    }
}
