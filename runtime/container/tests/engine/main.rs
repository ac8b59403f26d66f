//! The engine on real containers: a busybox rootfs, this kernel, root.
//!
//! The engine runs its own executable again, so this one has its own `main`, which lets the
//! hidden entry have the first word, and its own small harness: one argument filters by name.

mod attacks;
mod bundle;
mod credentials;
mod errors;
mod exec;
mod idmap;
mod lifecycle;
mod mounts;
mod namespaces;
mod net_devices;
mod network;
mod rootless;
mod seccomp;
mod security;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A test and its name.
type Test = (&'static str, fn());

/// Lists functions with their names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[crate::Test] = &[$((stringify!($name), $name)),*];
    };
}
pub(crate) use tests;

fn main() {
    runvm_container::run_hidden_entry();
    if std::env::args().nth(1).as_deref() == Some(rootless::AS_USER) {
        return run(rootless::UNPRIVILEGED.iter());
    }
    if let Some(why) = bundle::cannot_run() {
        println!("skipped: {why}");
        return;
    }
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let all = [
        lifecycle::TESTS,
        exec::TESTS,
        mounts::TESTS,
        idmap::TESTS,
        namespaces::TESTS,
        credentials::TESTS,
        net_devices::TESTS,
        network::TESTS,
        rootless::TESTS,
        security::TESTS,
        errors::TESTS,
        attacks::TESTS,
        seccomp::TESTS,
    ];
    let chosen = all
        .into_iter()
        .flatten()
        .filter(|(name, _)| filter.as_ref().is_none_or(|filter| name.contains(filter)));
    run(chosen);
}

fn run<'a>(chosen: impl Iterator<Item = &'a Test>) {
    let mut failed = Vec::new();
    for (name, test) in chosen {
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}
