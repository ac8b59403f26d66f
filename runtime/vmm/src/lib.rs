//! The virtual machine monitor: guest memory, vCPUs, boot and devices. Knows nothing of OCI.
//!
//! [`VmConfig`] says what to boot; [`launch`] boots it on one of two hypervisors behind the same
//! interface: KVM, with the machine of this crate, or QEMU where KVM cannot run a guest's kernel
//! ([`probe`] tells). The virtio devices are this crate's own on both, but for QEMU's network cards.

#![deny(unsafe_code)]

mod boot;
mod bus;
pub mod confine;
pub mod devices;
mod exits;
mod kvm;
mod lock;
mod memory;
pub mod probe;
mod qemu;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use devices::VirtioDevice;
use devices::balloon::{BalloonDevice, Target};
use devices::fs::{Exports, FsDevice};
use devices::net::{NetConfig, NetDevice};
use devices::rng::RngDevice;
use devices::vsock::{VsockConfig, VsockDevice};

pub use boot::BootError;
pub use bus::BusError;
pub use exits::{ExitCause, ExitCounts};
pub use kvm::KvmLaunchError;
pub use memory::AllocateError;
pub use qemu::QemuLaunchError;

use kvm::Machine;

/// The tag by which the guest mounts the virtio-fs device.
pub const FS_TAG: &str = "runvm";

/// What to boot.
pub struct VmConfig {
    /// The guest's kernel: an uncompressed 64-bit ELF file (vmlinux) with a PVH entry.
    pub kernel: File,
    /// The guest's initramfs.
    pub initramfs: File,
    /// The kernel's command line, but for what the hypervisor's machine needs itself, which goes
    /// before it. 2047 bytes are the most for both.
    pub command_line: String,
    /// The guest's memory.
    pub memory_mib: u32,
    /// The guest's CPUs; 1 to 254, and what the hypervisor can do.
    pub vcpus: u8,
    /// Where the guest's serial console is written to, bounded in size. A regular file: one that
    /// blocks its writer blocks the guest.
    pub serial: File,
    /// What the virtio-fs device shows.
    pub exports: Exports,
    /// What the virtio-vsock device connects.
    pub vsock: VsockConfig,
    /// The network cards.
    pub cards: Vec<NetConfig>,
}

/// What runs the guest.
#[derive(Debug)]
pub enum Hypervisor {
    /// KVM with hardware support, and the machine of this crate.
    Kvm {
        /// `/dev/kvm`, open for reading and writing: a process that runs a guest may not be
        /// allowed to open it itself.
        device: OwnedFd,
    },
    /// QEMU's binary translation.
    Qemu {
        /// The `qemu-system-x86_64` to run.
        binary: PathBuf,
    },
}

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The guest turned its machine off.
    Shutdown,
    /// The guest reset its machine, as one does that has done its work or panicked: the serial
    /// console tells which.
    Reset,
    /// The guest, or the hypervisor under it, could not go on: why, in words, with registers.
    Crashed(String),
    /// [`Stopper::stop`] was called.
    Stopped,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => f.write_str("the guest turned the machine off"),
            Self::Reset => f.write_str("the guest reset the machine"),
            Self::Crashed(why) => write!(f, "the guest crashed: {why}"),
            Self::Stopped => f.write_str("the machine was stopped"),
        }
    }
}

