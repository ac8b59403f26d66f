//! The files of cgroup v2, and the conversion of values that config.json has in v1's terms.
//! See Documentation/admin-guide/cgroup-v2.rst of the kernel.
//!
//! `memory.kernel`, `kernelTCP`, `swappiness`, `disableOOMKiller`, `useHierarchy` and
//! `blockIO.leafWeight` have no counterpart; they are left out, as runc and crun do, since engines
//! send them on every host.

use runvm_oci::LinuxResources;

use super::{Limit, Otherwise, Setting, limit, pids_max, v1};
use crate::cgroup::CgroupError;

/// What to write for `resources`, in order. Devices are apart, in `devices`.
pub(in crate::cgroup) fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, CgroupError> {
    let mut settings = Vec::new();
    memory(resources, &mut settings)?;
    cpu(resources, &mut settings)?;
    cpuset(resources, &mut settings);
    if let Some(max) = resources.pids().and_then(|pids| pids_max(pids.limit())) {
        let field = "linux.resources.pids.limit";
        settings.push(Setting::new(field, "pids", "pids.max", max));
    }
    block_io(resources, &mut settings);
    hugetlb(resources, &mut settings);
    v1::rdma(resources, &mut settings);
    network(resources)?;
    unified(resources, &mut settings)?;
    Ok(settings)
}

fn memory(resources: &LinuxResources, settings: &mut Vec<Setting>) -> Result<(), CgroupError> {
    let Some(memory) = resources.memory() else {
        return Ok(());
    };
    let bytes = limit("linux.resources.memory.limit", memory.limit())?;
    let both = limit("linux.resources.memory.swap", memory.swap())?;
    let field = "linux.resources.memory.swap";
    if let Some(swap) = swap_alone(bytes, both)? {
        let setting = Setting::new(field, "memory", "memory.swap.max", swap.v2());
        // Without swap in the kernel there is none to limit.
        let is_so_anyway = matches!(swap, Limit::Unlimited | Limit::At(0));
        settings.push(setting.or(if is_so_anyway {
            Otherwise::Skip
        } else {
            Otherwise::Fail
        }));
    }
    for (field, file, value) in [
        ("linux.resources.memory.limit", "memory.max", bytes),
        (
            "linux.resources.memory.reservation",
            "memory.low",
            limit("linux.resources.memory.reservation", memory.reservation())?,
        ),
    ] {
        if let Some(value) = value {
            settings.push(Setting::new(field, "memory", file, value.v2()));
        }
    }
    Ok(())
}

/// config.json limits memory and swap together, cgroup v2 swap alone.
fn swap_alone(memory: Option<Limit>, both: Option<Limit>) -> Result<Option<Limit>, CgroupError> {
    let refused = |value: u64, why| {
        Err(CgroupError::Value {
            field: "linux.resources.memory.swap",
            value: value.to_string(),
            why,
        })
    };
    match (memory, both) {
        (Some(Limit::Unlimited), None) | (_, Some(Limit::Unlimited)) => Ok(Some(Limit::Unlimited)),
        (_, None) => Ok(None),
        (Some(Limit::Unlimited), Some(swap)) => Ok(Some(swap)),
        (Some(Limit::At(memory)), Some(Limit::At(both))) => match both.checked_sub(memory) {
            Some(swap) => Ok(Some(Limit::At(swap))),
            None => refused(both, "it counts memory too, and is below the memory limit"),
        },
        (None, Some(Limit::At(both))) => {
            refused(both, "it counts memory too, and memory has no limit")
        }
    }
}

fn cpu(resources: &LinuxResources, settings: &mut Vec<Setting>) -> Result<(), CgroupError> {
    let Some(cpu) = resources.cpu() else {
        return Ok(());
    };
    let mut add = |field, file: &'static str, value: String| {
        settings.push(Setting::new(field, "cpu", file, value));
    };
    if let Some(idle) = cpu.idle() {
        add("linux.resources.cpu.idle", "cpu.idle", idle.to_string());
    }
    // An idle cgroup has no weight, and the kernel refuses one.
    let is_idle = cpu.idle().is_some_and(|idle| idle != 0);
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0 && !is_idle) {
        let weight = weight_of_shares(shares);
        add(
            "linux.resources.cpu.shares",
            "cpu.weight",
            weight.to_string(),
        );
    }
    if let Some(burst) = cpu.burst() {
        add(
            "linux.resources.cpu.burst",
            "cpu.max.burst",
            burst.to_string(),
        );
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    match (quota, period) {
        (None, None) => {}
        (Some(quota), period) => {
            let quota = u64::try_from(quota).map_or("max".to_owned(), |quota| quota.to_string());
            // A quota alone keeps the period that is set.
            let value = period.map_or(quota.clone(), |period| format!("{quota} {period}"));
            add("linux.resources.cpu.quota", "cpu.max", value);
        }
        (None, Some(period)) => add(
            "linux.resources.cpu.period",
            "cpu.max",
            format!("max {period}"),
        ),
    }
    if cpu.realtime_runtime().is_some_and(|us| us != 0) {
        return Err(CgroupError::Value {
            field: "linux.resources.cpu.realtimeRuntime",
            value: cpu.realtime_runtime().unwrap_or_default().to_string(),
            why: "cgroup v2 gives out no real-time",
        });
    }
    Ok(())
}

