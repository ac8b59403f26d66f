//! What a test leaves on the host. Everything of a test has the name of its scratch directory in its
//! own name, so it can be found by that.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Runtime;

/// What is left of a test on the host, a line each.
pub fn leftovers(runtime: &Runtime) -> Vec<String> {
    let mut left = traces_of(runtime.scratch().name());
    for entry in fs::read_dir(runtime.root()).into_iter().flatten().flatten() {
        left.push(format!("state: {}", entry.path().display()));
    }
    let taps = taps()
        .into_iter()
        .filter(|tap| !runtime.taps_before().contains(tap));
    left.extend(taps.map(|tap| format!("tap: {tap}")));
    left
}

/// The processes, mounts, sockets and cgroups on the host that have `name` in theirs, a line each.
pub fn traces_of(name: &str) -> Vec<String> {
    let processes = processes_of(name).into_iter();
    let mut traces: Vec<String> = processes
        .map(|(pid, how)| format!("process: {pid}, {how}"))
        .collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    traces.extend(lines_with(&mounts, name).map(|line| format!("mount: {line}")));
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    traces.extend(lines_with(&sockets, name).map(|line| format!("socket: {line}")));
    traces.extend(
        cgroups_of(name)
            .iter()
            .map(|path| format!("cgroup: {}", path.display())),
    );
    traces
}

/// The host's tun and tap devices.
pub(crate) fn taps() -> Vec<String> {
    let links = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten();
    links
        .filter(|link| link.path().join("tun_flags").exists())
        .map(|link| link.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The cgroups, in all hierarchies, whose name contains `name`.
pub fn cgroups_of(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect_cgroups(Path::new("/sys/fs/cgroup"), name, &mut found);
    found
}

fn collect_cgroups(directory: &Path, name: &str, found: &mut Vec<PathBuf>) {
    // A cgroup that another test removes meanwhile is none of this one's.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(name) {
            found.push(entry.path());
        }
        collect_cgroups(&entry.path(), name, found);
    }
}

/// The processes that have the name in their command line, cgroups, mounts or open files, and how.
pub(crate) fn processes_of(name: &str) -> Vec<(i32, String)> {
    let own_pid = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let Ok(number) = pid.parse() else { continue };
        // A process without a command line is a zombie, or the kernel's.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.is_empty() || pid == own_pid {
            continue;
        }
        if let Some(how) = tie(&entry.path(), &line, name) {
            found.push((number, format!("by its {how}: {line}")));
        }
    }
    found
}

/// What ties a process to the name.
fn tie(process: &Path, line: &str, name: &str) -> Option<&'static str> {
    let file_has =
        |file: &str| fs::read_to_string(process.join(file)).is_ok_and(|text| text.contains(name));
    if line.contains(name) {
        Some("command line")
    } else if file_has("cgroup") {
        Some("cgroup")
    } else if file_has("mountinfo") {
        Some("mounts")
    } else if opens(process, name) {
        Some("open file")
    } else {
        None
    }
}

fn opens(process: &Path, name: &str) -> bool {
    let files = fs::read_dir(process.join("fd"))
        .into_iter()
        .flatten()
        .flatten();
    files
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|target| target.to_string_lossy().contains(name))
}

fn lines_with<'t>(text: &'t str, name: &'t str) -> impl Iterator<Item = &'t str> {
    text.lines().filter(move |line| line.contains(name))
}
