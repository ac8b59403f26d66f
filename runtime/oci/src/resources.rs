//! `linux.resources`: what can be told wrong without asking the kernel. The values themselves go
//! to the cgroup as they are.

use oci_spec::runtime::{LinuxDeviceType, LinuxResources};

use crate::{ConfigError, check, read};

/// Checks the text of a resources document, as `update --resources` gets it.
pub fn parse(bytes: &[u8]) -> Result<LinuxResources, ConfigError> {
    let resources = read::decode("resources", "", bytes)?;
    check("", &resources)?;
    Ok(resources)
}

pub(crate) fn check(prefix: &str, resources: &LinuxResources) -> Result<(), ConfigError> {
    devices(prefix, resources)?;
    for (i, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        if !is_page_size(limit.page_size()) {
            return check::refuse(
                format_args!("{prefix}hugepageLimits[{i}].pageSize"),
                limit.page_size(),
                "a size such as \"2MB\"",
            );
        }
    }
    for (i, priority) in resources
        .network()
        .iter()
        .flat_map(|network| network.priorities().iter().flatten())
        .enumerate()
    {
        if priority
            .name()
            .contains(|c: char| c.is_whitespace() || c == '\0')
        {
            return check::refuse(
                format_args!("{prefix}network.priorities[{i}].name"),
                priority.name(),
                "the name of a network interface",
            );
        }
    }
    for name in resources
        .unified()
        .iter()
        .flat_map(|unified| unified.keys())
    {
        // A name with a slash would be a file elsewhere.
        if name.contains(['/', '\0']) || !name.contains('.') || name.starts_with('.') {
            return check::refuse(
                format_args!("{prefix}unified"),
                name,
                "names of cgroup files such as \"memory.high\"",
            );
        }
    }
    Ok(())
}

fn devices(prefix: &str, resources: &LinuxResources) -> Result<(), ConfigError> {
    for (i, rule) in resources.devices().iter().flatten().enumerate() {
        if let Some(kind @ (LinuxDeviceType::P | LinuxDeviceType::U)) = rule.typ() {
            return check::refuse(
                format_args!("{prefix}devices[{i}].type"),
                kind.as_str(),
                "a, b or c",
            );
        }
        for (field, number) in [("major", rule.major()), ("minor", rule.minor())] {
            // -1 is every number.
            if let Some(number) = number.filter(|n| !(-1..=i64::from(u32::MAX)).contains(n)) {
                return check::refuse_number(
                    format_args!("{prefix}devices[{i}].{field}"),
                    number,
                    "a device number, or -1 for all",
                );
            }
        }
        let access = rule.access().as_deref().unwrap_or_default();
        let is_every_device = matches!(rule.typ(), None | Some(LinuxDeviceType::A));
        if access.is_empty() && !is_every_device {
            return Err(ConfigError::Missing {
                field: format!("{prefix}devices[{i}].access"),
                expected: "letters of \"rwm\"",
            });
        }
        if !access.bytes().all(|b| b"rwm".contains(&b)) {
            return check::refuse(
                format_args!("{prefix}devices[{i}].access"),
                access,
                "letters of \"rwm\"",
            );
        }
    }
    Ok(())
}

/// `<number><unit>B` with the units of the hugetlb cgroup files.
fn is_page_size(text: &str) -> bool {
    let Some(number) = text.strip_suffix("B") else {
        return false;
    };
    let digits = number.trim_end_matches(['K', 'M', 'G']);
    number.len() == digits.len() + 1
        && !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
}
