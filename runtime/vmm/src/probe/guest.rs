//! The throw-away machine: one vCPU in 64-bit kernel mode, a page of code and a few of tables.

use std::sync::Arc;
use std::time::Duration;

use kvm_bindings::{CpuId, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::{Kvm, VcpuExit};
use rustix::time::{ClockId, clock_gettime};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::KvmUnusable;
use crate::devices::GuestMemory;
use crate::kvm::vm::{GuestVcpu, GuestVm};

const PAGE: u64 = 0x1000;
/// Where the pieces are. The first 2 MiB are mapped to themselves by one large page.
const PML4: u64 = PAGE;
const PDPT: u64 = 2 * PAGE;
const PAGE_DIRECTORY: u64 = 3 * PAGE;
const DESCRIPTORS: u64 = 4 * PAGE;
const INTERRUPTS: u64 = 5 * PAGE;
const CODE: u64 = 6 * PAGE;
const DATA: u64 = 7 * PAGE;
const STACK_TOP: u64 = 9 * PAGE;
const MEMORY_BYTES: usize = 2 << 20;

const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 16;

/// An instruction that kernels use and interpreters of guest code were seen to lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) name: &'static str,
    bytes: &'static [u8],
}

/// What the guest does first, one after the other, before it halts.
const INSTRUCTIONS: [Instruction; 3] = [
    Instruction {
        name: "popcnt",
        bytes: &[0xf3, 0x48, 0x0f, 0xb8, 0xc3], // popcnt rax, rbx
    },
    Instruction {
        name: "cmpxchg16b",
        bytes: &[0x48, 0x0f, 0xc7, 0x0f], // cmpxchg16b [rdi]
    },
    // Goes through the interrupt table, to an `iretq`.
    Instruction {
        name: "int3",
        bytes: &[0xcc],
    },
];
const BREAKPOINT_VECTOR: u64 = 3;
const IRETQ: Instruction = Instruction {
    name: "iretq",
    bytes: &[0x48, 0xcf],
};
const HALT: &[u8] = &[0xf4];
/// Counts RCX down, then halts: two instructions a round.
const LOOP: &[u8] = &[0x48, 0xff, 0xc9, 0x75, 0xfb, 0xf4]; // dec rcx; jnz -5; hlt
const LOOP_ADDRESS: u64 = CODE + 0x100;
const IRETQ_ADDRESS: u64 = CODE + 0x200;

/// Why the guest stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// By its own `hlt`.
    Halted,
    /// KVM gave up, at this instruction when it is one of ours.
    NotEmulated(Option<Instruction>),
    /// Otherwise, in words.
    Other(String),
}

/// The machine.
pub(super) struct ProbeGuest {
    vcpu: GuestVcpu,
}

impl ProbeGuest {
    /// Makes the machine, ready to run from the start.
    pub(super) fn create(kvm: &Kvm, cpuid: &CpuId) -> Result<Self, KvmUnusable> {
        let memory = memory().map_err(|source| KvmUnusable::Memory { source })?;
        let vm =
            GuestVm::create(kvm, &memory).map_err(|source| KvmUnusable::CreateVm { source })?;
        let set_up = |step| move |source| KvmUnusable::SetUp { step, source };
        vm.fd()
            .set_tss_address(0xfffb_d000)
            .map_err(set_up("place the task state segment"))?;
        let vcpu = Arc::new(vm)
            .create_vcpu(0)
            .map_err(set_up("create the vCPU"))?;
        vcpu.fd.set_cpuid2(cpuid).map_err(set_up("set the CPUID"))?;
        let reset = vcpu
            .fd
            .get_sregs()
            .map_err(set_up("read the system registers"))?;
        vcpu.fd
            .set_sregs(&long_mode(reset))
            .map_err(set_up("set the system registers"))?;
        Ok(Self { vcpu })
    }

    /// Runs each of the instructions once.
    pub(super) fn run_instructions(&mut self) -> Result<Stop, kvm_ioctls::Error> {
        self.run_from(CODE, 0)
    }

    /// Runs a loop of `count` instructions. Says how much processor time of this thread it took,
    /// the guest's time among it.
    pub(super) fn run_loop(&mut self, count: u64) -> Result<(Stop, Duration), kvm_ioctls::Error> {
        let before = thread_time();
        let stop = self.run_from(LOOP_ADDRESS, count / 2)?;
        Ok((stop, thread_time().saturating_sub(before)))
    }

