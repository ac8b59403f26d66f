//! File systems of the container's own: proc, sysfs, tmpfs, devpts, mqueue and any other.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use runvm_oci::Mount;
use runvm_sys::mount_attr::RDONLY;
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::{Later, MountError, Mounts};
use crate::rootfs::found;
use crate::security::label_file;

impl Mounts<'_> {
    pub(super) fn file_system(
        &self,
        mount: &Mount,
        fstype: &str,
        source: Option<&str>,
    ) -> Result<Option<Later>, MountError> {
        let existing = self.existing(mount, fstype)?;
        let place = match &existing {
            Some(place) => place,
            None => &self.target_dir(&mount.destination)?,
        };
        // Something more is made in these: device nodes, mount points, what is copied up.
        let read_only = mount.attr_set & RDONLY != 0;
        let wait = read_only && (fstype == "tmpfs" || mount.destination == Path::new("/dev"));
        let mut mount = mount.clone();
        if wait {
            mount.attr_set &= !RDONLY;
            mount.superblock_flags.retain(|(flag, _)| *flag != "ro");
        }
        inherit_mode(&mut mount, fstype, existing.as_ref());
        add_label(&mut mount, fstype, self.label);
        let detached = detached(fstype, source, &mount)?;
        // It does not take the option.
        if let (Some(label), "mqueue") = (self.label, fstype) {
            label_file(&detached, label).map_err(|source| MountError::Label {
                target: mount.destination.clone(),
                source,
            })?;
        }
        if mount.copy_up && existing.is_some() {
            super::copy_up::copy(place, &detached).map_err(|source| MountError::CopyUp {
                target: mount.destination.clone(),
                source,
            })?;
        }
        self.finish(&mount, &detached, place)?;
        Ok(wait.then(|| Later {
            target: mount.destination,
            mount: detached,
        }))
    }

    /// The directory that is there already. The kernel's own file systems are mounted nowhere a
    /// link of the image leads to: tools would find something else under their name.
    fn existing(&self, mount: &Mount, fstype: &str) -> Result<Option<OwnedFd>, MountError> {
        let target = &mount.destination;
        let no_links = matches!(fstype, "proc" | "sysfs");
        let opened = if no_links {
            self.rootfs.open_without_links(target)
        } else {
            self.rootfs.open(target)
        };
        found(opened).map_err(|source| {
            let is_link = source.raw_os_error() == Some(Errno::LOOP.raw_os_error());
            if no_links && is_link {
                return MountError::Link {
                    fstype: fstype.into(),
                    target: target.clone(),
                };
            }
            MountError::Target {
                target: target.clone(),
                source,
            }
        })
    }
}

/// A tmpfs over a directory keeps the directory's permissions, unless it was given its own.
fn inherit_mode(mount: &mut Mount, fstype: &str, existing: Option<&OwnedFd>) {
    let has_mode = mount.data.iter().any(|(key, _)| key == "mode");
    let (true, false, Some(place)) = (fstype == "tmpfs", has_mode, existing) else {
        return;
    };
    if let Ok(stat) = fstat(place) {
        let mode = format!("{:o}", stat.st_mode & 0o7777);
        mount.data.push(("mode".into(), Some(mode)));
    }
}

/// Labels a file system that does not have the labels of the kernel's policy (selinux(8)).
fn add_label(mount: &mut Mount, fstype: &str, label: Option<&str>) {
    let has_own = mount.data.iter().any(|(key, _)| key.ends_with("context"));
    let (Some(label), false) = (label, has_own) else {
        return;
    };
    if !matches!(fstype, "proc" | "sysfs" | "mqueue") {
        mount.data.push(("context".into(), Some(label.into())));
    }
}

/// Makes the file system with its own options, mounted nowhere yet.
fn detached(fstype: &str, source: Option<&str>, mount: &Mount) -> Result<OwnedFd, MountError> {
    let failed = |said: String, errno: Errno| MountError::FileSystem {
        fstype: fstype.into(),
        target: mount.destination.clone(),
        said,
        source: errno.into(),
    };
    let context = open(fstype).map_err(|errno| failed(String::new(), errno))?;
    configure(&context, source, mount).map_err(|errno| failed(words_of(&context), errno))?;
    let attributes = MountAttrFlags::empty();
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|errno| failed(words_of(&context), errno))
}

fn configure(context: &OwnedFd, source: Option<&str>, mount: &Mount) -> rustix::io::Result<()> {
    let context = context.as_fd();
    if let Some(source) = source {
        fsconfig_set_string(context, "source", source)?;
    }
    for (flag, on) in &mount.superblock_flags {
        match (*flag, *on) {
            (flag, true) => fsconfig_set_flag(context, flag)?,
            ("ro", false) => fsconfig_set_flag(context, "rw")?,
            ("sync", false) => fsconfig_set_flag(context, "async")?,
            ("mand", false) => fsconfig_set_flag(context, "nomand")?,
            ("lazytime", false) => fsconfig_set_flag(context, "nolazytime")?,
            // A new file system has none of the others to take back.
            _ => {}
        }
    }
    for (key, value) in &mount.data {
        match value {
            Some(value) => fsconfig_set_string(context, key.as_str(), value.as_str())?,
            None => fsconfig_set_flag(context, key.as_str())?,
        }
    }
    fsconfig_create(context)
}

pub(super) fn open(fstype: &str) -> rustix::io::Result<OwnedFd> {
    fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)
}

/// As [`open`], for what has no source: its name stands for it in the list of mounts.
pub(super) fn open_named(fstype: &str) -> rustix::io::Result<OwnedFd> {
    let context = open(fstype)?;
    fsconfig_set_string(context.as_fd(), "source", fstype)?;
    Ok(context)
}

/// A new file system from its context, mounted nowhere yet.
pub(super) fn mounted(context: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    fsconfig_create(context.as_fd())?;
    fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
}

/// An empty directory that nobody can write to, mounted nowhere yet.
pub(crate) fn empty_read_only(label: Option<&str>) -> io::Result<OwnedFd> {
    let context = open_named("tmpfs")?;
    fsconfig_set_string(context.as_fd(), "mode", "0555")?;
    fsconfig_set_string(context.as_fd(), "nr_inodes", "1")?;
    fsconfig_set_flag(context.as_fd(), "ro")?;
    if let Some(label) = label {
        fsconfig_set_string(context.as_fd(), "context", label)?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// What the kernel logged in the file system context: why an option was refused (fsopen(2)).
fn words_of(context: &OwnedFd) -> String {
    let mut words = String::new();
    let mut line = [0; 256];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut line) {
        let text = String::from_utf8_lossy(&line[..length]);
        // "e " is an error, "w " a warning, "i " a remark.
        words.push_str(": ");
        words.push_str(text.get(2..).unwrap_or_default().trim_end());
    }
    words
}
