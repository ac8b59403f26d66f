//! `linux.memoryPolicy`: words to the kernel's numbers (linux/mempolicy.h).

use serde::Deserialize;

use crate::{ConfigError, MemoryPolicy, check};

/// A mode's index is its number.
pub(crate) const MODES: [&str; 7] = [
    "MPOL_DEFAULT",
    "MPOL_PREFERRED",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];

pub(crate) const FLAGS: [(&str, i32); 3] = [
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_STATIC_NODES", 1 << 15),
];

/// One more than the highest number of a node a kernel can be built for (CONFIG_NODES_SHIFT).
const NODES_MAX: u32 = 1024;

#[derive(Deserialize)]
pub(crate) struct Document {
    mode: Option<String>,
    nodes: Option<String>,
    flags: Option<Vec<String>>,
}

pub(crate) fn checked(policy: Document) -> Result<MemoryPolicy, ConfigError> {
    let mode = policy.mode.ok_or_else(|| ConfigError::Missing {
        field: "linux.memoryPolicy.mode".into(),
        expected: "an MPOL_* name of set_mempolicy(2)",
    })?;
    let number = (0..).zip(MODES).find(|(_, known)| *known == mode);
    let Some((mode, _)) = number else {
        return check::refuse(
            format_args!("linux.memoryPolicy.mode"),
            &mode,
            "an MPOL_* name of set_mempolicy(2)",
        );
    };
    let mut flags = 0;
    for (i, flag) in policy.flags.unwrap_or_default().iter().enumerate() {
        match FLAGS.iter().find(|(known, _)| known == flag) {
            Some((_, bit)) => flags |= bit,
            None => {
                return check::refuse(
                    format_args!("linux.memoryPolicy.flags[{i}]"),
                    flag,
                    "an MPOL_F_* name of set_mempolicy(2)",
                );
            }
        }
    }
    Ok(MemoryPolicy {
        mode,
        flags,
        nodes: nodes(policy.nodes.unwrap_or_default().trim())?,
    })
}

fn nodes(list: &str) -> Result<Vec<u32>, ConfigError> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    match check::number_list(list, NODES_MAX) {
        Some(nodes) => Ok(nodes),
        None => check::refuse(
            format_args!("linux.memoryPolicy.nodes"),
            list,
            "a list of node numbers such as \"0-3,7\"",
        ),
    }
}
