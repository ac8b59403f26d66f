//! Boots a kernel with an initramfs on KVM, and prints what it says on its serial console.
//!
//! `boot KERNEL INITRAMFS [COMMAND_LINE [MEMORY_MIB [VCPUS [DIRECTORY]]]]`
//!
//! The guest finds DIRECTORY as `shared` in the virtio-fs device of tag `runvm`.

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use runvm_vmm::devices::fs::Exports;
use runvm_vmm::devices::vsock::VsockConfig;
use runvm_vmm::{Hypervisor, VmConfig, launch, probe};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [kernel, initramfs, rest @ ..] = &arguments[..] else {
        return Err(
            "usage: boot KERNEL INITRAMFS [COMMAND_LINE [MEMORY_MIB [VCPUS [DIRECTORY]]]]".into(),
        );
    };
    match probe::kvm() {
        Ok(capability) => eprintln!("KVM is usable: {capability}"),
        Err(unusable) => eprintln!("KVM is not usable: {unusable}"),
    }
    let directory = env::temp_dir().join(format!("boot-{}", std::process::id()));
    fs::create_dir(&directory)?;
    let result = boot(kernel, initramfs, rest, &directory);
    fs::remove_dir_all(&directory)?;
    result
}

fn boot(
    kernel: &str,
    initramfs: &str,
    rest: &[String],
    directory: &Path,
) -> Result<(), Box<dyn Error>> {
    let exports = Exports::new();
    if let Some(shared) = rest.get(3) {
        exports.add("shared", File::open(shared)?.into(), false)?;
    }
    let config = VmConfig {
        kernel: File::open(kernel)?,
        initramfs: File::open(initramfs)?,
        command_line: rest.first().cloned().unwrap_or_default(),
        memory_mib: rest.get(1).map_or(Ok(256), |text| text.parse())?,
        vcpus: rest.get(2).map_or(Ok(1), |text| text.parse())?,
        serial: io::stdout().as_fd().try_clone_to_owned()?.into(),
        exports,
        vsock: VsockConfig {
            guest_cid: 3,
            listener: UnixListener::bind(directory.join("vm.sock"))?,
            ports: File::open(directory)?.into(),
        },
        cards: Vec::new(),
    };

    let start = monotonic_now();
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")?
        .into();
    let mut vm = launch(config, Hypervisor::Kvm { device })?;
    vm.start()?;
    eprintln!("launched after {:?}", monotonic_now() - start);
    let exit = vm.wait();
    let entry = vm.first_entry().map(|entry| entry - start);
    eprintln!(
        "{exit}; first entry after {entry:?}, end after {:?}",
        monotonic_now() - start
    );
    eprintln!("{}", vm.exits());
    Ok(())
}

fn monotonic_now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}
