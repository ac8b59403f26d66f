//! Dispatch of the guest's accesses to devices by address range: one [`Bus`] for MMIO, one for
//! port I/O.
//!
//! A bus is put together before the guest runs and does not change afterwards, so a vCPU thread
//! takes no lock but the one of the device that it reaches.

use std::sync::{Arc, Mutex};

use crate::lock::lock;

/// A device the guest reaches by reads and writes in an address range.
///
/// The guest is not trusted: any offset and any length may come, and no access may fail. What a
/// device does not implement reads as zero and swallows writes.
pub(crate) trait BusDevice: Send {
    /// Reads at `offset` from the start of the device's range; fills all of `data`.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Writes at `offset` from the start of the device's range.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Why a range was not added to a [`Bus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The range has no address in it.
    #[error("bus range at {base:#x} is empty")]
    Empty {
        /// First address.
        base: u64,
    },
    /// The range's end is past the last address.
    #[error("bus range of {len:#x} at {base:#x} reaches beyond the address space")]
    Overflow {
        /// First address.
        base: u64,
        /// Number of addresses.
        len: u64,
    },
    /// Another device answers to a part of the range.
    #[error("bus range of {len:#x} at {base:#x} overlaps the one at {other:#x}")]
    Overlap {
        /// First address.
        base: u64,
        /// Number of addresses.
        len: u64,
        /// First address of the range that was there before.
        other: u64,
    },
}

struct Entry {
    first: u64,
    last: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// An address space with devices in it.
#[derive(Default)]
pub(crate) struct Bus {
    /// Sorted by `first`; no two overlap.
    entries: Vec<Entry>,
}

impl Bus {
    /// Lets `device` answer to the `len` addresses from `base` on.
    pub(crate) fn insert(
        &mut self,
        base: u64,
        len: u64,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), BusError> {
        let past_first = len.checked_sub(1).ok_or(BusError::Empty { base })?;
        let last = base
            .checked_add(past_first)
            .ok_or(BusError::Overflow { base, len })?;
        if let Some(other) = self
            .entries
            .iter()
            .find(|entry| base <= entry.last && entry.first <= last)
        {
            return Err(BusError::Overlap {
                base,
                len,
                other: other.first,
            });
        }
        let at = self.entries.partition_point(|entry| entry.first < base);
        let first = base;
        self.entries.insert(
            at,
            Entry {
                first,
                last,
                device,
            },
        );
        Ok(())
    }

    /// Reads from the device at `address`. Where there is none, the bus floats: all ones.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some(entry) => lock(&entry.device).read(address - entry.first, data),
            None => data.fill(0xff),
        }
    }

    /// Writes to the device at `address`. Where there is none, the write is lost.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        if let Some(entry) = self.find(address) {
            lock(&entry.device).write(address - entry.first, data);
        }
    }

    fn find(&self, address: u64) -> Option<&Entry> {
        let after = self.entries.partition_point(|entry| entry.first <= address);
        let entry = self.entries.get(after.checked_sub(1)?)?;
        (address <= entry.last).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as its own number, and remembers the last write.
    struct Probe(u8, Option<(u64, Vec<u8>)>);

    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(self.0 + u8::try_from(offset).unwrap());
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.1 = Some((offset, data.to_vec()));
        }
    }

    fn probe(number: u8) -> Arc<Mutex<Probe>> {
        Arc::new(Mutex::new(Probe(number, None)))
    }

    fn read(bus: &Bus, address: u64) -> u8 {
        let mut data = [0];
        bus.read(address, &mut data);
        data[0]
    }

    #[test]
    fn an_access_reaches_the_device_whose_range_holds_the_address() {
        let mut bus = Bus::default();
        bus.insert(0x30, 0x10, probe(0x80)).unwrap();
        bus.insert(0x10, 0x10, probe(0x40)).unwrap();
        bus.insert(u64::MAX, 1, probe(0x20)).unwrap();
        assert_eq!(read(&bus, 0x0f), 0xff);
        assert_eq!(read(&bus, 0x10), 0x40);
        assert_eq!(read(&bus, 0x1f), 0x4f);
        assert_eq!(read(&bus, 0x20), 0xff);
        assert_eq!(read(&bus, 0x3f), 0x8f);
        assert_eq!(read(&bus, u64::MAX), 0x20);
    }

    #[test]
    fn a_write_arrives_with_its_offset_and_one_to_nowhere_is_lost() {
        let mut bus = Bus::default();
        let device = probe(0);
        bus.insert(0x100, 8, device.clone()).unwrap();
        bus.write(0x108, &[1]);
        assert_eq!(lock(&device).1, None);
        bus.write(0x107, &[1, 2]);
        assert_eq!(lock(&device).1, Some((7, vec![1, 2])));
    }

    #[test]
    fn empty_overflowing_and_overlapping_ranges_are_refused() {
        let mut bus = Bus::default();
        bus.insert(0x10, 0x10, probe(0)).unwrap();
        let cases = [
            ("empty", 0x40, 0, BusError::Empty { base: 0x40 }),
            (
                "overflow",
                u64::MAX,
                2,
                BusError::Overflow {
                    base: u64::MAX,
                    len: 2,
                },
            ),
            (
                "over its first address",
                0x0f,
                2,
                BusError::Overlap {
                    base: 0x0f,
                    len: 2,
                    other: 0x10,
                },
            ),
            (
                "over its last address",
                0x1f,
                1,
                BusError::Overlap {
                    base: 0x1f,
                    len: 1,
                    other: 0x10,
                },
            ),
            (
                "around it",
                0,
                0x100,
                BusError::Overlap {
                    base: 0,
                    len: 0x100,
                    other: 0x10,
                },
            ),
        ];
        for (name, base, len, error) in cases {
            assert_eq!(bus.insert(base, len, probe(1)), Err(error), "{name}");
        }
        bus.insert(0x20, 1, probe(1)).unwrap();
    }
}
