//! `linux.intelRdt`: groups of the resctrl file system, which share caches and memory bandwidth
//! (Documentation/filesystems/resctrl.rst).
//!
//! A group is the class named by `closID`, or one of the container's own by its id. Only what was
//! made for this one container goes with it: a class named by `closID` may have other members.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use runvm_oci::LinuxIntelRdt;
use rustix::fs::{FsWord, statfs};

const ROOT: &str = "/sys/fs/resctrl";
/// linux/magic.h.
const RDTGROUP_SUPER_MAGIC: FsWord = 0x0765_5821;

/// Why a container is not in its class, or its own class was not removed.
#[derive(Debug, thiserror::Error)]
pub enum ResctrlError {
    /// Hardware, kernel or administrator do not offer it.
    #[error("linux.intelRdt needs the resctrl file system mounted at {ROOT}")]
    NotMounted,
    /// `closID` without a schema is of a class that is there.
    #[error("linux.intelRdt.closID: there is no class {}, and no schema to make it with", path.display())]
    Missing {
        /// The class's directory.
        path: PathBuf,
    },
    /// A class that is there has another schema.
    #[error("linux.intelRdt: the class {} has not the schema {line:?}", path.display())]
    Differs {
        /// The class's directory.
        path: PathBuf,
        /// The line asked for.
        line: String,
    },
    /// A directory.
    #[error("cannot {what} the resctrl directory {}", path.display())]
    Directory {
        /// What was tried.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file.
    #[error("cannot write {value:?} to {}; {ROOT}/info/last_cmd_status may say why", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Puts the process `pid` of container `id` into its class, which is made where it is missing.
pub(crate) fn join(asked: &LinuxIntelRdt, id: &str, pid: u32) -> Result<(), ResctrlError> {
    let groups = Groups::of(mounted()?, asked, id);
    groups.join(asked, pid).inspect_err(|_| {
        // The error on its way out is the one to tell.
        let _ = groups.remove();
    })
}

/// Removes what was made for container `id` alone; what is gone is no error.
pub fn remove(asked: &LinuxIntelRdt, id: &str) -> Result<(), ResctrlError> {
    match mounted() {
        Ok(root) => Groups::of(root, asked, id).remove(),
        // Unmounting has removed every class.
        Err(_) => Ok(()),
    }
}

/// Puts `pid` where the process `of` is.
pub(crate) fn follow(of: u32, pid: u32) -> Result<(), ResctrlError> {
    let path = PathBuf::from(format!("/proc/{of}/cpu_resctrl_groups"));
    let text = fs::read_to_string(&path).map_err(|source| ResctrlError::Read { path, source })?;
    let Some(group) = place_of(&text) else {
        return Ok(());
    };
    write(&mounted()?.join(group).join("tasks"), &pid.to_string())
}

/// The directory, below the root, of "res:CLASS\nmon:GROUP\n"; `None` without resctrl.
fn place_of(text: &str) -> Option<PathBuf> {
    let line = |key| text.lines().find_map(|line| line.strip_prefix(key));
    let class = line("res:").filter(|class| !class.is_empty())?;
    let class = Path::new(class.trim_start_matches('/'));
    match line("mon:").filter(|group| !group.is_empty()) {
        Some(group) => Some(class.join("mon_groups").join(group)),
        None => Some(class.to_owned()),
    }
}

fn mounted() -> Result<&'static Path, ResctrlError> {
    match statfs(ROOT) {
        Ok(found) if found.f_type == RDTGROUP_SUPER_MAGIC => Ok(Path::new(ROOT)),
        _ => Err(ResctrlError::NotMounted),
    }
}

/// The directories of one container.
struct Groups {
    class: PathBuf,
    /// Whether the class is this container's alone.
    own_class: bool,
    monitoring: Option<PathBuf>,
}

impl Groups {
    fn of(root: &Path, asked: &LinuxIntelRdt, id: &str) -> Self {
        let named = asked.clos_id().as_deref().filter(|name| !name.is_empty());
        let class = match named {
            // The class of all that is in no other.
            Some("/") => root.to_owned(),
            Some(name) => root.join(name),
            None => root.join(id),
        };
        let monitoring = asked.enable_monitoring().unwrap_or(false);
        Self {
            own_class: named.is_none(),
            monitoring: monitoring.then(|| class.join("mon_groups").join(id)),
            class,
        }
    }

    fn join(&self, asked: &LinuxIntelRdt, pid: u32) -> Result<(), ResctrlError> {
        let schema = schema(asked);
        let is_new = self.make_class(&schema)?;
        if is_new || asked.schemata().is_some() {
            for line in &schema {
                write(&self.class.join("schemata"), &format!("{line}\n"))?;
            }
        } else {
            self.compare(&schema)?;
        }
        write(&self.class.join("tasks"), &pid.to_string())?;
        let Some(monitoring) = &self.monitoring else {
            return Ok(());
        };
        make(monitoring)?;
        write(&monitoring.join("tasks"), &pid.to_string())
    }

    /// Whether it was made.
    fn make_class(&self, schema: &[&str]) -> Result<bool, ResctrlError> {
        if self.class.is_dir() {
            return Ok(false);
        }
        if schema.is_empty() && !self.own_class {
            return Err(ResctrlError::Missing {
                path: self.class.clone(),
            });
        }
        make(&self.class).map(|()| true)
    }

    /// Others rely on the schema of a class that was there.
    fn compare(&self, schema: &[&str]) -> Result<(), ResctrlError> {
        if schema.is_empty() {
            return Ok(());
        }
        let path = self.class.join("schemata");
        let text =
            fs::read_to_string(&path).map_err(|source| ResctrlError::Read { path, source })?;
        let has = |line: &&str| text.lines().any(|other| same_line(other, line));
        match schema.iter().find(|line| !has(line)) {
            None => Ok(()),
            Some(line) => Err(ResctrlError::Differs {
                path: self.class.clone(),
                line: (*line).to_owned(),
            }),
        }
    }

