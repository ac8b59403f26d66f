//! Scheduling and I/O priority calls that neither rustix nor libc wraps.

#![allow(unsafe_code)]

use std::io;

/// What sched_setattr(2) is to set for the calling thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub runtime_ns: u64,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub deadline_ns: u64,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub period_ns: u64,
}

/// Layout: `struct sched_attr`, first version (linux/sched/types.h).
#[repr(C)]
struct KernelSchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets the scheduling policy of the calling thread. See sched_setattr(2).
pub fn set_attr(attr: SchedAttr) -> io::Result<()> {
    const SIZE: u32 = 48;
    const { assert!(size_of::<KernelSchedAttr>() == SIZE as usize) };
    let attr = KernelSchedAttr {
        size: SIZE,
        policy: attr.policy,
        flags: attr.flags,
        nice: attr.nice,
        priority: attr.priority,
        runtime: attr.runtime_ns,
        deadline: attr.deadline_ns,
        period: attr.period_ns,
    };
    // SAFETY: `attr` has the kernel's layout, names its own size and outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sets the I/O class and level of the calling thread. See ioprio_set(2).
pub fn set_io_priority(class: u8, level: u16) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    let value = (u32::from(class) << IOPRIO_CLASS_SHIFT) | u32::from(level);
    // SAFETY: ioprio_set takes three integers and touches no memory of ours.
    let answer = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
