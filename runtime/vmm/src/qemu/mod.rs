//! The QEMU rung: a microVM by binary translation, for hosts whose KVM cannot run a guest's kernel.
//!
//! [`launch`] starts QEMU as a child with a machine of type `microvm`, without capabilities and under
//! QEMU's own filter of system calls (its `-sandbox`). The virtio devices stay in
//! this process: QEMU reaches them over vhost-user. Everything that QEMU is given, it is given as
//! an inherited descriptor: kernel, initramfs, the devices' connections, the taps, the console and its
//! monitor; it opens no file of ours by name.

mod arguments;
mod ending;
mod monitor;
mod process;
mod vhost_user;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use runvm_sys::clone::SpawnError;
use rustix::fs::{Mode, OFlags};
use rustix::thread::CapabilitySet;

use self::arguments::Attached;
pub(crate) use self::ending::Ending;
use self::process::Supervised;
use self::vhost_user::Backend;
use crate::Exit;
use crate::confine;
use crate::devices::VirtioDevice;
use crate::devices::net::NetConfig;
use crate::kvm::Machine;

/// Why a machine could not be launched on QEMU.
#[derive(Debug, thiserror::Error)]
pub enum QemuLaunchError {
    /// The program.
    #[error("cannot open QEMU at {}", path.display())]
    Open {
        /// As configured.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A device that QEMU has no vhost-user front end for.
    #[error("QEMU cannot carry a virtio device of type {device_type}")]
    Device {
        /// The number of virtio 1.2, section 5.
        device_type: u32,
    },
    /// A string with a byte that no argument can have.
    #[error("the kernel's command line has a zero byte")]
    CommandLine,
    /// Something of this process.
    #[error("cannot make the {what} for QEMU")]
    Prepare {
        /// What could not be made.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The process.
    #[error("cannot run QEMU at {}", path.display())]
    Spawn {
        /// As configured.
        path: PathBuf,
        /// Which step failed.
        source: SpawnError,
    },
    /// It ran, and gave up.
    #[error("QEMU at {} did not start the machine: {words}", path.display())]
    GaveUp {
        /// As configured.
        path: PathBuf,
        /// What it said on its standard error, or how it ended.
        words: String,
    },
}

impl QemuLaunchError {
    fn prepare(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Prepare { what, source }
    }
}

/// A machine that waits or runs on QEMU, or has ended. Dropping it ends it.
pub(crate) struct QemuVm {
    ending: Arc<Ending>,
    /// For commands; what QEMU says is the supervisor's to read.
    monitor: UnixStream,
    memory_mib: u32,
    /// Starts QEMU and outlives it: QEMU dies with the thread that started it.
    supervisor: Option<JoinHandle<()>>,
    backends: Vec<Backend>,
}

/// QEMU's balloon.
pub(crate) struct Balloon {
    monitor: UnixStream,
    memory_mib: u32,
}

impl Balloon {
    /// Asks the guest to give up `mib` of its memory.
    pub(crate) fn set(&self, mib: u32) -> io::Result<()> {
        let left = self.memory_mib.saturating_sub(mib);
        monitor::leave_memory(&self.monitor, u64::from(left) << 20)
    }
}

/// Starts QEMU and waits until its machine is made. The guest waits for [`QemuVm::start`].
pub(crate) fn launch(
    machine: Machine,
    cards: Vec<NetConfig>,
    binary: &Path,
) -> Result<QemuVm, QemuLaunchError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let executable =
        rustix::fs::open(binary, flags, Mode::empty()).map_err(|error| QemuLaunchError::Open {
            path: binary.into(),
            source: error.into(),
        })?;
    let ending = Arc::new(Ending::default());
    let (attached, backends) = attach(machine.devices, &ending)?;
    let (monitor, monitor_end) =
        UnixStream::pair().map_err(QemuLaunchError::prepare("monitor's socket"))?;
    let commands = monitor
        .try_clone()
        .map_err(QemuLaunchError::prepare("monitor's socket"))?;
    let arguments = arguments::Arguments {
        kernel: machine.kernel.as_fd(),
        initramfs: machine.initramfs.as_fd(),
        command_line: &machine.command_line,
        memory_mib: machine.memory_mib,
        vcpus: machine.vcpus,
        monitor: monitor_end.as_fd(),
        devices: &attached,
        cards: &cards,
    };
    let argv = arguments
        .to_argv()
        .map_err(|_| QemuLaunchError::CommandLine)?;
    let mut inherited = vec![
        machine.kernel.into(),
        machine.initramfs.into(),
        monitor_end.into(),
    ];
    inherited.extend(arguments::sockets(attached));
    inherited.extend(
        cards
            .into_iter()
            .flat_map(|card| card.taps)
            .map(OwnedFd::from),
    );
    let start = process::Start {
        path: binary.into(),
        executable,
        argv,
        inherited,
        monitor,
        serial: machine.serial,
    };
    let supervisor = supervise(start, &ending)?;
    Ok(QemuVm {
        ending,
        monitor: commands,
        memory_mib: machine.memory_mib,
        supervisor: Some(supervisor),
        backends,
    })
}

/// Connects each device to a thread of ours, and keeps the other end for QEMU.
fn attach(
    devices: Vec<Box<dyn VirtioDevice>>,
    ending: &Arc<Ending>,
) -> Result<(Vec<Attached>, Vec<Backend>), QemuLaunchError> {
    let (mut attached, mut backends) = (Vec::new(), Vec::new());
    for device in devices {
        let failed = QemuLaunchError::prepare("connection of a virtio device");
        let (ours, theirs) = UnixStream::pair().map_err(&failed)?;
        attached.push(Attached::new(&*device, theirs)?);
        let (ending, device_type) = (Arc::clone(ending), device.device_type());
        let lost = move |why| {
            let text = format!("the virtio device of type {device_type} lost QEMU: {why}");
            ending.turn_off(Exit::Crashed(text));
        };
        backends.push(Backend::serve(device, ours, lost).map_err(&failed)?);
    }
    Ok((attached, backends))
}

/// Starts the thread that starts QEMU; returns when the machine is made.
fn supervise(
    start: process::Start,
    ending: &Arc<Ending>,
) -> Result<JoinHandle<()>, QemuLaunchError> {
    let (say, started) = mpsc::sync_channel(1);
    let shared = Arc::clone(ending);
    let thread = thread::Builder::new().name("qemu".into()).spawn(move || {
        // QEMU starts with what this thread has left.
        let powerless = give_up_power().map_err(QemuLaunchError::prepare("confinement"));
        let running = powerless.and_then(|()| start.run(&shared));
        let confined = running.and_then(|running| {
            let confined = process::CONFINEMENT.enter().map_err(io::Error::from);
            confined.map_err(QemuLaunchError::prepare("confinement"))?;
            Ok(running)
        });
        match confined {
            Ok(running) => {
                // The receiver waits for exactly this.
                let _ = say.send(Ok(()));
                Supervised::see_to_the_end(running, &shared);
            }
            Err(error) => drop(say.send(Err(error))),
        }
    });
    let thread = thread.map_err(QemuLaunchError::prepare("supervising thread"))?;
    let lost = || {
        Err(QemuLaunchError::prepare("supervising thread")(
            io::ErrorKind::Other.into(),
        ))
    };
    started.recv().unwrap_or_else(|_| lost()).map(|()| thread)
}

/// Leaves the calling thread, and with it QEMU, no capabilities and no way to new privileges.
fn give_up_power() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    confine::keep_capabilities(CapabilitySet::empty())
}

impl QemuVm {
    /// Lets the guest run.
    pub(crate) fn start(&self) -> io::Result<()> {
        monitor::let_go(&self.monitor)
    }

    /// The balloon of the machine.
    pub(crate) fn balloon(&self) -> io::Result<Balloon> {
        Ok(Balloon {
            monitor: self.monitor.try_clone()?,
            memory_mib: self.memory_mib,
        })
    }

    /// Blocks until QEMU has ended, and all threads for it have; says how.
    pub(crate) fn wait(&mut self) -> Exit {
        if let Some(supervisor) = self.supervisor.take() {
            // It ends by saying how the machine did; if it panicked, the default is said.
            let _ = supervisor.join();
        }
        self.backends.clear();
        self.ending.exit()
    }

    /// What ends the machine from any thread.
    pub(crate) fn ending(&self) -> &Arc<Ending> {
        &self.ending
    }
}

impl Drop for QemuVm {
    fn drop(&mut self) {
        self.ending.turn_off(Exit::Stopped);
        self.wait();
    }
}

#[cfg(test)]
mod tests;
