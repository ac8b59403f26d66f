//! Other limits for a microVM that runs: each side's own, as at its creation ([`size`](super::size)).

use std::os::fd::AsFd;

use runvm_oci::{LinuxResources, Plan};
use runvm_proto::Request;

use super::{Guest, ReachError, balloon, size};
use crate::BackendError;

/// Why a limit cannot be changed.
#[derive(Debug, thiserror::Error)]
enum UpdateError {
    /// The machine has only so much.
    #[error(
        "linux.resources.memory.limit: {limit} bytes are more than the microVM was made for, whose \
         limit is {had}"
    )]
    Memory { limit: i64, had: i64 },
    /// A file of one kernel's cgroups, and there are two kernels.
    #[error("linux.resources.unified cannot be updated in vm isolation")]
    Unified,
}

/// Sets the limits that `resources` names, on the host around the machine and in the guest.
pub(super) fn update(guest: &Guest<'_>, resources: &LinuxResources) -> Result<(), BackendError> {
    if resources
        .unified()
        .as_ref()
        .is_some_and(|map| !map.is_empty())
    {
        return Err(UpdateError::Unified.into());
    }
    let plan = Plan::parse(&guest.directory.read_config()?, &guest.record.bundle)?;
    refuse_more_memory(&plan, resources)?;
    let inside = size::guest_resources(resources);
    // The guest first: it is what may refuse.
    if inside != LinuxResources::default() {
        let request = Request::Update {
            container: guest.record.id.clone(),
        };
        guest
            .control()?
            .demand(&request, &serde_json::to_vec(&inside)?)?;
    }
    // And then its memory: while a lower limit is kept, it has some to spare.
    if let Some(mib) = size::balloon_mib(&plan.resources, resources) {
        balloon::set(guest.machine()?.as_fd(), mib)?;
    }
    let cgroup = guest.record.cgroup()?.ok_or(ReachError::Gone)?;
    Ok(guest.record.limit(&cgroup, &around(resources))?)
}

/// What the host's cgroup limits. The guest may take its memory back when it runs out of it, so that
/// limit stays.
fn around(resources: &LinuxResources) -> LinuxResources {
    let mut resources = resources.clone();
    resources.set_memory(None);
    resources.set_pids(None);
    resources.set_devices(None);
    resources.set_hugepage_limits(None);
    resources
}

/// A machine whose memory was made to fit a limit cannot hold more. One without a limit has
/// the memory that it has, whatever limit it is given.
fn refuse_more_memory(plan: &Plan, resources: &LinuxResources) -> Result<(), UpdateError> {
    let limit_of = |resources: &LinuxResources| {
        let limit = resources
            .memory()
            .as_ref()
            .and_then(|memory| memory.limit());
        limit.filter(|limit| *limit != 0)
    };
    let (Some(limit), Some(had)) = (limit_of(resources), limit_of(&plan.resources)) else {
        return Ok(());
    };
    if had > 0 && (limit > had || limit < 0) {
        return Err(UpdateError::Memory { limit, had });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use runvm_oci::{LinuxResources, Plan};
    use serde_json::{Value, json};

    use super::{around, refuse_more_memory};

    fn resources(value: Value) -> LinuxResources {
        serde_json::from_value(value).unwrap()
    }

    fn plan(resources: &Value) -> Plan {
        let config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "linux": {"namespaces": [{"type": "mount"}], "resources": resources},
        });
        Plan::parse(config.to_string().as_bytes(), Path::new("/bundle")).unwrap()
    }

    #[test]
    fn a_machine_made_for_a_limit_takes_no_higher_one() {
        let memory = |limit: i64| json!({"memory": {"limit": limit}});
        let rows = [
            (memory(100), memory(100), true),
            (memory(100), memory(50), true),
            (memory(100), memory(101), false),
            (memory(100), memory(-1), false),
            (memory(-1), memory(1 << 40), true),
            (json!({}), memory(1 << 40), true),
            (memory(100), json!({"memory": {"swap": 1000}}), true),
        ];
        for (had, wanted, possible) in rows {
            let refused = refuse_more_memory(&plan(&had), &resources(wanted.clone()));
            assert_eq!(refused.is_ok(), possible, "{had} {wanted}");
        }
    }

    #[test]
    fn the_host_limits_time_and_the_guest_memory_and_processes() {
        let all = resources(json!({
            "memory": {"limit": 5}, "pids": {"limit": 6}, "cpu": {"quota": 7},
            "blockIO": {"weight": 8},
        }));
        let host = json!({"cpu": {"quota": 7}, "blockIO": {"weight": 8}});
        assert_eq!(json!(around(&all)), host);
    }
}
