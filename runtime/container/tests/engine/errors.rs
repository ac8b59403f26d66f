//! What cannot be done is said by `create`, and nothing is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::bundle::Bundle;

crate::tests![
    a_missing_program_is_told_by_create,
    a_program_by_path_that_is_missing_is_told_by_create,
    a_file_that_is_not_executable_is_told_by_create,
    a_missing_rootfs_is_told,
    a_missing_bind_source_is_told,
    a_file_system_says_what_it_refuses,
    a_working_directory_that_cannot_be_made_is_told,
    a_ceiling_that_cannot_be_raised_names_the_limit,
    a_class_of_service_is_refused_where_there_are_none,
    a_container_without_mount_namespace_mounts_nothing,
];

fn a_missing_program_is_told_by_create() {
    let bundle = Bundle::shell("").set("/process/args", json!(["no-such-program"]));
    let error = bundle.error();
    assert!(
        error.contains("executable file not found in $PATH"),
        "{error}"
    );
    assert!(!bundle.dir.join("state/start.sock").exists());
}

fn a_program_by_path_that_is_missing_is_told_by_create() {
    let error = Bundle::shell("")
        .set("/process/args", json!(["/bin/none"]))
        .error();
    assert!(
        error.ends_with(r#"exec: "/bin/none": no such file or directory"#),
        "{error}"
    );
}

fn a_file_that_is_not_executable_is_told_by_create() {
    let bundle = Bundle::shell("").set("/process/args", json!(["/plain"]));
    fs::write(bundle.root().join("plain"), "text").unwrap();
    let error = bundle.error();
    assert!(
        error.ends_with(r#"exec: "/plain": permission denied"#),
        "{error}"
    );
}

fn a_missing_rootfs_is_told() {
    let error = Bundle::shell("").set("/root/path", json!("none")).error();
    assert!(
        error.contains("cannot open the root file system"),
        "{error}"
    );
    assert!(
        error.ends_with("/none: no such file or directory"),
        "{error}"
    );
}

fn a_missing_bind_source_is_told() {
    let mount = json!({"destination": "/m", "source": "/no/such", "options": ["bind"]});
    let error = Bundle::shell("").mount(mount).error();
    assert!(
        error.ends_with("cannot bind /no/such to /m: no such file or directory"),
        "{error}"
    );
}

fn a_file_system_says_what_it_refuses() {
    let mount = json!({"destination": "/m", "type": "tmpfs", "options": ["size=much"]});
    let error = Bundle::shell("").mount(mount).error();
    assert!(
        error.contains("cannot mount tmpfs at /m: tmpfs: Bad value for 'size'"),
        "{error}"
    );
}

fn a_working_directory_that_cannot_be_made_is_told() {
    let error = Bundle::shell("")
        .set("/process/cwd", json!("/bin/busybox/none"))
        .error();
    assert!(
        error.ends_with("process.cwd /bin/busybox/none: not a directory"),
        "{error}"
    );
}

fn a_ceiling_that_cannot_be_raised_names_the_limit() {
    // Above what the kernel lets anybody have, privileged or not.
    let limit = json!([{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 1_u64 << 40}]);
    let error = Bundle::shell("").set("/process/rlimits", limit).error();
    assert!(
        error.contains("cannot set RLIMIT_NOFILE to 10 with the ceiling"),
        "{error}"
    );
    assert!(error.ends_with("operation not permitted"), "{error}");
}

fn a_class_of_service_is_refused_where_there_are_none() {
    if std::path::Path::new("/sys/fs/resctrl/schemata").exists() {
        println!("skipped: resctrl is mounted");
        return;
    }
    let bundle = Bundle::shell("true").set("/linux/intelRdt", json!({"closID": "x"}));
    assert_eq!(
        bundle.error(),
        "cannot put the container into its resctrl class: linux.intelRdt needs the resctrl file \
         system mounted at /sys/fs/resctrl"
    );
}

fn a_container_without_mount_namespace_mounts_nothing() {
    let bundle = Bundle::shell("echo here; ls /")
        .namespace("mount", None)
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]));
    assert_eq!(
        bundle.error(),
        "mounts needs a mount namespace in linux.namespaces"
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    fs::set_permissions(bundle.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let bundle = bundle.set("/mounts", json!([]));
    assert_eq!(bundle.run(), "here\nbin\n");
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
}
