//! Real engines with the runtime under test in runc's place, a file each. An engine is started when the first of
//! its tests runs, serves them all, and is ended after the last: hence a `main` of our own.

mod alike;
mod buildah;
mod containerd;
mod docker;
mod enclosure;
mod engine;
mod image;
mod podman;
mod podman_user;

use std::collections::VecDeque;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Completion, Trial};

use crate::engine::{Engine, installed};

/// What an engine is to do, with a name for it.
type Behaviour = (&'static str, fn(&Engine));

/// The behaviours of these functions.
macro_rules! behaviours {
    ($($behaviour:ident),+ $(,)?) => {
        vec![$((stringify!($behaviour), $behaviour as fn(&$crate::engine::Engine))),+]
    };
}
pub(crate) use behaviours;

/// An engine and what is tested of it.
struct Suite {
    name: &'static str,
    /// What must be installed.
    programs: &'static [&'static str],
    start: fn() -> Engine,
    behaviours: Vec<Behaviour>,
    engine: Arc<OnceLock<Engine>>,
    /// Why not with unified cgroups.
    not_on_cgroup_v2: Option<&'static str>,
}

impl Suite {
    fn new(
        name: &'static str,
        programs: &'static [&'static str],
        start: fn() -> Engine,
        behaviours: Vec<Behaviour>,
    ) -> Self {
        let engine = Arc::default();
        Self {
            name,
            programs,
            start,
            behaviours,
            engine,
            not_on_cgroup_v2: None,
        }
    }

    fn on_cgroup_v1(self, reason: &'static str) -> Self {
        Self {
            not_on_cgroup_v2: Some(reason),
            ..self
        }
    }

    fn reason_to_skip(&self) -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("needs root".into());
        }
        let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        if let Some(reason) = self.not_on_cgroup_v2.filter(|_| is_v2) {
            return Some(reason.into());
        }
        let needed = ["unshare", "nsenter", "catatonit", "ip"];
        let mut needed = needed.iter().chain(self.programs);
        let missing = needed.find(|program| installed(program).is_none())?;
        Some(format!("{missing} is not installed"))
    }

    fn trials(&self) -> Vec<Trial> {
        let missing = self.reason_to_skip();
        let trial = |&(behaviour, function): &Behaviour| {
            let (engine, start, missing) = (Arc::clone(&self.engine), self.start, missing.clone());
            let run = move || {
                if let Some(reason) = missing {
                    return Ok(Completion::ignored_with(reason));
                }
                function(engine.get_or_init(start));
                Ok(Completion::Completed)
            };
            Trial::ignorable_test(format!("{}::{behaviour}", self.name), run)
        };
        self.behaviours.iter().map(trial).collect()
    }

    /// Ends the engine, if it was started. The answer is what is left of it and its containers, a line each.
    fn end(self) -> Vec<String> {
        let Some(engine) = Arc::into_inner(self.engine).and_then(OnceLock::into_inner) else {
            return Vec::new();
        };
        let mut left = engine.left_by_runtime();
        left.extend(engine.end());
        left.iter()
            .map(|line| format!("{}: {line}", self.name))
            .collect()
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let suites = [
        podman::suite(),
        podman_user::suite(),
        buildah::suite(),
        containerd::suite(),
        docker::suite(),
    ];
    let trials = interleaved(suites.iter().map(Suite::trials));
    let conclusion = libtest_mimic::run(&arguments, trials);
    let left: Vec<String> = suites.into_iter().flat_map(Suite::end).collect();
    if conclusion.has_failed() {
        return conclusion.exit_code();
    }
    if left.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("the tests passed, and left behind:\n{}", left.join("\n"));
    ExitCode::FAILURE
}

/// One of each in turn, so that no engine has all processors wait for its locks.
fn interleaved(trials: impl Iterator<Item = Vec<Trial>>) -> Vec<Trial> {
    let mut queues: Vec<VecDeque<Trial>> = trials.map(VecDeque::from).collect();
    let mut order = Vec::new();
    while queues.iter().any(|queue| !queue.is_empty()) {
        order.extend(queues.iter_mut().filter_map(VecDeque::pop_front));
    }
    order
}
