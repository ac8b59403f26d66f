//! `exec`: one more program beside the container's own.

use std::fs;

use runvm_tests::{
    Container, Input, Process, Running, Runtime, cgroups_of, container_only, each_isolation,
    vm_only,
};
use serde_json::json;

each_isolation! {
    exec_runs_where_the_program_runs,
    exec_takes_a_process_of_its_own,
    exec_fails_as_a_shell_does,
    exec_in_the_background_tells_its_pid,
    exec_works_before_the_start,
}

container_only! {
    exec_can_run_in_a_cgroup_below,
    exec_follows_the_program_out_of_a_cgroup_that_takes_no_process,
}

vm_only! {
    exec_can_run_in_a_cgroup_below_of_the_guest,
}

fn sleeper(runtime: &Runtime) -> Container<'_> {
    let bundle = runtime
        .bundle()
        .writable()
        .edit(|config| config["hostname"] = json!("neighbour"))
        .shell("echo mine >/dev/shm/file; echo mine >/file; echo ready; exec sleep 1000");
    let container = runtime.create(&bundle);
    container.start();
    container.output().wait_for("ready\n");
    container
}

fn exec_runs_where_the_program_runs(runtime: &Runtime) {
    let container = sleeper(runtime);
    // The same files, mounts, processes, host name and namespaces.
    container
        .exec(&["cat", "/file", "/dev/shm/file"])
        .prints("mine\nmine\n");
    container.exec(&["hostname"]).prints("neighbour\n");
    container.exec(&["tr", "\\0", " "]).prints("");
    let same = "tr '\\0' ' ' </proc/1/cmdline; echo
                for n in mnt pid uts ipc net; do
                    [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo $n differs
                done
                [ $$ -gt 1 ] && cut -d: -f3 /proc/self/cgroup | sort -u >/dev/shm/exec
                cut -d: -f3 /proc/1/cgroup | sort -u | cmp - /dev/shm/exec";
    // To look into the namespaces of a process that is not dumpable takes CAP_SYS_PTRACE.
    let flags = ["--cap", "CAP_SYS_PTRACE"];
    container
        .exec_with(&flags, &["sh", "-c", same])
        .prints("sleep 1000 \n");

    let flags = ["--user", "1000:1001", "-g", "100", "-g", "65534"];
    container
        .exec_with(&flags, &["id", "-G"])
        .prints("1001 100 65534\n");

    // Input, output, errors and exit code are apart from the program's.
    let command = container.exec_command(&[], &["sh", "-c", "cat; echo error >&2; exit 9"]);
    let mut running = Running::spawn(command, Input::Pipe);
    running.write("input\n");
    running.output().wait_for("input\n");
    let outcome = running.finish().exits(9);
    assert_eq!(
        (outcome.output().as_str(), outcome.errors().as_str()),
        ("input\n", "error\n")
    );
    assert_eq!(container.output().text(), "ready\n");
    assert_eq!(container.state().status, "running");
    container.end();
}

fn exec_takes_a_process_of_its_own(runtime: &Runtime) {
    let container = sleeper(runtime);
    // The process of the container's configuration, where flags do not say otherwise.
    let script = "echo $(id -u):$(id -g) $PWD $PATH $COLOUR; grep -E 'NoNew|CapBnd' /proc/self/status; ulimit -n";
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let limits = "NoNewPrivs:\t1\n1024\n";
    let capabilities = "CapBnd:\t0000000020000420\n";
    container
        .exec(&["sh", "-c", script])
        .prints(&format!("0:0 / {path}\n{capabilities}{limits}"));
    let flags = ["--user", "12:34", "--cwd", "/tmp", "--env", "COLOUR=green"];
    container
        .exec_with(&flags, &["sh", "-c", script])
        .prints(&format!("12:34 /tmp {path} green\n{capabilities}{limits}"));

    // Or all of it from a file, as engines do.
    let process = json!({
        "args": ["sh", "-c", "echo $0 $COLOUR $PWD; id -u; umask", "name"],
        "env": ["PATH=/bin:/usr/bin", "COLOUR=blue"],
        "cwd": "/dev",
        "user": { "uid": 7, "gid": 8, "umask": 0o27 },
    });
    let file = runtime.file("process.json", &process.to_string());
    let flags = ["--process", &file];
    // runc 1.1.5 forgets the umask.
    let umask = if Runtime::is_runc() { "0022" } else { "0027" };
    container
        .exec_with(&flags, &[])
        .prints(&format!("name blue /dev\n7\n{umask}\n"));
    container.end();
}

fn exec_fails_as_a_shell_does(runtime: &Runtime) {
    let container = sleeper(runtime);
    container.exec(&["sh", "-c", "kill -KILL $$"]).exits(137);
    container
        .exec(&["no-such-program"])
        .refuses(255, &["executable file not found in $PATH"]);
    container
        .exec(&["/no/such/program"])
        .refuses(255, &["no such file or directory"]);
    container
        .exec(&["/etc/passwd"])
        .refuses(255, &["permission denied"]);
    container
        .exec_with(&["--cwd", "/no/such"], &["true"])
        .refuses(255, &["/no/such"]);
    assert_eq!(container.state().status, "running");
    container.end();
}

fn exec_in_the_background_tells_its_pid(runtime: &Runtime) {
    let container = sleeper(runtime);
    let pid_file = runtime.path("exec.pid");
    let flags = ["--detach", "--pid-file", &pid_file];
    let script = "echo began; read line; exit 5";
    let mut running = Running::spawn(
        container.exec_command(&flags, &["sh", "-c", script]),
        Input::Pipe,
    );
    let exec = container_process(&mut running, &pid_file);
    running.output().wait_for("began\n");
    running.write("go on\n");
    assert!(exec.wait_for_end());
    assert_eq!(exec.reap(), Some(5));
    container.end();
}

/// The process whose pid is in the file once the command has ended.
fn container_process(running: &mut Running, pid_file: &str) -> Process {
    assert!(running.process().wait_for_end());
    let pid = fs::read_to_string(pid_file).unwrap();
    Process::open(pid.parse().expect("a bare number")).expect("it runs")
}

fn exec_works_before_the_start(runtime: &Runtime) {
    let mut container = runtime.create(&runtime.bundle().shell("echo started"));
    container.exec(&["echo", "early"]).prints("early\n");
    assert_eq!(container.state().status, "created");
    container.start();
    assert_eq!(container.finish().exits(0).output(), "started\n");
    container.delete();
}

fn exec_can_run_in_a_cgroup_below(runtime: &Runtime) {
    let container = sleeper(runtime);
    for cgroup in cgroups_of(container.id()) {
        fs::create_dir(cgroup.join("sub")).expect("the hierarchy can be written to");
    }
    let is_v2 = fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap();
    let below = if is_v2 { "sub" } else { "pids,memory:sub" };
    let exec = |below: &str| {
        let list = ["cat", "/proc/self/cgroup"];
        container.exec_with(&["--cgroup", below], &list)
    };
    let inside = |text: &str| {
        let inside = text.lines().filter(|line| line.ends_with("/sub"));
        inside.map(str::to_owned).collect::<Vec<_>>()
    };
    let lines = exec(below).succeeds().output();
    let count = if is_v2 { 1 } else { 2 };
    assert_eq!(inside(&lines).len(), count, "{lines}");
    let lines = container.exec(&["cat", "/proc/self/cgroup"]).succeeds();
    assert_eq!(inside(&lines.output()), [""; 0]);
    let prefix = if is_v2 { "" } else { "pids:" };
    for (path, word) in [("../..", ".."), ("no-such", "no-such")] {
        exec(&format!("{prefix}{path}")).refuses(255, &[word]);
    }
    exec("no-such-controller:sub").refuses(255, &["no-such-controller"]);
    container.end();
}

fn exec_follows_the_program_out_of_a_cgroup_that_takes_no_process(runtime: &Runtime) {
    if runtime.skips_runc("runc looks at this on a unified host alone") {
        return;
    }
    // A controller for the container's cgroup, which it can hand on.
    let bundle = runtime.bundle().args(&["sleep", "1000"]).edit(|config| {
        let limit = json!([{"pageSize": "2MB", "limit": 0}]);
        config["linux"]["resources"]["hugepageLimits"] = limit;
    });
    let container = runtime.run_detached(&bundle, &[]);
    let cgroups = cgroups_of(container.id());
    let unified = cgroups
        .iter()
        .find(|path| path.join("cgroup.type").exists());
    let unified = unified.expect("every host has a unified hierarchy");
    fs::create_dir(unified.join("init")).unwrap();
    let pid = container.state().pid.to_string();
    fs::write(unified.join("init/cgroup.procs"), pid).unwrap();
    fs::write(unified.join("cgroup.subtree_control"), "+hugetlb").unwrap();
    let lines = container.exec(&["cat", "/proc/self/cgroup"]).succeeds();
    let lines = lines.output();
    let own = lines.lines().find(|line| line.starts_with("0::"));
    assert!(own.is_some_and(|own| own.ends_with("/init")), "{lines}");
    container.end();
}

fn exec_can_run_in_a_cgroup_below_of_the_guest(runtime: &Runtime) {
    let bundle = runtime.bundle().args(&["sleep", "1000"]).edit(|config| {
        for mount in config["mounts"].as_array_mut().expect("an array") {
            if mount["type"] == "cgroup" {
                mount["options"] = json!(["nosuid", "noexec", "nodev"]);
            }
        }
        let namespaces = config["linux"]["namespaces"].as_array_mut();
        let namespaces = namespaces.expect("an array");
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
        namespaces.push(json!({ "type": "cgroup" }));
    });
    let container = runtime.create(&bundle);
    container.start();
    container.exec(&["mkdir", "/sys/fs/cgroup/sub"]).prints("");
    let list = ["cat", "/proc/self/cgroup"];
    for below in ["sub", "/sub/"] {
        container
            .exec_with(&["--cgroup", below], &list)
            .prints("0::/sub\n");
    }
    container
        .exec_with(&["--cgroup", "cpu:sub"], &list)
        .refuses(255, &["cpu"]);
    container
        .exec_with(&["--cgroup", "missing"], &list)
        .refuses(255, &["missing"]);
    container.end();
}
