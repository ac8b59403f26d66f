//! Against the real thing: these need root and a cgroup file system, and say so when they skip.

use std::error::Error;
use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use runvm_oci::LinuxResources;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::*;

mod observed;

fn resources(value: Value) -> LinuxResources {
    serde_json::from_value(value).unwrap()
}

/// Whether there are cgroups we may make; said aloud if not.
fn is_possible() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(
        || match Cgroup::create(None, &name("probe"), &LinuxResources::default()) {
            Ok(cgroup) => cgroup.delete().is_ok(),
            Err(error) => {
                let why = error.source().map(ToString::to_string).unwrap_or_default();
                eprintln!("skipped: no cgroup can be made here: {error}: {why}");
                false
            }
        },
    )
}

fn is_v2_only(cgroup: &Cgroup) -> bool {
    cgroup
        .places
        .iter()
        .all(|place| place.version == Version::V2)
}

fn name(test: &str) -> String {
    format!("runvm-test-{}-{test}", std::process::id())
}

/// A cgroup that is gone at the end, whatever happens.
struct Scratch(Cgroup);

impl Scratch {
    fn new(test: &str, value: Value) -> Self {
        Self(Cgroup::create(None, &name(test), &resources(value)).unwrap())
    }

    /// The path of `file` in the hierarchy of a v1 controller, or in the unified one.
    fn file(&self, controller: &str, file: &str) -> PathBuf {
        let place = self.0.place_of(controller).or(self.0.unified()).unwrap();
        place.full_path().join(file)
    }

    fn read(&self, controller: &str, file: &str) -> String {
        fs::read_to_string(self.file(controller, file))
            .unwrap()
            .trim()
            .to_owned()
    }

    fn directories(&self) -> Vec<PathBuf> {
        self.0.places.iter().map(Place::full_path).collect()
    }

    /// Runs `script` by a shell that first enters the cgroup by itself, through [`Entry`].
    fn spawn(&self, script: &str) -> Child {
        self.spawn_into(self.0.entry().unwrap(), script)
    }

    #[expect(clippy::needless_pass_by_value, reason = "it is used up")]
    fn spawn_into(&self, entry: Entry, script: &str) -> Child {
        let here = format!("/proc/{}/fd", std::process::id());
        let mut ways: Vec<String> = entry
            .tasks
            .iter()
            .map(|tasks| format!("{here}/{}", tasks.as_raw_fd()))
            .collect();
        if let Some(unified) = &entry.unified {
            ways.push(format!("{here}/{}/cgroup.procs", unified.as_raw_fd()));
        }
        let enter: String = ways
            .iter()
            .map(|way| format!("echo 0 > {way} || exit 1; "))
            .collect();
        let mut child = Command::new("sh")
            .args(["-c", &format!("{enter} echo in; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The entry must stay open until the child has used it.
        assert_eq!(next_line(&mut child), "in");
        child
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.0.thaw();
        let _ = self.0.kill();
        let _ = self.0.delete();
    }
}

/// Reads a line byte by byte, so that what follows stays for the next call.
fn next_line(child: &mut Child) -> String {
    let stdout = child.stdout.as_mut().unwrap();
    let mut line = Vec::new();
    let mut byte = [0];
    while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    String::from_utf8(line).unwrap()
}

#[test]
fn limits_are_what_was_asked_for() {
    if !is_possible() {
        return;
    }
    let cgroup = Scratch::new(
        "limits",
        json!({
            "memory": {"limit": 64 << 20, "swap": 128 << 20},
            "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0"},
            "pids": {"limit": 20},
        }),
    );
    let table = if is_v2_only(&cgroup.0) {
        [
            ("memory", "memory.max", "67108864"),
            ("cpu", "cpu.weight", "100"),
            ("cpu", "cpu.max", "50000 100000"),
            ("cpuset", "cpuset.cpus", "0"),
            ("pids", "pids.max", "20"),
        ]
    } else {
        [
            ("memory", "memory.limit_in_bytes", "67108864"),
            ("cpu", "cpu.shares", "1024"),
            ("cpu", "cpu.cfs_quota_us", "50000"),
            ("cpuset", "cpuset.cpus", "0"),
            ("pids", "pids.max", "20"),
        ]
    };
    for (controller, file, value) in table {
        assert_eq!(cgroup.read(controller, file), value, "{file}");
    }
}

#[test]
fn an_update_raises_and_lowers_memory_with_swap() {
    if !is_possible() {
        return;
    }
    let cgroup = Scratch::new(
        "update",
        json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}}),
    );
    let file = if is_v2_only(&cgroup.0) {
        "memory.max"
    } else {
        "memory.limit_in_bytes"
    };
    for (limit, swap) in [(256 << 20, 512 << 20), (32 << 20, 32 << 20), (48 << 20, -1)] {
        cgroup
            .0
            .update(&resources(
                json!({"memory": {"limit": limit, "swap": swap}}),
            ))
            .unwrap();
        assert_eq!(cgroup.read("memory", file), limit.to_string());
    }
    let error = cgroup
        .0
        .update(&resources(json!({"cpu": {"period": 1}})))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot set linux.resources.cpu.period: "),
        "{error}"
    );
}

