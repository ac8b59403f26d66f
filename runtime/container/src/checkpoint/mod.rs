//! A running container written to files, and made again from them: CRIU's work, which it does for
//! [`dump`] and [`restore`].
//!
//! CRIU is asked through its RPC ([`rpc`]) and not by its command line: it tells when hooks are
//! due, and hands over the terminal's master.

mod criu;
mod dump;
mod external;
mod images;
mod mount_points;
mod restore;
mod rpc;

use std::collections::BTreeMap;

pub use criu::{CriuError, CriuVersion, check_criu, criu_is_installed};
pub use dump::{DumpError, DumpInto, DumpRequest, PageServer, dump};
pub use external::ExternalError;
pub use images::ImagesError;
pub(crate) use mount_points::{MountPointError, prepare};
pub use restore::{RestoreError, RestoreFrom, RestoreRequest, restore};

use crate::cgroup::Cgroup;

/// What is asked of CRIU at a dump and at the restore alike; as its own options of these names.
#[derive(Debug, Clone, Default)]
pub struct CriuOptions {
    /// Take open TCP connections along.
    pub tcp_established: bool,
    /// Allow unix sockets whose other end is outside.
    pub ext_unix_sk: bool,
    /// Take a session and terminal of the caller along.
    pub shell_job: bool,
    /// Take file locks along.
    pub file_locks: bool,
    /// Link files that have been removed while open to a name.
    pub link_remap: bool,
    /// Free the memory of parent images that a later one replaces.
    pub auto_dedup: bool,
    /// Leave memory behind, to be fetched when it is used.
    pub lazy_pages: bool,
    /// What happens to cgroups; `None` is soft.
    pub cgroups_mode: Option<CgroupsMode>,
}

/// What CRIU does about cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupsMode {
    /// Nothing: processes stay in the container's cgroup.
    Ignore,
    /// Restores the properties of those that it makes.
    Soft,
    /// Restores the properties of all.
    Full,
    /// Restores them and fails where there is one already.
    Strict,
}

/// The annotation that names a file of CRIU options, which go before those of the caller.
const CONFIG_ANNOTATION: &str = "org.criu.config";
/// That file where there is no annotation: the one engines know from runc.
const CONFIG_FILE: &str = "/etc/criu/runc.conf";

/// Fills in what a dump and a restore have in common.
fn complete(
    options: &mut rpc::Options,
    asked: &CriuOptions,
    annotations: &BTreeMap<String, String>,
    cgroup: Option<&Cgroup>,
) {
    let mode = match asked.cgroups_mode {
        _ if cgroup.is_none() => rpc::CgroupMode::Ignore,
        Some(CgroupsMode::Ignore) => rpc::CgroupMode::Ignore,
        Some(CgroupsMode::Soft) | None => rpc::CgroupMode::Soft,
        Some(CgroupsMode::Full) => rpc::CgroupMode::Full,
        Some(CgroupsMode::Strict) => rpc::CgroupMode::Strict,
    };
    options.tcp_established = asked.tcp_established;
    options.ext_unix_sk = asked.ext_unix_sk;
    options.shell_job = asked.shell_job;
    options.file_locks = asked.file_locks;
    options.link_remap = asked.link_remap;
    options.auto_dedup = asked.auto_dedup;
    options.lazy_pages = asked.lazy_pages;
    options.manage_cgroups_mode = Some(mode.into());
    options.notify_scripts = true;
    options.orphan_pts_master = true;
    // Network devices are the engine's affair, or its hooks'.
    options.empty_ns = Some(nix::libc::CLONE_NEWNET.cast_unsigned());
    options.config_file = match annotations.get(CONFIG_ANNOTATION).map(String::as_str) {
        None => Some(CONFIG_FILE.to_owned()),
        Some("") => None,
        Some(path) => Some(path.to_owned()),
    };
}
