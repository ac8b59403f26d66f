//! The two ports by which an x86 machine is told to reset: the keyboard controller's and the
//! chipset's reset control register. A microVM is not started again, so a reset ends it.

use crate::bus::BusDevice;

/// The keyboard controller (i8042) as far as a machine without a keyboard needs one.
///
/// Reads as zero: both of its buffers are empty, so no driver waits for it.
pub(crate) struct I8042<F>(pub(crate) F);

/// First port of the controller.
pub(crate) const I8042_BASE: u64 = 0x60;
/// Number of ports from the data to the command register. Port 0x61 between them, the speaker's,
/// reads as zero and swallows writes like the rest.
pub(crate) const I8042_LEN: u64 = 5;

/// Offset of the command and status register.
const COMMAND: u64 = 4;
/// "Pulse output lines", with the line of the CPU's reset among them.
const PULSE_RESET: u8 = 0xfe;

impl<F: FnMut() + Send> BusDevice for I8042<F> {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == COMMAND && data == [PULSE_RESET] {
            (self.0)();
        }
    }
}

/// The chipset's reset control register.
pub(crate) struct ResetControl<F>(pub(crate) F);

/// Port of the reset control register.
pub(crate) const RESET_CONTROL: u64 = 0xcf9;

/// "Reset CPU": the transition to one resets.
const RESET_CPU: u8 = 1 << 2;

impl<F: FnMut() + Send> BusDevice for ResetControl<F> {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let [value] = data
            && value & RESET_CPU != 0
        {
            (self.0)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// How often the device made by `device` resets when `writes` reach it.
    fn resets(
        device: impl FnOnce(Box<dyn FnMut() + Send + '_>) -> Box<dyn BusDevice + '_>,
        count: &AtomicU32,
        writes: &[(u64, &[u8])],
    ) -> u32 {
        let mut device = device(Box::new(|| {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        for (offset, data) in writes {
            device.write(*offset, data);
        }
        count.load(Ordering::Relaxed)
    }

    #[test]
    fn only_the_reset_command_on_the_command_port_resets() {
        let cases: [(&str, u64, &[u8], u32); 6] = [
            ("data port", 0, &[0xfe], 0),
            ("speaker port", 1, &[0xfe], 0),
            ("another command", 4, &[0xff], 0),
            ("nothing", 4, &[], 0),
            ("two bytes", 4, &[0xfe, 0], 0),
            ("reset", 4, &[0xfe], 1),
        ];
        for (name, offset, data, expected) in cases {
            let count = AtomicU32::new(0);
            let made = resets(|f| Box::new(I8042(f)), &count, &[(offset, data)]);
            assert_eq!(made, expected, "{name}");
        }
    }

    #[test]
    fn the_chipset_resets_when_reset_cpu_is_written() {
        let count = AtomicU32::new(0);
        let writes: [(u64, &[u8]); 3] = [(0, &[0x02]), (0, &[]), (0, &[0x06])];
        assert_eq!(resets(|f| Box::new(ResetControl(f)), &count, &writes), 1);
    }

    #[test]
    fn a_driver_that_looks_for_a_keyboard_finds_empty_buffers() {
        let mut data = [0xaa; 4];
        I8042(|| ()).read(4, &mut data);
        assert_eq!(data, [0; 4]);
    }
}
