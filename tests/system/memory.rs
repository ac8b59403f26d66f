//! Memory of a microVM that the guest has no use for, and the host gets back.

use std::fs;
use std::time::{Duration, Instant};

use runvm_tests::{Container, Runtime, children_of, patience, vm_only};

vm_only! {
    memory_that_the_guest_frees_goes_back_to_the_host,
    a_lower_limit_takes_memory_out_of_the_guest_and_a_higher_one_gives_it_back,
    the_guest_has_a_source_of_entropy,
}

const KIB_A_MIB: u64 = 1024;

/// The resident memory of the VMM process and QEMU, in KiB.
fn resident(container: &Container<'_>) -> u64 {
    let vmm = container.state().pid;
    let of = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.unwrap().trim().trim_end_matches(" kB");
        number.parse::<u64>().unwrap()
    };
    // Both have the guest's memory mapped, where there are both.
    [vec![vmm], children_of(vmm)]
        .concat()
        .iter()
        .map(of)
        .max()
        .unwrap()
}

/// The figure `name` of the guest's /proc/meminfo, in KiB.
#[track_caller]
fn guests(container: &Container<'_>, name: &str) -> u64 {
    let all = container.exec(&["cat", "/proc/meminfo"]).exits(0).output();
    let line = all.lines().find(|line| line.starts_with(name));
    let figure = line.and_then(|line| line.split_whitespace().nth(1));
    figure.expect("the kernel has it").parse().unwrap()
}

/// Waits until `is_so`, for what comes with no word of it.
#[track_caller]
fn until(mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < patience(), "it never came to be");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn memory_that_the_guest_frees_goes_back_to_the_host(runtime: &Runtime) {
    let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=100 2>/dev/null; echo full
        read x; rm /dev/shm/x; echo empty; read x";
    let bundle = runtime.bundle().shell(script).edit(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        let shm = mounts.iter_mut().find(|m| m["destination"] == "/dev/shm");
        shm.unwrap()["options"] = serde_json::json!(["nosuid", "nodev"]);
    });
    let mut container = runtime.spawn_run(&bundle, runvm_tests::Input::Pipe);
    container.output().wait_for("full\n");
    let full = resident(&container);
    assert!(full > 100 * KIB_A_MIB, "{full} KiB");
    container.running().write("\n");
    container.output().wait_for("empty\n");
    // Not all of it: free memory is reported in pieces of 2 MiB.
    until(|| resident(&container) + 60 * KIB_A_MIB < full);
    container.running().write("\n");
    container.finish().exits(0);
}

fn a_lower_limit_takes_memory_out_of_the_guest_and_a_higher_one_gives_it_back(runtime: &Runtime) {
    let bundle = runtime.bundle().args(&["sleep", "1000"]).edit(|config| {
        config["linux"]["resources"]["memory"]["limit"] = (256_u64 << 20).into();
    });
    let container = runtime.create(&bundle);
    container.start();
    let before = guests(&container, "MemFree:");
    let limit = |bytes: &str| {
        runtime
            .call(["update", "--memory", bytes, container.id()])
            .prints("")
    };
    limit("64M");
    until(|| guests(&container, "MemFree:") + 150 * KIB_A_MIB < before);
    limit("256M");
    until(|| guests(&container, "MemFree:") + 50 * KIB_A_MIB > before);
    container.end();
}

fn the_guest_has_a_source_of_entropy(runtime: &Runtime) {
    let rng = "/sys/class/misc/hw_random/rng_current";
    runtime
        .run(&runtime.bundle().args(&["cat", rng]))
        .prints("virtio_rng.0\n");
}
