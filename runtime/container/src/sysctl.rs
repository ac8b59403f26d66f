//! `linux.sysctl`, written in the container's namespaces through the runtime's own procfs.

use std::collections::BTreeMap;
use std::io;

use crate::proc_fs::ProcFs;

/// A sysctl that could not be set.
#[derive(Debug, thiserror::Error)]
#[error("cannot set the sysctl {name} to {value:?}")]
pub(crate) struct SysctlError {
    name: String,
    value: String,
    source: io::Error,
}

/// Sets them; the plan has only such as belong to a namespace of the container.
pub(crate) fn set(proc_fs: &ProcFs, values: &BTreeMap<String, String>) -> Result<(), SysctlError> {
    for (name, value) in values {
        let path = format!("sys/{}", runvm_oci::sysctl_file(name));
        proc_fs.write(&path, value).map_err(|source| SysctlError {
            name: name.clone(),
            value: value.clone(),
            source,
        })?;
    }
    Ok(())
}
