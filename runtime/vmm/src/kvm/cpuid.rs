//! What the guest's CPUID instruction says: what KVM can give on this host, with each vCPU's place
//! among the others put in, and without what a microVM has no use for.
//!
//! Leaf numbers and fields: Intel SDM volume 2A "CPUID", AMD APM volume 3 appendix E.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Leaf 1, ECX.
const VMX: u32 = 1 << 5;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: there is more than one logical processor.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX.
const SVM: u32 = 1 << 2;
const PERFCTR_CORE: u32 = 1 << 23;

/// The topology leaves, which are made anew.
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;

/// The machine that the vCPUs are part of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Topology {
    pub(super) vcpus: u8,
    /// Whether KVM has the local APIC timer's TSC deadline mode: KVM_GET_SUPPORTED_CPUID does not
    /// tell, since it depends on the in-kernel APIC.
    pub(super) tsc_deadline: bool,
}

/// The CPUID of vCPU `id`. One package, a core to each vCPU, no threads: the host may run any
/// two of them anywhere, so anything else would mislead the guest's scheduler.
pub(super) fn for_vcpu(supported: &CpuId, id: u8, topology: Topology) -> CpuId {
    let mut cpuid = supported.clone();
    // The old topology may have more entries than ours needs, or fewer.
    cpuid.retain(|entry| entry.function != TOPOLOGY && entry.function != TOPOLOGY_V2);
    for entry in cpuid.as_mut_slice() {
        adapt(entry, id, topology);
    }
    for entry in topology_leaf(id, topology.vcpus) {
        // Full at 256 entries, and hosts have some fifty; without the leaf the guest takes the
        // same numbers from leaf 1.
        let _full = cpuid.push(entry);
    }
    cpuid
}

fn adapt(
    entry: &mut kvm_cpuid_entry2,
    id: u8,
    Topology {
        vcpus,
        tsc_deadline,
    }: Topology,
) {
    let others = u32::from(vcpus) - 1;
    let id = u32::from(id);
    match entry.function {
        1 => {
            let logical = u32::from(vcpus);
            entry.ebx = entry.ebx & 0xffff | logical << 16 | id << 24;
            entry.ecx = entry.ecx & !VMX | HYPERVISOR;
            set(&mut entry.ecx, TSC_DEADLINE, tsc_deadline);
            set(&mut entry.edx, HTT, vcpus > 1);
        }
        // Caches: how many processors share each, and how many cores a package has. Type 0 ends
        // the list.
        4 if entry.eax & 0x1f != 0 => {
            let sharing = if cache_level(entry.eax) >= 3 {
                others
            } else {
                0
            };
            entry.eax = entry.eax & 0x3fff | sharing << 14 | others.min(0x3f) << 26;
        }
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let sharing = if cache_level(entry.eax) >= 3 {
                others
            } else {
                0
            };
            entry.eax = entry.eax & 0x3fff | sharing << 14;
        }
        // Performance counters: a guest's profile of itself is not worth the host's attack surface.
        0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        0x8000_0022 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        // No virtual machines inside of a microVM.
        0x8000_0001 => entry.ecx &= !(SVM | PERFCTR_CORE),
        0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | others | id_bits(vcpus) << 12,
        // The extended APIC id, the core and the node.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id & 0xff, 0),
        _ => {}
    }
}

fn set(register: &mut u32, bit: u32, value: bool) {
    *register = if value {
        *register | bit
    } else {
        *register & !bit
    };
}

fn cache_level(eax: u32) -> u32 {
    eax >> 5 & 7
}

/// How many low bits of an APIC id tell the vCPUs apart.
fn id_bits(vcpus: u8) -> u32 {
    u8::BITS - (vcpus - 1).leading_zeros()
}

