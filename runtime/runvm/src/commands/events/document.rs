//! runc's words for the figures: what its `events` prints, a field each. A figure of 0 and an empty
//! list are left out but where runc has them always.

use std::collections::BTreeMap;

use runvm_container::cgroup::Stats;
use runvm_container::cgroup::stats as figures;
use runvm_sandbox::Usage;
use serde::Serialize;

/// One line of `events`.
#[derive(Debug, Serialize)]
pub(super) struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Document>,
}

impl<'a> Event<'a> {
    pub(super) fn oom(id: &'a str) -> Self {
        Self {
            kind: "oom",
            id,
            data: None,
        }
    }

    pub(super) fn stats(id: &'a str, usage: Usage) -> Self {
        let mut data = Document::from(usage.container);
        data.host = usage.machine.map(|stats| Box::new(stats.into()));
        Self {
            kind: "stats",
            id,
            data: Some(data),
        }
    }
}

#[derive(Debug, Serialize)]
struct Document {
    cpu: Cpu,
    cpuset: Cpuset,
    memory: Memory,
    pids: Pids,
    blkio: Blkio,
    hugetlb: BTreeMap<String, Hugetlb>,
    /// Not read.
    intel_rdt: BTreeMap<String, String>,
    /// runc knows of none in an OCI bundle.
    network_interfaces: Option<()>,
    /// runvm's own: the figures of a microVM's machine and its VMM, by the host's kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Box<Document>>,
}

#[derive(Debug, Serialize)]
struct Cpu {
    usage: CpuUsage,
    throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_user: Vec<u64>,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_time: u64,
}

#[derive(Debug, Serialize)]
struct Cpuset {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cpus: Vec<u16>,
    cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mems: Vec<u16>,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

#[derive(Debug, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    cache: u64,
    usage: MemoryEntry,
    swap: MemoryEntry,
    kernel: MemoryEntry,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: MemoryEntry,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Serialize)]
struct MemoryEntry {
    limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Blkio {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_queue_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_wait_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_merged_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sectors_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Serialize)]
struct BlkioEntry {
    #[serde(skip_serializing_if = "is_zero")]
    major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    minor: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    op: String,
    #[serde(skip_serializing_if = "is_zero")]
    value: u64,
}

#[derive(Debug, Serialize)]
struct Hugetlb {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Serialize)]
struct Psi {
    some: PsiData,
    full: PsiData,
}

#[derive(Debug, Serialize)]
struct PsiData {
    avg10: f64,
    avg60: f64,
    avg300: f64,
    total: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl From<Stats> for Document {
    fn from(stats: Stats) -> Self {
        let hugetlb = stats.hugetlb.into_iter();
        Self {
            cpu: stats.cpu.into(),
            cpuset: stats.cpuset.into(),
            memory: stats.memory.into(),
            pids: Pids {
                current: stats.pids.current,
                limit: stats.pids.limit,
            },
            blkio: stats.block_io.into(),
            hugetlb: hugetlb.map(|(size, pages)| (size, pages.into())).collect(),
            intel_rdt: BTreeMap::new(),
            network_interfaces: None,
            host: None,
        }
    }
}

impl From<figures::CpuStats> for Cpu {
    fn from(cpu: figures::CpuStats) -> Self {
        Self {
            usage: CpuUsage {
                total: cpu.total_ns,
                percpu: cpu.per_cpu_ns,
                percpu_kernel: cpu.per_cpu_kernel_ns,
                percpu_user: cpu.per_cpu_user_ns,
                kernel: cpu.kernel_ns,
                user: cpu.user_ns,
            },
            throttling: Throttling {
                periods: cpu.periods,
                throttled_periods: cpu.throttled_periods,
                throttled_time: cpu.throttled_ns,
            },
            psi: cpu.pressure.map(Psi::from),
        }
    }
}

impl From<figures::CpusetStats> for Cpuset {
    fn from(cpuset: figures::CpusetStats) -> Self {
        Self {
            cpus: cpuset.cpus,
            cpu_exclusive: cpuset.cpu_exclusive,
            mems: cpuset.mems,
            mem_hardwall: cpuset.mem_hardwall,
            mem_exclusive: cpuset.mem_exclusive,
            memory_migrate: cpuset.memory_migrate,
            memory_spread_page: cpuset.memory_spread_page,
            memory_spread_slab: cpuset.memory_spread_slab,
            memory_pressure: cpuset.memory_pressure,
            sched_load_balance: cpuset.sched_load_balance,
            sched_relax_domain_level: cpuset.sched_relax_domain_level,
        }
    }
}

impl From<figures::MemoryStats> for Memory {
    fn from(memory: figures::MemoryStats) -> Self {
        Self {
            cache: memory.cache,
            usage: memory.usage.into(),
            swap: memory.with_swap.into(),
            kernel: memory.kernel.into(),
            kernel_tcp: memory.kernel_tcp.into(),
            raw: memory.raw,
            psi: memory.pressure.map(Psi::from),
        }
    }
}

impl From<figures::MemoryUsage> for MemoryEntry {
    fn from(usage: figures::MemoryUsage) -> Self {
        Self {
            limit: usage.limit,
            usage: usage.current,
            max: usage.peak,
            failcnt: usage.failures,
        }
    }
}

impl From<figures::BlockIoStats> for Blkio {
    fn from(io: figures::BlockIoStats) -> Self {
        let entries =
            |counts: Vec<figures::DeviceCount>| counts.into_iter().map(Into::into).collect();
        Self {
            io_service_bytes_recursive: entries(io.service_bytes),
            io_serviced_recursive: entries(io.serviced),
            io_queue_recursive: entries(io.queued),
            io_service_time_recursive: entries(io.service_time),
            io_wait_time_recursive: entries(io.wait_time),
            io_merged_recursive: entries(io.merged),
            io_time_recursive: entries(io.time),
            sectors_recursive: entries(io.sectors),
            psi: io.pressure.map(Psi::from),
        }
    }
}

impl From<figures::DeviceCount> for BlkioEntry {
    fn from(count: figures::DeviceCount) -> Self {
        Self {
            major: count.major,
            minor: count.minor,
            op: count.operation,
            value: count.value,
        }
    }
}

impl From<figures::HugetlbStats> for Hugetlb {
    fn from(pages: figures::HugetlbStats) -> Self {
        Self {
            usage: pages.current,
            max: pages.peak,
            failcnt: pages.failures,
        }
    }
}

impl From<figures::Pressure> for Psi {
    fn from(pressure: figures::Pressure) -> Self {
        let data = |stall: figures::Stall| PsiData {
            avg10: stall.avg10,
            avg60: stall.avg60,
            avg300: stall.avg300,
            total: stall.total_us,
        };
        Self {
            some: data(pressure.some),
            full: data(pressure.full),
        }
    }
}

#[cfg(test)]
mod tests {
    use runvm_container::cgroup::Stats;
    use runvm_container::cgroup::stats::{DeviceCount, HugetlbStats, Pressure};
    use runvm_sandbox::Usage;
    use serde_json::json;

