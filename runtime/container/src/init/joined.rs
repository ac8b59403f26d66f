//! One more process in a container that runs.

use runvm_oci::{Capabilities, Process};
use rustix::fs::{Gid, Mode, Uid};
use rustix::process::umask;
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};

use super::{
    InitError, enter_cgroups, forbid_new_privileges, give_streams, hide, let_go, new_keyring,
    outlive_caller, own_null_streams, start_session, take,
};
use crate::control::{Control, ExecOrder, Word};
use crate::proc_fs::ProcFs;
use crate::process::{self, Changed, Program};
use crate::rootfs::Rootfs;
use crate::seccomp::{self, Filter};
use crate::terminal::Terminal;
use crate::{credentials, limits, namespaces, security};

const DEFAULT_UMASK: u32 = 0o022;
const CLONE_NEWUSER: u32 = 0x1000_0000;

/// Enters the container, reports, and becomes the program. The pid namespace it was born in.
pub(super) fn run(
    control: &mut Control,
    order: ExecOrder,
    process: &[u8],
    entered_ns: u64,
) -> Result<(), InitError> {
    // Before anything of the container can look: it holds what is the host's.
    hide()?;
    let mut process = Process::parse(process)?;
    process.capabilities = process.capabilities.or(order.capabilities.map(unpack));
    process.apparmor_profile = process.apparmor_profile.or(order.apparmor_profile.clone());
    process.selinux_label = process.selinux_label.or(order.selinux_label.clone());
    process.user.umask = process.user.umask.or(order.umask);
    process.oom_score_adj = process.oom_score_adj.or(order.oom_score_adj);
    process.io_priority = process.io_priority.or(order.io_priority);
    process.scheduler = process.scheduler.or(order.scheduler.clone());
    let proc_fs = ProcFs::open()?;
    enter(&order, &process, &proc_fs)?;
    if process.terminal {
        let rootfs = Rootfs::current().map_err(InitError::OpenRoot)?;
        adopt_terminal(control, Terminal::open(&rootfs, &process)?)?;
    }
    let (program, mut warnings) = take_on(&order, &process, &proc_fs)?;
    let filter = order.seccomp.as_ref().map(seccomp::compile).transpose()?;
    warnings.extend(filter.iter().flat_map(Filter::warnings).cloned());
    outlive_caller()?;
    let word = Word::Ready {
        entered_ns,
        warnings,
    };
    control.send(&word, &[], &[]).map_err(InitError::Control)?;
    limits::set_rlimits(&process.rlimits)?;
    let_go(order.preserve_fds)?;
    // Last of all, so that it need not allow what only the engine calls.
    match &filter {
        Some(filter) if filter.needs_listener() => super::load_and_offer(filter, control)?,
        Some(filter) => drop(filter.load()?),
        None => {}
    }
    // The control socket closes with a successful execve, which tells the caller.
    Err(program.execute().into())
}

fn enter(order: &ExecOrder, process: &Process, proc_fs: &ProcFs) -> Result<(), InitError> {
    let affinity = process.exec_cpu_affinity.as_ref();
    if let Some(cpus) = affinity.and_then(|affinity| affinity.initial.as_deref()) {
        limits::set_affinity(cpus)?;
    }
    enter_cgroups(&order.tasks)?;
    if let Some(cpus) = affinity.and_then(|affinity| affinity.r#final.as_deref()) {
        limits::set_affinity(cpus)?;
    }
    limits::set_priorities(proc_fs, process)?;
    if let Some((mode, nodes)) = &order.memory_policy {
        limits::set_memory_policy(*mode, nodes)?;
    }
    start_session()?;
    namespaces::join_process(&take(order.target)?, order.join).map_err(InitError::Join)?;
    if order.join & CLONE_NEWUSER != 0 {
        become_root().map_err(|errno| InitError::BecomeRoot(errno.into()))?;
    }
    if let Some(id) = &order.keyring_of {
        new_keyring(proc_fs, process, id)?;
    }
    Ok(())
}

fn take_on(
    order: &ExecOrder,
    process: &Process,
    proc_fs: &ProcFs,
) -> Result<(Program, Vec<String>), InitError> {
    umask(Mode::from_raw_mode(
        process.user.umask.unwrap_or(DEFAULT_UMASK),
    ));
    if let Some(personality) = &order.personality {
        limits::set_personality(personality)?;
    }
    security::prepare(proc_fs, process)?;
    own_null_streams().map_err(InitError::NullStreams)?;
    give_streams(process.user.uid);
    let changed = process::change_directory(&process.cwd)?;
    let no_new_privileges = process.no_new_privileges || order.no_new_privileges;
    let keep = credentials::Keep::for_filter(order.seccomp.is_some(), no_new_privileges);
    let warnings = credentials::assume(proc_fs, process, keep)?;
    hide()?;
    if changed == Changed::Retry {
        process::change_directory_as_user(&process.cwd)?;
    }
    forbid_new_privileges(no_new_privileges)?;
    Ok((Program::find(process)?, warnings))
}

/// The user of the runtime is nobody in the container's user namespace.
fn become_root() -> rustix::io::Result<()> {
    let (gid, uid) = (Gid::ROOT, Uid::ROOT);
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// Hands the master to the caller and takes the slave as terminal and standard streams.
pub(super) fn adopt_terminal(control: &Control, terminal: Terminal) -> Result<(), InitError> {
    use std::os::fd::AsFd;
    control
        .send(&Word::Terminal, &[], &[terminal.master.as_fd()])
        .map_err(InitError::Control)?;
    Ok(terminal.adopt()?)
}

/// The container's own sets, for a process that names none: none would be all of them.
fn unpack([bounding, effective, inheritable, permitted, ambient]: [u64; 5]) -> Capabilities {
    Capabilities {
        bounding,
        effective,
        inheritable,
        permitted,
        ambient,
    }
}
