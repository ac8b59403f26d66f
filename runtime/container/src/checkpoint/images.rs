//! The directories of a checkpoint: images, and the log of the work on them.
//!
//! Both may come from elsewhere: what is read from them is checked, and nothing is written
//! through a link that is found there.

use std::fs::{DirBuilder, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use prost::Message;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;

use super::criu::Criu;
use super::rpc::{MountEntry, Options};

/// Names of the standard streams, as runc keeps them beside the images.
const DESCRIPTORS: &str = "descriptors.json";
/// The most of it that is read, in bytes.
const DESCRIPTORS_BYTES_MAX: u64 = 64 << 10;
/// Every checkpoint has it.
const INVENTORY: &str = "inventory.img";
/// What lists the mounts, for messages.
const MOUNT_POINTS: &str = "mountpoints-*.img";
/// The most of a list that is read, in bytes.
const MOUNT_POINTS_BYTES_MAX: u64 = 16 << 20;
/// What an image begins with (CRIU's `criu/include/magic.h`, IMG_COMMON_MAGIC).
const IMAGE_MAGIC: u32 = 0x5456_4319;
/// How many errors of CRIU's log are quoted.
const QUOTED_ERRORS: usize = 3;
/// How much of a line of CRIU's log an error quotes, in bytes.
const QUOTE_BYTES_MAX: usize = 512;

/// A directory of images that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// The directory.
    #[error("cannot {what} the directory {}", path.display())]
    Directory {
        /// What was tried.
        what: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not one of images.
    #[error("{} holds no checkpoint: it has no {INVENTORY}", path.display())]
    NoCheckpoint {
        /// The directory.
        path: PathBuf,
    },
    /// A file in it.
    #[error("cannot {what} {file} in {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        file: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The parent of an incremental dump.
    #[error("--parent-path {}: expected a directory, relative to the image directory", path.display())]
    Parent {
        /// As the caller has it.
        path: PathBuf,
    },
}

/// An open pair of directories, and the name of the log.
pub(super) struct Images {
    directory: Directory,
    work: Option<Directory>,
    log: &'static str,
}

struct Directory {
    path: PathBuf,
    file: File,
}

impl Images {
    /// Opens the directories to dump into, made where they are missing.
    pub(super) fn to_write(path: &Path, work: Option<&Path>) -> Result<Self, ImagesError> {
        Self::open(Directory::make(path)?, work, "dump.log")
    }

    /// Opens the directories to restore from; `work` is made where it is missing.
    pub(super) fn to_read(path: &Path, work: Option<&Path>) -> Result<Self, ImagesError> {
        let directory = Directory::open(path)?;
        if statat(&directory.file, INVENTORY, AtFlags::SYMLINK_NOFOLLOW).is_err() {
            return Err(ImagesError::NoCheckpoint { path: path.into() });
        }
        Self::open(directory, work, "restore.log")
    }

    fn open(
        directory: Directory,
        work: Option<&Path>,
        log: &'static str,
    ) -> Result<Self, ImagesError> {
        let work = work.map(Directory::make).transpose()?;
        let images = Self {
            directory,
            work,
            log,
        };
        let work = images.work();
        // CRIU follows a link that is in the place of its log.
        match unlinkat(&work.file, log, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(images),
            Err(errno) => Err(work.failed("replace", log, errno.into())),
        }
    }

    /// The directories that CRIU is to open.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let work = self.work.iter();
        let both = std::iter::once(&self.directory).chain(work);
        both.map(|directory| directory.path.clone()).collect()
    }

    /// Has a request to `criu` work on these.
    pub(super) fn set_in(&self, options: &mut Options, criu: &Criu) {
        let mut directories = criu.directories.iter().copied();
        // None has this number; what is missing is refused.
        options.images_dir_fd = directories.next().unwrap_or(-1);
        options.work_dir_fd = directories.next();
        options.log_file = Some(self.log.to_owned());
        // All but debugging.
        options.log_level = Some(4);
    }

    /// Checks that the parent of an incremental dump is there.
    pub(super) fn check_parent(&self, parent: &Path) -> Result<(), ImagesError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let found = || openat(&self.directory.file, parent, flags, Mode::empty());
        if parent.is_absolute() || found().is_err() {
            return Err(ImagesError::Parent {
                path: parent.into(),
            });
        }
        Ok(())
    }

    /// Keeps what the standard streams were.
    pub(super) fn write_descriptors(&self, names: &[String]) -> Result<(), ImagesError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let write = || -> io::Result<()> {
            let mode = Mode::RUSR | Mode::WUSR;
            let mut file = File::from(openat(&self.directory.file, DESCRIPTORS, flags, mode)?);
            file.write_all(&serde_json::to_vec(names)?)
        };
        write().map_err(|source| self.directory.failed("write", DESCRIPTORS, source))
    }

    /// What the standard streams were: at most three names.
    pub(super) fn read_descriptors(&self) -> Result<Vec<String>, ImagesError> {
        // Not to be held up by a FIFO.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let read = || -> io::Result<Vec<String>> {
            let file = File::from(openat(
                &self.directory.file,
                DESCRIPTORS,
                flags,
                Mode::empty(),
            )?);
            let mut bytes = Vec::new();
            file.take(DESCRIPTORS_BYTES_MAX).read_to_end(&mut bytes)?;
            let names: Vec<String> = serde_json::from_slice(&bytes)?;
            if names.len() > 3 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it names more than the three standard streams",
                ));
            }
            Ok(names)
        };
        read().map_err(|source| self.directory.failed("read", DESCRIPTORS, source))
    }

    /// Where mounts will be made in the container's root, as the images have it.
    pub(super) fn mount_points(&self) -> Result<Vec<PathBuf>, ImagesError> {
        let failed = |source: io::Error| self.directory.failed("read", MOUNT_POINTS, source);
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.directory.file).map_err(|errno| failed(errno.into()))? {
            let entry = entry.map_err(|errno| failed(errno.into()))?;
            let name = entry.file_name();
            let bytes = name.to_bytes();
            if !(bytes.starts_with(b"mountpoints-") && bytes.ends_with(b".img")) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = openat(&self.directory.file, name, flags, Mode::empty());
            let mut bytes = Vec::new();
            File::from(file.map_err(|errno| failed(errno.into()))?)
                .take(MOUNT_POINTS_BYTES_MAX)
                .read_to_end(&mut bytes)
                .map_err(failed)?;
            let entries = mount_points_of(&bytes);
            found.extend(entries.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?);
        }
        Ok(found)
    }

    /// The last errors in the log, after a colon, and where the log is. An early one can be about
    /// something that the kernel lacks and CRIU does without.
    pub(super) fn last_errors(&self) -> String {
        let work = self.work();
        let log = work.path.join(self.log);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(file) = openat(&work.file, self.log, flags, Mode::empty()) else {
            return String::new();
        };
        let errors: Vec<String> = BufReader::new(File::from(file))
            .split(b'\n')
            .map_while(Result::ok)
            .filter_map(|line| error_of(&String::from_utf8_lossy(&line)))
            .collect();
        let last = &errors[errors.len().saturating_sub(QUOTED_ERRORS)..];
        let colon = if last.is_empty() { "" } else { ": " };
        format!("{colon}{} (log: {})", last.join("; "), log.display())
    }

    fn work(&self) -> &Directory {
        self.work.as_ref().unwrap_or(&self.directory)
    }
}

