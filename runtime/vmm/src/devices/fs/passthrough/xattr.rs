//! Extended attributes.
//!
//! The kernel has no calls for them on an `O_PATH` descriptor (before 6.13), so the file is named
//! by its descriptor's number, relative to the thread's working directory, `/proc/self/fd`.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, Mode, XattrFlags, chmodat, getxattr, getxattr_query, listxattr, listxattr_query,
    removexattr, setxattr,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use crate::devices::fs::attr::stat;
use crate::devices::fs::call::{Call, Reply};
use crate::devices::fs::server::Server;
use crate::devices::fs::wire::{Getxattr, SETXATTR_ACL_KILL_SGID, SetxattrIn};

/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` of `include/uapi/linux/limits.h`.
const MAX_VALUE_BYTES: usize = 64 << 10;
/// `XATTR_NAME_MAX`.
const MAX_NAME_BYTES: usize = 255;
/// `S_ISGID`.
const SET_GROUP_ID: u32 = 0o2000;

impl Server {
    pub(in crate::devices::fs) fn getxattr(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let Getxattr { size, .. } = call.args.take()?;
        let name = attribute_name(call)?;
        let inode = self.inode(call.header.nodeid)?;
        let file = inode.path_fd()?;
        let path = DecInt::from_fd(file.as_fd());
        let size_of_value = || getxattr_query(path.as_c_str(), name);
        let value = |buffer: &mut [u8]| getxattr(path.as_c_str(), name, buffer);
        match sized_reply(size, call.reply.len(), size_of_value, value) {
            // The guest's kernel asks for ACLs to check permissions by. To it a file system
            // without ACLs is an error; a file without one is not.
            Err(Errno::OPNOTSUPP) if is_acl(name) => Err(Errno::NODATA),
            other => other,
        }
    }

    pub(in crate::devices::fs) fn listxattr(
        &self,
        call: &mut Call<'_, '_>,
    ) -> Result<Reply, Errno> {
        let Getxattr { size, .. } = call.args.take()?;
        let inode = self.inode(call.header.nodeid)?;
        let file = inode.path_fd()?;
        let path = DecInt::from_fd(file.as_fd());
        let size_of_list = || listxattr_query(path.as_c_str());
        let list = |buffer: &mut [u8]| listxattr(path.as_c_str(), buffer);
        sized_reply(size, call.reply.len(), size_of_list, list)
    }

    pub(in crate::devices::fs) fn setxattr(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let SetxattrIn {
            size,
            flags,
            setxattr_flags,
            ..
        } = call.args.take()?;
        let name = attribute_name(call)?;
        let value = call.args.bytes(size)?;
        let inode = self.writable_inode(call.header.nodeid)?;
        check_changeable(name)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let file = inode.path_fd()?;
        setxattr(DecInt::from_fd(file.as_fd()).as_c_str(), name, value, flags)?;
        if setxattr_flags & SETXATTR_ACL_KILL_SGID != 0 {
            self.clear_set_group_id(file.as_fd())?;
        }
        Ok(Reply::Done)
    }

    pub(in crate::devices::fs) fn removexattr(
        &self,
        call: &mut Call<'_, '_>,
    ) -> Result<Reply, Errno> {
        let name = attribute_name(call)?;
        let inode = self.writable_inode(call.header.nodeid)?;
        check_changeable(name)?;
        let file = inode.path_fd()?;
        removexattr(DecInt::from_fd(file.as_fd()).as_c_str(), name)?;
        Ok(Reply::Done)
    }

    /// An empty list, for the root directory.
    pub(in crate::devices::fs) fn no_xattrs(
        &self,
        call: &mut Call<'_, '_>,
    ) -> Result<Reply, Errno> {
        let Getxattr { size, .. } = call.args.take()?;
        sized_reply(size, call.reply.len(), || Ok(0), |_| Ok(0))
    }

    fn clear_set_group_id(&self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        let mode = u32::from(stat(file)?.stx_mode);
        if mode & SET_GROUP_ID == 0 {
            return Ok(());
        }
        let path = DecInt::from_fd(file);
        let mode = Mode::from_raw_mode(mode & 0o7777 & !SET_GROUP_ID);
        chmodat(
            self.proc_fds.as_fd(),
            path.as_c_str(),
            mode,
            AtFlags::empty(),
        )
    }
}

/// Answers with a size where the guest asks with no room for bytes, else with the bytes.
fn sized_reply(
    size: u32,
    room: usize,
    query: impl FnOnce() -> Result<usize, Errno>,
    read: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
) -> Result<Reply, Errno> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size == 0 {
        let size = u32::try_from(query()?).map_err(|_| Errno::TOOBIG)?;
        return Ok(Reply::of(&Getxattr { size, padding: 0 }));
    }
    let mut value = vec![0; size.min(room).min(MAX_VALUE_BYTES)];
    let length = read(&mut value)?;
    value.truncate(length);
    Ok(Reply::Body(value))
}

fn attribute_name<'a>(call: &mut Call<'a, '_>) -> Result<&'a CStr, Errno> {
    let name = call.args.string()?;
    match name.count_bytes() {
        0 => Err(Errno::RANGE),
        length if length > MAX_NAME_BYTES => Err(Errno::RANGE),
        _ => Ok(name),
    }
}

fn is_acl(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"system.posix_acl_")
}

/// Labels of the host's security modules (SELinux, IMA and so on) are not the guest's to change;
/// file capabilities are the files' own.
fn check_changeable(name: &CStr) -> Result<(), Errno> {
    let name = name.to_bytes();
    if name.starts_with(b"security.") && name != b"security.capability" {
        return Err(Errno::OPNOTSUPP);
    }
    Ok(())
}
