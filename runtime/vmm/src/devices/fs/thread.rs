//! The identity of a thread that serves requests: whose files it makes, and with which umask.

use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;

use nix::sched::CloneFlags;
use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::process::{fchdir, getegid, geteuid, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use crate::confine;

/// What a caller keeps of the server's power while a file is made in its name.
///
/// The guest's kernel has already checked the caller's permissions, by groups and capabilities
/// that the host does not know, so the host must not check again by less; `MKNOD` likewise.
/// `FSETID` and `FOWNER` are not kept: without them the host clears set-group-id as it would for
/// the caller.
const KEPT_AS_CALLER: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::MKNOD);

/// Proof that this thread is fit to serve requests, and the way to act as a guest's process.
///
/// Ids, capabilities, umask and working directory belong to a thread here, not to the process:
/// the value cannot leave the thread that made it.
pub(super) struct ServingThread {
    capabilities: CapabilitySets,
    uid: Uid,
    gid: Gid,
    stays_here: PhantomData<*const ()>,
}

/// In whose name a file is made.
pub(super) struct Caller {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    /// The group it shares with the parent directory beside its own, if there is one.
    pub(super) group: Option<Gid>,
    /// Applied by the host, which leaves it out where a default ACL says so.
    pub(super) umask: Mode,
}

impl ServingThread {
    /// Gives the calling thread its own umask (0) and working directory (`proc_fds`, where
    /// descriptors are paths), leaves signals to other threads, and takes its supplementary
    /// groups away: a file made in a foreign set-group-id directory must not keep that bit on
    /// their account (CVE-2022-0358).
    pub(super) fn enter(proc_fds: BorrowedFd<'_>) -> io::Result<Self> {
        nix::sched::unshare(CloneFlags::CLONE_FS)?;
        // Above all SIGXFSZ: a write beyond the server's RLIMIT_FSIZE is an error of the guest's.
        confine::block_signals()?;
        fchdir(proc_fds)?;
        umask(Mode::empty());
        match set_thread_groups(&[]) {
            // A server without power over groups cannot make files for others at all.
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self {
            capabilities: capabilities(None)?,
            uid: geteuid(),
            gid: getegid(),
            stays_here: PhantomData,
        })
    }

    /// Runs `make` so that what it creates belongs to `caller`.
    pub(super) fn as_caller<T>(
        &self,
        caller: &Caller,
        make: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        umask(caller.umask);
        let made = if caller.uid == self.uid && caller.gid == self.gid && caller.group.is_none() {
            make()
        } else {
            let _restored = Restored(self);
            self.become_caller(caller).and_then(|()| make())
        };
        umask(Mode::empty());
        made
    }

    fn become_caller(&self, caller: &Caller) -> Result<(), Errno> {
        if let Some(group) = caller.group {
            set_thread_groups(&[group])?;
        }
        set_thread_res_gid(None, caller.gid, None)?;
        // Leaving uid 0 empties the effective capabilities, but not the permitted ones.
        set_thread_res_uid(None, caller.uid, None)?;
        let effective = self.capabilities.effective.intersection(KEPT_AS_CALLER);
        set_capabilities(
            None,
            CapabilitySets {
                effective,
                ..self.capabilities
            },
        )
    }

    /// Runs `act` without `CAP_FSETID`, so that the host clears set-user-id and set-group-id as
    /// it does when an ordinary process writes to the file.
    pub(super) fn without_fsetid<T>(
        &self,
        act: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let _restored = Restored(self);
        let effective = self
            .capabilities
            .effective
            .difference(CapabilitySet::FSETID);
        set_capabilities(
            None,
            CapabilitySets {
                effective,
                ..self.capabilities
            },
        )?;
        act()
    }

    /// Runs `act` as [`Self::without_fsetid`] does when `kill` says so, else as it is.
    pub(super) fn killing_suidgid<T>(
        &self,
        kill: bool,
        act: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if kill {
            self.without_fsetid(act)
        } else {
            act()
        }
    }

    /// Whether the thread still is who it was at the start.
    #[cfg(test)]
    pub(super) fn is_itself(&self) -> bool {
        geteuid() == self.uid
            && getegid() == self.gid
            && capabilities(None).is_ok_and(|now| now.effective == self.capabilities.effective)
            && umask(Mode::empty()).is_empty()
    }

    fn restore(&self) -> Result<(), Errno> {
        if geteuid() != self.uid || getegid() != self.gid {
            set_thread_res_uid(None, self.uid, None)?;
            set_thread_res_gid(None, self.gid, None)?;
        }
        set_capabilities(None, self.capabilities)?;
        match set_thread_groups(&[]) {
            Ok(()) | Err(Errno::PERM) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Makes the thread itself again when it goes out of scope.
struct Restored<'t>(&'t ServingThread);

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        if self.0.restore().is_err() {
            // The next request would be served with a guest's process's identity.
            std::process::abort();
        }
    }
}
