use rustix::event::{PollFd, Timespec, poll};

use super::*;

#[test]
fn figures_are_those_of_the_processes() {
    if !is_possible() {
        return;
    }
    let cgroup = Scratch::new(
        "stats",
        json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 20}}),
    );
    let before = cgroup.0.stats().unwrap();
    assert_eq!((before.pids.current, before.pids.limit), (0, 20));
    let mut child = cgroup.spawn("i=0; while [ $i -lt 9999 ]; do i=$((i+1)); done; echo; read l");
    assert_eq!(next_line(&mut child), "");
    let stats = cgroup.0.stats().unwrap();
    assert_eq!(stats.pids.current, 1);
    assert!(stats.cpu.total_ns > before.cpu.total_ns);
    assert_eq!(stats.memory.usage.limit, 64 << 20);
    assert!((1..=64 << 20).contains(&stats.memory.usage.current));
    assert!(!stats.memory.raw.is_empty());
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn a_cgroup_that_is_gone_has_no_figures() {
    if !is_possible() {
        return;
    }
    let cgroup = Scratch::new("stats-gone", json!({}));
    let again = Cgroup::open(&cgroup.0.record()).unwrap();
    cgroup.0.delete().unwrap();
    assert_eq!(again.stats().unwrap().memory, Stats::default().memory);
}

fn wait_for_news(watch: &mut OomWatch) -> OomNews {
    let timeout = Timespec::try_from(std::time::Duration::from_secs(60)).unwrap();
    let interest = watch.interest();
    let count = poll(&mut [PollFd::new(watch, interest)], Some(&timeout));
    assert_eq!(count, Ok(1), "no news");
    watch.news().unwrap()
}

#[test]
fn a_lack_of_memory_is_told_and_the_end_of_the_cgroup() {
    if !is_possible() {
        return;
    }
    let memory = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    let cgroup = Scratch::new("oom", memory);
    let mut watch = cgroup.0.watch_oom().unwrap();
    assert_eq!(watch.news().unwrap(), OomNews::Nothing);
    let mut child = cgroup.spawn("x=x; while :; do x=$x$x; done");
    // Another limit may be hit before, which is news of nothing.
    let mut news = wait_for_news(&mut watch);
    while news == OomNews::Nothing {
        news = wait_for_news(&mut watch);
    }
    assert_eq!(news, OomNews::Oom);
    child.wait().unwrap();
    cgroup.0.delete().unwrap();
    // On v2 what is open of a cgroup that has gone tells of no change.
    if !is_v2_only(&cgroup.0) {
        assert_eq!(wait_for_news(&mut watch), OomNews::Gone);
    }
}

#[test]
fn a_child_enters_cgroups_below() {
    if !is_possible() {
        return;
    }
    let cgroup = Scratch::new("below", json!({}));
    for directory in cgroup.directories() {
        fs::create_dir(directory.join("sub")).unwrap();
    }
    let (below, place) = if is_v2_only(&cgroup.0) {
        ("sub", cgroup.0.unified().unwrap())
    } else {
        ("pids:sub", cgroup.0.place_of("pids").unwrap())
    };
    let below = SubCgroup::parse(below).unwrap();
    let entry = cgroup.0.entry_below(std::slice::from_ref(&below)).unwrap();
    let mut child = cgroup.spawn_into(entry, "read line");
    let members = fs::read_to_string(place.full_path().join("sub/cgroup.procs")).unwrap();
    assert_eq!(members.trim(), child.id().to_string());
    drop(child.stdin.take());
    child.wait().unwrap();

    let twice = [below.clone(), below];
    assert!(matches!(
        cgroup.0.entry_below(&twice),
        Err(SubCgroupError::Twice(_))
    ));
    for (text, kind) in [("x:sub", "NoController"), ("/no/such", "Open")] {
        let error = cgroup.0.entry_below(&[SubCgroup::parse(text).unwrap()]);
        let error = format!("{:?}", error.unwrap_err());
        assert!(error.starts_with(kind), "{error}");
    }
}

#[test]
fn an_update_keeps_what_it_does_not_name() {
    if !is_possible() {
        return;
    }
    let cgroup = Scratch::new("keep", json!({"cpu": {"quota": 20000, "period": 100_000}}));
    let update = |value| cgroup.0.update(&resources(value)).unwrap();
    update(json!({"cpu": {"period": 50000}}));
    if is_v2_only(&cgroup.0) {
        assert_eq!(cgroup.read("cpu", "cpu.max"), "20000 50000");
    } else {
        assert_eq!(cgroup.read("cpu", "cpu.cfs_quota_us"), "20000");
        assert_eq!(cgroup.read("cpu", "cpu.cfs_period_us"), "50000");
    }
}
