//! What config.json's `process` says of the program: environment, user, rights and limits.

use std::fs;
use std::process::Command;

use runvm_tests::{Input, Running, Runtime, container_only, each_isolation, skip};
use serde_json::json;

each_isolation! {
    a_program_gets_its_arguments_environment_and_directory,
    a_working_directory_that_is_missing_is_made,
    a_program_runs_as_its_user,
    a_program_has_the_rights_it_was_given,
    a_program_inherits_nothing_it_was_not_given,
    a_program_that_cannot_be_run_is_an_error_of_the_runtime,
}

container_only! {
    a_ceiling_is_raised_for_the_root_of_a_user_namespace_too,
    a_program_gets_the_descriptors_asked_for,
}

fn a_program_gets_its_arguments_environment_and_directory(runtime: &Runtime) {
    let script = r#"printf '[%s]' "$0" "$@"; echo; pwd; env | sort"#;
    let bundle = runtime
        .bundle()
        .args(&["sh", "-c", script, "", "two words", "*", "$HOME"])
        .edit(|config| {
            config["process"]["cwd"] = json!("/usr/bin");
            config["process"]["env"] = json!(["PATH=/bin:/usr/bin", "EMPTY=", "COLOUR=red=green"]);
        });
    runtime.run(&bundle).prints(
        "[][two words][*][$HOME]\n/usr/bin\n\
         COLOUR=red=green\nEMPTY=\nHOME=/\nPATH=/bin:/usr/bin\nPWD=/usr/bin\nSHLVL=1\n",
    );
}

fn a_working_directory_that_is_missing_is_made(runtime: &Runtime) {
    let bundle = runtime
        .bundle()
        .shell("pwd; stat -c '%a %u:%g' .")
        .edit(|config| {
            config["process"]["cwd"] = json!("/new/directory");
            config["process"]["user"] = json!({ "uid": 1000, "gid": 1000, "umask": 0o077 });
        });
    runtime.run(&bundle).prints("/new/directory\n755 0:0\n");
}

fn a_program_runs_as_its_user(runtime: &Runtime) {
    let script = "id -u; id -g; id -G; umask; echo mine >/own/file; stat -c '%u %g %a' /own/file
                  grep -E 'Cap(Inh|Prm|Eff|Bnd)' /proc/self/status";
    let own = json!({
        "destination": "/own", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"],
    });
    let bundle = runtime
        .bundle()
        .writable()
        .shell(script)
        .mount(own)
        .edit(|config| {
            config["process"]["user"] =
                json!({ "uid": 1000, "gid": 1001, "additionalGids": [10, 20], "umask": 0o27 });
        });
    // What is not root keeps no capabilities over execve, but those it may still get.
    runtime.run(&bundle).prints(
        "1000\n1001\n1001 10 20\n0027\n1000 1001 640\n\
         CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
         CapEff:\t0000000000000000\nCapBnd:\t0000000020000420\n",
    );
}

fn a_program_has_the_rights_it_was_given(runtime: &Runtime) {
    // CAP_KILL 5, CAP_NET_BIND_SERVICE 10, CAP_AUDIT_WRITE 29: the set that `spec` writes.
    let script = "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs' /proc/self/status
                  ulimit -n; ulimit -H -n; ulimit -S -c; ulimit -H -c
                  chown 1 /tmp 2>/dev/null || echo may not chown";
    let bundle = runtime.bundle().writable().shell(script).edit(|config| {
        let core = json!({ "type": "RLIMIT_CORE", "soft": 512, "hard": 1024 });
        config["process"]["rlimits"]
            .as_array_mut()
            .expect("an array")
            .push(core);
    });
    runtime.run(&bundle).prints(
        "CapInh:\t0000000000000000\nCapPrm:\t0000000020000420\nCapEff:\t0000000020000420\n\
         CapBnd:\t0000000020000420\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n\
         1024\n1024\n1\n2\nmay not chown\n",
    );
}

