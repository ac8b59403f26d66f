//! A container's cgroup on the host: made by us, or by systemd as that of a scope.
//!
//! With systemd's driver, systemd makes the cgroup and is told of the limits, as it writes them
//! again when it is reloaded; then all of them are written to the files, since it knows not all and
//! some not exactly. Everything else (entering, freezing, killing, looking into it) is the same for
//! both.

use std::fs;

use runvm_container::SpawnSelfError;
use runvm_container::cgroup::{Cgroup, CgroupError, Location, device_rules};
use runvm_oci::{LinuxResources, Plan};
use runvm_systemd::{
    AnnotationError, Instance, Manager, ManagerError, NameError, Property, ScopeName,
};
use serde::{Deserialize, Serialize};

use crate::Record;
use crate::seat::Seat;

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// We do, in the cgroup file system.
    Cgroupfs,
    /// A service manager does: `--systemd-cgroup`.
    Systemd(Instance),
}

/// Why a cgroup could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupDriverError {
    /// The cgroup itself.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// `linux.cgroupsPath` names no scope.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An annotation is no property of a scope.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// systemd.
    #[error("cannot use the systemd cgroup driver (--systemd-cgroup)")]
    Manager(#[from] ManagerError),
    /// A user's service manager has no v1 cgroups.
    #[error("a user's containers need cgroup v2 with the systemd cgroup driver (--systemd-cgroup)")]
    UserOnV1,
    /// The process that the scope is made with.
    #[error("cannot make a process to hold the scope")]
    Seat(#[from] SpawnSelfError),
}

/// The scope of a container, as its record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeRecord {
    /// The unit's name.
    pub unit: String,
    /// Whose it is.
    pub manager: Instance,
}

/// A cgroup that is to be made.
pub(crate) struct NewCgroup {
    location: Location,
    scope: Option<NewScope>,
}

struct NewScope {
    name: ScopeName,
    description: String,
    instance: Instance,
    manager: Manager,
    /// Of the annotations.
    properties: Vec<Property>,
}

impl NewCgroup {
    /// Finds the place for the cgroup of container `id`, and makes nothing there.
    pub(crate) fn find(
        driver: CgroupDriver,
        plan: &Plan,
        id: &str,
    ) -> Result<Self, CgroupDriverError> {
        let path = plan.cgroups_path.as_deref();
        let CgroupDriver::Systemd(instance) = driver else {
            return Ok(Self {
                location: Location::find(path, id)?,
                scope: None,
            });
        };
        let name = ScopeName::parse(path, id, instance)?;
        let properties = runvm_systemd::from_annotations(&plan.annotations)?;
        let mut manager = Manager::connect(instance)?;
        let path = below(manager.control_group(), &name.cgroup());
        let location = Location::of_scope(&path)?;
        if instance == Instance::User {
            if !location.is_unified() {
                return Err(CgroupDriverError::UserOnV1);
            }
            come_within_reach(&mut manager)?;
        }
        Ok(Self {
            location,
            scope: Some(NewScope {
                name,
                description: format!("runvm container {id}"),
                instance,
                manager,
                properties,
            }),
        })
    }

    /// Says in `record` what removes whatever is made of it.
    pub(crate) fn note(&self, record: &mut Record) {
        record.cgroup = Some(self.location.record());
        record.scope = self.scope.as_ref().map(|scope| ScopeRecord {
            unit: scope.name.unit().to_owned(),
            manager: scope.instance,
        });
    }

    /// Makes it and sets its limits. If anything fails, nothing that was made stays.
    pub(crate) fn make(self, resources: &LinuxResources) -> Result<MadeCgroup, CgroupDriverError> {
        let Some(scope) = self.scope else {
            let cgroup = self.location.make(resources)?;
            return Ok(MadeCgroup {
                cgroup,
                scope: None,
            });
        };
        let (now, later) = hold_back_pids(resources);
        let scope = scope.start(&self.location, &now, later)?;
        match self.location.make(&now) {
            Ok(cgroup) => Ok(MadeCgroup {
                cgroup,
                scope: Some(scope),
            }),
            Err(error) => {
                scope.stop();
                Err(error.into())
            }
        }
    }
}

impl NewScope {
    fn start(
        mut self,
        location: &Location,
        resources: &LinuxResources,
        later: LinuxResources,
    ) -> Result<StartedScope, CgroupDriverError> {
        let version = self.manager.version();
        let mut properties = runvm_systemd::properties(&location.files(resources)?, version);
        let devices = device_rules(resources)?;
        properties.extend(runvm_systemd::device_properties(
            devices.as_deref(),
            location.is_unified(),
        ));
        properties.append(&mut self.properties);
        let seat = Seat::take()?;
        self.manager
            .start_scope(&self.name, &self.description, seat.pid, properties)?;
        Ok(StartedScope {
            manager: self.manager,
            unit: self.name.unit().to_owned(),
            seat,
            later,
        })
    }
}

/// A scope that has no process of the container yet.
struct StartedScope {
    manager: Manager,
    unit: String,
    seat: Seat,
    /// The limits that the container gets when its first process is there.
    later: LinuxResources,
}

impl StartedScope {
    fn stop(mut self) {
        drop(self.seat);
        // The error on its way out is the one to tell; an empty scope ends by itself.
        let _ = self.manager.stop(&self.unit);
    }
}

