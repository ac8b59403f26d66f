//! The stdio of processes: pipes or a terminal on their side, connections from the host on ours.
//!
//! A process is not given the connections themselves: a program that opens /dev/stdout would find
//! a socket there, which cannot be opened.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use runvm_container::Stdio;
use runvm_proto::{Process, Stream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::reaper::Exit;

/// How long the host may take to connect a stream it has announced.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many connections may wait for their process: the host makes them just before it.
const WAITING_LIMIT: usize = 256;
/// A pipe's default capacity (pipe(7)): no read gives more.
const CHUNK: usize = 64 << 10;
/// A relay's stack: its chunk is on the heap.
const STACK: usize = 64 << 10;

/// Where a connection and the process it is for meet, whichever comes first.
#[derive(Default)]
pub(crate) struct Streams {
    waiting: Mutex<HashMap<(Process, Stream), File>>,
    came: Condvar,
}

impl Streams {
    /// Brings a connection. One too many, or the second for a stream, is closed.
    pub(crate) fn bring(&self, process: Process, stream: Stream, connection: File) {
        let mut waiting = self.waiting();
        if waiting.len() < WAITING_LIMIT {
            waiting.entry((process, stream)).or_insert(connection);
            self.came.notify_all();
        }
    }

    /// Takes the connection for a stream; waits for it a while.
    fn take(&self, process: &Process, stream: Stream) -> Option<File> {
        let key = (process.clone(), stream);
        let (mut waiting, _) = self
            .came
            .wait_timeout_while(self.waiting(), PATIENCE, |waiting| {
                !waiting.contains_key(&key)
            })
            .unwrap_or_else(PoisonError::into_inner);
        waiting.remove(&key)
    }

    /// Closes the connections nobody took for `container`.
    pub(crate) fn forget(&self, container: &str) {
        self.waiting()
            .retain(|(process, _), _| process.container != container);
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<(Process, Stream), File>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Our ends of a process's pipes, until the process is there.
pub(crate) struct Pipes(Vec<(Stream, OwnedFd)>);

/// Makes the pipes for `streams`; what is not among them is /dev/null.
pub(crate) fn pipes(streams: &[Stream]) -> io::Result<(Stdio, Pipes)> {
    let mut ours = Vec::new();
    let mut theirs = |stream| -> io::Result<OwnedFd> {
        if !streams.contains(&stream) {
            return Ok(open(
                "/dev/null",
                OFlags::RDWR | OFlags::CLOEXEC,
                Mode::empty(),
            )?);
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let (theirs, our) = if stream == Stream::Stdin {
            (reader, writer)
        } else {
            (writer, reader)
        };
        ours.push((stream, our));
        Ok(theirs)
    };
    let stdio = Stdio {
        stdin: theirs(Stream::Stdin)?,
        stdout: theirs(Stream::Stdout)?,
        stderr: theirs(Stream::Stderr)?,
    };
    Ok((stdio, Pipes(ours)))
}

impl Pipes {
    /// Starts to relay between the pipes and the host's connections.
    pub(crate) fn relay(
        self,
        streams: &Arc<Streams>,
        process: &Process,
        exit: &Arc<Exit>,
    ) -> io::Result<()> {
        for (stream, pipe) in self.0 {
            let (streams, process, exit) = (Arc::clone(streams), process.clone(), Arc::clone(exit));
            relay_thread(move || {
                // Without its connection the pipe closes: end of file, or SIGPIPE, for the process.
                let Some(connection) = streams.take(&process, stream) else {
                    return;
                };
                match stream {
                    Stream::Stdin => inward(&connection, &File::from(pipe), &exit),
                    _ => outward(&File::from(pipe), &connection, &exit),
                }
            })?;
        }
        Ok(())
    }
}

/// Starts to relay between a terminal and its connection. The terminal hangs up with the last owner of
/// `master`, which these relays are.
pub(crate) fn relay_terminal(
    master: Arc<File>,
    streams: &Arc<Streams>,
    process: &Process,
    exit: &Arc<Exit>,
) -> io::Result<()> {
    let (streams, process, exit) = (Arc::clone(streams), process.clone(), Arc::clone(exit));
    relay_thread(move || {
        let Some(connection) = streams.take(&process, Stream::Terminal).map(Arc::new) else {
            return;
        };
        let keys = (
            Arc::clone(&connection),
            Arc::clone(&master),
            Arc::clone(&exit),
        );
        let started = relay_thread(move || {
            let (connection, master, exit) = keys;
            inward(&connection, &master, &exit);
            if exit.status().is_none() {
                // The host hung up: so must the other direction, which sees it on the connection.
                shut_down(&connection, Shutdown::Both);
            }
        });
        if started.is_ok() {
            outward(&master, &connection, &exit);
        }
    })
}

fn relay_thread(run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .stack_size(STACK)
        .spawn(run)
        .map(drop)
}

/// Copies from the host to a process, until either side has ended.
fn inward(connection: &File, sink: &File, exit: &Exit) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let mut fds = [
            PollFd::new(connection, PollFlags::IN),
            // A pipe that nobody reads any more shows an error, whatever is asked for.
            PollFd::new(sink, PollFlags::empty()),
            PollFd::from_borrowed_fd(exit.over(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        if !fds[1].revents().is_empty() || !fds[2].revents().is_empty() {
            return;
        }
        if !copy(connection, sink, &mut chunk) {
            return;
        }
    }
}

/// Copies from a process to the host: all the process wrote before it ended, however late the host
/// takes it, and nothing that others write to the same end later.
fn outward(source: &File, connection: &File, exit: &Exit) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let mut fds = [
            PollFd::new(source, PollFlags::IN),
            PollFd::new(connection, PollFlags::RDHUP),
            PollFd::from_borrowed_fd(exit.over(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        let nobody_listens = !fds[1].revents().is_empty();
        if nobody_listens {
            return;
        }
        // The end first, then the source: what was written before the end is there by now.
        let over = exit.status().is_some();
        if is_readable(source) {
            if !copy(source, connection, &mut chunk) {
                break;
            }
        } else if over {
            break;
        }
    }
    shut_down(connection, Shutdown::Write);
}

fn is_readable(source: impl AsFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&source, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&now)), Ok(1))
}

/// Copies what one read gives; false at the end of either side. A terminal whose programs have all
/// gone reads as EIO.
fn copy(mut from: &File, mut to: &File, chunk: &mut [u8]) -> bool {
    match from.read(chunk) {
        Ok(0) => false,
        Ok(count) => to.write_all(&chunk[..count]).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::Interrupted,
    }
}

fn shut_down(connection: &File, how: Shutdown) {
    // Fails only where the other side has gone, which is what was wanted.
    let _ = shutdown(connection, how);
}

#[cfg(test)]
mod tests;