#[test]
fn a_failed_create_leaves_nothing() {
    if !is_possible() {
        return;
    }
    let id = name("undone");
    let path = format!("{id}/deep/er");
    let error =
        Cgroup::create(Some(&path), &id, &resources(json!({"cpu": {"period": 1}}))).unwrap_err();
    assert!(
        error.to_string().contains("linux.resources.cpu.period"),
        "{error}"
    );
    let probe = Cgroup::create(Some(&path), &id, &LinuxResources::default()).unwrap();
    let all_new = probe.record().places.iter().all(|place| place.made == 3);
    probe.delete().unwrap();
    assert!(all_new, "directories of the failed create were still there");
}

#[test]
fn delete_removes_what_was_made_and_what_grew_below_and_can_be_repeated() {
    if !is_possible() {
        return;
    }
    let id = name("delete");
    let cgroup =
        Cgroup::create(Some(&format!("{id}/a/b")), &id, &LinuxResources::default()).unwrap();
    let record = cgroup.record();
    for place in &cgroup.places {
        fs::create_dir_all(place.full_path().join("x/y")).unwrap();
    }
    let tops: Vec<PathBuf> = cgroup
        .places
        .iter()
        .map(|place| place.full_path().ancestors().nth(2).unwrap().to_owned())
        .collect();
    let again = Cgroup::open(&record).unwrap();
    again.delete().unwrap();
    again.delete().unwrap();
    for top in tops {
        assert!(top.ends_with(&id) && !top.exists(), "{}", top.display());
    }
    let gone = Cgroup::open(&record).unwrap();
    assert_eq!(gone.pids().unwrap(), Vec::<u32>::new());
    gone.kill().unwrap();
    gone.delete().unwrap();
}

#[test]
fn delete_leaves_a_parent_that_others_use() {
    if !is_possible() {
        return;
    }
    let id = name("shared");
    let make = |path: &str| {
        Cgroup::create(
            Some(&format!("{id}/{path}")),
            &id,
            &LinuxResources::default(),
        )
        .unwrap()
    };
    let (first, second) = (make("one"), make("two"));
    first.delete().unwrap();
    let kept = second.places.iter().all(|place| place.full_path().exists());
    second.delete().unwrap();
    let parent = first.places[0].full_path().parent().unwrap().to_owned();
    assert!(kept);
    // Made by the first, which left it for the second: it goes with whoever made it, or stays.
    let _ = first.delete();
    assert!(!parent.exists());
}

#[test]
fn a_cgroup_in_use_is_refused() {
    if !is_possible() {
        return;
    }
    let cgroup = Scratch::new("in-use", json!({}));
    let mut child = cgroup.spawn("read line");
    let error = Cgroup::create(None, &name("in-use"), &LinuxResources::default()).unwrap_err();
    assert!(
        matches!(error, CgroupError::InUse { pid, .. } if pid == child.id()),
        "{error}"
    );
    assert!(cgroup.directories().iter().all(|path| path.exists()));
    drop(child.stdin.take());
    child.wait().unwrap();
    let taken = Cgroup::create(None, &name("in-use"), &LinuxResources::default()).unwrap();
    assert!(taken.record().places.iter().all(|place| place.made == 0));
}

