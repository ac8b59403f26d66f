//! The KVM rung: a machine of this crate's own making, run by hardware.
//!
//! [`launch`] builds it with a thread per vCPU; [`KvmVm`] is what is left to start and to hold. The
//! machine has in-kernel interrupt controllers, no timer chip (the guest uses kvm-clock and the
//! TSC deadline timer), a serial console, two reset ports and virtio-mmio devices.

mod cpuid;
mod kick;
pub(crate) mod power;
mod registers;
#[cfg(test)]
mod tests;
mod vcpu;
pub(crate) mod vm;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, IoEventAddress, Kvm};
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::EventFd;

use self::cpuid::Topology;
use self::power::PowerSwitch;
use self::vcpu::{Buses, Shared, Vcpu};
use self::vm::{GuestVcpu, GuestVm};
use crate::Exit;
use crate::boot::{self, BootError, EntryPoint, IO_APIC_PINS, Images, MAX_VCPUS};
use crate::bus::BusError;
use crate::devices::mmio::{MMIO_LEN, MmioTransport, QUEUE_NOTIFY};
use crate::devices::reset::{I8042, I8042_BASE, I8042_LEN, RESET_CONTROL, ResetControl};
use crate::devices::serial::{SERIAL_BASE, SERIAL_IRQ, SERIAL_LEN, SerialConsole};
use crate::devices::{GuestMemory, VirtioDevice};
use crate::exits::ExitCounts;
use crate::memory::{self, AllocateError};

/// The register file of the first virtio device; the others follow it.
const VIRTIO_MMIO_BASE: u64 = 0xd000_0000;
/// The interrupt line of the first virtio device, behind the serial console's; the others follow.
const VIRTIO_FIRST_IRQ: u8 = 5;

/// Three pages that KVM wants on Intel hosts, and one more, below the firmware's place at the end
/// of 32-bit addresses (KVM API, "KVM_SET_TSS_ADDR" and "KVM_SET_IDENTITY_MAP_ADDR").
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// What this machine asks of any guest's kernel: to say its words on the serial line, to reset by
/// the keyboard controller, and to do so at once when it panics.
const COMMAND_LINE: &str = "console=ttyS0 reboot=k panic=-1";

/// What to run.
pub(crate) struct Machine {
    pub(crate) kernel: File,
    pub(crate) initramfs: File,
    pub(crate) command_line: String,
    pub(crate) memory_mib: u32,
    pub(crate) vcpus: u8,
    pub(crate) serial: File,
    pub(crate) devices: Vec<Box<dyn VirtioDevice>>,
}

