//! The same network, made of other interfaces.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use runvm_sys::netlink::{
    CREATE, DUMP, IFF_UP, Netlink, RTM_GETLINK, RTM_NEWLINK, attribute, link_message, terminated,
    without_own_address,
};

use super::read::SeenLink;
use super::{
    Bridged, IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, LINK_HEAD, Link, NetworkError, RTM_NEWADDR,
    RTM_NEWNEIGH, RTM_NEWROUTE, RTM_NEWRULE,
};

// linux/if_link.h
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NEW_IFINDEX: u16 = 49;

impl Bridged {
    /// Makes the network in `namespace`, a new one, of the caller's interfaces.
    pub fn apply(&self, namespace: BorrowedFd<'_>) -> Result<(), NetworkError> {
        let network = &self.network;
        if network.links.is_empty() {
            return Ok(());
        }
        let mut here = Netlink::open().map_err(NetworkError::Socket)?;
        let mut there = Netlink::open_in(namespace).map_err(NetworkError::Socket)?;
        let found = interfaces(&mut here)?;
        for (number, link) in network.links.iter().enumerate() {
            let card = self
                .cards
                .get(number)
                .and_then(|mac| found.iter().find(|found| found.mac == *mac))
                .ok_or_else(|| NetworkError::NoCard(link.name.clone()))?;
            link.bring(&mut here, card.index, namespace)
                .map_err(link.failed("move"))?;
            link.dress(&mut there).map_err(link.failed("set up"))?;
        }
        for (kind, what, entries) in [
            (RTM_NEWADDR, "addresses", &network.addresses),
            (RTM_NEWRULE, "rules", &network.rules),
            (RTM_NEWROUTE, "routes", &network.routes),
            (RTM_NEWNEIGH, "neighbours", &network.neighbours),
        ] {
            for entry in entries {
                add(&mut there, kind, entry)
                    .map_err(|source| NetworkError::Add { what, source })?;
            }
        }
        Ok(())
    }
}

fn interfaces(netlink: &mut Netlink) -> Result<Vec<Link>, NetworkError> {
    let mut found = Vec::new();
    let body = [0; LINK_HEAD];
    netlink
        .ask(RTM_GETLINK, DUMP, &body, |_, body| {
            found.extend(SeenLink::parse(body).map(|seen| seen.link));
        })
        .map_err(|source| NetworkError::Read {
            what: "interfaces",
            source,
        })?;
    Ok(found)
}

/// Adds an entry; one that came with another is there already.
fn add(netlink: &mut Netlink, kind: u16, entry: &[u8]) -> io::Result<()> {
    match netlink.demand(kind, CREATE, entry) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        added => added,
    }
}

impl Link {
    /// Moves interface `index` into `namespace`, where it gets this one's name and number.
    fn bring(
        &self,
        netlink: &mut Netlink,
        index: u32,
        namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut body = link_message(index, 0, 0);
        attribute(
            &mut body,
            IFLA_NET_NS_FD,
            &namespace.as_raw_fd().to_ne_bytes(),
        );
        attribute(&mut body, IFLA_IFNAME, &terminated(&self.name));
        attribute(&mut body, IFLA_NEW_IFINDEX, &self.index.to_ne_bytes());
        netlink.demand(RTM_NEWLINK, 0, &body)
    }

    /// Gives it the hardware address and the MTU, and brings it up, without an address that nobody
    /// gave it.
    fn dress(&self, netlink: &mut Netlink) -> io::Result<()> {
        let mut body = link_message(self.index, 0, 0);
        attribute(&mut body, IFLA_ADDRESS, &self.mac);
        attribute(&mut body, IFLA_MTU, &self.mtu.to_ne_bytes());
        without_own_address(&mut body);
        netlink.demand(RTM_NEWLINK, 0, &body)?;
        if self.up {
            netlink.demand(RTM_NEWLINK, 0, &link_message(self.index, IFF_UP, IFF_UP))?;
        }
        Ok(())
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> NetworkError {
        let name = self.name.clone();
        move |source| NetworkError::Link {
            what,
            name: name.clone(),
            source,
        }
    }
}
