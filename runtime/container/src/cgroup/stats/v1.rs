//! Figures of cgroup v1. See Documentation/admin-guide/cgroup-v1 of the kernel.

use super::parse::{self, keyed, number, numbers, optional_number};
use super::{
    BlockIoStats, CpuStats, CpusetStats, DeviceCount, Files, HugetlbStats, MemoryStats,
    MemoryUsage, PidsStats, ReadError, Stats,
};

/// What the kernel counts ticks for user space in: USER_HZ, 100 on every architecture it matters to.
const TICK_NS: u64 = 10_000_000;

/// Reads the figures of the controllers of one hierarchy.
pub(super) fn read(
    files: &impl Files,
    controllers: &[String],
    huge_page_sizes: &[String],
    stats: &mut Stats,
) -> Result<(), ReadError> {
    for controller in controllers {
        match controller.as_str() {
            "cpu" => throttling(files, &mut stats.cpu)?,
            "cpuacct" => cpu_time(files, &mut stats.cpu)?,
            "cpuset" => stats.cpuset = cpuset(files)?,
            "memory" => stats.memory = memory(files)?,
            "pids" => stats.pids = pids(files)?,
            "blkio" => stats.block_io = block_io(files)?,
            "hugetlb" => {
                for size in huge_page_sizes {
                    if let Some(figures) = hugetlb(files, size)? {
                        stats.hugetlb.insert(size.clone(), figures);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn throttling(files: &impl Files, cpu: &mut CpuStats) -> Result<(), ReadError> {
    let stat = keyed(files, "cpu.stat")?;
    let get = |key: &str| stat.get(key).copied().unwrap_or(0);
    cpu.periods = get("nr_periods");
    cpu.throttled_periods = get("nr_throttled");
    cpu.throttled_ns = get("throttled_time");
    Ok(())
}

fn cpu_time(files: &impl Files, cpu: &mut CpuStats) -> Result<(), ReadError> {
    let stat = keyed(files, "cpuacct.stat")?;
    let ns = |key: &str| stat.get(key).map_or(0, |ticks| ticks * TICK_NS);
    cpu.total_ns = number(files, "cpuacct.usage")?;
    cpu.user_ns = ns("user");
    cpu.kernel_ns = ns("system");
    cpu.per_cpu_ns = numbers(files, "cpuacct.usage_percpu")?;
    // A head line, then CPU, user and system.
    const FILE: &str = "cpuacct.usage_all";
    let text = files.read(FILE)?.unwrap_or_default();
    for line in text.lines().skip(1) {
        let words: Option<Vec<u64>> = line.split(' ').map(|word| word.parse().ok()).collect();
        let Some(&[_, user, kernel]) = words.as_deref() else {
            return Err(ReadError::odd(FILE, line));
        };
        cpu.per_cpu_user_ns.push(user);
        cpu.per_cpu_kernel_ns.push(kernel);
    }
    Ok(())
}

fn cpuset(files: &impl Files) -> Result<CpusetStats, ReadError> {
    Ok(CpusetStats {
        cpus: parse::list(files, "cpuset.cpus")?,
        mems: parse::list(files, "cpuset.mems")?,
        cpu_exclusive: number(files, "cpuset.cpu_exclusive")?,
        mem_exclusive: number(files, "cpuset.mem_exclusive")?,
        mem_hardwall: number(files, "cpuset.mem_hardwall")?,
        memory_migrate: number(files, "cpuset.memory_migrate")?,
        memory_spread_page: number(files, "cpuset.memory_spread_page")?,
        memory_spread_slab: number(files, "cpuset.memory_spread_slab")?,
        memory_pressure: number(files, "cpuset.memory_pressure")?,
        sched_load_balance: number(files, "cpuset.sched_load_balance")?,
        sched_relax_domain_level: parse::signed_number(files, "cpuset.sched_relax_domain_level")?,
    })
}

fn memory(files: &impl Files) -> Result<MemoryStats, ReadError> {
    let raw = keyed(files, "memory.stat")?;
    Ok(MemoryStats {
        cache: raw.get("cache").copied().unwrap_or(0),
        usage: memory_usage(files, "memory")?,
        with_swap: memory_usage(files, "memory.memsw")?,
        kernel: memory_usage(files, "memory.kmem")?,
        kernel_tcp: memory_usage(files, "memory.kmem.tcp")?,
        raw,
        pressure: None,
    })
}

fn memory_usage(files: &impl Files, prefix: &str) -> Result<MemoryUsage, ReadError> {
    let number = |name: &str| number(files, &format!("{prefix}.{name}"));
    Ok(MemoryUsage {
        current: number("usage_in_bytes")?,
        peak: number("max_usage_in_bytes")?,
        limit: number("limit_in_bytes")?,
        failures: number("failcnt")?,
    })
}

/// Alike in v1 and v2.
pub(super) fn pids(files: &impl Files) -> Result<PidsStats, ReadError> {
    Ok(PidsStats {
        current: number(files, "pids.current")?,
        limit: match number(files, "pids.max")? {
            u64::MAX => 0,
            limit => limit,
        },
    })
}

type Figure = fn(&mut BlockIoStats) -> &mut Vec<DeviceCount>;

/// What is counted by whoever schedules, and what by all. Which files there are depends on the
/// kernel's configuration and on the I/O scheduler.
const FIGURES: [(&str, Figure); 8] = [
    ("io_service_bytes_recursive", |io| &mut io.service_bytes),
    ("io_serviced_recursive", |io| &mut io.serviced),
    ("io_queued_recursive", |io| &mut io.queued),
    ("io_service_time_recursive", |io| &mut io.service_time),
    ("io_wait_time_recursive", |io| &mut io.wait_time),
    ("io_merged_recursive", |io| &mut io.merged),
    ("time_recursive", |io| &mut io.time),
    ("sectors_recursive", |io| &mut io.sectors),
];

fn block_io(files: &impl Files) -> Result<BlockIoStats, ReadError> {
    let mut stats = BlockIoStats::default();
    // BFQ counts best, but may have counted nothing: then the throttling's count, which is of all.
    for prefix in ["blkio.bfq", "blkio", "blkio.throttle"] {
        for (name, figure) in FIGURES {
            let figure = figure(&mut stats);
            if figure.is_empty() {
                *figure = parse::devices(files, &format!("{prefix}.{name}"))?.unwrap_or_default();
            }
        }
    }
    Ok(stats)
}

fn hugetlb(files: &impl Files, size: &str) -> Result<Option<HugetlbStats>, ReadError> {
    // What is reserved counts as used, where the kernel can tell (Linux 5.7).
    for prefix in [format!("hugetlb.{size}.rsvd"), format!("hugetlb.{size}")] {
        if let Some(current) = optional_number(files, &format!("{prefix}.usage_in_bytes"))? {
            return Ok(Some(HugetlbStats {
                current,
                peak: number(files, &format!("{prefix}.max_usage_in_bytes"))?,
                failures: number(files, &format!("{prefix}.failcnt"))?,
            }));
        }
    }
    Ok(None)
}
