//! What of a config.json is acted on when its container is no longer being made: [`Later`].

use serde::Deserialize;

use crate::read::{decode, intel_rdt};
use crate::{ConfigError, Hooks, LinuxIntelRdt, document, hook};

/// The part of a configuration that `start` and `delete` need. The whole was checked when the
/// container was made; checking it again would be a good part of their time.
#[derive(Debug, Clone, PartialEq)]
pub struct Later {
    /// `hooks`.
    pub hooks: Hooks,
    /// `linux.intelRdt`.
    pub intel_rdt: Option<LinuxIntelRdt>,
}

#[derive(Deserialize)]
struct Document {
    hooks: Option<document::Hooks>,
    linux: Option<Linux>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    intel_rdt: Option<LinuxIntelRdt>,
}

impl Later {
    /// Checks this part of the text of a config.json.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let document: Document = decode("config.json", "", bytes)?;
        let asked = document.linux.and_then(|linux| linux.intel_rdt);
        Ok(Self {
            hooks: document.hooks.map_or(Ok(Hooks::default()), hook::checked)?,
            intel_rdt: asked.map(intel_rdt).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Plan;

    #[test]
    fn the_part_is_what_the_whole_has() {
        let config = crate::default_config(None);
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config["hooks"] = serde_json::json!({
            "poststart": [{"path": "/bin/a", "args": ["a", "b"]}],
            "poststop": [{"path": "/bin/c", "timeout": 3}],
        });
        config["linux"]["intelRdt"] = serde_json::json!({"closID": "class"});
        let text = config.to_string();
        let later = Later::parse(text.as_bytes()).unwrap();
        let plan = Plan::parse(text.as_bytes(), Path::new("/bundle")).unwrap();
        assert_eq!(later.hooks, plan.hooks);
        assert_eq!(later.intel_rdt, plan.intel_rdt);
        assert_eq!(later.hooks.poststop.len(), 1);
    }
}
