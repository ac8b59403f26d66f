//! Paths inside the container's root: [`Rootfs`].
//!
//! The bundle's files are not trusted, and other containers may change a shared volume while we
//! look. So a path is resolved by the kernel as if the root were `/` (openat2(2),
//! RESOLVE_IN_ROOT), only to O_PATH descriptors, and every action is done on the descriptor.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, mknodat, openat, openat2,
    readlinkat,
};
use rustix::io::Errno;

/// The container's root directory.
#[derive(Debug)]
pub(crate) struct Rootfs(OwnedFd);

/// How many dangling links on the way to a new directory are made good.
const LINKS_MAX: u32 = 40;
/// How often a resolution that raced with a rename is tried again.
const RACES_MAX: u32 = 128;
/// For directories and files made as mount points.
const DIR_MODE: Mode = Mode::from_raw_mode(0o755);
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);

impl Rootfs {
    /// `root` is a directory, best the root of a mount of its own.
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self(root)
    }

    /// The root the process has now.
    pub(crate) fn current() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, c"/", flags, Mode::empty())?))
    }

    /// The root itself.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// What is at `path`, links followed inside the root.
    pub(crate) fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        self.resolve(path, OFlags::PATH, ResolveFlags::empty())
    }

    /// What is at `path`, through no link at all.
    pub(crate) fn open_without_links(&self, path: &Path) -> io::Result<OwnedFd> {
        self.resolve(path, OFlags::PATH, ResolveFlags::NO_SYMLINKS)
    }

    /// Opens what is at `path` for reading or writing, with `flags`.
    pub(crate) fn open_file(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        self.resolve(path, flags | OFlags::NOCTTY, ResolveFlags::empty())
    }

    /// The directory at `path`, made with its parents where it is missing.
    pub(crate) fn make_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        self.make_dirs(path, LINKS_MAX)
    }

    /// The file at `path`, made empty with its parents where it is missing.
    pub(crate) fn make_file(&self, path: &Path) -> io::Result<OwnedFd> {
        if let Some(found) = found(self.open(path))? {
            return Ok(found);
        }
        let (parent, name) = self.make_parent(path)?;
        match mknodat(&parent, name, FileType::RegularFile, FILE_MODE, 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.open(path)
    }

    /// The parent directory of `path`, made where it is missing, and the last name.
    pub(crate) fn make_parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok((self.make_dir(parent)?, name))
    }

    fn make_dirs(&self, path: &Path, links: u32) -> io::Result<OwnedFd> {
        if let Some(found) = found(self.open(path))? {
            return Ok(found);
        }
        let name = match path.components().next_back() {
            Some(Component::Normal(name)) => name,
            // Only in the target of a link: the plan's own paths have none.
            Some(Component::ParentDir) => OsStr::new(".."),
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        let parent = self.make_dirs(path.parent().unwrap_or(Path::new("/")), links)?;
        self.make_missing(&parent, name, path, links)
    }

    /// Makes the directory `name` in `parent`, whose whole path is `path`; or, where a link is in
    /// the way that leads nowhere yet, the directory it leads to.
    fn make_missing(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        links: u32,
    ) -> io::Result<OwnedFd> {
        match mkdirat(parent, name, DIR_MODE) {
            Ok(()) => return self.open(path),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        if let Some(found) = found(self.open(path))? {
            return Ok(found);
        }
        let links = links.checked_sub(1).ok_or(Errno::LOOP)?;
        let target = readlinkat(parent, name, Vec::new())?;
        let target = Path::new(OsStr::from_bytes(target.as_bytes()));
        let base = path.parent().unwrap_or(Path::new("/"));
        self.make_dirs(&base.join(target), links)?;
        self.open(path)
    }

    fn resolve(&self, path: &Path, flags: OFlags, more: ResolveFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        let flags = flags | OFlags::CLOEXEC;
        let mut races = 0;
        loop {
            match openat2(&self.0, path, flags, Mode::empty(), resolve) {
                // A rename or mount somewhere on the system while ".." was walked (openat2(2)).
                Err(Errno::AGAIN) if races < RACES_MAX => races += 1,
                Err(Errno::INTR) => {}
                opened => return Ok(opened?),
            }
        }
    }
}

/// Tells apart "there is none" from a failure.
pub(crate) fn found(opened: io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match opened {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What kind of file an O_PATH descriptor stands for.
pub(crate) fn file_type(fd: &OwnedFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode))
}

/// Removes `name` from `dir` if it is there and is no directory.
pub(crate) fn remove_file(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    struct Fixture(PathBuf);

    impl Fixture {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("runvm-{name}-{}", std::process::id()));
            std::fs::create_dir_all(dir.join("root")).unwrap();
            Self(dir)
        }

        fn root(&self) -> PathBuf {
            self.0.join("root")
        }

        fn rootfs(&self) -> Rootfs {
            Rootfs::new(std::fs::File::open(self.root()).unwrap().into())
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_absolute_link_stays_inside_the_root() {
        let fixture = Fixture::new("absolute");
        symlink("/etc", fixture.root().join("proc")).unwrap();
        fixture.rootfs().make_dir(Path::new("/proc/here")).unwrap();
        assert!(fixture.root().join("etc/here").is_dir());
        assert!(!Path::new("/etc/here").exists());
    }

    #[test]
    fn a_link_upwards_stays_inside_the_root() {
        let fixture = Fixture::new("upwards");
        symlink("../../../..", fixture.root().join("up")).unwrap();
        fixture.rootfs().make_file(Path::new("/up/out")).unwrap();
        assert!(fixture.root().join("out").is_file());
        assert!(!fixture.0.join("out").exists());
    }

    #[test]
    fn a_dangling_link_is_made_good_inside_the_root() {
        let fixture = Fixture::new("dangling");
        std::fs::create_dir(fixture.root().join("var")).unwrap();
        symlink("/run", fixture.root().join("var/run")).unwrap();
        let rootfs = fixture.rootfs();
        rootfs.make_file(Path::new("/var/run/secrets/key")).unwrap();
        assert!(fixture.root().join("run/secrets/key").is_file());
    }

    #[test]
    fn a_link_to_itself_is_refused() {
        let fixture = Fixture::new("loop");
        symlink("loop", fixture.root().join("loop")).unwrap();
        let error = fixture.rootfs().make_dir(Path::new("/loop/a")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    }

    #[test]
    fn a_way_without_links_is_refused_at_the_first_link() {
        let fixture = Fixture::new("nolinks");
        symlink("/etc", fixture.root().join("proc")).unwrap();
        std::fs::create_dir(fixture.root().join("etc")).unwrap();
        assert!(fixture.rootfs().open(Path::new("/proc")).is_ok());
        let without = fixture.rootfs().open_without_links(Path::new("/proc"));
        assert!(without.is_err());
    }
}
