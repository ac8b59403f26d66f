//! What another program is told of a cgroup: where it is.

use std::path::PathBuf;

use super::Cgroup;
use super::hierarchy::Version;

/// One directory of a cgroup, for a program that finds the hierarchy itself.
pub(crate) struct Told {
    /// The v1 controllers of the hierarchy; the unified one has a single empty name.
    pub(crate) controllers: Vec<String>,
    /// From the hierarchy's root, with a leading slash.
    pub(crate) path: String,
    /// The customary name of the hierarchy's mount; `None` of a unified hierarchy that is alone.
    pub(crate) mount_name: Option<String>,
    /// Where the host has it.
    pub(crate) full_path: PathBuf,
}

impl Cgroup {
    /// Its directories.
    pub(crate) fn told(&self) -> impl Iterator<Item = Told> {
        let is_alone = self.places.len() == 1;
        self.places.iter().map(move |place| {
            let record = place.record();
            let name = record.mount.file_name();
            Told {
                controllers: match place.version {
                    Version::V1 => record.controllers,
                    Version::V2 => vec![String::new()],
                },
                path: format!("/{}", record.path),
                mount_name: name
                    .filter(|_| !(is_alone && place.version == Version::V2))
                    .map(|name| name.to_string_lossy().into_owned()),
                full_path: place.full_path(),
            }
        })
    }

    /// The directory by which all its processes are stopped.
    pub(crate) fn freezer_path(&self) -> Option<PathBuf> {
        self.freezer().ok().map(super::Place::full_path)
    }
}
