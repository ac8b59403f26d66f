//! Where sandboxes are kept: one directory a container under the store's root.
//!
//! A container exists while its directory does. Its `state.json` is written aside and renamed, so a
//! reader sees one whole [`Record`] or the one before; operations that change a container hold
//! its [`Lock`]. Nothing is synced to a disk: what a record tells of ends with the machine.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use runvm_oci::{IdError, check_id};
use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, flock, fstat, openat, renameat, unlinkat,
};
use rustix::io::Errno;

use crate::Record;

/// Why the store could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The id is not one.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The id is taken.
    #[error("container with given ID already exists: {0}")]
    Exists(String),
    /// No container has the id.
    #[error("container {0:?} does not exist")]
    Missing(String),
    /// The root cannot be made or read.
    #[error("cannot use the state directory {}", path.display())]
    Root {
        /// The store's root.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A container's directory cannot be made, opened, locked or removed.
    #[error("cannot {what} the state of container {id:?}")]
    Directory {
        /// The container.
        id: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file of a container cannot be read or written.
    #[error("cannot {what} {file} of container {id:?}")]
    File {
        /// The container.
        id: String,
        /// What was tried.
        what: &'static str,
        /// The file's name.
        file: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// `state.json` holds no record.
    #[error("the state of container {id:?} is damaged; `delete --force` removes it")]
    Damaged {
        /// The container.
        id: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The record was written by another version.
    #[error(
        "the state of container {id:?} has layout {found}, and this runtime knows {}",
        Record::VERSION
    )]
    Version {
        /// The container.
        id: String,
        /// Its layout.
        found: u32,
    },
}

/// The containers under one root directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The store at `root`, which need not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the directory of a new container, and holds it; fails when the id is taken.
    pub fn reserve(&self, id: &str) -> Result<(Directory, Lock), StoreError> {
        check_id(id)?;
        // Others' containers are not for everybody's eyes: CVE-2024-25621.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .map_err(|source| StoreError::Root {
                path: self.root.clone(),
                source,
            })?;
        loop {
            self.make_directory(id)?;
            let held = self
                .find(id)
                .and_then(|directory| directory.lock().map(|lock| (directory, lock)));
            match held {
                // Somebody deleted it before it was held.
                Err(StoreError::Missing(_)) => {}
                Err(error) => {
                    // Nobody knows of it; one that is not empty any more is another's.
                    let _ = fs::remove_dir(self.root.join(id));
                    return Err(error);
                }
                Ok(held) => return Ok(held),
            }
        }
    }

    fn make_directory(&self, id: &str) -> Result<(), StoreError> {
        let made = DirBuilder::new().mode(0o700).create(self.root.join(id));
        made.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => StoreError::Exists(id.to_owned()),
            _ => StoreError::Directory {
                id: id.to_owned(),
                what: "make",
                source,
            },
        })
    }

    /// Opens the directory of an existing container.
    pub fn find(&self, id: &str) -> Result<Directory, StoreError> {
        check_id(id)?;
        let path = self.root.join(id);
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(CWD, &path, flags, Mode::empty()) {
            Ok(fd) => Ok(Directory {
                id: id.to_owned(),
                path,
                fd,
            }),
            Err(Errno::NOENT) => Err(StoreError::Missing(id.to_owned())),
            Err(errno) => Err(StoreError::Directory {
                id: id.to_owned(),
                what: "open",
                source: errno.into(),
            }),
        }
    }

    /// The ids of all containers, sorted.
    pub fn ids(&self) -> Result<Vec<String>, StoreError> {
        let failed = |source| StoreError::Root {
            path: self.root.clone(),
            source,
        };
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_string().unwrap_or_default();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && check_id(&name).is_ok() {
                ids.push(name);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }
}

/// The directory of one container.
#[derive(Debug)]
pub struct Directory {
    id: String,
    path: PathBuf,
    fd: OwnedFd,
}

/// Held by an operation that changes a container; freed when dropped, or by the kernel when its
/// holder dies.
#[derive(Debug)]
pub struct Lock {
    _file: OwnedFd,
}

