//! What `features` prints (OCI runtime specification, "Features Structure").

use serde_json::{Value, json};

use crate::{CAPABILITY_NAMES, NamespaceKind, known_mount_options, memory_policy};

/// The first and the last version of the specification that is understood.
const OCI_VERSION_MIN: &str = "1.0.0";
const OCI_VERSION_MAX: &str = "1.3.0";

/// The features document of this build, on a host where containers can be checkpointed or not.
pub fn features(can_checkpoint: bool) -> Value {
    json!({
        "ociVersionMin": OCI_VERSION_MIN,
        "ociVersionMax": OCI_VERSION_MAX,
        "hooks": [
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart",
            "poststop",
        ],
        "mountOptions": known_mount_options().collect::<Vec<_>>(),
        "linux": {
            "namespaces": NamespaceKind::NAMES.map(|(name, _)| name),
            "capabilities": CAPABILITY_NAMES.as_slice(),
            "cgroup": {
                "v1": true,
                "v2": true,
                "systemd": true,
                "systemdUser": true,
                "rdma": true,
            },
            "seccomp": seccomp(),
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "memoryPolicy": {
                "modes": memory_policy::MODES.as_slice(),
                "flags": memory_policy::FLAGS.map(|(name, _)| name),
            },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true },
        },
        "annotations": {
            "dev.runvm.version": env!("CARGO_PKG_VERSION"),
            // The name that engines look for.
            "org.opencontainers.runc.checkpoint.enabled": can_checkpoint.to_string(),
        },
        // Who may set these chooses how a container is isolated, what systemd does with its unit, and
        // what CRIU runs as root: so engines must not let everybody do so.
        "potentiallyUnsafeConfigAnnotations":
            ["dev.runvm.", "org.criu.config", "org.systemd.property."],
    })
}

fn seccomp() -> Value {
    let flags = [
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ];
    json!({
        "enabled": true,
        "actions": [
            "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
            "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE",
            "SCMP_ACT_TRAP",
        ],
        "operators": [
            "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
            "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
        ],
        "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
        "knownFlags": flags,
        "supportedFlags": flags,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_does_is_said() {
        let linux = features(true)["linux"].take();
        for pointer in [
            "/cgroup/systemd",
            "/cgroup/systemdUser",
            "/apparmor/enabled",
            "/selinux/enabled",
            "/intelRdt/enabled",
            "/intelRdt/schemata",
            "/intelRdt/monitoring",
            "/mountExtensions/idmap/enabled",
            "/netDevices/enabled",
        ] {
            assert_eq!(linux.pointer(pointer), Some(&json!(true)), "{pointer}");
        }
        assert_eq!(linux["memoryPolicy"]["modes"][2], "MPOL_BIND");
        assert_eq!(linux["memoryPolicy"]["flags"][2], "MPOL_F_STATIC_NODES");
    }

    #[test]
    fn the_document_is_one_that_engines_can_read() {
        let features: oci_spec::runtime::Features =
            serde_json::from_value(features(false)).unwrap();
        assert_eq!(features.oci_version_min(), "1.0.0");
        assert_eq!(
            features
                .linux()
                .as_ref()
                .unwrap()
                .namespaces()
                .as_ref()
                .unwrap()
                .len(),
            8
        );
    }
}
