//! Counters of VM exits by cause. What leaves the guest is what a start-up pays for beside the
//! guest's own instructions, so the project counts it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a vCPU left the guest and came to the VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum ExitCause {
    /// The guest read an I/O port.
    PortRead,
    /// The guest wrote an I/O port.
    PortWrite,
    /// The guest read device memory.
    MmioRead,
    /// The guest wrote device memory.
    MmioWrite,
    /// The VMM asked, or a signal came.
    Interrupted,
    /// Anything else, such as the exit that ends the VM.
    Other,
}

impl ExitCause {
    /// Every cause, in the order of [`ExitCounts`].
    pub const ALL: [Self; 6] = [
        Self::PortRead,
        Self::PortWrite,
        Self::MmioRead,
        Self::MmioWrite,
        Self::Interrupted,
        Self::Other,
    ];

    /// The cause in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::PortRead => "port read",
            Self::PortWrite => "port write",
            Self::MmioRead => "mmio read",
            Self::MmioWrite => "mmio write",
            Self::Interrupted => "interrupted",
            Self::Other => "other",
        }
    }
}

/// How often the vCPUs of a VM left the guest and came to the VMM. Exits that KVM deals with
/// itself (its interrupt controllers, ioeventfds, page faults) are not among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExitCounts([u64; ExitCause::ALL.len()]);

impl ExitCounts {
    /// The exits for one cause.
    pub fn of(&self, cause: ExitCause) -> u64 {
        self.0[cause as usize]
    }

    /// All exits.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl fmt::Display for ExitCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} exits", self.total())?;
        for cause in ExitCause::ALL {
            write!(f, ", {} {}", self.of(cause), cause.name())?;
        }
        Ok(())
    }
}

/// The counters while the VM runs, shared by its vCPUs.
#[derive(Debug, Default)]
pub(crate) struct ExitCounters([AtomicU64; ExitCause::ALL.len()]);

impl ExitCounters {
    pub(crate) fn count(&self, cause: ExitCause) {
        self.0[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> ExitCounts {
        ExitCounts(std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_a_counter_of_its_own() {
        let counters = ExitCounters::default();
        for (times, cause) in ExitCause::ALL.into_iter().enumerate() {
            for _ in 0..=times {
                counters.count(cause);
            }
        }
        let counts = counters.read();
        for (times, cause) in (1..).zip(ExitCause::ALL) {
            assert_eq!(counts.of(cause), times, "{}", cause.name());
        }
        assert_eq!(counts.total(), 1 + 2 + 3 + 4 + 5 + 6);
    }
}