    fn remove(&self) -> Result<(), ResctrlError> {
        let own = self.own_class.then_some(&self.class);
        for path in self.monitoring.iter().chain(own) {
            match fs::remove_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ResctrlError::Directory {
                        what: "remove",
                        path: path.clone(),
                        source: error,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The lines for the file schemata: the two older fields before the newer one, which wins.
fn schema(asked: &LinuxIntelRdt) -> Vec<&str> {
    let older = [asked.l3_cache_schema(), asked.mem_bw_schema()];
    let older = older.into_iter().flatten().flat_map(|text| text.lines());
    let newer = asked.schemata().iter().flatten().map(String::as_str);
    let lines = older.chain(newer).map(str::trim);
    lines.filter(|line| !line.is_empty()).collect()
}

/// The kernel pads the names and orders the domains itself: "    L3:0=ff;1=ff".
fn same_line(a: &str, b: &str) -> bool {
    let parts = |line: &str| -> Option<(String, Vec<String>)> {
        let (resource, domains) = line.split_once(':')?;
        let domains = domains.split(';').map(|part| part.trim().to_owned());
        let mut domains: Vec<_> = domains.filter(|part| !part.is_empty()).collect();
        domains.sort_unstable();
        Some((resource.trim().to_owned(), domains))
    };
    parts(a).is_some_and(|a| parts(b) == Some(a))
}

fn make(path: &Path) -> Result<(), ResctrlError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(ResctrlError::Directory {
                what: "make",
                path: path.to_owned(),
                source: error,
            })
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, value: &str) -> Result<(), ResctrlError> {
    let written = fs::File::options()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|source| ResctrlError::Write {
        path: path.to_owned(),
        value: value.trim_end().to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(json: &str) -> LinuxIntelRdt {
        serde_json::from_str(json).unwrap()
    }

    /// A directory that looks like resctrl, but that it does not fill new directories with files.
    fn fake(name: &str, schemata: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("runvm-{name}-{}", std::process::id()));
        for class in [
            root.clone(),
            root.join("gold"),
            root.join("gold/mon_groups/c1"),
        ] {
            fs::create_dir_all(&class).unwrap();
            fs::write(class.join("tasks"), "").unwrap();
            fs::write(class.join("schemata"), schemata).unwrap();
        }
        root
    }

    #[test]
    fn a_class_that_is_there_is_joined_if_its_schema_is_the_one() {
        let root = fake("joined", "    MB:0=100;1=100\n    L3:1=ff;0=f\n");
        let same = asked(r#"{"closID": "gold", "l3CacheSchema": "L3:0=f;1=ff"}"#);
        Groups::of(&root, &same, "c1").join(&same, 7).unwrap();
        assert_eq!(fs::read_to_string(root.join("gold/tasks")).unwrap(), "7");
        let other = asked(r#"{"closID": "gold", "memBwSchema": "MB:0=50;1=100"}"#);
        let error = Groups::of(&root, &other, "c1").join(&other, 8).unwrap_err();
        assert!(matches!(error, ResctrlError::Differs { .. }), "{error}");
        assert_eq!(fs::read_to_string(root.join("gold/tasks")).unwrap(), "7");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_class_by_name_alone_must_be_there() {
        let root = fake("missing", "");
        let none = asked(r#"{"closID": "none"}"#);
        let error = Groups::of(&root, &none, "c1").join(&none, 7).unwrap_err();
        assert!(matches!(error, ResctrlError::Missing { .. }), "{error}");
        let all = asked(r#"{"closID": "/"}"#);
        Groups::of(&root, &all, "c1").join(&all, 9).unwrap();
        assert_eq!(fs::read_to_string(root.join("tasks")).unwrap(), "9");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_monitoring_group_has_the_containers_name() {
        let root = fake("monitored", "");
        let monitored = asked(r#"{"closID": "gold", "enableMonitoring": true}"#);
        let groups = Groups::of(&root, &monitored, "c1");
        groups.join(&monitored, 7).unwrap();
        let tasks = root.join("gold/mon_groups/c1/tasks");
        assert_eq!(fs::read_to_string(&tasks).unwrap(), "7");
        fs::remove_file(tasks).unwrap();
        fs::remove_file(root.join("gold/mon_groups/c1/schemata")).unwrap();
        groups.remove().unwrap();
        assert!(!root.join("gold/mon_groups/c1").exists() && root.join("gold").exists());
        groups.remove().unwrap();
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn only_a_class_of_its_own_is_made_and_removed() {
        let root = fake("own", "");
        let own = asked(r#"{"l3CacheSchema": "L3:0=f"}"#);
        let groups = Groups::of(&root, &own, "c2");
        // Nothing makes the file here; the class itself is made.
        let error = groups.join(&own, 7).unwrap_err();
        assert!(matches!(error, ResctrlError::Write { .. }), "{error}");
        assert!(root.join("c2").exists());
        groups.remove().unwrap();
        assert!(!root.join("c2").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_process_is_followed_into_class_and_group() {
        for (text, place) in [
            ("res:\nmon:\n", None),
            ("res:/\nmon:\n", Some("")),
            ("res:/\nmon:m0\n", Some("mon_groups/m0")),
            ("res:gold\nmon:\n", Some("gold")),
            ("res:gold\nmon:c1\n", Some("gold/mon_groups/c1")),
        ] {
            assert_eq!(place_of(text), place.map(PathBuf::from), "{text:?}");
        }
    }
}
