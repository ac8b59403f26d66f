//! The rules of `process`, for config.json and for exec's process.json alike.

use oci_spec::runtime::{
    LinuxIOPriority, LinuxSchedulerFlag, LinuxSchedulerPolicy, Scheduler, SchedulerBuilder,
};

use crate::{ConfigError, ConsoleSize, CpuAffinity, Process, Rlimit, User};
use crate::{capability, check, document};

/// Names of `process.rlimits`; a name's index is its number on x86-64 and AArch64 (getrlimit(2)).
const RLIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// Names of `process.scheduler.flags` (sched_setattr(2)). The first has two spellings: the
/// specification's and the one its flags would have by the kernel's pattern.
const SCHEDULER_FLAGS: [(&str, LinuxSchedulerFlag); 8] = [
    ("SCHED_RESET_ON_FORK", LinuxSchedulerFlag::SchedResetOnFork),
    (
        "SCHED_FLAG_RESET_ON_FORK",
        LinuxSchedulerFlag::SchedResetOnFork,
    ),
    ("SCHED_FLAG_RECLAIM", LinuxSchedulerFlag::SchedFlagReclaim),
    (
        "SCHED_FLAG_DL_OVERRUN",
        LinuxSchedulerFlag::SchedFlagDLOverrun,
    ),
    (
        "SCHED_FLAG_KEEP_POLICY",
        LinuxSchedulerFlag::SchedFlagKeepPolicy,
    ),
    (
        "SCHED_FLAG_KEEP_PARAMS",
        LinuxSchedulerFlag::SchedFlagKeepParams,
    ),
    (
        "SCHED_FLAG_UTIL_CLAMP_MIN",
        LinuxSchedulerFlag::SchedFlagUtilClampMin,
    ),
    (
        "SCHED_FLAG_UTIL_CLAMP_MAX",
        LinuxSchedulerFlag::SchedFlagUtilClampMax,
    ),
];

/// More supplementary groups than this no process may have (NGROUPS_MAX).
const GROUPS_MAX: usize = 65536;

/// One more than the highest CPU number a kernel can be built for (CONFIG_NR_CPUS).
const CPUS_MAX: u32 = 8192;

pub(crate) fn checked(
    process: document::Process,
    warnings: &mut Vec<String>,
) -> Result<Process, ConfigError> {
    let env = process.env.unwrap_or_default();
    check::environment("process.env", &env)?;
    Ok(Process {
        terminal: process.terminal.unwrap_or(false),
        console_size: process.console_size.map(console_size).transpose()?,
        user: user(process.user.unwrap_or_default())?,
        args: args(process.args)?,
        env,
        cwd: cwd(process.cwd)?,
        capabilities: process
            .capabilities
            .map(|sets| capability::checked(&sets, warnings)),
        rlimits: rlimits(process.rlimits.unwrap_or_default())?,
        no_new_privileges: process.no_new_privileges.unwrap_or(false),
        apparmor_profile: check::optional_text(
            format_args!("process.apparmorProfile"),
            process.apparmor_profile,
        )?,
        selinux_label: check::optional_text(
            format_args!("process.selinuxLabel"),
            process.selinux_label,
        )?,
        oom_score_adj: process.oom_score_adj.map(oom_score_adj).transpose()?,
        io_priority: process.io_priority.map(io_priority).transpose()?,
        scheduler: process.scheduler.map(scheduler).transpose()?,
        exec_cpu_affinity: process.exec_cpu_affinity.map(cpu_affinity).transpose()?,
    })
}

fn args(args: Option<Vec<String>>) -> Result<Vec<String>, ConfigError> {
    let args = args.unwrap_or_default();
    if args.is_empty() {
        return Err(ConfigError::Missing {
            field: "process.args".into(),
            expected: "the program and its arguments",
        });
    }
    check::texts("process.args", &args)?;
    Ok(args)
}

fn cwd(cwd: Option<String>) -> Result<std::path::PathBuf, ConfigError> {
    let cwd = cwd.ok_or_else(|| ConfigError::Missing {
        field: "process.cwd".into(),
        expected: "an absolute path",
    })?;
    check::absolute(format_args!("process.cwd"), cwd)
}

fn console_size(size: document::ConsoleSize) -> Result<ConsoleSize, ConfigError> {
    let side = |field: &str, value: u64| match u16::try_from(value) {
        Ok(value) => Ok(value),
        Err(_) => check::refuse_number(
            format_args!("process.consoleSize.{field}"),
            value,
            "at most 65535",
        ),
    };
    Ok(ConsoleSize {
        height: side("height", size.height)?,
        width: side("width", size.width)?,
    })
}

fn user(user: document::User) -> Result<User, ConfigError> {
    id("uid", user.uid)?;
    id("gid", user.gid)?;
    let additional_gids = user.additional_gids.unwrap_or_default();
    if additional_gids.len() > GROUPS_MAX {
        return check::refuse_number(
            format_args!("process.user.additionalGids"),
            format_args!("{} groups", additional_gids.len()),
            format!("at most {GROUPS_MAX}"),
        );
    }
    for gid in &additional_gids {
        id("additionalGids", *gid)?;
    }
    if let Some(umask) = user.umask.filter(|umask| *umask > 0o777) {
        return check::refuse_number(
            format_args!("process.user.umask"),
            umask,
            "at most 511 (0o777)",
        );
    }
    Ok(User {
        uid: user.uid,
        gid: user.gid,
        umask: user.umask,
        additional_gids,
    })
}

