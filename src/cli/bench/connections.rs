//! The generator's client connections: one thread, one readiness loop, one read buffer for all of
//! them.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdStream};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use super::Error;
use super::centrifuge::{self, Line};
use super::protocol::Protocol;
use super::target::Upgrade;
use super::wire::{self, Scanner, WireError};

/// One read takes at most this much: large, because a coalesced fan-out fills the socket buffer
/// between two reads.
const READ_BYTES: usize = 256 * 1024;
/// Readiness events of one poll.
const EVENTS_MAX: usize = 1_024;
/// Handshakes under way while the connections of a run are set up: below any listen backlog.
const OPENING_MAX: usize = 128;
/// For all connections of a run to be established.
const ESTABLISH_SECONDS_MAX: u64 = 60;
/// Bytes that wait for a server that does not read.
const OUTBOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A response to the upgrade beyond this is none.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

/// Nanoseconds since the generator started.
#[derive(Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// What one connection has to send.
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// State of the xorshift that gives each frame its mask.
    mask: u32,
}

impl Outbox {
    /// An empty outbox; `seed` must not be zero.
    pub(super) fn new(seed: u32) -> Self {
        Self { bytes: Vec::new(), sent: 0, mask: seed }
    }

    /// Queues one masked frame.
    pub(super) fn push(&mut self, opcode: u8, payload: &[u8]) {
        self.mask ^= self.mask << 13;
        self.mask ^= self.mask >> 17;
        self.mask ^= self.mask << 5;
        wire::write_masked(&mut self.bytes, opcode, self.mask.to_ne_bytes(), payload);
    }

