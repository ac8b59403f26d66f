//! What a vCPU's registers hold when the guest's kernel begins.

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};

use crate::boot::EntryPoint;

/// Protected mode.
const CR0_PE: u64 = 1;
/// A bit that is always one on processors with a floating point unit of their own.
const CR0_ET: u64 = 1 << 4;
/// The bit of RFLAGS that is always one.
const RFLAGS_RESERVED: u64 = 1 << 1;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;

/// The general registers at the PVH entry (Xen, docs/misc/pvh.pandoc).
pub(super) fn at_entry(entry: EntryPoint) -> kvm_regs {
    kvm_regs {
        rip: entry.instruction_pointer,
        rbx: entry.start_info,
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    }
}

/// The system registers at the PVH entry: 32-bit protected mode, flat segments, no paging.
/// `reset` is what the vCPU had; the place of its APIC is kept from there.
pub(super) fn system_at_entry(reset: kvm_sregs) -> kvm_sregs {
    const CODE: u8 = 0xb;
    const DATA: u8 = 0x3;
    let data = flat_segment(DATA);
    kvm_sregs {
        cr0: CR0_PE | CR0_ET,
        cr3: 0,
        cr4: 0,
        efer: 0,
        cs: flat_segment(CODE),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: task_state(),
        ..reset
    }
}

/// Base 0, limit 4 GiB. The selector is of no matter: the kernel loads its own table first.
fn flat_segment(kind: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 0,
        type_: kind,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    }
}

fn task_state() -> kvm_segment {
    const BUSY_32_BIT_TSS: u8 = 0xb;
    kvm_segment {
        base: 0,
        limit: 0x67,
        type_: BUSY_32_BIT_TSS,
        present: 1,
        ..Default::default()
    }
}

/// The model-specific registers that firmware would have set.
pub(super) fn model_specific() -> Result<Msrs, vmm_sys_util::fam::Error> {
    const FAST_STRINGS: u64 = 1;
    const MTRR_ENABLE: u64 = 1 << 11;
    const WRITE_BACK: u64 = 6;
    let msr = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    Msrs::from_entries(&[
        // Without it Linux takes `rep movs` for slow.
        msr(MSR_IA32_MISC_ENABLE, FAST_STRINGS),
        // Without it Linux takes all memory for uncached, and does without PAT.
        msr(MSR_MTRR_DEF_TYPE, MTRR_ENABLE | WRITE_BACK),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_begins_as_pvh_says() {
        let entry = EntryPoint {
            instruction_pointer: 0x100_0000,
            start_info: 0x6000,
        };
        let regs = at_entry(entry);
        assert_eq!((regs.rip, regs.rbx), (0x100_0000, 0x6000));
        assert_eq!(regs.rflags & (1 << 17 | 1 << 9 | 1 << 8), 0);

        let reset = kvm_sregs {
            apic_base: 0xfee0_0900,
            cr0: 0x6000_0010,
            ..Default::default()
        };
        let sregs = system_at_entry(reset);
        assert_eq!(sregs.apic_base, 0xfee0_0900);
        assert_eq!(sregs.cr0 & !CR0_ET, CR0_PE);
        assert_eq!((sregs.cr4, sregs.efer), (0, 0));
        for segment in [sregs.cs, sregs.ds, sregs.es, sregs.ss] {
            assert_eq!((segment.base, segment.limit), (0, u32::MAX));
            assert_eq!((segment.db, segment.l, segment.g), (1, 0, 1));
        }
        assert_eq!((sregs.tr.limit, sregs.tr.type_, sregs.tr.s), (0x67, 0xb, 0));
    }
}