/// Why a machine could not be launched on KVM.
#[derive(Debug, thiserror::Error)]
pub enum KvmLaunchError {
    /// No vCPU, or more than can be.
    #[error("a VM cannot have {asked} vCPUs here: the most is {limit}, the least 1")]
    Vcpus {
        /// As configured.
        asked: u8,
        /// The most that this host's KVM and this machine can have.
        limit: usize,
    },
    /// More devices than interrupt lines.
    #[error("a VM cannot have {asked} virtio devices: the most is {limit}")]
    TooManyDevices {
        /// As configured.
        asked: usize,
        /// The most.
        limit: u8,
    },
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] AllocateError),
    /// A call to KVM about the VM.
    #[error("cannot {step} with KVM")]
    Vm {
        /// What could not be done.
        step: &'static str,
        /// The kernel's answer.
        source: kvm_ioctls::Error,
    },
    /// A call to KVM about one vCPU.
    #[error("cannot {step} of vCPU {vcpu} with KVM")]
    Vcpu {
        /// What could not be done.
        step: &'static str,
        /// Which vCPU.
        vcpu: u8,
        /// The kernel's answer.
        source: kvm_ioctls::Error,
    },
    /// The host refuses a model-specific register.
    #[error("KVM does not take the model-specific registers of vCPU {vcpu}")]
    ModelSpecific {
        /// Which vCPU.
        vcpu: u8,
    },
    /// The guest could not be put into memory.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Two devices at one address.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A device's events.
    #[error("cannot make the events of the {device}")]
    Events {
        /// Which device.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A vCPU's thread, or its confinement.
    #[error("cannot start the thread of vCPU {vcpu}")]
    Thread {
        /// Which vCPU.
        vcpu: u8,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl KvmLaunchError {
    fn vm(step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Vm { step, source }
    }

    fn vcpu(vcpu: u8, step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Vcpu { step, vcpu, source }
    }
}

/// Builds `machine` on `/dev/kvm`, which `device` is, up to the first entry of the guest.
pub(crate) fn launch(device: OwnedFd, machine: Machine) -> Result<KvmVm, KvmLaunchError> {
    let kvm = vm::kvm_from(device);
    check_counts(&kvm, &machine)?;
    let memory = memory::allocate(machine.memory_mib)?;
    let vm = create_vm(&kvm, &memory)?;

    let shared = Arc::new(Shared::default());
    let mut buses = Buses::default();
    let command_line = command_line(&machine);
    add_serial_console(&mut buses, &vm, machine.serial)?;
    add_reset_ports(&mut buses, &shared.power)?;
    for (device, place) in machine.devices.into_iter().zip(virtio_places()) {
        add_virtio_device(&mut buses, &vm, &memory, device, place)?;
    }

    let images = Images {
        kernel: &machine.kernel,
        initramfs: &machine.initramfs,
        command_line: &command_line,
        vcpus: machine.vcpus,
        memory_mib: machine.memory_mib,
    };
    let entry = boot::load(&memory.memory(), &images)?;
    let vcpus = create_vcpus(&kvm, &vm, machine.vcpus, entry)?;
    make_threads(vcpus, buses, shared)
}

fn check_counts(kvm: &Kvm, machine: &Machine) -> Result<(), KvmLaunchError> {
    let limit = kvm.get_max_vcpus().min(MAX_VCPUS.into());
    if machine.vcpus == 0 || usize::from(machine.vcpus) > limit {
        return Err(KvmLaunchError::Vcpus {
            asked: machine.vcpus,
            limit,
        });
    }
    let limit = IO_APIC_PINS - VIRTIO_FIRST_IRQ;
    if machine.devices.len() > limit.into() {
        return Err(KvmLaunchError::TooManyDevices {
            asked: machine.devices.len(),
            limit,
        });
    }
    Ok(())
}

fn create_vm(kvm: &Kvm, memory: &GuestMemory) -> Result<Arc<GuestVm>, KvmLaunchError> {
    let vm = GuestVm::create(kvm, memory).map_err(KvmLaunchError::vm("create a VM"))?;
    let fd = vm.fd();
    fd.set_identity_map_address(IDENTITY_MAP_ADDRESS)
        .map_err(KvmLaunchError::vm("place the identity map"))?;
    fd.set_tss_address(TSS_ADDRESS)
        .map_err(KvmLaunchError::vm("place the task state segment"))?;
    fd.create_irq_chip()
        .map_err(KvmLaunchError::vm("create the interrupt controllers"))?;
    Ok(Arc::new(vm))
}

fn command_line(machine: &Machine) -> String {
    let mut line = String::from(COMMAND_LINE);
    for (_, Place { base, irq }) in machine.devices.iter().zip(virtio_places()) {
        line += &format!(" virtio_mmio.device=4K@{base:#x}:{irq}");
    }
    if !machine.command_line.is_empty() {
        line += " ";
        line += &machine.command_line;
    }
    line
}

/// Where a virtio device is.
#[derive(Debug, Clone, Copy)]
struct Place {
    base: u64,
    irq: u8,
}

fn virtio_places() -> impl Iterator<Item = Place> {
    (VIRTIO_FIRST_IRQ..IO_APIC_PINS).map(|irq| {
        let base = VIRTIO_MMIO_BASE + u64::from(irq - VIRTIO_FIRST_IRQ) * MMIO_LEN;
        Place { base, irq }
    })
}

fn add_serial_console(buses: &mut Buses, vm: &GuestVm, log: File) -> Result<(), KvmLaunchError> {
    let events = |source| KvmLaunchError::Events {
        device: "serial console".into(),
        source,
    };
    let line = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(events)?;
    vm.fd()
        .register_irqfd(&line, SERIAL_IRQ)
        .map_err(KvmLaunchError::vm("connect the serial console's interrupt"))?;
    let console = SerialConsole::new(log, line);
    buses
        .ports
        .insert(SERIAL_BASE, SERIAL_LEN, Arc::new(Mutex::new(console)))?;
    Ok(())
}

fn add_reset_ports(buses: &mut Buses, power: &Arc<PowerSwitch>) -> Result<(), KvmLaunchError> {
    let reset = || {
        let power = Arc::clone(power);
        move || power.turn_off(Exit::Reset)
    };
    let keyboard = Arc::new(Mutex::new(I8042(reset())));
    buses.ports.insert(I8042_BASE, I8042_LEN, keyboard)?;
    let chipset = Arc::new(Mutex::new(ResetControl(reset())));
    buses.ports.insert(RESET_CONTROL, 1, chipset)?;
    Ok(())
}

/// Puts `device` on the bus and connects its events, so that neither a notification nor an
/// interrupt leaves the kernel for this process's vCPU threads.
fn add_virtio_device(
    buses: &mut Buses,
    vm: &GuestVm,
    memory: &GuestMemory,
    device: Box<dyn VirtioDevice>,
    place: Place,
) -> Result<(), KvmLaunchError> {
    let device_type = device.device_type();
    let transport = MmioTransport::new(device, memory.clone()).map_err(|source| {
        let device = format!("virtio device of type {device_type}");
        KvmLaunchError::Events { device, source }
    })?;
    vm.fd()
        .register_irqfd(transport.interrupt_event(), place.irq.into())
        .map_err(KvmLaunchError::vm("connect a virtio device's interrupt"))?;
    let notify = IoEventAddress::Mmio(place.base + QUEUE_NOTIFY);
    for (queue, event) in (0u32..).zip(transport.queue_events()) {
        vm.fd()
            .register_ioevent(event, &notify, queue)
            .map_err(KvmLaunchError::vm("connect a virtio device's notification"))?;
    }
    let transport = Arc::new(Mutex::new(transport));
    buses.mmio.insert(place.base, MMIO_LEN, transport)?;
    Ok(())
}

fn create_vcpus(
    kvm: &Kvm,
    vm: &Arc<GuestVm>,
    count: u8,
    entry: EntryPoint,
) -> Result<Vec<GuestVcpu>, KvmLaunchError> {
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmLaunchError::vm("read the supported CPUID"))?;
    let topology = Topology {
        vcpus: count,
        tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
    };
    (0..count)
        .map(|id| {
            let cpuid = cpuid::for_vcpu(&supported, id, topology);
            create_vcpu(vm, id, &cpuid, entry)
        })
        .collect()
}

/// Creates a vCPU and sets it up. All but the first wait for the guest to start them.
fn create_vcpu(
    vm: &Arc<GuestVm>,
    id: u8,
    cpuid: &CpuId,
    entry: EntryPoint,
) -> Result<GuestVcpu, KvmLaunchError> {
    let failed = |step| KvmLaunchError::vcpu(id, step);
    let vcpu = vm.create_vcpu(id).map_err(failed("create the state"))?;
    vcpu.fd.set_cpuid2(cpuid).map_err(failed("set the CPUID"))?;
    let msrs = registers::model_specific()
        .unwrap_or_else(|_| unreachable!("two entries are within the limit of 256"));
    let set = vcpu
        .fd
        .set_msrs(&msrs)
        .map_err(failed("set the model-specific registers"))?;
    if set != msrs.as_slice().len() {
        return Err(KvmLaunchError::ModelSpecific { vcpu: id });
    }
    if id == 0 {
        let reset = vcpu
            .fd
            .get_sregs()
            .map_err(failed("read the system registers"))?;
        vcpu.fd
            .set_sregs(&registers::system_at_entry(reset))
            .map_err(failed("set the system registers"))?;
        vcpu.fd
            .set_regs(&registers::at_entry(entry))
            .map_err(failed("set the registers"))?;
    }
    Ok(vcpu)
}

/// Starts a thread for each vCPU, which confines itself and waits for [`KvmVm::start`].
fn make_threads(
    vcpus: Vec<GuestVcpu>,
    buses: Buses,
    shared: Arc<Shared>,
) -> Result<KvmVm, KvmLaunchError> {
    let buses = Arc::new(buses);
    // Should a thread fail to start, the drop of this ends those that wait.
    let mut vm = KvmVm {
        shared,
        gates: Vec::with_capacity(vcpus.len()),
        threads: Vec::with_capacity(vcpus.len()),
    };
    for (id, guest) in (0..).zip(vcpus) {
        let vcpu = Vcpu {
            id,
            guest,
            buses: Arc::clone(&buses),
            shared: Arc::clone(&vm.shared),
        };
        let failed = |source| KvmLaunchError::Thread { vcpu: id, source };
        let (ready, confined) = mpsc::channel();
        let (gate, opened) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("vcpu{id}"))
            .spawn(move || vcpu.run(&ready, &opened))
            .map_err(failed)?;
        vm.gates.push(gate);
        vm.threads.push(thread);
        let ended = || Err(io::ErrorKind::BrokenPipe.into());
        confined
            .recv()
            .unwrap_or_else(|_| ended())
            .map_err(failed)?;
    }
    Ok(vm)
}

