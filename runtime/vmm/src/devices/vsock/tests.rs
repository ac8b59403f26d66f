//! The device from both ends: a fake driver on guest memory and clients on unix sockets.

mod driver;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use self::driver::{Driver, GUEST_CID, MEMORY_BYTES, PATIENCE, WRITE, data, header};
use super::connection::BUFFER_BYTES;
use super::mux::MOST_SESSIONS;
use super::wire::{Ended, Header, Op};
use super::*;

/// A directory of its own for each test, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vsock-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A device that runs, its driver, and the host's directory.
struct Bench {
    driver: Driver,
    device: VsockDevice,
    directory: Directory,
}

impl Bench {
    /// With receive buffers in place.
    fn new() -> Self {
        let mut bench = Self::without_room();
        bench.driver.add_room(32);
        bench
    }

    fn without_room() -> Self {
        let directory = Directory::new();
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let mut device = VsockDevice::new(VsockConfig {
            guest_cid: GUEST_CID,
            listener: UnixListener::bind(directory.0.join("vm.sock")).unwrap(),
            ports: rustix::fs::open(&directory.0, flags, Mode::empty()).unwrap(),
        })
        .unwrap();
        let driver = Driver::new();
        device.activate(driver.activation(true)).unwrap();
        Self {
            driver,
            device,
            directory,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.0.join(name)
    }

    fn client(&self, greeting: &str) -> UnixStream {
        client(&self.path("vm.sock"), greeting)
    }

    /// A connection that a client made to guest port 5; gives the client and the host port.
    fn connected_by_host(&mut self) -> (UnixStream, u32) {
        let mut client = self.client("CONNECT 5\n");
        let (request, _) = self.driver.receive();
        assert_eq!(Op::of(&request), Some(Op::Request));
        assert_eq!(request.dst_port.get(), 5);
        let host_port = request.src_port.get();
        self.driver.send(header(Op::Response, 5, host_port), &[]);
        assert_eq!(read_line(&mut client), format!("OK {host_port}\n"));
        (client, host_port)
    }

    /// A connection that the guest made from `guest_port` to host port 1024.
    fn connected_by_guest(&mut self, listener: &UnixListener, guest_port: u32) -> UnixStream {
        self.driver.send(header(Op::Request, guest_port, 1024), &[]);
        let (response, _) = self.driver.receive();
        assert_eq!(Op::of(&response), Some(Op::Response));
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn listener(&self) -> UnixListener {
        UnixListener::bind(self.path("vm.sock_1024")).unwrap()
    }

    fn expect(&mut self, op: Op) -> Header {
        let (header, _) = self.driver.receive();
        assert_eq!(Op::of(&header), Some(op), "{header:?}");
        header
    }
}

fn client(path: &Path, greeting: &str) -> UnixStream {
    let mut client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(greeting.as_bytes()).unwrap();
    client
}

fn read_line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

fn read_to_end(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Bytes that do not repeat with any likely packet size.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn the_configuration_space_is_the_guests_address() {
    let bench = Bench::without_room();
    let mut bytes = [0xff; 12];
    bench.device.read_config(0, &mut bytes);
    assert_eq!(bytes, [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bench.device.read_config(u64::MAX, &mut bytes);
    assert_eq!(bytes, [0; 12]);
}

#[test]
fn a_client_reaches_the_guests_listener_and_bytes_pass_both_ways() {
    let mut bench = Bench::new();
    let (mut client, host_port) = bench.connected_by_host();
    client.write_all(b"to the guest").unwrap();
    let (packet, payload) = bench.driver.receive();
    assert_eq!(
        (Op::of(&packet), &payload[..]),
        (Some(Op::Rw), &b"to the guest"[..])
    );
    bench.driver.send(data(5, host_port, 11), b"to the host");
    let mut answer = [0; 11];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"to the host");
}

#[test]
fn a_client_of_a_port_without_listener_sees_the_end_without_an_ok() {
    let mut bench = Bench::new();
    let mut client = bench.client("CONNECT 5\n");
    let request = bench.expect(Op::Request);
    bench
        .driver
        .send(header(Op::Rst, 5, request.src_port.get()), &[]);
    assert_eq!(read_to_end(&mut client), b"");
}

#[test]
fn a_client_with_a_bad_greeting_is_hung_up_on() {
    let bench = Bench::new();
    for greeting in [
        "HELLO\n",
        "CONNECT 5000000000\n",
        "CONNECT                    \n",
    ] {
        let mut client = bench.client(greeting);
        let mut byte = [0];
        // With bytes left unread the end is a reset.
        assert!(
            matches!(client.read(&mut byte), Ok(0) | Err(_)),
            "{greeting:?}"
        );
    }
}

#[test]
fn a_client_that_gives_up_is_withdrawn_from_the_guest() {
    let mut bench = Bench::new();
    let client = bench.client("CONNECT 5\n");
    bench.expect(Op::Request);
    drop(client);
    bench.expect(Op::Rst);
}

#[test]
fn the_guest_reaches_a_listener_of_the_host() {
    let mut bench = Bench::new();
    let listener = bench.listener();
    let mut stream = bench.connected_by_guest(&listener, 9);
    bench.driver.send(data(9, 1024, 5), b"hello");
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    stream.write_all(b"welcome").unwrap();
    assert_eq!(bench.driver.receive().1, b"welcome");
}

#[test]
fn the_guest_is_refused_where_nobody_listens() {
    let mut bench = Bench::new();
    bench.driver.send(header(Op::Request, 9, 1024), &[]);
    let reset = bench.expect(Op::Rst);
    assert_eq!((reset.src_port.get(), reset.dst_port.get()), (1024, 9));
    // A name that is no socket, and one whose listener is gone.
    std::fs::write(bench.path("vm.sock_1025"), "").unwrap();
    drop(UnixListener::bind(bench.path("vm.sock_1026")).unwrap());
    for port in [1025, 1026] {
        bench.driver.send(header(Op::Request, 9, port), &[]);
        bench.expect(Op::Rst);
    }
}

#[test]
fn a_packet_with_a_wrong_address_or_operation_reaches_nobody() {
    let mut bench = Bench::new();
    let listener = bench.listener();
    listener.set_nonblocking(true).unwrap();
    let good = header(Op::Request, 9, 1024);
    bench.driver.send(
        Header {
            src_cid: 4.into(),
            ..good
        },
        &[],
    );
    bench.driver.send(
        Header {
            dst_cid: 7.into(),
            ..good
        },
        &[],
    );
    assert_eq!(
        bench.expect(Op::Rst).src_cid.get(),
        7,
        "the spoofed one had no answer"
    );
    bench.driver.send(
        Header {
            kind: 2.into(),
            ..good
        },
        &[],
    );
    assert_eq!(bench.expect(Op::Rst).kind.get(), 2);
    for op in [0, 8, 0xffff] {
        bench.driver.send(
            Header {
                op: op.into(),
                ..good
            },
            &[],
        );
        bench.expect(Op::Rst);
    }
    for op in [
        Op::Response,
        Op::Shutdown,
        Op::Rw,
        Op::CreditUpdate,
        Op::CreditRequest,
    ] {
        bench.driver.send(header(op, 9, 1024), &[]);
        bench.expect(Op::Rst);
    }
    bench.driver.send(header(Op::Rst, 9, 1024), &[]);
    assert!(listener.accept().is_err());
    bench.connected_by_host();
}

#[test]
fn an_unknown_operation_on_a_connection_resets_it() {
    let mut bench = Bench::new();
    let (mut client, host_port) = bench.connected_by_host();
    bench.driver.send(
        Header {
            op: 99.into(),
            ..header(Op::Rw, 5, host_port)
        },
        &[],
    );
    bench.expect(Op::Rst);
    assert_eq!(read_to_end(&mut client), b"");
}

#[test]
fn the_end_of_the_hosts_stream_reaches_the_guest_which_may_go_on() {
    let mut bench = Bench::new();
    let (mut client, host_port) = bench.connected_by_host();
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(bench.driver.receive().1, b"last words");
    assert_eq!(
        bench.expect(Op::Shutdown).flags.get(),
        2,
        "the host sends no more"
    );
    bench.driver.send(data(5, host_port, 6), b"answer");
    bench.driver.send(
        Header {
            flags: 3.into(),
            ..header(Op::Shutdown, 5, host_port)
        },
        &[],
    );
    assert_eq!(read_to_end(&mut client), b"answer");
    bench.expect(Op::Rst);
}

#[test]
fn the_end_of_the_guests_stream_reaches_the_host_which_may_go_on() {
    let mut bench = Bench::new();
    let (mut client, host_port) = bench.connected_by_host();
    bench.driver.send(data(5, host_port, 4), b"last");
    bench.driver.send(
        Header {
            flags: 2.into(),
            ..header(Op::Shutdown, 5, host_port)
        },
        &[],
    );
    assert_eq!(read_to_end(&mut client), b"last");
    client.write_all(b"more").unwrap();
    assert_eq!(bench.driver.receive().1, b"more");
    drop(client);
    // Now neither side sends: it is over, but for the guest's reset.
    let both = Ended::BOTH.flags();
    while bench.expect(Op::Shutdown).flags.get() != both {}
    bench.driver.send(header(Op::Rst, 5, host_port), &[]);
    bench.driver.send(data(5, host_port, 1), b"x");
    bench.expect(Op::Rst);
}

#[test]
fn a_writer_meets_a_broken_pipe_once_the_guest_reads_no_more() {
    let mut bench = Bench::new();
    let (mut client, host_port) = bench.connected_by_host();
    bench.driver.send(
        Header {
            flags: 1.into(),
            ..header(Op::Shutdown, 5, host_port)
        },
        &[],
    );
    bench.expect(Op::Shutdown);
    let error = client.write_all(b"anybody?").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn a_host_end_that_closes_is_told_to_the_guest_and_awaits_its_reset() {
    let mut bench = Bench::new();
    let (client, host_port) = bench.connected_by_host();
    drop(client);
    let both = Ended::BOTH.flags();
    while bench.expect(Op::Shutdown).flags.get() != both {}
    // A guest that stays silent is reset in time.
    let began = Instant::now();
    bench.expect(Op::Rst);
    assert!(began.elapsed() < PATIENCE / 2);
    bench.driver.send(data(5, host_port, 1), b"x");
    bench.expect(Op::Rst);
}

#[test]
fn the_guests_credit_is_never_exceeded() {
    let mut bench = Bench::new();
    let (mut client, host_port) = bench.connected_by_host();
    let room = |fwd_cnt: u32| Header {
        buf_alloc: 10_000.into(),
        fwd_cnt: fwd_cnt.into(),
        ..header(Op::CreditUpdate, 5, host_port)
    };
    bench.driver.send(room(0), &[]);
    let sent = pattern(1_000_000);
    let expected = sent.clone();
    let writer = std::thread::spawn(move || {
        client.write_all(&sent).unwrap();
        client
    });
    let mut received = Vec::new();
    let mut unread = 0;
    while received.len() < expected.len() {
        let (packet, payload) = bench.driver.receive();
        unread += payload.len();
        assert!(unread <= 10_000, "the guest has no room for {unread} bytes");
        received.extend(payload);
        if Op::of(&packet) == Some(Op::CreditRequest) {
            unread = 0;
            bench
                .driver
                .send(room(u32::try_from(received.len()).unwrap()), &[]);
        }
    }
    assert!(received == expected);
    drop(writer.join().unwrap());
}

#[test]
fn a_reader_that_does_not_read_stalls_only_its_own_connection() {
    let mut bench = Bench::new();
    let listener = bench.listener();
    let mut slow = bench.connected_by_guest(&listener, 9);
    let mut quick = bench.connected_by_guest(&listener, 10);
    let chunk = pattern(32 * 1024);
    let mut sent = 0;
    let mut told = 0;
    // As a guest that keeps to the credit it has: until nothing is free for a while.
    while sent - told + chunk.len() <= BUFFER_BYTES as usize {
        bench.driver.send(data(9, 1024, chunk.len()), &chunk);
        sent += chunk.len();
        while let Some((head, (packet, _))) = bench.driver.poll() {
            assert_eq!(Op::of(&packet), Some(Op::CreditUpdate));
            told = packet.fwd_cnt.get() as usize;
            bench.driver.add_rx_buffer(head, 4096);
        }
    }
    bench.driver.send(data(10, 1024, 5), b"quick");
    let mut bytes = [0; 5];
    quick.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"quick");
    // The guest closes; what it sent is still there.
    bench.driver.send(
        Header {
            flags: 3.into(),
            ..header(Op::Shutdown, 9, 1024)
        },
        &[],
    );
    bench.expect(Op::Rst);
    let all = read_to_end(&mut slow);
    assert_eq!(all.len(), sent);
    assert!(all.chunks(chunk.len()).all(|part| part == chunk));
}

#[test]
fn a_guest_that_ignores_the_devices_credit_is_reset() {
    let mut bench = Bench::new();
    let listener = bench.listener();
    let mut stream = bench.connected_by_guest(&listener, 9);
    let chunk = pattern(64 * 1024);
    let reset = loop {
        bench.driver.send(data(9, 1024, chunk.len()), &chunk);
        if let Some((_, (packet, _))) = bench.driver.poll()
            && Op::of(&packet) == Some(Op::Rst)
        {
            break packet;
        }
    };
    assert_eq!(reset.dst_port.get(), 9);
    read_to_end(&mut stream);
}

#[test]
fn a_guest_without_receive_buffers_leaves_the_worker_asleep() {
    let mut bench = Bench::without_room();
    bench.device.reset();
    let epoll = Arc::new(Epoll::new().unwrap());
    let mux = Mux::new(GUEST_CID, bench.device.ports.clone(), Arc::clone(&epoll));
    let Activation {
        memory,
        interrupt,
        queues,
        ..
    } = bench.driver.activation(true);
    let queues = checked_queues(queues, &memory.memory()).unwrap();
    let stop = EventFd::new(EFD_NONBLOCK).unwrap();
    let listener = Arc::clone(&bench.device.listener);
    let parts = (Arc::clone(&epoll), mux);
    let mut worker = Worker::new(memory, interrupt, queues, listener, &stop, parts).unwrap();
    let clients: Vec<_> = (0..8).map(|_| bench.client("CONNECT 5\n")).collect();
    // Everything that is there to see has been seen after a few rounds.
    for _ in 0..20 {
        worker.round(Some(std::time::Duration::ZERO)).unwrap();
    }
    assert_eq!(
        worker.patience(),
        None,
        "it would sleep until something happens"
    );
    drop(clients);
    for _ in 0..20 {
        worker.round(Some(std::time::Duration::ZERO)).unwrap();
    }
    assert_eq!(
        worker.patience(),
        None,
        "sockets that hung up do not wake it either"
    );
}

#[test]
fn a_header_may_lie_in_descriptors_of_any_length() {
    let mut bench = Bench::new();
    let listener = bench.listener();
    let mut stream = bench.connected_by_guest(&listener, 9);
    let mut expected = Vec::new();
    for cut in 1..44 {
        let mut packet = data(9, 1024, 3).as_bytes().to_vec();
        packet.extend_from_slice(&[b'a', b'b', u8::try_from(cut).unwrap()]);
        bench.driver.send_cut(&packet, &[cut, 47 - cut]);
        expected.extend_from_slice(&packet[44..]);
    }
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, expected);
    // With empty descriptors first, in the middle and last.
    let mut packet = data(9, 1024, 3).as_bytes().to_vec();
    packet.extend_from_slice(b"end");
    bench.driver.send_cut(&packet, &[0, 20, 0, 24, 0, 3, 0]);
    stream.read_exact(&mut bytes[..3]).unwrap();
    assert_eq!(&bytes[..3], b"end");
}

#[test]
fn what_is_not_a_whole_packet_is_dropped() {
    let mut bench = Bench::new();
    let listener = bench.listener();
    let mut stream = bench.connected_by_guest(&listener, 9);
    let good = data(9, 1024, 8).as_bytes().to_vec();
    let place = 0x300_0000;
    bench
        .driver
        .memory
        .write_slice(&good, GuestAddress(place))
        .unwrap();
    for short in 0..44 {
        bench.driver.send_descriptors(&[(place, short, 0)]);
    }
    for (address, len) in [
        (MEMORY_BYTES, 8),
        (MEMORY_BYTES - 4, 8),
        (u64::MAX - 4, 8),
        (0, u32::MAX),
        (u64::MAX, u32::MAX),
    ] {
        bench
            .driver
            .send_descriptors(&[(place, 44, 0), (address, len, 0)]);
    }
    // Shorter than its header says; a payload that the device is not to read.
    bench
        .driver
        .send_descriptors(&[(place, 44, 0), (place, 7, 0)]);
    bench
        .driver
        .send_descriptors(&[(place, 44, 0), (place, 8, WRITE)]);
    bench
        .driver
        .send_descriptors(&[(place, 44, WRITE), (place, 8, 0)]);
    bench.driver.send(data(9, 1024, 4), b"good");
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"good");
}

#[test]
fn receive_buffers_without_room_are_given_back_unused() {
    let mut bench = Bench::without_room();
    let _client = bench.client("CONNECT 5\n");
    for at in 0..8 {
        bench.driver.add_rx_buffer(at, u32::from(at) * 6);
    }
    for _ in 0..8 {
        assert_eq!(bench.driver.receive_and_keep().1.1.len(), 0);
    }
    bench.driver.add_rx_buffer(9, 44);
    assert_eq!(
        Op::of(&bench.driver.receive_and_keep().1.0),
        Some(Op::Request)
    );
}

#[test]
fn a_buffer_for_a_header_only_does_not_end_the_stream() {
    let mut bench = Bench::without_room();
    let mut client = bench.client("CONNECT 5\n");
    bench.driver.add_rx_buffer(0, 44);
    let (_, (request, _)) = bench.driver.receive_and_keep();
    let port = request.src_port.get();
    bench.driver.send(header(Op::Response, 5, port), &[]);
    read_line(&mut client);
    client.write_all(b"data").unwrap();
    bench.driver.add_rx_buffer(1, 44);
    let (_, (harmless, _)) = bench.driver.receive_and_keep();
    assert_eq!(Op::of(&harmless), Some(Op::CreditUpdate));
    bench.driver.add_rx_buffer(2, 46);
    assert_eq!(bench.driver.receive_and_keep().1.1, b"da");
    bench.driver.add_rx_buffer(3, 4096);
    assert_eq!(bench.driver.receive_and_keep().1.1, b"ta");
}

#[test]
fn a_flood_of_requests_holds_no_more_sockets_than_allowed() {
    let mut bench = Bench::new();
    let listener = bench.listener();
    let sink = std::thread::spawn(move || {
        let mut held = Vec::new();
        while held.len() < MOST_SESSIONS {
            held.push(listener.accept().unwrap().0);
        }
        held
    });
    let (mut responses, mut resets) = (0, 0);
    let total = u32::try_from(MOST_SESSIONS).unwrap() + 300;
    for port in 0..total {
        bench.driver.send(header(Op::Request, port, 1024), &[]);
        match Op::of(&bench.driver.receive().0) {
            Some(Op::Response) => responses += 1,
            Some(Op::Rst) => resets += 1,
            other => panic!("{other:?}"),
        }
        // A listener that is slower than the flood may refuse; ask again later.
        std::thread::yield_now();
    }
    assert!(responses <= MOST_SESSIONS, "{responses}");
    assert!(resets >= 300);
    bench.device.reset();
    drop(bench.directory);
    drop(sink);
}

#[test]
fn after_a_reset_all_is_closed_and_the_device_can_start_again() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        let (mut client, _) = bench.connected_by_host();
        bench.device.reset();
        assert_eq!(read_to_end(&mut client), b"");
        let waiting = bench.client("CONNECT 5\n");
        bench.driver = Driver::new();
        bench
            .device
            .activate(bench.driver.activation(false))
            .unwrap();
        bench.driver.add_room(32);
        bench.expect(Op::Request);
        drop(waiting);
        bench.expect(Op::Rst);
    }
}

