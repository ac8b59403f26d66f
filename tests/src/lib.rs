//! What the whole-system tests are written with: a [`Runtime`] under test, [`Bundle`]s to give it,
//! [`Container`]s it made, and [`Running`] commands whose output and end can be waited for.
//!
//! A behaviour is a function of a [`Runtime`]; [`each_isolation`] makes a test of it for each way
//! to isolate. `RUNVM_BIN` names the runtime; with runc there, what only runvm has is skipped, and the rest
//! proves the tests. `RUNVM_TEST_ISOLATION` restricts to `container` or `vm`; `RUNVM_TEST_PATIENCE` is how many
//! seconds a single wait may take; `RUNVM_TEST_STRESS` asks for all cases where else a few are tried.
#![forbid(unsafe_code)]

mod bundle;
mod capture;
mod container;
mod isolation;
mod leftovers;
mod process;
mod running;
mod runtime;
mod scratch;
mod terminal;

pub use bundle::{Bundle, make_root};
pub use capture::Capture;
pub use container::{Container, State};
pub use isolation::{Isolation, in_isolation, skip};
pub use leftovers::{cgroups_of, leftovers, traces_of};
pub use process::{Process, children_of, reap_orphans_of};
pub use running::{Input, Outcome, Running};
pub use runtime::{Runtime, new_container};
pub use scratch::Scratch;
pub use terminal::{ConsoleSocket, Terminal};

use std::time::Duration;

/// Whether `RUNVM_TEST_STRESS` asks for long tests: all cases where else a few are tried, and many rounds.
pub fn stress() -> bool {
    std::env::var_os("RUNVM_TEST_STRESS").is_some_and(|value| !value.is_empty())
}

/// How long one wait may take before the test gives up: `RUNVM_TEST_PATIENCE` seconds, or 120.
pub fn patience() -> Duration {
    let seconds = std::env::var("RUNVM_TEST_PATIENCE").ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("RUNVM_TEST_PATIENCE is {text:?}, not seconds"))
    });
    Duration::from_secs(seconds.unwrap_or(120))
}