/// A machine that waits, or runs. The devices belong to the vCPUs' threads, and end with the last
/// of them.
pub(crate) struct KvmVm {
    shared: Arc<Shared>,
    /// What each vCPU's thread waits for before it enters the guest.
    gates: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl KvmVm {
    /// Lets the vCPUs enter the guest.
    pub(crate) fn start(&mut self) {
        for gate in self.gates.drain(..) {
            // A thread that has panicked has ended the VM with words already.
            let _ = gate.send(());
        }
    }

    /// Blocks until the VM has ended, and every thread of it and of its devices too.
    pub(crate) fn wait(&mut self) -> Exit {
        let exit = self.shared.power.wait();
        self.join();
        exit
    }

    pub(crate) fn power(&self) -> &Arc<PowerSwitch> {
        &self.shared.power
    }

    pub(crate) fn first_entry(&self) -> Option<Duration> {
        self.shared.first_entry.get().copied()
    }

    pub(crate) fn exits(&self) -> ExitCounts {
        self.shared.exits.read()
    }

    fn join(&mut self) {
        // For those that were never let in.
        self.gates.clear();
        for thread in self.threads.drain(..) {
            // A panic has ended the VM with words already.
            let _panicked = thread.join();
        }
    }
}

impl Drop for KvmVm {
    fn drop(&mut self) {
        self.shared.power.turn_off(Exit::Stopped);
        self.join();
    }
}
