//! A vCPU's thread: enter the guest, answer what it left for, until the VM ends.
#![allow(
    unsafe_code,
    reason = "a union in memory shared with the kernel is read, and the kick is made"
)]

use std::io;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::thread::CapabilitySet;
use rustix::time::{ClockId, clock_gettime};

use super::kick::{self, Kick};
use super::power::PowerSwitch;
use super::vm::GuestVcpu;
use crate::Exit;
use crate::bus::Bus;
use crate::confine::{Confinement, call, one_of};
use crate::exits::{ExitCause, ExitCounters};

/// What a vCPU's thread keeps: it enters the guest, and brings up the devices whose registers the
/// guest writes.
const CONFINEMENT: Confinement = Confinement {
    thread: "vCPU",
    capabilities: CapabilitySet::empty(),
    calls: &[
        &[one_of(libc::SYS_ioctl, 1, &VCPU_IOCTLS)],
        &[
            call(libc::SYS_epoll_create1),
            call(libc::SYS_epoll_ctl),
            call(libc::SYS_eventfd2),
        ],
    ],
    absent: &[],
};

/// `KVM_RUN`, and `KVM_GET_REGS` and `KVM_GET_SREGS` for the words about a crash (linux/kvm.h).
const VCPU_IOCTLS: [u32; 3] = [0xae80, 0x8090_ae81, 0x8138_ae83];

/// What a guest's accesses reach.
#[derive(Default)]
pub(super) struct Buses {
    pub(super) ports: Bus,
    pub(super) mmio: Bus,
}

/// What the vCPUs of a VM share with whoever waits for it.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) power: Arc<PowerSwitch>,
    pub(super) exits: ExitCounters,
    /// When the first vCPU first entered the guest, on the monotonic clock.
    pub(super) first_entry: OnceLock<Duration>,
}

/// A vCPU that is set up, to be run by a thread of its own.
pub(super) struct Vcpu {
    pub(super) id: u8,
    pub(super) guest: GuestVcpu,
    pub(super) buses: Arc<Buses>,
    pub(super) shared: Arc<Shared>,
}

impl Vcpu {
    /// Confines the calling thread and says so to `ready`; waits for `gate`, and runs until the
    /// VM has ended, which this vCPU may be the cause of.
    pub(super) fn run(mut self, ready: &Sender<io::Result<()>>, gate: &Receiver<()>) {
        let power = Arc::clone(&self.shared.power);
        let _end = EndOnPanic(&power, self.id);
        // SAFETY: the watch, and with it the kick, is dropped at this function's end: before
        // `self`, which came before it, and before the thread, which runs this function.
        let kick = unsafe { Kick::of_this_thread(&mut self.guest.fd) };
        let _watch = power.watch(kick);
        let confined = CONFINEMENT.enter().map_err(io::Error::from);
        let confined = confined.and_then(|()| kick::let_signal_through());
        let failed = confined.is_err();
        // Who waits for this has not gone away.
        let _ = ready.send(confined);
        // No word comes for a machine that is dropped before it runs.
        if failed || gate.recv().is_err() {
            return;
        }
        if self.id == 0 {
            let _first = self.shared.first_entry.set(monotonic_now());
        }
        while !power.is_off() {
            if let Some(exit) = self.enter() {
                power.turn_off(exit);
            }
        }
    }

    /// Enters the guest once, and answers it. Some when that was the guest's end.
    fn enter(&mut self) -> Option<Exit> {
        let count = |cause| self.shared.exits.count(cause);
        let end = match self.guest.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                count(ExitCause::PortRead);
                self.buses.ports.read(port.into(), data);
                return None;
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                count(ExitCause::PortWrite);
                self.buses.ports.write(port.into(), data);
                return None;
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                count(ExitCause::MmioRead);
                self.buses.mmio.read(address, data);
                return None;
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                count(ExitCause::MmioWrite);
                self.buses.mmio.write(address, data);
                return None;
            }
            // EAGAIN: a vCPU that waits for its start-up interrupt was woken by something else.
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                count(ExitCause::Interrupted);
                return None;
            }
            Ok(VcpuExit::Intr) => {
                count(ExitCause::Interrupted);
                return None;
            }
            Ok(exit) => End::of(&exit),
            Err(error) => End::Crash(format!("could not be run: {error}")),
        };
        self.shared.exits.count(ExitCause::Other);
        Some(self.exit_for(end))
    }

    fn exit_for(&mut self, end: End) -> Exit {
        let what = match end {
            End::Shutdown => return Exit::Shutdown,
            End::Reset => return Exit::Reset,
            End::Crash(what) => what,
            End::InternalError => internal_error(&mut self.guest.fd),
        };
        let registers = registers(&self.guest.fd);
        Exit::Crashed(format!("vCPU {} {what}{registers}", self.id))
    }
}

/// What an exit that no bus answers means.
enum End {
    Shutdown,
    Reset,
    /// What the vCPU did, in words.
    Crash(String),
    /// The details are in the shared memory.
    InternalError,
}

impl End {
    fn of(exit: &VcpuExit) -> Self {
        match exit {
            VcpuExit::Shutdown => Self::Crash("made a triple fault".into()),
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => Self::Shutdown,
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => Self::Reset,
            VcpuExit::InternalError => Self::InternalError,
            VcpuExit::FailEntry(reason, cpu) => Self::Crash(format!(
                "could not enter the guest: hardware reason {reason:#x} on host CPU {cpu}"
            )),
            VcpuExit::Hlt => Self::Crash("halted with nothing that could wake it".into()),
            VcpuExit::MemoryFault { gpa, size, .. } => Self::Crash(format!(
                "touched {size:#x} bytes at {gpa:#x}, which the host could not give"
            )),
            other => Self::Crash(format!("left the guest for an unknown reason: {other:?}")),
        }
    }
}

/// KVM's reason to give up on the guest, in words (KVM API, "KVM_EXIT_INTERNAL_ERROR").
fn internal_error(vcpu: &mut VcpuFd) -> String {
    let run = vcpu.get_kvm_run();
    // SAFETY: the exit reason was KVM_EXIT_INTERNAL_ERROR, for which the kernel fills this member;
    // it consists of integers, so any bytes are a value.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let what = match internal.suberror {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction that KVM cannot emulate",
        KVM_INTERNAL_ERROR_SIMUL_EX => "two exceptions at once",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit while an event was delivered",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an exit that KVM does not know",
        _ => "an unknown error",
    };
    let count = usize::try_from(internal.ndata).unwrap_or(0);
    let data = internal.data.get(..count).unwrap_or(&internal.data);
    format!(
        "was given up by KVM: {what} (suberror {}, data {data:x?})",
        internal.suberror
    )
}

/// The registers that tell where a guest was, as the end of a sentence. Empty when they cannot
/// be read.
fn registers(vcpu: &VcpuFd) -> String {
    let (Ok(regs), Ok(sregs)) = (vcpu.get_regs(), vcpu.get_sregs()) else {
        return String::new();
    };
    format!(
        "; rip {:#x} rsp {:#x} rflags {:#x} cr0 {:#x} cr2 {:#x} cr3 {:#x} cr4 {:#x} efer {:#x}",
        regs.rip, regs.rsp, regs.rflags, sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.efer
    )
}

fn monotonic_now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

/// Ends the VM when a vCPU's thread panics, so that nobody waits for a vCPU that is gone.
struct EndOnPanic<'a>(&'a PowerSwitch, u8);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let what = format!("the thread of vCPU {} panicked", self.1);
            self.0.turn_off(Exit::Crashed(what));
        }
    }
}
