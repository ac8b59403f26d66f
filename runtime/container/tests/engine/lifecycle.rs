//! create, start, hooks, stdio, terminals.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use runvm_container::{StartError, is_waiting, start};
use serde_json::json;

use crate::bundle::{Bundle, Container, With, chain, memory_file, read_terminal};

crate::tests![
    what_spec_gives_runs,
    nothing_of_the_users_runs_before_start,
    a_probe_does_not_start_a_container,
    a_second_start_is_refused,
    a_start_tells_when_the_waiting_process_was_killed,
    no_descriptor_of_the_host_reaches_the_program,
    descriptors_to_preserve_reach_the_program,
    the_stamps_are_in_order,
    hooks_run_at_their_points,
    hooks_read_the_pid_that_is_the_containers_where_they_run,
    hooks_get_no_descriptor_but_their_own,
    a_missing_working_directory_is_made,
    a_failing_hook_undoes_the_container,
    a_failing_start_hook_is_told_by_start,
    a_terminal_is_console_and_controlling_terminal,
    a_container_is_made_from_a_threaded_process,
    the_cgroup_is_entered,
    a_process_that_its_memory_limit_kills_is_told,
    signals_are_as_a_program_expects_them,
    many_containers_leave_nothing,
];

fn what_spec_gives_runs() {
    let bundle = Bundle::shell("echo $$; hostname; pwd; id -u");
    assert_eq!(
        bundle.run(),
        "1\nrunvm\n/\n0\n".replace("runvm", &hostname(&bundle))
    );
}

fn hostname(bundle: &Bundle) -> String {
    bundle.config["hostname"].as_str().unwrap().to_owned()
}

fn nothing_of_the_users_runs_before_start() {
    let bundle = Bundle::shell("echo ran");
    let container = bundle.create().unwrap();
    assert!(is_waiting(bundle.state_dir().as_fd()).unwrap());
    let comm = fs::read_to_string(format!("/proc/{}/cmdline", container.created.pid)).unwrap();
    assert!(comm.starts_with("runvm-init"), "{comm}");
    container.start();
    assert!(!is_waiting(bundle.state_dir().as_fd()).unwrap());
    assert_eq!(container.finish().1, "ran\n");
}

fn a_probe_does_not_start_a_container() {
    let bundle = Bundle::shell("true");
    let container = bundle.create().unwrap();
    for _ in 0..3 {
        assert!(is_waiting(bundle.state_dir().as_fd()).unwrap());
    }
    container.start();
    assert_eq!(container.finish().0.code(), 0);
}

fn a_second_start_is_refused() {
    let bundle = Bundle::shell("sleep 100");
    let container = bundle.create().unwrap();
    container.start();
    let again = start(bundle.state_dir().as_fd());
    assert!(matches!(again, Err(StartError::Connect(_))), "{again:?}");
}

fn a_start_tells_when_the_waiting_process_was_killed() {
    let bundle = Bundle::shell("true");
    let container = bundle.create().unwrap();
    container.created.pidfd.send_signal(9).unwrap();
    container.created.pidfd.wait_exit(None).unwrap();
    assert!(!is_waiting(bundle.state_dir().as_fd()).unwrap());
    let result = start(bundle.state_dir().as_fd());
    assert!(matches!(result, Err(StartError::Connect(_))), "{result:?}");
}

fn no_descriptor_of_the_host_reaches_the_program() {
    // The descriptor that lists the directory is its own.
    let bundle = Bundle::shell("ls /proc/self/fd");
    assert_eq!(bundle.run(), "0\n1\n2\n3\n");
}

/// Descriptors are given from the lowest free number on: all from 3 to `last` are open.
fn start_with_descriptors_up_to(bundle: &Bundle, last: i32) -> Container<'_> {
    let with = With {
        preserve_fds: u32::try_from(last - 2).unwrap(),
        ..With::default()
    };
    let container = bundle.create_with(&with);
    let container = container.unwrap_or_else(|error| panic!("{}", chain(&error)));
    container.start();
    container
}

fn descriptors_to_preserve_reach_the_program() {
    let message = memory_file();
    rustix::io::write(&message, b"kept\n").unwrap();
    rustix::fs::seek(&message, rustix::fs::SeekFrom::Start(0)).unwrap();
    let number = message.as_raw_fd();
    let bundle = Bundle::shell(&format!("cat <&{number}"));
    let container = start_with_descriptors_up_to(&bundle, number);
    assert_eq!(container.finish().1, "kept\n");
}

