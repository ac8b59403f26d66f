//! The back end of vhost-user: carries a device of ours to a machine in another process.
//!
//! The front end, QEMU, sends the guest's memory, the places of the rings and their event
//! descriptors over a unix socket; [`Backend`] turns that into an [`Activation`] of the device.
//! See QEMU's document "Vhost-user Protocol".

mod event;
mod memory;
mod ring;

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::thread::CapabilitySet;
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    BackendReqHandler, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::GuestAddressSpace;

use self::event::event_from;
use self::memory::MemoryTable;
use self::ring::{Calls, Ring};
use crate::confine::{Confinement, call};
use crate::devices::{Activation, VirtioDevice};

/// What the thread of a connection keeps.
const CONFINEMENT: Confinement = Confinement {
    thread: "vhost-user",
    capabilities: CapabilitySet::empty(),
    calls: &[&[
        call(libc::SYS_epoll_create1),
        call(libc::SYS_epoll_ctl),
        call(libc::SYS_eventfd2),
        // The end of a connection that broke is QEMU's.
        call(libc::SYS_pidfd_send_signal),
        call(libc::SYS_recvmsg),
        call(libc::SYS_sendmsg),
        call(libc::SYS_shutdown),
        call(libc::SYS_statx),
    ]],
    absent: &[],
};

