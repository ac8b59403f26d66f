//! A virtio-mmio device's interrupt: its status register and its line.

use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::Interrupt;

/// What a device raises and the driver acknowledges (virtio 1.2, section 4.2.3.3).
///
/// The line is edge-triggered: each signal is an edge, so one that comes while the driver's
/// handler runs makes the handler run again.
#[derive(Debug)]
pub(crate) struct InterruptLine {
    status: AtomicU32,
    config_generation: AtomicU32,
    line: EventFd,
}

impl InterruptLine {
    pub(super) fn new(line: EventFd) -> Self {
        Self {
            status: AtomicU32::new(0),
            config_generation: AtomicU32::new(0),
            line,
        }
    }

    /// The line itself, for the hypervisor to listen to.
    pub(super) fn event(&self) -> &EventFd {
        &self.line
    }

    /// The InterruptStatus register.
    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// The InterruptACK register.
    pub(super) fn acknowledge(&self, causes: u32) {
        self.status.fetch_and(!causes, Ordering::SeqCst);
    }

    /// The ConfigGeneration register.
    pub(super) fn config_generation(&self) -> u32 {
        self.config_generation.load(Ordering::SeqCst)
    }

    fn raise(&self, cause: u32) {
        self.status.fetch_or(cause, Ordering::SeqCst);
        // The write fails only when the counter is full, and then the line is raised already.
        let _raised = self.line.write(1);
    }
}

impl Interrupt for InterruptLine {
    fn signal_queue(&self, _queue: u16) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    fn signal_config(&self) {
        self.config_generation.fetch_add(1, Ordering::SeqCst);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }
}