fn the_stamps_are_in_order() {
    let bundle = Bundle::shell("true");
    let stamps = bundle.create().unwrap().created.stamps;
    assert!(stamps.spawned_ns < stamps.entered_ns, "{stamps:?}");
    assert!(stamps.entered_ns < stamps.ready_ns, "{stamps:?}");
}

fn hooks_run_at_their_points() {
    let bundle = Bundle::shell("cat /order; echo program");
    let order = bundle.root().join("order");
    let outside = |name: &str| {
        let script = format!(
            "/bin/grep -q creating && echo {name} >> {}",
            order.display()
        );
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 10}])
    };
    let inside = "echo start $(hostname) >> /order";
    let bundle = bundle
        .set("/hooks", json!({}))
        .set("/hooks/prestart", outside("prestart"))
        .set("/hooks/createRuntime", outside("runtime"))
        .set("/hooks/createContainer", outside("container"))
        .set(
            "/hooks/startContainer",
            json!([{"path": "/bin/sh", "args": ["sh", "-c", inside], "env": ["PATH=/bin"]}]),
        );
    let name = hostname(&bundle);
    let expected = format!("prestart\nruntime\ncontainer\nstart {name}\nprogram\n");
    assert_eq!(bundle.run(), expected);
}

fn hooks_read_the_pid_that_is_the_containers_where_they_run() {
    let bundle = Bundle::shell("true").set("/hooks", json!({}));
    let found = bundle.root().join("found");
    let keep = |name: &str, directory: &str| {
        let script = format!("cat > {directory}/{name}");
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}])
    };
    fs::create_dir(&found).unwrap();
    // The root by its name in the bundle, where the hooks of create begin.
    let bundle = bundle
        .set("/hooks/createRuntime", keep("outside", "rootfs/found"))
        .set("/hooks/createContainer", keep("before", "rootfs/found"))
        .set("/hooks/startContainer", keep("inside", "/found"));
    let container = bundle.create().unwrap_or_else(|e| panic!("{}", chain(&e)));
    container.start();
    let pid = container.created.pid;
    container.finish();
    for (name, pid, status) in [
        ("outside", pid, "creating"),
        ("before", 1, "creating"),
        ("inside", 1, "created"),
    ] {
        let state = fs::read(found.join(name)).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        assert_eq!(state["pid"], pid, "{name}");
        assert_eq!(state["status"], status, "{name}");
        assert_eq!(state["ociVersion"], bundle.config["ociVersion"], "{name}");
    }
}

fn hooks_get_no_descriptor_but_their_own() {
    let message = memory_file();
    let number = message.as_raw_fd();
    // What the program may have to preserve is not for them. Number 3 lists the directory.
    let hook = |list: &str| {
        let script = format!("test \"$({list} /proc/self/fd | tr '\\n' ' ')\" = '0 1 2 3 '");
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
    };
    let bundle = Bundle::shell(&format!("cat <&{number}"))
        .set("/hooks", json!({}))
        .set("/hooks/createContainer", hook("ls"))
        .set("/hooks/startContainer", hook("busybox ls"));
    std::os::unix::fs::symlink("busybox", bundle.root().join("bin/tr")).unwrap();
    let container = start_with_descriptors_up_to(&bundle, number);
    assert_eq!(container.finish().0.code(), 0);
}

fn a_missing_working_directory_is_made() {
    let bundle = Bundle::shell("pwd; stat -c %a .")
        .set("/process/cwd", json!("/made/here"))
        .set("/root/readonly", json!(true));
    assert_eq!(bundle.run(), "/made/here\n755\n");
}

fn a_failing_hook_undoes_the_container() {
    for point in ["prestart", "createRuntime", "createContainer"] {
        let bundle = Bundle::shell("true").set("/hooks", json!({}));
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo no; exit 4"]}]);
        let bundle = bundle.set(&format!("/hooks/{point}"), hook);
        let error = bundle.error();
        assert!(
            error.contains(&format!(
                "the {point} hook /bin/sh failed with status 4: no"
            )),
            "{error}"
        );
        assert!(!is_waiting(bundle.state_dir().as_fd()).unwrap());
        assert!(!bundle.dir.join("state/start.sock").exists());
    }
}

