//! What a namespace's network is.

use std::io;
use std::os::fd::BorrowedFd;

use runvm_sys::netlink::{Attributes, DUMP, IFF_UP, Netlink, RTM_GETLINK, attribute, half, word};

use super::{
    IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, LINK_HEAD, Link, Network, NetworkError, RTM_GETADDR,
    RTM_GETNEIGH, RTM_GETROUTE, RTM_GETRULE,
};

// linux/if_arp.h
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
// linux/if_addr.h
const ADDRESS_HEAD: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// No other host is asked whether it has the address: on the host it was settled.
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_PERMANENT: u32 = 0x80;
/// No route comes with the address: the routes are taken over as they are.
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
// linux/rtnetlink.h
const ROUTE_HEAD: usize = 12;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_CACHEINFO: u16 = 12;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_EXPIRES: u16 = 23;
const RTA_NH_ID: u16 = 30;
/// The table of the kernel's own addresses.
const RT_TABLE_LOCAL: u32 = 255;
/// From a router, which the guest hears by itself.
const RTPROT_RA: u8 = 9;
const RTPROT_KERNEL: u8 = 2;
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_ONLINK: u32 = 4;
/// `struct rtnexthop`.
const NEXT_HOP_HEAD: usize = 8;
// linux/fib_rules.h
const RULE_HEAD: usize = 12;
const FRA_PROTOCOL: u16 = 21;
const FIB_RULE_INVERT: u32 = 2;
// linux/neighbour.h
const NEIGHBOUR_HEAD: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

/// Reads the network of `namespace`, but for the interfaces that `leave_out` names.
pub fn read(
    namespace: BorrowedFd<'_>,
    leave_out: impl Fn(&str) -> bool,
) -> Result<Network, NetworkError> {
    let mut netlink = Netlink::open_in(namespace).map_err(NetworkError::Socket)?;
    let mut seen = Vec::new();
    dump(&mut netlink, RTM_GETLINK, LINK_HEAD, "interfaces", |body| {
        seen.extend(SeenLink::parse(body));
    })?;
    let mut network = Network::default();
    for SeenLink { kind, link } in seen {
        match kind {
            ARPHRD_LOOPBACK => {}
            _ if leave_out(&link.name) => {}
            ARPHRD_ETHER => network.links.push(link),
            // Those that the kernel puts into every namespace are down.
            _ if !link.up => {}
            _ => return Err(NetworkError::NotEthernet(link.name)),
        }
    }
    network.links.sort_by_key(|link| link.index);
    if !network.links.is_empty() {
        network.read_tables(&mut netlink)?;
    }
    Ok(network)
}

/// Asks for all of a table; each answer's body comes to `take`.
fn dump(
    netlink: &mut Netlink,
    kind: u16,
    head: usize,
    what: &'static str,
    mut take: impl FnMut(&[u8]),
) -> Result<(), NetworkError> {
    let asked = netlink.ask(kind, DUMP, &vec![0; head], |_, body| take(body));
    match asked {
        // A kernel without the table.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        asked => asked.map_err(|source| NetworkError::Read { what, source }),
    }
}

impl Network {
    fn read_tables(&mut self, netlink: &mut Netlink) -> Result<(), NetworkError> {
        let indices: Vec<u32> = self.links.iter().map(|link| link.index).collect();
        let ours = |index: u32| indices.contains(&index);
        for (table, head, what, entries) in [
            (RTM_GETADDR, ADDRESS_HEAD, "addresses", &mut self.addresses),
            (RTM_GETRULE, RULE_HEAD, "rules", &mut self.rules),
            (RTM_GETROUTE, ROUTE_HEAD, "routes", &mut self.routes),
            (
                RTM_GETNEIGH,
                NEIGHBOUR_HEAD,
                "neighbours",
                &mut self.neighbours,
            ),
        ] {
            dump(netlink, table, head, what, |body| {
                entries.extend(entry(table, body, ours));
            })?;
        }
        // A gateway has to be reachable before a route over it is taken.
        self.routes.sort_by_key(|route| has_gateway(route));
        Ok(())
    }
}

/// What is kept of an entry of one of the kernel's tables.
pub(super) fn entry(table: u16, body: &[u8], ours: impl Fn(u32) -> bool) -> Option<Vec<u8>> {
    match table {
        RTM_GETADDR => read_address(body, ours),
        RTM_GETRULE => read_rule(body),
        RTM_GETROUTE => read_route(body, ours),
        RTM_GETNEIGH => read_neighbour(body, ours),
        _ => None,
    }
}

fn has_gateway(route: &[u8]) -> bool {
    Attributes(&route[ROUTE_HEAD..])
        .any(|(kind, _)| matches!(kind, RTA_GATEWAY | RTA_VIA | RTA_MULTIPATH))
}

/// An interface as the kernel tells of it.
pub(super) struct SeenLink {
    kind: u16,
    pub(super) link: Link,
}

impl SeenLink {
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut link = Link {
            index: word(body, 4)?,
            name: String::new(),
            mac: [0; 6],
            mtu: 0,
            up: word(body, 8)? & IFF_UP != 0,
        };
        for (kind, value) in Attributes(body.get(LINK_HEAD..)?) {
            match kind {
                IFLA_IFNAME => link.name = text(value),
                IFLA_MTU => link.mtu = word(value, 0)?,
                // Tunnels have addresses of other lengths.
                IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
                _ => {}
            }
        }
        Some(Self {
            kind: half(body, 2)?,
            link,
        })
    }
}