impl Directory {
    fn make(path: &Path) -> Result<Self, ImagesError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| ImagesError::Directory {
                what: "make",
                path: path.into(),
                source,
            })?;
        Self::open(path)
    }

    fn open(path: &Path) -> Result<Self, ImagesError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(CWD, path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self {
                path: path.into(),
                file: fd.into(),
            }),
            Err(errno) => Err(ImagesError::Directory {
                what: "open",
                path: path.into(),
                source: errno.into(),
            }),
        }
    }

    fn failed(&self, what: &'static str, file: &'static str, source: io::Error) -> ImagesError {
        ImagesError::File {
            what,
            file,
            path: self.path.clone(),
            source,
        }
    }
}

/// The mount points of an image: two magic numbers, and entries after their lengths (CRIU's
/// `criu/protobuf.c`). `None` where it is damaged, or a mount point leads out of the root.
fn mount_points_of(image: &[u8]) -> Option<Vec<PathBuf>> {
    let (magic, rest) = image.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*magic) != IMAGE_MAGIC {
        return None;
    }
    let (_, mut rest) = rest.split_first_chunk::<4>()?;
    let mut found = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (entry, after) = after.split_at_checked(length)?;
        rest = after;
        let path = PathBuf::from(MountEntry::decode(entry).ok()?.mount_point);
        if path.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        found.push(path);
    }
    rest.is_empty().then_some(found)
}

/// The words of a line such as `(00.123456) Error (criu/mount.c:12): Mount 5 is odd`; `None` when
/// it is no error. In place of the time there can be a pid after it.
fn error_of(line: &str) -> Option<String> {
    let (_, said) = line.split_once("Error (")?;
    let (_, said) = said.split_once("): ")?;
    let end = said
        .char_indices()
        .map(|(at, _)| at)
        .find(|&at| at >= QUOTE_BYTES_MAX)
        .unwrap_or(said.len());
    Some(said[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use prost::Message;

    use super::super::rpc::MountEntry;
    use super::{IMAGE_MAGIC, error_of, mount_points_of};

    fn image(mount_points: &[&str]) -> Vec<u8> {
        let mut image = IMAGE_MAGIC.to_le_bytes().to_vec();
        image.extend([0; 4]);
        for mount_point in mount_points {
            let mount_point = (*mount_point).to_owned();
            let entry = MountEntry { mount_point }.encode_to_vec();
            image.extend(u32::try_from(entry.len()).unwrap().to_le_bytes());
            image.extend(entry);
        }
        image
    }

    #[test]
    fn mount_points_are_read_and_none_leads_out() {
        let whole = image(&["/", "/data/in"]);
        let expected = Some(vec![PathBuf::from("/"), PathBuf::from("/data/in")]);
        assert_eq!(mount_points_of(&whole), expected);
        assert_eq!(mount_points_of(&image(&["/a/../../etc"])), None);
        for cut in 1..whole.len() {
            let shorter = mount_points_of(&whole[..cut]);
            assert!(shorter.is_none_or(|found| found.len() < 2), "{cut}");
        }
        assert_eq!(mount_points_of(&[0; 64]), None);
    }

    #[test]
    fn an_error_of_the_log_is_quoted_without_time_and_place() {
        let rows = [
            (
                "(01.204062) Error (criu/files-reg.c:1710): Can't lookup mount=31 for fd=1",
                Some("Can't lookup mount=31 for fd=1"),
            ),
            (
                "(00.1)     17: Error (criu/tty.c:3): No tty",
                Some("No tty"),
            ),
            ("(00.1) Warn  (criu/kerndat.c:1): Error or not", None),
            ("(00.1) Dumping FAILED.", None),
            ("", None),
        ];
        for (line, expected) in rows {
            assert_eq!(error_of(line).as_deref(), expected, "{line:?}");
        }
    }
}
