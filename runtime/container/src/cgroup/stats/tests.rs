use std::collections::HashMap;

use super::{Files, HugetlbStats, MemoryUsage, PidsStats, ReadError, Stall, Stats, parse, v1, v2};

/// A directory of files, by name.
struct Directory(HashMap<&'static str, &'static str>);

impl Files for Directory {
    fn read(&self, name: &str) -> Result<Option<String>, ReadError> {
        Ok(self.0.get(name).map(|text| (*text).to_owned()))
    }
}

fn read_v1(files: &[(&'static str, &'static str)]) -> Result<Stats, ReadError> {
    let controllers = [
        "cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb", "freezer",
    ];
    let mut stats = Stats::default();
    v1::read(
        &Directory(files.iter().copied().collect()),
        &controllers.map(str::to_owned),
        &["2MB".to_owned()],
        &mut stats,
    )?;
    Ok(stats)
}

fn read_v2(files: &[(&'static str, &'static str)]) -> Result<Stats, ReadError> {
    let directory = Directory(files.iter().copied().collect());
    let mut stats = Stats::default();
    v2::read(&directory, &|_| false, &["2MB".to_owned()], &mut stats)?;
    Ok(stats)
}

#[test]
fn v1_counts_cpu_time_in_nanoseconds_and_ticks() {
    let stats = read_v1(&[
        ("cpuacct.usage", "14451041\n"),
        ("cpuacct.stat", "user 3\nsystem 5\n"),
        ("cpuacct.usage_percpu", "112947 14338094 \n"),
        ("cpuacct.usage_all", "cpu user system\n0 1 2\n1 3 4\n"),
        (
            "cpu.stat",
            "nr_periods 10\nnr_throttled 4\nthrottled_time 77\n",
        ),
    ])
    .unwrap();
    let cpu = stats.cpu;
    assert_eq!(
        (cpu.total_ns, cpu.user_ns, cpu.kernel_ns),
        (14_451_041, 30_000_000, 50_000_000)
    );
    assert_eq!(cpu.per_cpu_ns, [112_947, 14_338_094]);
    assert_eq!(
        (cpu.per_cpu_user_ns, cpu.per_cpu_kernel_ns),
        (vec![1, 3], vec![2, 4])
    );
    assert_eq!(
        (cpu.periods, cpu.throttled_periods, cpu.throttled_ns),
        (10, 4, 77)
    );
}

#[test]
fn v1_memory_is_four_kinds_and_the_statistics() {
    let stats = read_v1(&[
        ("memory.usage_in_bytes", "100\n"),
        ("memory.max_usage_in_bytes", "200\n"),
        ("memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory.failcnt", "3\n"),
        ("memory.memsw.usage_in_bytes", "150\n"),
        ("memory.stat", "cache 40\nrss 60\n"),
    ])
    .unwrap();
    let usage = MemoryUsage {
        current: 100,
        peak: 200,
        limit: 9_223_372_036_854_771_712,
        failures: 3,
    };
    assert_eq!(stats.memory.usage, usage);
    assert_eq!(stats.memory.with_swap.current, 150);
    assert_eq!(stats.memory.kernel, MemoryUsage::default());
    assert_eq!((stats.memory.cache, stats.memory.raw["rss"]), (40, 60));
}

#[test]
fn v1_lists_of_cpus_are_written_out() {
    let stats = read_v1(&[
        ("cpuset.cpus", "0-2,7\n"),
        ("cpuset.mems", "\n"),
        ("cpuset.sched_relax_domain_level", "-1\n"),
    ])
    .unwrap();
    assert_eq!(stats.cpuset.cpus, [0, 1, 2, 7]);
    assert_eq!(stats.cpuset.mems, Vec::<u16>::new());
    assert_eq!(stats.cpuset.sched_relax_domain_level, -1);
}

#[test]
fn v1_block_io_is_bfqs_where_it_counted_and_else_the_throttlings() {
    let stats = read_v1(&[
        ("blkio.bfq.io_serviced_recursive", "8:0 Read 1\nTotal 1\n"),
        (
            "blkio.throttle.io_serviced_recursive",
            "8:0 Read 9\nTotal 9\n",
        ),
        ("blkio.bfq.io_service_bytes_recursive", "Total 0\n"),
        (
            "blkio.throttle.io_service_bytes_recursive",
            "8:16 Write 4096\n8:16 Total 4096\nTotal 4096\n",
        ),
        ("blkio.bfq.sectors_recursive", "8:0 77\n"),
    ])
    .unwrap();
    let io = stats.block_io;
    assert_eq!((io.serviced.len(), io.serviced[0].value), (1, 1));
    let first = &io.service_bytes[0];
    assert_eq!((first.major, first.minor, first.value), (8, 16, 4096));
    assert_eq!(first.operation, "Write");
    assert_eq!(io.service_bytes.len(), 2);
    assert_eq!(
        (io.sectors[0].operation.as_str(), io.sectors[0].value),
        ("", 77)
    );
}