/// `(uid_t)-1` means "no change" to setresuid(2) and its kin: it would leave the runtime's own id.
fn id(field: &str, id: u32) -> Result<(), ConfigError> {
    if id == u32::MAX {
        return check::refuse_number(
            format_args!("process.user.{field}"),
            id,
            "an id below 4294967295",
        );
    }
    Ok(())
}

fn rlimits(rlimits: Vec<document::Rlimit>) -> Result<Vec<Rlimit>, ConfigError> {
    let mut checked: Vec<Rlimit> = Vec::with_capacity(rlimits.len());
    for (i, limit) in rlimits.into_iter().enumerate() {
        let field = format_args!("process.rlimits[{i}]").to_string();
        let number = RLIMITS.iter().position(|name| *name == limit.kind);
        let Some(resource) = number.and_then(|number| u32::try_from(number).ok()) else {
            return check::refuse(
                format_args!("{field}.type"),
                &limit.kind,
                "an RLIMIT_* name of getrlimit(2)",
            );
        };
        if checked.iter().any(|other| other.resource == resource) {
            return Err(ConfigError::Duplicate {
                field: format!("{field}.type"),
                value: limit.kind,
            });
        }
        if limit.soft > limit.hard {
            return check::refuse_number(
                format_args!("{field}.soft"),
                limit.soft,
                format!("at most the hard limit, {}", limit.hard),
            );
        }
        checked.push(Rlimit {
            resource,
            soft: limit.soft,
            hard: limit.hard,
        });
    }
    Ok(checked)
}

fn oom_score_adj(value: i32) -> Result<i32, ConfigError> {
    if !(-1000..=1000).contains(&value) {
        return check::refuse_number(format_args!("process.oomScoreAdj"), value, "-1000 to 1000");
    }
    Ok(value)
}

fn io_priority(priority: LinuxIOPriority) -> Result<LinuxIOPriority, ConfigError> {
    if !(0..=7).contains(&priority.priority()) {
        return check::refuse_number(
            format_args!("process.ioPriority.priority"),
            priority.priority(),
            "0 to 7",
        );
    }
    Ok(priority)
}

fn scheduler(scheduler: document::Scheduler) -> Result<Scheduler, ConfigError> {
    use LinuxSchedulerPolicy::{SchedDeadline, SchedFifo, SchedRr};
    let policy = scheduler.policy;
    if let Some(nice) = scheduler.nice.filter(|nice| !(-20..=19).contains(nice)) {
        return check::refuse_number(format_args!("process.scheduler.nice"), nice, "-20 to 19");
    }
    if scheduler.priority.is_some_and(|priority| priority != 0)
        && !matches!(policy, SchedFifo | SchedRr)
    {
        return Err(ConfigError::Needs {
            field: "process.scheduler.priority".into(),
            needs: "the policy SCHED_FIFO or SCHED_RR",
        });
    }
    let deadline = [scheduler.runtime, scheduler.deadline, scheduler.period];
    if policy != SchedDeadline && deadline.into_iter().flatten().any(|value| value != 0) {
        return Err(ConfigError::Needs {
            field: "process.scheduler.{runtime,deadline,period}".into(),
            needs: "the policy SCHED_DEADLINE",
        });
    }
    let mut checked = SchedulerBuilder::default()
        .policy(policy)
        .flags(scheduler_flags(scheduler.flags.unwrap_or_default())?);
    if let Some(nice) = scheduler.nice {
        checked = checked.nice(nice);
    }
    if let Some(priority) = scheduler.priority {
        checked = checked.priority(priority);
    }
    if let Some(runtime) = scheduler.runtime {
        checked = checked.runtime(runtime);
    }
    if let Some(deadline) = scheduler.deadline {
        checked = checked.deadline(deadline);
    }
    if let Some(period) = scheduler.period {
        checked = checked.period(period);
    }
    // Every field has a default, so there is nothing for build() to miss.
    Ok(checked.build().unwrap_or_default())
}

fn scheduler_flags(names: Vec<String>) -> Result<Vec<LinuxSchedulerFlag>, ConfigError> {
    let mut flags = Vec::with_capacity(names.len());
    for (i, name) in names.iter().enumerate() {
        match SCHEDULER_FLAGS.iter().find(|(known, _)| known == name) {
            Some((_, flag)) => flags.push(*flag),
            None => {
                return check::refuse(
                    format_args!("process.scheduler.flags[{i}]"),
                    name,
                    "a SCHED_FLAG_* name of sched_setattr(2)",
                );
            }
        }
    }
    Ok(flags)
}

fn cpu_affinity(affinity: document::CpuAffinity) -> Result<CpuAffinity, ConfigError> {
    let list = |field: &str, list: Option<String>| match list.filter(|list| !list.is_empty()) {
        None => Ok(None),
        Some(list) => match check::number_list(&list, CPUS_MAX) {
            Some(cpus) => Ok(Some(cpus)),
            None => check::refuse(
                format_args!("process.execCPUAffinity.{field}"),
                &list,
                "a list of CPU numbers such as \"0-3,7\"",
            ),
        },
    };
    Ok(CpuAffinity {
        initial: list("initial", affinity.initial)?,
        r#final: list("final", affinity.r#final)?,
    })
}
