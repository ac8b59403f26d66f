//! A thread that serves queues of a device, chain by chain.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::thread::DeviceThread;
use super::{ActiveQueue, GuestMemory, Interrupt};
use crate::confine::{Call, Confinement, call};

/// What such a thread calls to wait for its queues; its [`Confinement`] must have it.
pub(crate) const WAITING: &[Call] = &[
    call(libc::SYS_epoll_ctl),
    call(libc::SYS_epoll_pwait),
    call(libc::SYS_epoll_wait),
];

/// The queues that a driver uses, with their numbers, and with the events that it agreed on.
pub(crate) fn numbered(
    queues: Vec<Option<ActiveQueue>>,
    features: u64,
) -> impl Iterator<Item = (u16, ActiveQueue)> {
    (0..).zip(queues).filter_map(move |(number, active)| {
        let mut active = active?;
        let event_idx = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        active.queue.set_event_idx(event_idx);
        Some((number, active))
    })
}

/// What becomes of the chains.
pub(crate) trait Serve {
    /// Deals with a chain of queue number `queue`; the answer is how many bytes of it were
    /// written.
    fn serve(
        &mut self,
        queue: u16,
        chain: DescriptorChain<&GuestMemoryMmap>,
        memory: &GuestMemoryMmap,
    ) -> u32;
}

/// The thread, with the state that `S` is.
pub(crate) struct QueueThread<S> {
    thread: DeviceThread<S>,
    /// While queues are served.
    serving: Option<StopOrder>,
}

/// Ends the serving of queues.
struct StopOrder {
    event: EventFd,
    /// Set before the event that says the same: seen between chains without a system call.
    flag: Arc<AtomicBool>,
}

/// What tells the stop event from those of queues, which are told by their places.
const STOPPED: u64 = u64::MAX;

/// The queues while they are served.
struct Serving {
    queues: Vec<(u16, ActiveQueue)>,
    events: Epoll,
    memory: GuestMemory,
    interrupt: Arc<dyn Interrupt>,
    stopped: Arc<AtomicBool>,
}

/// The driver broke the ring: it is not served any more until the device is reset.
struct Broken;

impl<S: Serve + 'static> QueueThread<S> {
    /// Starts the thread: it makes its state, and is confined then.
    pub(crate) fn start(
        name: String,
        confinement: &'static Confinement,
        prepare: impl FnOnce() -> io::Result<S> + Send + 'static,
    ) -> io::Result<Self> {
        Ok(Self {
            thread: DeviceThread::start(name, confinement, prepare)?,
            serving: None,
        })
    }

    /// Serves `queues`, each with its number, from now on. Refuses those that lie outside of
    /// `memory`.
    pub(crate) fn serve(
        &mut self,
        queues: Vec<(u16, ActiveQueue)>,
        memory: GuestMemory,
        interrupt: Arc<dyn Interrupt>,
    ) -> io::Result<()> {
        self.stop();
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let events = Epoll::new()?;
        let watch = |source: &EventFd, data| {
            let interest = EpollEvent::new(EventSet::IN, data);
            events.ctl(ControlOperation::Add, source.as_raw_fd(), interest)
        };
        watch(&event, STOPPED)?;
        for (place, (number, active)) in (0..).zip(&queues) {
            if !active.queue.is_valid(&*memory.memory()) {
                let message = format!("queue {number} lies outside of guest memory");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            watch(&active.kick, place)?;
        }
        let flag = Arc::new(AtomicBool::new(false));
        let serving = Serving {
            queues,
            events,
            memory,
            interrupt,
            stopped: Arc::clone(&flag),
        };
        self.thread.give(move |state| serving.run(state))?;
        self.serving = Some(StopOrder { event, flag });
        Ok(())
    }
}

impl<S> QueueThread<S> {
    /// Returns when no queue is served any more, and the chain that was is.
    pub(crate) fn stop(&mut self) {
        let Some(StopOrder { event, flag }) = self.serving.take() else {
            return;
        };
        flag.store(true, Ordering::Release);
        // An eventfd that is written only once cannot overflow.
        let _ = event.write(1);
        self.thread.wait();
    }
}

impl<S> Drop for QueueThread<S> {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Serving {
    /// Serves until the order to stop.
    fn run(mut self, state: &mut impl Serve) {
        loop {
            let mut happened = [EpollEvent::default(); 8];
            let count = match self.events.wait(-1, &mut happened) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            for event in &happened[..count] {
                // The stop event is the one that is no queue's.
                let place = usize::try_from(event.data()).unwrap_or(usize::MAX);
                if place >= self.queues.len() || self.stopped.load(Ordering::Acquire) {
                    return;
                }
                let kick = &self.queues[place].1.kick;
                // Whether it counted one kick or many is all the same.
                let _ = kick.read();
                if self.drain(place, state).is_err() {
                    let kick = self.queues[place].1.kick.as_raw_fd();
                    let forget = ControlOperation::Delete;
                    // It can only fail for what is not watched.
                    let _ = self.events.ctl(forget, kick, EpollEvent::default());
                }
            }
        }
    }

    /// Serves all chains there are.
    fn drain(&mut self, place: usize, state: &mut impl Serve) -> Result<(), Broken> {
        let memory = self.memory.memory();
        let (number, ActiveQueue { queue, .. }) = &mut self.queues[place];
        loop {
            queue.disable_notification(&*memory).map_err(|_| Broken)?;
            while let Some(chain) = next(queue, &memory)? {
                let head = chain.head_index();
                let written = state.serve(*number, chain, &memory);
                queue
                    .add_used(&*memory, head, written)
                    .map_err(|_| Broken)?;
                if queue.needs_notification(&*memory).map_err(|_| Broken)? {
                    self.interrupt.signal_queue(*number);
                }
                // A driver that never lets the queue run dry must be left all the same.
                if self.stopped.load(Ordering::Acquire) {
                    return Ok(());
                }
            }
            if !queue.enable_notification(&*memory).map_err(|_| Broken)? {
                return Ok(());
            }
        }
    }
}

/// Takes the next chain, if there is one.
fn next<'m>(
    queue: &mut virtio_queue::Queue,
    memory: &'m GuestMemoryMmap,
) -> Result<Option<DescriptorChain<&'m GuestMemoryMmap>>, Broken> {
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
