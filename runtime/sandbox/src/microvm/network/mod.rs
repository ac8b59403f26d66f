//! A microVM's network: that of its container's namespace on the host, bridged into the guest.
//!
//! The VMM process lives in the namespace. [`prepare`] makes network cards before the guest boots,
//! each with a tap beside the interfaces; [`connect`], when the container starts, gives each interface
//! one of them: the kernel hands all that comes to either on to the other ([`redirect`]), and the agent gives
//! the card the interface's name, addresses and routes. So what an engine puts into the namespace
//! between create and start is the guest's as well. Nothing in the guest runs before. [`release`]
//! leaves a namespace that lives longer than the microVM as it was.

mod redirect;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::{CloneFlags, unshare};
use runvm_container::network::{Bridged, Link, MacAddress, Network, NetworkError, read};
use runvm_oci::{NamespaceKind, Plan};
use runvm_sys::netlink::in_namespace;
use runvm_sys::tap::Tap;
use rustix::fs::{fstat, stat};
use serde::{Deserialize, Serialize};

use crate::{Directory, Record};
use redirect::{RedirectError, Redirector};

/// What is known of it, in the container's directory.
const FILE: &str = "network.json";
/// How taps are called. Nobody else's interface has such a name.
const TAP_PREFIX: &str = "runvm-tap";
/// How many cards there are where fewer interfaces are seen before the guest boots: engines that come
/// after `create` bring one.
const LEAST_CARDS: usize = 1;
/// The most queue pairs of a card: a thread each.
const MOST_PAIRS: usize = 4;

/// Why a microVM has not the network of its namespace.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetError {
    #[error("cannot open the network namespace {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error(
        "the network namespace {} is the runtime's own: all of its traffic would go to the guest", .0.display()
    )]
    Own(PathBuf),
    #[error("cannot make a network namespace")]
    New(#[source] io::Error),
    #[error("cannot use the network namespace{}", at(path.as_ref()))]
    Read {
        path: Option<PathBuf>,
        source: NetworkError,
    },
    #[error("cannot make a tap in the network namespace")]
    Tap(#[source] io::Error),
    #[error(
        "the network namespace has {found} interfaces, and the microVM was made with {cards} network cards"
    )]
    TooMany { found: usize, cards: usize },
    #[error("cannot {what} {FILE} of the microVM")]
    File {
        what: &'static str,
        source: io::Error,
    },
    #[error("cannot reach the microVM's network namespace")]
    Gone(#[source] io::Error),
    #[error("cannot bridge the interface {name:?} into the guest")]
    Bridge { name: String, source: RedirectError },
    #[error("cannot take the redirection away from interface {index} of the network namespace")]
    Release { index: u32, source: io::Error },
}

fn at(path: Option<&PathBuf>) -> String {
    path.map_or_else(String::new, |path| format!(" {}", path.display()))
}

/// What is needed to connect the network, and to take that back.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    /// Where a namespace is that lives longer than the microVM may.
    namespace: Option<Named>,
    cards: Vec<Card>,
    /// The interfaces whose traffic goes to the taps, in their order, or may go by now.
    redirected: Vec<u32>,
}

/// A namespace with a path, which may come to be another's.
#[derive(Debug, Serialize, Deserialize)]
struct Named {
    path: PathBuf,
    identity: (u64, u64),
}

/// A network card.
#[derive(Debug, Serialize, Deserialize)]
struct Card {
    /// The number of its tap in the namespace.
    tap: u32,
    mac: MacAddress,
}

/// What the VMM process is given.
pub(super) struct Prepared {
    /// The namespace to live in.
    pub(super) namespace: OwnedFd,
    /// The cards: the address of each, and the queues of its tap.
    pub(super) cards: Vec<(MacAddress, Vec<Tap>)>,
}

/// Opens the namespace of the plan, or makes one, and network cards for what is in it, with a pair of
/// queues for each of `vcpus`.
pub(super) fn prepare(
    plan: &Plan,
    directory: &Directory,
    vcpus: usize,
) -> Result<Prepared, NetError> {
    let mut namespaces = plan.namespaces.iter();
    let network = namespaces.find(|namespace| namespace.kind == NamespaceKind::Network);
    let path = network.and_then(|network| network.path.clone());
    let namespace = match &path {
        Some(path) => open(path)?,
        None => new_namespace().map_err(NetError::New)?,
    };
    let network = read_network(namespace.as_fd(), path.clone())?;
    let count = network.links.len().max(LEAST_CARDS);
    let make = || {
        let pattern = format!("{TAP_PREFIX}%d");
        let tap = |_| Tap::create(&pattern, vcpus.clamp(1, MOST_PAIRS));
        (0..count).map(tap).collect::<io::Result<Vec<_>>>()
    };
    let taps = in_namespace(namespace.as_fd(), make).map_err(NetError::Tap)?;
    let mut known = Known {
        namespace: match path {
            Some(path) => Some(Named {
                identity: identity(&namespace).map_err(|source| NetError::Open {
                    path: path.clone(),
                    source,
                })?,
                path,
            }),
            None => None,
        },
        ..Known::default()
    };
    let mut cards = Vec::with_capacity(taps.len());
    for (number, tap) in (0_u8..).zip(taps) {
        // Locally administered; seen by nobody but the agent, who finds the card by it.
        let mac = [0x02, b'r', b'u', b'n', b'v', number];
        known.cards.push(Card {
            tap: tap.index,
            mac,
        });
        cards.push((mac, tap.queues));
    }
    known.write(directory)?;
    Ok(Prepared { namespace, cards })
}

