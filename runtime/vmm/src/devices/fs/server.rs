//! The FUSE server: which request is answered by what.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::attr::InodeSpaces;
use super::call::{Call, MAX_WRITE, Reply, Worker};
use super::descriptors::Budget;
use super::exports::{ExportId, Exports};
use super::files::Files;
use super::inode::Inodes;
use super::inode_file::Mounts;
use super::thread::ServingThread;
use super::wire::{
    self, BatchForgetIn, ForgetIn, ForgetOne, InitIn, InitOut, ROOT_ID, init, opcode,
};

/// What is offered in `FUSE_INIT`. Left out, and why:
/// `POSIX_LOCKS` and `FLOCK_LOCKS`: the guest's kernel keeps locks itself, which is right for the
/// one VM that sees them. `WRITEBACK_CACHE`: others write below an export too, and would race
/// with sizes and times that only the guest knows. `SPLICE_*`: not on virtio. `EXPORT_SUPPORT`:
/// it would make the guest look `..` up. `SECURITY_CTX`: labels are the host's.
const OFFERED: u64 = init::ASYNC_READ
    | init::ATOMIC_O_TRUNC
    | init::BIG_WRITES
    | init::DONT_MASK
    | init::AUTO_INVAL_DATA
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::POSIX_ACL
    | init::MAX_PAGES
    | init::HANDLE_KILLPRIV_V2
    | init::SETXATTR_EXT
    | init::INIT_EXT
    | init::CREATE_SUPP_GROUP;

/// How many pages the guest may put into one request: the most data, in the smallest pages.
const MAX_PAGES: u16 = 256;
/// How many asynchronous requests the guest keeps in flight, and when it slows down.
const MAX_BACKGROUND: (u16, u16) = (64, 48);

/// Serves the exports to one guest. All of its threads share it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) exports: Exports,
    pub(super) inodes: Inodes,
    pub(super) files: Files,
    pub(super) mounts: Mounts,
    pub(super) spaces: InodeSpaces,
    pub(super) budget: Arc<Budget>,
    /// `/proc/self/fd`: the way from an `O_PATH` descriptor to an open one, without a name.
    pub(super) proc_fds: OwnedFd,
    started: AtomicBool,
}