#[test]
fn no_limit_of_processes_is_0() {
    let rows = [("max\n", 0), ("20\n", 20)];
    for (max, limit) in rows {
        let files = [("pids.current", "5\n"), ("pids.max", max)];
        let expected = PidsStats { current: 5, limit };
        assert_eq!(read_v1(&files).unwrap().pids, expected);
        assert_eq!(read_v2(&files).unwrap().pids, expected);
    }
}

#[test]
fn v2_times_are_turned_into_nanoseconds() {
    let stats = read_v2(&[
        (
            "cpu.stat",
            "usage_usec 50\nuser_usec 30\nsystem_usec 20\nnr_periods 4\nnr_throttled 2\nthrottled_usec 9\n",
        ),
        (
            "cpu.pressure",
            "some avg10=1.50 avg60=0.20 avg300=0.03 total=44\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        ),
    ])
    .unwrap();
    let cpu = stats.cpu;
    assert_eq!(
        (cpu.total_ns, cpu.user_ns, cpu.kernel_ns),
        (50_000, 30_000, 20_000)
    );
    assert_eq!(
        (cpu.periods, cpu.throttled_periods, cpu.throttled_ns),
        (4, 2, 9_000)
    );
    let some = Stall {
        avg10: 1.5,
        avg60: 0.2,
        avg300: 0.03,
        total_us: 44,
    };
    assert_eq!(cpu.pressure.unwrap().some, some);
}

#[test]
fn v2_swap_counts_memory_in_as_v1_does() {
    let memory = [
        ("memory.current", "100\n"),
        ("memory.max", "max\n"),
        ("memory.stat", "anon 60\nfile 40\n"),
    ];
    let stats = read_v2(&memory).unwrap().memory;
    assert_eq!((stats.usage.limit, stats.cache), (u64::MAX, 40));
    assert_eq!(
        stats.with_swap,
        MemoryUsage::default(),
        "without swap there is no sum"
    );
    let swap = [("memory.swap.current", "20\n"), ("memory.swap.max", "30\n")];
    let stats = read_v2(&[memory.as_slice(), &swap].concat())
        .unwrap()
        .memory;
    assert_eq!(
        (stats.with_swap.current, stats.with_swap.limit),
        (120, u64::MAX)
    );
}

#[test]
fn v2_io_is_told_as_v1_tells_it() {
    let stats = read_v2(&[(
        "io.stat",
        "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n(unknown)\n",
    )])
    .unwrap();
    let values = |counts: &[super::DeviceCount]| {
        let each = counts
            .iter()
            .map(|count| (count.operation.clone(), count.value));
        each.collect::<Vec<_>>()
    };
    let pairs = |read, write| vec![("Read".to_owned(), read), ("Write".to_owned(), write)];
    assert_eq!(values(&stats.block_io.service_bytes), pairs(10, 20));
    assert_eq!(values(&stats.block_io.serviced), pairs(1, 2));
}

#[test]
fn huge_pages_are_those_reserved_where_the_kernel_tells() {
    let v1 = read_v1(&[
        ("hugetlb.2MB.usage_in_bytes", "1\n"),
        ("hugetlb.2MB.rsvd.usage_in_bytes", "2\n"),
        ("hugetlb.2MB.rsvd.failcnt", "3\n"),
    ]);
    let expected = HugetlbStats {
        current: 2,
        peak: 0,
        failures: 3,
    };
    assert_eq!(v1.unwrap().hugetlb["2MB"], expected);
    let v2 = read_v2(&[
        ("hugetlb.2MB.current", "1\n"),
        ("hugetlb.2MB.events", "max 4\n"),
    ]);
    let expected = HugetlbStats {
        current: 1,
        peak: 0,
        failures: 4,
    };
    assert_eq!(v2.unwrap().hugetlb["2MB"], expected);
}

#[test]
fn a_controller_that_v1_has_is_not_read_from_the_unified_hierarchy() {
    let directory = Directory([("pids.current", "5\n")].into());
    let mut stats = Stats::default();
    v2::read(&directory, &|name| name == "pids", &[], &mut stats).unwrap();
    assert_eq!(stats, Stats::default());
}

#[test]
fn without_files_there_are_no_figures_and_odd_ones_are_named() {
    assert_eq!(read_v1(&[]).unwrap(), Stats::default());
    assert_eq!(read_v2(&[]).unwrap(), Stats::default());
    let rows = [
        ("memory.stat", "cache\n"),
        ("cpuacct.usage", "many\n"),
        ("cpuacct.usage_all", "cpu user system\n0 1\n"),
        ("cpuset.cpus", "0-\n"),
        ("blkio.throttle.io_serviced_recursive", "8:0\n"),
    ];
    for (file, text) in rows {
        assert_eq!(read_v1(&[(file, text)]).unwrap_err().file, file);
    }
}

#[test]
fn sizes_of_huge_pages_are_named_as_the_kernel_names_files() {
    let rows = [
        ("hugepages-2048kB", Some("2MB")),
        ("hugepages-1048576kB", Some("1GB")),
        ("hugepages-64kB", Some("64KB")),
        ("hugepages-kB", None),
        ("other", None),
    ];
    for (directory, expected) in rows {
        assert_eq!(parse::huge_page_size(directory).as_deref(), expected);
    }
}