#[test]
fn a_cgroup_that_is_frozen_is_refused() {
    if !is_possible() {
        return;
    }
    let cgroup = Scratch::new("frozen", json!({}));
    cgroup.0.freeze().unwrap();
    let error = Cgroup::create(None, &name("frozen"), &LinuxResources::default()).unwrap_err();
    assert!(matches!(error, CgroupError::Frozen { .. }), "{error}");
    let below = format!("{}/below", name("frozen"));
    let error = Cgroup::create(Some(&below), "below", &LinuxResources::default()).unwrap_err();
    assert!(matches!(error, CgroupError::Frozen { .. }), "{error}");
    assert!(
        cgroup
            .directories()
            .iter()
            .all(|path| path.exists() && !path.join("below").exists())
    );
    cgroup.0.thaw().unwrap();
}

#[test]
fn a_child_enters_every_hierarchy() {
    if !is_possible() {
        return;
    }
    let cgroup = Scratch::new("enter", json!({}));
    let mut child = cgroup.spawn("read line");
    for place in &cgroup.0.places {
        assert_eq!(
            processes::pids(place).unwrap(),
            [child.id()],
            "{}",
            place.full_path().display()
        );
    }
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(cgroup.0.pids().unwrap(), Vec::<u32>::new());
}

/// The state letter of a process (proc_pid_stat(5)) and the time it has used.
fn cpu_time(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_frozen_process_stands_still_until_it_is_thawed() {
    if !is_possible() {
        return;
    }
    let cgroup = Scratch::new("freeze", json!({}));
    let mut child = cgroup.spawn("while :; do :; done");
    assert!(!cgroup.0.is_frozen().unwrap());
    cgroup.0.freeze().unwrap();
    assert!(cgroup.0.is_frozen().unwrap());
    let before = cpu_time(child.id());
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(cpu_time(child.id()), before);
    cgroup.0.freeze().unwrap();
    cgroup.0.thaw().unwrap();
    assert!(!cgroup.0.is_frozen().unwrap());
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
}

#[test]
fn kill_ends_all_processes_even_frozen_ones() {
    if !is_possible() {
        return;
    }
    let cgroup = Scratch::new("kill", json!({}));
    let mut child = cgroup.spawn("for i in 1 2 3 4 5; do sleep 1000 & done; echo all; wait");
    assert_eq!(next_line(&mut child), "all");
    assert_eq!(cgroup.0.pids().unwrap().len(), 6);
    cgroup.0.freeze().unwrap();
    cgroup.0.kill().unwrap();
    child.wait().unwrap();
    cgroup.0.delete().unwrap();
    assert!(cgroup.directories().iter().all(|path| !path.exists()));
}

#[test]
fn devices_are_denied_unless_allowed() {
    if !is_possible() {
        return;
    }
    let kmsg = Path::new("/dev/kmsg");
    if fs::File::open(kmsg).is_err() {
        eprintln!("skipped: /dev/kmsg cannot be opened here anyway");
        return;
    }
    let cgroup = Scratch::new("devices", json!({}));
    let open = |cgroup: &Scratch| {
        let mut child =
            cgroup.spawn("exec 2>/dev/null; (: < /dev/kmsg) && echo open || echo denied");
        let answer = next_line(&mut child);
        child.wait().unwrap();
        answer
    };
    assert_eq!(open(&cgroup), "denied");
    let allow = json!({"devices": [{"allow": false}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]});
    cgroup.0.update(&resources(allow)).unwrap();
    assert_eq!(open(&cgroup), "open");
    cgroup.0.update(&resources(json!({"devices": []}))).unwrap();
    assert_eq!(open(&cgroup), "denied");
    cgroup
        .0
        .update(&resources(json!({"devices": [{"allow": true}]})))
        .unwrap();
    assert_eq!(open(&cgroup), "open");
    cgroup
        .0
        .update(&resources(json!({"memory": {"limit": 64 << 20}})))
        .unwrap();
    assert_eq!(open(&cgroup), "open");
}

#[test]
fn a_controller_that_is_not_there_is_named() {
    if !is_possible() {
        return;
    }
    for (value, field) in [
        (
            json!({"rdma": {"x": {"hcaHandles": 1}}}),
            "linux.resources.rdma",
        ),
        (
            json!({"network": {"classID": 1}}),
            "linux.resources.network.classID",
        ),
        (
            json!({"hugepageLimits": [{"pageSize": "3KB", "limit": 1}]}),
            "linux.resources.hugepageLimits",
        ),
    ] {
        let id = name("absent");
        match Cgroup::create(None, &id, &resources(value)) {
            Err(error) => assert!(error.to_string().contains(field), "{error}"),
            Ok(cgroup) => {
                cgroup.delete().unwrap();
                eprintln!("{field} can be set on this host");
            }
        }
    }
}

#[test]
fn hugetlb_is_set_where_only_the_unified_hierarchy_has_it() {
    if !is_possible() {
        return;
    }
    let limit = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]});
    match Cgroup::create(None, &name("hugetlb"), &resources(limit)) {
        Ok(cgroup) => {
            let cgroup = Scratch(cgroup);
            let unified = cgroup.file("hugetlb", "hugetlb.2MB.max");
            if unified.exists() {
                assert_eq!(fs::read_to_string(unified).unwrap().trim(), "4194304");
            }
        }
        Err(error) => eprintln!("skipped: no hugetlb here: {error}"),
    }
}