/// Leaf 0xb: levels from the thread up.
fn topology_leaf(id: u8, vcpus: u8) -> [kvm_cpuid_entry2; 3] {
    const THREAD: u32 = 1;
    const CORE: u32 = 2;
    let level = |index, shift, processors, kind: u32| kvm_cpuid_entry2 {
        function: TOPOLOGY,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: processors,
        ecx: index | kind << 8,
        edx: id.into(),
        ..Default::default()
    };
    [
        level(0, 0, 1, THREAD),
        level(1, id_bits(vcpus), vcpus.into(), CORE),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported() -> CpuId {
        let entry = |function, index, eax, ecx| kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ecx,
            ebx: 0xffff_ffff,
            edx: 0xffff_ffff,
            ..Default::default()
        };
        CpuId::from_entries(&[
            entry(1, 0, 0, VMX),
            // A first-level and a third-level cache shared by 16, and the end of the list.
            entry(4, 0, 0xfc03_c021, 0),
            entry(4, 3, 0xfc03_c063, 0),
            entry(4, 4, 0, 0),
            entry(0xa, 0, 0x0730_0402, 0),
            entry(0xb, 0, 1, 0x100),
            entry(0xb, 5, 7, 0x205),
            entry(0x1f, 0, 1, 0x100),
            entry(0x4000_0000, 0, 0x4000_0001, 0x564b_4d56),
            entry(0x8000_0001, 0, 0, SVM | PERFCTR_CORE | 1),
            entry(0x8000_0008, 0, 0, 0x700f),
            entry(0x8000_001e, 0, 9, 9),
        ])
        .unwrap()
    }

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let matching: Vec<_> = cpuid
            .as_slice()
            .iter()
            .filter(|entry| (entry.function, entry.index) == (function, index))
            .collect();
        assert_eq!(matching.len(), 1, "{function:#x}.{index}");
        *matching[0]
    }

    fn for_third_of_five() -> CpuId {
        let topology = Topology {
            vcpus: 5,
            tsc_deadline: true,
        };
        for_vcpu(&supported(), 2, topology)
    }

    #[test]
    fn leaf_1_says_that_there_is_a_hypervisor_and_who_the_vcpu_is() {
        let leaf = leaf(&for_third_of_five(), 1, 0);
        assert_eq!(leaf.ebx, 0x0205_ffff);
        assert_eq!(leaf.ecx, HYPERVISOR | TSC_DEADLINE);
        assert_eq!(leaf.edx & HTT, HTT);

        let alone = Topology {
            vcpus: 1,
            tsc_deadline: false,
        };
        let leaf = super::tests::leaf(&for_vcpu(&supported(), 0, alone), 1, 0);
        assert_eq!(leaf.ebx, 0x0001_ffff);
        assert_eq!(leaf.ecx, HYPERVISOR);
        assert_eq!(leaf.edx & HTT, 0);
    }

    #[test]
    fn every_vcpu_is_a_core_of_one_package() {
        let cpuid = for_third_of_five();
        let levels: Vec<_> = (0..3)
            .map(|index| leaf(&cpuid, 0xb, index))
            .map(|leaf| (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx))
            .collect();
        assert_eq!(levels, [(0, 1, 0x100, 2), (3, 5, 0x201, 2), (0, 0, 2, 2)]);
        assert!(cpuid.as_slice().iter().all(|entry| entry.function != 0x1f));
        assert!(cpuid.as_slice().iter().all(|entry| entry.index != 5));
        assert_eq!(leaf(&cpuid, 0x8000_0008, 0).ecx, 0x3004);
        assert_eq!(leaf(&cpuid, 0x8000_001e, 0).eax, 2);
        assert_eq!(leaf(&cpuid, 0x8000_001e, 0).ebx, 2);
    }

    #[test]
    fn only_the_last_cache_is_shared() {
        let cpuid = for_third_of_five();
        assert_eq!(leaf(&cpuid, 4, 0).eax, 4 << 26 | 0x21);
        assert_eq!(leaf(&cpuid, 4, 3).eax, 4 << 26 | 4 << 14 | 0x63);
        assert_eq!(leaf(&cpuid, 4, 4).eax, 0);
    }

    #[test]
    fn no_virtualisation_and_no_counters_but_kvm_shows_itself() {
        let cpuid = for_third_of_five();
        assert_eq!(leaf(&cpuid, 0x8000_0001, 0).ecx, 1);
        assert_eq!(leaf(&cpuid, 0xa, 0).eax, 0);
        assert_eq!(leaf(&cpuid, 0x4000_0000, 0).ecx, 0x564b_4d56);
    }

    #[test]
    fn the_bits_of_an_id_are_as_many_as_its_largest_value_needs() {
        for (vcpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (128, 7), (254, 8)] {
            assert_eq!(id_bits(vcpus), bits, "{vcpus}");
        }
    }
}
