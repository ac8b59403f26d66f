//! Hooks: programs of the bundle's author, at the points of a container's life.

use std::fs;

use runvm_tests::{Bundle, Runtime, container_only, each_isolation};
use serde_json::{Value, json};

each_isolation! {
    hooks_run_in_their_order_and_read_the_state,
}

container_only! {
    a_hook_that_fails_before_the_start_undoes_the_container,
    a_poststart_hook_that_fails_ends_the_container,
    a_poststop_hook_that_fails_keeps_nothing,
}

fn hook(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]})
}

fn with_hooks(bundle: Bundle, hooks: Value) -> Bundle {
    bundle.edit(|config| config["hooks"] = hooks)
}

fn hooks_run_in_their_order_and_read_the_state(runtime: &Runtime) {
    let bundle = runtime.bundle().writable().args(&["true"]);
    let file = bundle.rootfs().join("order");
    let outside = |word: &str, status: &str| {
        let file = file.display();
        // runc says so since 1.2.
        let status = if Runtime::is_runc() { "[a-z]*" } else { status };
        hook(&format!(
            "grep -q '\"status\": *\"{status}\".*\"bundle\"' && echo {word} >>{file}"
        ))
    };
    let inside = hook("grep -q '\"status\": *\"created\"' && echo start $(hostname) >>/order");
    let hooks = json!({
        "prestart": [outside("prestart", "creating")],
        "createRuntime": [outside("first", "creating"), outside("second", "creating")],
        "startContainer": [inside],
        "poststart": [outside("poststart", "running")],
        "poststop": [outside("poststop", "stopped")],
    });
    let bundle = with_hooks(bundle, hooks).edit(|config| config["hostname"] = json!("inner"));
    runtime.run(&bundle).exits(0);
    let order = fs::read_to_string(&file).unwrap();
    if !Runtime::is_runc() {
        assert_eq!(
            order,
            "prestart\nfirst\nsecond\nstart inner\npoststart\npoststop\n"
        );
    }
    let count = order.lines().count();
    assert_eq!(count, 6, "{order}");
}

fn a_hook_that_fails_before_the_start_undoes_the_container(runtime: &Runtime) {
    for point in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
    ] {
        let ended = runtime.path(point);
        let hooks = json!({
            point: [hook("true"), hook("echo no such card; exit 7")],
            "poststop": [hook(&format!("touch {ended}"))],
        });
        let bundle = with_hooks(runtime.bundle().shell("echo ran"), hooks);
        let outcome = runtime.run(&bundle).exits(1);
        assert_eq!(outcome.output(), "", "{outcome}");
        assert!(outcome.errors().contains("no such card"), "{outcome}");
        assert!(
            fs::exists(&ended).unwrap(),
            "no poststop hook after {point}"
        );
        assert_eq!(runtime.ids(), Vec::<String>::new());
    }
}

fn a_poststart_hook_that_fails_ends_the_container(runtime: &Runtime) {
    let hooks = json!({"poststart": [hook("exit 7")]});
    let bundle = with_hooks(runtime.bundle().args(&["sleep", "1000"]), hooks);
    runtime.run(&bundle).exits(1);
    assert_eq!(runtime.ids(), Vec::<String>::new());
}

fn a_poststop_hook_that_fails_keeps_nothing(runtime: &Runtime) {
    let second = runtime.path("second");
    let hooks = json!({"poststop": [hook("exit 7"), hook(&format!("touch {second}"))]});
    let bundle = with_hooks(runtime.bundle().shell("exit 3"), hooks);
    let outcome = runtime.run(&bundle).exits(3);
    assert!(
        outcome.errors().contains("poststop") || Runtime::is_runc(),
        "{outcome}"
    );
    assert!(fs::exists(&second).unwrap() || Runtime::is_runc());
    assert_eq!(runtime.ids(), Vec::<String>::new());
}
