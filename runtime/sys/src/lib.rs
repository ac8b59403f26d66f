//! The room next to the kernel: owned descriptors and the calls no safe crate has.
//!
//! What rustix or nix offers safely is used from there directly; a module here either wraps a
//! call they lack ([`clone`], [`user_namespace`], [`mount_attr`], [`keyring`], [`sched`]) or gives a descriptor a name
//! for its kind ([`pidfd`]). Unsafe code is allowed only in the modules that say why.

#![deny(unsafe_code)]

pub mod bpf;
pub mod clone;
pub mod command;
pub mod file_handle;
pub mod inherited;
pub mod keyring;
pub mod memory_policy;
pub mod mount_attr;
pub mod netlink;
pub mod pidfd;
pub mod sched;
pub mod seccomp;
pub mod signals;
pub mod tap;
pub mod unix_socket;
pub mod user_namespace;

pub use pidfd::{ExitStatus, PidFd};