/// Why a VM could not be launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The virtio-fs device.
    #[error("cannot make the virtio-fs device")]
    Fs {
        /// The kernel's answer.
        source: io::Error,
    },
    /// A network card.
    #[error("cannot make a network card")]
    Net {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The virtio-vsock device.
    #[error("cannot make the virtio-vsock device")]
    Vsock {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The virtio-balloon device.
    #[error("cannot make the virtio-balloon device")]
    Balloon {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The virtio-rng device.
    #[error("cannot make the virtio-rng device")]
    Rng {
        /// The kernel's answer.
        source: io::Error,
    },
    /// On QEMU.
    #[error(transparent)]
    Qemu(#[from] QemuLaunchError),
    /// On KVM.
    #[error(transparent)]
    Kvm(#[from] KvmLaunchError),
}

/// Makes the machine that `config` describes on `hypervisor`, with all threads that it needs beside
/// the caller's, each of them [confined](confine). Nothing of the guest's runs before
/// [`Vm::start`], so that the caller can confine itself in between.
pub fn launch(config: VmConfig, hypervisor: Hypervisor) -> Result<Vm, LaunchError> {
    let (mut machine, cards) = machine(config)?;
    let running = match hypervisor {
        Hypervisor::Kvm { device } => {
            for card in cards {
                let card = NetDevice::new(card).map_err(|source| LaunchError::Net { source })?;
                machine.devices.push(Box::new(card));
            }
            let target = Target::default();
            let balloon = BalloonDevice::new(target.clone())
                .map_err(|source| LaunchError::Balloon { source })?;
            machine.devices.push(Box::new(balloon));
            Running::Kvm(kvm::launch(device, machine)?, target)
        }
        // It has a balloon and network cards of its own, and cannot carry another's.
        Hypervisor::Qemu { binary } => Running::Qemu(qemu::launch(machine, cards, &binary)?),
    };
    Ok(Vm {
        running,
        exit: None,
    })
}

/// The machine without its network cards: QEMU's are its own.
fn machine(config: VmConfig) -> Result<(Machine, Vec<NetConfig>), LaunchError> {
    let fs = FsDevice::new(config.exports, FS_TAG).map_err(|source| LaunchError::Fs { source })?;
    let vsock = VsockDevice::new(config.vsock).map_err(|source| LaunchError::Vsock { source })?;
    let rng = RngDevice::new().map_err(|source| LaunchError::Rng { source })?;
    let devices: Vec<Box<dyn VirtioDevice>> = vec![Box::new(fs), Box::new(vsock), Box::new(rng)];
    let machine = Machine {
        kernel: config.kernel,
        initramfs: config.initramfs,
        command_line: config.command_line,
        memory_mib: config.memory_mib,
        vcpus: config.vcpus,
        serial: config.serial,
        devices,
    };
    Ok((machine, config.cards))
}

/// A VM that waits to be started, runs, or has ended. Dropping it ends it.
pub struct Vm {
    running: Running,
    exit: Option<Exit>,
}

enum Running {
    Kvm(kvm::KvmVm, Target),
    Qemu(qemu::QemuVm),
}

impl Vm {
    /// Lets the guest run. A second call does nothing.
    pub fn start(&mut self) -> io::Result<()> {
        match &mut self.running {
            Running::Kvm(vm, _) => {
                vm.start();
                Ok(())
            }
            Running::Qemu(vm) => vm.start(),
        }
    }

    /// Blocks until the VM has ended and all of its threads have; says how. A later call says the
    /// same again.
    pub fn wait(&mut self) -> Exit {
        let running = &mut self.running;
        self.exit
            .get_or_insert_with(|| match running {
                Running::Kvm(vm, _) => vm.wait(),
                Running::Qemu(vm) => vm.wait(),
            })
            .clone()
    }

    /// A handle that ends the VM from any thread.
    pub fn stopper(&self) -> Stopper {
        match &self.running {
            Running::Kvm(vm, _) => Stopper(StopperKind::Kvm(Arc::clone(vm.power()))),
            Running::Qemu(vm) => Stopper(StopperKind::Qemu(Arc::clone(vm.ending()))),
        }
    }

    /// A handle on how much of its memory the guest is to do without.
    pub fn balloon(&self) -> io::Result<Balloon> {
        Ok(Balloon(match &self.running {
            Running::Kvm(_, target) => BalloonKind::Kvm(target.clone()),
            Running::Qemu(vm) => BalloonKind::Qemu(vm.balloon()?),
        }))
    }

    /// When the first vCPU first entered the guest, on the monotonic clock
    /// (`CLOCK_MONOTONIC`). None before that, and where it cannot be known (QEMU).
    pub fn first_entry(&self) -> Option<Duration> {
        match &self.running {
            Running::Kvm(vm, _) => vm.first_entry(),
            Running::Qemu(_) => None,
        }
    }

    /// The VM exits so far; none are known on QEMU.
    pub fn exits(&self) -> ExitCounts {
        match &self.running {
            Running::Kvm(vm, _) => vm.exits(),
            Running::Qemu(_) => ExitCounts::default(),
        }
    }
}

/// How much of its memory a guest is to do without. Outlives the VM without harm.
pub struct Balloon(BalloonKind);

enum BalloonKind {
    Kvm(Target),
    Qemu(qemu::Balloon),
}

impl Balloon {
    /// Asks the guest to give up `mib` of its memory, in place of what it was asked for before. It
    /// does so as it finds memory, and takes some back rather than run out of it.
    pub fn set(&self, mib: u32) -> io::Result<()> {
        match &self.0 {
            BalloonKind::Kvm(target) => {
                target.set(mib);
                Ok(())
            }
            BalloonKind::Qemu(balloon) => balloon.set(mib),
        }
    }
}

/// Ends a VM from any thread. Outlives the VM without harm.
#[derive(Clone)]
pub struct Stopper(StopperKind);

#[derive(Clone)]
enum StopperKind {
    Kvm(Arc<kvm::power::PowerSwitch>),
    Qemu(Arc<qemu::Ending>),
}

impl Stopper {
    /// Ends the VM at once, as by pulling its plug; [`Vm::wait`] returns [`Exit::Stopped`], unless
    /// the VM had ended before.
    pub fn stop(&self) {
        match &self.0 {
            StopperKind::Kvm(power) => power.turn_off(Exit::Stopped),
            StopperKind::Qemu(ending) => ending.turn_off(Exit::Stopped),
        }
    }
}
