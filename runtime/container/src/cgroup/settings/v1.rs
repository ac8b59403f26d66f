//! The files of cgroup v1. See Documentation/admin-guide/cgroup-v1 of the kernel.

use runvm_oci::LinuxResources;

use super::{Limit, Otherwise, Setting, limit, pids_max};
use crate::cgroup::CgroupError;

/// What to write for `resources`, in order. Devices are apart, in `devices`.
pub(in crate::cgroup) fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, CgroupError> {
    let mut settings = Vec::new();
    memory(resources, &mut settings)?;
    cpu(resources, &mut settings);
    cpuset(resources, &mut settings);
    pids(resources, &mut settings);
    block_io(resources, &mut settings);
    hugetlb(resources, &mut settings);
    rdma(resources, &mut settings);
    network(resources, &mut settings);
    if let Some(name) = resources.unified().iter().flat_map(|map| map.keys()).next() {
        return Err(CgroupError::Value {
            field: "linux.resources.unified",
            value: format!("{name:?}"),
            why: "this host has cgroup v1, which does not have such files",
        });
    }
    Ok(settings)
}

fn memory(resources: &LinuxResources, settings: &mut Vec<Setting>) -> Result<(), CgroupError> {
    let Some(memory) = resources.memory() else {
        return Ok(());
    };
    let mut add = |field, file: &'static str, value: String, otherwise| {
        settings.push(Setting::new(field, "memory", file, value).or(otherwise));
    };
    let bytes = limit("linux.resources.memory.limit", memory.limit())?;
    let swap = limit("linux.resources.memory.swap", memory.swap())?;
    if let Some(bytes) = bytes {
        add(
            "linux.resources.memory.limit",
            "memory.limit_in_bytes",
            bytes.v1(),
            Otherwise::Fail,
        );
    }
    match (swap, bytes) {
        (Some(swap), _) => add(
            "linux.resources.memory.swap",
            "memory.memsw.limit_in_bytes",
            swap.v1(),
            Otherwise::Fail,
        ),
        // No limit for memory is none for memory and swap together, where swap is counted.
        (None, Some(Limit::Unlimited)) => add(
            "linux.resources.memory.limit",
            "memory.memsw.limit_in_bytes",
            "-1".into(),
            Otherwise::Skip,
        ),
        (None, _) => {}
    }
    for (field, file, value) in [
        (
            "linux.resources.memory.reservation",
            "memory.soft_limit_in_bytes",
            memory.reservation(),
        ),
        (
            "linux.resources.memory.kernelTCP",
            "memory.kmem.tcp.limit_in_bytes",
            memory.kernel_tcp(),
        ),
    ] {
        if let Some(value) = limit(field, value)? {
            add(field, file, value.v1(), Otherwise::Fail);
        }
    }
    if memory.disable_oom_killer() == Some(true) {
        add(
            "linux.resources.memory.disableOOMKiller",
            "memory.oom_control",
            "1".into(),
            Otherwise::Fail,
        );
    }
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            return Err(CgroupError::Value {
                field: "linux.resources.memory.swappiness",
                value: swappiness.to_string(),
                why: "it is 0 to 100",
            });
        }
        add(
            "linux.resources.memory.swappiness",
            "memory.swappiness",
            swappiness.to_string(),
            Otherwise::Fail,
        );
    }
    Ok(())
}

fn cpu(resources: &LinuxResources, settings: &mut Vec<Setting>) {
    let Some(cpu) = resources.cpu() else { return };
    let mut add = |field, file: &'static str, value: Option<String>| {
        if let Some(value) = value {
            settings.push(Setting::new(field, "cpu", file, value));
        }
    };
    let unsigned = |value: Option<u64>| value.filter(|value| *value != 0).map(|v| v.to_string());
    let signed = |value: Option<i64>| value.filter(|value| *value != 0).map(|v| v.to_string());
    add(
        "linux.resources.cpu.shares",
        "cpu.shares",
        unsigned(cpu.shares()),
    );
    add(
        "linux.resources.cpu.period",
        "cpu.cfs_period_us",
        unsigned(cpu.period()),
    );
    add(
        "linux.resources.cpu.burst",
        "cpu.cfs_burst_us",
        cpu.burst().map(|burst| burst.to_string()),
    );
    // Negative is none.
    add(
        "linux.resources.cpu.quota",
        "cpu.cfs_quota_us",
        signed(cpu.quota().map(|quota| quota.max(-1))),
    );
    add(
        "linux.resources.cpu.idle",
        "cpu.idle",
        cpu.idle().map(|idle| idle.to_string()),
    );
    add(
        "linux.resources.cpu.realtimePeriod",
        "cpu.rt_period_us",
        unsigned(cpu.realtime_period()),
    );
    add(
        "linux.resources.cpu.realtimeRuntime",
        "cpu.rt_runtime_us",
        signed(cpu.realtime_runtime()),
    );
}

