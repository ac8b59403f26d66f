//! Handing controllers down the unified hierarchy, so that a container's cgroup has them.
//!
//! A cgroup has the controllers that its parent's `cgroup.subtree_control` names, and the parent
//! can only name those it has itself (cgroup-v2.rst, "Controlling Controllers"). Nothing is moved
//! and nothing taken away; what a parent cannot give is missed only by a limit that needs it.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::place::Place;
use super::settings::is_errno;
use super::{CgroupError, file};

/// Which controllers a cgroup is to have.
pub(super) enum Wanted<'a> {
    /// Whatever there is.
    All,
    /// These.
    These(&'a [&'static str]),
}

/// What a cgroup got.
#[derive(Debug, Default)]
pub(super) struct Controllers {
    names: Vec<String>,
    /// Where controllers were refused, and how.
    refusals: Vec<Refusal>,
}

#[derive(Debug)]
struct Refusal {
    controller: String,
    path: String,
    source: io::Error,
}

/// Has the parents of `place` hand down what is wanted.
pub(super) fn enable(place: &Place, wanted: &Wanted<'_>) -> Result<Controllers, CgroupError> {
    let read = |source| CgroupError::Read {
        path: place.full_path().join("cgroup.controllers"),
        source,
    };
    let own = place.read("cgroup.controllers").map_err(read)?;
    let (root, parents) = place.parents();
    let top = file::open_directory(root, ".").map_err(read)?;
    let all = file::read(top.as_fd(), "cgroup.controllers").map_err(read)?;
    let is_wanted = |name: &&str| match wanted {
        Wanted::All => true,
        Wanted::These(names) => names.contains(name),
    };
    let missing: Vec<&str> = all
        .split_whitespace()
        .filter(is_wanted)
        .filter(|name| !own.split_whitespace().any(|had| had == *name))
        .collect();
    if missing.is_empty() {
        return Ok(Controllers {
            names: own.split_whitespace().map(str::to_owned).collect(),
            refusals: Vec::new(),
        });
    }
    let mut refusals = hand_down(&top, "/", &missing);
    for parent in parents {
        match file::open_directory(root, parent) {
            Ok(directory) => refusals.extend(hand_down(&directory, parent, &missing)),
            Err(source) => return Err(read(source)),
        }
    }
    let own = place.read("cgroup.controllers").map_err(read)?;
    Ok(Controllers {
        names: own.split_whitespace().map(str::to_owned).collect(),
        refusals,
    })
}

/// Has one cgroup hand down controllers, as far as it has them and does not yet.
fn hand_down(directory: &impl AsFd, path: &str, controllers: &[&str]) -> Vec<Refusal> {
    const FILE: &str = "cgroup.subtree_control";
    let directory = directory.as_fd();
    let words = |name| file::read(directory, name).unwrap_or_default();
    let (had, handed) = (words("cgroup.controllers"), words(FILE));
    let has = |words: &str, name: &str| words.split_whitespace().any(|word| word == name);
    let missing: Vec<&str> = controllers
        .iter()
        .copied()
        .filter(|name| has(&had, name) && !has(&handed, name))
        .collect();
    let plus = |names: &[&str]| format!("+{}", names.join(" +"));
    let refusal = |name: &str, source| Refusal {
        controller: name.to_owned(),
        path: path.to_owned(),
        source,
    };
    if missing.is_empty() {
        return Vec::new();
    }
    // With processes of its own it could hand down controllers of threads alone, as of the CPU.
    // The kernel lets it, but that makes it a threaded domain, where no container can be below.
    // Only the hierarchy's root, which has no type, may have both.
    if !words("cgroup.procs").is_empty() && !words("cgroup.type").is_empty() {
        let busy = |name: &&str| refusal(name, Errno::BUSY.into());
        return missing.iter().map(busy).collect();
    }
    if file::write(directory, FILE, &plus(&missing)).is_ok() {
        return Vec::new();
    }
    // One that is refused must not keep the others away.
    let mut refusals = Vec::new();
    for name in missing {
        if let Err(source) = file::write(directory, FILE, &plus(&[name])) {
            refusals.push(refusal(name, source));
        }
    }
    refusals
}

impl Controllers {
    pub(super) fn has(&self, controller: &str) -> bool {
        self.names.iter().any(|name| name == controller)
    }

    /// Why a controller is not there, in words to append to a message.
    pub(super) fn why_not(&self, controller: &str) -> String {
        let refusal = self
            .refusals
            .iter()
            .find(|refusal| refusal.controller == controller);
        let Some(Refusal { path, source, .. }) = refusal else {
            return String::new();
        };
        if is_errno(source, Errno::BUSY) {
            return format!(
                ": its parent {path:?} has processes of its own, so it can hand down no controllers"
            );
        }
        if is_errno(source, Errno::OPNOTSUPP) {
            return format!(": its parent {path:?} is threaded");
        }
        format!(": {path:?} cannot hand it down: {source}")
    }
}
