//! QEMU's command line. Every option that is not obvious says why.

use std::ffi::{CString, NulError};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use virtio_bindings::virtio_ids::{VIRTIO_ID_FS, VIRTIO_ID_RNG, VIRTIO_ID_VSOCK};

use super::QemuLaunchError;
use crate::devices::VirtioDevice;
use crate::devices::net::NetConfig;

/// `microvm` has no PCI, no ACPI unless asked and no firmware but a boot stub, which starts a
/// kernel by its PVH entry.
/// * `acpi=off`: the devices go to the kernel's command line instead of into tables.
/// * `x-option-roms=off`: the boot stub needs none of them.
/// * The timer chip stays: without KVM's clock it is what the guest measures its TSC and its
///   local timer against. The real-time clock stays for the time of day.
const MACHINE: &str = "microvm,acpi=off,x-option-roms=off,memory-backend=memory";

/// * `thread=single`: with a thread per vCPU, one of them may meet the kernel's code half patched.
/// * `tb-size`: translated code is the host's memory; QEMU's own limit is 1 GiB.
const ACCELERATOR: &str = "tcg,thread=single,tb-size=128";

/// What is asked of any guest's kernel: its words on the serial line, an end at once when it
/// panics, and a reset by triple fault, since this machine has neither ACPI nor a keyboard
/// controller. The last three keep it from measuring timers against each other, which takes 0.2 s
/// and goes wrong on a busy host (figures: guest-kernel-config/README.md).
const COMMAND_LINE: &str =
    "console=ttyS0 reboot=t panic=-1 no_timer_check nolapic_timer tsc=reliable";

/// Forks and new privileges are refused to QEMU by itself, before the guest runs.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// QEMU's own: its balloons have no vhost-user front end. It does as ours does.
const BALLOON: &str = "virtio-balloon-device,free-page-reporting=on,deflate-on-oom=on";

/// The longest queue that QEMU's virtio-fs device takes.
const FS_QUEUE_SIZE: u16 = 1024;

/// What QEMU's network card would answer itself, over a control queue: ours offers none of it with one
/// pair of queues. And QEMU need not speak for the guest when its machine moves, which it does not.
const CARD_WITHOUT: &str = "ctrl_vq=off,ctrl_rx=off,ctrl_rx_extra=off,ctrl_vlan=off,\
    ctrl_mac_addr=off,ctrl_guest_offloads=off,guest_announce=off";

/// A device and QEMU's end of its connection.
pub(super) struct Attached {
    option: String,
    socket: UnixStream,
}

impl Attached {
    pub(super) fn new(
        device: &dyn VirtioDevice,
        socket: UnixStream,
    ) -> Result<Self, QemuLaunchError> {
        let option = match device.device_type() {
            VIRTIO_ID_FS => fs_option(device),
            VIRTIO_ID_RNG => "vhost-user-rng".into(),
            VIRTIO_ID_VSOCK => "vhost-user-vsock-device".into(),
            device_type => return Err(QemuLaunchError::Device { device_type }),
        };
        Ok(Self { option, socket })
    }
}

/// QEMU answers for virtio-fs's configuration space itself, so it is told what ours says:
/// `struct virtio_fs_config`, a tag of 36 bytes and the number of request queues.
fn fs_option(device: &dyn VirtioDevice) -> String {
    let mut config = [0; 40];
    device.read_config(0, &mut config);
    let (tag, queues) = config.split_at(36);
    let tag = String::from_utf8_lossy(tag);
    // A comma in a value is written twice.
    let tag = tag.trim_end_matches('\0').replace(',', ",,");
    let queues = queues
        .iter()
        .rev()
        .fold(0, |sum, &byte| sum << 8 | u32::from(byte));
    let size = device
        .queue_sizes()
        .iter()
        .copied()
        .min()
        .unwrap_or(0)
        .min(FS_QUEUE_SIZE);
    format!("vhost-user-fs-device,tag={tag},num-request-queues={queues},queue-size={size}")
}

