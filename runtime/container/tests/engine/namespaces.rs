//! New namespaces, joined ones, user namespaces, time.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::bundle::{Bundle, chain};

crate::tests![
    a_user_namespace_maps_its_ids,
    what_the_mapped_root_may_not_reach_is_bound_for_it,
    namespaces_of_another_container_are_joined,
    a_pid_namespace_is_joined,
    a_user_namespace_is_joined,
    a_network_namespace_is_joined_from_a_new_user_namespace,
    a_time_namespace_has_its_offsets,
    names_of_the_host_are_set,
    sysctls_are_set_in_the_container_alone,
    a_sysctl_of_a_namespace_that_is_the_callers_is_refused,
    a_path_that_is_no_namespace_is_refused,
];

fn a_user_namespace_maps_its_ids() {
    let script = "id -u; echo x > /made; stat -c %u /made; stat -c %t:%T /dev/null; echo y > /dev/null; \
                  grep -c CapEff:.*0 /proc/self/status; hostname";
    let bundle = Bundle::shell(script).user_namespace();
    let name = bundle.config["hostname"].as_str().unwrap().to_owned();
    assert_eq!(bundle.run(), format!("0\n0\n1:3\n1\n{name}\n"));
    let made = std::fs::metadata(bundle.root().join("made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 100_000);
}

fn what_the_mapped_root_may_not_reach_is_bound_for_it() {
    let bundle = Bundle::shell("cat /volume/file").user_namespace();
    let private = bundle.dir.join("private");
    let volume = private.join("volume");
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::write(volume.join("file"), "within\n").unwrap();
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o700)).unwrap();
    let bundle = bundle
        .mount(json!({"destination": "/volume", "source": volume, "options": ["rbind", "ro"]}));
    assert_eq!(bundle.run(), "within\n");
    let missing = json!({"destination": "/m", "source": private.join("none"), "options": ["bind"]});
    let error = bundle.mount(missing).error();
    assert!(
        error.contains("/private/none to /m: no such file or directory"),
        "{error}"
    );
}

/// Runs a container with namespaces of another one; gives what it printed.
fn joined(other: &Bundle, bundle: Bundle, kinds: &[(&str, &str)]) -> String {
    let other = other
        .create()
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    other.start();
    let mut bundle = bundle;
    for (kind, file) in kinds {
        let path = format!("/proc/{}/ns/{file}", other.created.pid);
        bundle = bundle.namespace(kind, Some(Some(&path)));
    }
    bundle.run()
}

fn namespaces_of_another_container_are_joined() {
    let other = Bundle::shell("sleep 100").set("/hostname", json!("other"));
    let bundle = Bundle::shell("hostname; echo $$").set("/hostname", json!(""));
    let kinds = [("uts", "uts"), ("network", "net"), ("ipc", "ipc")];
    assert_eq!(joined(&other, bundle, &kinds), "other\n1\n");
}

fn a_pid_namespace_is_joined() {
    let other = Bundle::shell("exec sleep 1234");
    let bundle = Bundle::shell("test $$ -gt 1 && cat /proc/1/cmdline | grep -o 1234");
    assert_eq!(joined(&other, bundle, &[("pid", "pid")]), "1234\n");
}

fn a_user_namespace_is_joined() {
    let other = Bundle::shell("sleep 100").user_namespace();
    let bundle = Bundle::shell("id -u; cat /proc/self/uid_map; echo $$").user_namespace();
    // Mappings are only for a new one.
    let bundle = bundle
        .set("/linux/uidMappings", json!([]))
        .set("/linux/gidMappings", json!([]));
    let output = joined(&other, bundle, &[("user", "user"), ("ipc", "ipc")]);
    let words: Vec<_> = output.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "100000", "65536", "1"]);
}

fn a_network_namespace_is_joined_from_a_new_user_namespace() {
    let other = Bundle::shell("sleep 100");
    // A sysfs belongs to whom the network belongs.
    let mut bundle = Bundle::shell("id -u").user_namespace();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["type"] != "sysfs");
    assert_eq!(joined(&other, bundle, &[("network", "net")]), "0\n");
}

fn a_time_namespace_has_its_offsets() {
    let bundle = Bundle::shell("cat /proc/uptime")
        .namespace("time", Some(None))
        .set(
            "/linux/timeOffsets",
            json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 5}}),
        );
    let container = bundle
        .create()
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    let stamps = container.created.stamps;
    assert!(stamps.entered_ns > stamps.spawned_ns && stamps.entered_ns < stamps.ready_ns);
    container.start();
    let uptime = container.finish().1;
    let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    assert!(seconds > 1_000_000.0, "{uptime}");
}

fn names_of_the_host_are_set() {
    let script = "hostname; cat /proc/sys/kernel/domainname";
    let bundle = Bundle::shell(script)
        .set("/hostname", json!("name"))
        .set("/domainname", json!("domain"));
    assert_eq!(bundle.run(), "name\ndomain\n");
}

fn sysctls_are_set_in_the_container_alone() {
    let path = "/proc/sys/net/ipv4/ip_forward";
    let before = std::fs::read_to_string(path).unwrap();
    let other = if before.trim() == "1" { "0" } else { "1" };
    let bundle = Bundle::shell(&format!("cat {path}; cat /proc/sys/kernel/shmmni")).set(
        "/linux/sysctl",
        json!({"net.ipv4.ip_forward": other, "kernel.shmmni": "99"}),
    );
    assert_eq!(bundle.run(), format!("{other}\n99\n"));
    assert_eq!(std::fs::read_to_string(path).unwrap(), before);
}

fn a_sysctl_of_a_namespace_that_is_the_callers_is_refused() {
    for (kind, file, name) in [
        ("network", "net", "net.ipv4.ip_forward"),
        ("ipc", "ipc", "kernel.shmmni"),
        ("uts", "uts", "kernel.domainname"),
    ] {
        let path = format!("/proc/self/ns/{file}");
        let bundle = Bundle::shell("true")
            .set("/hostname", json!(""))
            .namespace(kind, Some(Some(&path)));
        // To join it is no harm.
        bundle.run();
        // A value that does no harm, should it get that far: no number, and no name.
        let bundle = bundle.set("/linux/sysctl", json!({name: "(none)"}));
        assert_eq!(
            bundle.error(),
            format!(
                "linux.sysctl.{name} would change the host: the {kind} namespace to join is the \
                 runtime's own"
            )
        );
    }
}

fn a_path_that_is_no_namespace_is_refused() {
    let bundle = Bundle::shell("true").namespace("network", Some(Some("/etc/passwd")));
    let error = bundle.error();
    assert!(
        error.contains("cannot join the network namespace: invalid argument"),
        "{error}"
    );
    let bundle = Bundle::shell("true").namespace("ipc", Some(Some("/proc/self/ns/net")));
    assert!(bundle.error().contains("cannot join the ipc namespace"));
}
