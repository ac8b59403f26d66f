//! `linux.cgroupsPath` as systemd's driver has it, `slice:prefix:name`, made into a unit.

use crate::Instance;

/// systemd's UNIT_NAME_MAX.
const NAME_MAX: usize = 255;

/// The scope of a container, and the slice that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeName {
    /// As in `a-b.slice`.
    slice: String,
    /// As in `prefix-name.scope`.
    unit: String,
}

/// A path that names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("linux.cgroupsPath: {path:?} is refused: {why}")]
pub struct NameError {
    path: String,
    why: &'static str,
}

impl ScopeName {
    /// Reads `slice:prefix:name`. Without a path it is `:runvm:` and the container's id; without a
    /// slice, system.slice, or user.slice in a user's manager.
    pub fn parse(path: Option<&str>, id: &str, instance: Instance) -> Result<Self, NameError> {
        let default = format!(":runvm:{id}");
        let path = path.filter(|path| !path.is_empty()).unwrap_or(&default);
        let refused = |why| NameError {
            path: path.to_owned(),
            why,
        };
        let [slice, prefix, name] = path.split(':').collect::<Vec<_>>()[..] else {
            return Err(refused(
                "the systemd cgroup driver expects the form slice:prefix:name",
            ));
        };
        let slice = match (slice, instance) {
            ("", Instance::System) => "system.slice",
            ("", Instance::User) => "user.slice",
            (slice, _) => slice,
        };
        check_slice(slice).map_err(refused)?;
        if name.is_empty() {
            return Err(refused("the name is empty"));
        }
        if name.ends_with(".slice") {
            return Err(refused(
                "the name ends in \".slice\": a slice holds no processes",
            ));
        }
        let unit = format!("{prefix}-{name}.scope");
        check_characters(&unit).map_err(refused)?;
        Ok(Self {
            slice: slice.to_owned(),
            unit,
        })
    }

    /// The name of the scope.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// The name of its slice.
    pub fn slice(&self) -> &str {
        &self.slice
    }

    /// The scope's cgroup below that of the service manager: `a-b.slice` is in `a.slice`
    /// (systemd.slice(5)). Without a leading slash.
    pub fn cgroup(&self) -> String {
        let mut path = String::new();
        let stem = self.slice.trim_end_matches(".slice");
        if stem != "-" {
            let ends = stem.match_indices('-').map(|(at, _)| at);
            for end in ends.chain([stem.len()]) {
                path.push_str(&stem[..end]);
                path.push_str(".slice/");
            }
        }
        path + &self.unit
    }
}

fn check_slice(slice: &str) -> Result<(), &'static str> {
    let Some(stem) = slice.strip_suffix(".slice") else {
        return Err("the slice does not end in \".slice\"");
    };
    if stem != "-" && stem.split('-').any(str::is_empty) {
        return Err("the slice has an empty name between its dashes");
    }
    check_characters(slice)
}

/// What systemd takes as the name of a unit (systemd.unit(5)); "/" and with it ".." as a path is
/// not among it.
fn check_characters(unit: &str) -> Result<(), &'static str> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.\\@".contains(c);
    if unit.contains("..") {
        return Err("\"..\" leads out of the place it names");
    }
    if !unit.chars().all(is_allowed) {
        return Err(
            "names of units have letters, digits, and \"-\", \"_\", \".\", \"\\\", \"@\" alone",
        );
    }
    if unit.starts_with('@') {
        return Err("the name of a unit does not begin with \"@\"");
    }
    if unit.len() > NAME_MAX {
        return Err("the name of its unit is longer than 255 bytes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Result<ScopeName, NameError> {
        ScopeName::parse(Some(path), "c1", Instance::System)
    }

    #[test]
    fn a_path_becomes_a_scope_in_its_slices() {
        for (path, unit, cgroup) in [
            (":runc:c1", "runc-c1.scope", "system.slice/runc-c1.scope"),
            ("-.slice:p:n", "p-n.scope", "p-n.scope"),
            ("a.slice:p:n", "p-n.scope", "a.slice/p-n.scope"),
            (
                "a-b-c.slice:cri:x_1",
                "cri-x_1.scope",
                "a.slice/a-b.slice/a-b-c.slice/cri-x_1.scope",
            ),
            ("a.slice::n", "-n.scope", "a.slice/-n.scope"),
        ] {
            let name = parse(path).unwrap();
            assert_eq!((name.unit(), name.cgroup().as_str()), (unit, cgroup));
        }
    }

    #[test]
    fn without_a_path_the_id_names_the_scope() {
        for (instance, cgroup) in [
            (Instance::System, "system.slice/runvm-c1.scope"),
            (Instance::User, "user.slice/runvm-c1.scope"),
        ] {
            for path in [None, Some("")] {
                let name = ScopeName::parse(path, "c1", instance).unwrap();
                assert_eq!(name.cgroup(), cgroup);
            }
        }
        // An id may have a "+", a unit may not.
        assert!(ScopeName::parse(None, "a+b", Instance::System).is_err());
    }

    #[test]
    fn a_path_that_is_no_scope_is_refused_by_its_field() {
        let long = format!(":p:{}", "x".repeat(250));
        for path in [
            "/a/b",
            "a",
            "a.slice:n",
            "a.slice:p:n:m",
            "a:p:n",
            ".slice:p:n",
            "-a.slice:p:n",
            "a--b.slice:p:n",
            "a-.slice:p:n",
            "a/b.slice:p:n",
            "a.slice/../b.slice:p:n",
            "..slice:p:n",
            "a.slice:p:../n",
            "a.slice:p/q:n",
            "a.slice:p:",
            "a.slice:p:n.slice",
            "a.slice:p:n m",
            "a.slice:p:n\0",
            "a.slice:p:n\n",
            "a.slice:p:ä",
            "a.slice:@p:n",
            &long,
        ] {
            let error = parse(path).unwrap_err().to_string();
            assert!(error.starts_with("linux.cgroupsPath: "), "{error}");
        }
    }
}