    fn run_from(&mut self, rip: u64, rcx: u64) -> Result<Stop, kvm_ioctls::Error> {
        self.vcpu.fd.set_regs(&kvm_regs {
            rip,
            rcx,
            rdi: DATA,
            rsp: STACK_TOP,
            rflags: 2,
            ..Default::default()
        })?;
        loop {
            match self.vcpu.fd.run() {
                Ok(VcpuExit::Hlt) => return Ok(Stop::Halted),
                Ok(VcpuExit::InternalError) => break,
                Ok(VcpuExit::Intr) => {}
                Ok(exit) => return Ok(Stop::Other(format!("it stopped with {exit:?}"))),
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
        let rip = self.vcpu.fd.get_regs()?.rip;
        Ok(Stop::NotEmulated(instruction_at(rip)))
    }
}

/// The code in front of the first halt.
fn instruction_sequence() -> Vec<u8> {
    let instructions = INSTRUCTIONS
        .iter()
        .flat_map(|instruction| instruction.bytes);
    instructions.chain(HALT).copied().collect()
}

fn instruction_at(address: u64) -> Option<Instruction> {
    if address == IRETQ_ADDRESS {
        return Some(IRETQ);
    }
    let mut at = CODE;
    INSTRUCTIONS.into_iter().find(|instruction| {
        let here = at;
        at += instruction.bytes.len() as u64;
        here == address
    })
}

fn memory() -> std::io::Result<GuestMemory> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)])
        .map_err(std::io::Error::other)?;
    fill(&memory).map_err(std::io::Error::other)?;
    Ok(GuestMemory::new(memory))
}

fn fill(memory: &GuestMemoryMmap) -> Result<(), vm_memory::GuestMemoryError> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let words = [
        (PML4, PDPT | PRESENT_WRITABLE),
        (PDPT, PAGE_DIRECTORY | PRESENT_WRITABLE),
        (PAGE_DIRECTORY, PRESENT_WRITABLE | LARGE),
        // Flat 64-bit kernel code, and data.
        (
            DESCRIPTORS + u64::from(CODE_SELECTOR),
            0x00af_9b00_0000_ffff,
        ),
        (
            DESCRIPTORS + u64::from(DATA_SELECTOR),
            0x00cf_9300_0000_ffff,
        ),
        (
            INTERRUPTS + BREAKPOINT_VECTOR * 16,
            interrupt_gate(IRETQ_ADDRESS),
        ),
    ];
    for (address, word) in words {
        memory.write_obj(word, GuestAddress(address))?;
    }
    memory.write_slice(&instruction_sequence(), GuestAddress(CODE))?;
    memory.write_slice(LOOP, GuestAddress(LOOP_ADDRESS))?;
    memory.write_slice(IRETQ.bytes, GuestAddress(IRETQ_ADDRESS))
}

/// The first half of a 64-bit interrupt gate (Intel SDM 3A, 6.14.1); the other holds the upper
/// half of the address, zero.
fn interrupt_gate(address: u64) -> u64 {
    const PRESENT_INTERRUPT_GATE: u64 = 0x8e00 << 32;
    address & 0xffff
        | u64::from(CODE_SELECTOR) << 16
        | PRESENT_INTERRUPT_GATE
        | (address & 0xffff_0000) << 32
}

/// 64-bit kernel mode with paging on.
fn long_mode(reset: kvm_sregs) -> kvm_sregs {
    const CR0_PE_MP_ET_NE_WP_PG: u64 = 0x8001_0033;
    const CR4_PAE_OSFXSR: u64 = 0x220;
    const EFER_LME_LMA: u64 = 0x500;
    let segment = |selector, type_, l| kvm_segment {
        selector,
        limit: u32::MAX,
        type_,
        l,
        db: 1 - l,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let data = segment(DATA_SELECTOR, 3, 0);
    let mut sregs = kvm_sregs {
        cr0: CR0_PE_MP_ET_NE_WP_PG,
        cr3: PML4,
        cr4: CR4_PAE_OSFXSR,
        efer: EFER_LME_LMA,
        cs: segment(CODE_SELECTOR, 0xb, 1),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        ..reset
    };
    (sregs.gdt.base, sregs.gdt.limit) = (DESCRIPTORS, 23);
    (sregs.idt.base, sregs.idt.limit) = (INTERRUPTS, 4 * 16 - 1);
    sregs
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_its_instruction() {
        assert_eq!(instruction_at(CODE).unwrap().name, "popcnt");
        assert_eq!(instruction_at(CODE + 5).unwrap().name, "cmpxchg16b");
        assert_eq!(instruction_at(CODE + 9).unwrap().name, "int3");
        assert_eq!(instruction_at(IRETQ_ADDRESS).unwrap().name, "iretq");
        assert_eq!(instruction_at(CODE + 1), None);
        assert_eq!(instruction_sequence().len(), 11);
    }

    #[test]
    fn the_gate_leads_to_its_address() {
        assert_eq!(interrupt_gate(0x1234_5678), 0x1234_8e00_0008_5678);
    }
}