fn a_failing_start_hook_is_told_by_start() {
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 5"]}]);
    let bundle = Bundle::shell("true")
        .set("/hooks", json!({}))
        .set("/hooks/startContainer", hook);
    let container = bundle.create().unwrap();
    let error = start(bundle.state_dir().as_fd()).unwrap_err();
    assert!(
        chain(&error).contains("startContainer hook"),
        "{}",
        chain(&error)
    );
    assert_eq!(container.finish().0.code(), 1);
}

fn a_terminal_is_console_and_controlling_terminal() {
    let script =
        "tty; stty size; echo here > /dev/tty; stat -c %t:%T /dev/console; stat -c %u /dev/pts/0";
    let bundle = Bundle::shell(script)
        .set("/process/terminal", json!(true))
        .set("/process/user", json!({"uid": 7, "gid": 7}))
        .set("/process/consoleSize", json!({"height": 33, "width": 77}));
    let mut container = bundle.create().unwrap();
    let master = container.created.terminal.take().unwrap();
    container.start();
    let output = read_terminal(master);
    assert_eq!(output, "/dev/pts/0\r\n33 77\r\nhere\r\n88:0\r\n7\r\n");
}

fn a_container_is_made_from_a_threaded_process() {
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Threads that hold the allocator's locks most of the time.
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::black_box(vec![0_u8; 4096]);
                }
            });
        }
        for _ in 0..5 {
            assert_eq!(Bundle::shell("echo ok").run(), "ok\n");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

fn the_cgroup_is_entered() {
    let name = format!("runvm-engine-{}", std::process::id());
    let bundle = Bundle::shell("cat /proc/self/cgroup").namespace("cgroup", Some(None));
    let (plan, _) = bundle.plan();
    let cgroup = match runvm_container::cgroup::Cgroup::create(Some(&name), &name, &plan.resources)
    {
        Ok(cgroup) => cgroup,
        Err(error) => {
            println!("skipped: no cgroup can be made here: {}", chain(&error));
            return;
        }
    };
    let outcome = bundle
        .create_with(&With {
            cgroup: Some(&cgroup),
            ..With::default()
        })
        .map(|container| {
            let outside = fs::read_to_string(format!("/proc/{}/cgroup", container.created.pid));
            container.start();
            (outside.unwrap(), container.finish())
        });
    let deleted = cgroup.delete();
    let (outside, (status, inside)) = outcome.unwrap_or_else(|error| panic!("{}", chain(&error)));
    deleted.unwrap();
    assert_eq!(status.code(), 0, "{inside}");
    assert!(
        outside.lines().all(|line| line.contains(&name)),
        "{outside}"
    );
    // Its own namespace hides where it is.
    assert!(inside.lines().all(|line| line.ends_with(":/")), "{inside}");
}

fn a_process_that_its_memory_limit_kills_is_told() {
    let name = format!("runvm-engine-oom-{}", std::process::id());
    let bundle = Bundle::shell("true").set(
        "/linux/resources",
        json!({"memory": {"limit": 64 << 10, "swap": 64 << 10}}),
    );
    let (plan, _) = bundle.plan();
    let cgroup = match runvm_container::cgroup::Cgroup::create(Some(&name), &name, &plan.resources)
    {
        Ok(cgroup) => cgroup,
        Err(error) => {
            println!(
                "skipped: no such cgroup can be made here: {}",
                chain(&error)
            );
            return;
        }
    };
    let outcome = bundle
        .create_with(&With {
            cgroup: Some(&cgroup),
            ..With::default()
        })
        .map(drop);
    cgroup.delete().unwrap();
    assert_eq!(
        outcome.unwrap_err().to_string(),
        "container init was OOM-killed (memory limit too low?)"
    );
    assert!(!bundle.dir.join("state/start.sock").exists());
}

fn signals_are_as_a_program_expects_them() {
    let args = json!(["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]);
    let bundle = Bundle::shell("").set("/process/args", args);
    assert_eq!(
        bundle.run(),
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
    );
}

fn many_containers_leave_nothing() {
    let before = fs::read_dir("/proc/self/fd").unwrap().count();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for _ in 0..10 {
        Bundle::shell("true").run();
    }
    assert_eq!(fs::read_dir("/proc/self/fd").unwrap().count(), before);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
}
