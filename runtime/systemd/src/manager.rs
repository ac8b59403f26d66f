//! The service manager, and what containers need of it.

use std::path::Path;

use crate::bus::{Bus, BusError};
use crate::message::{Argument, Call};
use crate::{Instance, Property, ScopeName, Value};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// What a scope is made with, besides where and for whom: its processes may make cgroups below, it
/// outlasts no shutdown's order, all it uses is counted, and systemd forgets it once it is empty,
/// even if something in it failed.
const SCOPE: [(&str, bool); 6] = [
    ("Delegate", true),
    ("DefaultDependencies", false),
    ("CPUAccounting", true),
    ("MemoryAccounting", true),
    ("TasksAccounting", true),
    ("IOAccounting", true),
];

/// Why a scope could not be made, changed or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// The host was booted by something else.
    #[error("systemd is not running: there is no /run/systemd/system")]
    NotBooted,
    /// It cannot be asked.
    #[error("cannot ask systemd's {what} manager")]
    Connect {
        /// `system` or `user`.
        what: &'static str,
        /// Why.
        source: BusError,
    },
    /// It refused.
    #[error("cannot {verb} unit {unit:?}")]
    Unit {
        /// What was tried.
        verb: &'static str,
        /// The unit.
        unit: String,
        /// What it says.
        source: BusError,
    },
    /// It tried, and it did not come to that.
    #[error("cannot {verb} unit {unit:?}: systemd's job for it ended as {result:?}")]
    Job {
        /// What was tried.
        verb: &'static str,
        /// The unit.
        unit: String,
        /// systemd's word.
        result: String,
    },
}

