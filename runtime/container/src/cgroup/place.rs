//! A container's directory in one hierarchy: made, opened again, removed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::hierarchy::{self, Hierarchy, Version};
use super::path::{self, CgroupPath};
use super::record::PlaceRecord;
use super::{CgroupError, file};

/// How often making a path starts over, when another's clean-up takes away a parent meanwhile.
const MAKE_TRIES: usize = 4;

/// A container's directory in one hierarchy.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) version: Version,
    /// What a v1 hierarchy controls; empty on v2.
    pub(super) controllers: Vec<String>,
    mount: PathBuf,
    root: OwnedFd,
    /// From the mount, without a leading slash.
    path: String,
    /// How many of the path's last names were made by us.
    made: usize,
    /// `None` when it is gone.
    directory: Option<OwnedFd>,
}

impl Place {
    /// Finds where the directory that `path` names in `hierarchy` is to be, and makes nothing.
    pub(super) fn locate(hierarchy: Hierarchy, path: &CgroupPath) -> Result<Self, CgroupError> {
        let mut base = Vec::new();
        if !path.is_absolute {
            base = base_names(&hierarchy.own);
            let own = base.join("/");
            if !base.is_empty() && !is_there(&hierarchy.mount, hierarchy.root.as_fd(), &own)? {
                base = base_names(&hierarchy.own_below_mount()?);
            }
        }
        let names: Vec<&str> = base.iter().chain(&path.names).map(String::as_str).collect();
        let mut place = Self {
            version: hierarchy.version,
            controllers: hierarchy.controllers,
            mount: hierarchy.mount,
            root: hierarchy.root,
            path: names.join("/"),
            made: 1,
            directory: None,
        };
        place.made += place.count_missing_parents(path.names.len())?;
        place.directory = place.open_if_there()?;
        Ok(place)
    }

    /// How many of the directories just above ours are not there, of those that the last `named`
    /// names of the path stand for.
    fn count_missing_parents(&self, named: usize) -> Result<usize, CgroupError> {
        let (root, parents) = self.parents();
        let mut missing = 0;
        for path in parents.iter().rev().take(named.saturating_sub(1)) {
            if is_there(&self.mount, root, path)? {
                break;
            }
            missing += 1;
        }
        Ok(missing)
    }

    /// Makes the directory and opens it.
    pub(super) fn make(mut self) -> Result<Self, CgroupError> {
        let names: Vec<&str> = self.path.split('/').collect();
        self.made = self.make_directories(&names)?;
        match self.open_own() {
            Ok(directory) => self.directory = Some(directory),
            Err(error) => {
                self.remove_made();
                return Err(error);
            }
        }
        Ok(self)
    }

    /// One that another has just made for us.
    pub(super) fn made_for_us(self) -> Self {
        Self {
            made: self.made.max(1),
            ..self
        }
    }

    /// Opens the directory of a record again. That it is gone is no error.
    pub(super) fn open(record: &PlaceRecord) -> Result<Self, CgroupError> {
        let names = path::names(&record.path).map_err(|why| CgroupError::Path {
            path: record.path.clone(),
            why,
        })?;
        let root = hierarchy::open_mount(&record.mount).map_err(|source| CgroupError::Open {
            path: record.mount.clone(),
            source,
        })?;
        let version = hierarchy::version(&root).ok_or_else(|| CgroupError::NotACgroup {
            path: record.mount.clone(),
        })?;
        let mut place = Self {
            version,
            controllers: record.controllers.clone(),
            mount: record.mount.clone(),
            root,
            made: record.made.min(names.len()),
            path: names.join("/"),
            directory: None,
        };
        place.directory = place.open_if_there()?;
        Ok(place)
    }

    pub(super) fn record(&self) -> PlaceRecord {
        PlaceRecord {
            mount: self.mount.clone(),
            path: self.path.clone(),
            controllers: self.controllers.clone(),
            made: self.made,
        }
    }

    /// For messages.
    pub(super) fn full_path(&self) -> PathBuf {
        self.mount.join(&self.path)
    }

    /// Whether the directory is there.
    pub(super) fn exists(&self) -> bool {
        self.directory.is_some()
    }

    /// Whether the directory was not there before.
    pub(super) fn is_new(&self) -> bool {
        self.made > 0
    }

    /// Whether the hierarchy has this v1 controller.
    pub(super) fn controls(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    pub(super) fn directory(&self) -> io::Result<BorrowedFd<'_>> {
        match &self.directory {
            Some(directory) => Ok(directory.as_fd()),
            None => Err(Errno::NOENT.into()),
        }
    }

    /// Opens the cgroup at `path` below this one; the empty path is this one.
    pub(super) fn open_below(&self, path: &str) -> io::Result<OwnedFd> {
        file::open_directory(self.directory()?, if path.is_empty() { "." } else { path })
    }

    pub(super) fn write(&self, name: &str, value: &str) -> io::Result<()> {
        file::write(self.directory()?, name, value)
    }

    pub(super) fn read(&self, name: &str) -> io::Result<String> {
        file::read(self.directory()?, name)
    }

