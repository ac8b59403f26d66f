//! The VMM process: it boots the guest, has its agent make the container, and from then on stands
//! for the container's first process.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use runvm_proto::{Answer, DOORBELL_PORT, Process, Ready, Remote, Request, Stream};
use runvm_sys::inherited;
use runvm_sys::tap::Tap;
use runvm_sys::unix_socket::path_in;
use runvm_vmm::confine;
use runvm_vmm::devices::fs::Exports;
use runvm_vmm::devices::net::{MacAddress, NetConfig};
use runvm_vmm::devices::vsock::VsockConfig;
use runvm_vmm::{Exit, Hypervisor, Stopper, VmConfig, launch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::attend::{self, Signals};
use super::balloon;
use super::guest::{Control, GuestError, SOCKET};
use super::hidden::Boss;
use super::jail::Jail;
use super::start::StartGate;
use super::words::{self, LastWords};
use super::{VM_DIED, stdio};
use crate::BackendError;
use crate::phases::{Stamps, now_ns};

/// How long a guest may take to boot: QEMU on a busy machine takes seconds.
const BOOT_PATIENCE: Duration = Duration::from_secs(60);
/// How long a guest may take to end in an orderly way.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(3);
/// The guest's address; the first one free (vsock(7)).
const GUEST_CID: u64 = 3;

/// What the process is told; the guest's config.json follows as bytes. Descriptors are named by number.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) id: String,
    /// The machine's directory.
    pub(super) directory: i32,
    pub(super) kernel: i32,
    pub(super) initramfs: i32,
    pub(super) command_line: String,
    pub(super) memory_mib: u32,
    pub(super) vcpus: u8,
    pub(super) hypervisor: OrderedHypervisor,
    pub(super) exports: Vec<OrderedExport>,
    pub(super) terminal: bool,
    pub(super) no_new_keyring: bool,
    /// cgroup v1 `tasks` files to move into.
    pub(super) tasks: Vec<i32>,
    /// The network namespace to join.
    pub(super) network: i32,
    pub(super) cards: Vec<OrderedCard>,
    /// Whether the caller has hooks to run between the boot and the container.
    pub(super) hooks: bool,
}

/// What to run the machine on.
#[derive(Serialize, Deserialize)]
pub(super) enum OrderedHypervisor {
    /// KVM, by the number of the descriptor of /dev/kvm.
    Kvm(i32),
    /// QEMU, by its binary.
    Qemu(PathBuf),
}

/// An export, by the number of its descriptor.
#[derive(Serialize, Deserialize)]
pub(super) struct OrderedExport {
    pub(super) name: String,
    pub(super) fd: i32,
    pub(super) read_only: bool,
}

/// A network card.
#[derive(Serialize, Deserialize)]
pub(super) struct OrderedCard {
    pub(super) mac: MacAddress,
    /// The queues of its tap, by the numbers of their descriptors.
    pub(super) taps: Vec<i32>,
}

/// What the process reports.
#[derive(Serialize, Deserialize)]
pub(super) enum Report {
    /// The guest is up; reported only to a caller with hooks, who then says [`GoOn`].
    Booted,
    /// The container is at OCI status `created`.
    Created {
        stamps: Stamps,
        warnings: Vec<String>,
    },
}

/// The caller's hooks have run.
#[derive(Serialize, Deserialize)]
pub(super) struct GoOn;

/// Why the guest did not come up.
#[derive(Debug, thiserror::Error)]
enum BootError {
    #[error("the guest did not come up within {} s{}", BOOT_PATIENCE.as_secs(), .0)]
    Hung(LastWords),
    #[error("the microVM ended while the guest came up ({exit}){words}")]
    Ended { exit: Exit, words: LastWords },
    #[error("the microVM ended while the container was made ({exit}){words}")]
    EndedLater { exit: Exit, words: LastWords },
}

/// The process's whole life; the answer is its exit code.
pub(super) fn run_hidden(mut boss: Boss) -> i32 {
    match live(&mut boss) {
        Ok(code) => code,
        Err(error) => {
            // Where nobody listens any more, the exit code has to do.
            let _ = boss.report(&Err::<Report, _>(Remote::from_error(&*error)));
            VM_DIED
        }
    }
}

