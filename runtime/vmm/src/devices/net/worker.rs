//! A queue pair's thread: it waits for the driver and for the tap, and moves frames between them.
//!
//! Every frame passes through a buffer of the worker's own: what has been checked cannot be changed
//! by the guest any more. A frame that cannot be delivered is lost, as on any wire.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use runvm_sys::tap::{HEADER_BYTES, Tap};
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use vm_memory::{GuestAddressSpace, GuestMemoryMmap, Permissions};
use vmm_sys_util::eventfd::EventFd;
use zerocopy::FromBytes;

use super::control::{Control, attach};
use super::ring::{Lent, Ring};
use super::wire::{Features, Header, MOST_FRAME_BYTES};
use crate::devices::epoll::Epoll;
use crate::devices::span::Span;
use crate::devices::{GuestMemory, Interrupt};

const STOP: u64 = 0;
const RX_KICK: u64 = 1;
const TX_KICK: u64 = 2;
const TAP: u64 = 3;
const CONTROL_KICK: u64 = 4;

/// How many frames one direction may move before the other gets its turn.
const TURN: usize = 64;

/// Room for the longest frame and its header.
const BUFFER_BYTES: usize = HEADER_BYTES + MOST_FRAME_BYTES;

/// What a worker works with.
pub(super) struct Parts {
    pub(super) memory: GuestMemory,
    pub(super) interrupt: Arc<dyn Interrupt>,
    pub(super) features: Features,
    /// The queues of the tap, of which one is this worker's.
    pub(super) taps: Arc<[Tap]>,
    /// Which.
    pub(super) pair: usize,
    pub(super) rx: Ring,
    pub(super) tx: Ring,
    /// The control queue, in the charge of one worker.
    pub(super) control: Option<Control>,
}

/// The thread's things.
pub(super) struct Worker {
    parts: Parts,
    epoll: Epoll,
    todo: Todo,
    /// A frame from the tap, and its length in bytes while it waits for the driver's buffers.
    incoming: Vec<u8>,
    waiting: usize,
    outgoing: Vec<u8>,
}

/// What there is to do without waiting for another event.
#[derive(Debug)]
struct Todo {
    /// The transmit queue may hold frames.
    tx: bool,
    /// The receive queue may hold buffers.
    rx: bool,
    /// The tap may hold frames.
    tap: bool,
    /// The control queue may hold commands.
    control: bool,
}

