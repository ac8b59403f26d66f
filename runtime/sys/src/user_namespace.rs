//! User namespaces: whether this process is in one, and those that nobody lives in, of which only the id
//! mappings are wanted.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::pipe::{PipeFlags, pipe_with};

use crate::PidFd;
use crate::clone::{CLONE_NEWUSER, CLONE_PIDFD, clone_args, clone3};

/// Whether this process is in a user namespace that is not the first: the first maps all ids.
pub fn is_inside() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Makes a user namespace whose mappings `write_id_maps` writes, for the process whose pid it
/// gets, and opens it. The process that it was made with is gone when this returns.
pub fn with_mappings(write_id_maps: impl FnOnce(u32) -> io::Result<()>) -> io::Result<OwnedFd> {
    let (gate_read, gate_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let (pid, pidfd) = member(gate_read.as_raw_fd(), gate_write.as_raw_fd())?;
    drop(gate_read);
    // Until it is reaped its pid is nobody else's.
    let opened = write_id_maps(pid).and_then(|()| File::open(format!("/proc/{pid}/ns/user")));
    let _ = File::from(gate_write).write_all(&[1]);
    pidfd.reap()?;
    Ok(opened?.into())
}

/// A child in a new user namespace that waits for a byte, or the end, of the pipe, and ends.
fn member(gate: RawFd, gate_write: RawFd) -> io::Result<(u32, PidFd)> {
    let mut pidfd: RawFd = -1;
    let mut args = clone_args(u64::from(CLONE_NEWUSER) | CLONE_PIDFD);
    args.pidfd = ptr::from_mut(&mut pidfd).addr() as u64;
    // SAFETY: without CLONE_VM the child has its own copy of this memory, and `wait_and_end` makes
    // only system calls.
    let answer = unsafe { clone3(&args) };
    match u32::try_from(answer) {
        // SAFETY: this is the new child of the clone above.
        Ok(0) => unsafe { wait_and_end(gate, gate_write) },
        Ok(pid) => {
            // SAFETY: clone3 succeeded with CLONE_PIDFD, so it stored a new descriptor.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok((pid, PidFd::from_fd(pidfd)))
        }
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// # Safety
/// Only in the child of a clone.
unsafe fn wait_and_end(gate: RawFd, gate_write: RawFd) -> ! {
    // Else the end of the parent would not show as the end of the pipe.
    // SAFETY: this number is ours alone in this process, and no owner of it is left.
    unsafe { libc::close(gate_write) };
    let mut byte = 0_u8;
    // SAFETY: a plain system call; `byte` has room for the one byte.
    unsafe { libc::read(gate, ptr::from_mut(&mut byte).cast(), 1) };
    // SAFETY: ends this process without running anything of Rust's.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_has_the_mappings_and_no_members() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let mut member = 0;
        let namespace = with_mappings(|pid| {
            member = pid;
            std::fs::write(format!("/proc/{pid}/gid_map"), "7 70 2")?;
            std::fs::write(format!("/proc/{pid}/uid_map"), "5 50 3")
        })
        .unwrap();
        assert!(PidFd::open(member).is_err());
        let link = std::fs::read_link(format!("/proc/self/fd/{}", namespace.as_raw_fd())).unwrap();
        assert!(link.to_string_lossy().starts_with("user:["), "{link:?}");
        let own = std::fs::read_link("/proc/self/ns/user").unwrap();
        assert_ne!(link, own);
    }

    #[test]
    fn what_keeps_the_mappings_from_being_written_is_told() {
        let mut member = 0;
        let error = with_mappings(|pid| {
            member = pid;
            Err(io::ErrorKind::InvalidData.into())
        });
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(PidFd::open(member).is_err());
    }
}
