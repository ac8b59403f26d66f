//! A KVM virtual machine with its memory: what must live as long as any vCPU does.
#![allow(
    unsafe_code,
    reason = "KVM is given the addresses of mappings, whose lifetime it does not know"
)]

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::devices::GuestMemory;

/// KVM, by the descriptor of `/dev/kvm`.
pub(super) fn kvm_from(device: OwnedFd) -> Kvm {
    // SAFETY: the descriptor is taken from its owner, so the Kvm is the only one to close it.
    unsafe { Kvm::from_raw_fd(device.into_raw_fd()) }
}

/// A VM whose memory slots are the regions of one guest memory.
pub(crate) struct GuestVm {
    // First, so that it is closed before the memory can be unmapped.
    fd: VmFd,
    /// The snapshot that the slots were made from. Another one put in its place, in the handle
    /// that devices have, does not unmap it.
    memory: Arc<GuestMemoryMmap>,
}

/// A vCPU, which keeps its VM's memory mapped.
pub(crate) struct GuestVcpu {
    // First, so that it is closed before the VM.
    pub(crate) fd: VcpuFd,
    _vm: Arc<GuestVm>,
}

impl GuestVm {
    /// Creates a VM and gives it `memory`.
    pub(crate) fn create(kvm: &Kvm, memory: &GuestMemory) -> Result<Self, kvm_ioctls::Error> {
        let vm = Self {
            fd: create_vm(kvm)?,
            memory: memory.memory().into_inner(),
        };
        vm.set_up_slots()?;
        Ok(vm)
    }

    /// The VM's descriptor. Memory slots are not to be changed through it: they are this type's.
    pub(crate) fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Creates vCPU number `id`, whose APIC has that id too.
    pub(crate) fn create_vcpu(self: &Arc<Self>, id: u8) -> Result<GuestVcpu, kvm_ioctls::Error> {
        Ok(GuestVcpu {
            fd: self.fd.create_vcpu(id.into())?,
            _vm: Arc::clone(self),
        })
    }

    fn set_up_slots(&self) -> Result<(), kvm_ioctls::Error> {
        for (slot, region) in (0..).zip(self.memory.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the range is a mapping that `memory` owns, which is dropped after `fd`;
            // vCPUs, which keep the VM alive in the kernel, hold this value (`GuestVcpu`). Nobody
            // keeps a Rust reference into guest memory: vm-memory allows volatile access only.
            unsafe { self.fd.set_user_memory_region(region) }?;
        }
        Ok(())
    }
}

/// `KVM_CREATE_VM`, again when a signal came: it waits for a lock killably and then interruptibly.
fn create_vm(kvm: &Kvm) -> Result<VmFd, kvm_ioctls::Error> {
    loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => return result,
        }
    }
}
