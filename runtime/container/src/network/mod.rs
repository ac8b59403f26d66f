//! A namespace's network, to be had again in another one: the interfaces themselves, and what is
//! said of them in the kernel's tables.
//!
//! A microVM's guest has the network that its container's namespace has on the host: [`read`] looks
//! there, and [`Bridged::apply`] makes the same in the guest's namespace. What the kernel says of an
//! address, a rule, a route or a neighbour is kept in the kernel's words (rtnetlink(7)): each
//! interface gets the number that it has on the host, so they mean the same in the guest.

mod apply;
mod read;
#[cfg(test)]
mod tests;

use std::io;

use serde::{Deserialize, Serialize};

pub use read::read;

/// A hardware address of Ethernet.
pub type MacAddress = [u8; 6];

/// The network of a namespace, without its loopback interface: every new one has that, up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The interfaces, by number.
    pub links: Vec<Link>,
    /// `struct ifaddrmsg` and attributes.
    addresses: Vec<Vec<u8>>,
    /// `struct fib_rule_hdr` and attributes: those that somebody made.
    rules: Vec<Vec<u8>>,
    /// `struct rtmsg` and attributes, of all tables but the kernel's own; those without a gateway
    /// first.
    routes: Vec<Vec<u8>>,
    /// `struct ndmsg` and attributes: the permanent ones.
    neighbours: Vec<Vec<u8>>,
}

/// A network, and the interfaces to make it of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridged {
    /// What is to be made.
    pub network: Network,
    /// The hardware addresses of the interfaces there are: for the links in their order, and more.
    pub cards: Vec<MacAddress>,
}

/// An Ethernet interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: MacAddress,
    /// The longest packet it takes, in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
}

/// Why a network could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Netlink in the namespace.
    #[error("cannot open a netlink socket in the network namespace")]
    Socket(#[source] io::Error),
    /// A table of the kernel's.
    #[error("cannot read the {what} of the network namespace")]
    Read {
        /// Which.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// An interface without hardware addresses, such as a tunnel.
    #[error("the interface {0:?} is not Ethernet")]
    NotEthernet(String),
    /// No card for an interface.
    #[error("there is no network card for the interface {0:?}")]
    NoCard(String),
    /// A step with one interface.
    #[error("cannot {what} the interface {name:?}")]
    Link {
        /// What could not be done.
        what: &'static str,
        /// To which.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// An entry of a table.
    #[error("cannot add the {what} of the network namespace")]
    Add {
        /// Of which table.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

// linux/rtnetlink.h
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;
/// `struct ifinfomsg`.
const LINK_HEAD: usize = 16;
// linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
