//! rtnetlink(7): requests to the kernel about the network of one namespace.
//!
//! The messages are put together here: the crates for it bring an asynchronous runtime, or types
//! for hundreds of attributes, for a handful of requests.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The request is to be acknowledged.
pub const ACK: u16 = 0x4;
/// All objects of a kind are asked for.
pub const DUMP: u16 = 0x300;
/// What exists already is an error.
pub const EXCL: u16 = 0x200;
/// What does not exist is made.
pub const CREATE: u16 = 0x400;

/// An interface is made or changed (linux/rtnetlink.h).
pub const RTM_NEWLINK: u16 = 16;
/// An interface is asked for.
pub const RTM_GETLINK: u16 = 18;
/// The interface is up (linux/if.h).
pub const IFF_UP: u32 = 1;

// linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
/// Length and kind of an attribute.
const ATTRIBUTE_HEAD: usize = 4;
const MESSAGE_HEAD: usize = 16;
/// The kernel fits what it sends into what is asked for, up to this.
const RECEIVE_BYTES: usize = 32 << 10;

/// A socket that speaks for one network namespace, whoever uses it.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// For the caller's namespace.
    pub fn open() -> io::Result<Self> {
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

    /// For the network namespace `namespace`.
    pub fn open_in(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        in_namespace(namespace, Self::open)
    }

    /// Sends a request and gives each answer with its kind and body, up to the last.
    pub fn ask(
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

    /// Sends a request that has no answer but its acknowledgement.
    pub fn demand(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.ask(kind, ACK | flags, body, |_, _| {})
    }
}

/// Brings the loopback interface of the caller's namespace up: the first one of each.
pub fn bring_up_loopback() -> io::Result<()> {
    Netlink::open()?.demand(RTM_NEWLINK, 0, &link_message(1, IFF_UP, IFF_UP))
}

/// Runs `act` on a thread that joins the network namespace `namespace` and ends.
pub fn in_namespace<T: Send>(
    namespace: BorrowedFd<'_>,
    act: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let join_and_act = || {
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
        act()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, join_and_act)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

fn status(body: &[u8]) -> io::Result<()> {
    match word(body, 0).map(u32::cast_signed) {
        Some(0) | None => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(error.wrapping_neg())),
    }
}

/// `struct ifinfomsg`: interface `index`, and what its flags in `change` are to be.
pub fn link_message(index: u32, flags: u32, change: u32) -> Vec<u8> {
    words(&[0, index, flags, change])
}

/// Adds to a [`link_message`] that the interface is to give itself no address of IPv6.
pub fn without_own_address(body: &mut Vec<u8>) {
    // linux/if_link.h
    const IFLA_AF_SPEC: u16 = 26;
    const AF_INET6: u16 = 10;
    const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
    const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
    nested(body, IFLA_AF_SPEC, |families| {
        nested(families, AF_INET6, |inet6| {
            attribute(inet6, IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        });
    });
}

/// Words one after the other, as the kernel's structures have them.
pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Adds an attribute to a message's body.
pub fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Names, numbers and addresses: far from the end of 16 bits.
    let length = u16::try_from(ATTRIBUTE_HEAD + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Adds an attribute that holds those that `fill` adds.
pub fn nested(body: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    attribute(body, kind, &inner);
}

/// A string as attributes have it.
pub fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// The 32 bits at an offset.
pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(word))
}

/// The 16 bits at an offset.
pub fn half(bytes: &[u8], at: usize) -> Option<u16> {
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
pub struct Attributes<'a>(pub &'a [u8]);

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
