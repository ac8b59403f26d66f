//! What podman and docker are asked in the same words, and what both leave to the runtime.

pub(crate) mod configuration;
pub(crate) mod lifecycle;

use std::fs;

use runvm_tests::cgroups_of;

use crate::Behaviour;
use crate::engine::Engine;
use crate::image::NAME;

pub(crate) fn behaviours() -> Vec<Behaviour> {
    [lifecycle::behaviours(), configuration::behaviours()].concat()
}

/// Starts a container that waits to be ended, in the background. The answer is its name.
#[track_caller]
pub(crate) fn sleeper(engine: &Engine, flags: &[&str]) -> String {
    let name = engine.new_name();
    let detached = ["--detach", "--name", &name];
    engine
        .run(&[&detached[..], flags, &[NAME, "sleep", "1000"]].concat())
        .succeeds();
    name
}

#[track_caller]
pub(crate) fn remove(engine: &Engine, name: &str) {
    engine.call(&["rm", "--force", name]).succeeds();
}

/// One line of what `inspect` tells.
#[track_caller]
pub(crate) fn inspect(engine: &Engine, name: &str, format: &str) -> String {
    let outcome = engine.call(&["inspect", name, "--format", format]);
    outcome.succeeds().output().trim_end().to_owned()
}

/// What `file` says in the cgroup of the container `id`, where there is such a file.
fn in_cgroup(id: &str, file: &str) -> Option<String> {
    let mut paths = cgroups_of(id).into_iter().map(|path| path.join(file));
    let text = fs::read_to_string(paths.find(|path| path.exists())?).expect("it can be read");
    Some(text.trim_end().to_owned())
}
