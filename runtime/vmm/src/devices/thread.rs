//! The threads of devices: there, and confined, before the guest is.
//!
//! A driver brings its device up from a vCPU's thread (or by way of QEMU's connection), whose
//! filter would be any new thread's too. So a device makes its threads when it is made itself.

use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use crate::confine::{self, Confinement};

type Work<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A thread with a state of its own, that does the work it is given.
pub(crate) struct DeviceThread<S> {
    work: Option<Sender<Work<S>>>,
    /// Hears of each piece of work that is done.
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl<S: 'static> DeviceThread<S> {
    /// Starts the thread: it makes its state, and is confined then.
    pub(crate) fn start(
        name: String,
        confinement: &'static Confinement,
        prepare: impl FnOnce() -> io::Result<S> + Send + 'static,
    ) -> io::Result<Self> {
        let (work, orders) = channel::<Work<S>>();
        let (say_done, done) = channel();
        let (say_ready, ready) = channel();
        let thread = thread::Builder::new().name(name).spawn(move || {
            // First of all: the state may take note of what power the thread has.
            let powerless = confine::keep_capabilities(confinement.capabilities);
            let prepared = powerless.and_then(|()| prepare()).and_then(|state| {
                confinement.enter()?;
                Ok(state)
            });
            let mut state = match prepared {
                Ok(state) => state,
                // Who waits for this has not gone away: see below.
                Err(error) => return drop(say_ready.send(Err(error))),
            };
            let _ = say_ready.send(Ok(()));
            for work in orders {
                work(&mut state);
                if say_done.send(()).is_err() {
                    return;
                }
            }
        })?;
        let started = Self {
            work: Some(work),
            done,
            thread: Some(thread),
        };
        ready
            .recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
        Ok(started)
    }

    /// Has the thread do `work`. Each piece of work is to be [waited for](Self::wait) once.
    pub(crate) fn give(&self, work: impl FnOnce(&mut S) + Send + 'static) -> io::Result<()> {
        let sent = self.work.as_ref().map(|to| to.send(Box::new(work)));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl<S> DeviceThread<S> {
    /// Returns when the thread has done a piece of work that it was given, or has panicked.
    pub(crate) fn wait(&self) {
        let _ = self.done.recv();
    }
}

impl<S> Drop for DeviceThread<S> {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been told of already.
            let _panicked = thread.join();
        }
    }
}

impl<S> fmt::Debug for DeviceThread<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeviceThread").field(&self.thread).finish()
    }
}