#[test]
fn queues_that_are_missing_or_outside_memory_are_refused() {
    let mut bench = Bench::new();
    let mut missing = bench.driver.activation(true);
    missing.queues[1] = None;
    assert!(bench.device.activate(missing).is_err());
    let mut outside = bench.driver.activation(true);
    outside.queues[0]
        .as_mut()
        .unwrap()
        .queue
        .set_used_ring_address(Some(0), Some(1));
    assert!(bench.device.activate(outside).is_err());
    bench
        .device
        .activate(bench.driver.activation(true))
        .unwrap();
}

#[test]
fn a_broken_ring_does_not_hang_the_device() {
    let mut bench = Bench::new();
    for index in [40_000, 65_535, 3] {
        bench.driver.tx.set_avail_index(&bench.driver.memory, index);
        bench.driver.rx.set_avail_index(&bench.driver.memory, index);
    }
    let _client = bench.client("CONNECT 5\n");
    let began = Instant::now();
    bench.device.reset();
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn random_packets_neither_stop_nor_crash_the_device() {
    let mut bench = Bench::new();
    let listener = bench.listener();
    listener.set_nonblocking(true).unwrap();
    let mut streams = Vec::new();
    let bytes = pattern(400_000);
    let mut random = bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    let mut next = |below: u32| random.next().map(|word| word % below);
    while let Some(kind) = next(64) {
        let Some(op) = next(9) else { break };
        let mut packet = Header {
            op: u16::try_from(op).unwrap().into(),
            ..header(Op::Rw, next(3).unwrap_or(0), 1024)
        };
        packet.flags = next(5).unwrap_or(0).into();
        packet.buf_alloc = (1 << next(20).unwrap_or(0)).into();
        packet.fwd_cnt = next(100).unwrap_or(0).into();
        let len = next(5000).unwrap_or(0);
        match kind {
            0 => packet.src_cid = 9.into(),
            1 => packet.dst_cid = 9.into(),
            2 => packet.kind = 2.into(),
            3 => packet.len = u32::MAX.into(),
            _ => packet.len = len.into(),
        }
        let payload = &bytes[..usize::try_from(len).unwrap()];
        bench.driver.send(packet, payload);
        while let Some((head, _)) = bench.driver.poll() {
            bench.driver.add_rx_buffer(head, 4096);
        }
        if let Ok((stream, _)) = listener.accept() {
            streams.push(stream);
        }
        if kind % 8 == 0 {
            streams.pop();
        }
    }
    bench.device.reset();
    bench.device.activate(bench.driver.activation(true)).err();
}
