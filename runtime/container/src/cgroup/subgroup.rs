//! Cgroups below a container's, which its processes have made: `exec --cgroup`.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::OFlags;

use super::hierarchy::Version;
use super::place::Place;
use super::{Cgroup, Entry, file, path};

/// A cgroup below a container's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubCgroup {
    /// The v1 controllers in whose hierarchies it is; none is the unified hierarchy.
    controllers: Vec<String>,
    /// From the container's cgroup; empty is that one.
    path: String,
}

/// Why there is no such cgroup to run in.
#[derive(Debug, thiserror::Error)]
pub enum SubCgroupError {
    /// The path leads elsewhere.
    #[error("cannot run in cgroup {path:?}: {why}")]
    Path {
        /// The path, as given.
        path: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// A prefix without a name.
    #[error("cannot run in cgroup {0:?}: a controller before the colon has no name")]
    NoName(String),
    /// Two places in one hierarchy.
    #[error("cannot run in two cgroups below {}", .0.display())]
    Twice(PathBuf),
    /// There is no such hierarchy.
    #[error("cannot run in a cgroup of controller {0}: the container has none of it")]
    NoController(String),
    /// A path for the unified hierarchy, and there is none.
    #[error("cannot run in cgroup {0:?}: name its controllers, as in cpu,memory:PATH")]
    NoUnified(String),
    /// It cannot be entered.
    #[error("cannot open cgroup {}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl SubCgroup {
    /// Reads `[CONTROLLER[,CONTROLLER]:]PATH`.
    pub fn parse(text: &str) -> Result<Self, SubCgroupError> {
        let (controllers, below) = match text.split_once(':') {
            Some((names, below)) => (names.split(',').map(str::to_owned).collect(), below),
            None => (Vec::new(), text),
        };
        if controllers.iter().any(String::is_empty) {
            return Err(SubCgroupError::NoName(text.to_owned()));
        }
        let below = below.trim_matches('/');
        let names = path::names(below).map_err(|why| SubCgroupError::Path {
            path: text.to_owned(),
            why,
        })?;
        Ok(Self {
            controllers,
            path: names.join("/"),
        })
    }

    fn is_in(&self, place: &Place) -> bool {
        match place.version {
            Version::V1 => self.controllers.iter().any(|name| place.controls(name)),
            Version::V2 => self.controllers.is_empty(),
        }
    }
}

/// As [`SubCgroup::parse`] reads it.
impl fmt::Display for SubCgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.controllers.is_empty() {
            write!(f, "{}:", self.controllers.join(","))?;
        }
        write!(f, "/{}", self.path)
    }
}

impl Cgroup {
    /// Opens the ways in for one child that is to run in `below`; in a hierarchy that they do not
    /// name, it runs in the cgroup itself.
    pub fn entry_below(&self, below: &[SubCgroup]) -> Result<Entry, SubCgroupError> {
        self.check_hierarchies(below)?;
        let mut entry = Entry {
            unified: None,
            tasks: Vec::new(),
        };
        for place in &self.places {
            let mut found = below.iter().filter(|sub| sub.is_in(place));
            let path = found.next().map_or("", |sub| &sub.path);
            if found.next().is_some() {
                return Err(SubCgroupError::Twice(place.full_path()));
            }
            let failed = |source| SubCgroupError::Open {
                path: place.full_path().join(path),
                source,
            };
            let directory = place.open_below(path).map_err(failed)?;
            match place.version {
                Version::V1 => {
                    let tasks = file::open(directory.as_fd(), "tasks", OFlags::WRONLY);
                    entry.tasks.push(tasks.map_err(failed)?);
                }
                Version::V2 => entry.unified = Some(directory),
            }
        }
        Ok(entry)
    }

    /// The ways in for one child, where the process `pid` of the cgroup is: in the unified hierarchy
    /// a cgroup that has handed controllers to those below it takes no process itself, and
    /// whoever did that has moved those it had.
    pub fn entry_beside(&self, pid: u32) -> io::Result<Entry> {
        let mut entry = self.entry()?;
        if let Some(place) = self.unified() {
            let memberships = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
            let path = memberships
                .lines()
                .find_map(|line| line.strip_prefix("0::"));
            let (_, own) = place.location();
            let below = path.and_then(|path| part_below(path, own));
            let below = below.ok_or(io::ErrorKind::NotFound)?;
            entry.unified = Some(place.open_below(below)?);
        }
        Ok(entry)
    }

    fn check_hierarchies(&self, below: &[SubCgroup]) -> Result<(), SubCgroupError> {
        for sub in below {
            for name in &sub.controllers {
                if self.place_of(name).is_none() {
                    return Err(SubCgroupError::NoController(name.clone()));
                }
            }
            if sub.controllers.is_empty() && self.unified().is_none() {
                return Err(SubCgroupError::NoUnified(sub.path.clone()));
            }
        }
        Ok(())
    }
}

/// The part of `path`, from the hierarchy's root, below the cgroup `own`, which may be from a mount
/// that shows only a part of the hierarchy.
fn part_below<'p>(path: &'p str, own: &str) -> Option<&'p str> {
    let (_, below) = path.split_once(&format!("/{own}"))?;
    match below.strip_prefix('/') {
        Some(below) => Some(below),
        None if below.is_empty() => Some(below),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{SubCgroup, SubCgroupError, part_below};

    #[test]
    fn a_process_is_in_the_cgroup_or_below() {
        for (path, below) in [
            ("/a/c1", Some("")),
            ("/a/c1/init", Some("init")),
            ("/host/a/c1/x/y", Some("x/y")),
            ("/a/c10", None),
            ("/a", None),
        ] {
            assert_eq!(part_below(path, "a/c1"), below, "{path}");
        }
    }

    #[test]
    fn a_cgroup_below_is_a_path_and_perhaps_controllers() {
        let rows = [
            ("a", &[][..], "a"),
            ("/a/b/", &[], "a/b"),
            ("/", &[], ""),
            ("cpu,memory:a", &["cpu", "memory"], "a"),
            ("pids:", &["pids"], ""),
        ];
        for (text, controllers, path) in rows {
            let sub = SubCgroup::parse(text).unwrap();
            assert_eq!(sub.path, path, "{text:?}");
            assert_eq!(sub.controllers, controllers, "{text:?}");
        }
    }

    #[test]
    fn a_path_that_leads_elsewhere_or_an_empty_name_is_refused() {
        for text in ["..", "a/../..", "cpu:../a", "a\0"] {
            let error = SubCgroup::parse(text).unwrap_err();
            assert!(matches!(error, SubCgroupError::Path { .. }), "{text:?}");
        }
        for text in [":a", "cpu,:a"] {
            let error = SubCgroup::parse(text).unwrap_err();
            assert!(matches!(error, SubCgroupError::NoName(_)), "{text:?}");
        }
    }
}
