//! The id mappings of a new user namespace, written from outside it (user_namespaces(7)).

use std::fmt::Write as _;
use std::io;

use runvm_oci::{IdMapping, Plan};

/// Writes the mappings of the process `pid`, which has a new user namespace.
pub(crate) fn write(plan: &Plan, pid: u32) -> io::Result<()> {
    // Without privilege over groups the kernel takes a group mapping only from one who can no
    // longer leave groups: those may deny access, too.
    if !rustix::process::geteuid().is_root() {
        std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    }
    std::fs::write(format!("/proc/{pid}/gid_map"), text(&plan.gid_mappings))?;
    std::fs::write(format!("/proc/{pid}/uid_map"), text(&plan.uid_mappings))
}

fn text(mappings: &[IdMapping]) -> String {
    let mut text = String::new();
    for mapping in mappings {
        let IdMapping {
            container_id,
            host_id,
            size,
        } = mapping;
        // Writing to a String does not fail.
        let _ = writeln!(text, "{container_id} {host_id} {size}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_a_line_of_inside_outside_and_count() {
        let mapping = IdMapping {
            container_id: 0,
            host_id: 100_000,
            size: 65_536,
        };
        assert_eq!(
            text(&[mapping, mapping]),
            "0 100000 65536\n0 100000 65536\n"
        );
    }
}
