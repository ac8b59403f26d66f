//! The table of a guest's processes, in the form of `ps -ef`.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use runvm_proto::ProcessEntry;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const DAY_S: u64 = 24 * 60 * 60;
/// From here on a date has more digits.
const YEAR_10000_S: u64 = 253_402_300_800;
/// The first of the device numbers of /dev/pts (Documentation/admin-guide/devices.txt).
const PTS_MAJOR: u32 = 136;
const PTS_MAJORS: u32 = 8;

/// A head line, and a line a process. Users are told by number, times in UTC.
pub(super) fn table(processes: &[ProcessEntry]) -> String {
    let mut table = "UID          PID    PPID  C STIME TTY          TIME CMD\n".to_owned();
    for process in processes {
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "{:<8} {:>7} {:>7} {:>2} {:>5} {:<8} {} {}",
            process.uid,
            process.pid,
            process.parent,
            share(process),
            started(process),
            terminal(process.terminal),
            clock(process.cpu_s),
            printable(&process.command),
        );
    }
    table
}

/// The CPU time in percent of its life.
fn share(process: &ProcessEntry) -> u64 {
    let percent = process.cpu_s.saturating_mul(100) / process.age_s.max(1);
    percent.min(99)
}

/// The time of day, or the date of what is older than a day.
fn started(process: &ProcessEntry) -> String {
    if process.started_s >= YEAR_10000_S {
        return "?".to_owned();
    }
    let started = UNIX_EPOCH + Duration::from_secs(process.started_s);
    // 2026-01-31T12:34:56Z
    let written = humantime::format_rfc3339_seconds(started).to_string();
    if process.age_s < DAY_S {
        return written[11..16].to_owned();
    }
    let month = written[5..7].parse::<usize>().unwrap_or(1);
    format!("{}{}", MONTHS[(month - 1) % 12], &written[8..10])
}

fn clock(seconds: u64) -> String {
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    format!("{:02}:{:02}:{seconds:02}", minutes / 60, minutes % 60)
}

/// By the device number as /proc/PID/stat has it (proc_pid_stat(5)).
fn terminal(device: u32) -> String {
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xfff00);
    if (PTS_MAJOR..PTS_MAJOR + PTS_MAJORS).contains(&major) {
        format!("pts/{}", ((major - PTS_MAJOR) << 8) + minor)
    } else {
        "?".to_owned()
    }
}

/// A guest chooses what its processes are called; it must not speak to our terminal.
fn printable(command: &str) -> String {
    let plain = |c: char| if c.is_control() { '?' } else { c };
    command.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use runvm_proto::ProcessEntry;

    use super::table;

    #[test]
    fn a_process_is_told_as_ps_tells_it() {
        let process = ProcessEntry {
            pid: 42,
            parent: 1,
            uid: 1000,
            started_s: 1_700_000_000,
            age_s: 100,
            cpu_s: 33,
            terminal: (136 << 8) | 3,
            command: "sh -c \u{1b}[2J".into(),
        };
        let old = ProcessEntry {
            age_s: 3 * 24 * 60 * 60,
            cpu_s: 3723,
            terminal: 0,
            ..process.clone()
        };
        let expected = "\
UID          PID    PPID  C STIME TTY          TIME CMD
1000          42       1 33 22:13 pts/3    00:00:33 sh -c ?[2J
1000          42       1  1 Nov14 ?        01:02:03 sh -c ?[2J
";
        assert_eq!(table(&[process, old]), expected);
    }

    #[test]
    fn impossible_times_do_no_harm() {
        let process = ProcessEntry {
            pid: u32::MAX,
            parent: u32::MAX,
            uid: u32::MAX,
            started_s: u64::MAX,
            age_s: 0,
            cpu_s: u64::MAX,
            terminal: u32::MAX,
            command: String::new(),
        };
        assert_eq!(table(&[process]).lines().count(), 2);
    }
}
