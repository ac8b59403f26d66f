//! The MP table (MultiProcessor Specification 1.4): the vCPUs, and which interrupt line reaches
//! which pin of the I/O APIC. It stands in for ACPI, which this machine has not.

use super::layout::{IO_APIC, LOCAL_APIC};

/// Pins of KVM's I/O APIC. Interrupt line `n` is wired to pin `n`.
pub(crate) const IO_APIC_PINS: u8 = 24;

/// The most vCPUs that the table can name: APIC ids have 8 bits, the I/O APIC needs one, and
/// 0xff is everybody.
pub(crate) const MAX_VCPUS: u8 = 254;

const SPECIFICATION_1_4: u8 = 4;
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
const ALL_LOCAL_APICS: u8 = 0xff;
const ISA_BUS: u8 = 0;

const PROCESSOR_ENABLED: u8 = 1;
const PROCESSOR_BOOT: u8 = 1 << 1;
const IO_APIC_ENABLED: u8 = 1;

/// Entry types (section 4.3).
mod entry {
    pub(super) const PROCESSOR: u8 = 0;
    pub(super) const BUS: u8 = 1;
    pub(super) const IO_APIC: u8 = 2;
    pub(super) const IO_INTERRUPT: u8 = 3;
    pub(super) const LOCAL_INTERRUPT: u8 = 4;
}

/// Interrupt types (section 4.3.4).
mod interrupt {
    pub(super) const VECTORED: u8 = 0;
    pub(super) const NMI: u8 = 1;
    pub(super) const EXTERNAL: u8 = 3;
}

/// The floating pointer and, right behind it, the configuration table of a machine with `vcpus`
/// vCPUs, to be put at guest physical `address`.
pub(super) fn mp_table(address: u32, vcpus: u8) -> Vec<u8> {
    let mut bytes = floating_pointer(address + FLOATING_POINTER_BYTES);
    bytes.extend(configuration_table(vcpus));
    bytes
}

const FLOATING_POINTER_BYTES: u32 = 16;

/// Section 4.1.
fn floating_pointer(table: u32) -> Vec<u8> {
    let mut bytes = Vec::from(*b"_MP_");
    bytes.extend(table.to_le_bytes());
    // Its length in units of 16 bytes.
    bytes.extend([1, SPECIFICATION_1_4]);
    // The checksum, and features: a configuration table is present, and no PIC mode.
    bytes.extend([0; 6]);
    bytes[10] = checksum(&bytes);
    bytes
}

/// Section 4.2.
fn configuration_table(vcpus: u8) -> Vec<u8> {
    let entries = Entries::of_machine(vcpus);
    let length = HEADER_BYTES + entries.bytes.len();
    let length = u16::try_from(length).unwrap_or_else(|_| unreachable!("254 vCPUs take 5 KiB"));

    let mut bytes = Vec::from(*b"PCMP");
    bytes.extend(length.to_le_bytes());
    bytes.extend([SPECIFICATION_1_4, 0]);
    bytes.extend(b"RUNVM   ");
    bytes.extend(b"MICROVM     ");
    // No OEM table.
    bytes.extend([0; 6]);
    bytes.extend(entries.count.to_le_bytes());
    bytes.extend(LOCAL_APIC.to_le_bytes());
    // No extended table.
    bytes.extend([0; 4]);
    bytes.extend(entries.bytes);
    bytes[7] = checksum(&bytes);
    bytes
}

const HEADER_BYTES: usize = 44;

/// What makes the sum of all bytes zero, where the checksum is still zero in `bytes`.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

#[derive(Default)]
struct Entries {
    bytes: Vec<u8>,
    count: u16,
}