/// A device that a thread serves over a connection. Dropped, it ends the connection and the thread.
#[derive(Debug)]
pub(crate) struct Backend {
    socket: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    /// Serves `device` to the front end at the other end of `socket`. If the connection fails,
    /// rather than being closed, `failed` gets the reason.
    pub(crate) fn serve(
        device: Box<dyn VirtioDevice>,
        socket: UnixStream,
        failed: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<Self> {
        let name = format!("vhost-user-{}", device.device_type());
        let connection = socket.try_clone()?;
        let thread = thread::Builder::new().name(name).spawn(move || {
            let confined = CONFINEMENT.enter().map_err(io::Error::from);
            let ended = confined
                .map_err(Error::ReqHandlerError)
                .and_then(|()| converse(device, &connection));
            // The other descriptor of this socket is still open: the front end must not wait.
            let _ = connection.shutdown(Shutdown::Both);
            if let Err(error) = ended {
                failed(error.to_string());
            }
        })?;
        Ok(Self {
            socket,
            thread: Some(thread),
        })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // It fails only where the connection is over already, and then the thread ends too.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers the front end until it leaves. The device is stopped then.
fn converse(device: Box<dyn VirtioDevice>, socket: &UnixStream) -> Result<()> {
    let socket = socket.try_clone().map_err(Error::SocketError)?;
    let carried = Arc::new(Mutex::new(Carried::new(device)));
    let mut requests = BackendReqHandler::from_stream(socket, Arc::clone(&carried));
    let ended = loop {
        match requests.handle_request() {
            Ok(()) => {}
            // A front end that is killed leaves in one of these ways.
            Err(Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_)) => {
                break Ok(());
            }
            Err(error) => break Err(error),
        }
    };
    if let Ok(mut carried) = carried.lock() {
        carried.stop();
    }
    ended
}

/// A device, and what the front end has said of its surroundings so far.
struct Carried {
    device: Box<dyn VirtioDevice>,
    acknowledged: u64,
    memory: MemoryTable,
    rings: Vec<Ring>,
    calls: Arc<Calls>,
    active: bool,
}

const REFUSED: Error = Error::InvalidOperation("not among the features offered");

impl Carried {
    fn new(device: Box<dyn VirtioDevice>) -> Self {
        let rings: Vec<_> = device
            .queue_sizes()
            .iter()
            .map(|_| Ring::default())
            .collect();
        let calls = Arc::new(Calls::new(rings.len()));
        Self {
            device,
            acknowledged: 0,
            memory: MemoryTable::default(),
            rings,
            calls,
            active: false,
        }
    }

    fn ring(&mut self, index: impl Into<u32>) -> Result<&mut Ring> {
        let index = usize::try_from(index.into()).map_err(|_| Error::InvalidParam)?;
        self.rings.get_mut(index).ok_or(Error::InvalidParam)
    }

    fn offered(&self) -> u64 {
        self.device.features()
            | 1 << VIRTIO_F_VERSION_1
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    /// Starts the device once every ring that was set up is also enabled. QEMU sets up all the
    /// rings that the driver uses before it enables the first.
    fn start_if_ready(&mut self) -> Result<()> {
        let mut set_up = self.rings.iter().filter(|ring| ring.is_set_up()).peekable();
        if self.active || set_up.peek().is_none() || !set_up.all(Ring::is_enabled) {
            return Ok(());
        }
        let memory = self
            .memory
            .shared()
            .ok_or(Error::InvalidOperation("no memory table yet"))?;
        let snapshot = memory.memory();
        let features = self.acknowledged;
        let queues = self
            .rings
            .iter_mut()
            .map(|ring| ring.take_active(&snapshot, features));
        let activation = Activation {
            queues: queues.collect::<Result<_>>()?,
            interrupt: self.calls.clone(),
            features,
            memory,
        };
        drop(snapshot);
        self.device
            .activate(activation)
            .map_err(Error::ReqHandlerError)?;
        self.active = true;
        Ok(())
    }

    fn stop(&mut self) {
        if self.active {
            self.device.reset();
            self.active = false;
        }
    }
}

impl VhostUserBackendReqHandlerMut for Carried {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.stop();
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.stop();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.offered() != 0 {
            return Err(Error::FeatureMismatch);
        }
        self.acknowledged = features & !VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        // Without the protocol features there are no messages that enable rings.
        if self.acknowledged == features {
            self.rings.iter_mut().for_each(|ring| ring.enable(true));
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        self.memory.replace(regions, files)?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> Result<()> {
        self.ring(index)?.set_size(size)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let translated = [descriptors, available, used].map(|at| self.memory.guest_address(at));
        let [descriptors, available, used] = translated;
        self.ring(index)?
            .set_places(descriptors?, available?, used?);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.ring(index)?.set_base(base);
        Ok(())
    }

    /// Stops the ring, and with it the device: a device without one of its queues is of no use.
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.stop();
        let memory = self.memory.shared();
        let ring = self.ring(index)?;
        let base = ring.stop(memory.as_ref().map(|shared| shared.memory()).as_deref());
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, event: Option<File>) -> Result<()> {
        // Without a descriptor it asks for polling, which no device here does.
        let event = event.ok_or(Error::InvalidOperation("a ring without kick event"))?;
        self.ring(index)?.set_kick(event_from(event));
        self.start_if_ready()
    }

    fn set_vring_call(&mut self, index: u8, event: Option<File>) -> Result<()> {
        self.ring(index)?;
        self.calls.set(index.into(), event.map(event_from));
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _event: Option<File>) -> Result<()> {
        self.ring(index).map(|_| ())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        // REPLY_ACK is the vhost crate's own.
        Ok(VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::CONFIG)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        u64::try_from(self.rings.len()).map_err(|_| Error::BackendInternalError)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.enable(enable);
        if enable {
            return self.start_if_ready();
        }
        self.stop();
        Ok(())
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        let mut data = vec![0; usize::try_from(size).map_err(|_| Error::InvalidParam)?];
        self.device.read_config(offset.into(), &mut data);
        Ok(data)
    }

    fn set_config(&mut self, offset: u32, data: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        self.device.write_config(offset.into(), data);
        Ok(())
    }

    // What follows belongs to features that are not offered.

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> Result<()> {
        Err(REFUSED)
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(REFUSED)
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(REFUSED)
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        Err(REFUSED)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Err(REFUSED)
    }

    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _file: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        Err(REFUSED)
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        Err(REFUSED)
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        Err(REFUSED)
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(REFUSED)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(REFUSED)
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(REFUSED)
    }
}

#[cfg(test)]
mod tests;