/// What goes into QEMU's command line.
pub(super) struct Arguments<'a> {
    pub(super) kernel: BorrowedFd<'a>,
    pub(super) initramfs: BorrowedFd<'a>,
    pub(super) command_line: &'a str,
    pub(super) memory_mib: u32,
    pub(super) vcpus: u8,
    pub(super) monitor: BorrowedFd<'a>,
    pub(super) devices: &'a [Attached],
    pub(super) cards: &'a [NetConfig],
}

impl Arguments<'_> {
    /// The command line, the program's name first.
    pub(super) fn to_argv(&self) -> Result<Vec<CString>, NulError> {
        let mut line = Line(vec!["qemu-system-x86_64".into()]);
        // It waits for the monitor's word to run the guest (-S).
        for alone in ["-nodefaults", "-no-user-config", "-no-reboot", "-S"] {
            line.0.push(alone.into());
        }
        line.add("-display", "none");
        line.add("-sandbox", SANDBOX);
        self.add_machine(&mut line);
        self.add_console_and_monitor(&mut line);
        self.add_devices(&mut line);
        self.add_cards(&mut line);
        line.0.into_iter().map(CString::new).collect()
    }

    fn add_machine(&self, line: &mut Line) {
        let memory = self.memory_mib;
        line.add("-machine", MACHINE);
        line.add("-accel", ACCELERATOR);
        line.add("-cpu", "max");
        line.add("-smp", self.vcpus);
        line.add("-m", format_args!("{memory}M"));
        // Shared, since the devices in this process work on it.
        let backend = format_args!("memory-backend-memfd,id=memory,size={memory}M,share=on");
        line.add("-object", backend);
        line.add("-kernel", in_proc(self.kernel));
        line.add("-initrd", in_proc(self.initramfs));
        line.add(
            "-append",
            format_args!("{COMMAND_LINE} {}", self.command_line),
        );
    }

    fn add_console_and_monitor(&self, line: &mut Line) {
        line.add("-chardev", "stdio,id=console,signal=off");
        line.add("-serial", "chardev:console");
        line.add("-chardev", socket("monitor", self.monitor));
        line.add("-mon", "chardev=monitor,mode=control");
    }

    fn add_devices(&self, line: &mut Line) {
        // The devices offer version 1 only.
        line.add("-global", "virtio-mmio.force-legacy=false");
        for (number, device) in self.devices.iter().enumerate() {
            let id = format!("device{number}");
            line.add(
                "-chardev",
                socket(&id, std::os::fd::AsFd::as_fd(&device.socket)),
            );
            line.add("-device", format_args!("{},chardev={id}", device.option));
        }
        line.add("-device", BALLOON);
    }

    /// The network cards are QEMU's own, on our taps: for a card it takes no vhost-user connection that it
    /// inherits ("chardev does not support FD passing"), and it would have to find ours by a name.
    fn add_cards(&self, line: &mut Line) {
        for (number, card) in self.cards.iter().enumerate() {
            let fds: Vec<String> = (card.taps.iter())
                .map(|tap| tap.as_raw_fd().to_string())
                .collect();
            let fds = fds.join(":");
            line.add("-netdev", format_args!("tap,id=network{number},fds={fds}"));
            let mac = card.mac.map(|byte| format!("{byte:02x}")).join(":");
            let card = format!("virtio-net-device,netdev=network{number},mac={mac}");
            line.add("-device", format_args!("{card},{CARD_WITHOUT}"));
        }
    }
}

/// QEMU's ends of the devices' connections.
pub(super) fn sockets(devices: Vec<Attached>) -> impl Iterator<Item = OwnedFd> {
    devices.into_iter().map(|device| device.socket.into())
}

/// A connected socket that QEMU inherits.
fn socket(id: &str, socket: BorrowedFd) -> String {
    format!("socket,id={id},fd={}", socket.as_raw_fd())
}

/// An inherited file by a name, where QEMU takes no descriptor.
fn in_proc(file: BorrowedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

struct Line(Vec<String>);

impl Line {
    fn add(&mut self, option: &str, value: impl std::fmt::Display) {
        self.0.push(option.into());
        self.0.push(value.to_string());
    }
}