    use super::Event;

    fn usage(container: Stats) -> Usage {
        Usage {
            container,
            machine: None,
        }
    }

    #[test]
    fn the_figures_of_a_machine_are_beside_those_of_its_container() {
        let of = |current| {
            let mut stats = Stats::default();
            stats.pids.current = current;
            stats
        };
        let usage = Usage {
            container: of(3),
            machine: Some(of(5)),
        };
        let event = json!(Event::stats("web", usage));
        assert_eq!(event["data"]["pids"], json!({"current": 3}));
        assert_eq!(event["data"]["host"]["pids"], json!({"current": 5}));
        assert!(event["data"]["host"].get("host").is_none(), "{event}");
    }

    #[test]
    fn what_is_zero_or_empty_is_left_out_where_runc_leaves_it_out() {
        let entry = json!({"limit": 0, "failcnt": 0});
        let expected = json!({
            "type": "stats", "id": "web",
            "data": {
                "cpu": {"usage": {"kernel": 0, "user": 0}, "throttling": {}},
                "cpuset": {
                    "cpu_exclusive": 0, "mem_hardwall": 0, "mem_exclusive": 0, "memory_migrate": 0,
                    "memory_spread_page": 0, "memory_spread_slab": 0, "memory_pressure": 0,
                    "sched_load_balance": 0, "sched_relax_domain_level": 0,
                },
                "memory": {"usage": entry, "swap": entry, "kernel": entry, "kernelTCP": entry},
                "pids": {}, "blkio": {}, "hugetlb": {}, "intel_rdt": {},
                "network_interfaces": null,
            },
        });
        assert_eq!(
            json!(Event::stats("web", usage(Stats::default()))),
            expected
        );
        assert_eq!(
            json!(Event::oom("web")),
            json!({"type": "oom", "id": "web"})
        );
    }

    #[test]
    fn figures_have_runcs_names() {
        let mut stats = Stats::default();
        stats.cpu.total_ns = 1;
        stats.cpu.per_cpu_kernel_ns = vec![2];
        stats.cpu.throttled_ns = 3;
        stats.cpu.pressure = Some(Pressure::default());
        stats.memory.kernel_tcp.peak = 4;
        stats.pids.limit = 5;
        stats.block_io.queued = vec![DeviceCount {
            major: 8,
            minor: 0,
            operation: "Read".into(),
            value: 6,
        }];
        let pages = HugetlbStats {
            current: 7,
            ..HugetlbStats::default()
        };
        stats.hugetlb.insert("2MB".into(), pages);
        let event = json!(Event::stats("web", usage(stats)));
        let data = &event["data"];
        let zeros = json!({"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 0});
        let rows = [
            ("/cpu/usage/total", json!(1)),
            ("/cpu/usage/percpu_kernel", json!([2])),
            ("/cpu/throttling/throttledTime", json!(3)),
            ("/cpu/psi", json!({"some": zeros, "full": zeros})),
            ("/memory/kernelTCP/max", json!(4)),
            ("/pids", json!({"limit": 5})),
            (
                "/blkio/ioQueueRecursive",
                json!([{"major": 8, "op": "Read", "value": 6}]),
            ),
            ("/hugetlb/2MB", json!({"usage": 7, "failcnt": 0})),
        ];
        for (pointer, expected) in rows {
            assert_eq!(data.pointer(pointer), Some(&expected), "{pointer}");
        }
    }
}
