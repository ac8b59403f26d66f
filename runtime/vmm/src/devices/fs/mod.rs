//! virtio-fs: directories and files of the host, shared with the guest.
//!
//! [`FsDevice`] is the device and [`Exports`] the table of what it shares, which can change while
//! the guest runs. Behind the queues (`worker`, `chain`) a request is copied out of guest memory
//! once (`call`, `args`, in the words of `wire`), and answered by the `server`: for the synthetic
//! `root` directory from the table, for everything else by passing it on to the host's kernel
//! (`passthrough`).
//!
//! The guest is trusted with nothing but its own exports. Its kernel checks permissions
//! (`default_permissions` is how virtio-fs mounts), and the host is where its root's power over
//! these files ends: see `passthrough` for how files are reached and `thread` for in whose name.

mod args;
mod attr;
mod call;
mod descriptors;
mod device;
mod exports;
mod files;
mod inode;
mod inode_file;
mod local;
mod passthrough;
mod root;
mod server;
mod thread;
mod wire;
mod worker;

#[cfg(test)]
mod tests;

pub use device::FsDevice;
pub use exports::{ExportError, Exports};
pub use local::LocalServer;
