//! Filters of system calls, in containers.

use std::io::Read;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::bundle::{Bundle, chain, read_all, shell_process};

crate::tests![
    a_filter_holds_for_the_program_and_for_further_processes,
    a_filter_without_no_new_privileges_leaves_the_program_no_capability_more,
    a_filter_need_not_allow_what_the_engine_calls,
    a_hook_in_the_container_is_confined,
    a_profile_that_cannot_be_a_filter_is_refused_by_field,
    the_agent_gets_the_listener_while_the_container_is_created,
    an_agent_that_is_not_there_fails_the_container,
    the_agent_gets_the_listener_of_a_further_process,
];

const STATUS: &str = "grep -E 'Seccomp:|NoNewPrivs|CapPrm|CapEff' /proc/self/status";

fn denying(names: &[&str]) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    })
}

fn confined(script: &str, no_new_privileges: bool, profile: Value) -> Bundle {
    Bundle::shell(script)
        .set("/process/noNewPrivileges", json!(no_new_privileges))
        .set("/linux/seccomp", profile)
}

fn a_filter_holds_for_the_program_and_for_further_processes() {
    for no_new_privileges in [true, false] {
        let script = "mkdir /tmp/x; sleep 100";
        let bundle = confined(script, no_new_privileges, denying(&["mkdir", "mkdirat"]));
        let container = bundle.create().unwrap();
        container.start();
        let printed = container.run(&format!("mkdir /tmp/y 2>&1; {STATUS}"));
        assert!(printed.contains("Operation not supported"), "{printed}");
        assert!(printed.contains("Seccomp:\t2"), "{printed}");
        container.created.pidfd.send_signal(9).unwrap();
        let (_, printed) = container.finish();
        assert!(printed.contains("Operation not supported"), "{printed}");
    }
}

fn a_filter_without_no_new_privileges_leaves_the_program_no_capability_more() {
    for (uid, capabilities) in [(0, true), (1000, true), (1000, false)] {
        let status = |seccomp: bool| {
            let user = json!({"uid": uid, "gid": uid});
            let mut bundle = Bundle::shell("grep Cap /proc/self/status")
                .set("/process/noNewPrivileges", json!(false))
                .set("/process/user", user);
            if !capabilities {
                bundle.config["process"]
                    .as_object_mut()
                    .unwrap()
                    .remove("capabilities");
            }
            if seccomp {
                bundle = bundle.set("/linux/seccomp", denying(&["mkdir"]));
            }
            bundle.run()
        };
        assert_eq!(status(true), status(false), "user {uid}");
    }
}

/// What the waiting process does after it has its credentials is not the program's.
fn a_filter_need_not_allow_what_the_engine_calls() {
    let names = [
        "accept",
        "accept4",
        "sendmsg",
        "recvmsg",
        "recvfrom",
        "prlimit64",
        "capset",
        "setresuid",
        "setgroups",
        "close_range",
        "chdir",
    ];
    for no_new_privileges in [true, false] {
        let profile = denying(&names);
        assert_eq!(
            confined("echo ran", no_new_privileges, profile).run(),
            "ran\n"
        );
    }
}

fn a_hook_in_the_container_is_confined() {
    let hook = json!([{
        "path": "/bin/sh", "args": ["sh", "-c", "mkdir /of-hook; true"], "env": ["PATH=/bin"],
    }]);
    let found = |names: &[&str]| {
        let bundle = confined("ls -d /of-hook 2>&1; true", false, denying(names));
        let bundle = bundle.set("/hooks", json!({}));
        bundle.set("/hooks/startContainer", hook.clone()).run()
    };
    assert_eq!(found(&["getpriority"]), "/of-hook\n");
    assert!(found(&["mkdir"]).contains("No such file"));
}

fn a_profile_that_cannot_be_a_filter_is_refused_by_field() {
    let mut profile = denying(&["mkdir"]);
    profile["syscalls"][0]["args"] = json!([{"index": 9, "value": 0, "op": "SCMP_CMP_EQ"}]);
    let error = confined("true", true, profile).error();
    assert!(
        error.contains("linux.seccomp.syscalls[0].args[0].index: 9 is not one of 0 to 5"),
        "{error}"
    );
}

fn notifying(bundle: &Bundle) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": bundle.dir.join("agent.sock"),
        "listenerMetadata": "which",
        "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_NOTIFY"}],
    })
}

fn the_agent_gets_the_listener_while_the_container_is_created() {
    for no_new_privileges in [true, false] {
        let bundle =
            Bundle::shell("echo ran").set("/process/noNewPrivileges", json!(no_new_privileges));
        let profile = notifying(&bundle);
        let bundle = bundle.set("/linux/seccomp", profile);
        let agent = UnixListener::bind(bundle.dir.join("agent.sock")).unwrap();
        let container = bundle.create().unwrap_or_else(|e| panic!("{}", chain(&e)));
        let sent = sent_to(&agent);
        assert_eq!(sent["fds"], json!(["seccompFd"]));
        assert_eq!(sent["pid"], container.created.pid);
        assert_eq!(sent["metadata"], "which");
        assert_eq!(sent["state"]["id"], "test");
        assert_eq!(sent["state"]["status"], "creating");
        container.start();
        assert_eq!(container.finish().1, "ran\n");
    }
}

/// What the next visitor tells an agent.
fn sent_to(agent: &UnixListener) -> Value {
    let mut sent = Vec::new();
    agent.accept().unwrap().0.read_to_end(&mut sent).unwrap();
    serde_json::from_slice(&sent).unwrap()
}

fn the_agent_gets_the_listener_of_a_further_process() {
    for no_new_privileges in [true, false] {
        let bundle =
            Bundle::shell("sleep 100").set("/process/noNewPrivileges", json!(no_new_privileges));
        let profile = notifying(&bundle);
        let bundle = bundle.set("/linux/seccomp", profile);
        let agent = UnixListener::bind(bundle.dir.join("agent.sock")).unwrap();
        let container = bundle.create().unwrap_or_else(|e| panic!("{}", chain(&e)));
        sent_to(&agent);
        container.start();
        let process = shell_process("echo beside");
        let (executed, output) = container
            .exec(&process)
            .unwrap_or_else(|e| panic!("{}", chain(&e)));
        assert_eq!(executed.pidfd.reap().unwrap().code(), 0);
        assert_eq!(read_all(&output), "beside\n");
        let sent = sent_to(&agent);
        assert_eq!(sent["pid"], executed.pid);
        assert_eq!(sent["state"]["pid"], container.created.pid);
        assert_eq!(sent["state"]["status"], "running");
    }
}

fn an_agent_that_is_not_there_fails_the_container() {
    let bundle = Bundle::shell("echo ran");
    let profile = notifying(&bundle);
    let error = bundle.set("/linux/seccomp", profile).error();
    assert!(
        error.starts_with("cannot connect to linux.seccomp.listenerPath /"),
        "{error}"
    );
}