fn live(boss: &mut Boss) -> Result<i32, BackendError> {
    let (order, config) = boss.order::<Order>()?;
    settle(&order)?;
    let jail = Jail::build()?;
    if order.terminal {
        stdio::take_terminal()?;
    }
    let signals = Signals::take()?;
    let directory = inherited::take(order.directory)?;
    let process = Process::first(&order.id);
    let machine = Machine::boot(&order, directory.as_fd(), jail)?;
    if order.hooks {
        boss.report(&Ok::<_, Remote>(Report::Booted))?;
        boss.order::<GoOn>()?;
    }
    let streams = stdio::streams(order.terminal);
    let created = create(&order, &config, &streams, directory.as_fd())
        .map_err(|error| machine.explain(error))?;
    let Made { relays, answer } = created;
    let gate = StartGate::open(directory.as_fd(), &order.id, order.terminal)?;
    signals.forward(directory.try_clone()?, process.clone(), order.terminal)?;
    let mut control = Control::open(directory.as_fd(), None)?;
    boss.report(&Ok::<_, Remote>(machine.report(answer)))?;

    gate.serve(directory.try_clone()?)?;
    let Ok(status) = attend::wait(&mut control, &process) else {
        machine.bury();
        return Ok(VM_DIED);
    };
    relays.drain(attend::drain_patience(status));
    machine.shut_down(&mut control);
    Ok(status.code())
}

