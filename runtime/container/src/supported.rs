//! What the engine does not do yet is refused by name: a plan is done whole or not at all.

use runvm_oci::{NamespaceKind, Plan, Process};

use crate::namespaces::{self, Arrangement, Source, source};
use crate::security;

/// A part of the plan that the engine does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// A profile or label for a security module that the host does not run.
    #[error("{field} needs {module}, which is not enabled on this host")]
    SecurityModule {
        /// The field of config.json.
        field: String,
        /// The security module.
        module: &'static str,
    },
    /// A sysctl of a namespace that is joined and is the caller's own.
    #[error("linux.sysctl.{name} would change the host: the {} namespace to join is the runtime's own", kind.word())]
    OwnNamespace {
        /// The sysctl.
        name: String,
        /// Which namespace.
        kind: NamespaceKind,
    },
    /// A field that changes mounts, where the host's own mounts would be meant.
    #[error("{0} needs a mount namespace in linux.namespaces")]
    NeedsMountNamespace(&'static str),
}

/// Refuses a container that could only be made in part.
pub(crate) fn check(plan: &Plan) -> Result<(), Unsupported> {
    check_process(&plan.process, "process.")?;
    if plan.mount_label.is_some() && !security::selinux_is_enabled() {
        return Err(absent("linux.mountLabel", "SELinux"));
    }
    check_mount_namespace(plan)
}

/// Refuses sysctls that only seem to be the container's own. To be asked by the caller, whose own
/// namespaces are meant.
pub(crate) fn check_sysctl(plan: &Plan, arrangement: &Arrangement) -> Result<(), Unsupported> {
    for joined in &arrangement.joined {
        let mut names = plan.sysctl.keys();
        let of_kind = |name: &&String| runvm_oci::sysctl_namespace(name) == Some(joined.kind);
        if let Some(name) = names.find(of_kind)
            && namespaces::is_own(joined)
        {
            return Err(Unsupported::OwnNamespace {
                name: name.clone(),
                kind: joined.kind,
            });
        }
    }
    Ok(())
}

/// The same for a further process.
pub(crate) fn check_exec(process: &Process) -> Result<(), Unsupported> {
    check_process(process, "")
}

fn check_process(process: &Process, prefix: &str) -> Result<(), Unsupported> {
    if process.apparmor_profile.is_some() && !security::apparmor_is_enabled() {
        return Err(absent(&format!("{prefix}apparmorProfile"), "AppArmor"));
    }
    if process.selinux_label.is_some() && !security::selinux_is_enabled() {
        return Err(absent(&format!("{prefix}selinuxLabel"), "SELinux"));
    }
    Ok(())
}

fn absent(field: &str, module: &'static str) -> Unsupported {
    Unsupported::SecurityModule {
        field: field.to_owned(),
        module,
    }
}

/// Without a mount namespace nothing is mounted, bound or made: it would be on the host.
fn check_mount_namespace(plan: &Plan) -> Result<(), Unsupported> {
    if source(plan, NamespaceKind::Mount) != Source::Runtime {
        return Ok(());
    }
    let refused = [
        (!plan.mounts.is_empty(), "mounts"),
        (!plan.devices.is_empty(), "linux.devices"),
        (!plan.masked_paths.is_empty(), "linux.maskedPaths"),
        (!plan.readonly_paths.is_empty(), "linux.readonlyPaths"),
        (plan.root.readonly, "root.readonly"),
        (plan.rootfs_propagation.is_some(), "linux.rootfsPropagation"),
        (plan.process.terminal, "process.terminal"),
    ];
    match refused.iter().find(|(present, _)| *present) {
        Some((_, field)) => Err(Unsupported::NeedsMountNamespace(field)),
        None => Ok(()),
    }
}
