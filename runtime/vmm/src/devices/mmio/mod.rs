//! The virtio-mmio transport (virtio 1.2, section 4.2): the register file that stands between the
//! guest's driver and a [`VirtioDevice`]. Version 2 only, without legacy registers.
//!
//! What the driver does in a wrong order, or to a queue that is in use, is ignored; a driver that
//! goes on with queues that cannot be served gets DEVICE_NEEDS_RESET. Nothing that it writes
//! reaches the device between DRIVER_OK and a reset but notifications and configuration space.

mod interrupt;
mod queue;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE as ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER as DRIVER,
    VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK, VIRTIO_CONFIG_S_FAILED as FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK as FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET as NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio as register;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::Queue;
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::EventFd;

use self::interrupt::InterruptLine;
use self::queue::{Area, Half, InvalidQueue, QueueRegisters};
use super::{Activation, ActiveQueue, GuestMemory, Interrupt, VirtioDevice};
use crate::bus::BusDevice;

/// Size of a device's register file: the driver is told so on the command line.
pub(crate) const MMIO_LEN: u64 = 0x1000;

/// Offset of the QueueNotify register, which the hypervisor may answer by itself.
pub(crate) const QUEUE_NOTIFY: u64 = register::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// QueueReset, of VIRTIO_F_RING_RESET, which is not offered. Not in the header that the bindings
/// were made from.
const QUEUE_RESET: u32 = 0x0c0;

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "RVMM", little-endian. Nothing reads it but people.
const VENDOR: u32 = 0x4d4d_5652;
/// Length and base of a shared memory region that does not exist (section 4.2.2).
const NO_REGION: u32 = u32::MAX;

/// The status bits that a driver sets, in the order in which it does (section 3.1.1).
const DRIVER_BITS: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED;

/// A virtio device with its register file.
pub(crate) struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemory,
    interrupt: Arc<InterruptLine>,
    /// One per queue; the device gets a duplicate.
    kicks: Vec<EventFd>,
    active: bool,
    registers: Registers,
}

/// What the driver wrote and a reset forgets.
struct Registers {
    status: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    queues: Vec<QueueRegisters>,
}

impl Registers {
    fn new(queue_sizes: &[u16]) -> Self {
        Self {
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues: queue_sizes
                .iter()
                .copied()
                .map(QueueRegisters::new)
                .collect(),
        }
    }

    fn queue(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::try_from(self.queue_select).ok()?)
    }

    /// The selected queue, when the driver is at the point where it may set up queues: after the
    /// features are agreed on and before the device goes.
    fn queue_mut(&mut self) -> Option<&mut QueueRegisters> {
        if self.status & (FEATURES_OK | DRIVER_OK | FAILED) != FEATURES_OK {
            return None;
        }
        self.queues
            .get_mut(usize::try_from(self.queue_select).ok()?)
    }
}

