//! `linux.cgroupsPath` made into a place below a hierarchy.

use super::CgroupError;

/// The longest name of one directory (NAME_MAX).
const NAME_MAX: usize = 255;

/// A container's place in every hierarchy: names only, none of them leading elsewhere.
///
/// As with runc's cgroupfs driver, an absolute path is taken from the root of each hierarchy, and
/// a relative one from the runtime's own cgroup there (on cgroup v2 from that one's parent: the
/// runtime is a process in it, so it can hand its children no controllers). Without a path, it is
/// the container's id, relative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CgroupPath {
    pub(super) is_absolute: bool,
    /// At least one name.
    pub(super) names: Vec<String>,
}

impl CgroupPath {
    pub(super) fn new(path: Option<&str>, id: &str) -> Result<Self, CgroupError> {
        let path = path.filter(|path| !path.is_empty()).unwrap_or(id);
        let refused = |why| CgroupError::Path {
            path: path.to_owned(),
            why,
        };
        if is_systemd_form(path) {
            return Err(refused(
                "slice:prefix:name is for the systemd cgroup driver, which is not in use",
            ));
        }
        let names = names(path).map_err(refused)?;
        if names.is_empty() {
            return Err(refused("a container cannot have the root cgroup"));
        }
        Ok(Self {
            is_absolute: path.starts_with('/'),
            names,
        })
    }

    /// The place of a scope, from the root of the hierarchies.
    pub(super) fn of_scope(path: &str) -> Result<Self, CgroupError> {
        Self::new(Some(&format!("/{path}")), "")
    }
}

/// The names of a path below a hierarchy's root, each checked.
pub(super) fn names(path: &str) -> Result<Vec<String>, &'static str> {
    let mut names = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => return Err("\"..\" leads out of the place it names"),
            name if name.len() > NAME_MAX => return Err("a name in it is longer than 255 bytes"),
            name if name.contains(['\0', '\n']) => return Err("a name in it has a NUL or newline"),
            name => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

/// `slice:prefix:name`, where the slice may be left out.
fn is_systemd_form(path: &str) -> bool {
    let parts: Vec<&str> = path.split(':').collect();
    parts.len() == 3 && (parts[0].is_empty() || parts[0].ends_with(".slice"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_names() {
        for (path, is_absolute, names) in [
            (None, false, vec!["c1"]),
            (Some(""), false, vec!["c1"]),
            (Some("/a/b"), true, vec!["a", "b"]),
            (Some("a//./b/"), false, vec!["a", "b"]),
            (Some("/a:b:c"), true, vec!["a:b:c"]),
        ] {
            let parsed = CgroupPath::new(path, "c1").unwrap();
            assert_eq!(parsed.is_absolute, is_absolute, "{path:?}");
            assert_eq!(parsed.names, names, "{path:?}");
        }
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_refused() {
        let long = "x".repeat(256);
        for path in [
            "/",
            ".",
            "..",
            "/a/../../b",
            "a\0",
            "a\nb",
            "system.slice:runvm:c1",
            ":x:y",
            &long,
        ] {
            assert!(CgroupPath::new(Some(path), "c1").is_err(), "{path:?}");
        }
    }
}