/// Bridges what interfaces there are in the microVM's namespace; returns what the agent is to make of its
/// cards.
pub(super) fn connect(record: &Record, directory: &Directory) -> Result<Bridged, NetError> {
    let mut known = Known::read(directory)?;
    let namespace = namespace_of(record).map_err(NetError::Gone)?;
    let network = read_network(namespace.as_fd(), None)?;
    if network.links.len() > known.cards.len() {
        return Err(NetError::TooMany {
            found: network.links.len(),
            cards: known.cards.len(),
        });
    }
    let mut redirector = Redirector::open(namespace.as_fd()).map_err(NetError::Gone)?;
    // An earlier start may have failed half way.
    known.take_back(&mut redirector)?;
    // Kept before it is done, so that one that is cut short can be taken back.
    known.redirected = network.links.iter().map(|link| link.index).collect();
    known.write(directory)?;
    for (link, card) in network.links.iter().zip(&known.cards) {
        bridge(&mut redirector, link, card)?;
    }
    let cards = known.cards.iter().map(|card| card.mac).collect();
    Ok(Bridged { cards, network })
}

fn bridge(redirector: &mut Redirector, link: &Link, card: &Card) -> Result<(), NetError> {
    redirector
        .join(link.index, card.tap)
        .map_err(|source| NetError::Bridge {
            name: link.name.clone(),
            source,
        })
}

/// Takes the redirections out of a namespace that is still there. Its taps went with the VMM process.
pub(super) fn release(directory: &Directory) -> Result<(), NetError> {
    let mut known = match Known::read(directory) {
        // None was made, or the file names nothing that could be taken back.
        Err(NetError::File { source, .. })
            if matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            return Ok(());
        }
        known => known?,
    };
    let Some(Named { path, identity: of }) = &known.namespace else {
        return Ok(());
    };
    let namespace = match File::open(path) {
        Ok(namespace) if identity(&namespace).is_ok_and(|found| found == *of) => namespace,
        _ => return Ok(()),
    };
    let mut redirector = Redirector::open(namespace.as_fd()).map_err(NetError::Gone)?;
    known.take_back(&mut redirector)
}

impl Known {
    fn read(directory: &Directory) -> Result<Self, NetError> {
        let failed = |source| NetError::File {
            what: "read",
            source,
        };
        let bytes = directory.read(FILE).map_err(failed)?;
        serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))
    }

    fn write(&self, directory: &Directory) -> Result<(), NetError> {
        let failed = |source| NetError::File {
            what: "write",
            source,
        };
        let bytes = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        directory.replace(FILE, &bytes).map_err(failed)
    }

    fn take_back(&mut self, redirector: &mut Redirector) -> Result<(), NetError> {
        for (index, card) in self.redirected.drain(..).zip(&self.cards) {
            redirector
                .part(index, card.tap)
                .map_err(|source| NetError::Release { index, source })?;
        }
        Ok(())
    }
}

fn open(path: &PathBuf) -> Result<OwnedFd, NetError> {
    let failed = |source| NetError::Open {
        path: path.clone(),
        source,
    };
    let namespace = File::open(path).map_err(failed)?;
    let own = stat("/proc/self/ns/net").map_err(|errno| failed(errno.into()))?;
    if identity(&namespace).map_err(failed)? == (own.st_dev, own.st_ino) {
        return Err(NetError::Own(path.clone()));
    }
    Ok(namespace.into())
}

/// A new network namespace, which nobody lives in yet.
fn new_namespace() -> io::Result<OwnedFd> {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(File::open("/proc/thread-self/ns/net")?.into())
    };
    // On a thread of its own: this process stays where it is.
    let thread = std::thread::Builder::new().spawn(make)?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

/// The namespace that the VMM process lives in.
fn namespace_of(record: &Record) -> io::Result<OwnedFd> {
    let process = record.process.ok_or(io::ErrorKind::NotFound)?;
    let _same = process.open()?;
    let namespace = File::open(format!("/proc/{}/ns/net", process.pid))?;
    // Looked at after it was opened: a process that is alive now was the same one then.
    if process.is_alive()? {
        Ok(namespace.into())
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn read_network(namespace: BorrowedFd<'_>, path: Option<PathBuf>) -> Result<Network, NetError> {
    read(namespace, |name| name.starts_with(TAP_PREFIX))
        .map_err(|source| NetError::Read { path, source })
}

fn identity(namespace: impl AsFd) -> io::Result<(u64, u64)> {
    let stat = fstat(namespace)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests;
