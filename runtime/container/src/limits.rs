//! Resource limits and priorities of the process itself (not of its cgroup).

use std::io;

use nix::sys::personality::{self, Persona};
use runvm_oci::{LinuxIOPriority, LinuxPersonality, Process, Rlimit, Scheduler};
use runvm_sys::sched::{self, SchedAttr};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, getrlimit, prlimit, setrlimit};

use crate::proc_fs::ProcFs;

/// A limit or priority that could not be set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("process.rlimits: there is no resource number {0}")]
    UnknownResource(u32),
    #[error("cannot set {name} to {soft} with the ceiling {hard}")]
    Rlimit {
        name: &'static str,
        soft: Limit,
        hard: Limit,
        source: io::Error,
    },
    #[error("cannot set process.oomScoreAdj to {value}")]
    OomScore { value: i32, source: io::Error },
    #[error("cannot set process.ioPriority")]
    IoPriority(#[source] io::Error),
    #[error("process.ioPriority: priority {0} is not between 0 and 7")]
    IoPriorityRange(i64),
    #[error("cannot set process.scheduler")]
    Scheduler(#[source] io::Error),
    #[error("process.scheduler: {0}")]
    SchedulerValue(&'static str),
    #[error("cannot set linux.personality")]
    Personality(#[source] io::Error),
    #[error("cannot set linux.memoryPolicy")]
    MemoryPolicy(#[source] io::Error),
    #[error("cannot set the cpu affinity")]
    Affinity(#[source] io::Error),
}

/// A limit's value, printed in words where it has none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit(u64);

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            u64::MAX => f.write_str("unlimited"),
            value => value.fmt(f),
        }
    }
}

/// Raises the ceilings of the child `pid` that have to be raised: by the caller, since the root of
/// a user namespace may not. What is lowered, and could hinder the set-up itself, waits for
/// [`set_rlimits`].
pub(crate) fn raise_rlimits(pid: u32, rlimits: &[Rlimit]) -> Result<(), LimitError> {
    for rlimit in rlimits {
        let (resource, name) = resource(rlimit.resource)?;
        // The child has the caller's. `None` is unlimited.
        let now = getrlimit(resource);
        if rlimit.hard > now.maximum.unwrap_or(u64::MAX) {
            let raised = rustix::process::Rlimit {
                current: now.current,
                maximum: value(rlimit.hard),
            };
            prlimit(Pid::from_raw(pid.cast_signed()), resource, raised)
                .map_err(failed(name, rlimit))?;
        }
    }
    Ok(())
}

/// Sets the limits as the plan has them; the last thing before the program.
pub(crate) fn set_rlimits(rlimits: &[Rlimit]) -> Result<(), LimitError> {
    for rlimit in rlimits {
        let (resource, name) = resource(rlimit.resource)?;
        let limits = rustix::process::Rlimit {
            current: value(rlimit.soft),
            maximum: value(rlimit.hard),
        };
        setrlimit(resource, limits).map_err(failed(name, rlimit))?;
    }
    Ok(())
}

fn failed(name: &'static str, asked: &Rlimit) -> impl Fn(Errno) -> LimitError {
    let (soft, hard) = (Limit(asked.soft), Limit(asked.hard));
    move |errno| LimitError::Rlimit {
        name,
        soft,
        hard,
        source: errno.into(),
    }
}

fn value(limit: u64) -> Option<u64> {
    Some(limit).filter(|limit| *limit != u64::MAX)
}

/// Numbers as on every architecture but alpha, mips and sparc (getrlimit(2)).
fn resource(number: u32) -> Result<(Resource, &'static str), LimitError> {
    Ok(match number {
        0 => (Resource::Cpu, "RLIMIT_CPU"),
        1 => (Resource::Fsize, "RLIMIT_FSIZE"),
        2 => (Resource::Data, "RLIMIT_DATA"),
        3 => (Resource::Stack, "RLIMIT_STACK"),
        4 => (Resource::Core, "RLIMIT_CORE"),
        5 => (Resource::Rss, "RLIMIT_RSS"),
        6 => (Resource::Nproc, "RLIMIT_NPROC"),
        7 => (Resource::Nofile, "RLIMIT_NOFILE"),
        8 => (Resource::Memlock, "RLIMIT_MEMLOCK"),
        9 => (Resource::As, "RLIMIT_AS"),
        10 => (Resource::Locks, "RLIMIT_LOCKS"),
        11 => (Resource::Sigpending, "RLIMIT_SIGPENDING"),
        12 => (Resource::Msgqueue, "RLIMIT_MSGQUEUE"),
        13 => (Resource::Nice, "RLIMIT_NICE"),
        14 => (Resource::Rtprio, "RLIMIT_RTPRIO"),
        15 => (Resource::Rttime, "RLIMIT_RTTIME"),
        other => return Err(LimitError::UnknownResource(other)),
    })
}

/// `oomScoreAdj`, `ioPriority` and `scheduler`.
pub(crate) fn set_priorities(proc_fs: &ProcFs, process: &Process) -> Result<(), LimitError> {
    if let Some(value) = process.oom_score_adj {
        proc_fs
            .write("self/oom_score_adj", &value.to_string())
            .map_err(|source| LimitError::OomScore { value, source })?;
    }
    if let Some(priority) = &process.io_priority {
        set_io_priority(priority)?;
    }
    match &process.scheduler {
        Some(scheduler) => sched::set_attr(sched_attr(scheduler)?).map_err(LimitError::Scheduler),
        None => Ok(()),
    }
}

fn set_io_priority(asked: &LinuxIOPriority) -> Result<(), LimitError> {
    use oci_spec::runtime::IOPriorityClass::{IoprioClassBe, IoprioClassIdle, IoprioClassRt};
    let class = match asked.class() {
        IoprioClassRt => 1,
        IoprioClassBe => 2,
        IoprioClassIdle => 3,
    };
    let level = asked.priority();
    let level = u16::try_from(level)
        .ok()
        .filter(|level| *level < 8)
        .ok_or(LimitError::IoPriorityRange(level))?;
    sched::set_io_priority(class, level).map_err(LimitError::IoPriority)
}

/// Numbers: linux/sched.h.
fn sched_attr(asked: &Scheduler) -> Result<SchedAttr, LimitError> {
    use oci_spec::runtime::{LinuxSchedulerFlag as Flag, LinuxSchedulerPolicy as Policy};
    let policy = match asked.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => {
            return Err(LimitError::SchedulerValue("Linux has no policy SCHED_ISO"));
        }
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let flags = asked.flags().iter().flatten().map(|flag| match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    });
    Ok(SchedAttr {
        policy,
        flags: flags.fold(0, |all, flag| all | flag),
        nice: asked.nice().unwrap_or(0),
        priority: u32::try_from(asked.priority().unwrap_or(0))
            .map_err(|_| LimitError::SchedulerValue("priority is negative"))?,
        runtime_ns: asked.runtime().unwrap_or(0),
        deadline_ns: asked.deadline().unwrap_or(0),
        period_ns: asked.period().unwrap_or(0),
    })
}

/// `linux.personality`.
pub(crate) fn set_personality(asked: &LinuxPersonality) -> Result<(), LimitError> {
    use oci_spec::runtime::LinuxPersonalityDomain::{PerLinux, PerLinux32};
    // sys/personality.h.
    let domain = match asked.domain() {
        PerLinux => 0x0000,
        PerLinux32 => 0x0008,
    };
    personality::set(Persona::from_bits_retain(domain))
        .map(|_| ())
        .map_err(|errno| LimitError::Personality(errno.into()))
}

/// `linux.memoryPolicy`: `mode` is a `MPOL_*` with its flags.
pub(crate) fn set_memory_policy(mode: i32, nodes: &[u32]) -> Result<(), LimitError> {
    runvm_sys::memory_policy::set(mode, nodes).map_err(LimitError::MemoryPolicy)
}

/// Lets the process run on `cpus` only.
pub(crate) fn set_affinity(cpus: &[u32]) -> Result<(), LimitError> {
    let mut set = rustix::thread::CpuSet::new();
    for cpu in cpus {
        let cpu = usize::try_from(*cpu).unwrap_or(usize::MAX);
        if cpu >= rustix::thread::CpuSet::MAX_CPU {
            return Err(LimitError::Affinity(io::ErrorKind::InvalidInput.into()));
        }
        set.set(cpu);
    }
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|errno| LimitError::Affinity(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_limit() {
        let error = LimitError::Rlimit {
            name: "RLIMIT_NOFILE",
            soft: Limit(1024),
            hard: Limit(u64::MAX),
            source: io::Error::from_raw_os_error(1),
        };
        let text = error.to_string();
        assert_eq!(
            text,
            "cannot set RLIMIT_NOFILE to 1024 with the ceiling unlimited"
        );
    }

    #[test]
    fn every_resource_number_has_a_name_and_no_other_has() {
        assert!((0..16).all(|number| resource(number).is_ok()));
        assert!(resource(16).is_err());
    }
}
