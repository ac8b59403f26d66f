//! The few requests of rtnetlink(7) that move a link from one network namespace to another.
//!
//! The messages are put together here: the crates for it bring an asynchronous runtime, or types
//! for hundreds of attributes, for five requests.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

// linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
/// Length and kind of an attribute.
const ATTRIBUTE_HEAD: usize = 4;
const MESSAGE_HEAD: usize = 16;
// linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RT_SCOPE_UNIVERSE: u8 = 0;
// linux/if_link.h
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFF_UP: u32 = 1;
// linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
/// `struct ifaddrmsg`.
const ADDRESS_HEAD: usize = 8;
/// The kernel fits what it sends into what is asked for, up to this.
const RECEIVE_BYTES: usize = 32 << 10;

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
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// For the caller's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        // The protocol 0 is NETLINK_ROUTE.
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// For the network namespace `namespace`, from a thread that joins it and ends.
    pub(crate) fn open_in(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        let open = || {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
            Self::open()
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, open)?;
            thread
                .join()
                .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        })
    }

    /// The link called `name`; `None` if there is none.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut body = link_head(0, 0, 0);
        attribute(&mut body, IFLA_IFNAME, &terminated(name));
        let mut link = None;
        let asked = self.ask(RTM_GETLINK, NLM_F_ACK, &body, |kind, body| {
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
        self.ask(RTM_GETADDR, NLM_F_DUMP, &body, |kind, body| {
            if kind == RTM_NEWADDR {
                addresses.extend(read_address(body, index));
            }
        })?;
        Ok(addresses)
    }

    pub(crate) fn set_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        let flags = if up { IFF_UP } else { 0 };
        let body = link_head(index, flags, IFF_UP);
        self.ask(RTM_NEWLINK, NLM_F_ACK, &body, |_, _| {})
    }

    /// Moves link `index`, which is down, into `namespace`, where it is called `name`.
    pub(crate) fn move_link(
        &mut self,
        index: u32,
        namespace: BorrowedFd<'_>,
        name: &str,
    ) -> io::Result<()> {
        let mut body = link_head(index, 0, 0);
        let number = namespace.as_raw_fd().to_ne_bytes();
        attribute(&mut body, IFLA_NET_NS_FD, &number);
        attribute(&mut body, IFLA_IFNAME, &terminated(name));
        self.ask(RTM_NEWLINK, NLM_F_ACK, &body, |_, _| {})
    }

    pub(crate) fn add_address(&mut self, index: u32, address: &Address) -> io::Result<()> {
        let mut body = vec![address.family, address.prefix, 0, RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            attribute(&mut body, *kind, value);
        }
        attribute(&mut body, IFA_FLAGS, &address.flags.to_ne_bytes());
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.ask(RTM_NEWADDR, flags, &body, |_, _| {})
    }

    /// Sends a request and gives each answer with its kind and body, up to the last.
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut answer: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.sequence += 1;
        let length =
            u32::try_from(MESSAGE_HEAD + body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        send(&self.socket, &message, SendFlags::empty())?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let received = || recv(&self.socket, &mut buffer[..], RecvFlags::empty());
            let (length, _) = rustix::io::retry_on_intr(received)?;
            for (kind, sequence, body) in Messages(&buffer[..length]) {
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    // Both begin with an error number, 0 for success.
                    NLMSG_ERROR | NLMSG_DONE => return status(body),
                    kind => answer(kind, body),
                }
            }
        }
    }
}

fn status(body: &[u8]) -> io::Result<()> {
    match word(body, 0).map(u32::cast_signed) {
        Some(0) | None => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(error.wrapping_neg())),
    }
}

/// `struct ifinfomsg`.
fn link_head(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut head = vec![0; 4];
    for word in [index, flags, change] {
        head.extend(word.to_ne_bytes());
    }
    head
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Names, numbers and addresses: far from the end of 16 bits.
    let length = u16::try_from(ATTRIBUTE_HEAD + value.len()).unwrap_or(u16::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
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

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(word))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let half = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_ne_bytes(half))
}

/// The messages of one datagram: kind, sequence number, body.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = word(self.0, 0)? as usize;
        let message = (
            self.0.get(MESSAGE_HEAD..length)?,
            half(self.0, 4)?,
            word(self.0, 8)?,
        );
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        let (body, kind, sequence) = message;
        Some((kind, sequence, body))
    }
}

/// The attributes after a message's head: kind and value.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(half(self.0, 0)?);
        let value = self.0.get(ATTRIBUTE_HEAD..length)?;
        // The two highest bits say how the value is to be read.
        let kind = half(self.0, 2)? & 0x3fff;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
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

    #[test]
    fn what_is_cut_short_ends_the_walk() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 5, b"abc");
        attribute(&mut bytes, 6, b"");
        let all: Vec<_> = Attributes(&bytes).collect();
        assert_eq!(all, [(5, &b"abc"[..]), (6, &b""[..])]);
        for length in 0..bytes.len() {
            assert!(Attributes(&bytes[..length]).count() <= 2);
            assert_eq!(Messages(&bytes[..length]).count(), 0);
        }
        // Lengths below that of a head lead nowhere.
        assert_eq!(Attributes(&[2, 0, 1, 0]).count(), 0);
        assert_eq!(Messages(&[0; 64]).count(), 0);
    }
}
