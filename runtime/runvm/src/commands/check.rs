//! `runvm check`: what this host can do for each isolation, and why not.

use std::fs;
use std::path::{Path, PathBuf};

use runvm_sandbox::Settings;
use runvm_sandbox::microvm;
use runvm_systemd::{Instance, Manager};
use serde::Serialize;

use super::Session;
use crate::cli::Check;

/// One line of the answer.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    name: &'static str,
    /// Who needs it: `container`, `vm`, or both.
    isolation: &'static str,
    /// Whether it is there and can be used.
    available: bool,
    /// What was found, or why it cannot be used.
    detail: String,
}

impl Finding {
    fn new(name: &'static str, isolation: &'static str, found: Result<String, String>) -> Self {
        let available = found.is_ok();
        let detail = found.unwrap_or_else(|reason| reason);
        Self {
            name,
            isolation,
            available,
            detail,
        }
    }
}

/// `runvm check`: prints what this host can do.
pub(super) fn check(session: &Session<'_>, args: &Check) -> anyhow::Result<u8> {
    let settings = session.settings()?;
    let mut findings = vec![
        Finding::new("namespaces", "container", namespaces()),
        Finding::new("user namespaces", "container", user_namespaces()),
        Finding::new("cgroups", "container, vm", cgroups()),
        Finding::new(
            "systemd",
            "container, vm",
            systemd(session.service_manager()),
        ),
        Finding::new("seccomp", "container", seccomp()),
        Finding::new("security modules", "container", security_modules()),
        Finding::new("criu", "container", criu()),
    ];
    findings.push(Finding::new(
        "container isolation",
        "container",
        usable(&findings),
    ));
    findings.extend(microvm_findings(&settings));
    print(&findings, args.json)?;
    Ok(0)
}

fn microvm_findings(settings: &Settings) -> Vec<Finding> {
    let rung = microvm::choose_hypervisor(settings);
    let mut findings = vec![
        Finding::new("kvm", "vm", microvm::kvm_usable()),
        Finding::new("nested paging", "vm", nested_paging()),
        Finding::new(
            "qemu",
            "vm",
            microvm::find_qemu(settings).map(display).map_err(chain),
        ),
        Finding::new("guest kernel", "vm", file(&settings.kernel_path())),
        Finding::new("guest initramfs", "vm", file(&settings.initramfs_path())),
        Finding::new("tun", "vm", file(Path::new("/dev/net/tun"))),
        Finding::new("iommu", "vm", iommu()),
        Finding::new("huge pages", "vm", huge_pages()),
        Finding::new("transparent huge pages", "vm", transparent_huge_pages()),
        Finding::new("ksm", "vm", ksm()),
    ];
    let missing: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.name.starts_with("guest ") || finding.name == "tun")
        .filter(|finding| !finding.available)
        .map(|finding| finding.name)
        .collect();
    let vm = match rung {
        Ok(choice) if missing.is_empty() => Ok(choice.to_string()),
        Ok(_) => Err(format!("missing: {}", missing.join(", "))),
        Err(error) => Err(chain(error)),
    };
    findings.push(Finding::new("vm isolation", "vm", vm));
    findings
}

fn print(findings: &[Finding], json: bool) -> anyhow::Result<()> {
    if json {
        return super::print(&serde_json::to_string_pretty(findings)?);
    }
    let lines: Vec<String> = findings
        .iter()
        .map(|finding| {
            let word = if finding.available { "yes" } else { "no" };
            format!("{:24} {word:4} {}", finding.name, finding.detail)
        })
        .collect();
    super::print(&lines.join("\n"))
}

/// What container isolation can do without, where it is not asked for.
const OPTIONAL: [&str; 3] = ["security modules", "criu", "systemd"];

/// Container isolation needs all that is `container`'s but what is optional.
fn usable(findings: &[Finding]) -> Result<String, String> {
    let missing: Vec<&str> = findings
        .iter()
        .filter(|finding| !finding.available && !OPTIONAL.contains(&finding.name))
        .map(|finding| finding.name)
        .collect();
    if missing.is_empty() {
        Ok("all it needs is here".into())
    } else {
        Err(format!("missing: {}", missing.join(", ")))
    }
}

fn namespaces() -> Result<String, String> {
    let (found, missing): (Vec<&str>, Vec<&str>) =
        ["user", "pid", "net", "ipc", "uts", "mnt", "cgroup", "time"]
            .into_iter()
            .partition(|kind| Path::new("/proc/self/ns").join(kind).exists());
    if missing.is_empty() {
        Ok(found.join(" "))
    } else {
        Err(format!(
            "the kernel has no {} namespaces",
            missing.join(" ")
        ))
    }
}

fn user_namespaces() -> Result<String, String> {
    let max = read("/proc/sys/user/max_user_namespaces")?;
    if max == "0" {
        return Err("switched off: user.max_user_namespaces is 0".into());
    }
    let for_all =
        read("/proc/sys/kernel/unprivileged_userns_clone").map_or(true, |word| word == "1");
    Ok(format!(
        "up to {max}, {}",
        if for_all {
            "for every user"
        } else {
            "for root alone"
        }
    ))
}

