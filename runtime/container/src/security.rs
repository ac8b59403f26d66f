//! Security modules: the AppArmor profile and the SELinux label of a process, and the SELinux
//! label of its mounts.
//!
//! Both are written to the own attributes of the process through the runtime's own procfs: a fake
//! one would swallow them (CVE-2019-16884, CVE-2025-52881).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use runvm_oci::Process;
use rustix::fs::{FsWord, XattrFlags, setxattr, statfs};
use rustix::io::Errno;

use crate::proc_fs::ProcFs;

/// linux/magic.h.
const SELINUX_MAGIC: FsWord = 0xf97c_ff8c;
const SELINUX_FS: &str = "/sys/fs/selinux";
const APPARMOR_SWITCH: &str = "/sys/module/apparmor/parameters/enabled";

/// A profile or label that was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecurityError {
    #[error("cannot set process.apparmorProfile {profile:?}")]
    Profile { profile: String, source: io::Error },
    #[error("cannot set process.selinuxLabel {label:?}")]
    Label { label: String, source: io::Error },
    #[error("cannot give keys the label {label:?}")]
    KeyLabel { label: String, source: io::Error },
    #[error("cannot give the terminal linux.mountLabel {label:?}")]
    Terminal { label: String, source: io::Error },
}

/// Whether the kernel enforces AppArmor profiles.
pub(crate) fn apparmor_is_enabled() -> bool {
    std::fs::read(APPARMOR_SWITCH).is_ok_and(|switch| switch.first() == Some(&b'Y'))
}

/// Whether the kernel knows SELinux labels.
pub(crate) fn selinux_is_enabled() -> bool {
    statfs(SELINUX_FS).is_ok_and(|found| found.f_type == SELINUX_MAGIC)
}

/// Lets the next execve change to the profile and the label of `process`.
pub(crate) fn prepare(proc_fs: &ProcFs, process: &Process) -> Result<(), SecurityError> {
    if let Some(profile) = &process.apparmor_profile {
        set_profile(proc_fs, profile).map_err(|source| SecurityError::Profile {
            profile: profile.clone(),
            source,
        })?;
    }
    if let Some(label) = &process.selinux_label {
        proc_fs
            .write("self/attr/exec", label)
            .map_err(|source| SecurityError::Label {
                label: label.clone(),
                source,
            })?;
    }
    Ok(())
}

fn set_profile(proc_fs: &ProcFs, profile: &str) -> io::Result<()> {
    let command = format!("exec {profile}");
    // AppArmor's own file is there since Linux 5.8; the other is that of the first module to ask.
    let own = "self/attr/apparmor/exec";
    if proc_fs.read(own).is_ok() {
        return proc_fs.write(own, &command);
    }
    proc_fs.write("self/attr/exec", &command)
}

/// Runs `make`, which makes a key, so that the key gets the label of `process`.
pub(crate) fn with_key_label<T, E: From<SecurityError>>(
    proc_fs: &ProcFs,
    process: &Process,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let Some(label) = &process.selinux_label else {
        return make();
    };
    let write = |text: &str| {
        proc_fs
            .write("self/attr/keycreate", text)
            .map_err(|source| SecurityError::KeyLabel {
                label: label.clone(),
                source,
            })
    };
    write(label)?;
    let made = make()?;
    // An empty line takes it back.
    write("\n")?;
    Ok(made)
}

/// Gives the terminal the label of the container's files.
pub(crate) fn label_terminal(slave: &OwnedFd, label: Option<&str>) -> Result<(), SecurityError> {
    let Some(label) = label else {
        return Ok(());
    };
    label_file(slave, label).map_err(|source| SecurityError::Terminal {
        label: label.to_owned(),
        source,
    })
}

/// Labels an open file, also one opened with O_PATH; before the root changes.
pub(crate) fn label_file(file: &OwnedFd, label: &str) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let value = label.as_bytes();
    match setxattr(path, "security.selinux", value, XattrFlags::empty()) {
        // Mounted with a label for all its files, as a devpts of the container's own is.
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