/// Whether the host was booted by systemd (sd_booted(3)).
pub fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// systemd's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    /// The number before all that distributions add; 0 for what is none.
    pub fn number(&self) -> u32 {
        let text = self.0.trim_start_matches('v');
        let end = text.find(|c: char| !c.is_ascii_digit());
        text[..end.unwrap_or(text.len())].parse().unwrap_or(0)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<u32> for Version {
    fn from(number: u32) -> Self {
        Self(number.to_string())
    }
}

/// A connection to a service manager.
#[derive(Debug)]
pub struct Manager {
    bus: Bus,
    version: Version,
    control_group: String,
}

impl Manager {
    /// Connects to the manager of `instance`.
    pub fn connect(instance: Instance) -> Result<Self, ManagerError> {
        if !is_booted() {
            return Err(ManagerError::NotBooted);
        }
        let what = match instance {
            Instance::System => "system",
            Instance::User => "user",
        };
        Self::open(instance).map_err(|source| ManagerError::Connect { what, source })
    }

    fn open(instance: Instance) -> Result<Self, BusError> {
        let mut bus = Bus::connect(instance)?;
        let version = Version(property(&mut bus, "Version")?);
        let control_group = property(&mut bus, "ControlGroup")?;
        Ok(Self {
            bus,
            version,
            control_group,
        })
    }

    /// Which systemd it is.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The cgroup that those of its units are below, from the root of the hierarchies, without
    /// slashes around it; empty is that root.
    pub fn control_group(&self) -> &str {
        self.control_group.trim_matches('/')
    }

    /// Starts a scope that holds the process `pid`, and waits until it does.
    ///
    /// It lasts as long as there are processes in it.
    pub fn start_scope(
        &mut self,
        name: &ScopeName,
        description: &str,
        pid: u32,
        properties: Vec<Property>,
    ) -> Result<(), ManagerError> {
        let unit = name.unit();
        let mut all = vec![
            Property::new("Description", description),
            Property::new("Slice", name.slice()),
            Property::new("CollectMode", "inactive-or-failed"),
            Property {
                name: "PIDs".into(),
                value: Value::Array("u".into(), vec![Value::Uint32(pid)]),
            },
        ];
        all.extend(SCOPE.map(|(name, value)| Property::new(name, value)));
        all.extend(properties);
        let arguments = || {
            let auxiliary = Value::Array("(sa(sv))".into(), Vec::new());
            vec![unit.into(), "replace".into(), list(all.clone()), auxiliary]
        };
        match self.run_job("start", unit, "StartTransientUnit", arguments()) {
            // One that failed is kept until somebody has seen it.
            Err(ManagerError::Unit { source, .. }) if source.is(UNIT_EXISTS) => {
                self.forget_failure(unit);
                self.run_job("start", unit, "StartTransientUnit", arguments())
            }
            started => started,
        }
    }

    /// Changes properties of a unit, until it ends.
    pub fn set_properties(
        &mut self,
        unit: &str,
        properties: Vec<Property>,
    ) -> Result<(), ManagerError> {
        if properties.is_empty() {
            return Ok(());
        }
        let is_runtime = Value::Bool(true);
        let arguments = vec![unit.into(), is_runtime, list(properties)];
        let set = self.bus.call(call("SetUnitProperties", arguments));
        set.map(|_| ()).map_err(|source| ManagerError::Unit {
            verb: "set the properties of",
            unit: unit.to_owned(),
            source,
        })
    }

    /// Stops a unit and waits until systemd has forgotten it. That there is none is no error.
    pub fn stop(&mut self, unit: &str) -> Result<(), ManagerError> {
        let arguments = vec![unit.into(), "replace".into()];
        match self.run_job("stop", unit, "StopUnit", arguments) {
            Err(ManagerError::Unit { source, .. }) if source.is(NO_SUCH_UNIT) => return Ok(()),
            stopped => stopped?,
        }
        self.forget_failure(unit);
        Ok(())
    }

    /// Has systemd forget a unit that failed; one that did not is none of our concern.
    fn forget_failure(&mut self, unit: &str) {
        let _ = self.bus.call(call("ResetFailedUnit", vec![unit.into()]));
    }

    /// Calls a method that answers with a job, and waits for the job's end.
    fn run_job(
        &mut self,
        verb: &'static str,
        unit: &str,
        method: &'static str,
        arguments: Vec<Value>,
    ) -> Result<(), ManagerError> {
        let result = self
            .job_result(method, arguments)
            .map_err(|source| ManagerError::Unit {
                verb,
                unit: unit.to_owned(),
                source,
            })?;
        if result == "done" {
            return Ok(());
        }
        Err(ManagerError::Job {
            verb,
            unit: unit.to_owned(),
            result,
        })
    }

    fn job_result(
        &mut self,
        method: &'static str,
        arguments: Vec<Value>,
    ) -> Result<String, BusError> {
        // Before the call: the job may be over when it is answered.
        self.bus.listen(&format!(
            "type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'"
        ))?;
        let started = self.bus.call(call(method, arguments))?;
        let [Argument::Text(job)] = &started.arguments("o")?[..] else {
            return Err(BusError::Malformed);
        };
        loop {
            let (member, body) = self.bus.signal()?;
            if member != "JobRemoved" {
                continue;
            }
            let [_, Argument::Text(removed), _, Argument::Text(result)] =
                &body.arguments("uoss")?[..]
            else {
                return Err(BusError::Malformed);
            };
            if removed == job {
                return Ok(result.clone());
            }
        }
    }
}

fn call(member: &'static str, arguments: Vec<Value>) -> Call<'static> {
    Call {
        destination: SYSTEMD,
        path: PATH,
        interface: MANAGER,
        member,
        arguments,
    }
}

/// A property of the manager itself, a text.
fn property(bus: &mut Bus, name: &'static str) -> Result<String, BusError> {
    let answer = bus.call(Call {
        interface: "org.freedesktop.DBus.Properties",
        ..call("Get", vec![MANAGER.into(), name.into()])
    })?;
    match answer.arguments("v")?.pop() {
        Some(Argument::Text(text)) => Ok(text),
        _ => Err(BusError::Malformed),
    }
}

fn list(properties: Vec<Property>) -> Value {
    let pair = |Property { name, value }| {
        Value::Struct(vec![Value::Text(name), Value::Variant(Box::new(value))])
    };
    Value::Array("(sv)".into(), properties.into_iter().map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn a_version_is_the_number_it_begins_with() {
        for (text, number) in [
            ("252.39-1~deb12u2", 252),
            ("v245.4-1.fc32", 245),
            ("256~rc1", 256),
            ("259", 259),
            ("", 0),
        ] {
            assert_eq!(Version(text.into()).number(), number);
        }
    }
}
