//! Users, groups, capabilities, limits.

use std::fs::File;
use std::io::Read;

use serde_json::json;

use crate::bundle::{Bundle, With};

crate::tests![
    the_groups_of_the_caller_do_not_stay,
    groups_user_and_umask_are_those_of_the_plan,
    capabilities_are_those_of_the_plan,
    a_plan_without_capabilities_gives_none,
    ambient_capabilities_reach_an_ordinary_user,
    the_default_configuration_starts_without_a_warning,
    what_the_runtime_lacks_is_left_out_with_a_warning,
    no_new_privileges_is_set,
    limits_are_lowered_even_below_what_the_set_up_needs,
    home_comes_from_the_containers_passwd,
    the_score_for_the_oom_killer_is_set,
    a_memory_policy_holds_for_the_program_and_what_is_executed_beside_it,
    a_memory_policy_that_cannot_be_is_told,
    the_working_directory_may_be_its_users_alone,
    streams_are_given_to_the_user,
];

fn the_groups_of_the_caller_do_not_stay() {
    let before = rustix::process::getgroups().unwrap();
    let group = rustix::fs::Gid::from_raw(4242);
    rustix::thread::set_thread_groups(&[group]).unwrap();
    let output = Bundle::shell("grep Groups /proc/self/status").run();
    rustix::thread::set_thread_groups(&before).unwrap();
    assert_eq!(output.trim(), "Groups:");
}

fn groups_user_and_umask_are_those_of_the_plan() {
    let user = json!({"uid": 1000, "gid": 1001, "umask": 0o27, "additionalGids": [5, 6]});
    let bundle = Bundle::shell("id; umask").set("/process/user", user);
    assert_eq!(bundle.run(), "uid=1000 gid=1001 groups=5,6\n0027\n");
}

fn capabilities_are_those_of_the_plan() {
    let kill = json!(["CAP_KILL"]);
    let sets = json!({
        "bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": kill, "permitted": kill,
        "inheritable": [], "ambient": [],
    });
    let bundle = Bundle::shell("grep Cap /proc/self/status").set("/process/capabilities", sets);
    let output = bundle.run();
    // The program of user 0 gains by execve what bounds it (capabilities(7)).
    assert!(output.contains("CapBnd:\t0000000000000021"), "{output}");
    assert!(output.contains("CapInh:\t0000000000000000"), "{output}");
    assert!(output.contains("CapAmb:\t0000000000000000"), "{output}");
}

fn a_plan_without_capabilities_gives_none() {
    let mut bundle = Bundle::shell("grep -E 'Cap(Prm|Eff|Bnd|Amb)' /proc/self/status");
    let process = bundle.config["process"].as_object_mut().unwrap();
    process.remove("capabilities");
    let sets = bundle.run();
    assert_eq!(sets.matches("\t0000000000000000\n").count(), 4, "{sets}");
}

fn ambient_capabilities_reach_an_ordinary_user() {
    let kill = json!(["CAP_KILL"]);
    let sets = json!({
        "bounding": kill, "effective": kill, "permitted": kill, "inheritable": kill,
        "ambient": kill,
    });
    let bundle = Bundle::shell("grep -E 'Cap(Eff|Amb)' /proc/self/status")
        .set("/process/capabilities", sets)
        .set("/process/user", json!({"uid": 9, "gid": 9}));
    let output = bundle.run();
    assert_eq!(
        output,
        "CapEff:\t0000000000000020\nCapAmb:\t0000000000000020\n"
    );
}

fn the_default_configuration_starts_without_a_warning() {
    // It asks for ambient capabilities that are not inheritable.
    let bundle = Bundle::shell("grep CapAmb /proc/self/status");
    assert_eq!(
        bundle.config["process"]["capabilities"]["ambient"][0],
        "CAP_AUDIT_WRITE"
    );
    let container = bundle.create().unwrap();
    assert_eq!(container.created.warnings, Vec::<String>::new());
    container.start();
    assert_eq!(container.finish().1, "CapAmb:\t0000000000000000\n");
}

