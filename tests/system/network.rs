//! The network of a container: that of its namespace, whoever set it up and when.

use std::fs::{self, File};
use std::path::Path;

use runvm_tests::network::{ADDRESS, ADDRESS_6, GATEWAY, Wire};
use runvm_tests::{Bundle, Input, Process, Running, Runtime, each_isolation, vm_only};
use rustix::process::Signal;
use serde_json::json;

each_isolation! {
    the_container_has_the_network_of_its_namespace,
    an_interface_that_comes_between_create_and_start_is_the_containers,
    connections_go_both_ways_and_change_nothing,
    a_container_without_a_path_has_a_network_of_its_own,
    a_network_namespace_that_is_none_is_refused,
    a_namespace_that_lives_on_is_left_as_it_was,
}

vm_only! {
    the_hosts_own_network_is_refused,
    a_second_microvm_of_one_interface_is_refused,
}

/// Has the bundle join a network namespace.
fn joining(bundle: Bundle, path: &Path) -> Bundle {
    bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        let network = namespaces
            .iter_mut()
            .find(|namespace| namespace["type"] == "network");
        network.expect("spec asks for one")["path"] = json!(path);
    })
}

/// Has the bundle's process send packets of its own making.
fn pinging(bundle: Bundle) -> Bundle {
    bundle.edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            let capabilities = &mut config["process"]["capabilities"][set];
            capabilities
                .as_array_mut()
                .unwrap()
                .push(json!("CAP_NET_RAW"));
        }
    })
}

/// What a program sees of its network: all but what no two namespaces have in common.
const LOOK: &str = "
    cd /sys/class/net/eth0 && cat address mtu ifindex
    ip address show dev eth0 | grep -o 'inet6* [^ ]*' | sort
    ip route; ip -6 route | grep -v ff00 | sort";

fn the_container_has_the_network_of_its_namespace(runtime: &Runtime) {
    let wire = Wire::new(runtime.scratch());
    wire.set_up();
    let expected = wire.inside(&["busybox", "sh", "-c", LOOK]).output();
    assert!(expected.contains(ADDRESS) && expected.contains(ADDRESS_6));
    let bundle = joining(runtime.bundle().shell(LOOK), &wire.path());
    runtime.run(&bundle).prints(&expected);
}

fn an_interface_that_comes_between_create_and_start_is_the_containers(runtime: &Runtime) {
    let wire = Wire::new(runtime.scratch());
    let pings = format!("{LOOK}; ping -c 1 {GATEWAY} >/dev/null && echo answered");
    let mut container = runtime.create(&pinging(runtime.bundle().shell(&pings)));
    wire.give_to(container.state().pid);
    container.start();
    let seen = container.finish().succeeds().output();
    for word in ["02:00:0a:63:07:02", "1400", ADDRESS, ADDRESS_6, "answered"] {
        assert!(seen.contains(word), "no {word} in {seen}");
    }
    container.delete();
}

fn connections_go_both_ways_and_change_nothing(runtime: &Runtime) {
    let wire = Wire::new(runtime.scratch());
    wire.set_up();
    let bytes = |count: u32| -> Vec<u8> {
        let mixed = |n: u32| n.wrapping_mul(0x9e37_79b1).to_le_bytes()[3];
        (0..count).map(mixed).collect()
    };
    let script =
        format!("until nc {GATEWAY} 5000 </data; do :; done; nc -l -p 6000 | md5sum | cut -c 1-32");
    let bundle = joining(runtime.bundle().shell(&script), &wire.path());
    let out = bytes(100_000_000);
    fs::write(bundle.rootfs().join("data"), &out).unwrap();

    let listen = ["busybox", "nc", "-l", "-p", "5000"];
    // At the end of its input nc would say so, and the other end leave before it has sent all.
    let mut listener = Running::spawn(wire.beyond_command(&listen), Input::Pipe);
    let mut container = runtime.spawn_run(&bundle, Input::Pipe);
    listener.wait();
    let came = listener.finish();
    assert_eq!(
        (came.code, came.output.len()),
        (0, out.len()),
        "{}",
        came.errors()
    );
    assert!(came.output == out, "what came is not what was sent");

    let sent = runtime.path("sent");
    fs::write(&sent, bytes(20_000_000)).unwrap();
    let sum = wire.beyond(&["busybox", "sh", "-c", "md5sum <$0 | cut -c 1-32", &sent]);
    let call = format!("until busybox nc {ADDRESS} 6000; do :; done");
    let caller = wire.beyond_command(&["busybox", "sh", "-c", &call]);
    let sent = Input::File(File::open(&sent).unwrap());
    Running::spawn(caller, sent).finish().exits(0);
    container.finish().prints(&sum.output());
}

