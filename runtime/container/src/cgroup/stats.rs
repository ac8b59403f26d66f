//! What a cgroup has used, read from the files of its controllers.
//!
//! Both versions come to one set of figures; where the kernel does not tell one, it is 0 or absent.
//! A controller that is not there is no error.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use super::place::Place;
use super::processes::is_gone;
use super::{Cgroup, CgroupError};

mod parse;
mod v1;
mod v2;

#[cfg(test)]
mod tests;

/// What a cgroup has used since it was made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time.
    pub cpu: CpuStats,
    /// The CPUs and memory nodes it may use; all empty on v2.
    pub cpuset: CpusetStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes and threads.
    pub pids: PidsStats,
    /// Block devices.
    pub block_io: BlockIoStats,
    /// Huge pages, by their size as the files have it ("2MB").
    pub hugetlb: BTreeMap<String, HugetlbStats>,
}

/// CPU time in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuStats {
    /// All of it.
    pub total_ns: u64,
    /// In the kernel.
    pub kernel_ns: u64,
    /// In user mode.
    pub user_ns: u64,
    /// All of it, by CPU; empty on v2.
    pub per_cpu_ns: Vec<u64>,
    /// In the kernel, by CPU; empty on v2.
    pub per_cpu_kernel_ns: Vec<u64>,
    /// In user mode, by CPU; empty on v2.
    pub per_cpu_user_ns: Vec<u64>,
    /// Periods of the quota that have gone by.
    pub periods: u64,
    /// Those in which it was used up.
    pub throttled_periods: u64,
    /// How long the cgroup had to wait for the next one.
    pub throttled_ns: u64,
    /// Time lost waiting; v2 alone.
    pub pressure: Option<Pressure>,
}

/// The cpuset of v1. See cpuset(7).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the file of its name")]
pub struct CpusetStats {
    pub cpus: Vec<u16>,
    pub mems: Vec<u16>,
    pub cpu_exclusive: u64,
    pub mem_exclusive: u64,
    pub mem_hardwall: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryStats {
    /// Of files.
    pub cache: u64,
    /// All of it.
    pub usage: MemoryUsage,
    /// Memory and swap together, on v2 too.
    pub with_swap: MemoryUsage,
    /// The kernel's; v1 alone.
    pub kernel: MemoryUsage,
    /// Of TCP's buffers; v1 alone.
    pub kernel_tcp: MemoryUsage,
    /// `memory.stat`.
    pub raw: BTreeMap<String, u64>,
    /// Time lost waiting; v2 alone.
    pub pressure: Option<Pressure>,
}

/// One kind of memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUsage {
    /// Now.
    pub current: u64,
    /// At most so far.
    pub peak: u64,
    /// At most allowed; the kernel's largest number is no limit.
    pub limit: u64,
    /// How often the limit was hit; v1 alone.
    pub failures: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// At most allowed; 0 is no limit.
    pub limit: u64,
}

/// Block devices, the cgroups below counted in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockIoStats {
    /// Bytes moved.
    pub service_bytes: Vec<DeviceCount>,
    /// Operations done.
    pub serviced: Vec<DeviceCount>,
    /// Operations waiting; v1 with BFQ's debugging alone, as are those below.
    pub queued: Vec<DeviceCount>,
    /// Nanoseconds from dispatch to completion.
    pub service_time: Vec<DeviceCount>,
    /// Nanoseconds spent waiting.
    pub wait_time: Vec<DeviceCount>,
    /// Operations merged into others.
    pub merged: Vec<DeviceCount>,
    /// Milliseconds of the device's time.
    pub time: Vec<DeviceCount>,
    /// Sectors moved.
    pub sectors: Vec<DeviceCount>,
    /// Time lost waiting; v2 alone.
    pub pressure: Option<Pressure>,
}

/// A figure of one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCount {
    /// The device's major number.
    pub major: u64,
    /// Its minor number.
    pub minor: u64,
    /// Of which operations, as v1 names them ("Read"); empty where they are not told apart.
    pub operation: String,
    /// The figure.
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugetlbStats {
    /// Now.
    pub current: u64,
    /// At most so far; v1 alone.
    pub peak: u64,
    /// How often the limit was hit.
    pub failures: u64,
}

/// Time lost waiting for a resource. See Documentation/accounting/psi.rst of the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// By some of the processes.
    pub some: Stall,
    /// By all of them at once.
    pub full: Stall,
}

/// Shares of time in percent over the last 10, 60 and 300 seconds, and the sum in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the word of its name")]
pub struct Stall {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total_us: u64,
}

/// The files of one cgroup directory.
trait Files {
    /// Reads a file; `None` when the kernel does not have it.
    fn read(&self, name: &str) -> Result<Option<String>, ReadError>;
}

/// A file that tells no figures.
#[derive(Debug)]
struct ReadError {
    file: String,
    source: io::Error,
}

impl ReadError {
    /// The file says what no kernel says.
    fn odd(file: &str, text: &str) -> Self {
        let text: String = text.chars().take(80).collect();
        Self {
            file: file.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, format!("it says {text:?}")),
        }
    }
}

impl Files for Place {
    fn read(&self, name: &str) -> Result<Option<String>, ReadError> {
        // The method of the same name of the type itself.
        match Place::read(self, name) {
            Ok(text) => Ok(Some(text)),
            Err(error) if is_gone(&error) || is_absent(&error) => Ok(None),
            Err(source) => Err(ReadError {
                file: name.to_owned(),
                source,
            }),
        }
    }
}

/// Pressure files are there and refuse to be read where the kernel was told not to count
/// (`psi=0`).
fn is_absent(error: &io::Error) -> bool {
    super::settings::is_errno(error, rustix::io::Errno::OPNOTSUPP)
}

/// The sizes of huge pages of this host, as the files of the hugetlb controller name them.
fn huge_page_sizes() -> Vec<String> {
    // A kernel without huge pages has no such directory.
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages");
    let names = entries.into_iter().flatten().flatten();
    let sizes = names.filter_map(|entry| parse::huge_page_size(entry.file_name().to_str()?));
    sizes.collect()
}

impl Cgroup {
    /// What the cgroup has used.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        let mut stats = Stats::default();
        let sizes = huge_page_sizes();
        for place in &self.places {
            let read = match place.version {
                super::Version::V1 => v1::read(place, &place.controllers, &sizes, &mut stats),
                super::Version::V2 => {
                    let is_elsewhere = |controller: &str| self.place_of(controller).is_some();
                    v2::read(place, &is_elsewhere, &sizes, &mut stats)
                }
            };
            read.map_err(|ReadError { file, source }| CgroupError::Read {
                path: place.full_path().join(file),
                source,
            })?;
        }
        Ok(stats)
    }
}