impl Server {
    pub(super) fn new(exports: Exports, budget: Arc<Budget>) -> io::Result<Arc<Self>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc_fds = openat(CWD, c"/proc/self/fd", flags, Mode::empty())?;
        let server = Arc::new(Self {
            exports: exports.clone(),
            inodes: Inodes::new(),
            files: Files::default(),
            mounts: Mounts::default(),
            spaces: InodeSpaces::default(),
            budget,
            proc_fds,
            started: AtomicBool::new(false),
        });
        exports.attach(&server);
        Ok(server)
    }

    /// Makes the calling thread one that serves requests.
    pub(super) fn worker(&self) -> io::Result<Worker> {
        Ok(Worker::new(ServingThread::enter(self.proc_fds.as_fd())?))
    }

    /// Lets go of all that belongs to an export which was taken away.
    pub(super) fn revoke(&self, export: ExportId) {
        self.files.revoke(export);
        self.inodes.revoke(export);
        self.mounts.revoke(export);
    }

    /// Answers one request.
    pub(super) fn answer(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        match call.header.opcode {
            opcode::INIT => self.init(call),
            opcode::FORGET => self.forget(call),
            opcode::BATCH_FORGET => self.batch_forget(call),
            // A request that is being served cannot be interrupted.
            opcode::INTERRUPT => Ok(Reply::Silence),
            _ if !self.started.load(Ordering::Acquire) => Err(Errno::IO),
            opcode::DESTROY => self.destroy(),
            _ if call.header.nodeid == ROOT_ID => self.answer_for_root(call),
            _ => self.answer_for_inode(call),
        }
    }

    /// Answers a request that acts on a file of an export.
    fn answer_for_inode(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        match call.header.opcode {
            opcode::LOOKUP => self.lookup(call),
            opcode::GETATTR => self.getattr(call),
            opcode::SETATTR => self.setattr(call),
            opcode::STATFS => self.statfs(call),
            opcode::READLINK => self.readlink(call),
            opcode::SYMLINK => self.symlink(call),
            opcode::MKNOD => self.mknod(call),
            opcode::MKDIR => self.mkdir(call),
            opcode::CREATE => self.create(call),
            opcode::TMPFILE => self.tmpfile(call),
            opcode::UNLINK => self.unlink(call),
            opcode::RMDIR => self.rmdir(call),
            opcode::RENAME => self.rename(call),
            opcode::RENAME2 => self.rename2(call),
            opcode::LINK => self.link(call),
            opcode::OPEN => self.open(call),
            opcode::RELEASE | opcode::RELEASEDIR => self.release(call),
            opcode::READ => self.read(call),
            opcode::WRITE => self.write(call),
            opcode::FSYNC | opcode::FSYNCDIR => self.fsync(call),
            opcode::FALLOCATE => self.fallocate(call),
            opcode::LSEEK => self.lseek(call),
            opcode::COPY_FILE_RANGE => self.copy_file_range(call),
            opcode::OPENDIR => self.opendir(call),
            opcode::READDIR => self.readdir(call, false),
            opcode::READDIRPLUS => self.readdir(call, true),
            opcode::SETXATTR => self.setxattr(call),
            opcode::GETXATTR => self.getxattr(call),
            opcode::LISTXATTR => self.listxattr(call),
            opcode::REMOVEXATTR => self.removexattr(call),
            opcode::SYNCFS => self.syncfs(),
            // The guest's kernel does without, and asks only once: ACCESS (it checks modes and
            // ACLs itself), FLUSH (nothing is held back between write and close, and a round
            // trip for each close is saved), locks, IOCTL, POLL, BMAP, STATX.
            _ => Err(Errno::NOSYS),
        }
    }

    /// Begins a session: the guest has mounted the file system. Whatever an earlier session
    /// left behind is dropped.
    fn init(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let InitIn {
            major,
            minor,
            max_readahead,
            flags,
        } = call.args.take()?;
        if major > wire::MAJOR {
            // The guest asks again with the major version it is told.
            return Ok(Reply::of(&init_reply(0, 0)));
        }
        if major < wire::MAJOR || minor < wire::MIN_MINOR {
            return Err(Errno::PROTO);
        }
        let extended = u64::from(flags) & init::INIT_EXT != 0;
        let flags2: u32 = if extended { call.args.take()? } else { 0 };
        let accepted = OFFERED & (u64::from(flags) | u64::from(flags2) << 32);
        self.forget_session();
        self.started.store(true, Ordering::Release);
        Ok(Reply::of(&init_reply(max_readahead, accepted)))
    }

    /// Ends a session.
    fn destroy(&self) -> Result<Reply, Errno> {
        self.started.store(false, Ordering::Release);
        self.forget_session();
        Ok(Reply::Done)
    }

    fn forget_session(&self) {
        self.files.clear();
        self.inodes.clear();
        self.mounts.clear();
    }

    fn forget(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let ForgetIn { nlookup } = call.args.take()?;
        self.inodes.forget(call.header.nodeid, nlookup);
        Ok(Reply::Silence)
    }

    fn batch_forget(&self, call: &mut Call<'_, '_>) -> Result<Reply, Errno> {
        let BatchForgetIn { count, .. } = call.args.take()?;
        for _ in 0..count {
            // A count beyond what was sent ends here.
            let ForgetOne { nodeid, nlookup } = call.args.take()?;
            self.inodes.forget(nodeid, nlookup);
        }
        Ok(Reply::Silence)
    }
}

fn init_reply(max_readahead: u32, accepted: u64) -> InitOut {
    let [flags, flags2]: [u32; 2] = zerocopy::transmute!(accepted.to_le_bytes());
    InitOut {
        major: wire::MAJOR,
        minor: wire::MINOR,
        max_readahead,
        flags,
        flags2,
        max_background: MAX_BACKGROUND.0,
        congestion_threshold: MAX_BACKGROUND.1,
        max_write: MAX_WRITE,
        time_gran: 1,
        max_pages: MAX_PAGES,
        ..InitOut::default()
    }
}
