//! Boots a kernel with an initramfs on QEMU: `qemu KERNEL INITRAMFS DIRECTORY [SHARE]`.
//!
//! `DIRECTORY` gets the console's log and the sockets: connect to `vm.sock` and write
//! `CONNECT port` to reach the guest, listen on `vm.sock_PORT` to be reached from it. `SHARE` is
//! the entry `share` of the virtio-fs device with the tag `runvm`.

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;

use runvm_vmm::devices::fs::Exports;
use runvm_vmm::devices::vsock::VsockConfig;
use runvm_vmm::{Hypervisor, VmConfig, launch};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [kernel, initramfs, directory, share @ ..] = &words[..] else {
        return Err("usage: qemu KERNEL INITRAMFS DIRECTORY [SHARE]".into());
    };
    let directory = Path::new(directory);
    let exports = Exports::new();
    for path in share {
        exports.add("share", File::open(path)?.into(), false)?;
    }
    let config = VmConfig {
        kernel: File::open(kernel)?,
        initramfs: File::open(initramfs)?,
        command_line: String::new(),
        memory_mib: 256,
        vcpus: 1,
        serial: File::create(directory.join("console.log"))?,
        exports,
        vsock: VsockConfig {
            guest_cid: 3,
            listener: UnixListener::bind(directory.join("vm.sock"))?,
            ports: File::open(directory)?.into(),
        },
        cards: Vec::new(),
    };
    let began = Instant::now();
    let binary = "/usr/bin/qemu-system-x86_64".into();
    let mut vm = launch(config, Hypervisor::Qemu { binary })?;
    vm.start()?;
    eprintln!("launched after {:?}", began.elapsed());
    let exit = vm.wait();
    eprintln!("{exit} after {:?}", began.elapsed());
    Ok(())
}
