//! Capabilities by name, as config.json has them, and by number, as the kernel does.

use crate::{Capabilities, document};

/// The capabilities' names; a name's index is its number (capabilities(7), linux/capability.h).
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

impl Capabilities {
    /// The number of the capability named `CAP_...`.
    pub fn number(name: &str) -> Option<u32> {
        let at = NAMES.iter().position(|known| *known == name)?;
        u32::try_from(at).ok()
    }
}

/// The five sets as masks. A name that is not known is a warning, as the specification asks:
/// it may be one of a newer kernel, and leaving it out only takes away.
pub(crate) fn checked(sets: &document::Capabilities, warnings: &mut Vec<String>) -> Capabilities {
    let mut mask = |set: &str, names: &Option<Vec<String>>| {
        let mut mask = 0;
        for (i, name) in names.iter().flatten().enumerate() {
            match Capabilities::number(name) {
                Some(number) => mask |= 1 << number,
                None => warnings.push(format!(
                    "process.capabilities.{set}[{i}]: {} is not a known capability and is left out",
                    crate::check::quote(name)
                )),
            }
        }
        mask
    };
    Capabilities {
        bounding: mask("bounding", &sets.bounding),
        effective: mask("effective", &sets.effective),
        inheritable: mask("inheritable", &sets.inheritable),
        permitted: mask("permitted", &sets.permitted),
        ambient: mask("ambient", &sets.ambient),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_kernels_number() {
        for (name, number) in [
            ("CAP_CHOWN", Some(0)),
            ("CAP_SYS_ADMIN", Some(21)),
            ("CAP_AUDIT_WRITE", Some(29)),
            ("CAP_CHECKPOINT_RESTORE", Some(40)),
            ("CHOWN", None),
            ("CAP_NOT_A_CAP", None),
            ("", None),
        ] {
            assert_eq!(Capabilities::number(name), number, "{name}");
        }
    }
}
