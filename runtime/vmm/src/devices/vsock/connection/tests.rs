use super::*;

const PORTS: Ports = Ports {
    host: 1024,
    guest: 70_000,
};

/// A packet of the guest's with room for `room` bytes and `fwd_cnt` bytes taken.
fn packet(room: u32, fwd_cnt: u32) -> Header {
    Header {
        src_port: PORTS.guest.into(),
        dst_port: PORTS.host.into(),
        buf_alloc: room.into(),
        fwd_cnt: fwd_cnt.into(),
        ..Header::default()
    }
}

fn data(len: u32) -> Header {
    Header {
        len: len.into(),
        ..packet(1000, 0)
    }
}

fn shutdown(halves: Ended) -> Header {
    Header {
        flags: halves.flags().into(),
        ..packet(1000, 0)
    }
}

/// A connection that the guest asked for, with room for `room` bytes in the guest.
fn established(room: u32) -> Connection {
    let mut connection = Connection::requested_by_guest(&packet(room, 0));
    assert_eq!(connection.next(true), Some(Next::Control(Op::Response)));
    connection.send(3, Op::Response, 0);
    connection
}

const SEND: Ended = Ended {
    send: true,
    receive: false,
};
const RECEIVE: Ended = Ended {
    send: false,
    receive: true,
};

#[test]
fn a_request_of_the_host_is_sent_once_and_opens_with_the_response() {
    let mut connection = Connection::requested_by_host(PORTS);
    assert!(!connection.is_known_to_guest());
    assert_eq!(connection.next(false), Some(Next::Control(Op::Request)));
    let request = connection.send(3, Op::Request, 0);
    assert_eq!(request.buf_alloc.get(), BUFFER_BYTES);
    assert_eq!((request.src_cid.get(), request.dst_cid.get()), (2, 3));
    assert_eq!(
        connection.next(true),
        None,
        "nothing is sent before the answer"
    );
    assert_eq!(
        connection.receive(Op::Response, &packet(100, 0)),
        Event::Opened
    );
    assert_eq!(connection.next(true), Some(Next::Data { most: 100 }));
}

#[test]
fn only_a_response_or_a_reset_answers_a_request() {
    for op in [
        Op::Request,
        Op::Shutdown,
        Op::Rw,
        Op::CreditUpdate,
        Op::CreditRequest,
    ] {
        let mut connection = Connection::requested_by_host(PORTS);
        connection.send(3, Op::Request, 0);
        assert_eq!(
            connection.receive(op, &packet(1, 0)),
            Event::Broken,
            "{op:?}"
        );
    }
    let mut connection = Connection::requested_by_host(PORTS);
    connection.send(3, Op::Request, 0);
    assert_eq!(
        connection.receive(Op::Rst, &packet(0, 0)),
        Event::Ended { answer: false }
    );
    let mut unasked = Connection::requested_by_host(PORTS);
    assert_eq!(unasked.receive(Op::Response, &packet(1, 0)), Event::Broken);
}

#[test]
fn no_more_is_sent_than_the_guest_has_room_for() {
    let mut connection = established(1000);
    connection.send(3, Op::Rw, 600);
    assert_eq!(connection.next(true), Some(Next::Data { most: 400 }));
    connection.send(3, Op::Rw, 400);
    assert_eq!(
        connection.next(true),
        Some(Next::Control(Op::CreditRequest))
    );
    connection.send(3, Op::CreditRequest, 0);
    assert_eq!(connection.next(true), None, "one request is enough");
    connection.receive(Op::CreditUpdate, &packet(1000, 250));
    assert_eq!(connection.next(true), Some(Next::Data { most: 250 }));
}

#[test]
fn a_guest_with_senseless_counters_gets_nothing() {
    let mut connection = established(1000);
    connection.receive(Op::CreditUpdate, &packet(1000, 1));
    assert_eq!(
        connection.next(true),
        Some(Next::Control(Op::CreditRequest))
    );
    connection.receive(Op::CreditUpdate, &packet(0, 0));
    assert_eq!(
        connection.next(true),
        Some(Next::Control(Op::CreditRequest))
    );
}

