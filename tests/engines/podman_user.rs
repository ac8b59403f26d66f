//! podman as an ordinary user, who is root of a user namespace of podman's making, and so is the runtime.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use runvm_tests::Runtime;

use crate::alike::configuration::a_root_is_read_only_and_volumes_are_not;
use crate::alike::lifecycle::{
    a_container_has_a_terminal, a_container_runs_and_its_exit_code_is_told,
    a_stopped_container_starts_again, exec_runs_beside_the_program,
    input_goes_in_and_output_comes_out, stop_and_kill_reach_the_program,
};
use crate::alike::sleeper;
use crate::enclosure::{Enclosure, USER};
use crate::engine::{Engine, runtime};
use crate::image::{self, NAME};
use crate::{Suite, behaviours, podman};

pub(crate) fn suite() -> Suite {
    let behaviours = behaviours![
        a_container_runs_and_its_exit_code_is_told,
        input_goes_in_and_output_comes_out,
        a_container_has_a_terminal,
        exec_runs_beside_the_program,
        stop_and_kill_reach_the_program,
        a_root_is_read_only_and_volumes_are_not,
        a_stopped_container_starts_again,
        a_user_is_root_inside_alone,
        a_process_namespace_is_shared,
    ];
    let programs = &["podman", "conmon", "newuidmap", "setpriv"];
    Suite::new("podman_user", programs, start, behaviours)
        .on_cgroup_v1("with cgroup v2 a user has a cgroup of their own from systemd alone")
}

fn start() -> Engine {
    let enclosure = Enclosure::new();
    let archive = image::write(&enclosure.path(""));
    let home = enclosure.path("home");
    let run = format!("{home}/run");
    for directory in [&home, &run] {
        fs::create_dir(directory).expect("the scratch directory is writable");
        chown(directory, Some(USER.1), Some(USER.1)).expect("the tests are root's");
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(directory, mode).expect("the tests are root's");
    }
    let original = runtime();
    let name = Path::new(&original).file_name().expect("it is a file");
    let name = name.to_string_lossy();
    // Where a user may execute it, whoever's the original is.
    let reachable = enclosure.path(&name);
    fs::copy(&original, &reachable).expect("the scratch directory is writable");

    let id = USER.1.to_string();
    let mut podman = enclosure.command("setpriv");
    podman
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .args(["podman", "--runtime", &reachable])
        .args(["--storage-driver", "overlay"])
        .env("CONTAINERS_CONF", podman::configuration(&enclosure, &home))
        .env("HOME", &home)
        .env("USER", USER.0)
        .env("XDG_RUNTIME_DIR", &run);
    let engine = Engine::new(enclosure, podman, &format!("{run}/{name}"));
    engine
        .call(&["load", "--quiet", "--input", &archive])
        .succeeds();
    engine
}

fn a_user_is_root_inside_alone(engine: &Engine) {
    let script = "set -- $(head -n 1 /proc/self/uid_map); echo $1 $2 $3
                  touch /file; stat -c %u:%g /file; [ -c /dev/null ] && echo x >/dev/null
                  readlink /dev/ptmx";
    engine
        .run(&["--rm", NAME, "sh", "-c", script])
        .prints(&format!("0 {} 1\n0:0\npts/ptmx\n", USER.1));
}

fn a_process_namespace_is_shared(engine: &Engine) {
    let first = &sleeper(engine, &[]);
    let share = format!("--pid=container:{first}");
    let said = engine.run(&["--rm", &share, NAME, "cat", "/proc/1/comm"]);
    if Runtime::is_runc() {
        // It warns that there is no cgroup to freeze.
        assert_eq!(said.succeeds().output(), "sleep\n");
    } else {
        said.prints("sleep\n");
    }
    engine
        .call(&["rm", "--force", "--time=0", first])
        .succeeds();
}
