//! virtio-vsock (virtio 1.2, section 5.10), served in this process without a host module.
//!
//! On the host's side a connection is a unix socket. A process connects to the machine's one
//! socket, writes `CONNECT port` and a newline, and reads `OK host-port` and a newline once the
//! guest's listener on that vsock port has accepted; from there on it has the raw byte stream. If
//! nobody listens it reads the end of the stream at once. A guest that connects to port P of the
//! host reaches the listener on the socket `vm.sock_P`. This is the way of Firecracker's "hybrid"
//! vsock; vhost-vsock was turned down because it needs a module of the host's kernel and puts the
//! guests of all users into one address space.
//!
//! [`VsockDevice`] starts a thread, `worker.rs`, that carries packets between the queues and
//! `mux.rs`, the table of connections; `connection.rs` is the protocol of one, `stream.rs` its
//! host end.

mod chain;
mod connection;
mod mux;
mod ports;
mod stream;
mod wire;
mod worker;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use rustix::thread::CapabilitySet;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::mux::Mux;
use self::ports::PortDirectory;
use self::worker::Worker;
use super::epoll::Epoll;
use super::thread::DeviceThread;
use super::{Activation, ActiveQueue, VirtioDevice};
use crate::confine::{Call, Confinement, call, one_of};

/// What the worker keeps: unix sockets, and the wait for their events.
const CONFINEMENT: Confinement = Confinement {
    thread: "virtio-vsock",
    capabilities: CapabilitySet::empty(),
    calls: &[SOCKETS],
    absent: &[],
};

const SOCKETS: &[Call] = &[
    one_of(libc::SYS_socket, 0, &[libc::AF_UNIX.cast_unsigned()]),
    call(libc::SYS_accept4),
    call(libc::SYS_connect),
    call(libc::SYS_epoll_ctl),
    call(libc::SYS_epoll_pwait),
    call(libc::SYS_epoll_wait),
    call(libc::SYS_recvfrom),
    call(libc::SYS_sendto),
    call(libc::SYS_shutdown),
];

const RX_QUEUE: u16 = 0;
const TX_QUEUE: u16 = 1;

/// Receive, transmit and event queue. A Linux driver fills the first with 4 KiB buffers.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];

/// `VIRTIO_VSOCK_F_STREAM`: stream sockets, and no others.
const F_STREAM: u64 = 0;

/// What a vsock device connects.
#[derive(Debug)]
pub struct VsockConfig {
    /// The guest's address; 3 or more, since those below have meanings of their own.
    pub guest_cid: u64,
    /// The socket on which host processes ask for connections to the guest.
    pub listener: UnixListener,
    /// The directory (`O_PATH` is enough) with a listening socket `vm.sock_PORT` for each host
    /// port that the guest may connect to. Whoever can write there decides what a guest reaches.
    pub ports: OwnedFd,
}

/// A virtio socket device.
///
/// Until the driver is ready, clients of the listener wait in its backlog.
#[derive(Debug)]
pub struct VsockDevice {
    guest_cid: u64,
    listener: Arc<UnixListener>,
    ports: PortDirectory,
    thread: DeviceThread<()>,
    /// Stops the worker while it serves.
    stop: Option<EventFd>,
}

impl VsockDevice {
    /// Makes the device, with its thread, which is confined and waits.
    pub fn new(config: VsockConfig) -> io::Result<Self> {
        config.listener.set_nonblocking(true)?;
        Ok(Self {
            guest_cid: config.guest_cid,
            listener: Arc::new(config.listener),
            ports: PortDirectory::new(config.ports),
            thread: DeviceThread::start("vsock".into(), &CONFINEMENT, || Ok(()))?,
            stop: None,
        })
    }
}

impl VirtioDevice for VsockDevice {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn features(&self) -> u64 {
        1 << F_STREAM | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// `struct virtio_vsock_config`: the guest's address, 8 bytes.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.guest_cid.to_le_bytes();
        let from = usize::try_from(offset).map_or(config.len(), |at| at.min(config.len()));
        let count = data.len().min(config.len() - from);
        data.fill(0);
        data[..count].copy_from_slice(&config[from..from + count]);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        self.reset();
        let queues = checked_queues(activation.queues, &activation.memory.memory())?;
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let epoll = Arc::new(Epoll::new()?);
        let mux = Mux::new(self.guest_cid, self.ports.clone(), Arc::clone(&epoll));
        let worker = Worker::new(
            activation.memory,
            activation.interrupt,
            queues,
            Arc::clone(&self.listener),
            &stop,
            (epoll, mux),
        )?;
        // It fails for want of the kernel's memory: the device is silent then.
        self.thread.give(move |()| drop(worker.run()))?;
        self.stop = Some(stop);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A write to an event descriptor of our own that is 0 cannot fail, and the thread
            // ends its work at the next event.
            let _ = stop.write(1);
            self.thread.wait();
        }
    }
}

impl Drop for VsockDevice {
    fn drop(&mut self) {
        self.reset();
    }
}

/// The receive and the transmit queue. No events are ever sent, so the event queue's buffers are
/// left where they are.
fn checked_queues(
    queues: Vec<Option<ActiveQueue>>,
    memory: &vm_memory::GuestMemoryMmap,
) -> io::Result<(ActiveQueue, ActiveQueue)> {
    let mut queues = queues.into_iter();
    let mut next = |name: &str| {
        let queue = queues
            .next()
            .flatten()
            .filter(|active| active.queue.is_valid(memory));
        queue.ok_or_else(|| {
            let text = format!("the driver's {name} queue is missing or lies outside its memory");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
    };
    Ok((next("receive")?, next("transmit")?))
}

#[cfg(test)]
mod tests;
