//! The device's one thread: it waits for the driver, for clients and for host sockets, and moves
//! packets between the queues and the [`Mux`].

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{SocketFlags, accept_with};
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::chain::{Packet, Room};
use super::mux::{FIRST_SESSION, Mux};
use super::{RX_QUEUE, TX_QUEUE};
use crate::devices::epoll::Epoll;
use crate::devices::{ActiveQueue, GuestMemory, Interrupt};

const STOP: u64 = 0;
const RX_KICK: u64 = 1;
const TX_KICK: u64 = 2;
const LISTENER: u64 = 3;
const _: () = assert!(LISTENER < FIRST_SESSION);

/// How many packets one queue may move before the other and the sockets get their turn.
const TURN: usize = 256;

/// How long to leave the listener alone after it failed, which is for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Everything that the thread works with.
pub(super) struct Worker {
    memory: GuestMemory,
    interrupt: Arc<dyn Interrupt>,
    rx: ActiveQueue,
    tx: ActiveQueue,
    listener: Arc<UnixListener>,
    epoll: Arc<Epoll>,
    mux: Mux,
    todo: Todo,
}

/// What there is to do without waiting for another event.
#[derive(Debug)]
struct Todo {
    /// The transmit queue may hold packets.
    tx: bool,
    /// The receive queue may hold buffers.
    rx: bool,
    /// The listener may have clients, from this time on.
    accept: Option<Instant>,
}

impl Worker {
    /// Puts the thread's things together. Readable, `stop` ends [`Worker::run`].
    pub(super) fn new(
        memory: GuestMemory,
        interrupt: Arc<dyn Interrupt>,
        (rx, tx): (ActiveQueue, ActiveQueue),
        listener: Arc<UnixListener>,
        stop: &EventFd,
        (epoll, mux): (Arc<Epoll>, Mux),
    ) -> io::Result<Self> {
        epoll.watch(stop, STOP)?;
        epoll.watch(&rx.kick, RX_KICK)?;
        epoll.watch(&tx.kick, TX_KICK)?;
        epoll.watch(&*listener, LISTENER)?;
        let todo = Todo {
            tx: true,
            rx: true,
            accept: Some(Instant::now()),
        };
        Ok(Self {
            memory,
            interrupt,
            rx,
            tx,
            listener,
            epoll,
            mux,
            todo,
        })
    }

    /// Serves the device until it is told to stop.
    pub(super) fn run(mut self) -> io::Result<()> {
        while self.round(self.patience())? {}
        Ok(())
    }

    /// Waits for events, at most for `timeout`, and does what can be done; or says no, it is
    /// time to stop.
    pub(super) fn round(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        for change in self.epoll.wait(timeout)? {
            match change.token {
                STOP => return Ok(false),
                RX_KICK => self.todo.rx = true,
                TX_KICK => self.todo.tx = true,
                LISTENER => self.todo.accept = Some(Instant::now()),
                _ => self.mux.host_changed(change),
            }
        }
        self.step(Instant::now());
        Ok(true)
    }

    /// Does what can be done now, in turns.
    fn step(&mut self, now: Instant) {
        self.serve_tx();
        self.serve_rx(now);
        self.mux.expire(now);
        // Last, since only the steps before it make room.
        self.accept(now);
    }

    /// How long to wait for events: not at all while there is something to do.
    pub(super) fn patience(&self) -> Option<Duration> {
        if self.todo.tx || self.todo.rx && self.mux.wants_to_send() {
            return Some(Duration::ZERO);
        }
        let accept = self.todo.accept.filter(|_| !self.mux.is_full());
        let next = [accept, self.mux.next_expiry()]
            .into_iter()
            .flatten()
            .min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn serve_tx(&mut self) {
        if !self.todo.tx {
            return;
        }
        let guard = self.memory.memory();
        let memory: &GuestMemoryMmap = &guard;
        let queue = &mut self.tx.queue;
        let mut moved = 0;
        while moved < TURN {
            let Some(chain) = next_chain(queue, memory) else {
                self.todo.tx = false;
                break;
            };
            let head = chain.head_index();
            // What is not a whole packet is dropped: there is nobody to answer.
            if let Some(packet) = Packet::read(memory, chain) {
                self.mux.receive(packet);
            }
            give_back(queue, memory, head, 0);
            moved += 1;
        }
        if moved > 0 {
            tell(queue, memory, TX_QUEUE, &*self.interrupt);
        }
    }

    fn serve_rx(&mut self, now: Instant) {
        let guard = self.memory.memory();
        let memory: &GuestMemoryMmap = &guard;
        let queue = &mut self.rx.queue;
        let mut moved = 0;
        while self.todo.rx && moved < TURN && self.mux.wants_to_send() {
            let Some(chain) = next_chain(queue, memory) else {
                // Until the driver adds buffers and says so, the host sockets can wait.
                self.todo.rx = false;
                break;
            };
            let head = chain.head_index();
            let used = match Room::find(memory, chain) {
                Some(room) => self.mux.send(&room, now),
                // Not even a header fits.
                None => Some(0),
            };
            let Some(used) = used else {
                queue.set_next_avail(queue.next_avail().wrapping_sub(1));
                break;
            };
            give_back(queue, memory, head, used);
            moved += 1;
        }
        if moved > 0 {
            tell(queue, memory, RX_QUEUE, &*self.interrupt);
        }
    }

    fn accept(&mut self, now: Instant) {
        while self.todo.accept.is_some_and(|from| from <= now) && !self.mux.is_full() {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let client = accept_with(&self.listener, flags);
            self.todo.accept = match client.map_err(io::Error::from) {
                Ok(socket) => {
                    // A client that cannot be watched is hung up on.
                    let _ = self.mux.greet(socket.into());
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(_) => Some(now + ACCEPT_PAUSE),
            };
        }
    }
}

/// The next chain of a queue; where there is none, the driver is asked to say when there is.
fn next_chain<'m>(
    queue: &mut Queue,
    memory: &'m GuestMemoryMmap,
) -> Option<DescriptorChain<&'m GuestMemoryMmap>> {
    if let Some(chain) = queue.pop_descriptor_chain(memory) {
        return Some(chain);
    }
    // One more look, not a loop: a broken ring may say for ever that there is more.
    match queue.enable_notification(memory) {
        Ok(true) => queue.pop_descriptor_chain(memory),
        _ => None,
    }
}

fn give_back(queue: &mut Queue, memory: &GuestMemoryMmap, head: u16, used: u32) {
    // It fails where the driver's ring is broken or gone; the driver is the one who suffers.
    let _ = queue.add_used(memory, head, used);
}

fn tell(queue: &mut Queue, memory: &GuestMemoryMmap, number: u16, interrupt: &dyn Interrupt) {
    if queue.needs_notification(memory).unwrap_or(true) {
        interrupt.signal_queue(number);
    }
}
