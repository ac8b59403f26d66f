//! The wall around a program: namespaces, the paths it may not read or write, and its devices.

use std::fs;

use runvm_tests::{Runtime, container_only, each_isolation};
use serde_json::json;

each_isolation! {
    a_program_is_pid_1_and_sees_only_its_own_processes,
    the_host_name_and_sysctls_are_the_bundles_own,
    masked_and_read_only_paths_are_kept,
    the_devices_are_those_every_container_has,
    mounts_are_made_in_order_with_their_options,
}

container_only! {
    a_cgroup_that_may_be_written_to_is_its_users,
    every_namespace_is_another_than_the_hosts,
    a_namespace_can_be_joined_by_its_path,
}

fn a_program_is_pid_1_and_sees_only_its_own_processes(runtime: &Runtime) {
    // The shell lists the processes without one more of them.
    let script = "echo $$; sleep 1000 & set -- /proc/[0-9]*; echo $1 $#
                  ps >/dev/shm/list; wc -l </dev/shm/list";
    // Besides a line of heading: the shell, sleep and ps.
    runtime
        .run(&runtime.bundle().shell(script))
        .prints("1\n/proc/1 2\n4\n");
}

fn the_host_name_and_sysctls_are_the_bundles_own(runtime: &Runtime) {
    let host_before = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let bundle = runtime
        .bundle()
        .edit(|config| {
            config["hostname"] = json!("somewhere");
            config["linux"]["sysctl"] = json!({ "kernel.msgmax": "4242" });
        })
        .shell("hostname; cat /proc/sys/kernel/msgmax; uname -n");
    runtime.run(&bundle).prints("somewhere\n4242\nsomewhere\n");
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap(),
        host_before
    );
    assert_ne!(
        fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(),
        "4242\n"
    );
}

fn masked_and_read_only_paths_are_kept(runtime: &Runtime) {
    // Besides what `spec` masks, which not every kernel has, a file, a directory and what is not there.
    let bundle = runtime.bundle().writable().edit(|config| {
        let linux = &mut config["linux"];
        let masked = linux["maskedPaths"].as_array_mut().expect("an array");
        masked.extend([json!("/secret"), json!("/secrets"), json!("/not/there")]);
        let read_only = linux["readonlyPaths"].as_array_mut().expect("an array");
        read_only.extend([json!("/fixed"), json!("/fixed-file"), json!("/not/there")]);
    });
    let rootfs = bundle.rootfs();
    for directory in ["secrets", "fixed"] {
        fs::create_dir(rootfs.join(directory)).unwrap();
        fs::write(rootfs.join(directory).join("file"), "here\n").unwrap();
    }
    for file in ["secret", "fixed-file"] {
        fs::write(rootfs.join(file), "here\n").unwrap();
    }
    let bundle = bundle.shell(
        "for path in /secret /secrets $(echo /proc/acpi /proc/asound /proc/kcore /proc/keys \\
             /proc/latency_stats /proc/timer_list /proc/sched_debug /sys/firmware /proc/scsi); do
             if [ -d $path ]; then ls -A $path; touch $path/x 2>/dev/null && echo $path/x
             elif [ -e $path ]; then head -c 10 $path; fi
         done
         cat /fixed/file /fixed-file
         touch /fixed/x; echo >/fixed-file; echo >/proc/sys/kernel/domainname; touch /sys/x
         touch /free",
    );
    let outcome = runtime.run(&bundle).exits(0);
    assert_eq!(outcome.output(), "here\nhere\n", "{outcome}");
    assert_eq!(
        outcome.errors().matches("Read-only file system").count(),
        4,
        "{outcome}"
    );
    assert_eq!(fs::read_to_string(rootfs.join("secret")).unwrap(), "here\n");
    assert!(rootfs.join("free").exists());
}

fn the_devices_are_those_every_container_has(runtime: &Runtime) {
    let script = "cd /dev; for f in $(ls -A); do
                      if [ -L $f ]; then echo $f '->' $(readlink $f)
                      else stat -c '%n %F %t:%T %a %u:%g' $f; fi
                  done
                  head -c 3 /dev/zero | tr '\\0' z; echo
                  cat /dev/null; echo lost >/dev/null
                  [ $(head -c 8 /dev/urandom | wc -c) = 8 ] && [ $(head -c 8 /dev/random | wc -c) = 8 ] || echo no noise
                  echo >/dev/full
                  [ ! -L core ] || [ -e core ] || echo core leads nowhere
                  echo by name >/dev/stdout; echo shared >/dev/shm/x; cat /dev/shm/x";
    let outcome = runtime.run(&runtime.bundle().shell(script)).exits(0);
    let (core, rest): (Vec<String>, Vec<String>) = outcome
        .output()
        .lines()
        .map(str::to_owned)
        .partition(|line| line.starts_with("core "));
    // Where the kernel has /proc/kcore.
    assert!(
        core.is_empty() || core == ["core -> /proc/kcore"],
        "{outcome}"
    );
    let expected = [
        "fd -> /proc/self/fd",
        "full character special file 1:7 666 0:0",
        "mqueue directory 0:0 1777 0:0",
        "null character special file 1:3 666 0:0",
        "ptmx -> pts/ptmx",
        "pts directory 0:0 755 0:0",
        "random character special file 1:8 666 0:0",
        "shm directory 0:0 1777 0:0",
        "stderr -> /proc/self/fd/2",
        "stdin -> /proc/self/fd/0",
        "stdout -> /proc/self/fd/1",
        "tty character special file 5:0 666 0:0",
        "urandom character special file 1:9 666 0:0",
        "zero character special file 1:5 666 0:0",
        "zzz",
        "by name",
        "shared",
    ];
    assert_eq!(rest, expected, "{outcome}");
    assert!(
        outcome.errors().contains("No space left on device"),
        "{outcome}"
    );
    assert_eq!(outcome.errors().lines().count(), 1, "{outcome}");
}

