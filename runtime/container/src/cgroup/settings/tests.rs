use super::*;
use serde_json::{Value, json};

fn resources(value: Value) -> LinuxResources {
    serde_json::from_value(value).unwrap()
}

/// `file=value` of each setting.
fn written(settings: Result<Vec<Setting>, CgroupError>) -> Vec<String> {
    let settings = settings.unwrap();
    settings
        .iter()
        .map(|s| format!("{}={}", s.file, s.value))
        .collect()
}

#[test]
fn v1_gets_its_files_in_order() {
    for (value, expected) in [
        (json!({}), vec![]),
        (
            json!({"memory": {"limit": 1000, "swap": 2000, "reservation": 500}}),
            vec![
                "memory.limit_in_bytes=1000",
                "memory.memsw.limit_in_bytes=2000",
                "memory.soft_limit_in_bytes=500",
            ],
        ),
        (
            json!({"memory": {"limit": -1}}),
            vec!["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"],
        ),
        (
            json!({"memory": {"limit": 0, "swap": 0, "disableOOMKiller": false}}),
            vec![],
        ),
        (
            json!({"memory": {"disableOOMKiller": true, "swappiness": 60, "kernelTCP": 5}}),
            vec![
                "memory.kmem.tcp.limit_in_bytes=5",
                "memory.oom_control=1",
                "memory.swappiness=60",
            ],
        ),
        (
            json!({"cpu": {"shares": 512, "quota": 50000, "period": 100000, "burst": 0, "idle": 0}}),
            vec![
                "cpu.shares=512",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_burst_us=0",
                "cpu.cfs_quota_us=50000",
                "cpu.idle=0",
            ],
        ),
        (
            json!({"cpu": {"quota": -5, "cpus": "0-1", "mems": ""}}),
            vec!["cpu.cfs_quota_us=-1", "cpuset.cpus=0-1"],
        ),
        (
            json!({"cpu": {"realtimePeriod": 1000, "realtimeRuntime": 500}}),
            vec!["cpu.rt_period_us=1000", "cpu.rt_runtime_us=500"],
        ),
        (json!({"pids": {"limit": 5}}), vec!["pids.max=5"]),
        (json!({"pids": {"limit": -1}}), vec!["pids.max=max"]),
        (json!({"pids": {"limit": 0}}), vec![]),
        (
            json!({"blockIO": {"weight": 100, "leafWeight": 0, "weightDevice": [{"major": 8, "minor": 0, "weight": 20}], "throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 600}]}}),
            vec![
                "blkio.bfq.weight=100",
                "blkio.bfq.weight_device=8:0 20",
                "blkio.throttle.read_bps_device=8:1 600",
            ],
        ),
        (
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}]}),
            vec![
                "hugetlb.2MB.limit_in_bytes=4096",
                "hugetlb.2MB.rsvd.limit_in_bytes=4096",
            ],
        ),
        (
            json!({"rdma": {"mlx5_1": {"hcaHandles": 3}}}),
            vec!["rdma.max=mlx5_1 hca_handle=3 hca_object=max"],
        ),
        (
            json!({"network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]}}),
            vec!["net_cls.classid=1048577", "net_prio.ifpriomap=eth0 500"],
        ),
    ] {
        assert_eq!(
            written(v1::settings(&resources(value.clone()))),
            expected,
            "{value}"
        );
    }
}

#[test]
fn v2_gets_its_files_with_converted_values() {
    for (value, expected) in [
        (json!({}), vec![]),
        (
            json!({"memory": {"limit": 1000, "swap": 2500, "reservation": 500}}),
            vec!["memory.swap.max=1500", "memory.max=1000", "memory.low=500"],
        ),
        (
            json!({"memory": {"limit": 1000, "swap": 1000}}),
            vec!["memory.swap.max=0", "memory.max=1000"],
        ),
        (
            json!({"memory": {"limit": -1}}),
            vec!["memory.swap.max=max", "memory.max=max"],
        ),
        (
            json!({"memory": {"limit": 1000, "swap": -1, "swappiness": 3, "disableOOMKiller": true}}),
            vec!["memory.swap.max=max", "memory.max=1000"],
        ),
        (
            json!({"cpu": {"shares": 1024, "quota": 50000, "period": 100000}}),
            vec!["cpu.weight=100", "cpu.max=50000 100000"],
        ),
        (json!({"cpu": {"quota": 20000}}), vec!["cpu.max=20000"]),
        (json!({"cpu": {"quota": -1}}), vec!["cpu.max=max"]),
        (json!({"cpu": {"period": 20000}}), vec!["cpu.max=max 20000"]),
        (
            json!({"cpu": {"idle": 1, "shares": 100, "burst": 5}}),
            vec!["cpu.idle=1", "cpu.max.burst=5"],
        ),
        (
            json!({"cpu": {"cpus": "0", "mems": "0"}}),
            vec!["cpuset.cpus=0", "cpuset.mems=0"],
        ),
        (
            json!({"blockIO": {"weight": 1000, "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]}}),
            vec!["io.bfq.weight=1000", "io.max=8:0 wiops=max"],
        ),
        (
            json!({"hugepageLimits": [{"pageSize": "1GB", "limit": 0}]}),
            vec!["hugetlb.1GB.max=0", "hugetlb.1GB.rsvd.max=0"],
        ),
        (
            json!({"pids": {"limit": 7}, "unified": {"pids.max": "9", "memory.high": "1"}}),
            vec!["pids.max=7", "memory.high=1", "pids.max=9"],
        ),
    ] {
        assert_eq!(
            written(v2::settings(&resources(value.clone()))),
            expected,
            "{value}"
        );
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_its_field() {
    for (value, v1_error, v2_error) in [
        (
            json!({"memory": {"limit": -2}}),
            "linux.resources.memory.limit: -2",
            "linux.resources.memory.limit: -2",
        ),
        (
            json!({"memory": {"swap": 10}}),
            "",
            "linux.resources.memory.swap: 10",
        ),
        (
            json!({"memory": {"limit": 20, "swap": 10}}),
            "",
            "linux.resources.memory.swap: 10",
        ),
        (
            json!({"memory": {"swappiness": 101}}),
            "linux.resources.memory.swappiness: 101",
            "",
        ),
        (
            json!({"unified": {"memory.high": "1"}}),
            "linux.resources.unified: \"memory.high\"",
            "",
        ),
        (
            json!({"unified": {"../memory.high": "1"}}),
            "linux.resources.unified",
            "linux.resources.unified: \"../memory.high\"",
        ),
        (
            json!({"network": {"classID": 1}}),
            "",
            "linux.resources.network.classID: 1",
        ),
        (
            json!({"cpu": {"realtimeRuntime": 1}}),
            "",
            "linux.resources.cpu.realtimeRuntime: 1",
        ),
    ] {
        let resources = resources(value.clone());
        for (result, expected) in [
            (v1::settings(&resources), v1_error),
            (v2::settings(&resources), v2_error),
        ] {
            let error = result
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(error.starts_with(expected), "{value}: {error}");
            assert_eq!(error.is_empty(), expected.is_empty(), "{value}: {error}");
        }
    }
}

#[test]
fn shares_meet_weights_at_least_default_and_most() {
    for (shares, weight) in [
        (1, 1),
        (2, 1),
        (1024, 100),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ] {
        let cpu = resources(json!({"cpu": {"shares": shares}}));
        let expected = format!("cpu.weight={weight}");
        assert_eq!(written(v2::settings(&cpu)), [expected]);
    }
}