fn text(terminated: &[u8]) -> String {
    let end = terminated.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&terminated[..end.unwrap_or(terminated.len())]).into_owned()
}

/// The head of a message with those of its attributes that `keep` wants.
fn copy(body: &[u8], head: usize, keep: impl Fn(u16) -> bool) -> Option<Vec<u8>> {
    let mut copy = body.get(..head)?.to_vec();
    for (kind, value) in Attributes(&body[head..]) {
        if keep(kind) {
            attribute(&mut copy, kind, value);
        }
    }
    Some(copy)
}

fn is_internet(family: u8) -> bool {
    matches!(family, AF_INET | AF_INET6)
}

/// An address of one of our interfaces.
fn read_address(body: &[u8], ours: impl Fn(u32) -> bool) -> Option<Vec<u8>> {
    let [family, _, old_flags, ..] = *body else {
        return None;
    };
    if !is_internet(family) || !ours(word(body, 4)?) {
        return None;
    }
    let mut flags = u32::from(old_flags);
    for (kind, value) in Attributes(body.get(ADDRESS_HEAD..)?) {
        if kind == IFA_FLAGS {
            flags = word(value, 0)?;
        }
    }
    // What a router told of comes to the guest as it came to the host.
    let is_given = family == AF_INET || flags & IFA_F_PERMANENT != 0;
    if !is_given || flags & IFA_F_DADFAILED != 0 {
        return None;
    }
    let kept = [IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST];
    let mut copy = copy(body, ADDRESS_HEAD, |kind| kept.contains(&kind))?;
    let mut flags = IFA_F_NOPREFIXROUTE;
    if family == AF_INET6 {
        flags |= IFA_F_NODAD;
    }
    copy[2] = 0;
    attribute(&mut copy, IFA_FLAGS, &flags.to_ne_bytes());
    Some(copy)
}

/// A route over our interfaces, or over none, that belongs to nobody else.
fn read_route(body: &[u8], ours: impl Fn(u32) -> bool) -> Option<Vec<u8>> {
    let [family, _, _, _, table, protocol, ..] = *body else {
        return None;
    };
    let flags = word(body, 8)?;
    let mut table = u32::from(table);
    for (kind, value) in Attributes(body.get(ROUTE_HEAD..)?) {
        match kind {
            RTA_TABLE => table = word(value, 0)?,
            RTA_OIF if !ours(word(value, 0)?) => return None,
            RTA_MULTIPATH if !next_hops(value).all(&ours) => return None,
            _ => {}
        }
    }
    let is_own = table == RT_TABLE_LOCAL || flags & RTM_F_CLONED != 0 || protocol == RTPROT_RA;
    if !is_internet(family) || is_own {
        return None;
    }
    let mut copy = body.get(..ROUTE_HEAD)?.to_vec();
    copy[8..ROUTE_HEAD].copy_from_slice(&(flags & RTNH_F_ONLINK).to_ne_bytes());
    for (kind, value) in Attributes(&body[ROUTE_HEAD..]) {
        match kind {
            // Next hops are told beside the numbers of their objects.
            RTA_CACHEINFO | RTA_EXPIRES | RTA_NH_ID => {}
            RTA_MULTIPATH => attribute(&mut copy, kind, &without_state(value)),
            _ => attribute(&mut copy, kind, value),
        }
    }
    Some(copy)
}

/// The next hops of a route, each without what the kernel says of its link's state.
fn without_state(hops: &[u8]) -> Vec<u8> {
    let mut copy = hops.to_vec();
    let mut at = 0;
    while let (Some(length), Some(flags)) = (half(hops, at), copy.get_mut(at + 2)) {
        *flags &= RTNH_F_ONLINK.to_le_bytes()[0];
        at += usize::from(length).max(NEXT_HOP_HEAD).next_multiple_of(4);
    }
    copy
}

/// The interfaces of a route's next hops.
fn next_hops(mut hops: &[u8]) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let length = usize::from(half(hops, 0)?).max(NEXT_HOP_HEAD);
        let index = word(hops, 4)?;
        hops = hops.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(index)
    })
}

fn read_rule(body: &[u8]) -> Option<Vec<u8>> {
    let is_kernels = |(kind, value): (u16, &[u8])| kind == FRA_PROTOCOL && value == [RTPROT_KERNEL];
    if !is_internet(*body.first()?) || Attributes(body.get(RULE_HEAD..)?).any(is_kernels) {
        return None;
    }
    let mut copy = copy(body, RULE_HEAD, |_| true)?;
    let flags = word(body, 8)? & FIB_RULE_INVERT;
    copy[8..RULE_HEAD].copy_from_slice(&flags.to_ne_bytes());
    Some(copy)
}

fn read_neighbour(body: &[u8], ours: impl Fn(u32) -> bool) -> Option<Vec<u8>> {
    let permanent = half(body, 8)? & NUD_PERMANENT != 0;
    if !is_internet(*body.first()?) || !permanent || !ours(word(body, 4)?) {
        return None;
    }
    copy(body, NEIGHBOUR_HEAD, |kind| {
        matches!(kind, NDA_DST | NDA_LLADDR)
    })
}
