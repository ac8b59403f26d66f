//! All connections of a device: which packet belongs to which, and whose turn it is to send.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chain::{Packet, Room};
use super::connection::{Connection, Event, Next};
use super::ports::PortDirectory;
use super::stream::{Greeting, HostStream, Read};
use super::wire::{Ended, HOST_CID, Header, Op, Ports, TYPE_STREAM};
use crate::devices::epoll::{Change, Epoll};
use crate::devices::span::Span;

/// How many host sockets a device holds, in any state. A guest cannot spend more of the process's
/// descriptors than this: half of the 1,024 that are usual, the other half being for file sharing.
/// It also bounds the memory that slow host readers can tie up, with `BUFFER_BYTES` each.
pub(super) const MOST_SESSIONS: usize = 512;

/// How many RSTs for unknown connections wait for receive buffers. A guest that asks for more
/// without giving buffers gets none for the rest.
const MOST_RESETS: usize = 256;

/// How long the guest may take for the RST that ends a connection. What Linux waits for, 8 s, is
/// for a peer far away.
const CLOSING_LIMIT: Duration = Duration::from_secs(2);

/// The host ports that are given to connections from the host; below it are the well-known ones
/// that a guest dials.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// The token under which the epoll instance knows the first session; those below are the worker's.
pub(super) const FIRST_SESSION: u64 = 16;

/// A host socket and what it stands for.
#[derive(Debug)]
enum Session {
    /// A client that has not said yet where to.
    Greeting(HostStream),
    /// A connection with the guest. The host end is gone once only the guest's RST is missing.
    Linked {
        connection: Connection,
        stream: Option<HostStream>,
        /// It stands in `Mux::ready`.
        queued: bool,
    },
    /// The guest is done; the host reader has not taken everything.
    Draining(HostStream),
}

/// The connections of a device.
#[derive(Debug)]
pub(super) struct Mux {
    guest_cid: u64,
    directory: PortDirectory,
    epoll: Arc<Epoll>,
    sessions: HashMap<u64, Session>,
    by_ports: HashMap<Ports, u64>,
    /// Sessions that may have a packet to send, in turn.
    ready: VecDeque<u64>,
    /// RSTs that belong to no connection.
    resets: VecDeque<Header>,
    /// Connections that wait for the guest's RST, with the time when that ends.
    closing: VecDeque<(Instant, u64)>,
    next_session: u64,
    next_host_port: u32,
}

impl Mux {
    pub(super) fn new(guest_cid: u64, directory: PortDirectory, epoll: Arc<Epoll>) -> Self {
        Self {
            guest_cid,
            directory,
            epoll,
            sessions: HashMap::new(),
            by_ports: HashMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            closing: VecDeque::new(),
            next_session: FIRST_SESSION,
            next_host_port: FIRST_HOST_PORT,
        }
    }

    /// Whether another host socket would be one too many.
    pub(super) fn is_full(&self) -> bool {
        self.sessions.len() >= MOST_SESSIONS
    }

    /// Takes in a client of the device's own socket.
    pub(super) fn greet(&mut self, socket: UnixStream) -> io::Result<()> {
        let id = self.watch(&socket)?;
        self.sessions
            .insert(id, Session::Greeting(HostStream::new(socket)));
        Ok(())
    }

    fn watch(&mut self, socket: &UnixStream) -> io::Result<u64> {
        let id = self.take_id();
        self.epoll.watch_socket(socket, id)?;
        Ok(id)
    }

    /// An identity that no session had before, so that a late event cannot meet a stranger.
    fn take_id(&mut self) -> u64 {
        self.next_session += 1;
        self.next_session
    }

