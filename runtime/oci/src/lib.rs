//! config.json read and checked once, into a [`Plan`].
//!
//! Besides the plan: what else the specification defines as JSON of a runtime's own, namely the
//! [`State`] of a container, the [`features`] document and a [`default_config`] to start from.
#![forbid(unsafe_code)]

mod capability;
mod check;
mod device;
mod document;
mod error;
mod features;
mod hook;
mod id;
mod later;
mod memory_policy;
mod mount;
mod mount_option;
mod namespace;
mod plan;
mod process;
mod read;
mod resources;
mod spec;
mod state;
mod sysctl;
mod vm;

pub use capability::NAMES as CAPABILITY_NAMES;
pub use error::ConfigError;
pub use features::features;
pub use id::{IdError, check as check_id};
pub use later::Later;
pub use mount_option::{known as known_mount_options, mount_attr};
pub use plan::*;
pub use read::CONFIG_BYTES_MAX;
pub use resources::parse as parse_resources;
pub use spec::default_config;
pub use state::{State, Status};
pub use sysctl::{file as sysctl_file, namespace as sysctl_namespace};
