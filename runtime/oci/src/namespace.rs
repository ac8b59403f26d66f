//! `linux.namespaces`, and what only has a meaning inside one of them.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxNetDevice, LinuxTimeOffset};

use crate::{ConfigError, IdMapping, Namespace, NamespaceKind, check, document};

/// The namespaces a container has of its own, each kind at most once.
pub(crate) struct Namespaces(pub(crate) Vec<Namespace>);

impl NamespaceKind {
    /// The kinds by their names in config.json.
    pub const NAMES: [(&'static str, Self); 8] = [
        ("cgroup", Self::Cgroup),
        ("ipc", Self::Ipc),
        ("mount", Self::Mount),
        ("network", Self::Network),
        ("pid", Self::Pid),
        ("time", Self::Time),
        ("user", Self::User),
        ("uts", Self::Uts),
    ];

    /// Its name in config.json.
    pub fn word(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(_, kind)| *kind == self);
        found.map_or("", |(name, _)| name)
    }
}

impl Namespaces {
    pub(crate) fn checked(namespaces: Vec<document::Namespace>) -> Result<Self, ConfigError> {
        let mut checked: Vec<Namespace> = Vec::with_capacity(namespaces.len());
        for (i, namespace) in namespaces.into_iter().enumerate() {
            let name = namespace.r#type;
            let known = NamespaceKind::NAMES
                .iter()
                .find(|(known, _)| *known == name);
            let Some((_, kind)) = known else {
                return check::refuse(
                    format_args!("linux.namespaces[{i}].type"),
                    &name,
                    "cgroup, ipc, mount, network, pid, time, user or uts",
                );
            };
            if checked.iter().any(|other| other.kind == *kind) {
                return Err(ConfigError::Duplicate {
                    field: format!("linux.namespaces[{i}].type"),
                    value: check::quote(&name),
                });
            }
            let path = namespace.path.filter(|path| !path.is_empty());
            checked.push(Namespace {
                kind: *kind,
                path: path
                    .map(|path| check::absolute(format_args!("linux.namespaces[{i}].path"), path))
                    .transpose()?,
            });
        }
        Ok(Self(checked))
    }

    /// Whether the container has its own namespace of this kind, new or joined.
    pub(crate) fn contains(&self, kind: NamespaceKind) -> bool {
        self.0.iter().any(|namespace| namespace.kind == kind)
    }

    /// Whether a new namespace of this kind is made.
    pub(crate) fn makes(&self, kind: NamespaceKind) -> bool {
        self.0
            .iter()
            .any(|namespace| namespace.kind == kind && namespace.path.is_none())
    }
}

/// Checks `linux.uidMappings` and `linux.gidMappings`: they are those of a new user namespace.
pub(crate) fn id_mappings(
    uids: Option<Vec<document::IdMapping>>,
    gids: Option<Vec<document::IdMapping>>,
    namespaces: &Namespaces,
    warnings: &mut Vec<String>,
) -> Result<(Vec<IdMapping>, Vec<IdMapping>), ConfigError> {
    let uids = mappings("linux.uidMappings", uids.unwrap_or_default())?;
    let gids = mappings("linux.gidMappings", gids.unwrap_or_default())?;
    if namespaces.makes(NamespaceKind::User) {
        for (field, mappings) in [("linux.uidMappings", &uids), ("linux.gidMappings", &gids)] {
            if mappings.is_empty() {
                return Err(ConfigError::Missing {
                    field: field.into(),
                    expected: "mappings for the new user namespace",
                });
            }
        }
        return Ok((uids, gids));
    }
    if uids.is_empty() && gids.is_empty() {
        return Ok((uids, gids));
    }
    if !namespaces.contains(NamespaceKind::User) {
        return Err(ConfigError::Needs {
            field: if uids.is_empty() {
                "linux.gidMappings".into()
            } else {
                "linux.uidMappings".into()
            },
            needs: "a user namespace in linux.namespaces",
        });
    }
    warnings.push(
        "linux.uidMappings, linux.gidMappings: left out, since the user namespace that is joined \
         has its own"
            .into(),
    );
    Ok((Vec::new(), Vec::new()))
}

