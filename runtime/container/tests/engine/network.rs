//! A namespace's network, made again in another one.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;

use runvm_container::network::{Bridged, MacAddress, Network, NetworkError, read};
use runvm_sys::netlink::in_namespace;

crate::tests![
    a_network_is_made_again_of_other_interfaces,
    an_interface_without_a_card_is_told,
];

/// What the original has, in ip(8)'s words.
const ORIGINAL: [&str; 13] = [
    "link set lo up",
    "link add eth0 index 7 mtu 1400 address 02:00:00:00:00:07 type veth peer name far0",
    "link add eth1 index 9 type veth peer name far1",
    "link set eth0 up",
    "addr add 10.99.1.2/24 dev eth0",
    "addr add 10.99.2.2/32 dev eth0",
    "-6 addr add fd00:99::2/64 dev eth0 nodad",
    "route add default via 10.99.1.1 metric 5",
    "route add 10.99.3.0/24 dev eth0 src 10.99.2.2 table 77",
    "route add 10.99.4.0/24 nexthop via 10.99.1.3 weight 2 nexthop via 10.99.1.4",
    "route add blackhole 10.99.5.0/24",
    "rule add from 10.99.2.2 lookup 77 priority 100",
    "neigh add 10.99.1.9 lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
];

/// Where the interfaces are that it is made of: a guest's root, with two cards.
const CARDS: [&str; 2] = [
    "link add card0 address 02:00:00:00:01:00 type veth peer name other0",
    "link add card1 address 02:00:00:00:01:01 type veth peer name other1",
];

const CARD_ADDRESSES: [MacAddress; 2] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 0]];

/// A network namespace, removed when dropped.
struct Namespace(String);

impl Namespace {
    fn new(name: &str, words: &[&str]) -> Self {
        let namespace = Self(format!("rvm{}-{name}", std::process::id()));
        ip(&["netns", "add", &namespace.0]);
        for line in words {
            let words: Vec<&str> = line.split(' ').collect();
            ip(&[&["-n", &namespace.0], &words[..]].concat());
        }
        namespace
    }

    fn file(&self) -> File {
        File::open(format!("/run/netns/{}", self.0)).unwrap()
    }

    fn network(&self) -> Network {
        let is_the_far_end = |name: &str| name.starts_with("far");
        read(self.file().as_fd(), is_the_far_end).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.0])
            .status();
    }
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().unwrap();
    assert!(output.status.success(), "ip {words:?}: {output:?}");
}

/// Makes `bridged` of the interfaces of `from` in `to`.
fn apply(bridged: &Bridged, from: &Namespace, to: &Namespace) -> Result<(), NetworkError> {
    let to = to.file();
    in_namespace(from.file().as_fd(), || Ok(bridged.apply(to.as_fd()))).unwrap()
}

fn a_network_is_made_again_of_other_interfaces() {
    let original = Namespace::new("original", &ORIGINAL);
    let (root, copy) = (Namespace::new("root", &CARDS), Namespace::new("copy", &[]));
    let network = original.network();
    let indices: Vec<_> = network.links.iter().map(|link| link.index).collect();
    assert_eq!(indices, [7, 9]);
    let bridged = Bridged {
        network,
        cards: CARD_ADDRESSES.to_vec(),
    };
    apply(&bridged, &root, &copy).unwrap();
    assert_eq!(copy.network(), bridged.network);
}

fn an_interface_without_a_card_is_told() {
    let original = Namespace::new("original", &ORIGINAL);
    let (root, copy) = (Namespace::new("root", &CARDS), Namespace::new("copy", &[]));
    let bridged = Bridged {
        network: original.network(),
        cards: vec![CARD_ADDRESSES[0], [2; 6]],
    };
    let error = apply(&bridged, &root, &copy).unwrap_err();
    assert!(error.to_string().contains("\"eth1\""), "{error}");
}
