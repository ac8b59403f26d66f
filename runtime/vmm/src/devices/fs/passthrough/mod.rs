//! The requests that act on files of the exports, each passed on to the host's kernel.
//!
//! Every file is reached by the descriptor of its inode, and every name is one component used
//! with an `*at` call on a directory's descriptor: no path is kept, built or followed. Nothing but
//! a regular file or a directory is ever opened; what else has a name is only looked at, and the
//! guest's kernel opens it as its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::inode::Inode;
use super::server::Server;
use super::wire::ROOT_ID;

mod create;
mod data;
pub(super) mod dir;
mod lookup;
mod names;
mod node;
mod open;
mod xattr;

impl Server {
    /// The inode the guest calls `id`, which may be the root where it should not be.
    fn inode(&self, id: u64) -> Result<Arc<Inode>, Errno> {
        if id == ROOT_ID {
            Err(Errno::ROFS)
        } else {
            self.inodes.get(id)
        }
    }

    /// The same, for an operation that changes it.
    fn writable_inode(&self, id: u64) -> Result<Arc<Inode>, Errno> {
        let inode = self.inode(id)?;
        inode.check_writable()?;
        Ok(inode)
    }

    /// Opens the file behind a descriptor anew. It must be a regular file or a directory.
    fn reopen(&self, file: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = DecInt::from_fd(file);
        openat(
            self.proc_fds.as_fd(),
            path.as_c_str(),
            flags | OFlags::CLOEXEC,
            Mode::empty(),
        )
    }
}
