//! How large a bundle's microVM is, and what of its limits is whose to enforce.

use runvm_oci::{LinuxResources, Plan};

use crate::Settings;

/// What the guest's kernel and the agent take of the machine's memory, in MiB: added to a container's
/// limit, so that the container can use all of that. In a machine of 256 MiB, 39 are gone when
/// the first program runs (MemAvailable).
pub const GUEST_OVERHEAD_MIB: u32 = 48;

/// One page in so many holds the kernel's descriptions of pages (64 bytes for each of 4096).
const PAGES_A_DESCRIPTION_PAGE: u32 = 64;

/// What the VMM takes beside the guest's memory, in MiB: added to the limit of the host's cgroup. QEMU's
/// translation cache is the most of it.
pub const HOST_OVERHEAD_MIB: u32 = 192;

/// The most CPUs the guest's kernel is built for.
const VCPUS_MAX: u64 = 64;

/// A size that no machine can have.
#[derive(Debug, thiserror::Error)]
#[error("cannot give a microVM the memory of {field} ({bytes} bytes)")]
pub(super) struct SizeError {
    field: &'static str,
    bytes: u64,
}

/// The memory of the microVM for `plan`: its limit, or else what its `vm` section or the
/// settings say.
pub(super) fn memory_mib(plan: &Plan, settings: &Settings) -> Result<u32, SizeError> {
    let checked = |field, bytes: u64, overhead: fn(u32) -> u32| {
        u32::try_from(bytes.div_ceil(1 << 20))
            .ok()
            // 16 TiB: no host has it, and what is computed from it stays far from overflow.
            .filter(|&mib| mib < 1 << 24)
            .map(|mib| mib + overhead(mib))
            .ok_or(SizeError { field, bytes })
    };
    if let Some(limit) = memory_limit(&plan.resources) {
        return checked("linux.resources.memory.limit", limit, |mib| {
            GUEST_OVERHEAD_MIB + mib / PAGES_A_DESCRIPTION_PAGE
        });
    }
    match plan.vm.as_ref().and_then(|vm| vm.memory_bytes) {
        Some(bytes) => checked("vm.hwConfig.memory", bytes, |_| 0),
        None => Ok(settings.memory_mib),
    }
}

/// The memory limit, where there is one: none and -1 are none.
fn memory_limit(resources: &LinuxResources) -> Option<u64> {
    let limit = resources.memory().as_ref()?.limit()?;
    u64::try_from(limit).ok().filter(|&limit| limit > 0)
}

/// How much of its memory a machine made for the limit of `made` is to do without under that of `now`, in
/// MiB. None where either says nothing: then the machine's memory has nothing to do with a limit.
pub(super) fn balloon_mib(made: &LinuxResources, now: &LinuxResources) -> Option<u32> {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let spare = mib(memory_limit(made)?).saturating_sub(mib(memory_limit(now)?));
    Some(u32::try_from(spare).unwrap_or(u32::MAX))
}

/// The CPUs of the microVM for `plan`: as many as its quota can keep busy, or else what its `vm`
/// section says, or one.
pub(super) fn vcpus(plan: &Plan) -> u8 {
    let cpu = plan.resources.cpu().as_ref();
    let quota = cpu
        .and_then(|cpu| cpu.quota())
        .and_then(|quota| u64::try_from(quota).ok());
    let period = cpu
        .and_then(|cpu| cpu.period())
        .filter(|&period| period > 0);
    let wanted = match quota.filter(|&quota| quota > 0) {
        // The kernel's default period is 100 ms.
        Some(quota) => quota.div_ceil(period.unwrap_or(100_000)),
        None => plan
            .vm
            .as_ref()
            .and_then(|vm| vm.vcpus)
            .map_or(1, u64::from),
    };
    let host = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    u8::try_from(wanted.clamp(1, VCPUS_MAX.min(host))).unwrap_or(1)
}

/// The limits of the host's cgroup, which holds the VMM: the machine's memory and the VMM's own in
/// place of the container's limit, and no limit of processes and no device rules, which are the
/// guest's.
pub(super) fn host_resources(plan: &Plan, settings: &Settings) -> LinuxResources {
    let mut resources = plan.resources.clone();
    resources.set_pids(None);
    resources.set_devices(None);
    resources.set_hugepage_limits(None);
    let Some(mut memory) = resources.memory().as_ref().copied() else {
        return resources;
    };
    let limit = memory_limit(&resources).and_then(|_| {
        let mib = memory_mib(plan, settings)
            .ok()?
            .checked_add(HOST_OVERHEAD_MIB)?;
        Some(i64::from(mib) << 20)
    });
    memory.set_limit(limit);
    // Memory and swap together count the former in.
    memory.set_swap(
        memory
            .swap()
            .zip(limit)
            .map(|(swap, limit)| if swap > 0 { swap.max(limit) } else { swap }),
    );
    memory.set_reservation(None);
    resources.set_memory(Some(memory));
    resources
}

