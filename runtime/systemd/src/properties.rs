//! What is written to the files of a cgroup, in systemd's words.
//!
//! systemd writes the files of a unit again when it is reloaded or the unit's properties change,
//! so it must know what a container's limits are. It knows not all of them, and some not exactly:
//! the files are written besides, after it. What it does not know it leaves alone.

use crate::{Property, Value, Version};

/// systemd's word for no limit.
const UNLIMITED: u64 = u64::MAX;

/// The most CPUs that systemd counts (its CPU_SET_SIZE rounded up), and memory nodes with it.
const CPUS_MAX: usize = 8192;

/// The kernel's default for a quota's period, in microseconds.
const PERIOD_DEFAULT_US: u64 = 100_000;

// Versions of systemd that brought a property.
const QUOTA_PERIOD: u32 = 242;
const CPUSETS: u32 = 244;
const IDLE: u32 = 252;
const ZSWAP: u32 = 253;

/// The properties that say what `files` do: names of files of a cgroup, v1 or v2, with what is written
/// to them, in order, so that of two values for one file the latter counts.
/// Values that make no sense are left out, to be refused by the kernel.
pub fn properties(files: &[(String, String)], version: &Version) -> Vec<Property> {
    let mut properties: Vec<Property> = Vec::new();
    let mut quota = Quota::default();
    for (file, value) in files {
        let value = value.trim();
        quota.note(file, value);
        if let Some(new) = property(file, value, version) {
            properties.retain(|old| old.name != new.name);
            properties.push(new);
        }
    }
    properties.extend(quota.properties(version));
    properties
}

/// The property that says the same as one value of one file.
fn property(file: &str, value: &str, version: &Version) -> Option<Property> {
    let is_since = |since| version.number() >= since;
    let name = match file {
        "memory.max" => "MemoryMax",
        "memory.low" => "MemoryLow",
        "memory.high" => "MemoryHigh",
        "memory.min" => "MemoryMin",
        "memory.swap.max" => "MemorySwapMax",
        "memory.zswap.max" if is_since(ZSWAP) => "MemoryZSwapMax",
        "memory.limit_in_bytes" => "MemoryLimit",
        "pids.max" => "TasksMax",
        "cpu.shares" => "CPUShares",
        "blkio.weight" => "BlockIOWeight",
        "cpu.weight" => "CPUWeight",
        // systemd has idle as the weight 0; what is not idle is another weight, or as it was.
        "cpu.idle" if is_since(IDLE) && value == "1" => return Some(Property::new("CPUWeight", 0)),
        "io.weight" => "IOWeight",
        "cpuset.cpus" if is_since(CPUSETS) => return bits("AllowedCPUs", value),
        "cpuset.mems" if is_since(CPUSETS) => return bits("AllowedMemoryNodes", value),
        _ => return None,
    };
    number(value).map(|number| Property::new(name, number))
}

/// A number, or no limit as v1 or v2 have it.
fn number(value: &str) -> Option<u64> {
    match value {
        "max" | "-1" => Some(UNLIMITED),
        value => value.parse().ok(),
    }
}

/// A list of CPUs or memory nodes (cpuset(7), "List format") as a mask, lowest first.
fn bits(name: &str, list: &str) -> Option<Property> {
    let mut mask: Vec<u8> = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= CPUS_MAX {
            return None;
        }
        mask.resize(mask.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|number| mask[number / 8] |= 1 << (number % 8));
    }
    Some(Property::new(name, Value::bytes(mask)))
}

/// CPU time: systemd has it by the second, and the period apart.
#[derive(Default)]
struct Quota {
    quota_us: Option<u64>,
    period_us: Option<u64>,
}

impl Quota {
    fn note(&mut self, file: &str, value: &str) {
        match file {
            "cpu.max" => {
                let mut words = value.split_whitespace();
                self.quota_us = words.next().and_then(number);
                self.period_us = words.next().and_then(number);
            }
            "cpu.cfs_quota_us" => self.quota_us = number(value),
            "cpu.cfs_period_us" => self.period_us = number(value),
            _ => {}
        }
    }

    fn properties(&self, version: &Version) -> Vec<Property> {
        let mut properties = Vec::new();
        if let Some(period) = self.period_us
            && version.number() >= QUOTA_PERIOD
        {
            properties.push(Property::new("CPUQuotaPeriodUSec", period));
        }
        if let Some(quota) = self.quota_us {
            let per_second = match quota {
                UNLIMITED => UNLIMITED,
                quota => per_second_us(quota, self.period_us.unwrap_or(PERIOD_DEFAULT_US)),
            };
            properties.push(Property::new("CPUQuotaPerSecUSec", per_second));
        }
        properties
    }
}

