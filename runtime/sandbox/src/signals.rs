//! The signals that a process takes on behalf of one it stands for.

use nix::sys::signal::{SigSet, Signal};

/// All that can be taken, but those that say something about the process itself.
pub fn forwarded() -> SigSet {
    let mut set = SigSet::all();
    for own in [
        Signal::SIGCHLD,
        Signal::SIGPIPE,
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGABRT,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGTSTP,
        // The Go runtime of an engine that shares our process group sends it to itself.
        Signal::SIGURG,
    ] {
        set.remove(own);
    }
    set
}
