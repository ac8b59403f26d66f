//! `events`: what a container uses, and when it runs out of memory.

use runvm_tests::{Input, Isolation, Running, Runtime, each_isolation};
use serde_json::{Value, json};

each_isolation! {
    figures_are_printed_once_as_runc_prints_them,
    events_are_for_what_runs,
    events_go_on_until_the_container_ends,
    a_lack_of_memory_is_an_event,
}

const MIB: u64 = 1 << 20;

fn figures_are_printed_once_as_runc_prints_them(runtime: &Runtime) {
    let bundle = runtime.bundle().args(&["sleep", "1000"]).edit(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 64 * MIB });
        config["linux"]["resources"]["pids"] = json!({ "limit": 77 });
    });
    let mut container = runtime.create(&bundle);
    container.start();
    let events = runtime
        .call(["events", "--stats", container.id()])
        .succeeds();
    assert_eq!(events.output().lines().count(), 1, "{events}");
    let event: Value = serde_json::from_slice(&events.output).expect("it is JSON");
    assert_eq!(event["type"], "stats");
    assert_eq!(event["id"], container.id());
    let data = event["data"].as_object().expect("an object");
    for field in [
        "cpu",
        "cpuset",
        "memory",
        "pids",
        "blkio",
        "hugetlb",
        "intel_rdt",
        "network_interfaces",
    ] {
        assert!(data.contains_key(field), "{field}; {events}");
    }
    let number = |pointer: &str| event.pointer(pointer).and_then(Value::as_u64);
    assert!(number("/data/cpu/usage/total") > Some(0), "{events}");
    assert!(number("/data/memory/usage/usage") > Some(0), "{events}");
    assert!(number("/data/memory/usage/max") > Some(0), "{events}");
    assert!(event["data"]["memory"]["raw"].is_object(), "{events}");
    assert_eq!(number("/data/memory/usage/limit"), Some(64 * MIB));
    assert_eq!(event["data"]["pids"], json!({ "current": 1, "limit": 77 }));
    if runtime.isolation() == Isolation::Vm {
        assert!(
            number("/data/host/memory/usage/usage") > number("/data/memory/usage/usage"),
            "{events}"
        );
    }
    container.kill("KILL");
    container.finish().exits(137);
    container.delete();
}

fn events_are_for_what_runs(runtime: &Runtime) {
    let mut container = runtime.create(&runtime.bundle().args(&["sleep", "1000"]));
    let id = container.id().to_owned();
    let refuses = |flags: &[&str], word: &str| {
        let outcome = runtime.call([&["events"], flags, &[&id]].concat());
        assert_ne!(outcome.code, 0, "{outcome}");
        assert!(outcome.errors().contains(word), "{outcome}");
        // runc tells there how it is used.
        if !Runtime::is_runc() {
            assert_eq!(outcome.output(), "", "{outcome}");
        }
    };
    refuses(&["--interval", "0s"], "interval");
    refuses(&["--interval", "soon"], "soon");
    container.kill("KILL");
    container.finish().exits(137);
    refuses(&["--stats"], "is not running");
    refuses(&[], "is not running");
    container.delete();
    refuses(&["--stats"], "does not exist");
}

fn events_go_on_until_the_container_ends(runtime: &Runtime) {
    let mut container = runtime.create(&runtime.bundle().args(&["sleep", "1000"]));
    container.start();
    let words = ["events", "--interval", "50ms", container.id()];
    let events = Running::spawn(runtime.command(words), Input::Null);
    for _ in 0..3 {
        events.output().wait_for("\"type\":\"stats\"");
    }
    container.kill("KILL");
    container.finish().exits(137);
    container.delete();
    let outcome = events.finish().exits(0);
    for line in outcome.output().lines() {
        let event: Value = serde_json::from_str(line).expect("each line is JSON");
        assert_eq!(event["type"], "stats", "{outcome}");
    }
}

fn a_lack_of_memory_is_an_event(runtime: &Runtime) {
    let bundle = runtime
        .bundle()
        .edit(|config| {
            config["linux"]["resources"]["memory"] = json!({ "limit": 32 * MIB, "swap": 32 * MIB })
        })
        .shell("read line; x=x; while :; do x=$x$x; done");
    let mut container = runtime.create_with(&bundle, &[], Input::Pipe);
    container.start();
    let id = container.id().to_owned();
    let words = ["events", "--interval", "50ms", &id];
    let events = Running::spawn(runtime.command(words), Input::Null);
    // With the first figures it is listening.
    events.output().wait_for("\"type\":\"stats\"");
    container.running().write("go\n");
    container.finish().exits(137);
    events.output().wait_for("\"type\":\"oom\"");
    container.delete();
    let outcome = events.finish().exits(0);
    let ooms: Vec<Value> = outcome
        .output()
        .lines()
        .filter(|line| line.contains("oom\""))
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .filter(|event: &Value| event["type"] == "oom")
        .collect();
    assert_eq!(ooms, [json!({ "type": "oom", "id": id })]);
}
