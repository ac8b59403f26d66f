//! The state of a container, as hooks get it on stdin and `state` prints it
//! (OCI runtime specification, "State").

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The state document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// config.json's `ociVersion`.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// Where in its life it is.
    pub status: Status,
    /// The pid of its first process as the reader sees it: a hook in the container's namespaces
    /// reads that in the container. 0 when there is none.
    pub pid: u32,
    /// The absolute path of its bundle.
    pub bundle: PathBuf,
    /// config.json's annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl State {
    /// The version of the specification that states are written to.
    pub const OCI_VERSION: &'static str = "1.3.0";
}

/// The specification's statuses, and `paused`, which engines expect of pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made.
    Creating,
    /// Made, and the program not yet run.
    Created,
    /// The program runs.
    Running,
    /// All its processes are frozen.
    Paused,
    /// The program has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_written_as_the_specification_shows() {
        let state = State {
            oci_version: "1.0.2".into(),
            id: "c1".into(),
            status: Status::Running,
            pid: 4422,
            bundle: "/containers/redis".into(),
            annotations: BTreeMap::from([("myKey".into(), "myValue".into())]),
        };
        let json = r#"{"ociVersion":"1.0.2","id":"c1","status":"running","pid":4422,"bundle":"/containers/redis","annotations":{"myKey":"myValue"}}"#;
        assert_eq!(serde_json::to_string(&state).unwrap(), json);
        assert_eq!(serde_json::from_str::<State>(json).unwrap(), state);
    }
}
