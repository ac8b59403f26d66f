//! A plan made real: the container engine.
//!
//! [`create`], [`start`] and [`exec`] are the caller's side; each talks to a process that is this
//! same executable run again under a hidden name ([`run_hidden_entry`]), which sets itself up
//! ([`init`]) and then becomes the user's program. The engine is used on the host and, inside a
//! microVM, by the agent; it keeps no record and decides no policy.

#![forbid(unsafe_code)]

pub mod cgroup;
mod checkpoint;
mod control;
mod create;
mod credentials;
mod devices;
mod error;
mod exec;
mod hooks;
mod idmap;
mod init;
mod limits;
mod mounts;
mod namespaces;
mod net_devices;
mod netlink;
pub mod network;
mod paths;
mod proc_fs;
mod process;
mod resctrl;
mod root;
mod rootfs;
pub mod seccomp;
mod security;
mod spawn;
mod start;
mod supported;
mod sysctl;
mod terminal;

pub use checkpoint::{
    CgroupsMode, CriuError, CriuOptions, CriuVersion, DumpError, DumpInto, DumpRequest,
    ExternalError, ImagesError, PageServer, RestoreError, RestoreFrom, RestoreRequest, check_criu,
    criu_is_installed, dump, restore,
};
pub use control::Stamps;
pub use create::{CreateError, CreateRequest, Created, create};
pub use error::ChildError;
pub use exec::{ExecError, ExecRequest, Executed, exec};
pub use hooks::{HookError, run as run_hooks};
pub use idmap::IdmapError;
pub use init::run_hidden_entry;
pub use net_devices::NetDeviceError;
pub use resctrl::{ResctrlError, remove as remove_resctrl};
pub use spawn::{SpawnSelf, SpawnSelfError, Stdio, spawn_self};
pub use start::{StartError, is_waiting, start};
pub use supported::Unsupported;
