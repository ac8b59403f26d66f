//! Device nodes and the customary links of /dev.
//!
//! The directory a node goes to is resolved inside the root, and /dev itself through no link: the
//! image's could lead anywhere (CVE-2026-41579, CVE-2026-47766).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use runvm_oci::{Device, DeviceKind, Mount, MountKind};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, makedev, mknodat, openat,
    statat, symlinkat,
};
use rustix::io::Errno;

use crate::root::{attach, clone_mount};
use crate::rootfs::{Rootfs, remove_file};

/// A device or link that could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("cannot open the container's /dev: it must be a directory and no symbolic link")]
    Dev(#[source] io::Error),
    #[error("cannot make the device {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot bind the host's device to {}", path.display())]
    Bind { path: PathBuf, source: io::Error },
    #[error("cannot bind the host's {} into the container: it is another device", path.display())]
    NotTheDevice { path: PathBuf },
    #[error("cannot make the link /dev/{name}")]
    Link {
        name: &'static str,
        source: io::Error,
    },
}

/// The devices every container has (config-linux.md, "Default Devices").
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// "Dev symbolic links" (runtime-linux.md).
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Always the one of the container's own devpts (devpts(5)): engines that hand on all devices of the host's list
/// the host's too.
const PTMX: &str = "/dev/ptmx";

/// As [`LINKS`], where the kernel has such a file (CONFIG_PROC_KCORE).
const CORE: (&str, &str) = ("core", "/proc/kcore");

/// Where the devices are that every container has.
pub(crate) fn default_paths() -> impl Iterator<Item = PathBuf> {
    DEFAULT.iter().map(|(path, _, _)| path.into())
}

/// How a node comes to be: made, or bound from the host, as in a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// mknod(2).
    Make,
    /// A bind mount of the host's node of the same path.
    Bind,
}

/// Makes the default devices, those of the plan, and the links, unless the bundle brings a whole
/// /dev of its own.
pub(crate) fn set_up(
    rootfs: &Rootfs,
    devices: &[Device],
    mounts: &[Mount],
    way: Way,
) -> Result<(), DeviceError> {
    if brings_dev(mounts) {
        return Ok(());
    }
    let dev = open_dev(rootfs).map_err(DeviceError::Dev)?;
    for (path, major, minor) in DEFAULT {
        if devices.iter().any(|device| device.path == Path::new(path)) {
            continue;
        }
        let device = Device {
            path: path.into(),
            kind: DeviceKind::Char,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        };
        make(rootfs, &device, way)?;
    }
    devices
        .iter()
        .filter(|device| device.path != Path::new(PTMX))
        .try_for_each(|device| make(rootfs, device, way))?;
    let core = rootfs.open(Path::new(CORE.1)).is_ok().then_some(CORE);
    link(&dev, LINKS.into_iter().chain(core))
}

/// Whether a directory of the host is bound over /dev: its devices are the host's affair.
fn brings_dev(mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| {
        mount.destination == Path::new("/dev") && matches!(mount.kind, MountKind::Bind { .. })
    })
}

fn open_dev(rootfs: &Rootfs) -> io::Result<OwnedFd> {
    let path = Path::new("/dev");
    match crate::rootfs::found(rootfs.open_without_links(path))? {
        Some(dev) => match crate::rootfs::file_type(&dev)? {
            FileType::Directory => Ok(dev),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        },
        None => rootfs.make_dir(path),
    }
}

fn make(rootfs: &Rootfs, device: &Device, way: Way) -> Result<(), DeviceError> {
    let failed = |source: io::Error| DeviceError::Make {
        path: device.path.clone(),
        source,
    };
    let (dir, name) = rootfs.make_parent(&device.path).map_err(failed)?;
    if way == Way::Bind && device.kind != DeviceKind::Fifo {
        return bind(rootfs, device);
    }
    let number = makedev(device.major, device.minor);
    let mode = Mode::from_raw_mode(device.mode & 0o7777);
    match mknodat(&dir, name, file_type(device.kind), mode, number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| failed(errno.into()))?;
            if !is_device(&stat, device) {
                // The image has something else of that name, which is not ours to remove.
                return bind(rootfs, device);
            }
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    if (device.uid, device.gid) == (0, 0) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    chownat(&dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| failed(errno.into()))
}

/// Binds the host's device, verified to be the one meant, over a file of its path.
fn bind(rootfs: &Rootfs, device: &Device) -> Result<(), DeviceError> {
    let failed = |source: io::Error| DeviceError::Bind {
        path: device.path.clone(),
        source,
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let host = openat(CWD, &device.path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    let stat = fstat(host.as_fd()).map_err(|errno| failed(errno.into()))?;
    if !is_device(&stat, device) {
        return Err(DeviceError::NotTheDevice {
            path: device.path.clone(),
        });
    }
    let place = rootfs.make_file(&device.path).map_err(failed)?;
    clone_mount(&host)
        .and_then(|mount| attach(&mount, &place))
        .map_err(failed)
}

fn is_device(stat: &rustix::fs::Stat, device: &Device) -> bool {
    FileType::from_raw_mode(stat.st_mode) == file_type(device.kind)
        && (device.kind == DeviceKind::Fifo || stat.st_rdev == makedev(device.major, device.minor))
}

fn file_type(kind: DeviceKind) -> FileType {
    match kind {
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Fifo => FileType::Fifo,
    }
}

fn link(
    dev: &OwnedFd,
    links: impl Iterator<Item = (&'static str, &'static str)>,
) -> Result<(), DeviceError> {
    for (name, target) in links {
        match symlinkat(target, dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => {
                return Err(DeviceError::Link {
                    name,
                    source: errno.into(),
                });
            }
        }
    }
    // Whatever the image has there.
    remove_file(dev, "ptmx".as_ref())
        .and_then(|()| Ok(symlinkat(c"pts/ptmx", dev, c"ptmx")?))
        .map_err(|source| DeviceError::Link {
            name: "ptmx",
            source,
        })
}