/// The limits of the guest's cgroup, which holds the container's processes: what counts in
/// processes, pages and devices. CPU time and I/O are limited by the host's, around the whole VM.
pub(super) fn guest_resources(all: &LinuxResources) -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources.set_memory(*all.memory());
    resources.set_pids(*all.pids());
    resources.set_devices(all.devices().clone());
    resources
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use runvm_oci::Plan;
    use serde_json::{Value, json};

    use super::{
        GUEST_OVERHEAD_MIB, HOST_OVERHEAD_MIB, balloon_mib, guest_resources, host_resources,
        memory_mib, vcpus,
    };
    use crate::Settings;

    fn plan(resources: &Value, vm: Option<&Value>) -> Plan {
        let mut config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "linux": {"namespaces": [{"type": "mount"}], "resources": resources},
        });
        if let Some(vm) = vm {
            config["vm"] = vm.clone();
        }
        Plan::parse(config.to_string().as_bytes(), Path::new("/bundle")).unwrap()
    }

    fn memory(resources: &Value, vm: Option<&Value>) -> Result<u32, String> {
        let settings = Settings {
            memory_mib: 300,
            ..Settings::default()
        };
        memory_mib(&plan(resources, vm), &settings).map_err(|error| error.to_string())
    }

    #[test]
    fn memory_is_the_limit_and_the_guests_own_or_the_sections_or_the_default() {
        let vm = json!({"kernel": {"path": "/k"}, "hwConfig": {"memory": 128 << 20, "vcpus": 3}});
        let limit = json!({"memory": {"limit": (64 << 20) + 1}});
        assert_eq!(memory(&limit, Some(&vm)), Ok(65 + GUEST_OVERHEAD_MIB + 1));
        assert_eq!(
            memory(&json!({"memory": {"limit": -1}}), Some(&vm)),
            Ok(128)
        );
        assert_eq!(memory(&json!({}), None), Ok(300));
        let error = memory(&json!({"memory": {"limit": i64::MAX}}), None).unwrap_err();
        assert!(error.contains("linux.resources.memory.limit"), "{error}");
    }

    #[test]
    fn the_balloon_takes_what_is_between_the_limits() {
        let of = |made: Value, now: Value| {
            let resources = |value: Value| plan(&value, None).resources;
            balloon_mib(&resources(made), &resources(now))
        };
        let limit = |mib: i64| json!({"memory": {"limit": mib << 20}});
        assert_eq!(of(limit(256), limit(64)), Some(192));
        assert_eq!(of(limit(256), limit(256)), Some(0));
        assert_eq!(of(limit(64), limit(256)), Some(0));
        assert_eq!(of(limit(64), json!({"pids": {"limit": 5}})), None);
        assert_eq!(of(json!({}), limit(64)), None);
    }

    #[test]
    fn cpus_are_as_many_as_the_quota_keeps_busy() {
        let quota = |quota: i64| plan(&json!({"cpu": {"quota": quota, "period": 100_000}}), None);
        assert_eq!(vcpus(&quota(50_000)), 1);
        assert_eq!(vcpus(&quota(-1)), 1);
        let host = std::thread::available_parallelism().unwrap().get();
        assert_eq!(usize::from(vcpus(&quota(150_000))), 2.min(host));
        assert_eq!(usize::from(vcpus(&quota(i64::MAX))), 64.min(host));
    }

    #[test]
    fn each_side_enforces_what_it_can_see() {
        let resources = json!({
            "memory": {"limit": 64 << 20, "swap": 64 << 20, "reservation": 1 << 20},
            "cpu": {"shares": 512}, "pids": {"limit": 5},
            "devices": [{"allow": false, "access": "rwm"}],
        });
        let plan = plan(&resources, None);
        let host = json!(host_resources(&plan, &Settings::default()));
        let limit = i64::from(64 + GUEST_OVERHEAD_MIB + 1 + HOST_OVERHEAD_MIB) << 20;
        assert_eq!(
            host,
            json!({"memory": {"limit": limit, "swap": limit}, "cpu": {"shares": 512}})
        );
        let guest = json!(guest_resources(&plan.resources));
        assert!(guest.get("cpu").is_none());
        assert_eq!(guest["pids"], json!({"limit": 5}));
        assert_eq!(guest["memory"]["limit"], 64 << 20);
        assert_eq!(guest["devices"][0]["allow"], false);
    }
}