/// The weight that shares come to: least, default and most on both scales (2, 1024, 262144 and
/// 1, 100, 10000) meet, with a parabola in the logarithm between, as runc 1.4 and crun 1.23 have it.
fn weight_of_shares(shares: u64) -> u64 {
    const SHARES_MIN: u64 = 2;
    const SHARES_MAX: u64 = 262_144;
    const WEIGHT_MAX: u64 = 10_000;
    if shares <= SHARES_MIN {
        return 1;
    }
    if shares >= SHARES_MAX {
        return WEIGHT_MAX;
    }
    // Below 2^18, so exact as a float.
    let log = f64::from(u32::try_from(shares).unwrap_or(u32::MAX)).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    let weight = 10_f64.powf(exponent).ceil();
    // The nearest whole number without a cast that could lose something.
    (1..=WEIGHT_MAX)
        .find(|candidate| f64::from(u32::try_from(*candidate).unwrap_or(u32::MAX)) >= weight)
        .unwrap_or(WEIGHT_MAX)
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

fn block_io(resources: &LinuxResources, settings: &mut Vec<Setting>) {
    let Some(block_io) = resources.block_io() else {
        return;
    };
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        // BFQ has weights of its own; the other controller has its default on another scale.
        let other = Otherwise::Write("io.weight", io_weight(weight).to_string());
        let field = "linux.resources.blockIO.weight";
        settings.push(Setting::new(field, "io", "io.bfq.weight", weight).or(other));
    }
    for device in block_io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let number = format!("{}:{}", device.major(), device.minor());
            let other = Otherwise::Write("io.weight", format!("{number} {}", io_weight(weight)));
            let setting = Setting::new(
                "linux.resources.blockIO.weightDevice",
                "io",
                "io.bfq.weight",
                format!("{number} {weight}"),
            );
            settings.push(setting.or(other));
        }
    }
    for (field, key, devices) in [
        (
            "linux.resources.blockIO.throttleReadBpsDevice",
            "rbps",
            block_io.throttle_read_bps_device(),
        ),
        (
            "linux.resources.blockIO.throttleWriteBpsDevice",
            "wbps",
            block_io.throttle_write_bps_device(),
        ),
        (
            "linux.resources.blockIO.throttleReadIOPSDevice",
            "riops",
            block_io.throttle_read_iops_device(),
        ),
        (
            "linux.resources.blockIO.throttleWriteIOPSDevice",
            "wiops",
            block_io.throttle_write_iops_device(),
        ),
    ] {
        for device in devices.iter().flatten() {
            // 0 takes a limit back in v1.
            let rate = match device.rate() {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            let value = format!("{}:{} {key}={rate}", device.major(), device.minor());
            settings.push(Setting::new(field, "io", "io.max", value));
        }
    }
}

/// 10 to 1000 stretched to 1 to 10000.
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

fn hugetlb(resources: &LinuxResources, settings: &mut Vec<Setting>) {
    let field = "linux.resources.hugepageLimits";
    for limit in resources.hugepage_limits().iter().flatten() {
        let (size, bytes) = (limit.page_size(), limit.limit());
        let file = format!("hugetlb.{size}.max");
        settings.push(Setting::new(field, "hugetlb", file, bytes));
        let file = format!("hugetlb.{size}.rsvd.max");
        settings.push(Setting::new(field, "hugetlb", file, bytes).or(Otherwise::Skip));
    }
}

fn network(resources: &LinuxResources) -> Result<(), CgroupError> {
    let Some(network) = resources.network() else {
        return Ok(());
    };
    let why = "cgroup v2 has no network controllers";
    if let Some(class) = network.class_id().filter(|class| *class != 0) {
        return Err(CgroupError::Value {
            field: "linux.resources.network.classID",
            value: class.to_string(),
            why,
        });
    }
    if let Some(priority) = network.priorities().iter().flatten().next() {
        return Err(CgroupError::Value {
            field: "linux.resources.network.priorities",
            value: priority.name().clone(),
            why,
        });
    }
    Ok(())
}

/// Files by name, as they are. They come last, so that they have the last word.
fn unified(resources: &LinuxResources, settings: &mut Vec<Setting>) -> Result<(), CgroupError> {
    let mut files: Vec<_> = resources.unified().iter().flatten().collect();
    files.sort();
    for (name, value) in files {
        if name.contains('/') {
            return Err(CgroupError::Value {
                field: "linux.resources.unified",
                value: format!("{name:?}"),
                why: "it is not the name of a file",
            });
        }
        settings.push(Setting::new(
            "linux.resources.unified",
            controller_of(name),
            name.clone(),
            value,
        ));
    }
    Ok(())
}

/// The controller that a file belongs to by its name; those of cgroup.* belong to none.
fn controller_of(file: &str) -> &'static str {
    const CONTROLLERS: [&str; 9] = [
        "cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma", "misc", "dmem",
    ];
    let prefix = file.split('.').next().unwrap_or_default();
    let known = CONTROLLERS.iter().find(|name| **name == prefix);
    known.copied().unwrap_or("cgroup")
}
