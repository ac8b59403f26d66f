//! Network namespaces of a test's own, with a wire between.

use std::path::PathBuf;
use std::process::Command;

use crate::{Input, Outcome, Running, Scratch};

/// Two network namespaces: a container's, with an interface `eth0`, and one beyond, at the other end
/// of its wire. Both are gone when this is dropped.
#[derive(Debug)]
pub struct Wire {
    inside: String,
    beyond: String,
}

/// What the test gives `eth0`, and what is at the other end.
pub const ADDRESS: &str = "10.99.7.2";
/// The other end's address, the gateway.
pub const GATEWAY: &str = "10.99.7.1";
/// What the test gives `eth0` of IPv6.
pub const ADDRESS_6: &str = "fd00:99:7::2";

impl Wire {
    /// Makes both, and an `eth0` inside that nobody has set up.
    #[track_caller]
    pub fn new(scratch: &Scratch) -> Self {
        let wire = Self {
            inside: format!("{}-in", scratch.name()),
            beyond: format!("{}-out", scratch.name()),
        };
        ip(&["netns", "add", &wire.inside]);
        ip(&["netns", "add", &wire.beyond]);
        wire.add_interface("eth0", "02:00:0a:63:07:02");
        wire.beyond(&["ip", "addr", "add", "10.99.7.1/24", "dev", "eth0"]);
        let address = ["addr", "add", "fd00:99:7::1/64", "dev", "eth0", "nodad"];
        wire.beyond(&[&["ip"], &address[..]].concat());
        wire.beyond(&["ip", "link", "set", "eth0", "up"]);
        wire
    }

    /// One more interface inside, at a wire of its own.
    #[track_caller]
    pub fn add_interface(&self, name: &str, mac: &str) {
        let end = [
            "name",
            name,
            "netns",
            &self.inside,
            "address",
            mac,
            "mtu",
            "1400",
        ];
        let other = ["type", "veth", "peer", "name", name, "netns", &self.beyond];
        ip(&[&["link", "add"], &end[..], &other[..]].concat());
    }

    /// Gives the interface inside addresses and routes, as a plugin of an engine does.
    #[track_caller]
    pub fn set_up(&self) {
        for words in SET_UP {
            let words: Vec<&str> = words.split(' ').collect();
            self.inside(&[&["ip"], &words[..]].concat());
        }
    }

    /// The container's namespace, as a path for config.json.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.inside)
    }

    /// Runs a program inside, which must succeed.
    #[track_caller]
    pub fn inside(&self, args: &[&str]) -> Outcome {
        Running::spawn(in_namespace(&self.inside, args), Input::Null)
            .finish()
            .succeeds()
    }

    /// Runs a program beyond, which must succeed.
    #[track_caller]
    pub fn beyond(&self, args: &[&str]) -> Outcome {
        Running::spawn(self.beyond_command(args), Input::Null)
            .finish()
            .succeeds()
    }

    /// A program beyond.
    pub fn beyond_command(&self, args: &[&str]) -> Command {
        in_namespace(&self.beyond, args)
    }

    /// Moves the interface inside into the network namespace of a process.
    #[track_caller]
    pub fn give_to(&self, pid: i32) {
        self.inside(&["ip", "link", "set", "eth0", "netns", &pid.to_string()]);
        for words in SET_UP {
            let words: Vec<&str> = words.split(' ').collect();
            let pid = pid.to_string();
            let enter = ["-t", &pid, "-n", "ip"];
            let mut command = Command::new("nsenter");
            command.args(enter).args(words);
            Running::spawn(command, Input::Null).finish().succeeds();
        }
    }
}

/// ip(8)'s words. The second address comes without a route, and the route to it is somebody's own.
const SET_UP: [&str; 8] = [
    "link set lo up",
    "link set eth0 up",
    "addr add 10.99.7.2/24 dev eth0",
    "addr add 10.99.8.2/32 dev eth0",
    "addr add fd00:99:7::2/64 dev eth0 nodad",
    "route add default via 10.99.7.1 metric 50",
    "route add 10.99.9.0/24 dev eth0 mtu 1300",
    "-6 route add default via fd00:99:7::1",
];

impl Drop for Wire {
    fn drop(&mut self) {
        for name in [&self.inside, &self.beyond] {
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
        }
    }
}

fn in_namespace(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", name]).args(args);
    command
}

#[track_caller]
fn ip(args: &[&str]) {
    let mut command = Command::new("ip");
    command.args(args);
    Running::spawn(command, Input::Null).finish().succeeds();
}
