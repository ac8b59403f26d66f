//! Input that is no good: one line that says what is wrong, an exit code, and nothing left.

use std::fs;
use std::os::unix::fs::symlink;

use runvm_tests::{Bundle, Input, Running, Runtime, each_isolation, skip, vm_only};
use serde_json::{Value, json};

each_isolation! {
    a_configuration_that_cannot_be_read_is_refused,
    a_field_that_is_wrong_is_named,
    a_root_that_is_not_there_is_named,
    an_id_that_is_no_file_name_is_refused,
    an_unknown_isolation_is_refused,
    a_word_of_the_command_line_that_is_wrong_is_refused,
    a_runtime_configuration_that_is_wrong_is_refused,
}

vm_only! {
    what_a_microvm_needs_and_is_not_there_is_named,
    a_hypervisor_that_cannot_be_used_is_refused,
}

/// Makes sure that neither `create` nor `run` takes the bundle.
#[track_caller]
fn is_refused(runtime: &Runtime, bundle: &Bundle, words: &[&str]) {
    for verb in ["create", "run"] {
        let words = if Runtime::is_runc() { &[] } else { words };
        let command = runtime.command([verb, "--bundle", bundle.path_text(), &runtime.new_id()]);
        let mut running = Running::spawn(command, Input::Null);
        assert_ne!(
            running.wait(),
            0,
            "{verb} takes what is wrong about {words:?}"
        );
        running.finish().refuses(1, words);
        assert_eq!(runtime.ids(), Vec::<String>::new());
    }
}

fn a_configuration_that_cannot_be_read_is_refused(runtime: &Runtime) {
    let bundle = runtime.bundle();
    let config = bundle.path().join("config.json");
    let rows: [(&str, &[&str]); 5] = [
        ("", &["config.json", "line 1"]),
        ("{", &["config.json", "line 1"]),
        (
            "{ \"ociVersion\": \"1.0.2\",\n ]",
            &["config.json", "line 2"],
        ),
        ("[]", &["config.json"]),
        ("\u{0}\u{1}\n\n\u{1b}[31m", &["config.json"]),
    ];
    for (text, words) in rows {
        bundle.write_config(text);
        is_refused(runtime, &bundle, words);
    }
    fs::remove_file(&config).unwrap();
    is_refused(runtime, &bundle, &["config.json", "No such file"]);
    if !runtime.skips_runc("runc reads whatever config.json is") {
        fs::create_dir(&config).unwrap();
        is_refused(runtime, &bundle, &["config.json"]);
        fs::remove_dir(&config).unwrap();
        symlink("/dev/zero", &config).unwrap();
        is_refused(runtime, &bundle, &["config.json"]);
    }

    let missing = runtime.path("no-bundle");
    let outcome = runtime.call(["run", "--bundle", &missing, &runtime.new_id()]);
    outcome.refuses(1, &["no-bundle"]);
}

fn a_field_that_is_wrong_is_named(runtime: &Runtime) {
    if runtime.skips_runc("runc takes some of these, and names the fields of its own code") {
        return;
    }
    let rows: [(&str, Value); 17] = [
        ("ociVersion", json!("4.0.0")),
        ("ociVersion", json!(1)),
        ("process.args", json!("sh")),
        ("process.args", json!([])),
        ("process.cwd", json!("relative")),
        ("process.user.uid", json!(-1)),
        ("process.user.uid", json!("root")),
        ("process.env[0]", json!("NOVALUE")),
        ("process.rlimits[0].type", json!("RLIMIT_NOSUCH")),
        ("process.terminal", json!("yes")),
        ("root.path", json!(7)),
        ("root.readonly", json!("no")),
        ("mounts[0].destination", json!(1)),
        ("linux.namespaces[0].type", json!("nosuch")),
        ("linux.resources.pids.limit", json!("many")),
        ("linux.maskedPaths[0]", json!("relative")),
        ("hostname", json!(["a"])),
    ];
    for (field, value) in rows {
        let bundle = runtime
            .bundle()
            .edit(|config| *pointer(config, field) = value);
        is_refused(runtime, &bundle, &[field]);
    }
    for field in ["ociVersion", "process", "root"] {
        let bundle = runtime.bundle().edit(|config| {
            config.as_object_mut().expect("an object").remove(field);
        });
        is_refused(runtime, &bundle, &[field]);
    }
}

/// The place in `config` that is written `a.b[0].c`.
fn pointer<'c>(config: &'c mut Value, field: &str) -> &'c mut Value {
    field.split('.').fold(config, |value, word| {
        let (name, index) = word.split_once('[').map_or((word, None), |(name, index)| {
            (
                name,
                Some(
                    index
                        .trim_end_matches(']')
                        .parse::<usize>()
                        .expect("an index"),
                ),
            )
        });
        let value = &mut value[name];
        match index {
            Some(index) => &mut value[index],
            None => value,
        }
    })
}

fn a_root_that_is_not_there_is_named(runtime: &Runtime) {
    let bundle = runtime
        .bundle()
        .edit(|config| config["root"]["path"] = json!("no-rootfs"));
    is_refused(runtime, &bundle, &["no-rootfs"]);
    let bundle = runtime
        .bundle()
        .edit(|config| config["root"]["path"] = json!("config.json"));
    is_refused(runtime, &bundle, &["config.json"]);
    let missing = json!({
        "destination": "/mnt", "type": "bind", "source": "/no/such/source", "options": ["bind"],
    });
    is_refused(
        runtime,
        &runtime.bundle().writable().mount(missing),
        &["/no/such/source"],
    );
}