fn cpuset(resources: &LinuxResources, settings: &mut Vec<Setting>) {
    let Some(cpu) = resources.cpu() else { return };
    for (field, file, list) in [
        ("linux.resources.cpu.cpus", "cpuset.cpus", cpu.cpus()),
        ("linux.resources.cpu.mems", "cpuset.mems", cpu.mems()),
    ] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            settings.push(Setting::new(field, "cpuset", file, list));
        }
    }
}

fn pids(resources: &LinuxResources, settings: &mut Vec<Setting>) {
    if let Some(max) = resources.pids().and_then(|pids| pids_max(pids.limit())) {
        let field = "linux.resources.pids.limit";
        settings.push(Setting::new(field, "pids", "pids.max", max));
    }
}

fn block_io(resources: &LinuxResources, settings: &mut Vec<Setting>) {
    let Some(block_io) = resources.block_io() else {
        return;
    };
    let mut add = |field, file: &'static str, other: Option<&'static str>, value: String| {
        let setting = Setting::new(field, "blkio", file, &value);
        settings.push(match other {
            Some(other) => setting.or(Otherwise::Write(other, value)),
            None => setting,
        });
    };
    let given = |weight: Option<u16>| weight.filter(|weight| *weight != 0);
    // Which file there is depends on the I/O scheduler.
    if let Some(weight) = given(block_io.weight()) {
        add(
            "linux.resources.blockIO.weight",
            "blkio.bfq.weight",
            Some("blkio.weight"),
            weight.to_string(),
        );
    }
    if let Some(weight) = given(block_io.leaf_weight()) {
        add(
            "linux.resources.blockIO.leafWeight",
            "blkio.leaf_weight",
            None,
            weight.to_string(),
        );
    }
    for device in block_io.weight_device().iter().flatten() {
        let number = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = given(device.weight()) {
            add(
                "linux.resources.blockIO.weightDevice",
                "blkio.bfq.weight_device",
                Some("blkio.weight_device"),
                format!("{number} {weight}"),
            );
        }
        if let Some(weight) = given(device.leaf_weight()) {
            add(
                "linux.resources.blockIO.weightDevice",
                "blkio.leaf_weight_device",
                None,
                format!("{number} {weight}"),
            );
        }
    }
    for (field, file, devices) in [
        (
            "linux.resources.blockIO.throttleReadBpsDevice",
            "blkio.throttle.read_bps_device",
            block_io.throttle_read_bps_device(),
        ),
        (
            "linux.resources.blockIO.throttleWriteBpsDevice",
            "blkio.throttle.write_bps_device",
            block_io.throttle_write_bps_device(),
        ),
        (
            "linux.resources.blockIO.throttleReadIOPSDevice",
            "blkio.throttle.read_iops_device",
            block_io.throttle_read_iops_device(),
        ),
        (
            "linux.resources.blockIO.throttleWriteIOPSDevice",
            "blkio.throttle.write_iops_device",
            block_io.throttle_write_iops_device(),
        ),
    ] {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            add(field, file, None, value);
        }
    }
}

fn hugetlb(resources: &LinuxResources, settings: &mut Vec<Setting>) {
    let field = "linux.resources.hugepageLimits";
    for limit in resources.hugepage_limits().iter().flatten() {
        let (size, bytes) = (limit.page_size(), limit.limit());
        let file = format!("hugetlb.{size}.limit_in_bytes");
        settings.push(Setting::new(field, "hugetlb", file, bytes));
        // What is reserved counts as used, where the kernel can tell (Linux 5.7).
        let file = format!("hugetlb.{size}.rsvd.limit_in_bytes");
        settings.push(Setting::new(field, "hugetlb", file, bytes).or(Otherwise::Skip));
    }
}

/// Alike in v1 and v2.
pub(super) fn rdma(resources: &LinuxResources, settings: &mut Vec<Setting>) {
    for (device, limits) in resources.rdma().iter().flatten() {
        let max = |value: Option<u32>| value.map_or("max".to_owned(), |value| value.to_string());
        let value = format!(
            "{device} hca_handle={} hca_object={}",
            max(limits.hca_handles()),
            max(limits.hca_objects())
        );
        settings.push(Setting::new(
            "linux.resources.rdma",
            "rdma",
            "rdma.max",
            value,
        ));
    }
}

fn network(resources: &LinuxResources, settings: &mut Vec<Setting>) {
    let Some(network) = resources.network() else {
        return;
    };
    if let Some(class) = network.class_id().filter(|class| *class != 0) {
        let field = "linux.resources.network.classID";
        settings.push(Setting::new(field, "net_cls", "net_cls.classid", class));
    }
    for priority in network.priorities().iter().flatten() {
        settings.push(Setting::new(
            "linux.resources.network.priorities",
            "net_prio",
            "net_prio.ifpriomap",
            format!("{} {}", priority.name(), priority.priority()),
        ));
    }
}
