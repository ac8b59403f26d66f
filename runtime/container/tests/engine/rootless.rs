//! The engine in the hands of an ordinary user: the tests proper are run by this executable once
//! more, as the user nobody.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::bundle::Bundle;

crate::tests![an_ordinary_user_makes_containers];

/// The argument that asks for [`UNPRIVILEGED`].
pub(crate) const AS_USER: &str = "--as-user";

/// Run by a user without privileges.
pub(crate) const UNPRIVILEGED: &[crate::Test] = &[
    ("what_spec_gives_a_user_runs", what_spec_gives_a_user_runs),
    ("a_user_executes_beside", a_user_executes_beside),
    (
        "more_ids_are_mapped_by_the_tools",
        more_ids_are_mapped_by_the_tools,
    ),
    (
        "ids_that_are_others_are_refused_by_the_tools",
        ids_that_are_others_are_refused_by_the_tools,
    ),
];

/// nobody, of base-passwd.
const USER: u32 = 65534;

/// Files of the test, that go with it.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn an_ordinary_user_makes_containers() {
    let max = fs::read_to_string("/proc/sys/user/max_user_namespaces");
    let clone = fs::read_to_string("/proc/sys/kernel/unprivileged_userns_clone");
    if max.is_ok_and(|max| max.trim() == "0") || clone.is_ok_and(|clone| clone.trim() == "0") {
        println!("skipped: users may not make user namespaces here");
        return;
    }
    let name = format!("runvm-rootless-{}", std::process::id());
    let scratch = Scratch(std::env::temp_dir().join(name));
    let dir = &scratch.0;
    fs::create_dir(dir).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    // Where the user can reach it, and with ids to map in its own mount namespace alone.
    fs::copy("/proc/self/exe", dir.join("engine")).unwrap();
    fs::write(dir.join("ids"), "nobody:200000:1000\n").unwrap();
    let script = "for f in subuid subgid; do \
                  test -e /etc/$f || exit 77; mount --bind \"$0/ids\" /etc/$f || exit; done; \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0/engine\" --as-user";
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(dir)
        .env("TMPDIR", std::env::temp_dir())
        .status()
        .unwrap();
    if status.code() == Some(77) {
        println!("skipped: needs /etc/subuid and /etc/subgid");
        return;
    }
    assert!(status.success());
}

fn bundle(script: &str) -> Bundle {
    Bundle::shell_from(&runvm_oci::default_config(Some((USER, USER))), script)
}

fn has_tools() -> bool {
    let there = Path::new("/usr/bin/newuidmap").exists();
    if !there {
        println!("skipped: needs newuidmap(1)");
    }
    there
}

fn what_spec_gives_a_user_runs() {
    assert_eq!(rustix::process::geteuid().as_raw(), USER);
    let bundle = bundle("id -u; cat /proc/self/uid_map; touch /made; echo > /dev/null; hostname");
    let name = bundle.config["hostname"].as_str().unwrap().to_owned();
    let output = bundle.run();
    let words: Vec<_> = output.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "65534", "1", &name]);
    let made = fs::metadata(bundle.root().join("made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), USER);
}

fn a_user_executes_beside() {
    let bundle = bundle("exec sleep 1234");
    let container = bundle.create().unwrap();
    container.start();
    let output =
        container.run("id -u; test $$ -gt 1 && cat /proc/1/cmdline | grep -o 1234; hostname");
    let name = bundle.config["hostname"].as_str().unwrap();
    assert_eq!(output, format!("0\n1234\n{name}\n"));
}

/// One's own id, and more from elsewhere.
fn more(host_id: u32) -> Value {
    json!([{"containerID": 0, "hostID": USER, "size": 1},
        {"containerID": 1, "hostID": host_id, "size": 1000}])
}

fn more_ids_are_mapped_by_the_tools() {
    if !has_tools() {
        return;
    }
    let bundle = bundle("id -u; cat /proc/self/gid_map; cat /proc/self/setgroups")
        .set("/linux/uidMappings", more(200_000))
        .set("/linux/gidMappings", more(200_000))
        .set(
            "/process/user",
            json!({"uid": 7, "gid": 7, "additionalGids": [8]}),
        );
    let output = bundle.run();
    let words: Vec<_> = output.split_whitespace().collect();
    assert_eq!(
        words,
        ["7", "0", "65534", "1", "1", "200000", "1000", "allow"]
    );
}

fn ids_that_are_others_are_refused_by_the_tools() {
    if !has_tools() {
        return;
    }
    let bundle = bundle("true")
        .set("/linux/uidMappings", more(500_000))
        .set("/linux/gidMappings", more(200_000));
    let error = bundle.error();
    assert!(
        error.contains("cannot write the id mappings of the user namespace: newuidmap: "),
        "{error}"
    );
    assert!(
        error.contains("[1-1001) -> [500000-501000) not allowed"),
        "{error}"
    );
}
