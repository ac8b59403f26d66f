//! Scopes of a user's own service manager.

use std::fs;
use std::os::unix::fs::chown;
use std::process::{Command, Stdio};

use runvm_tests::{Input, Outcome, Running, Runtime, cgroups_of, container_only, skip};
use serde_json::{Value, json};

use super::{is_under_systemd, is_v2, limit, systemctl};

container_only! {
    a_user_has_scopes_of_their_own_manager,
}

/// nobody, of base-passwd.
const USER: u32 = 65534;

/// A user with a service manager, and with the runtime outside of what is the manager's: as after
/// a login.
struct User {
    directory: String,
    manager: String,
}

impl User {
    fn new(runtime: &Runtime) -> Self {
        let user = Self {
            directory: runtime.path("user"),
            manager: format!("{}-user.service", runtime.scratch().name()),
        };
        for directory in [&user.directory, &user.path("units")] {
            fs::create_dir(directory).unwrap();
            chown(directory, Some(USER), Some(USER)).unwrap();
        }
        // It knows no other unit: none of those that tidy up the file tree.
        let target = "[Unit]\nDefaultDependencies=no\n";
        fs::write(user.path("units/default.target"), target).unwrap();
        // Where the user can reach it.
        fs::copy(Runtime::binary(), user.path("runtime")).unwrap();
        let mut run = Command::new("systemd-run");
        run.args(["--quiet", "--service-type=notify", "--unit", &user.manager])
            .args([format!("--uid={USER}"), format!("--gid={USER}")])
            .args(
                [
                    "Delegate=yes",
                    "DefaultDependencies=no",
                    "KillSignal=SIGKILL",
                ]
                .map(property),
            )
            .arg(format!("--setenv=XDG_RUNTIME_DIR={}", user.directory))
            .arg(format!("--setenv=SYSTEMD_UNIT_PATH={}", user.path("units")))
            .arg("--setenv=SYSTEMD_GENERATOR_PATH=/run/none")
            .args(["/lib/systemd/systemd", "--user"]);
        Running::spawn(run, Input::Null).finish().succeeds();
        user
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    /// The runtime's command, for the user.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={USER}"), format!("--regid={USER}")])
            .args(["--clear-groups", &self.path("runtime")])
            .args(["--root", &self.path("root")])
            .args(args)
            .current_dir(&self.directory)
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .env("XDG_RUNTIME_DIR", &self.directory);
        command
    }

    /// Runs it to its end.
    #[track_caller]
    fn call(&self, args: &[&str]) -> Outcome {
        Running::spawn(self.command(args), Input::Null).finish()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        systemctl(&["stop", &self.manager]);
    }
}

fn property(assignment: &str) -> String {
    format!("--property={assignment}")
}

fn a_user_has_scopes_of_their_own_manager(runtime: &Runtime) {
    if !is_under_systemd(runtime) {
        return;
    }
    if !is_v2() {
        return skip("a user's manager has no v1 cgroups");
    }
    let rootfs = runtime.bundle().rootfs();
    let user = User::new(runtime);
    user.call(&["spec", "--rootless"]).succeeds();
    let text = fs::read(user.path("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["sleep", "1000"]);
    config["root"]["path"] = json!(rootfs);
    config["linux"]["resources"] = json!({ "pids": { "limit": 77 } });
    fs::write(user.path("config.json"), config.to_string()).unwrap();

    let id = runtime.new_id();
    // The container has its streams, and they do not end with it.
    let mut run = user.command(&["--systemd-cgroup", "run", "--detach", &id]);
    run.stdin(Stdio::null()).stdout(Stdio::null());
    assert!(run.stderr(Stdio::null()).status().unwrap().success());
    let state = user.call(&["state", &id]).succeeds();
    let state: Value = serde_json::from_slice(&state.output).unwrap();
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", state["pid"])).unwrap();
    let prefix = if Runtime::is_runc() { "runc" } else { "runvm" };
    let (manager, unit) = (&user.manager, format!("{prefix}-{id}.scope"));
    let path = format!("/system.slice/{manager}/user.slice/{unit}\n");
    assert!(cgroups.ends_with(&path), "{cgroups}");
    assert_eq!(limit(&unit, "", "pids.max"), "77");

    user.call(&["exec", &id, "echo", "beside"])
        .prints("beside\n");
    user.call(&["update", "--pids-limit", "20", &id]).succeeds();
    assert_eq!(limit(&unit, "", "pids.max"), "20");
    user.call(&["delete", "--force", &id]).succeeds();
    assert!(cgroups_of(&unit).is_empty());
}