impl Entries {
    /// The entries in the order of their types, as the specification wants.
    fn of_machine(vcpus: u8) -> Self {
        let mut entries = Self::default();
        for id in 0..vcpus {
            entries.add_processor(id);
        }
        entries.add(&[entry::BUS, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
        let io_apic = vcpus;
        entries.add_io_apic(io_apic);
        for line in 0..IO_APIC_PINS {
            entries.add_wire(
                entry::IO_INTERRUPT,
                interrupt::VECTORED,
                line,
                [io_apic, line],
            );
        }
        let to_all = |pin| [ALL_LOCAL_APICS, pin];
        entries.add_wire(entry::LOCAL_INTERRUPT, interrupt::EXTERNAL, 0, to_all(0));
        entries.add_wire(entry::LOCAL_INTERRUPT, interrupt::NMI, 0, to_all(1));
        entries
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.count += 1;
    }

    /// Section 4.3.1. Signature and feature flags are zero: a kernel asks CPUID.
    fn add_processor(&mut self, id: u8) {
        let boot = if id == 0 { PROCESSOR_BOOT } else { 0 };
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&[
            entry::PROCESSOR,
            id,
            LOCAL_APIC_VERSION,
            PROCESSOR_ENABLED | boot,
        ]);
        self.add(&bytes);
    }

    /// Section 4.3.3.
    fn add_io_apic(&mut self, id: u8) {
        let [a, b, c, d] = IO_APIC.to_le_bytes();
        self.add(&[
            entry::IO_APIC,
            id,
            IO_APIC_VERSION,
            IO_APIC_ENABLED,
            a,
            b,
            c,
            d,
        ]);
    }

    /// Sections 4.3.4 and 4.3.5. Polarity and trigger mode zero: as the ISA bus has them, active
    /// high and edge-triggered.
    fn add_wire(&mut self, entry: u8, interrupt: u8, line: u8, [apic, pin]: [u8; 2]) {
        self.add(&[entry, interrupt, 0, 0, ISA_BUS, line, apic, pin]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes
            .iter()
            .fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    fn u16_at(bytes: &[u8], at: usize) -> u16 {
        u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
    }

    #[test]
    fn the_floating_pointer_points_behind_itself_and_adds_up_to_zero() {
        let bytes = mp_table(0xf_0000, 1);
        assert_eq!(&bytes[..4], b"_MP_");
        assert_eq!(bytes[4..8], 0xf_0010u32.to_le_bytes());
        assert_eq!(bytes[8..10], [1, 4]);
        assert_eq!(bytes[11..16], [0; 5]);
        assert_eq!(sum(&bytes[..16]), 0);
    }

    #[test]
    fn the_table_is_as_long_as_it_says_and_adds_up_to_zero() {
        for vcpus in [1, 2, 16, MAX_VCPUS] {
            let table = &mp_table(0xf_0000, vcpus)[16..];
            assert_eq!(&table[..4], b"PCMP");
            assert_eq!(usize::from(u16_at(table, 4)), table.len());
            assert_eq!(table[6], 4);
            assert_eq!(sum(table), 0, "{vcpus} vCPUs");
            assert_eq!(table[36..40], 0xfee0_0000u32.to_le_bytes());
        }
    }

    /// Walks the entries as a kernel does: by the length that belongs to each type.
    fn entries(table: &[u8]) -> Vec<&[u8]> {
        let mut rest = &table[HEADER_BYTES..];
        let mut entries = Vec::new();
        while let Some(kind) = rest.first() {
            let len = if *kind == 0 { 20 } else { 8 };
            let (entry, after) = rest.split_at(len);
            entries.push(entry);
            rest = after;
        }
        entries
    }

    #[test]
    fn the_entries_name_each_vcpu_once_and_one_of_them_boots() {
        let table = &mp_table(0xf_0000, 3)[16..];
        let entries = entries(table);
        assert_eq!(usize::from(u16_at(table, 34)), entries.len());
        let flags: Vec<_> = entries
            .iter()
            .filter(|entry| entry[0] == 0)
            .map(|entry| (entry[1], entry[3]))
            .collect();
        assert_eq!(flags, [(0, 3), (1, 1), (2, 1)]);
    }

    #[test]
    fn every_interrupt_line_is_wired_to_its_pin() {
        let table = &mp_table(0xf_0000, 2)[16..];
        let wires: Vec<_> = entries(table)
            .into_iter()
            .filter(|entry| entry[0] == 3)
            .collect();
        assert_eq!(wires.len(), 24);
        for (line, wire) in (0..).zip(wires) {
            assert_eq!(wire, [3, 0, 0, 0, 0, line, 2, line]);
        }
    }
}
