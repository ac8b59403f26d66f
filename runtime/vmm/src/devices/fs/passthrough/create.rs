//! Making files, in the name of the guest's process that asked.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::lookup::{Named, entry_out};
use super::open::host_flags;
use crate::devices::fs::attr;
use crate::devices::fs::call::{Call, Reply};
use crate::devices::fs::files::{OpenFile, Purpose};
use crate::devices::fs::server::Server;
use crate::devices::fs::wire::{CreateIn, MkdirIn, MknodIn, OpenOut};

impl Server {
    /// Device nodes are made as nodes: whether the guest's process may is its kernel's to say,
    /// and opening them is too.
    pub(in crate::devices::fs) fn mknod(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let MknodIn {
            mode, rdev, umask, ..
        } = call.args.take()?;
        let kind = match FileType::from_raw_mode(mode) {
            FileType::Directory | FileType::Symlink | FileType::Unknown => {
                return Err(Errno::INVAL);
            }
            kind => kind,
        };
        let (major, minor) = attr::decode_device(rdev);
        let name = call.args.name()?;
        self.make(call, umask, name, |directory| {
            mknodat(
                directory,
                name,
                kind,
                permissions(mode),
                makedev(major, minor),
            )
        })
    }

    pub(in crate::devices::fs) fn mkdir(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let MkdirIn { mode, umask } = call.args.take()?;
        let name = call.args.name()?;
        self.make(call, umask, name, |directory| {
            mkdirat(directory, name, permissions(mode))
        })
    }

    pub(in crate::devices::fs) fn symlink(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let name = call.args.name()?;
        let target = call.args.string()?;
        self.make(call, 0, name, |directory| {
            symlinkat(target, directory, name)
        })
    }

    /// Runs `make` as the caller, then looks up what it made.
    fn make(
        &self,
        call: &Call<'_, '_>,
        umask: u32,
        name: &CStr,
        make: impl FnOnce(rustix::fd::BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result<Reply, Errno> {
        let parent = self.writable_inode(call.header.nodeid)?;
        let directory = parent.path_fd()?;
        call.thread
            .as_caller(&call.caller(umask)?, || make(directory.as_fd()))?;
        Ok(Reply::of(&self.entry_at(
            parent.export,
            directory.as_fd(),
            name,
        )?))
    }

    /// Makes a regular file and opens it.
    ///
    /// A file that has the name already is never opened here: it may be of any type, and the
    /// guest's kernel, which believed it did not exist, has not checked the caller against it.
    pub(in crate::devices::fs) fn create(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let wanted: CreateIn = call.args.take()?;
        let name = call.args.name()?;
        let exclusive = OFlags::from_bits_retain(wanted.flags).contains(OFlags::EXCL);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        match self.create_file(call, &wanted, name, flags, Named::Yes) {
            // ESTALE makes the guest's kernel look the name up again and open what it finds.
            Err(Errno::EXIST) if !exclusive => Err(Errno::STALE),
            other => other,
        }
    }

    /// Makes a regular file without a name and opens it. (The name in the request means nothing.)
    pub(in crate::devices::fs) fn tmpfile(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let wanted: CreateIn = call.args.take()?;
        let exclusive = OFlags::from_bits_retain(wanted.flags) & OFlags::EXCL;
        self.create_file(call, &wanted, c".", OFlags::TMPFILE | exclusive, Named::No)
    }

    fn create_file(
        &self,
        call: &Call<'_, '_>,
        wanted: &CreateIn,
        name: &CStr,
        how: OFlags,
        named: Named,
    ) -> Result<Reply, Errno> {
        let parent = self.writable_inode(call.header.nodeid)?;
        let directory = parent.path_fd()?;
        let flags = host_flags(wanted.flags, parent.export)?.difference(OFlags::TRUNC) | how;
        let mode = permissions(wanted.mode);
        let file = call.thread.as_caller(&call.caller(wanted.umask)?, || {
            openat(directory.as_fd(), name, flags | OFlags::CLOEXEC, mode)
        })?;
        let file = self.budget.count(file)?;
        let itself = self.reopen(file.as_fd(), OFlags::PATH)?;
        let (inode, stat) = self.remember(parent.export, itself, named)?;
        let entry = entry_out(&inode, &stat);
        let fh = self.insert_open(OpenFile::new(inode, file, Purpose::data(flags)))?;
        let opened = OpenOut {
            fh,
            ..OpenOut::default()
        };
        Ok(Reply::Body([entry.as_bytes(), opened.as_bytes()].concat()))
    }
}

/// The permission bits of a mode, with set-id and sticky.
fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}
