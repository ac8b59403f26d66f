//! Figures of cgroup v2. See Documentation/admin-guide/cgroup-v2.rst of the kernel.

use super::parse::{device_number, keyed, number, optional_number, pressure};
use super::{
    BlockIoStats, CpuStats, DeviceCount, Files, HugetlbStats, MemoryStats, MemoryUsage, ReadError,
    Stats, v1,
};

/// Reads the figures of the unified hierarchy, but not of the v1 controllers that are elsewhere.
pub(super) fn read(
    files: &impl Files,
    is_elsewhere: &dyn Fn(&str) -> bool,
    huge_page_sizes: &[String],
    stats: &mut Stats,
) -> Result<(), ReadError> {
    if !is_elsewhere("cpu") && !is_elsewhere("cpuacct") {
        stats.cpu = cpu(files)?;
    }
    if !is_elsewhere("memory") {
        stats.memory = memory(files)?;
    }
    if !is_elsewhere("pids") {
        stats.pids = v1::pids(files)?;
    }
    if !is_elsewhere("blkio") {
        stats.block_io = block_io(files)?;
    }
    if !is_elsewhere("hugetlb") {
        for size in huge_page_sizes {
            if let Some(figures) = hugetlb(files, size)? {
                stats.hugetlb.insert(size.clone(), figures);
            }
        }
    }
    Ok(())
}

fn cpu(files: &impl Files) -> Result<CpuStats, ReadError> {
    let stat = keyed(files, "cpu.stat")?;
    let get = |key: &str| stat.get(key).copied().unwrap_or(0);
    let ns = |key: &str| get(key).saturating_mul(1000);
    Ok(CpuStats {
        total_ns: ns("usage_usec"),
        kernel_ns: ns("system_usec"),
        user_ns: ns("user_usec"),
        periods: get("nr_periods"),
        throttled_periods: get("nr_throttled"),
        throttled_ns: ns("throttled_usec"),
        pressure: pressure(files, "cpu.pressure")?,
        ..CpuStats::default()
    })
}

fn memory(files: &impl Files) -> Result<MemoryStats, ReadError> {
    let raw = keyed(files, "memory.stat")?;
    let usage = memory_usage(files, "memory")?.unwrap_or_default();
    let swap = memory_usage(files, "memory.swap")?;
    Ok(MemoryStats {
        cache: raw.get("file").copied().unwrap_or(0),
        usage,
        // v2 counts swap alone; readers expect the sum that v1 counts. There is none of the peaks.
        with_swap: swap.map_or(MemoryUsage::default(), |swap| MemoryUsage {
            current: swap.current.saturating_add(usage.current),
            limit: swap.limit.saturating_add(usage.limit),
            ..swap
        }),
        raw,
        pressure: pressure(files, "memory.pressure")?,
        ..MemoryStats::default()
    })
}

fn memory_usage(files: &impl Files, prefix: &str) -> Result<Option<MemoryUsage>, ReadError> {
    let Some(current) = optional_number(files, &format!("{prefix}.current"))? else {
        return Ok(None);
    };
    Ok(Some(MemoryUsage {
        current,
        limit: number(files, &format!("{prefix}.max"))?,
        peak: number(files, &format!("{prefix}.peak"))?,
        failures: 0,
    }))
}

fn block_io(files: &impl Files) -> Result<BlockIoStats, ReadError> {
    const FILE: &str = "io.stat";
    let mut stats = BlockIoStats {
        pressure: pressure(files, "io.pressure")?,
        ..BlockIoStats::default()
    };
    let text = files.read(FILE)?.unwrap_or_default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        // A device without a number is one that has gone; its line has no figures.
        let Some((major, minor)) = words.next().and_then(device_number) else {
            continue;
        };
        for word in words {
            let (figure, operation) = match word.split_once('=').map(|(key, _)| key) {
                Some("rbytes") => (&mut stats.service_bytes, "Read"),
                Some("wbytes") => (&mut stats.service_bytes, "Write"),
                Some("rios") => (&mut stats.serviced, "Read"),
                Some("wios") => (&mut stats.serviced, "Write"),
                _ => continue,
            };
            let value = word
                .split_once('=')
                .and_then(|(_, value)| value.parse().ok());
            figure.push(DeviceCount {
                major,
                minor,
                operation: operation.to_owned(),
                value: value.ok_or_else(|| ReadError::odd(FILE, line))?,
            });
        }
    }
    Ok(stats)
}

fn hugetlb(files: &impl Files, size: &str) -> Result<Option<HugetlbStats>, ReadError> {
    let events = keyed(files, &format!("hugetlb.{size}.events"))?;
    for file in [
        format!("hugetlb.{size}.rsvd.current"),
        format!("hugetlb.{size}.current"),
    ] {
        if let Some(current) = optional_number(files, &file)? {
            return Ok(Some(HugetlbStats {
                current,
                peak: 0,
                failures: events.get("max").copied().unwrap_or(0),
            }));
        }
    }
    Ok(None)
}
