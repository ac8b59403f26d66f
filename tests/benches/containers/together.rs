//! Many containers at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use runvm_tests::Bundle;

use crate::contestant::Contestant;
use crate::operations::{create, end};
use crate::samples::{ms, ratio};

const CONTAINERS: usize = 200;
const AT_A_TIME: usize = 8;

/// Prints what a container takes to create alone and among many.
pub(crate) fn compare(bundle: &Bundle, contestants: &[Contestant]) {
    println!("\n### {CONTAINERS} containers, {AT_A_TIME} at a time\n");
    println!("From the first `create` to the last, by their number; ms.\n");
    println!("| | one at a time | {AT_A_TIME} at a time | ratio | errors |");
    println!("| --- | --- | --- | --- | --- |");
    for contestant in contestants {
        let (alone, _) = each_takes(contestant, bundle, 1);
        let (together, errors) = each_takes(contestant, bundle, AT_A_TIME);
        let (name, ratio) = (contestant.name(), ratio(together, alone));
        println!(
            "| {name} | {} | {} | {ratio} | {errors} |",
            ms(alone),
            ms(together)
        );
    }
}

/// The time from the first to the last, by the number of containers, and how many failed.
fn each_takes(contestant: &Contestant, bundle: &Bundle, at_a_time: usize) -> (Duration, usize) {
    let next = AtomicUsize::new(0);
    let worker = || {
        let numbers = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
        let ids = numbers.take_while(|number| *number < CONTAINERS).map(id);
        ids.map(|id| create(contestant, bundle, &id))
            .collect::<Vec<_>>()
    };
    let begin = Instant::now();
    let created: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_a_time).map(|_| scope.spawn(worker)).collect();
        let created = workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("it ends"));
        created.collect()
    });
    let took = begin.elapsed();
    let pids: Vec<_> = created.into_iter().flatten().map(|(_, pid)| pid).collect();
    let errors = CONTAINERS - pids.len();
    pids.into_iter().for_each(end);
    for number in 0..CONTAINERS {
        let deleted = contestant.try_time(contestant.command(&["delete", "--force", &id(number)]));
        assert!(errors > 0 || deleted.is_ok(), "{deleted:?}");
    }
    (
        took / u32::try_from(CONTAINERS).expect("it is small"),
        errors,
    )
}

fn id(number: usize) -> String {
    format!("runvm-bench-{number}")
}
