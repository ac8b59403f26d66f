//! One vsock connection: its phase, its credit both ways, and what it owes the guest.
//!
//! No sockets and no guest memory here: [`Mux`](super::mux::Mux) tells a [`Connection`] what the
//! guest and the host end did and asks it what to send next.

use super::wire::{Ended, HOST_CID, Header, Op, Ports, TYPE_STREAM};

/// How many bytes of a connection the device holds for a host reader that is slow: the `buf_alloc`
/// it tells the guest. As large as a Linux guest's own default, so neither direction is favoured.
pub(super) const BUFFER_BYTES: u32 = 256 * 1024;

/// What a packet from the guest asks of the host end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing.
    Nothing,
    /// The guest accepted the host's request.
    Opened,
    /// The payload belongs to the host reader.
    Data,
    /// The guest has ended the halves that it now has in [`Connection::guest_ended`].
    HalfEnded,
    /// The guest has ended the connection; what it sent before still goes to the host reader.
    Ended {
        /// Whether the guest waits for a RST.
        answer: bool,
    },
    /// The guest broke the protocol: the connection is to be reset.
    Broken,
}

/// A packet that a connection has to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A packet without payload.
    Control(Op),
    /// At most `most` bytes from the host.
    Data {
        /// The guest's credit.
        most: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The guest is to be asked, or has been and not answered yet.
    Requesting {
        asked: bool,
    },
    /// The guest asked; the RESPONSE is still to be sent.
    Accepting,
    Established,
    /// The guest was told that both halves have ended. Its RST is awaited.
    Closing,
}

/// The state of one connection. The guest is `peer` in the specification's words.
#[derive(Debug)]
pub(super) struct Connection {
    ports: Ports,
    phase: Phase,
    to_guest: Sent,
    from_guest: Received,
    /// The halves that the guest has ended.
    guest_ended: Ended,
    /// The halves that the host end has ended.
    host_ended: Ended,
    /// Those of them that the guest was told of.
    told_ended: Ended,
}

/// The guest's receive buffer, seen from here. Counters are modulo 2^32, as on the wire.
#[derive(Debug, Default)]
struct Sent {
    buf_alloc: u32,
    fwd_cnt: u32,
    sent: u32,
    /// A CREDIT_REQUEST was sent since the guest last had no room.
    asked: bool,
}

impl Sent {
    /// How many bytes the guest has room for. A guest whose counters make no sense has none.
    fn credit(&self) -> u32 {
        self.buf_alloc
            .saturating_sub(self.sent.wrapping_sub(self.fwd_cnt))
    }
}

/// The device's receive buffer of this connection. Counters are modulo 2^32.
#[derive(Debug, Default)]
struct Received {
    received: u32,
    forwarded: u32,
    /// The value of `forwarded` that the guest was last told.
    told: u32,
    /// The guest asked for a CREDIT_UPDATE.
    asked: bool,
}

impl Received {
    fn room(&self) -> u32 {
        BUFFER_BYTES.saturating_sub(self.received.wrapping_sub(self.forwarded))
    }

    /// Whether the guest should be told of the room there is: it asked, or believes that half of
    /// the buffer is gone while a good part of that is free again.
    fn owes_update(&self) -> bool {
        self.asked
            || self.received.wrapping_sub(self.told) >= BUFFER_BYTES / 2
                && self.forwarded.wrapping_sub(self.told) >= BUFFER_BYTES / 4
    }
}

impl Connection {
    /// A connection that a host process asks for.
    pub(super) fn requested_by_host(ports: Ports) -> Self {
        Self::new(ports, Phase::Requesting { asked: false })
    }

    /// A connection that the guest asked for with `request` and gets.
    pub(super) fn requested_by_guest(request: &Header) -> Self {
        let mut connection = Self::new(request.ports_from_guest(), Phase::Accepting);
        connection.note_credit(request);
        connection
    }

    fn new(ports: Ports, phase: Phase) -> Self {
        Self {
            ports,
            phase,
            to_guest: Sent::default(),
            from_guest: Received::default(),
            guest_ended: Ended::NEITHER,
            host_ended: Ended::NEITHER,
            told_ended: Ended::NEITHER,
        }
    }

    pub(super) fn ports(&self) -> Ports {
        self.ports
    }

    /// The halves that the guest has ended.
    pub(super) fn guest_ended(&self) -> Ended {
        self.guest_ended
    }

    /// Whether the guest knows of this connection and must hear of its end.
    pub(super) fn is_known_to_guest(&self) -> bool {
        self.phase != Phase::Requesting { asked: false }
    }

    /// Whether the guest has not answered the host's request yet.
    pub(super) fn is_requesting(&self) -> bool {
        matches!(self.phase, Phase::Requesting { .. })
    }

    /// Whether all is said but the guest's last RST: the host end is no longer needed.
    pub(super) fn is_closing(&self) -> bool {
        self.phase == Phase::Closing
    }

