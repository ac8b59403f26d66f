//! CRIU's process: from the clone to criu.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use runvm_oci::Plan;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::{InitError, enter_cgroups};
use crate::checkpoint;
use crate::control::{Control, CriuOrder, Word};

/// Makes ready what CRIU needs, and becomes it; returns only when that failed.
pub(super) fn run(control: &Control, order: CriuOrder, config: &[u8]) -> Result<(), InitError> {
    enter_cgroups(&order.tasks)?;
    if let Some(restore) = &order.restore {
        let plan = Plan::parse(config, &restore.bundle)?;
        checkpoint::prepare(&plan, restore)?;
    }
    // CRIU looks for the directories among the descriptors of who made the socket, and mounts
    // relative to them: so both are this process's, which has its mount namespace.
    let directories = order.directories.iter().map(|path| {
        let opened = openat(CWD, path, OFlags::DIRECTORY, Mode::empty());
        opened.map_err(|errno| InitError::CriuDirectory {
            path: path.clone(),
            source: errno.into(),
        })
    });
    let directories = directories.collect::<Result<Vec<OwnedFd>, _>>()?;
    let socket = offer_socket(control, &directories).map_err(InitError::Control)?;
    runvm_sys::signals::reset_all().map_err(InitError::Signals)?;
    let error = Command::new(&order.program)
        .arg("swrk")
        .arg(socket.as_raw_fd().to_string())
        .exec();
    Err(InitError::Criu {
        program: order.program,
        source: error,
    })
}

/// Makes CRIU's socket and gives its other end to the caller.
fn offer_socket(control: &Control, directories: &[OwnedFd]) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    fcntl_setfd(&ours, FdFlags::empty())?;
    let word = Word::Criu {
        directories: directories.iter().map(AsRawFd::as_raw_fd).collect(),
    };
    control.send(&word, &[], &[theirs.as_fd()])?;
    Ok(ours)
}