const STATE: &str = "state.json";
const CONFIG: &str = "config.json";

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Directory {
    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is, for messages and for programs that need a path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until no other operation holds the container, then holds it.
    pub fn lock(&self) -> Result<Lock, StoreError> {
        let held = self.lock_by(FlockOperation::LockExclusive)?;
        held.ok_or_else(|| self.directory_failed("lock", Errno::WOULDBLOCK))
    }

    /// Holds the container; `None` when another operation does.
    pub fn try_lock(&self) -> Result<Option<Lock>, StoreError> {
        self.lock_by(FlockOperation::NonBlockingLockExclusive)
    }

    /// Whether an operation holds the container.
    pub fn is_locked(&self) -> Result<bool, StoreError> {
        Ok(self
            .lock_by(FlockOperation::NonBlockingLockShared)?
            .is_none())
    }

    fn lock_by(&self, operation: FlockOperation) -> Result<Option<Lock>, StoreError> {
        // A lock belongs to an open file description: one of its own keeps it from living on in
        // whatever process inherits the directory.
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = openat(&self.fd, ".", flags, Mode::empty())
            .map_err(|errno| self.directory_failed("open", errno))?;
        match rustix::io::retry_on_intr(|| flock(&file, operation)) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(self.directory_failed("lock", errno)),
        }
        let found = fstat(&file).map_err(|errno| self.directory_failed("stat", errno))?;
        if found.st_nlink == 0 {
            return Err(StoreError::Missing(self.id.clone()));
        }
        Ok(Some(Lock { _file: file }))
    }

    /// Replaces the record.
    pub fn write_record(&self, record: &Record) -> Result<(), StoreError> {
        let failed = |source| self.file_failed("write", STATE, source);
        let bytes = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        self.replace(STATE, &bytes).map_err(failed)
    }

    /// Reads the record; `None` when its creator did not get to write one.
    pub fn read_record(&self) -> Result<Option<Record>, StoreError> {
        let bytes = match self.read(STATE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.file_failed("read", STATE, error)),
        };
        let record: Record =
            serde_json::from_slice(&bytes).map_err(|source| StoreError::Damaged {
                id: self.id.clone(),
                source,
            })?;
        if record.version != Record::VERSION {
            return Err(StoreError::Version {
                id: self.id.clone(),
                found: record.version,
            });
        }
        Ok(Some(record))
    }

    /// Keeps the configuration the container was made from: the bundle may change or go.
    pub fn write_config(&self, config: &[u8]) -> Result<(), StoreError> {
        self.write(CONFIG, config)
            .map_err(|error| self.file_failed("write", CONFIG, error))
    }

    /// The configuration the container was made from.
    pub fn read_config(&self) -> Result<Vec<u8>, StoreError> {
        self.read(CONFIG).map_err(|error| {
            let is_missing = error.kind() == io::ErrorKind::NotFound;
            if is_missing && matches!(self.read_record(), Ok(None)) {
                // Deleted meanwhile.
                return StoreError::Missing(self.id.clone());
            }
            self.file_failed("read", CONFIG, error)
        })
    }

    /// Removes the directory and what is in it, the record first: without one there is no
    /// container, and what is left of an interrupted removal is like that of an interrupted creation.
    pub fn remove(&self) -> Result<(), StoreError> {
        let failed = |source| self.directory_failed_io("remove", source);
        // What is empty takes no descriptor to remove, and there may be none.
        if fs::remove_dir(&self.path).is_ok() {
            return Ok(());
        }
        unlinkat(&self.fd, STATE, AtFlags::empty())
            .map_err(io::Error::from)
            .or_else(unless_missing)
            .map_err(failed)?;
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let removed = if entry.file_type().map_err(failed)?.is_dir() {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            };
            removed.or_else(unless_missing).map_err(failed)?;
        }
        fs::remove_dir(&self.path)
            .or_else(unless_missing)
            .map_err(failed)
    }

    /// Writes a file whole or not at all.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let aside = format!(".{name}.new");
        self.write(&aside, bytes)?;
        Ok(renameat(&self.fd, &aside, &self.fd, name)?)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(bytes)
    }

    /// Reads a file.
    pub(crate) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.fd, name, flags, Mode::empty())?);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn directory_failed(&self, what: &'static str, errno: Errno) -> StoreError {
        self.directory_failed_io(what, errno.into())
    }

    fn directory_failed_io(&self, what: &'static str, source: io::Error) -> StoreError {
        StoreError::Directory {
            id: self.id.clone(),
            what,
            source,
        }
    }

    fn file_failed(&self, what: &'static str, file: &'static str, source: io::Error) -> StoreError {
        StoreError::File {
            id: self.id.clone(),
            what,
            file,
            source,
        }
    }
}

fn unless_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}