impl MmioTransport {
    /// Puts the register file in front of `device`.
    pub(crate) fn new(device: Box<dyn VirtioDevice>, memory: GuestMemory) -> io::Result<Self> {
        let line = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?;
        let kicks = device
            .queue_sizes()
            .iter()
            .map(|_| EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))
            .collect::<io::Result<_>>()?;
        let registers = Registers::new(device.queue_sizes());
        Ok(Self {
            device,
            memory,
            interrupt: Arc::new(InterruptLine::new(line)),
            kicks,
            active: false,
            registers,
        })
    }

    /// The event of the interrupt line.
    pub(crate) fn interrupt_event(&self) -> &EventFd {
        self.interrupt.event()
    }

    /// The event of each queue: a notification of queue `n` is a write to the `n`th.
    pub(crate) fn queue_events(&self) -> &[EventFd] {
        &self.kicks
    }

    fn features(&self) -> u64 {
        self.device.features() | 1 << VIRTIO_F_VERSION_1
    }

    fn read_register(&self, offset: u32) -> u32 {
        let registers = &self.registers;
        match offset {
            register::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            register::VIRTIO_MMIO_VERSION => VERSION,
            register::VIRTIO_MMIO_DEVICE_ID => self.device.device_type(),
            register::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            register::VIRTIO_MMIO_DEVICE_FEATURES => {
                Half::selected_by(registers.device_features_select)
                    .map_or(0, |half| half.of(self.features()))
            }
            register::VIRTIO_MMIO_QUEUE_NUM_MAX => registers
                .queue()
                .map_or(0, |queue| u32::from(queue.max_size)),
            register::VIRTIO_MMIO_QUEUE_READY => registers
                .queue()
                .map_or(0, |queue| u32::from(queue.ready())),
            register::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            register::VIRTIO_MMIO_STATUS => registers.status,
            register::VIRTIO_MMIO_SHM_LEN_LOW
            | register::VIRTIO_MMIO_SHM_LEN_HIGH
            | register::VIRTIO_MMIO_SHM_BASE_LOW
            | register::VIRTIO_MMIO_SHM_BASE_HIGH => NO_REGION,
            register::VIRTIO_MMIO_CONFIG_GENERATION => self.interrupt.config_generation(),
            // QUEUE_RESET among them: it reads as zero where the feature is not offered.
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        let registers = &mut self.registers;
        match offset {
            register::VIRTIO_MMIO_DEVICE_FEATURES_SEL => registers.device_features_select = value,
            register::VIRTIO_MMIO_DRIVER_FEATURES_SEL => registers.driver_features_select = value,
            register::VIRTIO_MMIO_DRIVER_FEATURES => self.write_driver_features(value),
            register::VIRTIO_MMIO_QUEUE_SEL => registers.queue_select = value,
            register::VIRTIO_MMIO_QUEUE_NUM => {
                if let Some(queue) = registers.queue_mut() {
                    queue.set_size(value);
                }
            }
            register::VIRTIO_MMIO_QUEUE_READY => {
                if let Some(queue) = registers.queue_mut() {
                    queue.set_ready(value & 1 != 0);
                }
            }
            register::VIRTIO_MMIO_QUEUE_NOTIFY => self.notify(value),
            register::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            register::VIRTIO_MMIO_STATUS => self.write_status(value),
            register::VIRTIO_MMIO_QUEUE_DESC_LOW
            | register::VIRTIO_MMIO_QUEUE_DESC_HIGH
            | register::VIRTIO_MMIO_QUEUE_AVAIL_LOW
            | register::VIRTIO_MMIO_QUEUE_AVAIL_HIGH
            | register::VIRTIO_MMIO_QUEUE_USED_LOW
            | register::VIRTIO_MMIO_QUEUE_USED_HIGH => self.write_queue_address(offset, value),
            // SHMSel needs no memory: every region answers the same. QueueReset is not offered.
            register::VIRTIO_MMIO_SHM_SEL | QUEUE_RESET => {}
            _ => {}
        }
    }

    fn write_driver_features(&mut self, value: u32) {
        let registers = &mut self.registers;
        if registers.status & (DRIVER | FEATURES_OK | FAILED) != DRIVER {
            return;
        }
        if let Some(half) = Half::selected_by(registers.driver_features_select) {
            registers.driver_features = half.replaced_in(registers.driver_features, value);
        }
    }

    fn write_queue_address(&mut self, offset: u32, value: u32) {
        let (area, half) = match offset {
            register::VIRTIO_MMIO_QUEUE_DESC_LOW => (Area::DescriptorTable, Half::Low),
            register::VIRTIO_MMIO_QUEUE_DESC_HIGH => (Area::DescriptorTable, Half::High),
            register::VIRTIO_MMIO_QUEUE_AVAIL_LOW => (Area::AvailableRing, Half::Low),
            register::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => (Area::AvailableRing, Half::High),
            register::VIRTIO_MMIO_QUEUE_USED_LOW => (Area::UsedRing, Half::Low),
            register::VIRTIO_MMIO_QUEUE_USED_HIGH => (Area::UsedRing, Half::High),
            _ => return,
        };
        if let Some(queue) = self.registers.queue_mut() {
            queue.set_address(area, half, value);
        }
    }

    /// A notification that the hypervisor did not take by itself, as it does all 32-bit writes
    /// of a queue's number.
    fn notify(&self, queue: u32) {
        if !self.active {
            return;
        }
        if let Some(kick) = usize::try_from(queue).ok().and_then(|n| self.kicks.get(n)) {
            // The write fails only when the counter is full, and then the event is there already.
            let _kicked = kick.write(1);
        }
    }

    /// The device status state machine (section 3.1.1). Zero resets; bits are only added, and
    /// only those whose predecessors are there.
    fn write_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let status = self.registers.status;
        let value = value & DRIVER_BITS;
        if status & DRIVER_BITS & !value != 0 {
            return;
        }
        let added = value & !status;
        self.registers.status |= added & (ACKNOWLEDGE | FAILED);
        if added & DRIVER != 0 && self.has(ACKNOWLEDGE) {
            self.registers.status |= DRIVER;
        }
        if added & FEATURES_OK != 0 && self.has(DRIVER) && self.features_agree() {
            self.registers.status |= FEATURES_OK;
        }
        if added & DRIVER_OK != 0 && self.has(FEATURES_OK) && !self.has(FAILED) {
            self.registers.status |= DRIVER_OK;
            self.activate();
        }
    }

    fn has(&self, bits: u32) -> bool {
        self.registers.status & bits == bits
    }

    fn features_agree(&self) -> bool {
        let driver = self.registers.driver_features;
        driver & !self.features() == 0 && driver & 1 << VIRTIO_F_VERSION_1 != 0
    }

    /// Hands the queues to the device; what is wrong with them, or with the device, is for the
    /// driver to see in DEVICE_NEEDS_RESET (section 2.1.2).
    fn activate(&mut self) {
        let activated = self
            .activation()
            .and_then(|activation| self.device.activate(activation));
        match activated {
            Ok(()) => self.active = true,
            Err(_) => {
                // A device may have failed half way.
                self.device.reset();
                self.registers.status |= NEEDS_RESET;
                self.interrupt.signal_config();
            }
        }
    }

    fn activation(&self) -> io::Result<Activation> {
        let queues = self
            .build_queues()
            .map_err(|InvalidQueue| io::ErrorKind::InvalidInput)?;
        let queues = queues
            .into_iter()
            .zip(&self.kicks)
            .map(|(queue, kick)| {
                let with_kick = |queue| {
                    Ok(ActiveQueue {
                        queue,
                        kick: kick.try_clone()?,
                    })
                };
                queue.map(with_kick).transpose()
            })
            .collect::<io::Result<_>>()?;
        Ok(Activation {
            memory: self.memory.clone(),
            interrupt: Arc::clone(&self.interrupt) as Arc<dyn Interrupt>,
            features: self.registers.driver_features,
            queues,
        })
    }

    fn build_queues(&self) -> Result<Vec<Option<Queue>>, InvalidQueue> {
        let memory = self.memory.memory();
        let event_idx = self.registers.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        self.registers
            .queues
            .iter()
            .map(|queue| queue.build(&memory, event_idx))
            .collect()
    }

    fn reset(&mut self) {
        if std::mem::take(&mut self.active) {
            self.device.reset();
        }
        self.interrupt.acknowledge(u32::MAX);
        self.registers = Registers::new(self.device.queue_sizes());
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match Place::of(offset, data.len()) {
            Place::Config(offset) => self.device.read_config(offset, data),
            Place::Register(offset) => {
                data.copy_from_slice(&self.read_register(offset).to_le_bytes());
            }
            Place::Nowhere => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (Place::of(offset, data.len()), data) {
            // Section 3.1.1, step 7: configuration is written once the features are agreed on.
            (Place::Config(offset), data) if self.has(FEATURES_OK) => {
                self.device.write_config(offset, data);
            }
            (Place::Register(offset), &[a, b, c, d]) => {
                self.write_register(offset, u32::from_le_bytes([a, b, c, d]));
            }
            _ => {}
        }
    }
}

impl Drop for MmioTransport {
    fn drop(&mut self) {
        self.reset();
    }
}

/// What an access is for.
enum Place {
    /// A register, at an offset of four bytes' alignment.
    Register(u32),
    /// The device's configuration space, at an offset from its start.
    Config(u64),
    /// Neither: section 4.2.2.1 lets the driver reach registers by aligned 32-bit accesses only.
    Nowhere,
}

impl Place {
    fn of(offset: u64, len: usize) -> Self {
        if let Some(offset) = offset.checked_sub(register::VIRTIO_MMIO_CONFIG.into()) {
            return Self::Config(offset);
        }
        match u32::try_from(offset) {
            Ok(offset) if offset % 4 == 0 && len == 4 => Self::Register(offset),
            _ => Self::Nowhere,
        }
    }
}
