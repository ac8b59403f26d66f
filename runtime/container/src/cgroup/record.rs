//! What a later process needs to find a cgroup again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The directories of a cgroup, to keep with the container's record.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CgroupRecord {
    /// One a hierarchy; the unified one last.
    pub places: Vec<PlaceRecord>,
}

impl CgroupRecord {
    /// What of it freezes processes: the v1 freezer, or else the unified directory.
    pub(super) fn freezer(&self) -> Self {
        let is_v1 = |place: &&PlaceRecord| place.controllers.iter().any(|name| name == "freezer");
        let is_v2 = |place: &&PlaceRecord| place.controllers.is_empty();
        let v1 = self.places.iter().find(is_v1);
        let freezer = v1.or_else(|| self.places.iter().find(is_v2));
        Self {
            places: freezer.cloned().into_iter().collect(),
        }
    }
}

/// One directory of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceRecord {
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// From there, without a leading slash.
    pub path: String,
    /// The v1 controllers of the hierarchy; empty on v2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<String>,
    /// How many of the path's last names were made for this cgroup, and go with it if empty.
    pub made: usize,
}
