//! What std's [`Command`] lacks for children that must not outlive their parent.

#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::signals;

/// Has the child start with no signal blocked or ignored, whatever its parent does with them, and be
/// killed when the thread that spawns it ends (PR_SET_PDEATHSIG).
pub fn tie_to_caller(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    // SAFETY: between fork and exec it makes system calls only; neither the error it returns
    // nor anything else of it allocates or takes a lock.
    unsafe { command.pre_exec(move || tie_to(parent)) }
}

fn tie_to(parent: u32) -> io::Result<()> {
    signals::reset_all()?;
    // SAFETY: plain numbers.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // One that ended before that sends no signal any more.
    if std::os::unix::process::parent_id() != parent {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::sync::mpsc::channel;

    use super::tie_to_caller;
    use crate::ExitStatus;

    #[test]
    fn a_child_ends_with_the_thread_that_spawned_it() {
        let (tell, spawned) = channel();
        let parent = std::thread::spawn(move || {
            let mut command = Command::new("/bin/sleep");
            let child = tie_to_caller(command.arg("1000").stdin(Stdio::null())).spawn();
            tell.send(child.unwrap().id()).unwrap();
        });
        let child = crate::PidFd::open(spawned.recv().unwrap()).unwrap();
        parent.join().unwrap();
        assert_eq!(child.reap().unwrap(), ExitStatus::Signaled(libc::SIGKILL));
    }

    #[test]
    fn a_child_has_no_signal_blocked() {
        let blocked = "grep '^SigBlk:' /proc/self/status";
        let read = |command: &mut Command| command.args(["-c", blocked]).output().unwrap().stdout;
        let all = nix::sys::signal::SigSet::all();
        let before = all.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
        let tied = read(tie_to_caller(&mut Command::new("/bin/sh")));
        before.unwrap().thread_set_mask().unwrap();
        assert_eq!(tied, b"SigBlk:\t0000000000000000\n");
    }
}
