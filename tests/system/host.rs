//! What the runtime says about itself and about the host.

use std::fs;
use std::process::Command;

use runvm_tests::{Bundle, Input, Isolation, Running, Runtime, container_only, each_isolation};
use serde_json::{Value, json};

each_isolation! {
    bench_measures_the_phases_of_a_start,
    the_isolation_can_be_chosen_by_annotation_and_configuration,
    failures_are_logged_for_engines,
}

container_only! {
    check_says_what_the_host_can_do,
    features_and_version_are_what_engines_read,
    spec_writes_no_configuration_over_another,
    what_spec_writes_runs_without_a_warning,
}

fn bench_measures_the_phases_of_a_start(runtime: &Runtime) {
    if runtime.skips_runc("runc has no bench") {
        return;
    }
    let bundle = runtime.bundle().args(&["true"]);
    let path = bundle.path_text();
    let bench = runtime
        .call(["bench", "-n", "1", "--json", path])
        .succeeds();
    let samples: Value = serde_json::from_slice(&bench.output).unwrap();
    let isolation = runtime.isolation().as_str();
    let spans = samples[isolation][0].as_array().expect("a sample");
    let names: Vec<&str> = spans
        .iter()
        .filter_map(|span| span["name"].as_str())
        .collect();
    let phases: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !name.contains(": "))
        .collect();
    let expected = [
        "read", "reserve", "isolate", "set up", "start", "run", "delete",
    ];
    assert_eq!(phases, expected, "{bench}");
    if runtime.isolation() == Isolation::Vm {
        for step in ["isolate: vmm", "isolate: kernel", "isolate: agent"] {
            assert!(names.contains(&step), "{bench}");
        }
    }
    let drawn = runtime.call(["bench", "-n", "1", path]).succeeds().output();
    for phase in expected {
        assert!(drawn.contains(phase), "{drawn}");
    }
    assert!(drawn.contains("total"), "{drawn}");
}

fn the_isolation_can_be_chosen_by_annotation_and_configuration(runtime: &Runtime) {
    if runtime.skips_runc("runc has one isolation") {
        return;
    }
    let isolation = runtime.isolation().as_str();
    let host_kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let own_kernel = runtime.isolation() == Isolation::Vm;
    let run = |flags: &[&str], bundle: &Bundle| {
        let path = bundle.path_text();
        let run = ["run", "--bundle", path, &runtime.new_id()];
        let command = runtime.undecided_command(&[flags, &run].concat());
        let outcome = Running::spawn(command, Input::Null).finish().succeeds();
        assert_eq!(outcome.output() != host_kernel, own_kernel, "{outcome}");
    };
    let uname = || runtime.bundle().args(&["uname", "-r"]);
    let annotated = uname().edit(|config| {
        config["annotations"] = json!({ "dev.runvm.isolation": isolation });
    });
    // The annotation goes before the file, which says the opposite.
    let other = if own_kernel { "container" } else { "vm" };
    let file = runtime.file("other.toml", &format!("isolation = '{other}'\n"));
    run(&["--config", &file], &annotated);
    let file = runtime.file("own.toml", &format!("isolation = '{isolation}'\n"));
    run(&["--config", &file], &uname());
    if !own_kernel {
        run(&[], &uname());
    }
}

fn failures_are_logged_for_engines(runtime: &Runtime) {
    let log = runtime.path("log.json");
    let bundle = runtime.bundle().args(&["no-such-program"]);
    let path = bundle.path_text();
    let flags = ["--log", &log, "--log-format", "json"];
    let words = ["create", "--bundle", path, &runtime.new_id()];
    let outcome = runtime.call(flags.iter().chain(&words)).exits(1);
    assert!(
        outcome.errors().contains("executable file not found"),
        "{outcome}"
    );
    let text = fs::read_to_string(log).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).unwrap();
    assert_eq!(last["level"], "error");
    assert!(
        last["msg"]
            .as_str()
            .expect("text")
            .contains("executable file not found")
    );
    assert!(last["time"].is_string());
}

fn check_says_what_the_host_can_do(runtime: &Runtime) {
    if runtime.skips_runc("runc has no check") {
        return;
    }
    let check = runtime.call(["check", "--json"]).succeeds();
    let findings: Value = serde_json::from_slice(&check.output).unwrap();
    let find = |name: &str| {
        let finding = findings
            .as_array()
            .expect("an array")
            .iter()
            .find(|f| f["name"] == name);
        let finding = finding.unwrap_or_else(|| panic!("no finding about {name}: {findings:#}"));
        assert!(
            !finding["detail"].as_str().expect("text").is_empty(),
            "{finding}"
        );
        finding["available"].as_bool().expect("yes or no")
    };
    // The tests of container isolation pass here, so it is there. Those of vm isolation are skipped
    // where check says so: it may not say so lightly.
    assert!(find("container isolation"));
    let qemu = Command::new("qemu-system-x86_64")
        .arg("--version")
        .output()
        .is_ok();
    assert_eq!(find("qemu"), qemu);
    assert!(
        find("guest kernel") && find("guest initramfs"),
        "{findings:#}"
    );
    assert_eq!(find("vm isolation"), qemu || find("kvm"));
    for name in [
        "namespaces",
        "cgroups",
        "nested paging",
        "iommu",
        "huge pages",
        "ksm",
        "tun",
    ] {
        find(name);
    }
    let lines = runtime.call(["check"]).succeeds().output();
    let count = findings.as_array().expect("an array").len();
    assert_eq!(lines.lines().count(), count, "{lines}");
}

fn features_and_version_are_what_engines_read(runtime: &Runtime) {
    let features = runtime.call(["features"]).succeeds();
    let features: Value = serde_json::from_slice(&features.output).unwrap();
    for field in ["ociVersionMin", "ociVersionMax"] {
        assert!(
            features[field]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{features}"
        );
    }
    let has = |list: &str, word: &str| {
        let list = features.pointer(list).and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|item| item == word))
    };
    assert!(has("/linux/namespaces", "pid"), "{features}");
    assert!(has("/linux/capabilities", "CAP_KILL"), "{features}");
    assert!(has("/mountOptions", "ro"), "{features}");
    assert!(has("/hooks", "prestart"), "{features}");

    let version = runtime.call(["--version"]).succeeds().output();
    let name = Runtime::binary()
        .file_name()
        .expect("a file")
        .to_str()
        .expect("plain text");
    let first = version.lines().next().unwrap_or_default();
    assert!(
        first.starts_with(name) && first.contains(char::is_numeric),
        "{version}"
    );
    assert!(
        version.lines().any(|line| line.starts_with("spec: ")),
        "{version}"
    );
}

fn what_spec_writes_runs_without_a_warning(runtime: &Runtime) {
    let bundle = runtime.bundle();
    fs::remove_file(bundle.path().join("config.json")).unwrap();
    runtime
        .call(["spec", "--bundle", bundle.path_text()])
        .prints("");
    let text = fs::read_to_string(bundle.path().join("config.json")).unwrap();
    let text = text.replace("\"terminal\": true", "\"terminal\": false");
    bundle.write_config(&text.replace("\"sh\"", "\"true\""));
    runtime.run(&bundle).prints("");
}

fn spec_writes_no_configuration_over_another(runtime: &Runtime) {
    let bundle = runtime.bundle();
    let path = bundle.path_text();
    let before = fs::read(bundle.path().join("config.json")).unwrap();
    runtime
        .call(["spec", "--bundle", path])
        .refuses(1, &["config.json"]);
    assert_eq!(fs::read(bundle.path().join("config.json")).unwrap(), before);
}
