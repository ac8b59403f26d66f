//! The first process of a runvm guest: it makes containers with the same code as the host does, and
//! does for the host what only the guest's side can.
//!
//! Boot ends at the doorbell. From then on each control connection has a thread
//! ([`control`]), each stream of a process one ([`stdio`]), and the first thread reaps
//! ([`reaper`]). The guest lives as long as this process: whatever ends it resets the machine.
#![forbid(unsafe_code)]

mod boot;
mod container;
mod control;
mod latch;
mod oom;
mod processes;
mod reaper;
mod stdio;
mod vsock;

use std::fs::File;
use std::os::fd::AsFd;
use std::panic;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use runvm_proto::{CONTROL_PORT, DOORBELL_PORT, Hello, Ready, Remote, STREAM_PORT, frame};
use rustix::system::{RebootCommand, reboot};
use rustix::time::{ClockId, clock_gettime};

use container::Containers;
use control::ConversationError;
use vsock::Listener;

fn main() {
    // A container's init is this program too.
    runvm_container::run_hidden_entry();
    let began_ns = now_ns();
    panic::set_hook(Box::new(|panic| {
        eprintln!("runvm-agent: {panic}");
        reset();
    }));
    if let Err(error) = serve(began_ns) {
        eprintln!("runvm-agent: {error:#}");
    }
    reset();
}

/// Boots, rings, and serves for ever.
fn serve(began_ns: u64) -> anyhow::Result<()> {
    boot::boot()?;
    let containers = Arc::new(Containers::new().context("cannot make a pipe")?);
    // Before the doorbell: the host connects when it rings.
    listen(CONTROL_PORT, &containers, control::converse)?;
    listen(STREAM_PORT, &containers, control::bring_stream)?;
    let doorbell = ring(began_ns)?;
    thread::Builder::new()
        .spawn(move || outlive_nobody(&doorbell))
        .context("cannot start a thread")?;
    containers.reaper.run()
}

/// Serves each connection to `port` on a thread of its own.
fn listen(
    port: u32,
    containers: &Arc<Containers>,
    serve: fn(File, &Arc<Containers>) -> Result<(), ConversationError>,
) -> anyhow::Result<()> {
    let listener =
        Listener::open(port).with_context(|| format!("cannot listen on vsock port {port}"))?;
    let containers = Arc::clone(containers);
    let accept = move || -> anyhow::Result<()> {
        loop {
            let connection = listener.accept()?;
            let containers = Arc::clone(&containers);
            thread::Builder::new().spawn(move || {
                if let Err(error) = serve(connection, &containers) {
                    eprintln!("runvm-agent: {}", Remote::from_error(&error));
                }
            })?;
        }
    };
    thread::Builder::new()
        .spawn(move || {
            // A guest that cannot be reached is of no use: the panic hook resets it.
            let Err(error) = accept() else {
                unreachable!("accepting has no end")
            };
            panic!("cannot accept on vsock port {port}: {error:#}");
        })
        .context("cannot start a thread")?;
    Ok(())
}

/// Tells the host that the guest is ready.
fn ring(began_ns: u64) -> anyhow::Result<File> {
    let mut doorbell = vsock::dial_host(DOORBELL_PORT)
        .with_context(|| format!("cannot reach the host on vsock port {DOORBELL_PORT}"))?;
    let ready = Ready {
        hello: Hello::ours(),
        began_ns,
        ready_ns: now_ns(),
    };
    frame::write(&mut doorbell, &ready, b"").context("cannot tell the host")?;
    Ok(doorbell)
}

/// Waits for the end of the doorbell's connection: nobody is left to serve then.
fn outlive_nobody(doorbell: &File) {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::from_borrowed_fd(doorbell.as_fd(), PollFlags::RDHUP)];
    while let Err(rustix::io::Errno::INTR) = poll(&mut fds, None) {}
    eprintln!("runvm-agent: the host has gone");
    reset();
}

/// Ends the guest in an orderly way: nothing of it runs on, and what it wrote has reached the host.
fn shut_down() -> ! {
    // Fails when there is nobody else.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::SIGKILL);
    rustix::fs::sync();
    reset();
}

/// Ends the guest at once.
fn reset() -> ! {
    let error = reboot(RebootCommand::Restart);
    // Not the first process of a guest: an ordinary program then, which ends as such.
    eprintln!("runvm-agent: cannot reset the machine: {error:?}");
    std::process::exit(1);
}

/// CLOCK_MONOTONIC in nanoseconds.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
