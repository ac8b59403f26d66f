//! What an update leaves unsaid, where cgroup v2, or systemd, has one figure for two fields.
//!
//! config.json limits memory and swap together, and has a quota apart from its period. Who changes
//! one of two wants the other to stay, as it does on v1, so it is taken from the kernel.

use runvm_oci::LinuxResources;

/// Adds to `resources` the other half of each pair of which it names one. `read` gives a file
/// of the cgroup, as v2 has it.
pub(in crate::cgroup) fn completed(
    resources: &LinuxResources,
    read: impl Fn(&str) -> Option<String>,
) -> LinuxResources {
    let mut resources = resources.clone();
    let number = |file: &str| -> Option<i64> { read(file)?.trim().parse().ok() };
    if let Some(mut memory) = *resources.memory() {
        let is_set = |value: Option<i64>| value.is_some_and(|value| value != 0);
        match (is_set(memory.limit()), is_set(memory.swap())) {
            (true, false) if memory.limit() > Some(0) => {
                // Only the sum of two numbers is one that can stay.
                let both = number("memory.max").zip(number("memory.swap.max"));
                memory.set_swap(both.and_then(|(memory, swap)| memory.checked_add(swap)));
            }
            (false, true) => {
                memory.set_limit(number("memory.max"));
            }
            _ => {}
        }
        resources.set_memory(Some(memory));
    }
    if let Some(mut cpu) = resources.cpu().clone() {
        let is_period_alone = cpu.period().is_some_and(|period| period != 0)
            && cpu.quota().is_none_or(|quota| quota == 0);
        let is_quota_alone = cpu.quota().is_some_and(|quota| quota != 0)
            && cpu.period().is_none_or(|period| period == 0);
        let max = read("cpu.max").unwrap_or_default();
        let mut words = max.split_whitespace();
        let (quota, period) = (words.next(), words.next());
        if is_period_alone {
            cpu.set_quota(quota.and_then(|quota| quota.parse().ok()));
        }
        if is_quota_alone {
            cpu.set_period(period.and_then(|period| period.parse().ok()));
        }
        resources.set_cpu(Some(cpu));
    }
    resources
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::completed;

    /// What `resources` come to in a cgroup with these files.
    fn complete(resources: Value, files: &[(&str, &str)]) -> Value {
        let read = |name: &str| {
            let file = files.iter().find(|(file, _)| *file == name);
            file.map(|(_, text)| (*text).to_owned())
        };
        json!(completed(&serde_json::from_value(resources).unwrap(), read))
    }

    #[test]
    fn memory_and_swap_together_stay_when_memory_changes() {
        let files = [("memory.max", "64\n"), ("memory.swap.max", "36\n")];
        let limit = |limit: i64| json!({"memory": {"limit": limit}});
        let both = json!({"memory": {"limit": 80, "swap": 100}});
        assert_eq!(complete(limit(80), &files), both);
        assert_eq!(complete(both.clone(), &files), both);
        // No memory limit is no limit of both, which the limit alone says.
        assert_eq!(complete(limit(-1), &files), limit(-1));
        let unlimited = [("memory.max", "max\n"), ("memory.swap.max", "max\n")];
        assert_eq!(complete(limit(80), &unlimited), limit(80));
        assert_eq!(complete(limit(80), &[]), limit(80));
    }

    #[test]
    fn memory_stays_when_memory_and_swap_together_change() {
        let files = [("memory.max", "64\n")];
        let swap = json!({"memory": {"swap": 100}});
        let both = json!({"memory": {"limit": 64, "swap": 100}});
        assert_eq!(complete(swap, &files), both);
    }

    #[test]
    fn a_quota_stays_when_its_period_changes() {
        let period = json!({"cpu": {"period": 50}});
        let both = json!({"cpu": {"period": 50, "quota": 20}});
        assert_eq!(complete(period.clone(), &[("cpu.max", "20 100\n")]), both);
        assert_eq!(
            complete(period.clone(), &[("cpu.max", "max 100\n")]),
            period
        );
        let quota = json!({"cpu": {"quota": 7}});
        let both = json!({"cpu": {"quota": 7, "period": 100}});
        assert_eq!(complete(quota.clone(), &[("cpu.max", "20 100\n")]), both);
        assert_eq!(complete(quota.clone(), &[]), quota);
        let shares = json!({"cpu": {"shares": 7}});
        assert_eq!(complete(shares.clone(), &[("cpu.max", "20 100\n")]), shares);
    }
}
