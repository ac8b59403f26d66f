//! `linux.sysctl`: only such as are the container's own. Anything else would change the host.

use std::collections::BTreeMap;

use crate::namespace::Namespaces;
use crate::{ConfigError, NamespaceKind, check};

/// The sysctls of an IPC namespace (ipc_namespaces(7)), besides `fs.mqueue.*`.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Checks the sysctls, and turns their names into the dotted form, where a `/` stands for a dot
/// inside a component (sysctl.d(5)).
pub(crate) fn checked(
    sysctls: BTreeMap<String, String>,
    namespaces: &Namespaces,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut checked = BTreeMap::new();
    for (name, value) in sysctls {
        let dotted = dotted(&name);
        if !is_well_formed(&dotted) {
            return check::refuse(
                format_args!("linux.sysctl"),
                &name,
                "names such as \"net.ipv4.ip_forward\"",
            );
        }
        is_namespaced(&name, &dotted, namespaces)?;
        check::no_nul(format_args!("linux.sysctl.{name}"), &value)?;
        if checked.insert(dotted, value).is_some() {
            return Err(ConfigError::Duplicate {
                field: "linux.sysctl".into(),
                value: check::quote(&name),
            });
        }
    }
    Ok(checked)
}

/// The file of a sysctl below /proc/sys, from its name in [`crate::Plan::sysctl`].
pub fn file(dotted: &str) -> String {
    swap_separators(dotted)
}

/// Whichever separator comes first is the separator.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => swap_separators(name),
        _ => name.to_owned(),
    }
}

fn swap_separators(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect()
}

/// Whether the name leads to a file below /proc/sys, and nowhere else.
fn is_well_formed(dotted: &str) -> bool {
    // "/" and "//" are "." and ".." in a path.
    let is_name = |component: &str| !matches!(component, "" | "/" | "//");
    !dotted.contains('\0') && dotted.contains('.') && dotted.split('.').all(is_name)
}

/// The kind of namespace that has the sysctl `dotted` for itself, if any has.
pub fn namespace(dotted: &str) -> Option<NamespaceKind> {
    if IPC.contains(&dotted) || dotted.starts_with("fs.mqueue.") {
        return Some(NamespaceKind::Ipc);
    }
    if dotted.starts_with("net.") {
        return Some(NamespaceKind::Network);
    }
    matches!(dotted, "kernel.domainname" | "kernel.hostname").then_some(NamespaceKind::Uts)
}

fn is_namespaced(name: &str, dotted: &str, namespaces: &Namespaces) -> Result<(), ConfigError> {
    if dotted == "kernel.hostname" {
        return check::refuse(
            format_args!("linux.sysctl"),
            name,
            "the host name in the field hostname",
        );
    }
    let Some(kind) = namespace(dotted) else {
        return check::refuse(
            format_args!("linux.sysctl"),
            name,
            "a sysctl that a namespace of the container has for itself",
        );
    };
    if namespaces.contains(kind) {
        return Ok(());
    }
    Err(ConfigError::Needs {
        field: format!("linux.sysctl.{name}"),
        needs: match kind {
            NamespaceKind::Ipc => "an ipc namespace in linux.namespaces",
            NamespaceKind::Network => "a network namespace in linux.namespaces",
            _ => "a uts namespace in linux.namespaces",
        },
    })
}
