//! Further processes in a container.

use runvm_container::ExecError;
use serde_json::json;

use crate::bundle::{Bundle, chain, read_all, read_terminal, shell_process};

crate::tests![
    an_exec_is_in_the_container_and_a_child_of_the_caller,
    an_exec_takes_its_own_user_and_directory,
    an_exec_keeps_no_new_privileges_of_the_container,
    an_exec_without_capabilities_gets_those_of_the_container,
    an_exec_gets_no_capability_it_is_not_given,
    an_exec_takes_over_what_the_container_says,
    an_exec_has_a_session_keyring_of_its_own,
    an_exec_runs_on_the_cpus_it_is_given,
    an_exec_enters_a_user_namespace,
    an_exec_has_a_terminal,
    no_descriptor_of_the_host_reaches_an_exec,
    an_exec_of_a_missing_program_says_so,
    an_exec_into_an_ended_container_says_so,
];

fn an_exec_is_in_the_container_and_a_child_of_the_caller() {
    let bundle = Bundle::shell("sleep 100");
    let container = bundle.create().unwrap();
    container.start();
    let script = "test $$ -ne 1 && hostname && for n in pid mnt net ipc uts; do \
                  test $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) || echo $n; done";
    let output = container.run(script);
    assert_eq!(output.trim(), bundle.config["hostname"].as_str().unwrap());
}

fn an_exec_takes_its_own_user_and_directory() {
    let bundle = Bundle::shell("sleep 100");
    let container = bundle.create().unwrap();
    container.start();
    let mut process = shell_process("id; pwd; umask");
    process["user"] = json!({"uid": 5, "gid": 6, "umask": 0o77, "additionalGids": [8, 9]});
    process["cwd"] = json!("/bin");
    let (executed, output) = container.exec(&process).unwrap();
    executed.pidfd.reap().unwrap();
    let output = crate::bundle::read_all(&output);
    assert_eq!(output, "uid=5 gid=6 groups=8,9\n/bin\n0077\n");
}

fn an_exec_keeps_no_new_privileges_of_the_container() {
    let bundle = Bundle::shell("sleep 100").set("/process/noNewPrivileges", json!(true));
    let container = bundle.create().unwrap();
    container.start();
    let output = container.run("grep NoNewPrivs /proc/self/status");
    assert_eq!(output, "NoNewPrivs:\t1\n");
}

fn an_exec_without_capabilities_gets_those_of_the_container() {
    let bundle = Bundle::shell("sleep 100");
    let container = bundle.create().unwrap();
    container.start();
    let own = container.run("grep Cap /proc/1/status");
    assert_eq!(container.run("grep Cap /proc/self/status"), own);
}

fn an_exec_takes_over_what_the_container_says() {
    let bundle = Bundle::shell("sleep 100")
        .set("/process/oomScoreAdj", json!(77))
        .set("/process/user/umask", json!(0o27))
        .set(
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}),
        )
        .set("/process/scheduler", json!({"policy": "SCHED_BATCH"}))
        .set("/linux/personality", json!({"domain": "LINUX32"}));
    let container = bundle.create().unwrap_or_else(|e| panic!("{}", chain(&e)));
    container.start();
    let script = "umask; busybox uname -m; busybox ionice -p $$; cat /proc/self/oom_score_adj; \
                  grep ^policy /proc/$$/sched | busybox tr -d ' '";
    assert_eq!(container.run(script), "0027\ni686\nidle\n77\npolicy:3\n");
    let mut own = shell_process("cat /proc/self/oom_score_adj");
    own["oomScoreAdj"] = json!(88);
    let (executed, output) = container.exec(&own).unwrap();
    assert_eq!(executed.pidfd.reap().unwrap().code(), 0);
    assert_eq!(read_all(&output), "88\n");
}

fn an_exec_gets_no_capability_it_is_not_given() {
    let bundle = Bundle::shell("sleep 100");
    let container = bundle.create().unwrap();
    container.start();
    let mut process = shell_process("grep Cap /proc/self/status");
    process["capabilities"] = json!({});
    let (executed, output) = container.exec(&process).unwrap();
    executed.pidfd.reap().unwrap();
    for line in crate::bundle::read_all(&output).lines() {
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
}

fn an_exec_has_a_session_keyring_of_its_own() {
    let bundle = Bundle::shell("sleep 100").set("/linux/maskedPaths", json!([]));
    let container = bundle.create().unwrap();
    container.start();
    // An ordinary user sees of root's keyrings only the one that is the process's own.
    let mut process = shell_process("test ! -e /proc/keys || grep -c _ses.test /proc/keys");
    process["user"] = json!({"uid": 1000, "gid": 1000});
    let (executed, output) = container.exec(&process).unwrap();
    assert_eq!(executed.pidfd.reap().unwrap().code(), 0);
    let output = read_all(&output);
    assert!(matches!(output.as_str(), "1\n" | ""), "{output}");
}

fn an_exec_runs_on_the_cpus_it_is_given() {
    let bundle = Bundle::shell("sleep 100");
    let container = bundle.create().unwrap();
    container.start();
    let allowed = "grep Cpus_allowed_list /proc/self/status";
    let all = container.run(allowed);
    // What is given first holds while it moves, and what is given last for the program.
    let mut process = shell_process(allowed);
    process["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
    let (executed, output) = container.exec(&process).unwrap();
    assert_eq!(executed.pidfd.reap().unwrap().code(), 0);
    assert_eq!(read_all(&output), "Cpus_allowed_list:\t0\n");
    assert_eq!(container.run(allowed), all);
    process["execCPUAffinity"] = json!({"final": "4000"});
    let error = container.exec(&process).map(drop).unwrap_err();
    assert!(chain(&error).contains("cpu affinity"), "{}", chain(&error));
}

fn an_exec_enters_a_user_namespace() {
    let bundle = Bundle::shell("sleep 100").user_namespace();
    let container = bundle
        .create()
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    container.start();
    let output = container.run("id -u; cat /proc/self/uid_map");
    let words: Vec<_> = output.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "100000", "65536"]);
}

fn an_exec_has_a_terminal() {
    let bundle = Bundle::shell("sleep 100");
    let container = bundle.create().unwrap();
    container.start();
    let mut process = shell_process("tty; echo here > /dev/tty");
    process["terminal"] = json!(true);
    let (executed, _) = container.exec(&process).unwrap();
    assert_eq!(
        read_terminal(executed.terminal.unwrap()),
        "/dev/pts/0\r\nhere\r\n"
    );
    assert_eq!(executed.pidfd.reap().unwrap().code(), 0);
}

fn no_descriptor_of_the_host_reaches_an_exec() {
    let bundle = Bundle::shell("sleep 100");
    let container = bundle.create().unwrap();
    container.start();
    assert_eq!(container.run("ls /proc/self/fd"), "0\n1\n2\n3\n");
}

fn an_exec_of_a_missing_program_says_so() {
    let bundle = Bundle::shell("sleep 100");
    let container = bundle.create().unwrap();
    container.start();
    let mut process = shell_process("");
    process["args"] = json!(["no-such-program"]);
    let error = chain(&container.exec(&process).unwrap_err());
    assert!(
        error.contains("executable file not found in $PATH"),
        "{error}"
    );
}

fn an_exec_into_an_ended_container_says_so() {
    let bundle = Bundle::shell("true");
    let container = bundle.create().unwrap();
    container.start();
    container.created.pidfd.wait_exit(None).unwrap();
    let error = container.exec(&shell_process("true")).unwrap_err();
    assert!(matches!(error, ExecError::NotRunning { .. }), "{error}");
    assert!(error.to_string().contains("container not running"));
}