#[test]
fn the_counters_may_wrap() {
    let mut connection = established(BUFFER_BYTES);
    let mut taken = 0u32;
    for _ in 0..(1u64 << 33) / u64::from(BUFFER_BYTES) {
        connection.send(3, Op::Rw, BUFFER_BYTES);
        taken = taken.wrapping_add(BUFFER_BYTES);
        let update = Header {
            len: BUFFER_BYTES.into(),
            ..packet(BUFFER_BYTES, taken)
        };
        assert_eq!(connection.receive(Op::Rw, &update), Event::Data);
        connection.forwarded(BUFFER_BYTES as usize);
        assert_eq!(
            connection.next(true),
            Some(Next::Data { most: BUFFER_BYTES })
        );
    }
}

#[test]
fn a_guest_that_ignores_the_credit_it_has_is_reset() {
    let mut connection = established(1000);
    assert_eq!(connection.receive(Op::Rw, &data(BUFFER_BYTES)), Event::Data);
    assert_eq!(connection.receive(Op::Rw, &data(1)), Event::Broken);
    let mut other = established(1000);
    assert_eq!(other.receive(Op::Rw, &data(u32::MAX)), Event::Broken);
}

#[test]
fn the_guest_learns_of_room_when_it_believes_half_of_the_buffer_gone() {
    let mut connection = established(1000);
    connection.receive(Op::Rw, &data(BUFFER_BYTES / 2));
    assert_eq!(connection.next(false), None, "nothing is free again yet");
    connection.forwarded(BUFFER_BYTES as usize / 2);
    assert_eq!(
        connection.next(false),
        Some(Next::Control(Op::CreditUpdate))
    );
    let update = connection.send(3, Op::CreditUpdate, 0);
    assert_eq!(update.fwd_cnt.get(), BUFFER_BYTES / 2);
    assert_eq!(connection.next(false), None);
}

#[test]
fn a_guest_that_asks_for_credit_is_answered_once() {
    let mut connection = established(1000);
    connection.receive(Op::CreditRequest, &packet(1000, 0));
    assert_eq!(
        connection.next(false),
        Some(Next::Control(Op::CreditUpdate))
    );
    connection.send(3, Op::CreditUpdate, 0);
    assert_eq!(connection.next(false), None);
}

#[test]
fn the_end_of_the_hosts_stream_is_told_once_and_the_guest_may_still_send() {
    let mut connection = established(1000);
    connection.end_host(SEND);
    assert_eq!(connection.next(true), Some(Next::Control(Op::Shutdown)));
    assert_eq!(
        connection.send(3, Op::Shutdown, 0).flags.get(),
        SEND.flags()
    );
    assert_eq!(connection.next(true), None);
    assert_eq!(connection.receive(Op::Rw, &data(10)), Event::Data);
}

#[test]
fn when_neither_side_sends_any_more_the_connection_closes() {
    let mut connection = established(1000);
    assert_eq!(
        connection.receive(Op::Shutdown, &shutdown(SEND)),
        Event::HalfEnded
    );
    assert_eq!(connection.receive(Op::Rw, &data(1)), Event::Broken);
    connection.end_host(SEND);
    assert_eq!(
        connection.send(3, Op::Shutdown, 0).flags.get(),
        Ended::BOTH.flags()
    );
    assert!(connection.is_closing());
    assert_eq!(
        connection.receive(Op::CreditUpdate, &packet(9, 0)),
        Event::Nothing
    );
    assert_eq!(
        connection.receive(Op::Rst, &packet(0, 0)),
        Event::Ended { answer: false }
    );
}

#[test]
fn a_guest_that_ends_both_halves_waits_for_a_reset() {
    let mut at_once = established(1000);
    let both = shutdown(Ended::BOTH);
    assert_eq!(
        at_once.receive(Op::Shutdown, &both),
        Event::Ended { answer: true }
    );
    let mut in_turn = established(1000);
    assert_eq!(
        in_turn.receive(Op::Shutdown, &shutdown(RECEIVE)),
        Event::HalfEnded
    );
    assert_eq!(in_turn.next(true), None, "the guest reads no more");
    let rest = shutdown(SEND);
    assert_eq!(
        in_turn.receive(Op::Shutdown, &rest),
        Event::Ended { answer: true }
    );
}
