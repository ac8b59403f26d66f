//! config.json as JSON: the fields and their types, nothing yet decided.
//!
//! Everything is optional here, since "missing" is one of the answers [`crate::read`] gives.
//! oci-spec's types serve where config.json's words are passed on. Where they lose something, we
//! have our own: its capability lists refuse names the specification wants warned about, its
//! scheduler flags spell `SCHED_FLAG_DL_OVERRUN` otherwise, its CPU lists cost a regular
//! expression at each start, and its `vm` knows no `hwConfig`.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxIOPriority, LinuxIntelRdt, LinuxNetDevice, LinuxPersonality, LinuxResources,
    LinuxSchedulerPolicy, LinuxSeccomp, LinuxTimeOffset,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    pub(crate) oci_version: Option<String>,
    pub(crate) root: Option<Root>,
    pub(crate) process: Option<Process>,
    pub(crate) mounts: Option<Vec<Mount>>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) hooks: Option<Hooks>,
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    pub(crate) linux: Option<Linux>,
    pub(crate) vm: Option<Vm>,
}

#[derive(Deserialize)]
pub(crate) struct Root {
    pub(crate) path: Option<String>,
    pub(crate) readonly: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    pub(crate) terminal: Option<bool>,
    pub(crate) console_size: Option<ConsoleSize>,
    pub(crate) user: Option<User>,
    pub(crate) args: Option<Vec<String>>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) cwd: Option<String>,
    pub(crate) capabilities: Option<Capabilities>,
    pub(crate) rlimits: Option<Vec<Rlimit>>,
    pub(crate) no_new_privileges: Option<bool>,
    pub(crate) apparmor_profile: Option<String>,
    pub(crate) selinux_label: Option<String>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) io_priority: Option<LinuxIOPriority>,
    pub(crate) scheduler: Option<Scheduler>,
    #[serde(rename = "execCPUAffinity")]
    pub(crate) exec_cpu_affinity: Option<CpuAffinity>,
}

#[derive(Deserialize)]
pub(crate) struct ConsoleSize {
    #[serde(default)]
    pub(crate) height: u64,
    #[serde(default)]
    pub(crate) width: u64,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    #[serde(default)]
    pub(crate) uid: u32,
    #[serde(default)]
    pub(crate) gid: u32,
    pub(crate) umask: Option<u32>,
    pub(crate) additional_gids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
pub(crate) struct Capabilities {
    pub(crate) bounding: Option<Vec<String>>,
    pub(crate) effective: Option<Vec<String>>,
    pub(crate) inheritable: Option<Vec<String>>,
    pub(crate) permitted: Option<Vec<String>>,
    pub(crate) ambient: Option<Vec<String>>,
}

#[derive(Deserialize)]
pub(crate) struct Rlimit {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

#[derive(Deserialize)]
pub(crate) struct Scheduler {
    pub(crate) policy: LinuxSchedulerPolicy,
    pub(crate) nice: Option<i32>,
    pub(crate) priority: Option<i32>,
    pub(crate) flags: Option<Vec<String>>,
    pub(crate) runtime: Option<u64>,
    pub(crate) deadline: Option<u64>,
    pub(crate) period: Option<u64>,
}

#[derive(Deserialize)]
pub(crate) struct CpuAffinity {
    pub(crate) initial: Option<String>,
    pub(crate) r#final: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mount {
    pub(crate) destination: Option<String>,
    pub(crate) r#type: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) options: Option<Vec<String>>,
    pub(crate) uid_mappings: Option<Vec<IdMapping>>,
    pub(crate) gid_mappings: Option<Vec<IdMapping>>,
}

#[derive(Deserialize)]
pub(crate) struct IdMapping {
    #[serde(rename = "containerID")]
    pub(crate) container_id: u32,
    #[serde(rename = "hostID")]
    pub(crate) host_id: u32,
    pub(crate) size: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hooks {
    pub(crate) prestart: Option<Vec<Hook>>,
    pub(crate) create_runtime: Option<Vec<Hook>>,
    pub(crate) create_container: Option<Vec<Hook>>,
    pub(crate) start_container: Option<Vec<Hook>>,
    pub(crate) poststart: Option<Vec<Hook>>,
    pub(crate) poststop: Option<Vec<Hook>>,
}

#[derive(Deserialize)]
pub(crate) struct Hook {
    pub(crate) path: Option<String>,
    pub(crate) args: Option<Vec<String>>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) timeout: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Linux {
    pub(crate) uid_mappings: Option<Vec<IdMapping>>,
    pub(crate) gid_mappings: Option<Vec<IdMapping>>,
    pub(crate) sysctl: Option<BTreeMap<String, String>>,
    pub(crate) resources: Option<LinuxResources>,
    pub(crate) cgroups_path: Option<String>,
    pub(crate) namespaces: Option<Vec<Namespace>>,
    pub(crate) devices: Option<Vec<Device>>,
    pub(crate) net_devices: Option<BTreeMap<String, LinuxNetDevice>>,
    pub(crate) seccomp: Option<LinuxSeccomp>,
    pub(crate) rootfs_propagation: Option<String>,
    pub(crate) masked_paths: Option<Vec<String>>,
    pub(crate) readonly_paths: Option<Vec<String>>,
    pub(crate) mount_label: Option<String>,
    pub(crate) intel_rdt: Option<LinuxIntelRdt>,
    pub(crate) memory_policy: Option<crate::memory_policy::Document>,
    pub(crate) personality: Option<LinuxPersonality>,
    pub(crate) time_offsets: Option<BTreeMap<String, LinuxTimeOffset>>,
}

#[derive(Deserialize)]
pub(crate) struct Namespace {
    pub(crate) r#type: String,
    pub(crate) path: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    pub(crate) path: Option<String>,
    pub(crate) r#type: String,
    pub(crate) major: Option<i64>,
    pub(crate) minor: Option<i64>,
    pub(crate) file_mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Vm {
    pub(crate) hypervisor: Option<VmHypervisor>,
    pub(crate) kernel: Option<VmKernel>,
    pub(crate) image: Option<VmImage>,
    pub(crate) hw_config: Option<VmHardware>,
}

#[derive(Deserialize)]
pub(crate) struct VmHypervisor {
    pub(crate) path: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct VmKernel {
    pub(crate) path: Option<String>,
    pub(crate) parameters: Option<Vec<String>>,
    pub(crate) initrd: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct VmImage {
    pub(crate) path: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VmHardware {
    pub(crate) vcpus: Option<u32>,
    pub(crate) memory: Option<u64>,
    pub(crate) device_tree: Option<String>,
    pub(crate) dtdevs: Option<Vec<String>>,
    pub(crate) iomems: Option<Vec<serde::de::IgnoredAny>>,
    pub(crate) irqs: Option<Vec<u32>>,
}
