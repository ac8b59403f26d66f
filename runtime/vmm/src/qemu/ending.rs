//! Ending the machine: from any thread, once, with the first reason given.

use std::sync::Mutex;

use runvm_sys::PidFd;

use crate::Exit;
use crate::lock::lock;

/// The end of a machine, and the process to end for it.
#[derive(Debug, Default)]
pub(crate) struct Ending(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    exit: Option<Exit>,
    process: Option<PidFd>,
}

impl Ending {
    /// Ends the machine, unless it has ended: kills QEMU.
    pub(crate) fn turn_off(&self, exit: Exit) {
        let mut state = lock(&self.0);
        if state.exit.is_none() {
            state.exit = Some(exit);
            state.kill();
        }
    }

    /// Hands over the process. If the machine was turned off before, this is its end.
    pub(super) fn watch(&self, process: PidFd) {
        let mut state = lock(&self.0);
        state.process = Some(process);
        if state.exit.is_some() {
            state.kill();
        }
    }

    /// Takes note of how QEMU ended by itself, unless it was made to.
    pub(super) fn note(&self, exit: Exit) {
        lock(&self.0).exit.get_or_insert(exit);
    }

    /// How the machine ended.
    pub(super) fn exit(&self) -> Exit {
        let unknown = || Exit::Crashed("the thread that watched QEMU was lost".into());
        lock(&self.0).exit.clone().unwrap_or_else(unknown)
    }
}

impl State {
    fn kill(&self) {
        if let Some(process) = &self.process {
            // It fails only for a process that has ended.
            let _ = process.send_signal(libc::SIGKILL);
        }
    }
}
