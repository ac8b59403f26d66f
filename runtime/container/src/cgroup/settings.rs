//! `linux.resources` as a list of files to write, and the writing of it.
//!
//! What is written is decided without the kernel ([`v1`], [`v2`]), so that it can be tested
//! without one.

use std::borrow::Cow;
use std::io;

use runvm_oci::LinuxResources;
use rustix::io::Errno;

use super::CgroupError;
use super::hierarchy::Version;
use super::place::Place;

mod unsaid;
pub(super) mod v1;
pub(super) mod v2;

pub(super) use unsaid::completed;

#[cfg(test)]
mod tests;

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// The field of config.json that asks for it.
    pub(super) field: &'static str,
    pub(super) controller: &'static str,
    pub(super) file: Cow<'static, str>,
    pub(super) value: String,
    /// What to write instead where the kernel has not `file`.
    pub(super) otherwise: Otherwise,
}

/// Refuses a memory limit that would at once have something killed, where
/// `checkBeforeUpdate` asks for that. A cgroup that is new or uses nothing is never refused.
pub(super) fn refuse_below_usage(
    place: Option<&Place>,
    resources: &LinuxResources,
) -> Result<(), CgroupError> {
    let memory = resources.memory().as_ref();
    let limit = memory
        .filter(|memory| memory.check_before_update() == Some(true))
        .and_then(|memory| u64::try_from(memory.limit()?).ok())
        .filter(|limit| *limit > 0);
    let (Some(limit), Some(place)) = (limit, place) else {
        return Ok(());
    };
    let file = match place.version {
        Version::V1 => "memory.usage_in_bytes",
        Version::V2 => "memory.current",
    };
    let usage = place.read(file).unwrap_or_default();
    match usage.trim().parse() {
        Ok(usage) if usage > limit => Err(CgroupError::BelowUsage { limit, usage }),
        _ => Ok(()),
    }
}

/// What to do where the kernel does not have a setting's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Otherwise {
    /// It is an error.
    Fail,
    /// Without the file, what is asked for is so anyway.
    Skip,
    /// Another file is the same, with this value.
    Write(&'static str, String),
}

impl Setting {
    fn new(
        field: &'static str,
        controller: &'static str,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
    ) -> Self {
        Self {
            field,
            controller,
            file: file.into(),
            value: value.to_string(),
            otherwise: Otherwise::Fail,
        }
    }

    /// The file and its value; of two files that are the same, the one that every kernel had.
    pub(super) fn into_file(self) -> (String, String) {
        match self.otherwise {
            Otherwise::Write(file, value) => (file.to_owned(), value),
            Otherwise::Fail | Otherwise::Skip => (self.file.into_owned(), self.value),
        }
    }

    fn or(mut self, otherwise: Otherwise) -> Self {
        self.otherwise = otherwise;
        self
    }
}

/// Writes the settings to a cgroup, in order.
///
/// Some limits only fit once another is set: memory under memory and swap together, a quota under
/// its period. Those the kernel finds invalid are therefore tried again after the rest.
pub(super) fn write_all(place: &Place, settings: &[Setting]) -> Result<(), CgroupError> {
    let mut again = Vec::new();
    for setting in settings {
        match write_one(place, setting) {
            Err(error) if is_errno(&error, Errno::INVAL) => again.push(setting),
            result => result.map_err(|error| failed(place, setting, error))?,
        }
    }
    for setting in again {
        write_one(place, setting).map_err(|error| failed(place, setting, error))?;
    }
    Ok(())
}

fn write_one(place: &Place, setting: &Setting) -> io::Result<()> {
    let result = place.write(&setting.file, &setting.value);
    match (&setting.otherwise, result) {
        (Otherwise::Skip, Err(error)) if is_errno(&error, Errno::NOENT) => Ok(()),
        (Otherwise::Write(file, value), Err(error)) if is_errno(&error, Errno::NOENT) => {
            place.write(file, value)
        }
        (_, result) => result,
    }
}

fn failed(place: &Place, setting: &Setting, source: io::Error) -> CgroupError {
    let (field, path) = (setting.field, place.full_path());
    if is_errno(&source, Errno::NOENT) {
        return CgroupError::NoFile {
            field,
            file: setting.file.to_string(),
            path,
        };
    }
    CgroupError::Set {
        field,
        value: setting.value.clone(),
        file: setting.file.to_string(),
        path,
        source,
    }
}

pub(super) fn is_errno(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// A limit in which -1 is none, and 0 leaves things as they are.
fn limit(field: &'static str, value: Option<i64>) -> Result<Option<Limit>, CgroupError> {
    match value {
        None | Some(0) => Ok(None),
        Some(-1) => Ok(Some(Limit::Unlimited)),
        Some(value) => match u64::try_from(value) {
            Ok(value) => Ok(Some(Limit::At(value))),
            Err(_) => Err(CgroupError::Value {
                field,
                value: value.to_string(),
                why: "a limit is positive, or -1 for none",
            }),
        },
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Unlimited,
    At(u64),
}

impl Limit {
    /// As cgroup v1 has it.
    fn v1(self) -> String {
        match self {
            Self::Unlimited => "-1".into(),
            Self::At(value) => value.to_string(),
        }
    }

    /// As cgroup v2 has it.
    fn v2(self) -> String {
        match self {
            Self::Unlimited => "max".into(),
            Self::At(value) => value.to_string(),
        }
    }
}

/// `pids.max`, alike in v1 and v2: below zero is no limit. 0 has always meant "leave it" to
/// engines, though the specification now has it as a limit that nothing could start under.
fn pids_max(limit: i64) -> Option<String> {
    match limit {
        0 => None,
        1.. => Some(limit.to_string()),
        _ => Some("max".into()),
    }
}
