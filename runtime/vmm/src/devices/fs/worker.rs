//! The threads that take requests out of the queues.

use std::io;
use std::sync::Arc;

use rustix::thread::CapabilitySet;
use virtio_queue::DescriptorChain;
use vm_memory::GuestMemoryMmap;

use super::call::Worker;
use super::server::Server;
use crate::confine::{Call, Confinement, call};
use crate::devices::chain;
use crate::devices::queue_thread::{QueueThread, Serve, WAITING};

/// What a thread that serves files keeps. It acts for every user of the guest: makes files theirs
/// (`CHOWN`, `FOWNER`, `FSETID`, `SETUID`, `SETGID`, `MKNOD`, `SETFCAP`), after a check of
/// permissions that the guest's kernel has made (`DAC_OVERRIDE`), and finds inodes again by their
/// handles (`DAC_READ_SEARCH`).
const CONFINEMENT: Confinement = Confinement {
    thread: "virtio-fs",
    capabilities: CapabilitySet::CHOWN
        .union(CapabilitySet::DAC_OVERRIDE)
        .union(CapabilitySet::DAC_READ_SEARCH)
        .union(CapabilitySet::FOWNER)
        .union(CapabilitySet::FSETID)
        .union(CapabilitySet::SETUID)
        .union(CapabilitySet::SETGID)
        .union(CapabilitySet::MKNOD)
        .union(CapabilitySet::SETFCAP),
    calls: &[WAITING, IDENTITY, NAMES, DATA, ATTRIBUTES],
    absent: &[],
};

/// Acting as a process of the guest.
const IDENTITY: &[Call] = &[
    call(libc::SYS_capget),
    call(libc::SYS_capset),
    call(libc::SYS_geteuid),
    call(libc::SYS_getegid),
    call(libc::SYS_setgroups),
    call(libc::SYS_setresgid),
    call(libc::SYS_setresuid),
    call(libc::SYS_umask),
];

const NAMES: &[Call] = &[
    call(libc::SYS_getdents64),
    call(libc::SYS_linkat),
    call(libc::SYS_mkdirat),
    call(libc::SYS_mknodat),
    call(libc::SYS_name_to_handle_at),
    call(libc::SYS_open_by_handle_at),
    call(libc::SYS_openat),
    call(libc::SYS_readlinkat),
    call(libc::SYS_renameat),
    call(libc::SYS_renameat2),
    call(libc::SYS_symlinkat),
    call(libc::SYS_unlinkat),
];

const DATA: &[Call] = &[
    call(libc::SYS_copy_file_range),
    call(libc::SYS_fallocate),
    call(libc::SYS_fdatasync),
    call(libc::SYS_fsync),
    call(libc::SYS_ftruncate),
    call(libc::SYS_lseek),
    call(libc::SYS_pread64),
    call(libc::SYS_pwritev2),
    call(libc::SYS_syncfs),
];

const ATTRIBUTES: &[Call] = &[
    call(libc::SYS_fchmodat),
    call(libc::SYS_fchownat),
    call(libc::SYS_fstatfs),
    call(libc::SYS_getxattr),
    call(libc::SYS_listxattr),
    call(libc::SYS_removexattr),
    call(libc::SYS_setxattr),
    call(libc::SYS_statx),
    call(libc::SYS_utimensat),
];

/// The state of a thread: what serves, and what of it is the thread's own.
pub(super) struct Files {
    server: Arc<Server>,
    worker: Worker,
}

/// Starts the thread for queue `number`.
pub(super) fn start(number: usize, server: Arc<Server>) -> io::Result<QueueThread<Files>> {
    QueueThread::start(format!("fs-{number}"), &CONFINEMENT, move || {
        let worker = server.worker()?;
        Ok(Files { server, worker })
    })
}

impl Serve for Files {
    fn serve(
        &mut self,
        _queue: u16,
        chain: DescriptorChain<&GuestMemoryMmap>,
        memory: &GuestMemoryMmap,
    ) -> u32 {
        // One that is broken is given back empty.
        chain::split(chain, memory).map_or(0, |(request, reply)| {
            let server = &self.server;
            self.worker
                .serve(request, reply, |call| server.answer(call))
        })
    }
}
