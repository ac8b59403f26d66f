//! What of the host all contestants see.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use runvm_tests::Scratch;

const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// A mount namespace for the benchmark, in which:
/// * the runtimes' states are on a tmpfs, as they are below /run;
/// * a v2 hierarchy beside those of v1 is not mounted: crun takes a host with controllers in it
///   for one of v2 alone, and refuses it.
pub(crate) struct View {
    states: PathBuf,
}

impl View {
    pub(crate) fn enter(scratch: &Scratch) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may make a mount namespace");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("mounts are private");
        if Path::new(UNIFIED).join("cgroup.controllers").exists() {
            umount2(UNIFIED, MntFlags::MNT_DETACH).expect("the unified hierarchy can be unmounted");
            println!(
                "The unified cgroup hierarchy is unmounted for all, as crun refuses it beside v1."
            );
        }
        let states = states(scratch);
        std::fs::create_dir(&states).expect("the scratch directory is writable");
        mount(
            Some("tmpfs"),
            &states,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .expect("root may mount a tmpfs");
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .expect("any process may reap its orphans");
        Self { states }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // Else the scratch directory could not be removed; the namespace ends with this process.
        let _ = umount2(&self.states, MntFlags::MNT_DETACH);
    }
}

/// Where the runtimes keep their containers.
pub(crate) fn states(scratch: &Scratch) -> PathBuf {
    scratch.path().join("states")
}