fn what_the_runtime_lacks_is_left_out_with_a_warning() {
    let held = rustix::thread::capabilities(None).unwrap().permitted;
    if held.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) {
        println!("skipped: the runtime lacks nothing here");
        return;
    }
    let all = json!(["CAP_SYS_RESOURCE", "CAP_KILL"]);
    let sets = json!({"bounding": all, "effective": all, "permitted": all});
    let bundle = Bundle::shell("true").set("/process/capabilities", sets);
    let container = bundle.create().unwrap();
    let warnings = container.created.warnings.join("\n");
    assert!(warnings.contains("CAP_SYS_RESOURCE"), "{warnings}");
    assert!(!warnings.contains("CAP_KILL"), "{warnings}");
}

fn no_new_privileges_is_set() {
    let script = "grep NoNewPrivs /proc/self/status";
    for (asked, is) in [(true, "1"), (false, "0")] {
        let bundle = Bundle::shell(script).set("/process/noNewPrivileges", json!(asked));
        assert_eq!(bundle.run(), format!("NoNewPrivs:\t{is}\n"));
    }
}

fn limits_are_lowered_even_below_what_the_set_up_needs() {
    let limits = json!([
        {"type": "RLIMIT_NOFILE", "soft": 4, "hard": 4},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]);
    let bundle = Bundle::shell("ulimit -n; ulimit -c").set("/process/rlimits", limits);
    assert_eq!(bundle.run(), "4\n0\n");
}

fn home_comes_from_the_containers_passwd() {
    let bundle = Bundle::shell("echo $HOME").set("/process/user", json!({"uid": 33, "gid": 33}));
    std::fs::create_dir(bundle.root().join("etc")).unwrap();
    std::fs::write(
        bundle.root().join("etc/passwd"),
        "w:x:33:33::/home/w:/bin/sh\n",
    )
    .unwrap();
    assert_eq!(bundle.run(), "/home/w\n");
    let given = bundle.set("/process/env", json!(["PATH=/bin", "HOME=/given"]));
    assert_eq!(given.run(), "/given\n");
}

fn the_score_for_the_oom_killer_is_set() {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let higher = own
        .trim()
        .parse::<i32>()
        .unwrap()
        .saturating_add(100)
        .min(1000);
    let bundle =
        Bundle::shell("cat /proc/self/oom_score_adj").set("/process/oomScoreAdj", json!(higher));
    assert_eq!(bundle.run(), format!("{higher}\n"));
}

fn a_memory_policy_holds_for_the_program_and_what_is_executed_beside_it() {
    let policy = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    let bundle = Bundle::shell("exec sleep 100").set("/linux/memoryPolicy", policy);
    let container = bundle.create().unwrap();
    container.start();
    // The policy of a stack is that of its thread (numa(7)).
    let output = container.run("for p in 1 self; do grep stack /proc/$p/numa_maps; done");
    assert_eq!(output.matches(" bind=static:0 ").count(), 2, "{output}");
    assert!(
        Bundle::shell("grep stack /proc/self/numa_maps")
            .run()
            .contains(" default ")
    );
}

fn a_memory_policy_that_cannot_be_is_told() {
    let policy = json!({"mode": "MPOL_BIND", "nodes": "1023"});
    let error = Bundle::shell("true")
        .set("/linux/memoryPolicy", policy)
        .error();
    assert!(
        error.ends_with("cannot set linux.memoryPolicy: invalid argument"),
        "{error}"
    );
}

fn the_working_directory_may_be_its_users_alone() {
    use std::os::unix::fs::PermissionsExt;
    let bundle = Bundle::shell("pwd")
        .set("/process/user", json!({"uid": 12, "gid": 12}))
        .set("/process/cwd", json!("/own"))
        .set("/process/capabilities", json!({}));
    let own = bundle.root().join("own");
    std::fs::create_dir(&own).unwrap();
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&own, Some(12), Some(12)).unwrap();
    assert_eq!(bundle.run(), "/own\n");
}

fn streams_are_given_to_the_user() {
    let bundle = Bundle::shell("echo again > /proc/self/fd/1")
        .set("/process/user", json!({"uid": 14, "gid": 14}))
        .set("/process/capabilities", json!({}));
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (mut reader, writer) = (File::from(reader), File::from(writer));
    let with = With {
        stdout: Some(&writer),
        ..With::default()
    };
    let container = bundle.create_with(&with).unwrap();
    container.start();
    assert_eq!(container.finish().0.code(), 0);
    drop(writer);
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    assert_eq!(output, "again\n");
}