fn a_ceiling_is_raised_for_the_root_of_a_user_namespace_too(runtime: &Runtime) {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(effective.unwrap().trim(), 16).unwrap();
    if effective & CAP_SYS_RESOURCE == 0 {
        return skip("nobody may raise a limit here");
    }
    let limit = json!({"type": "RLIMIT_MSGQUEUE", "soft": 900_000, "hard": 1_900_000});
    let bundle = runtime.bundle().user_namespace().edit(|config| {
        config["process"]["rlimits"] = json!([limit]);
    });
    let bundle = bundle.shell("grep -i msgqueue /proc/self/limits | tr -s ' '");
    let prints = runtime.run(&bundle).exits(0).output();
    assert!(prints.contains(" 900000 1900000 "), "{prints}");
}

fn a_program_inherits_nothing_it_was_not_given(runtime: &Runtime) {
    // The fourth is the one that ls reads the directory by.
    let bundle = runtime.bundle().args(&["ls", "/proc/self/fd"]);
    runtime.run(&bundle).prints("0\n1\n2\n3\n");

    // Nor what the caller of the runtime has open, ignores or blocks.
    let from_a_caller_with_much = |args: &[&str]| {
        let bundle = runtime.bundle().args(args);
        let path = bundle.path_text();
        let inner = runtime.command(["run", "--bundle", path, &runtime.new_id()]);
        let mut outer = Command::new("sh");
        outer.args([
            "-c",
            "trap '' HUP QUIT USR2; exec 5</etc/passwd 7</; exec \"$@\"",
            "sh",
        ]);
        outer.arg(inner.get_program()).args(inner.get_args());
        Running::spawn(outer, Input::Null).finish()
    };
    from_a_caller_with_much(&["ls", "/proc/self/fd"]).prints("0\n1\n2\n3\n");
    let signals = from_a_caller_with_much(&["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]);
    for line in signals.output().lines() {
        let (_, mask) = line.split_once(":\t").expect("a name and a mask");
        let mask = u64::from_str_radix(mask, 16).expect("a mask");
        // 32 and 33 are the C library's own: its posix_spawn leaves them ignored.
        assert_eq!(mask & !(0b11 << 31), 0, "{signals}");
    }

    // And exec neither.
    let container = runtime.create(&runtime.bundle().args(&["sleep", "1000"]));
    container.start();
    container
        .exec(&["ls", "/proc/self/fd"])
        .prints("0\n1\n2\n3\n");
}

fn a_program_that_cannot_be_run_is_an_error_of_the_runtime(runtime: &Runtime) {
    let rows = [
        ("no-such-program", "executable file not found in $PATH"),
        ("/no/such/program", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
    ];
    for verb in ["create", "run"] {
        for (program, words) in rows {
            let bundle = runtime.bundle().args(&[program]);
            let path = bundle.path_text();
            let outcome = runtime.call([verb, "--bundle", path, &runtime.new_id()]);
            outcome.refuses(1, &[program, words]);
            assert_eq!(runtime.ids(), Vec::<String>::new());
        }
    }
}

fn a_program_gets_the_descriptors_asked_for(runtime: &Runtime) {
    let three = runtime.file("three", "third\n");
    let four = runtime.file("four", "fourth\n");
    let bundle = runtime.bundle().shell("cat <&3; cat <&4; ls /proc/self/fd");
    let path = bundle.path_text();
    let inner = runtime.command([
        "run",
        "--preserve-fds",
        "2",
        "--bundle",
        path,
        &runtime.new_id(),
    ]);
    let mut outer = Command::new("sh");
    outer
        .arg("-c")
        .arg("exec 3<\"$1\" 4<\"$2\" 5</; shift 2; exec \"$@\"")
        .arg("sh");
    outer
        .arg(three)
        .arg(four)
        .arg(inner.get_program())
        .args(inner.get_args());
    let outcome = Running::spawn(outer, Input::Null).finish();
    outcome.prints("third\nfourth\n0\n1\n2\n3\n4\n5\n");
}
