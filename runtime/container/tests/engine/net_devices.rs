//! Links of the host in the container.

use std::process::Command;

use serde_json::json;

use crate::bundle::{Bundle, chain};

crate::tests![
    a_link_moves_with_its_addresses_under_its_new_name,
    a_link_moves_into_a_joined_network_namespace,
    a_link_that_is_not_there_is_told,
    a_name_that_is_taken_leaves_the_link_where_it_is,
];

/// A pair of links on the host, of which tests move the first.
struct Pair(String);

impl Pair {
    fn new() -> Self {
        let pair = Self(format!("rvm{}", std::process::id()));
        let name = &pair.0;
        assert!(ip(&format!("link add {name}a type veth peer name {name}b")));
        assert!(ip(&format!("address add 10.99.1.2/24 dev {name}a")));
        assert!(ip(&format!("address add 10.99.2.2/30 dev {name}a")));
        assert!(ip(&format!("link set {name}a up")));
        assert!(ip(&format!("link set {name}b up")));
        pair
    }

    fn first(&self) -> String {
        format!("{}a", self.0)
    }

    fn is_on_the_host(&self) -> bool {
        ip(&format!("link show {}", self.first()))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Gone with its peer where a container took that along.
        ip(&format!("link delete {}b", self.0));
    }
}

fn ip(words: &str) -> bool {
    let output = Command::new("ip").args(words.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}

/// What `ip` says inside a network namespace.
fn ip_in(pid: u32, words: &str) -> String {
    let output = Command::new("nsenter")
        .args([&format!("--net=/proc/{pid}/ns/net"), "ip"])
        .args(words.split(' '))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn can_make_links() -> bool {
    let name = format!("rvm{}t", std::process::id());
    let made = ip(&format!("link add {name} type veth"));
    if made {
        ip(&format!("link delete {name}"));
    } else {
        println!("skipped: needs ip(8) and veth links");
    }
    made
}

fn a_link_moves_with_its_addresses_under_its_new_name() {
    if !can_make_links() {
        return;
    }
    for userns in [false, true] {
        let pair = Pair::new();
        // IPv6 may be switched off.
        let six = ip(&format!(
            "address add fd99::2/64 dev {} nodad",
            pair.first()
        ));
        let devices = json!({pair.first(): {"name": "eth7"}});
        let mut bundle = Bundle::shell("sleep 100").set("/linux/netDevices", devices);
        if userns {
            bundle = bundle.user_namespace();
        }
        let container = bundle
            .create()
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert!(!pair.is_on_the_host());
        let shown = ip_in(container.created.pid, "address show dev eth7");
        for address in ["inet 10.99.1.2/24", "inet 10.99.2.2/30"] {
            assert!(shown.contains(address), "{shown}");
        }
        assert!(!six || shown.contains("inet6 fd99::2/64"), "{shown}");
        assert!(shown.contains(",UP"), "{shown}");
    }
}

fn a_link_moves_into_a_joined_network_namespace() {
    if !can_make_links() {
        return;
    }
    let pair = Pair::new();
    let other = Bundle::shell("sleep 100");
    let other = other.create().unwrap();
    let path = format!("/proc/{}/ns/net", other.created.pid);
    let bundle = Bundle::shell("sleep 100")
        .namespace("network", Some(Some(&path)))
        .set("/linux/netDevices", json!({pair.first(): {}}));
    let container = bundle.create().unwrap();
    drop(container);
    let shown = ip_in(other.created.pid, "address show");
    assert!(shown.contains(&pair.first()), "{shown}");
    assert!(shown.contains("10.99.1.2/24"), "{shown}");
}

fn a_link_that_is_not_there_is_told() {
    let bundle = Bundle::shell("true").set("/linux/netDevices", json!({"rvm-none": {}}));
    assert_eq!(
        bundle.error(),
        "cannot move the network device \"rvm-none\" into the container: \
         there is no such network interface"
    );
}

fn a_name_that_is_taken_leaves_the_link_where_it_is() {
    if !can_make_links() {
        return;
    }
    let pair = Pair::new();
    let bundle =
        Bundle::shell("true").set("/linux/netDevices", json!({pair.first(): {"name": "lo"}}));
    let error = bundle.error();
    assert!(
        error.ends_with("the container's network namespace has an interface \"lo\" already"),
        "{error}"
    );
    assert!(pair.is_on_the_host());
}
