//! What the guest may reach: named directories and files, added and removed at any time.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::SystemTime;

use super::attr;
use super::server::Server;

/// The longest name of a directory entry, `NAME_MAX`.
const NAME_MAX: usize = 255;

/// Why an export could not be added or removed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The name cannot be a directory entry's.
    #[error("{name:?} cannot name an export: it must be one path component of at most 255 bytes")]
    Name {
        /// The name asked for.
        name: String,
    },
    /// Another export has the name.
    #[error("there is an export {name:?} already")]
    Exists {
        /// The name asked for.
        name: String,
    },
    /// No export has the name.
    #[error("there is no export {name:?}")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The root cannot be looked at.
    #[error("cannot read the attributes of the root of export {name:?}")]
    Attributes {
        /// The export's name.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A handle on the table of exports of one device. Clones are handles on the same table.
///
/// The guest sees the exports as the entries of the file system's read-only root directory, at
/// once and while it runs.
#[derive(Clone, Debug, Default)]
pub struct Exports {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    table: RwLock<Table>,
    /// Those who may hold descriptors of an export when it is removed.
    servers: Mutex<Vec<Weak<Server>>>,
}

#[derive(Debug)]
struct Table {
    by_number: BTreeMap<u32, Export>,
    next_number: u32,
    changed: SystemTime,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            by_number: BTreeMap::new(),
            next_number: 0,
            changed: SystemTime::now(),
        }
    }
}

/// One export.
#[derive(Clone, Debug)]
pub(super) struct Export {
    pub(super) name: String,
    pub(super) id: ExportId,
    root: Arc<OwnedFd>,
}

/// What every inode keeps of its export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExportId {
    /// Never used again for another export.
    pub(super) number: u32,
    pub(super) readonly: bool,
}

impl Exports {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers `root`, a directory or any other file (best an `O_PATH` descriptor), as `name`.
    /// With `readonly`, whatever would change something below it answers `EROFS`.
    ///
    /// Nothing above a directory's root is reachable; file systems mounted below it are.
    pub fn add(&self, name: &str, root: OwnedFd, readonly: bool) -> Result<(), ExportError> {
        let name = name.to_owned();
        let one_component = !name.contains(['/', '\0']) && !matches!(&*name, "" | "." | "..");
        if !one_component || name.len() > NAME_MAX {
            return Err(ExportError::Name { name });
        }
        if let Err(errno) = attr::stat(root.as_fd()) {
            return Err(ExportError::Attributes {
                name,
                source: errno.into(),
            });
        }
        let mut table = self.write();
        if table.by_number.values().any(|export| export.name == name) {
            return Err(ExportError::Exists { name });
        }
        let number = table.next_number;
        table.next_number += 1;
        let id = ExportId { number, readonly };
        table.by_number.insert(
            number,
            Export {
                name,
                id,
                root: Arc::new(root),
            },
        );
        table.changed = SystemTime::now();
        Ok(())
    }

    /// Takes an export away. What the guest has open below it answers `ESTALE` from now on, and
    /// no descriptor of it stays behind, so that its file system can be unmounted.
    pub fn remove(&self, name: &str) -> Result<(), ExportError> {
        let id = {
            let mut table = self.write();
            let found = table.by_number.values().find(|export| export.name == name);
            let Some(id) = found.map(|export| export.id) else {
                return Err(ExportError::Unknown {
                    name: name.to_owned(),
                });
            };
            table.by_number.remove(&id.number);
            table.changed = SystemTime::now();
            id
        };
        let servers = self
            .shared
            .servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for server in servers.iter().filter_map(Weak::upgrade) {
            server.revoke(id);
        }
        Ok(())
    }

    /// Asks for `server` to be told of removals.
    pub(super) fn attach(&self, server: &Arc<Server>) {
        let mut servers = self
            .shared
            .servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        servers.retain(|server| server.strong_count() > 0);
        servers.push(Arc::downgrade(server));
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<Export> {
        self.read()
            .by_number
            .values()
            .find(|export| export.name.as_bytes() == name)
            .cloned()
    }

    /// The exports whose number is at least `first`, in order.
    pub(super) fn starting_at(&self, first: u32) -> Vec<Export> {
        self.read()
            .by_number
            .range(first..)
            .map(|(_, export)| export.clone())
            .collect()
    }

    /// Whether the export is still offered.
    pub(super) fn has(&self, id: ExportId) -> bool {
        self.read().by_number.contains_key(&id.number)
    }

    /// How many there are, and when that last changed.
    pub(super) fn summary(&self) -> (usize, SystemTime) {
        let table = self.read();
        (table.by_number.len(), table.changed)
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.shared
            .table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.shared
            .table
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Export {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn an_export_is_named_by_one_component_that_no_other_has() {
        let exports = Exports::new();
        let root = || OwnedFd::from(File::open("/").unwrap());
        exports.add("rootfs", root(), false).unwrap();
        let twice = exports.add("rootfs", root(), false).unwrap_err();
        assert_eq!(twice.to_string(), "there is an export \"rootfs\" already");
        for bad in ["", ".", "..", "a/b", "/", "a\0b", &"x".repeat(256)] {
            let error = exports.add(bad, root(), false).unwrap_err();
            assert!(
                matches!(error, ExportError::Name { .. }),
                "{bad:?}: {error}"
            );
        }
        exports.remove("rootfs").unwrap();
        assert!(matches!(
            exports.remove("rootfs"),
            Err(ExportError::Unknown { .. })
        ));
    }
}
