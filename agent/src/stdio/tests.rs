use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use runvm_proto::{ExitStatus, Process, Stream};

use super::{CHUNK, Streams, pipes};
use crate::reaper::{Exit, First, tests::REAPER};

static STREAMS: LazyLock<Arc<Streams>> = LazyLock::new(Arc::default);

/// Runs `script` with `streams` relayed; returns the host's ends in that order.
fn shell(name: &str, script: &str, streams: &[Stream]) -> (Vec<UnixStream>, Arc<Exit>) {
    let process = Process::first(name);
    let (stdio, ours) = pipes(streams).unwrap();
    let ((), exit) = REAPER
        .make(|| {
            let child: Child = Command::new("sh")
                .args(["-c", script])
                .stdin(stdio.stdin)
                .stdout(stdio.stdout)
                .stderr(stdio.stderr)
                .spawn()?;
            Ok::<_, io::Error>((child.id(), ()))
        })
        .unwrap();
    ours.relay(&STREAMS, &process, &exit).unwrap();
    let host = streams
        .iter()
        .map(|&stream| {
            let (host, guest) = UnixStream::pair().unwrap();
            STREAMS.bring(process.clone(), stream, File::from(OwnedFd::from(guest)));
            host
        })
        .collect();
    (host, exit)
}

fn status_of(exit: &Exit) -> ExitStatus {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    match exit.wait(&ours).unwrap() {
        First::Exit(status) => status,
        First::HangUp => unreachable!("the other end is held"),
    }
}

#[test]
fn a_process_reads_and_writes_what_the_host_does() {
    let (mut host, exit) = shell(
        "cat",
        "cat; echo bad >&2",
        &[Stream::Stdin, Stream::Stdout, Stream::Stderr],
    );
    host[0].write_all(b"hello").unwrap();
    host[0].shutdown(std::net::Shutdown::Write).unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    host[1].read_to_string(&mut out).unwrap();
    host[2].read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("hello", "bad\n"));
    assert_eq!(status_of(&exit), ExitStatus::Code(0));
}

#[test]
fn more_output_than_a_pipe_holds_comes_whole_and_ends() {
    let (mut host, _exit) = shell("flood", "head -c 1000000 /dev/zero", &[Stream::Stdout]);
    let mut out = Vec::new();
    host[0].read_to_end(&mut out).unwrap();
    assert_eq!(out.len(), 1_000_000);
}

#[test]
fn output_written_just_before_the_end_is_never_lost() {
    for round in 0..50 {
        let (mut host, _exit) = shell(&format!("quick-{round}"), "printf last", &[Stream::Stdout]);
        let mut out = String::new();
        host[0].read_to_string(&mut out).unwrap();
        assert_eq!(out, "last", "round {round}");
    }
}

#[test]
fn a_child_that_outlives_the_process_does_not_hold_its_output_open() {
    let began = Instant::now();
    let (mut host, exit) = shell("parent", "sleep 20 & echo out", &[Stream::Stdout]);
    let mut out = String::new();
    host[0].read_to_string(&mut out).unwrap();
    assert_eq!(out, "out\n");
    assert_eq!(status_of(&exit), ExitStatus::Code(0));
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "waited for the child"
    );
}

#[test]
fn a_stream_that_was_not_announced_is_null() {
    let (mut host, _exit) = shell("null", "cat; echo unheard >&2; echo out", &[Stream::Stdout]);
    let mut out = String::new();
    host[0].read_to_string(&mut out).unwrap();
    assert_eq!(out, "out\n");
}

#[test]
fn a_host_that_stops_listening_ends_the_writer() {
    let (host, exit) = shell("yes", "exec yes", &[Stream::Stdout]);
    drop(host);
    // Rust's runtime leaves SIGPIPE to its default in children, as the container's init does.
    assert_eq!(status_of(&exit), ExitStatus::Signal(13));
}

#[test]
fn a_process_that_stops_reading_is_told_to_the_host() {
    let streams = [Stream::Stdin, Stream::Stdout];
    let (mut host, _exit) = shell("deaf", "exec <&-; echo closed; exec sleep 20", &streams);
    let chunk = vec![0; CHUNK];
    let error = loop {
        if let Err(error) = host[0].write_all(&chunk) {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn connections_without_a_process_are_bounded_and_forgotten() {
    let streams = Streams::default();
    let mut host = Vec::new();
    for number in 0..=super::WAITING_LIMIT {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let process = Process {
            container: "pod".into(),
            exec: Some(number.to_string()),
        };
        streams.bring(process, Stream::Stdout, File::from(OwnedFd::from(theirs)));
        host.push(ours);
    }
    let mut byte = [0];
    let last = host.last_mut().unwrap();
    assert_eq!(
        last.read(&mut byte).unwrap(),
        0,
        "the one too many is closed"
    );
    streams.forget("pod");
    assert_eq!(
        host[0].read(&mut byte).unwrap(),
        0,
        "the forgotten one is closed"
    );
}
