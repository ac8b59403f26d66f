//! Whole machines with a few instructions for a guest. Any KVM runs those, also one without
//! hardware under it.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use super::*;
use crate::boot::fixture::{elf, file};
use crate::exits::ExitCause;

/// `mov al, BYTE; out PORT, al` with the port in DX.
fn out(port: u16, byte: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, byte, 0xee]
}

fn say(text: &[u8]) -> Vec<u8> {
    text.iter().flat_map(|byte| out(0x3f8, *byte)).collect()
}

/// `mov dx, 0x3f8; out dx, al`: says what is in AL.
const SAY_AL: &[u8] = &[0x66, 0xba, 0xf8, 0x03, 0xee];
/// `out 0x64, 0xfe`
const RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64];
/// `jmp` to itself.
const FOREVER: &[u8] = &[0xeb, 0xfe];

fn machine(code: &[u8], log: &File) -> Machine {
    Machine {
        kernel: file(&elf(code, true)),
        initramfs: file(b"initramfs"),
        command_line: String::new(),
        memory_mib: 4,
        vcpus: 1,
        serial: log.try_clone().unwrap(),
        devices: Vec::new(),
    }
}

fn device() -> OwnedFd {
    let options = File::options().read(true).write(true).open("/dev/kvm");
    options.unwrap().into()
}

fn started(machine: Machine) -> KvmVm {
    let mut vm = launch(device(), machine).unwrap();
    vm.start();
    vm
}

fn have_kvm() -> bool {
    let have = Path::new("/dev/kvm").exists();
    if !have {
        println!("skipped: there is no /dev/kvm");
    }
    have
}

fn read(log: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(log.metadata().unwrap().len()).unwrap()];
    log.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn a_guest_speaks_and_resets() {
    if !have_kvm() {
        return;
    }
    let log = file(b"");
    let code = [&say(b"hello")[..], RESET, FOREVER].concat();
    let mut vm = started(machine(&code, &log));
    assert_eq!(vm.wait(), Exit::Reset);
    assert_eq!(read(&log), b"hello");
    assert_eq!(vm.exits().of(ExitCause::PortWrite), 6);
    assert!(vm.first_entry().is_some());
}

#[test]
fn the_chipset_resets_too() {
    if !have_kvm() {
        return;
    }
    let code = [&out(0xcf9, 6)[..], FOREVER].concat();
    let mut vm = started(machine(&code, &file(b"")));
    assert_eq!(vm.wait(), Exit::Reset);
}

#[test]
fn addresses_without_a_device_read_as_ones_and_swallow_writes() {
    if !have_kvm() {
        return;
    }
    let log = file(b"");
    // in al, 0x99; out 0x99, al
    let port: &[u8] = &[0xe4, 0x99, 0xe6, 0x99];
    // mov al, [0xd0800000]; mov [0xd0800000], al
    let mmio: &[u8] = &[0xa0, 0, 0, 0x80, 0xd0, 0xa2, 0, 0, 0x80, 0xd0];
    let code = [port, SAY_AL, mmio, SAY_AL, RESET, FOREVER].concat();
    let mut vm = started(machine(&code, &log));
    assert_eq!(vm.wait(), Exit::Reset);
    assert_eq!(read(&log), [0xff, 0xff]);
    assert_eq!(vm.exits().of(ExitCause::PortRead), 1);
    assert_eq!(vm.exits().of(ExitCause::MmioRead), 1);
    assert_eq!(vm.exits().of(ExitCause::MmioWrite), 1);
}

#[test]
fn a_guest_that_crashes_ends_with_words_and_registers() {
    if !have_kvm() {
        return;
    }
    // An exception without an interrupt table: ud2.
    let mut vm = started(machine(&[0x0f, 0x0b], &file(b"")));
    let Exit::Crashed(words) = vm.wait() else {
        panic!("it did not crash");
    };
    assert!(words.starts_with("vCPU 0 "), "{words}");
    assert!(words.contains("rip 0x"), "{words}");
}

#[test]
fn a_vm_is_stopped_whatever_its_vcpus_do() {
    if !have_kvm() {
        return;
    }
    // The second vCPU waits for a start that never comes.
    for (name, code) in [("loop", FOREVER), ("halt", &[0xfa, 0xf4, 0xeb, 0xfc][..])] {
        let mut machine = machine(code, &file(b""));
        machine.vcpus = 2;
        let mut vm = started(machine);
        let power = Arc::clone(vm.power());
        let stopper = thread::spawn(move || power.turn_off(Exit::Stopped));
        assert_eq!(vm.wait(), Exit::Stopped, "{name}");
        assert_eq!(vm.wait(), Exit::Stopped, "{name}");
        stopper.join().unwrap();
    }
}

#[test]
fn a_vm_that_is_dropped_ends() {
    if !have_kvm() {
        return;
    }
    let vm = started(machine(FOREVER, &file(b"")));
    let shared = Arc::clone(&vm.shared);
    drop(vm);
    assert_eq!(Arc::strong_count(&shared), 1);
}

#[test]
fn a_machine_has_one_vcpu_at_least_and_not_too_many() {
    if !have_kvm() {
        return;
    }
    for vcpus in [0, 255] {
        let mut machine = machine(FOREVER, &file(b""));
        machine.vcpus = vcpus;
        let error = launch(device(), machine).err().expect("it was launched");
        assert!(matches!(error, KvmLaunchError::Vcpus { asked, .. } if asked == vcpus));
    }
}

#[test]
fn the_command_line_names_each_device_and_ends_with_the_caller_s_words() {
    struct Nothing;
    impl VirtioDevice for Nothing {
        fn device_type(&self) -> u32 {
            0
        }
        fn features(&self) -> u64 {
            0
        }
        fn queue_sizes(&self) -> &[u16] {
            &[]
        }
        fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
        fn activate(&mut self, _activation: crate::devices::Activation) -> io::Result<()> {
            Ok(())
        }
        fn reset(&mut self) {}
    }
    let mut machine = machine(FOREVER, &file(b""));
    assert_eq!(command_line(&machine), "console=ttyS0 reboot=k panic=-1");
    machine.command_line = "quiet".into();
    machine.devices = vec![Box::new(Nothing), Box::new(Nothing)];
    assert_eq!(
        command_line(&machine),
        "console=ttyS0 reboot=k panic=-1 virtio_mmio.device=4K@0xd0000000:5 \
         virtio_mmio.device=4K@0xd0001000:6 quiet"
    );
}

#[test]
fn a_machine_that_is_not_started_can_be_stopped() {
    if !have_kvm() {
        return;
    }
    let log = file(b"");
    let mut vm = launch(device(), machine(&say(b"hello"), &log)).unwrap();
    vm.power().turn_off(Exit::Stopped);
    assert_eq!(vm.wait(), Exit::Stopped);
    assert!(vm.first_entry().is_none());
    assert_eq!(read(&log), b"");
}
