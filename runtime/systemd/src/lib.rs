//! Scopes of systemd's service manager: the units that hold processes which others have started.
//!
//! A [`ScopeName`] says where a container's cgroup is to be, a [`Manager`] makes it, changes its
//! properties and stops it, and [`properties`] says in systemd's words what is otherwise written to
//! the files of a cgroup. See systemd.scope(5), systemd.resource-control(5) and
//! org.freedesktop.systemd1(5).
//!
//! The messages of D-Bus are few and small, so they are put together here: the libraries for it come
//! with an asynchronous runtime, are no longer kept, or need libdbus.
#![forbid(unsafe_code)]

mod address;
mod annotation;
mod bus;
mod device_allow;
mod manager;
mod message;
mod properties;
mod scope_name;
mod text;
mod value;

pub use address::AddressError;
pub use annotation::{AnnotationError, from_annotations};
pub use bus::BusError;
pub use device_allow::device_properties;
pub use manager::{Manager, ManagerError, Version, is_booted};
pub use properties::properties;
pub use scope_name::{NameError, ScopeName};
pub use value::{Property, Value};

use serde::{Deserialize, Serialize};

/// Which service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Instance {
    /// The host's: pid 1.
    System,
    /// That of the calling user.
    User,
}
