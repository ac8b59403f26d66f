//! One isolated bundle, whichever way it is isolated, and the store that finds it again.
//!
//! [`lifecycle`] holds the operations of the OCI runtime specification; each checks once what is
//! legal ([`Operation`]) and does what both isolations share: the record, the cgroup, the terminal.
//! What differs stands behind [`Isolation`] and [`Sandbox`]: [`host`] makes namespaced
//! containers, [`microvm`] microVMs.
#![forbid(unsafe_code)]

mod cgroup;
pub mod host;
pub mod isolation;
pub mod lifecycle;
pub mod microvm;
mod oom;
mod operation;
pub mod phases;
mod record;
mod seat;
mod settings;
pub mod signals;
mod store;
mod terminal;

pub use cgroup::{CgroupDriver, CgroupDriverError, ScopeRecord};
pub use isolation::{
    Attached, BackendError, Blueprint, Built, Exec, Isolation, IsolationKind, Sandbox, Usage,
};
pub use oom::OomWatch;
pub use operation::Operation;
pub use record::{ProcessIdentity, Record};
pub use settings::{HypervisorChoice, Settings, SettingsError};
pub use store::{Directory, Lock, Store, StoreError};

/// Runs the hidden entry this process was re-executed for and does not return; returns at once
/// in an ordinary process. Every binary that makes sandboxes calls it first thing in `main`.
pub fn run_hidden_entry() {
    runvm_container::run_hidden_entry();
    microvm::run_hidden_entry();
    seat::run_hidden_entry();
}
