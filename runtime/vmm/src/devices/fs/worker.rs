//! The threads that take requests out of the queues.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::call::Worker;
use super::chain;
use super::server::Server;
use crate::devices::{ActiveQueue, GuestMemory, Interrupt};

/// What a worker waits for: new buffers, or the order to stop.
const KICKED: u64 = 0;
const STOPPED: u64 = 1;

/// A queue that is being served, until it is dropped.
pub(super) struct Serving {
    stop: EventFd,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// One queue, and what serving it takes. A lock guards the ring alone: requests are served
/// outside of it, so that more than one thread could share a queue.
struct Queueing {
    number: u16,
    queue: Mutex<Queue>,
    kick: EventFd,
    memory: GuestMemory,
    interrupt: Arc<dyn Interrupt>,
    server: Arc<Server>,
    /// Set before the event that says the same: seen between requests without a system call.
    stopped: Arc<AtomicBool>,
}

/// The driver broke the ring: it is not served any more until the device is reset.
struct Broken;

/// A queue with all that [`Serving::start`] needs.
pub(super) struct QueueToServe {
    pub(super) number: u16,
    pub(super) queue: ActiveQueue,
    pub(super) memory: GuestMemory,
    pub(super) interrupt: Arc<dyn Interrupt>,
}

impl Serving {
    /// Starts a thread that serves `queue` with `server`.
    pub(super) fn start(queue: QueueToServe, server: Arc<Server>) -> io::Result<Self> {
        let QueueToServe {
            number,
            queue: ActiveQueue { queue, kick },
            memory,
            interrupt,
        } = queue;
        let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let events = Epoll::new()?;
        for (event, data) in [(&kick, KICKED), (&stop, STOPPED)] {
            let interest = EpollEvent::new(EventSet::IN, data);
            events.ctl(ControlOperation::Add, event.as_raw_fd(), interest)?;
        }
        let stopped = Arc::new(AtomicBool::new(false));
        let queueing = Queueing {
            number,
            queue: Mutex::new(queue),
            kick,
            memory,
            interrupt,
            server,
            stopped: Arc::clone(&stopped),
        };
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(format!("fs-{number}"))
            .spawn(move || {
                let worker = queueing.server.worker();
                let (worker, result) = match worker {
                    Ok(worker) => (Some(worker), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                // Who waits for this has not gone away: see below.
                let _ = ready.send(result);
                if let Some(mut worker) = worker {
                    queueing.run(&events, &mut worker);
                }
            })?;
        let serving = Self {
            stop,
            stopped,
            thread: Some(thread),
        };
        started
            .recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
        Ok(serving)
    }
}

impl Drop for Serving {
    /// Returns when the thread has ended, with the request it was serving.
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        // An eventfd that is written only once cannot overflow.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Queueing {
    /// Serves until the order to stop, or until the driver breaks the ring.
    fn run(&self, events: &Epoll, worker: &mut Worker) {
        loop {
            let mut happened = [EpollEvent::default(); 2];
            let count = match events.wait(-1, &mut happened) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            if happened[..count]
                .iter()
                .any(|event| event.data() == STOPPED)
            {
                return;
            }
            // Whether it counted one kick or many, or another thread was faster, is all the same.
            let _ = self.kick.read();
            if self.drain(worker).is_err() {
                return;
            }
        }
    }

    /// Serves all requests there are.
    fn drain(&self, worker: &mut Worker) -> Result<(), Broken> {
        let memory = self.memory.memory();
        loop {
            self.ring()
                .disable_notification(&*memory)
                .map_err(|_| Broken)?;
            while let Some(chain) = self.next(&memory)? {
                self.serve(&memory, chain, worker)?;
                // A driver that never lets the queue run dry must be left all the same.
                if self.stopped.load(Ordering::Acquire) {
                    return Ok(());
                }
            }
            if !self
                .ring()
                .enable_notification(&*memory)
                .map_err(|_| Broken)?
            {
                return Ok(());
            }
        }
    }

    /// Takes the next chain, if there is one.
    fn next<'m>(
        &self,
        memory: &'m GuestMemoryMmap,
    ) -> Result<Option<DescriptorChain<&'m GuestMemoryMmap>>, Broken> {
        let mut queue = self.ring();
        let available = queue
            .avail_idx(memory, Ordering::Acquire)
            .map_err(|_| Broken)?;
        if available.0 == queue.next_avail() {
            return Ok(None);
        }
        // A ring that is not empty and yields nothing would be asked again for ever.
        let next = queue.iter(memory).map_err(|_| Broken)?.next();
        next.map(Some).ok_or(Broken)
    }

    fn serve(
        &self,
        memory: &GuestMemoryMmap,
        chain: DescriptorChain<&GuestMemoryMmap>,
        worker: &mut Worker,
    ) -> Result<(), Broken> {
        let head = chain.head_index();
        let written = match chain::split(chain, memory) {
            Some((request, reply)) => worker.serve(request, reply, |call| self.server.answer(call)),
            None => 0,
        };
        let mut queue = self.ring();
        queue.add_used(memory, head, written).map_err(|_| Broken)?;
        let notify = queue.needs_notification(memory).map_err(|_| Broken)?;
        drop(queue);
        if notify {
            self.interrupt.signal_queue(self.number);
        }
        Ok(())
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