#[test]
fn a_record_with_a_path_that_leads_elsewhere_is_refused() {
    for path in ["../x", "a/../../x", "a\0"] {
        let record = CgroupRecord {
            places: vec![PlaceRecord {
                mount: "/sys/fs/cgroup".into(),
                path: path.into(),
                controllers: Vec::new(),
                made: 1,
            }],
        };
        assert!(matches!(
            Cgroup::open(&record),
            Err(CgroupError::Path { .. })
        ));
    }
    let record = CgroupRecord {
        places: vec![PlaceRecord {
            mount: "/tmp".into(),
            path: "x".into(),
            controllers: Vec::new(),
            made: 1,
        }],
    };
    assert!(matches!(
        Cgroup::open(&record),
        Err(CgroupError::NotACgroup { .. })
    ));
}

#[test]
fn a_parent_with_processes_hands_down_no_controllers_and_is_named() {
    if !is_possible() {
        return;
    }
    let parent = Scratch::new("busy", json!({}));
    if !is_v2_only(&parent.0) {
        eprintln!("skipped: the rule is cgroup v2's");
        return;
    }
    let mut child = parent.spawn("read line");
    let path = format!("{}/below", name("busy"));
    let limit = resources(json!({"memory": {"limit": 64 << 20}}));
    let error = Cgroup::create(Some(&path), "below", &limit)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot set linux.resources.memory.limit: no memory controller"),
        "{error}"
    );
    assert!(error.contains("has processes of its own"), "{error}");
    assert!(!parent.directories()[0].join("below").exists());
    // Without limits there is nothing to hand down.
    let below = Cgroup::create(Some(&path), "below", &LinuxResources::default()).unwrap();
    below.delete().unwrap();
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn a_threaded_parent_is_refused() {
    if !is_possible() {
        return;
    }
    let parent = Scratch::new("threaded", json!({}));
    if !is_v2_only(&parent.0) {
        eprintln!("skipped: the rule is cgroup v2's");
        return;
    }
    let threads = parent.directories()[0].join("threads");
    fs::create_dir(&threads).unwrap();
    fs::write(threads.join("cgroup.type"), "threaded").unwrap();
    let path = format!("{}/below", name("threaded"));
    let error = Cgroup::create(Some(&path), "below", &LinuxResources::default()).unwrap_err();
    assert!(
        matches!(&error, CgroupError::Threaded { kind, .. } if kind == "domain invalid"),
        "{error}"
    );
}

#[test]
fn a_memory_limit_below_the_usage_is_refused_where_that_is_to_be_checked() {
    if !is_possible() {
        return;
    }
    let cgroup = Scratch::new("check", json!({}));
    // Something in use: the pages of a child's stack and heap.
    let mut child = cgroup.spawn("read line");
    let limit = resources(json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}));
    let error = cgroup.0.update(&limit).unwrap_err();
    assert!(
        matches!(error, CgroupError::BelowUsage { limit: 4096, .. }),
        "{error}"
    );
    drop(child.stdin.take());
    child.wait().unwrap();
}