/// Takes this process to where the container is, while it has one thread.
fn settle(order: &Order) -> Result<(), BackendError> {
    // What the host unmounts goes from here too, and nothing comes out.
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    for &tasks in &order.tasks {
        // The number 0 is the writing thread, moved without the wait of a move by pid.
        rustix::io::write(inherited::take(tasks)?, b"0")?;
    }
    let network = inherited::take(order.network)?;
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

struct Made {
    relays: stdio::Relays,
    answer: CreatedAnswer,
}

struct CreatedAnswer {
    /// By the guest's clock.
    ready_ns: u64,
    warnings: Vec<String>,
}

fn create(
    order: &Order,
    config: &[u8],
    streams: &[Stream],
    directory: BorrowedFd<'_>,
) -> Result<Made, BackendError> {
    let process = Process::first(&order.id);
    let relays = stdio::relay(directory, &process, streams)?;
    let mut control = Control::open(directory, Some(BOOT_PATIENCE))?;
    let request = Request::Create {
        container: order.id.clone(),
        streams: streams.to_vec(),
        no_new_keyring: order.no_new_keyring,
    };
    let answer = match control.ask(&request, config)? {
        Answer::Created {
            ready_ns, warnings, ..
        } => CreatedAnswer { ready_ns, warnings },
        answer => return Err(GuestError::Unexpected(answer).into()),
    };
    if let Some(size) = stdio::terminal_size().filter(|_| order.terminal) {
        control.demand(&attend::resize(&process, size), b"")?;
    }
    Ok(Made { relays, answer })
}

/// The machine, and what was seen of its start.
struct Machine {
    stopper: Stopper,
    /// Says how it ended, when it has.
    ended: Receiver<Exit>,
    console: File,
    /// Takes the word of an unexpected end.
    log: File,
    ready: Ready,
    /// The life line; the agent resets the machine when it ends.
    _doorbell: UnixStream,
    launched_ns: u64,
    rang_ns: u64,
}

impl Machine {
    /// Boots it up to the doorbell, in `jail`.
    fn boot(order: &Order, directory: BorrowedFd<'_>, jail: Jail) -> Result<Self, BackendError> {
        let doorbell =
            UnixListener::bind(path_in(directory, &format!("{SOCKET}_{DOORBELL_PORT}")))?;
        let console = words::open(directory, words::CONSOLE)?;
        let log = words::open(directory, words::LOG)?;
        confine::report_to(log.try_clone()?.into());
        let config = VmConfig {
            kernel: inherited::take(order.kernel)?.into(),
            initramfs: inherited::take(order.initramfs)?.into(),
            command_line: order.command_line.clone(),
            memory_mib: order.memory_mib,
            vcpus: order.vcpus,
            serial: console.try_clone()?,
            exports: take_exports(order)?,
            vsock: VsockConfig {
                guest_cid: GUEST_CID,
                listener: UnixListener::bind(path_in(directory, SOCKET))?,
                ports: directory.try_clone_to_owned()?,
            },
            cards: take_cards(order)?,
        };
        let hypervisor = match &order.hypervisor {
            OrderedHypervisor::Kvm(device) => Hypervisor::Kvm {
                device: inherited::take(*device)?,
            },
            OrderedHypervisor::Qemu(binary) => Hypervisor::Qemu {
                binary: binary.clone(),
            },
        };
        let mut vm = launch(config, hypervisor)?;
        jail.enter()?;
        vm.start()?;
        let launched_ns = now_ns();
        let stopper = vm.stopper();
        balloon::serve(directory, vm.balloon()?)?;
        let (tell, ended) = channel();
        let listener = doorbell.try_clone()?;
        thread::Builder::new().name("vm".into()).spawn(move || {
            // Somebody may still wait for the doorbell.
            let exit = vm.wait();
            let _ = tell.send(exit);
            let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
        })?;
        let rung = wait_for_ring(&doorbell);
        let rang_ns = now_ns();
        let (doorbell, ready) = match rung {
            Ok(Some(rung)) => rung,
            Ok(None) => {
                stopper.stop();
                return Err(BootError::Hung(LastWords::of(&console)).into());
            }
            Err(error) => {
                let Ok(exit) = ended.recv_timeout(SHUTDOWN_PATIENCE) else {
                    return Err(error);
                };
                return Err(BootError::Ended {
                    exit,
                    words: LastWords::of(&console),
                }
                .into());
            }
        };
        Ok(Self {
            stopper,
            ended,
            console,
            log,
            ready,
            _doorbell: doorbell,
            launched_ns,
            rang_ns,
        })
    }

    /// The reason of `error`, if that is the end of the machine.
    fn explain(&self, error: BackendError) -> BackendError {
        // A connection that broke tells of the end a moment before the machine does.
        let broken = error
            .downcast_ref::<GuestError>()
            .is_some_and(|error| !matches!(error, GuestError::Remote(_)));
        match self
            .ended
            .recv_timeout(Duration::from_millis(if broken { 500 } else { 0 }))
        {
            Ok(exit) => BootError::EndedLater {
                exit,
                words: LastWords::of(&self.console),
            }
            .into(),
            Err(_) => error,
        }
    }

    /// What to report, with the guest's clock turned into the host's: it read `ready_ns` when the
    /// doorbell rang.
    fn report(&self, created: CreatedAnswer) -> Report {
        let host_ns = |guest_ns: u64| {
            (self.rang_ns + guest_ns)
                .saturating_sub(self.ready.ready_ns)
                .max(self.launched_ns)
        };
        let stamps = Stamps {
            isolated_ns: self.rang_ns,
            ready_ns: host_ns(created.ready_ns),
            within_isolate: vec![
                ("vmm".to_owned(), self.launched_ns),
                ("kernel".to_owned(), host_ns(self.ready.began_ns)),
                ("agent".to_owned(), self.rang_ns),
            ],
        };
        Report::Created {
            stamps,
            warnings: created.warnings,
        }
    }

    /// Has the guest end in an orderly way, or ends it.
    fn shut_down(self, control: &mut Control) {
        let told = control.tell(&Request::Shutdown);
        if told.is_err() || self.ended.recv_timeout(SHUTDOWN_PATIENCE).is_err() {
            self.stopper.stop();
            let _ = self.ended.recv_timeout(SHUTDOWN_PATIENCE);
        }
    }

    /// Leaves word of why a running guest has gone.
    fn bury(mut self) {
        let exit = self.ended.recv_timeout(SHUTDOWN_PATIENCE);
        self.stopper.stop();
        let why = match exit {
            Ok(exit) => exit.to_string(),
            Err(_) => "the agent has gone".to_owned(),
        };
        let words = LastWords::of(&self.console);
        // Where there is no room for the word, the exit code has to do.
        let _ = self.log.write_all(format!("{why}{words}\n").as_bytes());
    }
}

fn take_exports(order: &Order) -> Result<Exports, BackendError> {
    let exports = Exports::new();
    for export in &order.exports {
        let fd = inherited::take(export.fd)?;
        exports.add(&export.name, fd, export.read_only)?;
    }
    Ok(exports)
}

fn take_cards(order: &Order) -> io::Result<Vec<NetConfig>> {
    let take = |card: &OrderedCard| {
        let taps = card.taps.iter().map(|&tap| inherited::take(tap));
        Ok(NetConfig {
            taps: taps
                .map(|tap| tap.map(Tap::from_fd))
                .collect::<io::Result<_>>()?,
            mac: card.mac,
        })
    };
    order.cards.iter().map(take).collect()
}

/// Waits for the agent; `None` when it takes too long.
fn wait_for_ring(doorbell: &UnixListener) -> Result<Option<(UnixStream, Ready)>, BackendError> {
    let patience = Timespec::try_from(BOOT_PATIENCE)?;
    if rustix::io::retry_on_intr(|| {
        poll(&mut [PollFd::new(doorbell, PollFlags::IN)], Some(&patience))
    })? == 0
    {
        return Ok(None);
    }
    let (mut connection, _) = doorbell.accept()?;
    connection.set_read_timeout(Some(BOOT_PATIENCE))?;
    let ready = Ready::receive(&mut connection)?;
    Ok(Some((connection, ready)))
}
