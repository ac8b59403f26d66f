//! Which devices the processes of a cgroup may use: `linux.resources.devices` brought to a
//! default and its exceptions, which v1 takes as lines and v2 as a program.
//!
//! The rules mean what they mean to cgroup v1, which they are made for. In one point we are
//! stricter, as runc is: v1 silently ignores a rule that would take a part out of a wider
//! exception; that would leave open what was to be closed, so it is an error.

use runvm_oci::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::CgroupError;

pub(super) mod program;
mod set;

pub(super) use set::{Before, set_v1, set_v2};

/// A kind of device node, as the kernel numbers it (`BPF_DEVCG_DEV_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Block = 1,
    Char = 2,
}

/// Ways to use a device, as bits (`BPF_DEVCG_ACC_*`).
pub(super) const MKNOD: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// Devices that an exception is about; no number is all numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Devices {
    pub(super) kind: Kind,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
}

/// A default, and the exceptions from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Policy {
    pub(super) is_allowed: bool,
    /// The ways in which the default does not hold for some devices, never none.
    pub(super) exceptions: Vec<(Devices, u8)>,
}

/// What every container may do, whatever its rules: make nodes (using them is another matter),
/// and use those that the runtime puts into /dev.
const ALWAYS: [(Kind, Option<u32>, Option<u32>, u8); 10] = [
    (Kind::Char, None, None, MKNOD),
    (Kind::Block, None, None, MKNOD),
    // null, zero, full, random, urandom, tty, ptmx, and the slaves of a devpts.
    (Kind::Char, Some(1), Some(3), ALL),
    (Kind::Char, Some(1), Some(5), ALL),
    (Kind::Char, Some(1), Some(7), ALL),
    (Kind::Char, Some(1), Some(8), ALL),
    (Kind::Char, Some(1), Some(9), ALL),
    (Kind::Char, Some(5), Some(0), ALL),
    (Kind::Char, Some(5), Some(2), ALL),
    (Kind::Char, Some(136), None, ALL),
];

impl Policy {
    /// The policy of `linux.resources.devices`: without rules, nothing beyond what is always
    /// allowed.
    pub(super) fn of(resources: &LinuxResources) -> Result<Self, CgroupError> {
        let mut policy = Self::default();
        for rule in resources.devices().iter().flatten() {
            policy.apply(rule)?;
        }
        for (kind, major, minor, access) in ALWAYS {
            let devices = Devices { kind, major, minor };
            if policy.is_allowed {
                // A wider denial the user asked for stays; it is not punched into.
                policy.subtract(devices, access);
            } else {
                policy.add(devices, access);
            }
        }
        Ok(policy)
    }

    /// Whether nothing is denied.
    pub(super) fn allows_all(&self) -> bool {
        self.is_allowed && self.exceptions.is_empty()
    }

    fn apply(&mut self, rule: &LinuxDeviceCgroup) -> Result<(), CgroupError> {
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => {
                // "a" is every device in every way, whatever else is written.
                self.is_allowed = rule.allow();
                self.exceptions.clear();
                return Ok(());
            }
            Some(LinuxDeviceType::B) => Kind::Block,
            Some(LinuxDeviceType::C) => Kind::Char,
            Some(LinuxDeviceType::U | LinuxDeviceType::P) => {
                return Err(refused(rule, "a rule is for block or character devices"));
            }
        };
        let devices = Devices {
            kind,
            major: number(rule, rule.major())?,
            minor: number(rule, rule.minor())?,
        };
        let access = access(rule)?;
        if rule.allow() != self.is_allowed {
            self.add(devices, access);
            return Ok(());
        }
        if self.is_in_a_wider_exception(devices, access) {
            return Err(refused(
                rule,
                "it takes a part out of a wider rule before it, which cgroups cannot do",
            ));
        }
        self.subtract(devices, access);
        Ok(())
    }

    fn add(&mut self, devices: Devices, access: u8) {
        match self
            .exceptions
            .iter_mut()
            .find(|(other, _)| *other == devices)
        {
            Some((_, had)) => *had |= access,
            None => self.exceptions.push((devices, access)),
        }
    }

    fn subtract(&mut self, devices: Devices, access: u8) {
        for (other, had) in &mut self.exceptions {
            if *other == devices {
                *had &= !access;
            }
        }
        self.exceptions.retain(|(_, access)| *access != 0);
    }

    fn is_in_a_wider_exception(&self, devices: Devices, access: u8) -> bool {
        self.exceptions.iter().any(|(other, had)| {
            *other != devices
                && other.kind == devices.kind
                && (other.major.is_none() || other.major == devices.major)
                && (other.minor.is_none() || other.minor == devices.minor)
                && had & access != 0
        })
    }
}

/// What `linux.resources.devices` comes to: what alone is allowed, as lines of `devices.allow`; `None`
/// where all is, with or without exceptions.
pub fn rules(resources: &LinuxResources) -> Result<Option<Vec<String>>, CgroupError> {
    let policy = Policy::of(resources)?;
    let lines = policy.exceptions.iter();
    let lines = lines.map(|(devices, access)| set::line(*devices, *access));
    Ok((!policy.is_allowed).then(|| lines.collect()))
}

fn number(rule: &LinuxDeviceCgroup, number: Option<i64>) -> Result<Option<u32>, CgroupError> {
    match number {
        None | Some(-1) => Ok(None),
        Some(number) => match u32::try_from(number) {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(refused(
                rule,
                "a device number is 0 to 4294967295, or -1 for all",
            )),
        },
    }
}

fn access(rule: &LinuxDeviceCgroup) -> Result<u8, CgroupError> {
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or_default().chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(refused(rule, "access is letters of \"rwm\"")),
        };
    }
    if access == 0 {
        return Err(refused(rule, "access must not be empty"));
    }
    Ok(access)
}

fn refused(rule: &LinuxDeviceCgroup, why: &'static str) -> CgroupError {
    let verb = if rule.allow() { "allow" } else { "deny" };
    CgroupError::Value {
        field: "linux.resources.devices",
        value: format!("{verb} {rule}"),
        why,
    }
}

#[cfg(test)]
mod tests;
