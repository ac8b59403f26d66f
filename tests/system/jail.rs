//! Where a guest that breaks out of its machine lands: the process that stands for the container,
//! and QEMU where that is below it.

use std::collections::HashMap;
use std::fs;

use nix::sys::{ptrace, wait};
use nix::unistd::Pid;
use runvm_tests::{Container, Input, Running, Runtime, children_of, vm_only};

vm_only! {
    the_vmm_sees_an_empty_directory_and_itself,
    no_thread_of_the_vmm_keeps_more_than_its_work_takes,
    the_stand_in_of_an_execed_process_has_no_power,
    the_vmm_cannot_reach_the_containers_record,
    a_forbidden_system_call_ends_the_microvm_and_delete_tells_which,
}

/// What a thread that serves files may keep: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID,
/// SETGID, SETUID, MKNOD and SETFCAP (linux/capability.h).
const OF_FILE_SERVERS: u64 =
    1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 27 | 1 << 31;

fn sleeper(runtime: &Runtime) -> Container<'_> {
    let bundle = runtime.bundle().shell("sleep 1000 & echo ready; wait");
    let container = runtime.create(&bundle);
    container.start();
    container.output().wait_for("ready\n");
    container
}

/// The VMM process and those that it started.
fn processes(container: &Container<'_>) -> Vec<i32> {
    let vmm = container.state().pid;
    [vec![vmm], children_of(vmm)].concat()
}

fn names_in(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{directory}: {error}"));
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect()
}

fn the_vmm_sees_an_empty_directory_and_itself(runtime: &Runtime) {
    let container = sleeper(runtime);
    for pid in processes(&container) {
        for kind in ["mnt", "pid", "ipc", "uts"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            assert_ne!(of(&pid.to_string()), of("self"), "{kind} of {pid}");
        }
        assert_eq!(names_in(&format!("/proc/{pid}/root")), ["proc"]);
        assert_eq!(names_in(&format!("/proc/{pid}/cwd")), ["proc"]);
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        assert_eq!(mounts.lines().count(), 2, "{mounts}");
        let shown = names_in(&format!("/proc/{pid}/root/proc"));
        assert!(!shown.iter().any(|name| name == "sys"), "{shown:?}");
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let core: Vec<_> = core.unwrap().split_whitespace().collect();
        assert_eq!(core[4..6], ["0", "0"], "{limits}");
    }
    container.end();
}

/// What the kernel says of each thread of `pid`.
fn statuses(pid: i32) -> Vec<Status> {
    let status = |thread: String| {
        // One that has just done its work is gone.
        let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).ok()?;
        let lines = text.lines().filter_map(|line| line.split_once(":\t"));
        let pairs = lines.map(|(key, value)| (key.into(), value.into()));
        Some(Status(pairs.collect()))
    };
    let threads = names_in(&format!("/proc/{pid}/task"));
    threads.into_iter().filter_map(status).collect()
}

#[derive(Debug)]
struct Status(HashMap<String, String>);

impl Status {
    /// It has no capabilities but some of `may`, and cannot get any.
    #[track_caller]
    fn has_no_power_but(&self, may: u64) {
        assert_eq!(self.0["NoNewPrivs"], "1", "{self:?}");
        for (set, may) in [
            ("CapInh", 0),
            ("CapBnd", 0),
            ("CapAmb", 0),
            ("CapEff", may),
            ("CapPrm", may),
        ] {
            let has = u64::from_str_radix(&self.0[set], 16).unwrap();
            assert_eq!(has & !may, 0, "{set}: {self:?}");
        }
    }
}

fn no_thread_of_the_vmm_keeps_more_than_its_work_takes(runtime: &Runtime) {
    let container = sleeper(runtime);
    let threads: Vec<_> = processes(&container)
        .into_iter()
        .flat_map(statuses)
        .collect();
    let serves_files = |status: &Status| status.0["Name"].starts_with("fs-");
    assert!(threads.iter().any(serves_files));
    for status in &threads {
        // A filter (seccomp(2)).
        assert_eq!(status.0["Seccomp"], "2", "{status:?}");
        let may = if serves_files(status) {
            OF_FILE_SERVERS
        } else {
            0
        };
        status.has_no_power_but(may);
    }
    container.end();
}

fn the_stand_in_of_an_execed_process_has_no_power(runtime: &Runtime) {
    let container = sleeper(runtime);
    let command = container.exec_command(&[], &["sh", "-c", "echo in; read x"]);
    let mut exec = Running::spawn(command, Input::Pipe);
    exec.output().wait_for("in\n");
    let stand_ins = children_of(exec.process().pid());
    assert_eq!(stand_ins.len(), 1);
    for status in stand_ins.into_iter().flat_map(statuses) {
        status.has_no_power_but(0);
    }
    exec.write("\n");
    exec.finish().exits(0);
    container.end();
}

fn the_vmm_cannot_reach_the_containers_record(runtime: &Runtime) {
    let container = sleeper(runtime);
    let record = runtime.root().join(container.id());
    assert!(record.join("state.json").exists());
    for pid in processes(&container) {
        for number in names_in(&format!("/proc/{pid}/fd")) {
            let Ok(target) = fs::read_link(format!("/proc/{pid}/fd/{number}")) else {
                continue;
            };
            assert_ne!(target, record, "descriptor {number} of {pid}");
            assert!(!target.ends_with("state.json"), "{}", target.display());
        }
    }
    container.end();
}

/// Has the thread called `name` of `pid` make system call `number` when it has done its present one.
fn make_call(pid: i32, name: &str, number: u64) {
    let is_named = |thread: &String| {
        fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm"))
            .is_ok_and(|comm| comm.trim() == name)
    };
    let mut threads = names_in(&format!("/proc/{pid}/task")).into_iter();
    let thread = threads.find(is_named).expect("it has such a thread");
    let thread = Pid::from_raw(thread.parse().unwrap());
    ptrace::attach(thread).unwrap();
    wait::waitpid(thread, Some(wait::WaitPidFlag::__WALL)).unwrap();
    let mut registers = ptrace::getregs(thread).unwrap();
    // It waits in a call: back to the instruction that makes one, of two bytes, with another number.
    registers.rip -= 2;
    registers.rax = number;
    registers.orig_rax = u64::MAX;
    ptrace::setregs(thread, registers).unwrap();
    ptrace::detach(thread, None).unwrap();
}

fn a_forbidden_system_call_ends_the_microvm_and_delete_tells_which(runtime: &Runtime) {
    let mut container = sleeper(runtime);
    // mount(2).
    make_call(container.state().pid, "vsock", 165);
    // As of a process killed by SIGSYS.
    container.finish().exits(128 + 31);
    assert_eq!(container.state().status, "stopped");
    let deleted = runtime.call(["delete", container.id()]).exits(0);
    let word = "the virtio-vsock thread of the VMM made system call 165, which its filter forbids";
    assert!(deleted.errors().contains(word), "{deleted}");
}
