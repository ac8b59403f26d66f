//! The creator's side of a new microVM.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::libc::{CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS};
use runvm_container::cgroup::Cgroup;
use runvm_container::run_hooks;
use runvm_oci::{Plan, State};
use runvm_sys::mount_attr::{self, MountAttr, Reach};

use super::guest::make_machine;
use super::guest_config::{GuestConfig, ROOTFS, guest_config};
use super::hidden::{self, Hidden, Start, VMM};
use super::hypervisor::{HypervisorChosen, Rung, choose_hypervisor};
use super::network::{self, Prepared};
use super::vmm::{GoOn, Order, OrderedCard, OrderedExport, OrderedHypervisor, Report};
use super::{PreserveFds, size};
use crate::{BackendError, Blueprint, Built, Settings};

/// What the guest's kernel is told on either hypervisor, besides what that adds for its machine: to be
/// quiet but for its last words, and to keep no memory for devices that cannot reach all of it.
const COMMAND_LINE: &str = "quiet swiotlb=noforce";

/// What the VMM process has of its own, besides the network namespace that it joins.
const NEW_NAMESPACES: i32 = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS;

/// Why the parts of a microVM could not be put together.
#[derive(Debug, thiserror::Error)]
enum PartError {
    #[error("cannot open the guest's {what} {}", path.display())]
    Image {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the guest's kernel {} is no ELF file: an uncompressed vmlinux is needed", .0.display())]
    NotElf(PathBuf),
    #[error("cannot open the container's cgroup")]
    Cgroup(#[source] io::Error),
    #[error("cannot make the directory of the VMM process")]
    Directory(#[source] io::Error),
    #[error("cannot set root.readonly")]
    ReadOnly(#[source] io::Error),
    #[error("cannot open /dev/kvm")]
    Kvm(#[source] io::Error),
}

/// Builds a microVM and the container in it, up to OCI status `created`.
pub(super) fn create(blueprint: Blueprint<'_>) -> Result<Built, BackendError> {
    if blueprint.preserve_fds > 0 {
        return Err(PreserveFds.into());
    }
    let Blueprint {
        plan,
        settings,
        directory,
        ..
    } = blueprint;
    let chosen = choose_hypervisor(settings)?;
    let guest = guest_config(plan, blueprint.config)?;
    let images = Images::open(plan, settings)?;
    let vcpus = size::vcpus(plan);
    // QEMU has one thread for all of its vCPUs.
    let queues = match &chosen.hypervisor {
        Rung::Kvm => vcpus.into(),
        Rung::Qemu { .. } => 1,
    };
    let network = network::prepare(plan, directory, queues)?;
    let (hypervisor, kvm) = open_hypervisor(&chosen.hypervisor)?;
    let entry = blueprint
        .cgroup
        .map(Cgroup::entry)
        .transpose()
        .map_err(PartError::Cgroup)?;
    let tasks = entry.as_ref().map_or(&[][..], |entry| &entry.tasks);
    let terminal = plan.process.terminal;
    let (stdio, master) = hidden::stdio_for(terminal, blueprint.stdio)?;

    let machine = make_machine(directory.as_fd()).map_err(PartError::Directory)?;
    let order = Order {
        id: blueprint.id.to_owned(),
        directory: machine.as_raw_fd(),
        kernel: images.kernel.as_raw_fd(),
        initramfs: images.initramfs.as_raw_fd(),
        command_line: command_line(plan, settings),
        memory_mib: size::memory_mib(plan, settings)?,
        vcpus,
        hypervisor,
        exports: ordered(&guest),
        terminal,
        no_new_keyring: blueprint.no_new_keyring,
        tasks: tasks.iter().map(AsRawFd::as_raw_fd).collect(),
        network: network.namespace.as_raw_fd(),
        cards: ordered_cards(&network),
        hooks: has_hooks(plan),
    };
    let mut inherit = vec![
        machine.as_fd(),
        images.kernel.as_fd(),
        images.initramfs.as_fd(),
    ];
    inherit.extend(guest.exports.iter().map(|export| export.fd.as_fd()));
    inherit.extend(tasks.iter().map(AsFd::as_fd));
    inherit.push(network.namespace.as_fd());
    let taps = network.cards.iter().flat_map(|(_, taps)| taps);
    inherit.extend(taps.map(AsFd::as_fd));
    inherit.extend(kvm.iter().map(AsFd::as_fd));
    let start = Start {
        name: VMM,
        inherit,
        stdio: &stdio,
        new_namespaces: NEW_NAMESPACES.cast_unsigned(),
        cgroup: entry
            .as_ref()
            .and_then(|entry| entry.unified.as_ref())
            .map(AsFd::as_fd),
    };
    let mut vmm = Hidden::start(start, &order, &guest.json)?;
    if order.hooks {
        vmm.report::<Report>(VMM)?;
        run_runtime_hooks(plan, blueprint.id, blueprint.bundle, &vmm)?;
        vmm.tell(VMM, &GoOn)?;
    }
    let Report::Created { stamps, warnings } = vmm.report(VMM)? else {
        return Err("the VMM process reported out of order".into());
    };
    if plan.root.readonly {
        make_root_read_only(&guest).map_err(PartError::ReadOnly)?;
    }
    let (pid, pidfd) = vmm.keep()?;
    Ok(Built {
        pid,
        pidfd,
        terminal: master,
        stamps,
        annotations: annotations(&chosen),
        warnings: guest.warnings.into_iter().chain(warnings).collect(),
    })
}

/// The guest's kernel and initramfs.
struct Images {
    kernel: File,
    initramfs: File,
}

impl Images {
    /// Opens those of the bundle's `vm` section, or the settings'.
    fn open(plan: &Plan, settings: &Settings) -> Result<Self, PartError> {
        let vm = plan.vm.as_ref();
        let kernel = vm.map_or_else(|| settings.kernel_path(), |vm| vm.kernel.clone());
        let initramfs = vm
            .and_then(|vm| vm.initrd.clone())
            .unwrap_or_else(|| settings.initramfs_path());
        let open = |what, path: PathBuf| {
            File::open(&path).map_err(|source| PartError::Image { what, path, source })
        };
        let images = Self {
            kernel: open("kernel", kernel.clone())?,
            initramfs: open("initramfs", initramfs)?,
        };
        if images.is_elf() {
            Ok(images)
        } else {
            Err(PartError::NotElf(kernel))
        }
    }

    /// Whether the kernel can be one: neither hypervisor's words would name the file.
    fn is_elf(&self) -> bool {
        let mut magic = [0; 4];
        matches!(self.kernel.read_exact_at(&mut magic, 0), Ok(()) if &magic == b"\x7fELF")
    }
}

fn command_line(plan: &Plan, settings: &Settings) -> String {
    let bundles = plan
        .vm
        .iter()
        .flat_map(|vm| &vm.kernel_parameters)
        .map(String::as_str);
    [COMMAND_LINE, settings.kernel_parameters.as_str()]
        .into_iter()
        .chain(bundles)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// What to order of the VMM process, and /dev/kvm opened for it: its cgroup is the container's,
/// and may open no devices but the container's.
fn open_hypervisor(rung: &Rung) -> Result<(OrderedHypervisor, Option<File>), PartError> {
    match rung {
        Rung::Qemu { binary } => Ok((OrderedHypervisor::Qemu(binary.clone()), None)),
        Rung::Kvm => {
            let options = File::options().read(true).write(true).open("/dev/kvm");
            let kvm = options.map_err(PartError::Kvm)?;
            Ok((OrderedHypervisor::Kvm(kvm.as_raw_fd()), Some(kvm)))
        }
    }
}

/// Makes the mount read-only that the VMM process serves as the root, now that the agent has made its
/// mount points there.
fn make_root_read_only(guest: &GuestConfig) -> io::Result<()> {
    let read_only = MountAttr::new(mount_attr::RDONLY, 0);
    for root in guest.exports.iter().filter(|export| export.name == ROOTFS) {
        match mount_attr::set(root.fd.as_fd(), Reach::Mount, read_only) {
            // Where the export is no mount of its own (without privileges), the guest's kernel
            // alone keeps it.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            set => set?,
        }
    }
    Ok(())
}

fn ordered(guest: &GuestConfig) -> Vec<OrderedExport> {
    guest
        .exports
        .iter()
        .map(|export| OrderedExport {
            name: export.name.clone(),
            fd: export.fd.as_raw_fd(),
            read_only: export.read_only,
        })
        .collect()
}

fn ordered_cards(network: &Prepared) -> Vec<OrderedCard> {
    let order = |(mac, taps): &(_, Vec<_>)| OrderedCard {
        mac: *mac,
        taps: taps.iter().map(AsRawFd::as_raw_fd).collect(),
    };
    network.cards.iter().map(order).collect()
}

fn has_hooks(plan: &Plan) -> bool {
    !plan.hooks.prestart.is_empty() || !plan.hooks.create_runtime.is_empty()
}

/// The hooks of the runtime's namespaces: as for a container, between its isolation and its root.
fn run_runtime_hooks(
    plan: &Plan,
    id: &str,
    bundle: &Path,
    vmm: &Hidden,
) -> Result<(), BackendError> {
    let state = State {
        oci_version: plan.oci_version.clone(),
        id: id.to_owned(),
        status: runvm_oci::Status::Creating,
        pid: vmm.pid,
        bundle: bundle.to_owned(),
        annotations: plan.annotations.clone(),
    };
    let run = |point, hooks| run_hooks(point, hooks, &state, vmm.pidfd());
    run("prestart", &plan.hooks.prestart)?;
    run("createRuntime", &plan.hooks.create_runtime)?;
    Ok(())
}

fn annotations(chosen: &HypervisorChosen) -> Vec<(&'static str, String)> {
    vec![
        ("dev.runvm.hypervisor", chosen.as_str().to_owned()),
        ("dev.runvm.hypervisor.reason", chosen.reason.clone()),
    ]
}
