//! Two interfaces of one namespace joined as if by a wire: what comes in at either goes out at the
//! other, and the host's kernel looks at none of it.
//!
//! A bridge was turned down: it would take the interface's addresses away and its own would be seen.
//! The classifier is `u32`, which matches everything with a key of no bits: every kernel with traffic
//! control has it, and not every one has `matchall`.

use std::io;
use std::os::fd::BorrowedFd;

use runvm_sys::netlink::{
    CREATE, DUMP, EXCL, IFF_UP, Netlink, RTM_NEWLINK, attribute, link_message, nested, terminated,
    without_own_address, word, words,
};

/// Why two interfaces could not be joined.
#[derive(Debug, thiserror::Error)]
pub(in crate::microvm) enum RedirectError {
    /// There can be only one.
    #[error(
        "it has an ingress queueing discipline already, of another microVM or of somebody else's"
    )]
    Taken,
    /// A step on the way.
    #[error("cannot {what}")]
    Step {
        what: &'static str,
        source: io::Error,
    },
}

// linux/rtnetlink.h
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
// linux/pkt_sched.h
const TC_H_INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
// linux/if_ether.h
const ETH_P_ALL: u16 = 3;
// linux/pkt_cls.h
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TC_U32_TERMINAL: u8 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TC_ACT_STOLEN: u32 = 4;
/// `struct tc_u32_sel` without keys, and one key.
const SELECTOR_BYTES: usize = 16;
const KEY_BYTES: usize = 16;
// linux/tc_act/tc_mirred.h
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: u32 = 1;

/// Joins interfaces of one namespace.
pub(super) struct Redirector(Netlink);

impl Redirector {
    pub(super) fn open(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        Netlink::open_in(namespace).map(Self)
    }

    /// Joins `link` with `tap`, which is brought up.
    pub(super) fn join(&mut self, link: u32, tap: u32) -> Result<(), RedirectError> {
        self.bring_up(tap).map_err(step("bring its tap up"))?;
        for (from, to) in [(link, tap), (tap, link)] {
            match self.add_ingress(from) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && from == link => {
                    return Err(RedirectError::Taken);
                }
                added => added.map_err(step("add an ingress queueing discipline"))?,
            }
            self.redirect(from, to, priority(tap))
                .map_err(step("redirect what comes in"))?;
        }
        Ok(())
    }

    /// Lets what comes in at `link` go its own way again, whether or not it was joined with `tap`,
    /// which may be gone; what somebody else redirects is left alone.
    pub(super) fn part(&mut self, link: u32, tap: u32) -> io::Result<()> {
        if self.is_anothers(link, tap)? {
            return Ok(());
        }
        for end in [link, tap] {
            unless_missing(self.0.demand(RTM_DELQDISC, 0, &qdisc(end)))?;
        }
        Ok(())
    }

    fn is_anothers(&mut self, link: u32, tap: u32) -> io::Result<bool> {
        let (mut ours, mut anothers) = (false, false);
        let message = traffic_control(link, 0, INGRESS_HANDLE, 0);
        let asked = self.0.ask(RTM_GETTFILTER, DUMP, &message, |_, body| {
            let is_ours = word(body, 16).is_some_and(|info| info >> 16 == priority(tap));
            ours |= is_ours;
            anothers |= !is_ours;
        });
        unless_missing(asked)?;
        Ok(anothers && !ours)
    }

    /// Without an address of its own: it is a wire.
    fn bring_up(&mut self, tap: u32) -> io::Result<()> {
        let mut quiet = link_message(tap, 0, 0);
        without_own_address(&mut quiet);
        // Fails where the kernel, or the namespace, has no IPv6, and then there is nothing to do.
        let _ = self.0.demand(RTM_NEWLINK, 0, &quiet);
        self.0
            .demand(RTM_NEWLINK, 0, &link_message(tap, IFF_UP, IFF_UP))
    }

    fn add_ingress(&mut self, link: u32) -> io::Result<()> {
        let mut message = qdisc(link);
        attribute(&mut message, TCA_KIND, &terminated("ingress"));
        self.0.demand(RTM_NEWQDISC, CREATE | EXCL, &message)
    }

    /// Has all that comes in at `from` go out at `to`.
    fn redirect(&mut self, from: u32, to: u32, priority: u32) -> io::Result<()> {
        let info = priority << 16 | u32::from(ETH_P_ALL.to_be());
        let mut message = traffic_control(from, 0, INGRESS_HANDLE, info);
        attribute(&mut message, TCA_KIND, &terminated("u32"));
        nested(&mut message, TCA_OPTIONS, |options| {
            let mut everything = [0; SELECTOR_BYTES + KEY_BYTES];
            everything[0] = TC_U32_TERMINAL;
            everything[2] = 1; // key, of no bits
            attribute(options, TCA_U32_SEL, &everything);
            nested(options, TCA_U32_ACT, |actions| {
                nested(actions, 1, |action| {
                    attribute(action, TCA_ACT_KIND, &terminated("mirred"));
                    nested(action, TCA_ACT_OPTIONS, |options| {
                        attribute(options, TCA_MIRRED_PARMS, &mirred(to));
                    });
                });
            });
        });
        self.0.demand(RTM_NEWTFILTER, CREATE | EXCL, &message)
    }
}

/// The filter's priority, of 16 bits: it is alone, so the number only says whose it is.
fn priority(tap: u32) -> u32 {
    tap % 0xffff + 1
}

fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        // No such interface, or none such on it.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(nix::libc::ENODEV | nix::libc::ENOENT | nix::libc::EINVAL)
            ) =>
        {
            Ok(())
        }
        done => done,
    }
}

fn qdisc(link: u32) -> Vec<u8> {
    traffic_control(link, INGRESS_HANDLE, TC_H_INGRESS, 0)
}

/// `struct tcmsg`.
fn traffic_control(link: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    words(&[0, link, handle, parent, info])
}

/// `struct tc_mirred`.
fn mirred(to: u32) -> Vec<u8> {
    words(&[0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to])
}

fn step(what: &'static str) -> impl Fn(io::Error) -> RedirectError {
    move |source| RedirectError::Step { what, source }
}
