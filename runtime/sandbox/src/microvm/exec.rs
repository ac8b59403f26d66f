//! One more process in a microVM. Its stand-in on the host holds its stdio, takes its signals, and
//! ends as it does; an engine waits for that.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use runvm_proto::{Answer, Process, Remote, Request};
use runvm_sys::inherited;
use runvm_vmm::confine::keep_capabilities;
use rustix::thread::{CapabilitySet, set_no_new_privs};
use serde::{Deserialize, Serialize};

use super::attend::{self, Signals};
use super::guest::{self, Control, GuestError};
use super::hidden::{self, Boss, EXEC, Hidden, Start};
use super::stdio;
use crate::{Attached, BackendError, Directory, Exec};

/// What the stand-in is told; the OCI process object follows as bytes.
#[derive(Serialize, Deserialize)]
struct Order {
    process: Process,
    /// Cgroups below the container's in the guest.
    sub_cgroups: Vec<String>,
    terminal: bool,
    /// The machine's directory, by number.
    directory: i32,
}

/// Runs a process in the guest of the container in `directory`; returns when its program runs.
pub(super) fn exec(directory: &Directory, exec: Exec<'_>) -> Result<Attached, BackendError> {
    if exec.preserve_fds > 0 {
        return Err(super::PreserveFds.into());
    }
    let machine = guest::open_machine(directory.as_fd())?;
    let terminal = exec.process.terminal;
    let (stdio, master) = hidden::stdio_for(terminal, exec.stdio)?;
    let order = Order {
        process: Process {
            container: directory.id().to_owned(),
            exec: Some(unique_id()),
        },
        sub_cgroups: exec.sub_cgroups.iter().map(ToString::to_string).collect(),
        terminal,
        directory: machine.as_raw_fd(),
    };
    let start = Start {
        name: EXEC,
        inherit: vec![machine.as_fd()],
        stdio: &stdio,
        new_namespaces: 0,
        cgroup: None,
    };
    let mut hidden = Hidden::start(start, &order, exec.process_json)?;
    hidden.report::<()>(EXEC)?;
    let (pid, pidfd) = hidden.keep()?;
    Ok(Attached {
        pid,
        pidfd,
        terminal: master,
        warnings: Vec::new(),
    })
}

/// An exec id that no other process of this host chooses.
fn unique_id() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}-{}", std::process::id(), now.as_nanos())
}

/// The stand-in's whole life; the answer is its exit code.
pub(super) fn run_hidden(mut boss: Boss) -> i32 {
    match stand_in(&mut boss) {
        Ok(code) => code,
        Err(error) => {
            // Where nobody listens any more, the exit code has to do.
            let _ = boss.report(&Err::<(), _>(Remote::from_error(&*error)));
            1
        }
    }
}

fn stand_in(boss: &mut Boss) -> Result<i32, BackendError> {
    let (order, process_json) = boss.order::<Order>()?;
    let directory: OwnedFd = inherited::take(order.directory)?;
    let Order {
        process,
        sub_cgroups,
        terminal,
        ..
    } = order;
    if terminal {
        stdio::take_terminal()?;
    }
    // What it passes on is the guest's, and takes no power to pass on.
    set_no_new_privs(true)?;
    keep_capabilities(CapabilitySet::empty())?;
    let signals = Signals::take()?;
    let streams = stdio::streams(terminal);
    let relays = stdio::relay(directory.as_fd(), &process, &streams)?;
    let mut control = Control::open(directory.as_fd(), Some(guest::PATIENCE))?;
    let request = Request::Exec {
        process: process.clone(),
        streams,
        sub_cgroups,
    };
    match control.ask(&request, &process_json)? {
        Answer::Running => {}
        answer => return Err(GuestError::Unexpected(answer).into()),
    }
    if let Some(size) = stdio::terminal_size().filter(|_| terminal) {
        control.demand(&attend::resize(&process, size), b"")?;
    }
    control.wait_for_ever()?;
    signals.forward(directory, process.clone(), terminal)?;
    boss.report(&Ok::<_, Remote>(()))?;
    let status = match attend::wait(&mut control, &process) {
        Ok(status) => status,
        // The guest has gone, and the process with it.
        Err(_) => return Ok(super::VM_DIED),
    };
    relays.drain(attend::drain_patience(status));
    Ok(status.code())
}