/// Checks a list of id mappings, which the kernel would refuse with a bare EINVAL.
pub(crate) fn mappings(
    field: &str,
    mappings: Vec<document::IdMapping>,
) -> Result<Vec<IdMapping>, ConfigError> {
    // user_namespaces(7): a uid_map takes 340 lines since Linux 4.15.
    const LINES_MAX: usize = 340;
    if mappings.len() > LINES_MAX {
        return check::refuse_number(
            format_args!("{field}"),
            format_args!("{} mappings", mappings.len()),
            format!("at most {LINES_MAX}"),
        );
    }
    let mut checked: Vec<IdMapping> = Vec::with_capacity(mappings.len());
    for (i, mapping) in mappings.into_iter().enumerate() {
        let mapping = IdMapping {
            container_id: mapping.container_id,
            host_id: mapping.host_id,
            size: mapping.size,
        };
        let ends_within = |first: u32| first.checked_add(mapping.size).is_some();
        if mapping.size == 0 || !ends_within(mapping.container_id) || !ends_within(mapping.host_id)
        {
            return check::refuse_number(
                format_args!("{field}[{i}].size"),
                mapping.size,
                "a size from 1 up to where the ids end, 4294967295",
            );
        }
        if checked.iter().any(|other| overlap(other, &mapping)) {
            return check::refuse_number(
                format_args!("{field}[{i}]"),
                format_args!(
                    "{{containerID {}, hostID {}, size {}}}",
                    mapping.container_id, mapping.host_id, mapping.size
                ),
                "ids that no mapping before has",
            );
        }
        checked.push(mapping);
    }
    Ok(checked)
}

fn overlap(a: &IdMapping, b: &IdMapping) -> bool {
    let meet = |a_first: u32, b_first: u32| {
        u64::from(a_first) < u64::from(b_first) + u64::from(b.size)
            && u64::from(b_first) < u64::from(a_first) + u64::from(a.size)
    };
    meet(a.container_id, b.container_id) || meet(a.host_id, b.host_id)
}

/// Checks `linux.timeOffsets`; they can only be set before a new time namespace has members.
pub(crate) fn time_offsets(
    offsets: Option<BTreeMap<String, LinuxTimeOffset>>,
    namespaces: &Namespaces,
) -> Result<BTreeMap<String, LinuxTimeOffset>, ConfigError> {
    let offsets = offsets.unwrap_or_default();
    if !offsets.is_empty() && !namespaces.makes(NamespaceKind::Time) {
        return Err(ConfigError::Needs {
            field: "linux.timeOffsets".into(),
            needs: "a new time namespace in linux.namespaces",
        });
    }
    for (clock, offset) in &offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return check::refuse(
                format_args!("linux.timeOffsets"),
                clock,
                "the clocks monotonic and boottime",
            );
        }
        if let Some(nanosecs) = offset.nanosecs().filter(|ns| *ns >= 1_000_000_000) {
            return check::refuse_number(
                format_args!("linux.timeOffsets.{clock}.nanosecs"),
                nanosecs,
                "less than a second",
            );
        }
    }
    Ok(offsets)
}

/// Checks `linux.netDevices`: links to move into the container's own network namespace.
pub(crate) fn net_devices(
    devices: Option<BTreeMap<String, LinuxNetDevice>>,
    namespaces: &Namespaces,
) -> Result<BTreeMap<String, LinuxNetDevice>, ConfigError> {
    let devices = devices.unwrap_or_default();
    if !devices.is_empty() && !namespaces.contains(NamespaceKind::Network) {
        return Err(ConfigError::Needs {
            field: "linux.netDevices".into(),
            needs: "a network namespace in linux.namespaces",
        });
    }
    let mut seen: Vec<&str> = Vec::with_capacity(devices.len());
    for (host_name, device) in &devices {
        link_name(format_args!("linux.netDevices"), host_name)?;
        let renamed = device.name().as_deref().filter(|name| !name.is_empty());
        if let Some(name) = renamed {
            link_name(format_args!("linux.netDevices.{host_name}.name"), name)?;
        }
        let name = renamed.unwrap_or(host_name);
        if seen.contains(&name) {
            return Err(ConfigError::Duplicate {
                field: format!("linux.netDevices.{host_name}.name"),
                value: check::quote(name),
            });
        }
        seen.push(name);
    }
    Ok(devices)
}

/// The kernel's rule for names of links, dev_valid_name(): one path component below 16 bytes.
fn link_name(field: std::fmt::Arguments<'_>, name: &str) -> Result<(), ConfigError> {
    let valid = !matches!(name, "" | "." | "..")
        && name.len() < 16
        && !name.contains(['/', ':', '\0'])
        && !name.contains(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    if !valid {
        return check::refuse(field, name, "the name of a network interface");
    }
    Ok(())
}