impl Worker {
    /// Puts the thread's things together. Readable, `stop` ends [`Worker::run`].
    pub(super) fn new(parts: Parts, stop: &EventFd) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.watch(stop, STOP)?;
        epoll.watch(&parts.rx.active.kick, RX_KICK)?;
        epoll.watch(&parts.tx.active.kick, TX_KICK)?;
        epoll.watch(&parts.taps[parts.pair], TAP)?;
        if let Some(control) = &parts.control {
            epoll.watch(&control.ring.active.kick, CONTROL_KICK)?;
        }
        let todo = Todo {
            tx: true,
            rx: true,
            tap: true,
            control: parts.control.is_some(),
        };
        Ok(Self {
            parts,
            epoll,
            todo,
            incoming: vec![0; BUFFER_BYTES],
            waiting: 0,
            outgoing: vec![0; BUFFER_BYTES],
        })
    }

    /// Serves the queues until it is told to stop.
    pub(super) fn run(mut self) -> io::Result<()> {
        self.set_up_tap();
        loop {
            for change in self.epoll.wait(self.patience())? {
                match change.token {
                    STOP => return Ok(()),
                    RX_KICK => self.todo.rx = true,
                    TX_KICK => self.todo.tx = true,
                    TAP => self.todo.tap = true,
                    _ => self.todo.control = true,
                }
            }
            let guard = self.parts.memory.memory();
            let memory: &GuestMemoryMmap = &guard;
            self.serve_control(memory);
            self.serve_tx(memory);
            self.serve_rx(memory);
        }
    }

    /// Has the tap give what this driver takes, to the first pair of queues.
    fn set_up_tap(&self) {
        let Parts {
            taps,
            pair,
            features,
            ..
        } = &self.parts;
        if *pair == 0 {
            // The kernel knows these offloads, or they would not have been offered; a tap that has
            // none gives whole frames, which any driver takes.
            let _ = taps[0].set_offload(features.offloads());
            attach(taps, 1);
        }
    }

    /// How long to wait for events: not at all while there is something to do.
    fn patience(&self) -> Option<Duration> {
        let Todo {
            tx,
            rx,
            tap,
            control,
        } = self.todo;
        let incoming = rx && (tap || self.waiting > 0);
        (tx || control || incoming).then_some(Duration::ZERO)
    }

    fn serve_control(&mut self, memory: &GuestMemoryMmap) {
        let Parts {
            control, interrupt, ..
        } = &mut self.parts;
        if let Some(control) = control
            && self.todo.control
        {
            self.todo.control = control.serve(memory, &**interrupt);
        }
    }

    fn serve_tx(&mut self, memory: &GuestMemoryMmap) {
        for _ in 0..TURN {
            if !self.todo.tx {
                break;
            }
            let Some(Lent { head, span }) = self.parts.tx.next(memory, Permissions::Read) else {
                self.todo.tx = false;
                break;
            };
            self.send(&span);
            self.parts.tx.give_back(memory, &[(head, 0)]);
        }
        let Parts { tx, interrupt, .. } = &mut self.parts;
        tx.tell(memory, &**interrupt);
    }

    /// Sends a frame of the driver's, if it is one.
    fn send(&mut self, span: &Span<'_>) {
        let Some(bytes) = self.outgoing.get_mut(..span.len()) else {
            return;
        };
        span.copy_to(bytes);
        let frame_bytes = bytes.len().saturating_sub(HEADER_BYTES);
        let Ok((header, _)) = Header::mut_from_prefix(bytes) else {
            return;
        };
        let Some(checked) = header.checked(frame_bytes, self.parts.features) else {
            return;
        };
        *header = checked;
        let _lost = self.parts.taps[self.parts.pair].send(bytes);
    }

    fn serve_rx(&mut self, memory: &GuestMemoryMmap) {
        for _ in 0..TURN {
            if self.waiting == 0 && self.todo.rx && self.todo.tap {
                self.receive();
            }
            if self.waiting == 0 || !self.todo.rx {
                break;
            }
            self.deliver(memory);
        }
        let Parts { rx, interrupt, .. } = &mut self.parts;
        rx.tell(memory, &**interrupt);
    }

    /// Takes the next frame from the tap, if there is one.
    fn receive(&mut self) {
        match self.parts.taps[self.parts.pair].receive(&mut self.incoming) {
            Ok(bytes) => self.waiting = bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Empty, or without its link: the next event tells of a change.
            Err(_) => self.todo.tap = false,
        }
    }

    /// Puts the waiting frame into the driver's buffers; it goes on waiting where there are too few.
    fn deliver(&mut self, memory: &GuestMemoryMmap) {
        let Parts { features, rx, .. } = &mut self.parts;
        let most = if features.has(VIRTIO_NET_F_MRG_RXBUF) {
            rx.size()
        } else {
            1
        };
        let (mut lent, mut room) = (Vec::new(), 0_usize);
        while room < self.waiting && lent.len() < most {
            let Some(next) = rx.next(memory, Permissions::Write) else {
                // Until the driver adds buffers and says so, the tap can wait.
                self.todo.rx = false;
                rx.put_back(lent.len());
                return;
            };
            room = room.saturating_add(next.span.len());
            lent.push(next);
        }
        // A frame that all of the driver's buffers together cannot hold is lost, and they are used up.
        let fits = room >= self.waiting;
        let frame = &mut self.incoming[..if fits { self.waiting } else { 0 }];
        self.waiting = 0;
        if let Ok((header, _)) = Header::mut_from_prefix(frame) {
            let buffers = u16::try_from(lent.len()).unwrap_or(u16::MAX);
            *header = header.for_driver(*features, buffers);
        }
        rx.give_back(memory, &fill(&lent, frame));
    }
}

/// Puts `frame` into buffers, one after the other; says how much each has got.
fn fill(lent: &[Lent<'_>], frame: &[u8]) -> Vec<(u16, u32)> {
    let mut rest = frame;
    let fill = |Lent { head, span }: &Lent<'_>| {
        let (now, later) = rest.split_at(span.len().min(rest.len()));
        span.copy_from(now);
        rest = later;
        // No frame is as long as that.
        (*head, u32::try_from(now.len()).unwrap_or(u32::MAX))
    };
    lent.iter().map(fill).collect()
}