    /// Fills in a file that is empty from the nearest directory above in which it is not, also
    /// in those between.
    pub(super) fn inherit(&self, name: &str) -> io::Result<()> {
        let (root, parents) = self.parents();
        let upwards = parents.into_iter().rev().chain(["."]);
        let mut empty = Vec::new();
        for path in std::iter::once(self.path.as_str()).chain(upwards) {
            let directory = file::open_directory(root, path)?;
            let value = file::read(directory.as_fd(), name)?;
            if value.trim().is_empty() {
                empty.push(directory);
                continue;
            }
            for directory in empty.iter().rev() {
                file::write(directory.as_fd(), name, value.trim())?;
            }
            break;
        }
        Ok(())
    }

    /// The hierarchy's root, and the paths of the directories from it down to the one above ours.
    pub(super) fn parents(&self) -> (BorrowedFd<'_>, Vec<&str>) {
        let ends = self.path.match_indices('/').map(|(at, _)| at);
        (self.root.as_fd(), ends.map(|at| &self.path[..at]).collect())
    }

    /// The paths of the directories above ours that we did not find there, innermost first.
    pub(super) fn made_parents(&self) -> Vec<&str> {
        let (_, mut parents) = self.parents();
        let keep = parents.len().saturating_sub(self.made.saturating_sub(1));
        let mut made = parents.split_off(keep);
        made.reverse();
        made
    }

    /// The root and the path below it, for removal.
    pub(super) fn location(&self) -> (BorrowedFd<'_>, &str) {
        (self.root.as_fd(), &self.path)
    }

    /// Takes back [`Place::make`], as far as nobody else uses the directories.
    pub(super) fn remove_made(&self) {
        if !self.is_new() {
            return;
        }
        for path in std::iter::once(self.path.as_str()).chain(self.made_parents()) {
            if rustix::fs::unlinkat(&self.root, path, AtFlags::REMOVEDIR).is_err() {
                return;
            }
        }
    }

    /// Makes what is missing of the path; returns how many of its last names that were.
    fn make_directories(&self, names: &[&str]) -> Result<usize, CgroupError> {
        let mut last = Errno::NOENT;
        for _ in 0..MAKE_TRIES {
            match self.make_missing(names) {
                Ok(made) => return Ok(made),
                Err(Errno::NOENT) => last = Errno::NOENT,
                Err(errno) => {
                    last = errno;
                    break;
                }
            }
        }
        Err(CgroupError::Make {
            path: self.full_path(),
            source: last.into(),
        })
    }

    fn make_missing(&self, names: &[&str]) -> Result<usize, Errno> {
        // Mostly the parents are there, and this is the only call.
        match self.make_one(&self.path)? {
            Some(is_new) => return Ok(usize::from(is_new)),
            None if names.len() == 1 => return Err(Errno::NOENT),
            None => {}
        }
        let mut made = 0;
        for end in 1..=names.len() {
            match self.make_one(&names[..end].join("/")) {
                Ok(Some(true)) => made += 1,
                // One that another has just made is not ours, nor then is what is above.
                Ok(Some(false)) => made = 0,
                Ok(None) => return Err(Errno::NOENT),
                Err(errno) => {
                    self.remove_chain(&names[..end - 1], made);
                    return Err(errno);
                }
            }
        }
        Ok(made)
    }

    /// Makes one directory: whether it is new, or `None` if its parent is missing.
    fn make_one(&self, path: &str) -> Result<Option<bool>, Errno> {
        match rustix::fs::mkdirat(&self.root, path, Mode::from_raw_mode(0o755)) {
            Ok(()) => Ok(Some(true)),
            Err(Errno::EXIST) => Ok(Some(false)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Removes the last `count` directories of a chain, as far as they are empty.
    fn remove_chain(&self, names: &[&str], count: usize) {
        for end in (0..=names.len()).rev().take(count) {
            let _ = rustix::fs::unlinkat(&self.root, names[..end].join("/"), AtFlags::REMOVEDIR);
        }
    }

    fn open_if_there(&self) -> Result<Option<OwnedFd>, CgroupError> {
        match self.open_own() {
            Err(CgroupError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }

    fn open_own(&self) -> Result<OwnedFd, CgroupError> {
        let directory = file::open_directory(self.root.as_fd(), &self.path).map_err(|source| {
            CgroupError::Open {
                path: self.full_path(),
                source,
            }
        })?;
        if hierarchy::version(&directory) != Some(self.version) {
            return Err(CgroupError::NotACgroup {
                path: self.full_path(),
            });
        }
        Ok(directory)
    }
}

/// Whether there is a cgroup `path` below the `root` that is mounted at `mount`.
fn is_there(mount: &Path, root: BorrowedFd<'_>, path: &str) -> Result<bool, CgroupError> {
    match file::open_below(root, path, OFlags::PATH) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(CgroupError::Open {
            path: mount.join(path),
            source,
        }),
    }
}

/// Where relative paths begin. The kernel shows a cgroup outside of our cgroup namespace with
/// "..": that one cannot be reached, and the mount's root is as near as we get.
fn base_names(own: &str) -> Vec<String> {
    path::names(own).unwrap_or_default()
}