/// systemd keeps whole percents: of less than was asked for, processes that set a quota below the
/// container's would be refused it.
fn per_second_us(quota_us: u64, period_us: u64) -> u64 {
    const PERCENT_US: u128 = 10_000;
    let us = u128::from(quota_us) * 1_000_000 / u128::from(period_us.max(1));
    u64::try_from(us.next_multiple_of(PERCENT_US)).unwrap_or(UNLIMITED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)], version: u32) -> Vec<Property> {
        let files = files
            .iter()
            .map(|(file, value)| ((*file).into(), (*value).into()));
        properties(&files.collect::<Vec<_>>(), &Version::from(version))
    }

    fn numbers(files: &[(&str, &str)]) -> Vec<(String, u64)> {
        let properties = of(files, 252).into_iter();
        let number = |property: Property| match property.value {
            Value::Uint64(number) => (property.name, number),
            value => panic!("{}: {value:?}", property.name),
        };
        properties.map(number).collect()
    }

    #[test]
    fn files_of_either_version_become_properties() {
        for (file, value, name, number) in [
            ("memory.max", "1000", "MemoryMax", 1000),
            ("memory.max", "max", "MemoryMax", u64::MAX),
            ("memory.low", "5", "MemoryLow", 5),
            ("memory.high", " 7\n", "MemoryHigh", 7),
            ("memory.min", "6", "MemoryMin", 6),
            ("memory.swap.max", "0", "MemorySwapMax", 0),
            ("memory.limit_in_bytes", "-1", "MemoryLimit", u64::MAX),
            ("pids.max", "20", "TasksMax", 20),
            ("cpu.shares", "1024", "CPUShares", 1024),
            ("cpu.weight", "100", "CPUWeight", 100),
            ("cpu.idle", "1", "CPUWeight", 0),
            ("io.weight", "10000", "IOWeight", 10_000),
            ("blkio.weight", "500", "BlockIOWeight", 500),
        ] {
            assert_eq!(numbers(&[(file, value)]), [(name.into(), number)], "{file}");
        }
    }

    #[test]
    fn the_last_value_of_a_file_counts_and_what_is_none_is_left_out() {
        let files = [("pids.max", "7"), ("memory.max", "5"), ("pids.max", "9")];
        let expected = [("MemoryMax".into(), 5), ("TasksMax".into(), 9)];
        assert_eq!(numbers(&files), expected);
        for (file, value) in [
            ("memory.max", "much"),
            ("memory.oom.group", "1"),
            ("cpu.idle", "0"),
            ("cpuset.cpus", "0-4294967295"),
            ("cpuset.cpus", "3-1"),
            ("cpuset.cpus", "a"),
            ("cpu.max", ""),
        ] {
            assert_eq!(of(&[(file, value)], 252), [], "{file} {value}");
        }
    }

    #[test]
    fn cpu_time_is_by_the_second_in_whole_percents() {
        let both = |period, per_second| {
            let period = ("CPUQuotaPeriodUSec".to_owned(), period);
            vec![period, ("CPUQuotaPerSecUSec".to_owned(), per_second)]
        };
        let v1 = [
            ("cpu.cfs_period_us", "50000"),
            ("cpu.cfs_quota_us", "25000"),
        ];
        assert_eq!(numbers(&v1), both(50_000, 500_000));
        assert_eq!(
            numbers(&[("cpu.max", "25000 50000")]),
            both(50_000, 500_000)
        );
        assert_eq!(
            numbers(&[("cpu.max", "12345 100000")]),
            both(100_000, 130_000)
        );
        assert_eq!(
            numbers(&[("cpu.max", "max 100000")]),
            both(100_000, u64::MAX)
        );
        let alone = [("CPUQuotaPerSecUSec".to_owned(), 200_000)];
        assert_eq!(numbers(&[("cpu.max", "20000")]), alone);
        let huge = numbers(&[("cpu.cfs_quota_us", "18446744073709551614")]);
        assert_eq!(huge, [("CPUQuotaPerSecUSec".to_owned(), u64::MAX)]);
        assert_eq!(numbers(&[("cpu.max", "5 0")])[1].1, 5_000_000);
    }

    #[test]
    fn lists_become_masks() {
        for (list, mask) in [
            ("0", &[1_u8][..]),
            ("0-2,9", &[7, 2]),
            ("15", &[0, 0x80]),
            ("1,1,0-1", &[3]),
        ] {
            let expected = Property::new("AllowedCPUs", Value::bytes(mask.iter().copied()));
            assert_eq!(of(&[("cpuset.cpus", list)], 252), [expected], "{list}");
        }
        assert_eq!(
            of(&[("cpuset.mems", "0")], 252)[0].name,
            "AllowedMemoryNodes"
        );
    }

    #[test]
    fn an_older_systemd_is_not_told_what_it_does_not_know() {
        assert_eq!(of(&[("cpuset.cpus", "0")], 243), []);
        assert_eq!(of(&[("cpu.idle", "1")], 251), []);
        let quota = of(&[("cpu.max", "5000 10000")], 241);
        assert_eq!(quota, [Property::new("CPUQuotaPerSecUSec", 500_000)]);
    }
}