fn a_container_without_a_path_has_a_network_of_its_own(runtime: &Runtime) {
    let script = "ls /sys/class/net; ip route; ping -c 1 127.0.0.1 >/dev/null && echo answered";
    runtime
        .run(&pinging(runtime.bundle().shell(script)))
        .prints("lo\nanswered\n");
}

fn a_network_namespace_that_is_none_is_refused(runtime: &Runtime) {
    let missing = runtime.path("missing");
    let file = runtime.file("file", "");
    for path in [missing, file] {
        let bundle = joining(runtime.bundle().args(&["true"]), Path::new(&path));
        let outcome = runtime.run(&bundle).exits(1);
        assert!(outcome.errors().contains("namespace"), "{outcome}");
    }
}

fn a_namespace_that_lives_on_is_left_as_it_was(runtime: &Runtime) {
    let wire = Wire::new(runtime.scratch());
    wire.set_up();
    let look = || {
        let links = wire.inside(&["ip", "-br", "link"]).output();
        let filters = wire.inside(&["tc", "qdisc", "show"]).output();
        links + &filters
    };
    let before = look();
    let sleeper = || {
        joining(
            runtime.bundle().shell("echo ready; sleep 1000"),
            &wire.path(),
        )
    };
    for killed in [false, true] {
        let mut container = runtime.create(&sleeper());
        container.start();
        container.output().wait_for("ready\n");
        if killed {
            let process = Process::open(container.state().pid).expect("it runs");
            process.signal(Signal::KILL);
        } else {
            container.kill("KILL");
        }
        container.finish().exits(137);
        container.delete();
        assert_eq!(look(), before, "killed: {killed}");
    }
    // Never started, and run again in the same namespace.
    drop(runtime.create(&sleeper()));
    assert_eq!(look(), before);
    let pings = pinging(runtime.bundle().args(&["ping", "-c", "1", GATEWAY]));
    runtime.run(&joining(pings, &wire.path())).succeeds();
    assert_eq!(look(), before);
}

fn the_hosts_own_network_is_refused(runtime: &Runtime) {
    let own = Path::new("/proc/self/ns/net");
    let bundle = joining(runtime.bundle().args(&["true"]), own);
    runtime
        .run(&bundle)
        .refuses(1, &["/proc/self/ns/net", "the runtime's own"]);
    let bundle = runtime.bundle().args(&["true"]).edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network");
    });
    runtime
        .run(&bundle)
        .refuses(1, &["linux.namespaces", "cannot be shared with a guest"]);
}

fn a_second_microvm_of_one_interface_is_refused(runtime: &Runtime) {
    let wire = Wire::new(runtime.scratch());
    wire.set_up();
    let sleeper = || pinging(runtime.bundle().shell("echo ready; sleep 1000"));
    let bundle = || joining(sleeper(), &wire.path());
    let mut first = runtime.create(&bundle());
    first.start();
    first.output().wait_for("ready\n");
    let second = runtime.create(&bundle());
    runtime
        .call(["start", second.id()])
        .refuses(1, &["\"eth0\"", "of another microVM"]);
    drop(second);
    // The first one has lost nothing.
    first.exec(&["ping", "-c", "1", GATEWAY]).succeeds();
    first.kill("KILL");
    first.finish().exits(137);
    first.delete();
}
