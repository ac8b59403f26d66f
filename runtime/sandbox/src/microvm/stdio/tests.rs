use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::{Relays, inward, open_terminal, outward};

fn pipe() -> (File, File) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (reader.into(), writer.into())
}

#[test]
fn input_reaches_the_guest_and_its_end_too() {
    let (reader, mut writer) = pipe();
    let (ours, mut guest) = UnixStream::pair().unwrap();
    writer.write_all(b"typed").unwrap();
    drop(writer);
    inward(reader, &ours);
    let mut got = String::new();
    guest.read_to_string(&mut got).unwrap();
    assert_eq!(got, "typed");
}

#[test]
fn input_ends_when_the_guest_reads_no_more_though_none_came() {
    let (reader, _writer) = pipe();
    let (ours, guest) = UnixStream::pair().unwrap();
    let relay = thread::spawn(move || inward(reader, &ours));
    drop(guest);
    relay.join().unwrap();
}

#[test]
fn all_output_is_out_before_the_drain_ends() {
    let (mut reader, writer) = pipe();
    let (ours, mut guest) = UnixStream::pair().unwrap();
    let (passed, progress) = channel();
    let relay = thread::spawn(move || outward(ours, writer, &passed));
    let flood = thread::spawn(move || guest.write_all(&vec![7; 1 << 20]).unwrap());
    let reading = thread::spawn(move || {
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        got.len()
    });
    Relays { progress }.drain(None);
    relay.join().unwrap();
    flood.join().unwrap();
    assert_eq!(reading.join().unwrap(), 1 << 20);
}

#[test]
fn a_reader_that_takes_nothing_is_not_waited_for_longer_than_asked() {
    let (_reader, writer) = pipe();
    let (ours, mut guest) = UnixStream::pair().unwrap();
    let (passed, progress) = channel();
    thread::spawn(move || outward(ours, writer, &passed));
    thread::spawn(move || guest.write_all(&vec![7; 1 << 20]));
    Relays { progress }.drain(Some(Duration::from_millis(50)));
}

#[test]
fn the_guest_hears_that_nobody_reads() {
    let (reader, writer) = pipe();
    drop(reader);
    let (ours, mut guest) = UnixStream::pair().unwrap();
    let (passed, _progress) = channel();
    guest.write_all(b"unheard").unwrap();
    outward(ours, writer, &passed);
    let mut byte = [0];
    assert_eq!(guest.read(&mut byte).unwrap(), 0);
}

#[test]
fn a_terminal_connects_its_two_sides() {
    let (master, slave) = open_terminal().unwrap();
    let (mut master, mut slave) = (File::from(master), File::from(slave));
    slave.write_all(b"out\n").unwrap();
    let mut got = [0; 5];
    master.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"out\r\n");
}
