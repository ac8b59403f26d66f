//! `linux.netDevices`: links of the host that become the container's.
//!
//! A link is moved by the caller, who has privileges over both network namespaces. When the
//! container's dies, the kernel gives physical links back and removes virtual ones.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use runvm_oci::{NamespaceKind, Plan};

use crate::namespaces::Arrangement;
use crate::netlink::{Address, Link, Netlink};

/// Why a link is not the container's.
#[derive(Debug, thiserror::Error)]
pub enum NetDeviceError {
    /// Netlink in one of the two namespaces.
    #[error("cannot open a netlink socket in the {whose} network namespace")]
    Socket {
        /// Whose.
        whose: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The host has no link of that name.
    #[error("there is no such network interface")]
    Missing,
    /// The container has one already.
    #[error("the container's network namespace has an interface {0:?} already")]
    Taken(String),
    /// A step on the way.
    #[error("cannot {what}")]
    Step {
        /// Which.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Moves the links of the plan into the network namespace of its container, whose process is
/// `pid`, renames them and gives them their addresses again. The error comes with the link's name.
pub(crate) fn move_all(
    plan: &Plan,
    arrangement: &Arrangement,
    pid: u32,
) -> Result<(), (String, NetDeviceError)> {
    let Some((first, _)) = plan.net_devices.first_key_value() else {
        return Ok(());
    };
    let mut way = Way::open(arrangement, pid).map_err(|error| (first.clone(), error))?;
    for (name, device) in &plan.net_devices {
        let renamed = device.name().as_deref().filter(|name| !name.is_empty());
        way.move_one(name, renamed.unwrap_or(name))
            .map_err(|error| (name.clone(), error))?;
    }
    Ok(())
}

/// From the host's network namespace to the container's.
struct Way {
    host: Netlink,
    container: Netlink,
    namespace: OwnedFd,
}

impl Way {
    fn open(arrangement: &Arrangement, pid: u32) -> Result<Self, NetDeviceError> {
        let failed = |whose| move |source| NetDeviceError::Socket { whose, source };
        let namespace = namespace(arrangement, pid).map_err(failed("container's"))?;
        Ok(Self {
            host: Netlink::open().map_err(failed("runtime's"))?,
            container: Netlink::open_in(namespace.as_fd()).map_err(failed("container's"))?,
            namespace,
        })
    }

    fn move_one(&mut self, from: &str, to: &str) -> Result<(), NetDeviceError> {
        let look = step("look for it");
        let link = self.host.link(from).map_err(&look)?;
        let link = link.ok_or(NetDeviceError::Missing)?;
        // The kernel would move it first and then fail to rename it.
        if self.container.link(to).map_err(&look)?.is_some() {
            return Err(NetDeviceError::Taken(to.to_owned()));
        }
        // Read while it is up: taking it down loses those of IPv6.
        let addresses = self.host.addresses(link.index);
        let addresses = addresses.map_err(step("read its addresses"))?;
        // A link that is up cannot be renamed.
        let down = self.host.set_up(link.index, false);
        down.map_err(step("take it down"))?;
        let namespace = self.namespace.as_fd();
        if let Err(source) = self.host.move_link(link.index, namespace, to) {
            restore(&mut self.host, link, &addresses);
            return Err(step("move it into the container's network namespace")(
                source,
            ));
        }
        self.bring_up(to, &addresses)
    }

    fn bring_up(&mut self, name: &str, addresses: &[Address]) -> Result<(), NetDeviceError> {
        let link = self.container.link(name).map_err(step("find it again"))?;
        let link = link.ok_or(NetDeviceError::Missing)?;
        for address in addresses {
            self.container
                .add_address(link.index, address)
                .map_err(step("give it its addresses again"))?;
        }
        self.container
            .set_up(link.index, true)
            .map_err(step("take it up again"))
    }
}

/// Leaves a link that stays on the host as it was. The error on its way out is the one to tell.
fn restore(host: &mut Netlink, link: Link, addresses: &[Address]) {
    if !link.is_up {
        return;
    }
    let _ = host.set_up(link.index, true);
    for address in addresses {
        // Those of IPv4 are still there.
        let _ = host.add_address(link.index, address);
    }
}

fn step(what: &'static str) -> impl Fn(io::Error) -> NetDeviceError {
    move |source| NetDeviceError::Step { what, source }
}

/// The one to join, which the process may not have joined yet; or the new one it was born in.
fn namespace(arrangement: &Arrangement, pid: u32) -> io::Result<OwnedFd> {
    let mut joined = arrangement.joined.iter();
    let joined = joined.find(|joined| joined.kind == NamespaceKind::Network);
    match joined {
        Some(joined) => BorrowedFd::try_clone_to_owned(&joined.fd.as_fd()),
        None => Ok(File::open(format!("/proc/{pid}/ns/net"))?.into()),
    }
}