fn mounts_are_made_in_order_with_their_options(runtime: &Runtime) {
    let hidden = runtime.file("hidden", "hidden\n");
    let shown = runtime.file("shown", "shown\n");
    let bind = |source| json!({ "destination": "/in/order", "type": "bind", "source": source, "options": ["bind"] });
    let bundle = runtime
        .bundle()
        .writable()
        .mount(json!({ "destination": "/in", "type": "tmpfs", "source": "outer", "options": ["size=1024k", "mode=711"] }))
        .mount(json!({ "destination": "/in/deep", "type": "tmpfs", "source": "inner", "options": ["nosuid", "nodev", "noexec", "ro"] }))
        .mount(bind(&hidden))
        .mount(bind(&shown))
        .shell(
            "cat /in/order; stat -c %a /in
             grep ' /in' /proc/mounts | cut -d' ' -f1-2 | grep -v order
             grep ' /in/deep ' /proc/mounts | cut -d' ' -f4 | tr , '\\n' | grep -E '^(ro|nosuid|nodev|noexec)$' | sort | xargs
             grep ' /proc ' /proc/mounts | cut -d' ' -f3
             df -k /in | tail -n 1 | awk '{print $2}'
             dd if=/dev/zero of=/in/big bs=1024 count=2048
             touch /in/deep/x",
        );
    let outcome = runtime.run(&bundle).exits(1);
    assert_eq!(
        outcome.output(),
        "shown\n711\nouter /in\ninner /in/deep\nnodev noexec nosuid ro\nproc\n1024\n",
        "{outcome}"
    );
    assert!(
        outcome.errors().contains("No space left on device"),
        "{outcome}"
    );
    assert!(
        outcome.errors().contains("Read-only file system"),
        "{outcome}"
    );
}

fn every_namespace_is_another_than_the_hosts(runtime: &Runtime) {
    // To look at one's own takes no capability; `spec` asks for all of these.
    let script = "for n in pid net ipc uts mnt; do readlink /proc/self/ns/$n; done
                  ls /sys/class/net; cat /proc/net/dev | tail -n +3 | cut -d: -f1 | xargs";
    let outcome = runtime.run(&runtime.bundle().shell(script)).exits(0);
    let output = outcome.output();
    let mut lines = output.lines();
    for name in ["pid", "net", "ipc", "uts", "mnt"] {
        let hosts = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let own = lines.next().unwrap_or_default();
        assert!(own.starts_with(&format!("{name}:[")), "{outcome}");
        assert_ne!(hosts.to_str(), Some(own), "{name}");
    }
    assert_eq!(lines.collect::<Vec<_>>(), ["lo", "lo"], "{outcome}");
}

fn a_cgroup_that_may_be_written_to_is_its_users(runtime: &Runtime) {
    let is_v2 = fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap();
    let made = |options: &[&str]| {
        let bundle = runtime.bundle().user_namespace().edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut();
            let namespaces = namespaces.expect("an array");
            namespaces.retain(|namespace| namespace["type"] != "cgroup");
            namespaces.push(json!({"type": "cgroup"}));
            let mounts = config["mounts"].as_array_mut().expect("an array");
            mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
            let options = [&["nosuid", "noexec", "nodev"], options].concat();
            mounts.push(json!({
                "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": options,
            }));
        });
        let script = "cd /sys/fs/cgroup; [ -d pids ] && cd pids
                      stat -c %u . cgroup.procs; mkdir sub 2>/dev/null && echo made";
        let outcome = runtime.run(&bundle.shell(script));
        outcome.output()
    };
    // Nobody's, as the host's root is in there, where it is not handed over.
    let others = "65534\n65534\n";
    assert_eq!(made(&[]), if is_v2 { "0\n0\nmade\n" } else { others });
    assert_eq!(made(&["ro"]), others);
}

fn a_namespace_can_be_joined_by_its_path(runtime: &Runtime) {
    let host = runtime.create(&runtime.bundle().args(&["sleep", "1000"]).edit(|config| {
        config["hostname"] = json!("the-first");
    }));
    host.start();
    let pid = host.state().pid;
    let bundle = runtime
        .bundle()
        .shell("hostname; readlink /proc/self/ns/ipc")
        .edit(|config| {
            for namespace in config["linux"]["namespaces"]
                .as_array_mut()
                .expect("an array")
            {
                let file = match namespace["type"].as_str() {
                    Some("uts") => "uts",
                    Some("ipc") => "ipc",
                    Some("network") => "net",
                    _ => continue,
                };
                namespace["path"] = json!(format!("/proc/{pid}/ns/{file}"));
            }
            config
                .as_object_mut()
                .expect("an object")
                .remove("hostname");
        });
    let ipc = fs::read_link(format!("/proc/{pid}/ns/ipc")).unwrap();
    runtime
        .run(&bundle)
        .prints(&format!("the-first\n{}\n", ipc.display()));
}