    /// Takes in a packet of this connection from the guest.
    pub(super) fn receive(&mut self, op: Op, header: &Header) -> Event {
        self.note_credit(header);
        match (self.phase, op) {
            (_, Op::Rst) => Event::Ended { answer: false },
            (Phase::Requesting { asked: true }, Op::Response) => {
                self.phase = Phase::Established;
                Event::Opened
            }
            (Phase::Requesting { .. }, _) | (_, Op::Request | Op::Response) => Event::Broken,
            (_, Op::Shutdown) => self.receive_shutdown(Ended::from_flags(header.flags.get())),
            (Phase::Closing, _) | (_, Op::CreditUpdate) => Event::Nothing,
            (_, Op::CreditRequest) => {
                self.from_guest.asked = true;
                Event::Nothing
            }
            (_, Op::Rw) => self.receive_data(header.len.get()),
        }
    }

    fn receive_shutdown(&mut self, halves: Ended) -> Event {
        self.guest_ended = self.guest_ended.and(halves);
        match self.guest_ended {
            Ended::BOTH => Event::Ended { answer: true },
            _ if self.phase == Phase::Closing => Event::Nothing,
            _ => Event::HalfEnded,
        }
    }

    fn receive_data(&mut self, len: u32) -> Event {
        if self.guest_ended.send || len > self.from_guest.room() {
            return Event::Broken;
        }
        self.from_guest.received = self.from_guest.received.wrapping_add(len);
        Event::Data
    }

    fn note_credit(&mut self, header: &Header) {
        self.to_guest.buf_alloc = header.buf_alloc.get();
        self.to_guest.fwd_cnt = header.fwd_cnt.get();
        if self.to_guest.credit() > 0 {
            self.to_guest.asked = false;
        }
    }

    /// Notes that `bytes` of the guest's have left the device's buffer.
    pub(super) fn forwarded(&mut self, bytes: usize) {
        // Never more than BUFFER_BYTES at a time: more is not let in.
        let bytes = u32::try_from(bytes).unwrap_or(BUFFER_BYTES);
        self.from_guest.forwarded = self.from_guest.forwarded.wrapping_add(bytes);
    }

    /// Notes that the host end has ended these halves, seen from the host.
    pub(super) fn end_host(&mut self, halves: Ended) {
        self.host_ended = self.host_ended.and(halves);
    }

    /// What the guest is to be told has ended. Once neither side sends, both halves have.
    fn ended_to_tell(&self) -> Ended {
        if self.host_ended.send && self.guest_ended.send {
            Ended::BOTH
        } else {
            self.host_ended
        }
    }

    /// The packet to send next, if any; `readable` says that the host end may have data.
    pub(super) fn next(&self, readable: bool) -> Option<Next> {
        match self.phase {
            Phase::Requesting { asked: false } => return Some(Next::Control(Op::Request)),
            Phase::Accepting => return Some(Next::Control(Op::Response)),
            Phase::Requesting { asked: true } | Phase::Closing => return None,
            Phase::Established => {}
        }
        if self.ended_to_tell() != self.told_ended {
            return Some(Next::Control(Op::Shutdown));
        }
        let wants_data = readable && !self.host_ended.send && !self.guest_ended.receive;
        match self.to_guest.credit() {
            0 if wants_data && !self.to_guest.asked => Some(Next::Control(Op::CreditRequest)),
            most @ 1.. if wants_data => Some(Next::Data { most }),
            _ if self.from_guest.owes_update() => Some(Next::Control(Op::CreditUpdate)),
            _ => None,
        }
    }

    /// The header of a packet that is sent now, with `len` bytes of payload. Takes it as sent.
    pub(super) fn send(&mut self, guest_cid: u64, op: Op, len: u32) -> Header {
        match op {
            Op::Request => self.phase = Phase::Requesting { asked: true },
            Op::Response => self.phase = Phase::Established,
            Op::Shutdown => self.note_shutdown_sent(),
            Op::CreditRequest => self.to_guest.asked = true,
            Op::Rw => self.to_guest.sent = self.to_guest.sent.wrapping_add(len),
            Op::CreditUpdate | Op::Rst => {}
        }
        self.from_guest.told = self.from_guest.forwarded;
        self.from_guest.asked = false;
        Header {
            src_cid: HOST_CID.into(),
            dst_cid: guest_cid.into(),
            src_port: self.ports.host.into(),
            dst_port: self.ports.guest.into(),
            len: len.into(),
            kind: TYPE_STREAM.into(),
            op: (op as u16).into(),
            flags: if op == Op::Shutdown {
                self.told_ended.flags()
            } else {
                0
            }
            .into(),
            buf_alloc: BUFFER_BYTES.into(),
            fwd_cnt: self.from_guest.forwarded.into(),
        }
    }

    fn note_shutdown_sent(&mut self) {
        self.told_ended = self.ended_to_tell();
        if self.told_ended == Ended::BOTH {
            self.phase = Phase::Closing;
        }
    }
}

#[cfg(test)]
mod tests;
