//! A config.json to start from, the same that `runc spec` writes.

/// Text, not built from types: the order and the form are part of what people compare.
const DEFAULT: &str = include_str!("spec/default.json");
const ROOTLESS: &str = include_str!("spec/rootless.json");

/// A config.json that runs a shell in `rootfs`.
///
/// With `rootless`, the effective user and group id of the caller, it is one that these may run
/// without privileges: they become root of a user namespace, and the host's network is used.
pub fn default_config(rootless: Option<(u32, u32)>) -> String {
    let Some((uid, gid)) = rootless else {
        return DEFAULT.to_owned();
    };
    let host_id = |text: &str, id| text.replacen("\"hostID\": 0", &format!("\"hostID\": {id}"), 1);
    let at = ROOTLESS.find("\"gidMappings\"").unwrap_or_default();
    let (before, after) = ROOTLESS.split_at(at);
    host_id(before, uid) + &host_id(after, gid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IdMapping, NamespaceKind, Plan};
    use std::path::Path;

    #[test]
    fn the_default_config_is_accepted_without_a_warning() {
        for rootless in [None, Some((1000, 100))] {
            let config = default_config(rootless);
            let plan = Plan::parse(config.as_bytes(), Path::new("/bundle")).unwrap();
            assert_eq!(plan.warnings, Vec::<String>::new());
            assert_eq!(plan.root.path, Path::new("/bundle/rootfs"));
        }
    }

    #[test]
    fn the_rootless_config_maps_the_caller_to_root() {
        let to = |host_id| {
            vec![IdMapping {
                container_id: 0,
                host_id,
                size: 1,
            }]
        };
        for (uid, gid) in [(1000, 0), (0, 1000), (1, 2)] {
            let config = default_config(Some((uid, gid)));
            let plan = Plan::parse(config.as_bytes(), Path::new("/bundle")).unwrap();
            assert_eq!(plan.uid_mappings, to(uid));
            assert_eq!(plan.gid_mappings, to(gid));
            let has = |kind| plan.namespaces.iter().any(|ns| ns.kind == kind);
            assert!(has(NamespaceKind::User) && !has(NamespaceKind::Network));
        }
    }

    #[test]
    fn the_default_config_is_indented_with_tabs_and_ends_without_a_newline() {
        let config = default_config(None);
        assert!(config.starts_with("{\n\t\"ociVersion\": \"1.0.2-dev\",\n\t\"process\""));
        assert!(config.ends_with("\n}"));
    }
}