fn an_id_that_is_no_file_name_is_refused(runtime: &Runtime) {
    let bundle = runtime.bundle();
    let path = bundle.path_text();
    let outside = runtime.path("x");
    let long = "x".repeat(300);
    for id in ["../x", "..", ".", "", "a/b", "a b", "a\nb", &long] {
        for verb in ["create", "run"] {
            runtime.call([verb, "--bundle", path, id]).refuses(1, &[]);
        }
        if !Runtime::is_runc() {
            for verb in ["state", "start", "kill", "delete"] {
                runtime.call([verb, id]).refuses(1, &[]);
            }
        }
    }
    assert!(!fs::exists(outside).unwrap());
    assert_eq!(runtime.ids(), Vec::<String>::new());
}

fn an_unknown_isolation_is_refused(runtime: &Runtime) {
    if runtime.skips_runc("runc does not know --isolation") {
        return;
    }
    let bundle = runtime.bundle();
    let path = bundle.path_text();
    let run = [
        "--isolation",
        "jail",
        "run",
        "--bundle",
        path,
        &runtime.new_id(),
    ];
    refuses_word(runtime, &run, &["--isolation", "jail"]);

    // The flag would come before the annotation.
    let annotated =
        bundle.edit(|config| config["annotations"] = json!({ "dev.runvm.isolation": "jail" }));
    let path = annotated.path_text();
    let run = runtime.undecided_command(&["run", "--bundle", path, &runtime.new_id()]);
    let outcome = Running::spawn(run, Input::Null).finish();
    outcome.refuses(
        1,
        &["dev.runvm.isolation", "jail", "\"container\" or \"vm\""],
    );
}

fn a_word_of_the_command_line_that_is_wrong_is_refused(runtime: &Runtime) {
    if runtime.skips_runc("runc prints its help") {
        return;
    }
    let rows: [(&[&str], &[&str]); 8] = [
        (&["--log-format", "xml", "list"], &["--log-format", "xml"]),
        (&["--hypervisor", "xen", "list"], &["--hypervisor", "xen"]),
        (&["--rootless", "maybe", "list"], &["--rootless", "maybe"]),
        (&["list", "--format", "xml"], &["--format", "xml"]),
        (&["--no-such-flag", "list"], &["--no-such-flag"]),
        (&["no-such-command"], &["no-such-command"]),
        (&["run", "--preserve-fds", "-1", "x"], &["-1"]),
        (&["state"], &["id"]),
    ];
    for (args, words) in rows {
        refuses_word(runtime, args, words);
    }
}

/// Makes sure that the command line is refused in one line, whatever the exit code.
#[track_caller]
fn refuses_word(runtime: &Runtime, args: &[&str], words: &[&str]) {
    let outcome = Running::spawn(runtime.undecided_command(args), Input::Null).finish();
    assert_ne!(outcome.code, 0, "{outcome}");
    let code = outcome.code;
    outcome.refuses(code, words);
}

fn a_runtime_configuration_that_is_wrong_is_refused(runtime: &Runtime) {
    if runtime.skips_runc("runc has no configuration file") {
        return;
    }
    let rows: [(&str, &[&str]); 4] = [
        ("isolation = 'jail'", &["line 1", "jail"]),
        ("# nothing\nkernle = '/vmlinux'", &["line 2", "kernle"]),
        ("memory_mib = 'much'", &["line 1"]),
        ("[[[", &["line 1"]),
    ];
    for (text, words) in rows {
        let file = runtime.file("config.toml", text);
        let mut words = words.to_vec();
        words.push("config.toml");
        refused_with_config(runtime, &file, &words);
    }
    refused_with_config(runtime, "/no/such/config.toml", &["/no/such/config.toml"]);
}

fn what_a_microvm_needs_and_is_not_there_is_named(runtime: &Runtime) {
    let rows = [
        ("kernel = '/no/such/vmlinux'", "/no/such/vmlinux"),
        ("initramfs = '/no/such/initramfs'", "/no/such/initramfs"),
        ("kernel = '/etc/passwd'", "/etc/passwd"),
        (
            "hypervisor = 'qemu'\nqemu = '/no/such/qemu'",
            "/no/such/qemu",
        ),
        ("hypervisor = 'qemu'\nqemu = 'no-such-qemu'", "no-such-qemu"),
    ];
    for (text, word) in rows {
        let file = runtime.file("config.toml", text);
        refused_with_config(runtime, &file, &[word]);
    }
}

#[track_caller]
fn refused_with_config(runtime: &Runtime, config: &str, words: &[&str]) {
    let bundle = runtime.bundle();
    let path = bundle.path_text();
    let run = [
        "--config",
        config,
        "run",
        "--bundle",
        path,
        &runtime.new_id(),
    ];
    runtime.call(run).refuses(1, words);
    assert_eq!(runtime.ids(), Vec::<String>::new());
}

fn a_hypervisor_that_cannot_be_used_is_refused(runtime: &Runtime) {
    let check = runtime.call(["check", "--json"]).succeeds();
    let findings: Value = serde_json::from_slice(&check.output).unwrap();
    let mut findings = findings.as_array().expect("an array").iter();
    let kvm = findings
        .find(|finding| finding["name"] == "kvm")
        .expect("check looks at KVM");
    if kvm["available"] == true {
        return skip("KVM can be used here");
    }
    let bundle = runtime.bundle();
    let path = bundle.path_text();
    let run = [
        "--hypervisor",
        "kvm",
        "run",
        "--bundle",
        path,
        &runtime.new_id(),
    ];
    runtime.call(run).refuses(1, &["KVM"]);
    assert_eq!(runtime.ids(), Vec::<String>::new());
}