/// A cgroup that a container's first process is to enter.
pub(crate) struct MadeCgroup {
    pub(crate) cgroup: Cgroup,
    scope: Option<StartedScope>,
}

impl MadeCgroup {
    /// The container's process is there: nothing else is any more.
    pub(crate) fn settle(&mut self) -> Result<(), CgroupDriverError> {
        let Some(scope) = self.scope.take() else {
            return Ok(());
        };
        let StartedScope {
            mut manager,
            unit,
            seat,
            later,
        } = scope;
        drop(seat);
        limit(&self.cgroup, Some((&mut manager, &unit)), &later)
    }

    /// Kills what is in it and removes it, as far as that can be done.
    pub(crate) fn undo(self) {
        let _ = self.cgroup.kill();
        if let Some(scope) = self.scope {
            scope.stop();
        }
        let _ = self.cgroup.delete();
    }
}

impl Record {
    /// Its cgroup; `None` where none was made.
    pub(crate) fn cgroup(&self) -> Result<Option<Cgroup>, CgroupError> {
        self.cgroup.as_ref().map(Cgroup::open).transpose()
    }

    /// Sets limits of its cgroup; what `resources` does not name stays as it is.
    pub(crate) fn limit(
        &self,
        cgroup: &Cgroup,
        resources: &LinuxResources,
    ) -> Result<(), CgroupDriverError> {
        match &self.scope {
            None => limit(cgroup, None, resources),
            Some(scope) => {
                let mut manager = Manager::connect(scope.manager)?;
                limit(cgroup, Some((&mut manager, &scope.unit)), resources)
            }
        }
    }

    /// Removes its cgroup, once its processes have ended.
    pub(crate) fn remove_cgroup(&self) -> Result<(), CgroupDriverError> {
        if let Some(scope) = &self.scope {
            Manager::connect(scope.manager)?.stop(&scope.unit)?;
        }
        if let Some(cgroup) = self.cgroup()? {
            cgroup.delete()?;
        }
        Ok(())
    }

    /// Sees to it that processes of ours can enter its cgroup.
    pub(crate) fn reach_cgroup(&self) -> Result<(), CgroupDriverError> {
        match &self.scope {
            Some(scope) if scope.manager == Instance::User => {
                come_within_reach(&mut Manager::connect(Instance::User)?)
            }
            _ => Ok(()),
        }
    }
}

fn limit(
    cgroup: &Cgroup,
    scope: Option<(&mut Manager, &str)>,
    resources: &LinuxResources,
) -> Result<(), CgroupDriverError> {
    if let Some((manager, unit)) = scope {
        let files = cgroup.files(resources)?;
        let properties = runvm_systemd::properties(&files, manager.version());
        manager.set_properties(unit, properties)?;
    }
    Ok(cgroup.update(resources)?)
}

/// Takes the limit of processes out of `resources`: until the container's process is there another
/// holds its place, and where one is all that is allowed, no second could be born.
fn hold_back_pids(resources: &LinuxResources) -> (LinuxResources, LinuxResources) {
    let (mut now, mut later) = (resources.clone(), LinuxResources::default());
    later.set_pids(*resources.pids());
    now.set_pids(None);
    if let Some(unified) = resources.unified() {
        let (pids, others) = unified
            .clone()
            .into_iter()
            .partition(|(file, _)| file.starts_with("pids."));
        later.set_unified(Some(pids));
        now.set_unified(Some(others));
    }
    (now, later)
}

/// Has the user's service manager put this process below itself, into a scope that ends with it:
/// a process can be born in another cgroup only below one that is its user's, and a login session
/// is not below the user's manager.
fn come_within_reach(manager: &mut Manager) -> Result<(), CgroupDriverError> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let above = format!("0::/{}/", manager.control_group());
    if own.lines().any(|line| line.starts_with(&above)) {
        return Ok(());
    }
    let pid = std::process::id();
    let path = format!(":runvm:caller-{pid}");
    let name = ScopeName::parse(Some(&path), "", Instance::User)?;
    let description = format!("runvm, process {pid}");
    Ok(manager.start_scope(&name, &description, pid, Vec::new())?)
}

/// `path` below `base`, which may be the root.
fn below(base: &str, path: &str) -> String {
    if base.is_empty() {
        path.to_owned()
    } else {
        format!("{base}/{path}")
    }
}

#[cfg(test)]
mod tests {
    use runvm_oci::LinuxResources;
    use serde_json::{Value, json};

    use super::hold_back_pids;

    #[test]
    fn the_limit_of_processes_is_set_apart() {
        let split = |value: Value| {
            let resources: LinuxResources = serde_json::from_value(value).unwrap();
            let (now, later) = hold_back_pids(&resources);
            (json!(now), json!(later))
        };
        let both = json!({
            "pids": {"limit": 1}, "memory": {"limit": 5},
            "unified": {"pids.max": "1", "memory.high": "4"},
        });
        let now = json!({"memory": {"limit": 5}, "unified": {"memory.high": "4"}});
        let later = json!({"pids": {"limit": 1}, "unified": {"pids.max": "1"}});
        assert_eq!(split(both), (now, later));
        assert_eq!(split(json!({})), (json!({}), json!({})));
    }
}
