//! Names: removing, renaming, linking, and reading symbolic links.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, RenameFlags, linkat, readlinkat, renameat_with, unlinkat};
use rustix::io::Errno;
use rustix::path::DecInt;

use crate::devices::fs::call::{Call, Reply};
use crate::devices::fs::server::Server;
use crate::devices::fs::wire::{LinkIn, Rename2In, RenameIn};

impl Server {
    pub(in crate::devices::fs) fn readlink(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let inode = self.inode(call.header.nodeid)?;
        let target = readlinkat(inode.path_fd()?, c"", Vec::new())?;
        Ok(Reply::Body(target.into_bytes()))
    }

    pub(in crate::devices::fs) fn unlink(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        self.remove(call, AtFlags::empty())
    }

    pub(in crate::devices::fs) fn rmdir(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        self.remove(call, AtFlags::REMOVEDIR)
    }

    fn remove(&self, call: &mut Call<'_, '_>, flags: AtFlags) -> Result<Reply, Errno> {
        let parent = self.writable_inode(call.header.nodeid)?;
        let name = call.args.name()?;
        let directory = parent.path_fd()?;
        self.keep_before_removal(&parent, directory.as_fd(), name);
        unlinkat(directory, name, flags)?;
        Ok(Reply::Done)
    }

    pub(in crate::devices::fs) fn rename(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let RenameIn { newdir } = call.args.take()?;
        self.rename_with(call, newdir, RenameFlags::empty())
    }

    pub(in crate::devices::fs) fn rename2(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let Rename2In { newdir, flags, .. } = call.args.take()?;
        let known = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE | RenameFlags::WHITEOUT;
        let flags = RenameFlags::from_bits_retain(flags);
        if !known.contains(flags) {
            return Err(Errno::INVAL);
        }
        self.rename_with(call, newdir, flags)
    }

    fn rename_with(
        &self,
        call: &mut Call<'_, '_>,
        new_parent: u64,
        flags: RenameFlags,
    ) -> Result<Reply, Errno> {
        let (old_name, new_name): (&CStr, &CStr) = (call.args.name()?, call.args.name()?);
        let old_parent = self.writable_inode(call.header.nodeid)?;
        let new_parent = self.writable_inode(new_parent)?;
        if old_parent.export != new_parent.export {
            return Err(Errno::XDEV);
        }
        let old_directory = old_parent.path_fd()?;
        let new_directory = new_parent.path_fd()?;
        if !flags.intersects(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE) {
            self.keep_before_removal(&new_parent, new_directory.as_fd(), new_name);
        }
        renameat_with(old_directory, old_name, new_directory, new_name, flags)?;
        Ok(Reply::Done)
    }

    pub(in crate::devices::fs) fn link(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let LinkIn { oldnodeid } = call.args.take()?;
        let name = call.args.name()?;
        let parent = self.writable_inode(call.header.nodeid)?;
        let inode = self.inode(oldnodeid)?;
        if inode.export != parent.export {
            return Err(Errno::XDEV);
        }
        let directory = parent.path_fd()?;
        let file = inode.path_fd()?;
        let path = DecInt::from_fd(file.as_fd());
        // What is followed is the kernel's link to the descriptor, and no further.
        let follow = AtFlags::SYMLINK_FOLLOW;
        linkat(
            self.proc_fds.as_fd(),
            path.as_c_str(),
            directory.as_fd(),
            name,
            follow,
        )?;
        Ok(Reply::of(&self.entry_at(
            parent.export,
            directory.as_fd(),
            name,
        )?))
    }
}
