//! How large a bundle's microVM is, and what of its limits is whose to enforce.

use runvm_oci::{LinuxResources, Plan};

use crate::Settings;

/// What the guest's kernel, its page tables and the agent take of the machine's memory, in MiB: added
/// to a container's limit, so that the container can use all of that.
pub const GUEST_OVERHEAD_MIB: u32 = 48;

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
    let mib = |field, bytes: u64, overhead: u32| {
        u32::try_from(bytes.div_ceil(1 << 20))
            .ok()
            .and_then(|mib| mib.checked_add(overhead))
            // Twice as much again must fit: GPAs are computed in 64 bits, hosts have less.
            .filter(|&mib| mib < 1 << 24)
            .ok_or(SizeError { field, bytes })
    };
    if let Some(limit) = memory_limit(&plan.resources) {
        return mib("linux.resources.memory.limit", limit, GUEST_OVERHEAD_MIB);
    }
    match plan.vm.as_ref().and_then(|vm| vm.memory_bytes) {
        Some(bytes) => mib("vm.hwConfig.memory", bytes, 0),
        None => Ok(settings.memory_mib),
    }
}

/// The memory limit, where there is one: none and -1 are none.
fn memory_limit(resources: &LinuxResources) -> Option<u64> {
    let limit = resources.memory().as_ref()?.limit()?;
    u64::try_from(limit).ok().filter(|&limit| limit > 0)
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
pub fn host_resources(plan: &Plan, settings: &Settings) -> LinuxResources {
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
pub(super) fn guest_resources(plan: &Plan) -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources.set_memory(*plan.resources.memory());
    resources.set_pids(*plan.resources.pids());
    resources.set_devices(plan.resources.devices().clone());
    resources
}