fn cgroups() -> Result<String, String> {
    if let Ok(controllers) = read("/sys/fs/cgroup/cgroup.controllers") {
        return Ok(format!("v2 unified: {controllers}"));
    }
    let mounts = read("/proc/self/mounts")?;
    let of_type = |fstype: &str| {
        mounts
            .lines()
            .filter(|line| line.split(' ').nth(2) == Some(fstype))
            .filter_map(|line| Path::new(line.split(' ').nth(1)?).file_name()?.to_str())
            .collect::<Vec<_>>()
    };
    match (of_type("cgroup"), of_type("cgroup2").is_empty()) {
        (v1, _) if v1.is_empty() => Err("no cgroup hierarchy is mounted".into()),
        (v1, true) => Ok(format!("v1: {}", v1.join(" "))),
        (v1, false) => Ok(format!("v1 hybrid: {}, and v2 beside them", v1.join(" "))),
    }
}

/// Whether `--systemd-cgroup` would find whom to ask.
fn systemd(instance: Instance) -> Result<String, String> {
    let manager = Manager::connect(instance).map_err(chain)?;
    let whose = match instance {
        Instance::System => "the system's manager",
        Instance::User => "the user's manager",
    };
    Ok(format!("{whose}, version {}", manager.version()))
}

fn seccomp() -> Result<String, String> {
    read("/proc/sys/kernel/seccomp/actions_avail")
        .map_err(|_| "the kernel has no seccomp filters".into())
}

fn security_modules() -> Result<String, String> {
    let active = read("/sys/kernel/security/lsm").unwrap_or_default();
    let labelling: Vec<&str> = active
        .split(',')
        .filter(|name| matches!(*name, "apparmor" | "selinux" | "landlock"))
        .collect();
    if labelling.is_empty() {
        Err("none of apparmor, selinux, landlock is active".into())
    } else {
        Ok(labelling.join(" "))
    }
}

fn criu() -> Result<String, String> {
    runvm_container::check_criu()
        .map(|version| version.to_string())
        .map_err(chain)
}

fn nested_paging() -> Result<String, String> {
    let parameters = [
        ("/sys/module/kvm_intel/parameters/ept", "EPT"),
        ("/sys/module/kvm_amd/parameters/npt", "NPT"),
    ];
    for (path, name) in parameters {
        if let Ok(value) = read(path) {
            return if matches!(value.as_str(), "Y" | "1") {
                Ok(name.into())
            } else {
                Err(format!("{name} is switched off ({path} is {value})"))
            };
        }
    }
    Err("neither kvm_intel nor kvm_amd is loaded".into())
}

fn iommu() -> Result<String, String> {
    let groups = fs::read_dir("/sys/kernel/iommu_groups").map_or(0, Iterator::count);
    if groups == 0 {
        Err("no IOMMU groups".into())
    } else {
        Ok(format!("{groups} groups"))
    }
}

fn huge_pages() -> Result<String, String> {
    let mut sizes: Vec<(u64, String)> = Vec::new();
    for entry in fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(kib) = name
            .strip_prefix("hugepages-")
            .and_then(|size| size.strip_suffix("kB")?.parse::<u64>().ok())
        else {
            continue;
        };
        let count = |file: &str| {
            fs::read_to_string(entry.path().join(file))
                .map_or("0".into(), |text| text.trim().to_owned())
        };
        let size = if kib >= 1 << 20 {
            format!("{} GiB", kib >> 20)
        } else {
            format!("{} MiB", kib >> 10)
        };
        sizes.push((
            kib,
            format!(
                "{size}: {} of {} free",
                count("free_hugepages"),
                count("nr_hugepages")
            ),
        ));
    }
    sizes.sort_unstable();
    if sizes.is_empty() {
        return Err("the kernel has no hugetlb pages".into());
    }
    Ok(sizes
        .into_iter()
        .map(|(_, text)| text)
        .collect::<Vec<_>>()
        .join(", "))
}

fn transparent_huge_pages() -> Result<String, String> {
    let modes = read("/sys/kernel/mm/transparent_hugepage/enabled")
        .map_err(|_| String::from("the kernel has none"))?;
    let mode = modes.split(['[', ']']).nth(1).unwrap_or(&modes).to_owned();
    if mode == "never" {
        Err("switched off (never)".into())
    } else {
        Ok(mode)
    }
}

fn ksm() -> Result<String, String> {
    match read("/sys/kernel/mm/ksm/run")
        .map_err(|_| String::from("the kernel has none"))?
        .as_str()
    {
        "1" => Ok(format!(
            "running, {} pages shared",
            read("/sys/kernel/mm/ksm/pages_shared")?
        )),
        state => Err(format!(
            "there, not running (/sys/kernel/mm/ksm/run is {state})"
        )),
    }
}

fn file(path: &Path) -> Result<String, String> {
    fs::metadata(path)
        .map(|_| path.display().to_string())
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|error| format!("{path}: {error}"))
}

fn display(path: PathBuf) -> String {
    path.display().to_string()
}

fn chain(error: impl std::error::Error + Send + Sync + 'static) -> String {
    crate::logger::one_line(&error.into())
}
