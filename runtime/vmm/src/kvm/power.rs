//! Ending a VM: from any thread, once, with the first reason given.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::Exit;
use crate::lock::lock;

/// A way to make a thread that may be inside of the guest look at the switch.
pub(super) trait Wake: Send {
    fn wake(&self);
}

/// The switch that every vCPU looks at before it enters the guest.
#[derive(Default)]
pub(crate) struct PowerSwitch {
    off: AtomicBool,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    exit: Option<Exit>,
    watchers: Vec<Watcher>,
    next_watcher: u64,
}

struct Watcher {
    number: u64,
    wake: Box<dyn Wake>,
}

impl PowerSwitch {
    /// Ends the VM, unless it has ended.
    pub(crate) fn turn_off(&self, exit: Exit) {
        let mut state = lock(&self.state);
        if state.exit.is_some() {
            return;
        }
        state.exit = Some(exit);
        self.off.store(true, Ordering::SeqCst);
        for watcher in &state.watchers {
            watcher.wake.wake();
        }
        self.ended.notify_all();
    }

    /// Whether the VM has ended.
    pub(super) fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst)
    }

    /// Blocks until the VM has ended.
    pub(super) fn wait(&self) -> Exit {
        let mut state = lock(&self.state);
        loop {
            if let Some(exit) = &state.exit {
                return exit.clone();
            }
            state = self
                .ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has `wake` called when the switch is turned off, until the returned value is dropped.
    /// Whoever watches must look at [`is_off`](Self::is_off) after this call.
    pub(super) fn watch(self: &Arc<Self>, wake: impl Wake + 'static) -> Watch {
        let mut state = lock(&self.state);
        let number = state.next_watcher;
        state.next_watcher += 1;
        state.watchers.push(Watcher {
            number,
            wake: Box::new(wake),
        });
        drop(state);
        Watch {
            switch: Arc::clone(self),
            number,
        }
    }
}

/// Keeps a [`Wake`] in the switch. When the drop returns, it is not called any more and gone.
pub(super) struct Watch {
    switch: Arc<PowerSwitch>,
    number: u64,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = lock(&self.switch.state);
        state
            .watchers
            .retain(|watcher| watcher.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    struct Count(Arc<AtomicU32>);

    impl Wake for Count {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_first_reason_stays() {
        let switch = PowerSwitch::default();
        assert!(!switch.is_off());
        switch.turn_off(Exit::Reset);
        switch.turn_off(Exit::Stopped);
        assert!(switch.is_off());
        assert_eq!(switch.wait(), Exit::Reset);
        assert_eq!(switch.wait(), Exit::Reset);
    }

    #[test]
    fn whoever_watches_is_woken_once_and_whoever_stopped_watching_never() {
        let switch = Arc::new(PowerSwitch::default());
        let (stays, leaves) = (Arc::default(), Arc::default());
        let _watch = switch.watch(Count(Arc::clone(&stays)));
        drop(switch.watch(Count(Arc::clone(&leaves))));
        switch.turn_off(Exit::Stopped);
        switch.turn_off(Exit::Stopped);
        assert_eq!(stays.load(Ordering::Relaxed), 1);
        assert_eq!(leaves.load(Ordering::Relaxed), 0);
        assert_eq!(Arc::strong_count(&leaves), 1);
    }

    #[test]
    fn a_thread_that_waits_learns_of_the_end() {
        let switch = Arc::new(PowerSwitch::default());
        let waiter = std::thread::spawn({
            let switch = Arc::clone(&switch);
            move || switch.wait()
        });
        switch.turn_off(Exit::Shutdown);
        assert_eq!(waiter.join().unwrap(), Exit::Shutdown);
    }
}