    /// Whether the guest's receive buffers are wanted.
    pub(super) fn wants_to_send(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    // The host's side.

    /// Takes note of a change of a host socket.
    pub(super) fn host_changed(&mut self, change: Change) {
        let id = change.token;
        // A session that ended earlier in the same round of events may still be named.
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        match session {
            Session::Greeting(stream) => {
                stream.hung_up = change.hung_up;
                match stream.greeting() {
                    Greeting::Partial => {}
                    Greeting::Connect(port) => self.request(id, port),
                    Greeting::Bad => drop(self.sessions.remove(&id)),
                }
            }
            Session::Draining(stream) => {
                stream.hung_up |= change.hung_up;
                stream.flush();
                if !stream.has_backlog() {
                    self.sessions.remove(&id);
                }
            }
            Session::Linked { connection, .. } if connection.is_requesting() && change.hung_up => {
                self.reset(id);
            }
            Session::Linked {
                connection, stream, ..
            } => {
                if let Some(stream) = stream {
                    stream.readable |= !connection.guest_ended().receive;
                    stream.hung_up |= change.hung_up;
                    connection.forwarded(stream.flush());
                    note_hang_up(connection, stream);
                }
                self.enqueue(id);
            }
        }
    }

    /// Turns a client that said where to into a connection that the guest is asked for.
    fn request(&mut self, id: u64, guest_port: u32) {
        let Some(Session::Greeting(stream)) = self.sessions.remove(&id) else {
            return;
        };
        let ports = self.free_ports(guest_port);
        let connection = Connection::requested_by_host(ports);
        self.link(id, connection, stream);
    }

    fn free_ports(&mut self, guest: u32) -> Ports {
        loop {
            let ports = Ports {
                host: self.next_host_port,
                guest,
            };
            self.next_host_port = self
                .next_host_port
                .checked_add(1)
                .unwrap_or(FIRST_HOST_PORT);
            // Ends: there are far fewer sessions than ports.
            if !self.by_ports.contains_key(&ports) {
                return ports;
            }
        }
    }

    fn link(&mut self, id: u64, connection: Connection, stream: HostStream) {
        self.by_ports.insert(connection.ports(), id);
        let session = Session::Linked {
            connection,
            stream: Some(stream),
            queued: false,
        };
        self.sessions.insert(id, session);
        self.enqueue(id);
    }

    fn enqueue(&mut self, id: u64) {
        if let Some(Session::Linked {
            connection,
            stream,
            queued,
        }) = self.sessions.get_mut(&id)
        {
            let readable = stream.as_ref().is_some_and(|stream| stream.readable);
            if !*queued && connection.next(readable).is_some() {
                *queued = true;
                self.ready.push_back(id);
            }
        }
    }

    // The guest's side.

    /// Takes in a packet from the guest.
    pub(super) fn receive(&mut self, packet: Packet) {
        let Packet { header, payload } = packet;
        // A packet with another source than the guest's own address is dropped without an answer:
        // that would go to whom the guest names.
        if header.src_cid.get() != self.guest_cid {
            return;
        }
        let op = Op::of(&header);
        let known = header.dst_cid.get() == HOST_CID && header.kind.get() == TYPE_STREAM;
        match (op, self.by_ports.get(&header.ports_from_guest())) {
            (Some(op), Some(&id)) if known => self.receive_for(id, op, &header, payload),
            (Some(Op::Request), None) if known => self.accept(&header),
            (Some(Op::Rst), _) => {}
            (None, Some(&id)) if known => self.reset(id),
            _ => self.refuse(&header),
        }
    }

    /// Answers a packet that belongs to no connection.
    fn refuse(&mut self, header: &Header) {
        if self.resets.len() < MOST_RESETS {
            self.resets.push_back(header.reset());
        }
    }

    /// Connects the guest to the host listener that it asks for, if there is one.
    fn accept(&mut self, header: &Header) {
        let opened = match self.is_full() {
            true => Err(io::ErrorKind::QuotaExceeded.into()),
            false => self.directory.connect(header.dst_port.get()),
        };
        match opened.and_then(|socket| Ok((self.watch(&socket)?, socket))) {
            Ok((id, socket)) => {
                self.link(
                    id,
                    Connection::requested_by_guest(header),
                    HostStream::new(socket),
                );
            }
            Err(_) => self.refuse(header),
        }
    }

    fn receive_for(&mut self, id: u64, op: Op, header: &Header, payload: Span) {
        let Some(Session::Linked {
            connection, stream, ..
        }) = self.sessions.get_mut(&id)
        else {
            return;
        };
        match (connection.receive(op, header), stream) {
            (Event::Broken, _) => return self.reset(id),
            (Event::Ended { answer }, _) => return self.unlink(id, answer),
            (Event::Opened, Some(stream)) => {
                stream.confirm(connection.ports().host);
                note_hang_up(connection, stream);
            }
            (Event::Data, Some(stream)) => {
                connection.forwarded(stream.deliver(payload));
                note_hang_up(connection, stream);
            }
            (Event::HalfEnded, Some(stream)) => end_guest(connection, stream),
            _ => {}
        }
        self.enqueue(id);
    }

    /// Ends a connection at once, whatever still waits, and tells the guest if it knows of it.
    fn reset(&mut self, id: u64) {
        let Some(Session::Linked { connection, .. }) = self.sessions.get_mut(&id) else {
            return;
        };
        let known = connection.is_known_to_guest();
        self.forget(id, known);
    }

    /// Ends a connection that the guest has ended, and lets the host reader have the rest.
    fn unlink(&mut self, id: u64, answer: bool) {
        if let Some(mut stream) = self.forget(id, answer)
            && stream.has_backlog()
        {
            stream.end_sending();
            self.sessions.insert(id, Session::Draining(stream));
        }
    }

    /// Takes a connection off the tables, and owes the guest a RST if it is to `answer`.
    fn forget(&mut self, id: u64, answer: bool) -> Option<HostStream> {
        let Some(Session::Linked {
            mut connection,
            stream,
            ..
        }) = self.sessions.remove(&id)
        else {
            return None;
        };
        self.by_ports.remove(&connection.ports());
        if answer && self.resets.len() < MOST_RESETS + MOST_SESSIONS {
            self.resets
                .push_back(connection.send(self.guest_cid, Op::Rst, 0));
        }
        stream
    }

    /// Fills one receive buffer with the next packet. Says how many bytes it used, or `None`
    /// where there is nothing to send after all.
    pub(super) fn send(&mut self, room: &Room, now: Instant) -> Option<u32> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(room.finish(&reset));
        }
        while let Some(id) = self.ready.pop_front() {
            if let Some(header) = self.send_from(id, room) {
                let used = room.finish(&header);
                self.note_closing(id, now);
                self.enqueue(id);
                return Some(used);
            }
        }
        None
    }

    /// The header of the next packet of one session; its payload is in `room` already.
    fn send_from(&mut self, id: u64, room: &Room) -> Option<Header> {
        let Some(Session::Linked {
            connection,
            stream,
            queued,
        }) = self.sessions.get_mut(&id)
        else {
            return None;
        };
        *queued = false;
        loop {
            let readable = stream.as_ref().is_some_and(|stream| stream.readable);
            let most = match (connection.next(readable)?, &stream) {
                (Next::Control(op), _) => return Some(connection.send(self.guest_cid, op, 0)),
                // A buffer for headers only takes one that does no harm.
                (Next::Data { .. }, _) if room.payload.len() == 0 => {
                    return Some(connection.send(self.guest_cid, Op::CreditUpdate, 0));
                }
                (Next::Data { most }, _) => usize::try_from(most).unwrap_or(usize::MAX),
            };
            match stream.as_mut()?.read(&room.payload, most) {
                Read::Bytes(bytes) => {
                    let len = u32::try_from(bytes).unwrap_or(u32::MAX);
                    return Some(connection.send(self.guest_cid, Op::Rw, len));
                }
                Read::Empty => {}
                Read::End => connection.end_host(Ended {
                    send: true,
                    receive: false,
                }),
            }
        }
    }

    /// Where the guest has just been told that all is over: lets the host end go and starts the
    /// time that the guest has for its RST.
    fn note_closing(&mut self, id: u64, now: Instant) {
        let Some(Session::Linked {
            connection, stream, ..
        }) = self.sessions.get_mut(&id)
        else {
            return;
        };
        if !connection.is_closing() {
            return;
        }
        let Some(stream) = stream.take() else { return };
        self.closing.push_back((now + CLOSING_LIMIT, id));
        if stream.has_backlog() {
            self.drain_apart(stream);
        }
    }

    /// Keeps a host socket without connection until its reader has taken everything.
    fn drain_apart(&mut self, mut stream: HostStream) {
        stream.end_sending();
        let id = self.take_id();
        // Under a new name, since the old one is the connection's.
        if self.epoll.rename_socket(stream.socket(), id).is_ok() {
            self.sessions.insert(id, Session::Draining(stream));
        }
    }

    /// Resets the connections whose time for a last RST is over.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(until, id)) = self.closing.front()
            && until <= now
        {
            self.closing.pop_front();
            self.reset(id);
        }
    }

    /// When [`Mux::expire`] has something to do next.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.closing.front().map(|&(until, _)| until)
    }
}

/// Lets the guest know that its data goes nowhere any more.
fn note_hang_up(connection: &mut Connection, stream: &HostStream) {
    if stream.hung_up {
        connection.end_host(Ended {
            receive: true,
            send: false,
        });
    }
}

/// Ends on the host socket what the guest has ended.
fn end_guest(connection: &mut Connection, stream: &mut HostStream) {
    if connection.guest_ended().send {
        stream.end_sending();
    }
    if connection.guest_ended().receive {
        stream.end_receiving();
        connection.end_host(Ended {
            send: true,
            receive: false,
        });
    }
}
