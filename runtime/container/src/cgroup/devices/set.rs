//! A device policy given to the kernel.

use std::io;

use runvm_sys::bpf::DeviceProgram;
use rustix::io::Errno;

use super::{Devices, Kind, MKNOD, Policy, READ, WRITE, program};
use crate::cgroup::CgroupError;
use crate::cgroup::place::Place;
use crate::cgroup::settings::is_errno;

/// Whether a cgroup is new, or has a policy that processes already live under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cgroup) enum Before {
    Nothing,
    APolicy,
}

/// Writes the policy to a v1 devices cgroup.
pub(in crate::cgroup) fn set_v1(
    place: &Place,
    policy: &Policy,
    before: Before,
) -> Result<(), CgroupError> {
    let file = |is_allowed| {
        if is_allowed {
            "devices.allow"
        } else {
            "devices.deny"
        }
    };
    let write = |file: &str, line: String| match place.write(file, &line) {
        Ok(()) => Ok(()),
        Err(source) => Err(failed(place, file, line, source)),
    };
    let had = match before {
        Before::APolicy if !policy.is_allowed => exceptions_of(place),
        _ => None,
    };
    // Writing the default forgets what was before, so that for a moment nothing is allowed:
    // a policy that is only changed is changed line by line.
    let Some(had) = had else {
        match write(file(policy.is_allowed), "a".into()) {
            // A user may not; the rules of those outside hold, as with runc.
            Err(CgroupError::Set { source, .. })
                if is_errno(&source, Errno::PERM) && is_a_users() =>
            {
                return Ok(());
            }
            result => result?,
        }
        for (devices, access) in &policy.exceptions {
            write(file(!policy.is_allowed), line(*devices, *access))?;
        }
        return Ok(());
    };
    for (devices, access) in missing(&had, &policy.exceptions) {
        write("devices.deny", line(devices, access))?;
    }
    for (devices, access) in missing(&policy.exceptions, &had) {
        write("devices.allow", line(devices, access))?;
    }
    Ok(())
}

/// What `of` has that `from` has not.
fn missing(of: &[(Devices, u8)], from: &[(Devices, u8)]) -> Vec<(Devices, u8)> {
    let left = of.iter().map(|(devices, access)| {
        let there = from.iter().find(|(other, _)| other == devices);
        (*devices, access & !there.map_or(0, |(_, access)| *access))
    });
    left.filter(|(_, access)| *access != 0).collect()
}

/// The exceptions in force; `None` if all is allowed, as then the kernel does not tell them.
fn exceptions_of(place: &Place) -> Option<Vec<(Devices, u8)>> {
    let list = place.read("devices.list").ok()?;
    list.lines().map(parse_line).collect()
}

/// The opposite of [`line`].
fn parse_line(line: &str) -> Option<(Devices, u8)> {
    let mut words = line.split([' ', ':']);
    let kind = match words.next()? {
        "b" => Kind::Block,
        "c" => Kind::Char,
        _ => return None,
    };
    let mut number = || match words.next()? {
        "*" => Some(None),
        number => number.parse().ok().map(Some),
    };
    let (major, minor) = (number()?, number()?);
    let letters = words.next()?;
    let bit = |letter, bit| if letters.contains(letter) { bit } else { 0 };
    let access = bit('r', READ) | bit('w', WRITE) | bit('m', MKNOD);
    Some((Devices { kind, major, minor }, access))
}

fn failed(place: &Place, file: &str, value: String, source: io::Error) -> CgroupError {
    CgroupError::Set {
        field: "linux.resources.devices",
        value,
        file: file.to_owned(),
        path: place.full_path(),
        source,
    }
}

/// As devices.allow and devices.deny read it: `c 1:3 rwm`.
pub(super) fn line(devices: Devices, access: u8) -> String {
    let kind = match devices.kind {
        Kind::Block => 'b',
        Kind::Char => 'c',
    };
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
    let mut line = format!(
        "{kind} {}:{} ",
        number(devices.major),
        number(devices.minor)
    );
    for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
        if access & bit != 0 {
            line.push(letter);
        }
    }
    line
}

/// Attaches the policy to a v2 cgroup, in place of one that it had. Meanwhile both hold.
pub(in crate::cgroup) fn set_v2(
    place: &Place,
    policy: &Policy,
    before: Before,
) -> Result<(), CgroupError> {
    let failed = |step| {
        move |source| CgroupError::DeviceProgram {
            step,
            path: place.full_path(),
            source,
        }
    };
    let cgroup = place.directory().map_err(failed("opening it"))?;
    let before = match before {
        Before::Nothing => Vec::new(),
        Before::APolicy => {
            DeviceProgram::attached_to(cgroup).map_err(failed("listing device programs"))?
        }
    };
    if !policy.allows_all() {
        let attached = DeviceProgram::load(&program::of(policy))
            .map_err(failed("loading a device program"))
            .and_then(|program| {
                program
                    .attach(cgroup)
                    .map_err(failed("attaching a device program"))
            });
        match attached {
            Err(CgroupError::DeviceProgram { source, .. })
                if is_errno(&source, Errno::PERM) && is_a_users() =>
            {
                return Ok(());
            }
            attached => attached?,
        }
    }
    for program in before {
        program
            .detach(cgroup)
            .map_err(failed("detaching a device program"))?;
    }
    Ok(())
}

/// Whether the runtime is not the host's root, who alone makes rules for devices. What a user's
/// container can reach, the user can.
fn is_a_users() -> bool {
    !rustix::process::geteuid().is_root() || runvm_sys::user_namespace::is_inside()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_reads_as_it_was_written() {
        for text in ["c 1:3 rwm", "b *:* m", "c 136:* rw", "b 8:0 r"] {
            let (devices, access) = parse_line(text).unwrap();
            assert_eq!(line(devices, access), text);
        }
        assert_eq!(parse_line("a *:* rwm"), None);
    }
}