    fn flush(&mut self, stream: &mut TcpStream) -> Result<(), Loss> {
        while self.sent < self.bytes.len() {
            match stream.write(&self.bytes[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return if self.bytes.len() - self.sent > OUTBOX_BYTES_MAX {
                        Err(Loss::NotReading)
                    } else {
                        Ok(())
                    };
                }
                Err(error) => return Err(Loss::Socket(error)),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }
}

/// Why a connection ended although the generator did not end it.
#[derive(Debug)]
pub(super) enum Loss {
    Socket(io::Error),
    Eof,
    Closed(u16, String),
    Wire(WireError),
    Upgrade(String),
    Refused(String),
    NotReading,
}

impl From<WireError> for Loss {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(error) => write!(f, "a connection failed: {error}"),
            Self::Eof => f.write_str("the server closed a connection without a close frame"),
            Self::Closed(code, reason) => {
                write!(f, "the server closed a connection: {code} {reason}")
            }
            Self::Wire(error) => error.fmt(f),
            Self::Upgrade(text) => write!(f, "the server refused the upgrade: {text}"),
            Self::Refused(text) => f.write_str(text),
            Self::NotReading => f.write_str("the server does not read: 64 MiB wait for it"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The TCP handshake is under way.
    Connecting,
    /// The upgrade request has been queued.
    Upgrading,
    /// So many replies are missing before the connection counts as established.
    Greeting(u8),
    Ready,
    /// The generator has sent its close frame; whatever ends the connection now is right.
    Closing,
}

/// What the connection of a slot sends first after the upgrade, and how many replies make it
/// established.
pub(super) type Greeting = Box<dyn Fn(usize) -> Option<(Vec<u8>, u8)>>;

struct Connection {
    stream: TcpStream,
    inbox: Inbox,
    outbox: Outbox,
    scanner: Scanner,
    /// The response to the upgrade as far as it has come; empty afterwards.
    response: Vec<u8>,
    greeting: Option<(Vec<u8>, u8)>,
}

/// What is known of a connection's incoming side.
struct Inbox {
    phase: Phase,
    /// Deliveries since the connection was opened.
    received: u64,
    pong: bool,
}

/// What a kind of load does with what its connections report.
pub(super) trait Sink {
    /// The connection in `slot` is established.
    fn ready(&mut self, slot: usize, now: u64);

    /// One message of a plain protocol, or one publication, read at `now`; answers go to `outbox`.
    fn delivery(&mut self, slot: usize, now: u64, body: &[u8], outbox: &mut Outbox);

    /// The server answered a command of an established connection, and did not refuse it.
    fn replied(&mut self, _slot: usize) {}

    /// The server refused a command of an established connection.
    fn refused(&mut self, text: String);

    /// The slot is empty now; `loss` is `None` if the generator asked for the end.
    fn ended(&mut self, slot: usize, received: u64, loss: Option<Loss>);
}

/// All connections of a run, by slot.
pub(super) struct Connections {
    pub(super) clock: Clock,
    pub(super) protocol: Protocol,
    poll: Poll,
    events: Events,
    slots: Vec<Option<Connection>>,
    buffer: Box<[u8]>,
    upgrade: Upgrade,
    greeting: Greeting,
    spin: bool,
    /// Nanoseconds spent waiting for the server: blocked, or in polls that found nothing.
    pub(super) idle: u64,
    opened: u64,
}

impl Connections {
    pub(super) fn new(
        clock: Clock,
        protocol: Protocol,
        upgrade: Upgrade,
        greeting: Greeting,
        spin: bool,
    ) -> Result<Self, Error> {
        Ok(Self {
            clock,
            protocol,
            poll: Poll::new().map_err(Error::system("a poll instance"))?,
            events: Events::with_capacity(EVENTS_MAX),
            slots: Vec::new(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            upgrade,
            greeting,
            spin,
            idle: 0,
            opened: 0,
        })
    }

    /// Starts to connect `slot`, which must be empty; the sink hears of the end of it.
    pub(super) fn open(&mut self, slot: usize) -> Result<(), Error> {
        let stream = connect(&self.poll, self.upgrade.address, self.opened, slot)?;
        self.opened += 1;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] = Some(Connection {
            stream,
            inbox: Inbox { phase: Phase::Connecting, received: 0, pong: false },
            outbox: Outbox::new((self.opened as u32).wrapping_mul(0x9e37_79b9) | 1),
            scanner: Scanner::default(),
            response: Vec::new(),
            greeting: (self.greeting)(slot),
        });
        Ok(())
    }

    /// Opens slots `0..count` and waits until each is established; the first failure ends it.
    pub(super) fn establish(
        &mut self,
        count: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<(), Error> {
        let mut opening = Opening::default();
        let deadline = self.clock.now() + ESTABLISH_SECONDS_MAX * 1_000_000_000;
        let mut started = 0;
        while opening.ready < count {
            while started < count && started - opening.ready < OPENING_MAX {
                self.open(started)?;
                started += 1;
            }
            self.turn(Duration::from_millis(100), &mut opening)?;
            progress(opening.ready);
            if let Some(text) = opening.failed.take() {
                return Err(Error::Establish { ready: opening.ready, count, text });
            }
            if self.clock.now() > deadline {
                let text = format!("not within {ESTABLISH_SECONDS_MAX} s");
                return Err(Error::Establish { ready: opening.ready, count, text });
            }
        }
        Ok(())
    }

    /// The outbox of an established connection; `None` if the slot is empty. Call [`Self::flush`]
    /// afterwards.
    pub(super) fn outbox(&mut self, slot: usize) -> Option<&mut Outbox> {
        self.slots.get_mut(slot)?.as_mut().map(|connection| &mut connection.outbox)
    }

    /// Sends what is queued in a slot.
    pub(super) fn flush(&mut self, slot: usize, sink: &mut impl Sink) {
        if let Some(connection) = &mut self.slots[slot]
            && let Err(loss) = connection.outbox.flush(&mut connection.stream)
        {
            self.end(slot, loss, sink);
        }
    }

    /// Begins the closing handshake of an established connection.
    pub(super) fn close(&mut self, slot: usize, sink: &mut impl Sink) {
        if let Some(connection) = &mut self.slots[slot] {
            connection.inbox.phase = Phase::Closing;
            connection.outbox.push(wire::CLOSE, &1000u16.to_be_bytes());
            self.flush(slot, sink);
        }
    }

    /// One poll and all that it brings; waits at most `patience` if nothing is there (not at all
    /// when spinning).
    pub(super) fn turn(&mut self, patience: Duration, sink: &mut impl Sink) -> Result<(), Error> {
        let before = self.clock.now();
        self.poll_for(Duration::ZERO)?;
        if self.events.is_empty() {
            if !self.spin && !patience.is_zero() {
                self.poll_for(patience)?;
            }
            self.idle += self.clock.now() - before;
        }
        for event in self.events.iter() {
            let slot = event.token().0;
            let Some(connection) = &mut self.slots[slot] else { continue };
            let outcome = connection.handle(
                slot,
                event,
                &mut self.buffer,
                (self.clock, self.protocol, &self.upgrade),
                sink,
            );
            if let Err(loss) = outcome {
                end(&mut self.slots[slot], slot, loss, sink);
            }
        }
        Ok(())
    }

    fn poll_for(&mut self, patience: Duration) -> Result<(), Error> {
        match self.poll.poll(&mut self.events, Some(patience)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(Error::system("polling")(error))
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self, slot: usize, loss: Loss, sink: &mut impl Sink) {
        end(&mut self.slots[slot], slot, loss, sink);
    }
}

const EINPROGRESS: i32 = 115;

/// Closing the socket also removes it from the poll.
fn end(slot: &mut Option<Connection>, index: usize, loss: Loss, sink: &mut impl Sink) {
    if let Some(connection) = slot.take() {
        let asked = connection.inbox.phase == Phase::Closing;
        sink.ended(index, connection.inbox.received, (!asked).then_some(loss));
    }
}

/// Begins connection number `opened` to the server, whose end the poll tells under `token`.
pub(super) fn connect(
    poll: &Poll,
    address: SocketAddr,
    opened: u64,
    token: usize,
) -> Result<TcpStream, Error> {
    let connect = || {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new_raw(Domain::for_address(address), kind, None)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source_address(address, opened) {
            socket.bind(&source.into())?;
        }
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(error),
            _ => {}
        }
        let mut stream = TcpStream::from_std(StdStream::from(socket));
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(token), interest)?;
        Ok(stream)
    };
    connect().map_err(Error::system("a connection"))
}

/// Spreads connections to an IPv4 loopback server over source addresses: one has 28,000 ports, and
/// each stays in TIME_WAIT after its connection.
fn source_address(target: SocketAddr, opened: u64) -> Option<SocketAddr> {
    match target {
        SocketAddr::V4(target) if target.ip().is_loopback() => {
            let host = (opened / 64 % 250) as u8 + 2;
            Some((Ipv4Addr::new(127, 0, 0, host), 0).into())
        }
        _ => None,
    }
}

impl Connection {
    #[inline]
    fn handle<S: Sink>(
        &mut self,
        slot: usize,
        event: &Event,
        buffer: &mut [u8],
        run: (Clock, Protocol, &Upgrade),
        sink: &mut S,
    ) -> Result<(), Loss> {
        let (clock, protocol, upgrade) = run;
        if self.inbox.phase == Phase::Connecting {
            if event.is_error() {
                let error = self.stream.take_error().map_err(Loss::Socket)?;
                return Err(error.map_or(Loss::Eof, Loss::Socket));
            }
            if !event.is_writable() {
                return Ok(());
            }
            self.inbox.phase = Phase::Upgrading;
            self.outbox.bytes.extend_from_slice(&upgrade.request);
            self.outbox.flush(&mut self.stream)?;
        }
        while event.is_readable() || event.is_read_closed() {
            match self.stream.read(buffer) {
                Ok(0) => return Err(Loss::Eof),
                Ok(count) => {
                    self.take(slot, clock.now(), &buffer[..count], (protocol, upgrade), sink)?;
                    // A short read has emptied the socket, and what comes later is a new edge
                    // (epoll(7)).
                    if count < buffer.len() && !event.is_read_closed() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(Loss::Socket(error)),
            }
        }
        self.outbox.flush(&mut self.stream)
    }

    #[inline]
    fn take<S: Sink>(
        &mut self,
        slot: usize,
        now: u64,
        mut bytes: &[u8],
        (protocol, upgrade): (Protocol, &Upgrade),
        sink: &mut S,
    ) -> Result<(), Loss> {
        if self.inbox.phase == Phase::Upgrading {
            let before = self.response.len();
            self.response.extend_from_slice(bytes);
            let Some(end) = upgrade.accepted(&self.response).map_err(Loss::Upgrade)? else {
                return if self.response.len() > RESPONSE_BYTES_MAX {
                    Err(Loss::Upgrade("a response without an end".into()))
                } else {
                    Ok(())
                };
            };
            bytes = &bytes[end - before..];
            self.response = Vec::new();
            match self.greeting.take() {
                Some((message, replies)) => {
                    self.outbox.push(wire::TEXT, &message);
                    self.inbox.phase = Phase::Greeting(replies);
                }
                None => {
                    self.inbox.phase = Phase::Ready;
                    sink.ready(slot, now);
                }
            }
        }
        let Self { inbox, outbox, scanner, .. } = self;
        scanner.feed(bytes, |opcode, payload| match opcode {
            wire::TEXT | wire::BINARY => match protocol {
                Protocol::Plain => {
                    inbox.received += 1;
                    sink.delivery(slot, now, payload, outbox);
                    Ok(())
                }
                Protocol::Centrifuge => {
                    let mut outcome = Ok(());
                    centrifuge::lines(payload, |line| match line {
                        Line::Push(body) => {
                            inbox.received += 1;
                            sink.delivery(slot, now, body, outbox);
                        }
                        Line::Ping if inbox.pong => outbox.push(wire::TEXT, b"{}"),
                        Line::Ping => {}
                        Line::Reply(reply) => {
                            if let Err(loss) = inbox.reply(slot, now, reply, sink) {
                                outcome = Err(loss);
                            }
                        }
                    });
                    outcome
                }
            },
            _ => control(opcode, payload, outbox),
        })
    }
}

impl Inbox {
    fn reply(
        &mut self,
        slot: usize,
        now: u64,
        reply: &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), Loss> {
        let error = centrifuge::reply_error(reply);
        if let Phase::Greeting(missing) = self.phase {
            if let Some(text) = error {
                return Err(Loss::Refused(text));
            }
            self.pong |= centrifuge::wants_pong(reply);
            self.phase = if missing == 1 { Phase::Ready } else { Phase::Greeting(missing - 1) };
            if self.phase == Phase::Ready {
                sink.ready(slot, now);
            }
        } else if let Some(text) = error {
            sink.refused(text);
        } else {
            sink.replied(slot);
        }
        Ok(())
    }
}

#[cold]
fn control(opcode: u8, payload: &[u8], outbox: &mut Outbox) -> Result<(), Loss> {
    match opcode {
        wire::PING => outbox.push(wire::PONG, payload),
        wire::CLOSE => {
            let code = payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code));
            let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
            return Err(Loss::Closed(code, reason.into_owned()));
        }
        _ => {}
    }
    Ok(())
}

/// Counts connections until all are established.
#[derive(Default)]
struct Opening {
    ready: usize,
    failed: Option<String>,
}

impl Sink for Opening {
    fn ready(&mut self, _slot: usize, _now: u64) {
        self.ready += 1;
    }

    fn delivery(&mut self, _slot: usize, _now: u64, _body: &[u8], _outbox: &mut Outbox) {}

    fn refused(&mut self, text: String) {
        self.failed.get_or_insert(text);
    }

    fn ended(&mut self, _slot: usize, _received: u64, loss: Option<Loss>) {
        if let Some(loss) = loss {
            self.failed.get_or_insert(loss.to_string());
        }
    }
}
