//! The few requests of rtnetlink(7) that move a link from one network namespace to another.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use runvm_sys::netlink::{
    ACK, Attributes, CREATE, DUMP, EXCL, IFF_UP, Netlink as Socket, RTM_GETLINK, RTM_NEWLINK,
    attribute, link_message, terminated, word,
};

// linux/rtnetlink.h
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RT_SCOPE_UNIVERSE: u8 = 0;
// linux/if_link.h
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
// linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
/// `struct ifaddrmsg`.
const ADDRESS_HEAD: usize = 8;

/// A network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) is_up: bool,
}

/// An address of a link, in the words of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    family: u8,
    prefix: u8,
    flags: u32,
    attributes: Vec<(u16, Vec<u8>)>,
}

/// A socket that speaks for one network namespace, whoever uses it.
#[derive(Debug)]
pub(crate) struct Netlink(Socket);

impl Netlink {
    /// For the caller's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Socket::open().map(Self)
    }

    /// For the network namespace `namespace`.
    pub(crate) fn open_in(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        Socket::open_in(namespace).map(Self)
    }

    /// The link called `name`; `None` if there is none.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut body = link_message(0, 0, 0);
        attribute(&mut body, IFLA_IFNAME, &terminated(name));
        let mut link = None;
        let asked = self.0.ask(RTM_GETLINK, ACK, &body, |kind, body| {
            if kind == RTM_NEWLINK {
                link = read_link(body);
            }
        });
        match asked {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => link
                .map(Some)
                .ok_or_else(|| io::ErrorKind::InvalidData.into()),
        }
    }

    /// The addresses of link `index` that somebody gave it and that mean something elsewhere,
    /// too: not those of autoconfiguration or of the link alone.
    pub(crate) fn addresses(&mut self, index: u32) -> io::Result<Vec<Address>> {
        let mut addresses = Vec::new();
        let body = [0; ADDRESS_HEAD];
        self.0.ask(RTM_GETADDR, DUMP, &body, |kind, body| {
            if kind == RTM_NEWADDR {
                addresses.extend(read_address(body, index));
            }
        })?;
        Ok(addresses)
    }

    pub(crate) fn set_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        let flags = if up { IFF_UP } else { 0 };
        let body = link_message(index, flags, IFF_UP);
        self.0.demand(RTM_NEWLINK, 0, &body)
    }

    /// Moves link `index`, which is down, into `namespace`, where it is called `name`.
    pub(crate) fn move_link(
        &mut self,
        index: u32,
        namespace: BorrowedFd<'_>,
        name: &str,
    ) -> io::Result<()> {
        let mut body = link_message(index, 0, 0);
        let number = namespace.as_raw_fd().to_ne_bytes();
        attribute(&mut body, IFLA_NET_NS_FD, &number);
        attribute(&mut body, IFLA_IFNAME, &terminated(name));
        self.0.demand(RTM_NEWLINK, 0, &body)
    }

    pub(crate) fn add_address(&mut self, index: u32, address: &Address) -> io::Result<()> {
        let mut body = vec![address.family, address.prefix, 0, RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            attribute(&mut body, *kind, value);
        }
        attribute(&mut body, IFA_FLAGS, &address.flags.to_ne_bytes());
        self.0.demand(RTM_NEWADDR, CREATE | EXCL, &body)
    }
}

fn read_link(body: &[u8]) -> Option<Link> {
    Some(Link {
        index: word(body, 4)?,
        is_up: word(body, 8)? & IFF_UP != 0,
    })
}

fn read_address(body: &[u8], of: u32) -> Option<Address> {
    let [family, prefix, old_flags, scope, ..] = *body else {
        return None;
    };
    if word(body, 4)? != of || scope != RT_SCOPE_UNIVERSE {
        return None;
    }
    let mut flags = u32::from(old_flags);
    let mut attributes = Vec::new();
    for (kind, value) in Attributes(body.get(ADDRESS_HEAD..)?) {
        match kind {
            IFA_FLAGS => flags = word(value, 0)?,
            // A label would be the old name.
            IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST => attributes.push((kind, value.to_vec())),
            _ => {}
        }
    }
    (flags & IFA_F_PERMANENT != 0).then_some(Address {
        family,
        prefix,
        flags: flags & IFA_F_NOPREFIXROUTE,
        attributes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_link_and_its_address_are_found() {
        let mut netlink = Netlink::open().unwrap();
        let link = netlink.link("lo").unwrap().unwrap();
        assert_eq!(link.index, 1);
        assert_eq!(netlink.link("no-such-link").unwrap(), None);
        // 127.0.0.1 has the scope of the host.
        assert_eq!(netlink.addresses(link.index).unwrap(), []);
    }
}
