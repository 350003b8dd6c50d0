//! A fleet of dormant devices on one thread: each holds a stream, beats, ends it on a wake and watches again.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::wire::{self, Answer, Part};
use crate::cli::bench::connections::{Clock, connect};
use crate::cli::bench::measure::{Failures, histogram};
use crate::cli::bench::{Error, stamp};

/// Connections for heartbeats and wakes, half of them for each; agents have one each for their
/// heartbeats, which twice the open files would be needed for.
pub(super) const LANES: usize = 32;
/// Requests in flight on one lane; others wait in the generator, and their time counts.
const LANE_IN_FLIGHT_MAX: usize = 32;
const EVENTS_MAX: usize = 1_024;
const READ_BYTES: usize = 64 * 1024;
/// Of a response that has not come whole; beyond it is none that this protocol knows.
const CARRY_BYTES_MAX: usize = 64 * 1024;
/// What stands before the time stamp in the URL of a wake.
const URL: &str = "wss://bench/";

/// How the server is asked.
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// As it stands in a `Host` field.
    pub(super) host: String,
    /// The path of the watches.
    pub(super) base: String,
    pub(super) api_key: String,
}

/// How far one device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has no connection.
    Away,
    Connecting,
    /// The watch is asked for, and no `hello` has come.
    Asking,
    Watching,
}

struct Device {
    stream: Option<TcpStream>,
    phase: Phase,
    /// The beginning of a part of the response that has not come whole.
    carry: Vec<u8>,
    headed: bool,
    lease: String,
    authorization: String,
    /// When the wake under way was meant to be sent.
    woken: Option<u64>,
    /// When it began to watch again; 0 for the first time.
    left_at: u64,
}

/// What a request on a lane is for.
enum Errand {
    Beat { device: usize, lease: String },
    Wake { device: usize },
}

/// A connection that carries requests, several at once, answered in order.
struct Lane {
    stream: TcpStream,
    /// The server closed it; it is replaced when it is wanted again.
    ended: bool,
    out: Vec<u8>,
    carry: Vec<u8>,
    in_flight: VecDeque<Errand>,
    waiting: VecDeque<(Errand, String)>,
}

/// What the fleet has seen.
pub(super) struct Seen {
    pub(super) hellos: u64,
    pub(super) comments: u64,
    pub(super) beats: u64,
    pub(super) wakes_sent: u64,
    pub(super) wakes: u64,
    /// Wakes meant to be sent in here count for latency.
    pub(super) window: std::ops::Range<u64>,
    /// From the time at which a wake was meant to be sent to its event; nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// From a wake's event to the next `hello`, the new connection included; nanoseconds.
    pub(super) rewatch: Histogram<u64>,
    /// When streams ended although the device had not ended them.
    pub(super) ends: Vec<u64>,
    pub(super) ends_in_order: u64,
    pub(super) failures: Failures,
}

/// All devices and lanes of a run.
pub(super) struct Fleet {
    pub(super) clock: Clock,
    pub(super) seen: Seen,
    /// Nanoseconds spent waiting for the server.
    pub(super) idle: u64,
    /// As the server advertised it.
    pub(super) interval_ms: u64,
    /// Ends of streams are expected from here on, and nobody watches again.
    pub(super) draining: bool,
    target: Target,
    poll: Poll,
    events: Events,
    buffer: Box<[u8]>,
    devices: Vec<Device>,
    lanes: Vec<Lane>,
    /// Due heartbeats in the order of time: a device, its lease, when. Whose lease has passed is skipped.
    beats: VecDeque<(u64, usize)>,
    opened: u64,
    lane: usize,
    random: u64,
    spin: bool,
}

impl Fleet {
    /// Devices that are away, one for each token; lanes that are connected.
    pub(super) fn new(target: Target, tokens: Vec<String>, spin: bool) -> Result<Self, Error> {
        let away = |token: String| Device {
            stream: None,
            phase: Phase::Away,
            carry: Vec::new(),
            headed: false,
            lease: String::new(),
            authorization: format!("Authorization: DeviceToken {token}\r\n"),
            woken: None,
            left_at: 0,
        };
        let poll = Poll::new().map_err(Error::system("a poll instance"))?;
        let devices: Vec<Device> = tokens.into_iter().map(away).collect();
        let lane = |number| Lane::connect(&poll, target.address, devices.len() + number);
        let lanes: Result<_, io::Error> = (0..LANES).map(lane).collect();
        Ok(Self {
            clock: Clock::start(),
            seen: Seen {
                hellos: 0,
                comments: 0,
                beats: 0,
                wakes_sent: 0,
                wakes: 0,
                window: 0..0,
                latency: histogram(),
                rewatch: histogram(),
                ends: Vec::new(),
                ends_in_order: 0,
                failures: Failures::default(),
            },
            idle: 0,
            interval_ms: 0,
            draining: false,
            lanes: lanes.map_err(Error::system("a connection"))?,
            target,
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            devices,
            beats: VecDeque::new(),
            opened: 0,
            lane: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            spin,
        })
    }

    /// Devices that watch.
    pub(super) fn watching(&self) -> usize {
        self.devices.iter().filter(|device| device.phase == Phase::Watching).count()
    }

    /// Begins to connect a device that is away.
    pub(super) fn open(&mut self, number: usize) -> Result<(), Error> {
        let stream = connect(&self.poll, self.target.address, self.opened, number)?;
        self.opened += 1;
        let device = &mut self.devices[number];
        device.stream = Some(stream);
        device.phase = Phase::Connecting;
        device.carry.clear();
        device.headed = false;
        Ok(())
    }

    /// Asks the backend's API to wake some device that watches and is not being woken; `intended` is when.
    pub(super) fn wake_one(&mut self, intended: u64) {
        /// Nearly all of them watch; a fleet of which this is not true has lost too many.
        const DRAWS_MAX: usize = 64;
        let drawn = (0..DRAWS_MAX).find_map(|_| {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let number = self.random as usize % self.devices.len();
            let device = &self.devices[number];
            (device.phase == Phase::Watching && device.woken.is_none()).then_some(number)
        });
        let Some(number) = drawn else {
            self.seen.failures.add("a wake was due and no device watched");
            return;
        };
        self.devices[number].woken = Some(intended);
        self.seen.wakes_sent += 1;
        let stamp = stamp::encode(intended);
        let stamp = String::from_utf8_lossy(&stamp);
        let body = format!(
            r#"{{"device":"{}","url":"{URL}{stamp}","token":"t","session_id":"s{}"}}"#,
            wire::device(number),
            self.seen.wakes_sent
        );
        let key = format!("X-API-Key: {}\r\n", self.target.api_key);
        let request = wire::post(&self.target.host, "/api/wake", &key, &body);
        let lane = self.next_lane();
        self.queue(lane, Errand::Wake { device: number }, request);
    }

    /// Sends the heartbeats that are due.
    pub(super) fn beat(&mut self, now: u64) {
        while let Some(&(due, number)) = self.beats.front()
            && due <= now
        {
            self.beats.pop_front();
            let device = &self.devices[number];
            if device.phase == Phase::Watching {
                let lease = device.lease.clone();
                let body = format!(r#"{{"watchLeaseId":"{lease}"}}"#);
                let path = format!("{}/watch/heartbeat", self.target.base);
                let request = wire::post(&self.target.host, &path, &device.authorization, &body);
                let lane = LANES / 2 + self.next_lane();
                self.queue(lane, Errand::Beat { device: number, lease }, request);
            }
            // One place in the order for each device, whatever became of its lease.
            self.beats.push_back((due + self.interval_ms * 1_000_000, number));
        }
    }

    /// When the next heartbeat is due.
    pub(super) fn next_beat(&self) -> Option<u64> {
        self.beats.front().map(|&(due, _)| due)
    }

    /// Devices that are being woken, or have not come back.
    pub(super) fn unsettled(&self) -> usize {
        let settled = |device: &&Device| {
            matches!(device.phase, Phase::Away | Phase::Watching) && device.woken.is_none()
        };
        self.devices.len() - self.devices.iter().filter(settled).count()
    }

    /// One poll and all that it brings.
    pub(super) fn turn(&mut self, patience: Duration) -> Result<(), Error> {
        let before = self.clock.now();
        self.poll_for(Duration::ZERO)?;
        if self.events.is_empty() {
            if !self.spin && !patience.is_zero() {
                self.poll_for(patience)?;
            }
            self.idle += self.clock.now() - before;
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let outcome = events.iter().try_for_each(|event| {
            let number = event.token().0;
            if number < self.devices.len() {
                self.device_ready(number, event)
            } else {
                self.lane_ready(number - self.devices.len())
            }
        });
        self.events = events;
        outcome
    }

    fn poll_for(&mut self, patience: Duration) -> Result<(), Error> {
        match self.poll.poll(&mut self.events, Some(patience)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(Error::system("polling")(error))
            }
            _ => Ok(()),
        }
    }

    fn next_lane(&mut self) -> usize {
        self.lane = (self.lane + 1) % (LANES / 2);
        self.lane
    }

    fn queue(&mut self, number: usize, errand: Errand, request: String) {
        if self.lanes[number].ended {
            let token = self.devices.len() + number;
            match Lane::connect(&self.poll, self.target.address, token) {
                Ok(lane) => self.lanes[number] = lane,
                Err(error) => return self.seen.failures.add(format!("a request: {error}")),
            }
        }
        let lane = &mut self.lanes[number];
        lane.waiting.push_back((errand, request));
        if let Err(error) = lane.flush() {
            self.seen.failures.add(format!("a request: {error}"));
        }
    }

    fn device_ready(&mut self, number: usize, event: &Event) -> Result<(), Error> {
        let device = &mut self.devices[number];
        let Some(stream) = &mut device.stream else { return Ok(()) };
        if device.phase == Phase::Connecting {
            if event.is_error() {
                let error = stream.take_error().ok().flatten();
                return self.lost(number, &format!("a connection failed: {error:?}"));
            }
            if !event.is_writable() {
                return Ok(());
            }
            self.ask(number)?;
        }
        while event.is_readable() || event.is_read_closed() {
            let Some(stream) = &mut self.devices[number].stream else { break };
            match stream.read(&mut self.buffer) {
                Ok(0) => return self.lost(number, "the server closed a connection"),
                Ok(count) => {
                    self.devices[number].carry.extend_from_slice(&self.buffer[..count]);
                    self.take(number)?;
                    if count < self.buffer.len() && !event.is_read_closed() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return self.lost(number, &format!("a stream: {error}")),
            }
        }
        Ok(())
    }

    /// Asks for a stream on the device's connection.
    fn ask(&mut self, number: usize) -> Result<(), Error> {
        let device = &mut self.devices[number];
        let previous = match device.lease.as_str() {
            "" => String::new(),
            lease => format!("&previousWatchLeaseId={lease}"),
        };
        let request = format!(
            "GET {}/watch?protocolVersion=2.3.0{previous} HTTP/1.1\r\nHost: {}\r\n\
             Accept: text/event-stream\r\n{}\r\n",
            self.target.base, self.target.host, device.authorization
        );
        device.phase = Phase::Asking;
        device.headed = false;
        let written = device.stream.as_mut().map(|stream| stream.write(request.as_bytes()));
        match written {
            // A fresh connection, or one that carries nothing else, has room for one request.
            Some(Ok(count)) if count == request.len() => Ok(()),
            other => self.lost(number, &format!("a watch could not be sent: {other:?}")),
        }
    }

    /// Takes what has come of a device's response.
    fn take(&mut self, number: usize) -> Result<(), Error> {
        let mut carry = std::mem::take(&mut self.devices[number].carry);
        let mut at = 0;
        loop {
            if !self.devices[number].headed {
                match wire::answer(&carry[at..], false) {
                    Ok(Some(Answer { status: 200, length })) => {
                        at += length;
                        self.devices[number].headed = true;
                    }
                    Ok(Some(answer)) => {
                        return self.lost(number, &format!("{} for a watch", answer.status));
                    }
                    Ok(None) => break,
                    Err(text) => return self.lost(number, &text),
                }
            }
            let (part, length) = match wire::part(&carry[at..]) {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(text) => return self.lost(number, text),
            };
            match part {
                Part::Comment => self.seen.comments += 1,
                Part::Hello { lease, interval_ms } => self.hello(number, lease, interval_ms),
                Part::Wake(text) => {
                    let stamp = text.find(URL).map(|found| &text[found + URL.len()..]);
                    let stamp = stamp.and_then(|text| stamp::decode(text.as_bytes()));
                    return self.woken(number, stamp);
                }
                Part::End => return self.ended(number),
            }
            at += length;
        }
        carry.drain(..at);
        if carry.len() > CARRY_BYTES_MAX {
            return self.lost(number, "an event without an end");
        }
        // An idle device has nothing to keep.
        self.devices[number].carry = if carry.is_empty() { Vec::new() } else { carry };
        Ok(())
    }

    fn hello(&mut self, number: usize, lease: &str, interval_ms: u64) {
        let now = self.clock.now();
        let first = self.devices[number].left_at == 0;
        self.seen.hellos += 1;
        let device = &mut self.devices[number];
        device.phase = Phase::Watching;
        lease.clone_into(&mut device.lease);
        if first {
            self.interval_ms = interval_ms;
            device.left_at = 1;
            self.beats.push_back((now + interval_ms * 1_000_000, number));
        } else if self.seen.window.contains(&now) {
            self.seen.rewatch.saturating_record(now.saturating_sub(device.left_at));
        }
    }

    /// Ends the stream as an agent does: its connection is closed, and the next one is new.
    fn woken(&mut self, number: usize, stamp: Option<u64>) -> Result<(), Error> {
        let now = self.clock.now();
        let device = &mut self.devices[number];
        match (stamp, device.woken.take()) {
            (Some(stamp), Some(intended)) if stamp == intended => {
                self.seen.wakes += 1;
                if self.seen.window.contains(&intended) {
                    self.seen.latency.saturating_record(now.saturating_sub(intended));
                }
            }
            (stamp, under_way) => {
                self.seen.failures.add("a wake that nobody had asked for, or a second time");
                device.woken = under_way.filter(|under_way| Some(*under_way) != stamp);
            }
        }
        device.stream = None;
        device.lease.clear();
        device.left_at = now;
        self.open(number)
    }

    /// The server ended a stream in order: agents watch again on the same connection.
    fn ended(&mut self, number: usize) -> Result<(), Error> {
        if self.draining {
            self.seen.ends.push(self.clock.now());
            self.seen.ends_in_order += 1;
            self.leave(number);
            return Ok(());
        }
        self.seen.failures.add("the server ended a stream");
        self.devices[number].left_at = self.clock.now();
        self.ask(number)
    }

    fn lost(&mut self, number: usize, text: &str) -> Result<(), Error> {
        let watched = self.devices[number].phase == Phase::Watching;
        self.leave(number);
        if self.draining && watched {
            self.seen.ends.push(self.clock.now());
        } else if !self.draining {
            self.seen.failures.add(text);
        }
        Ok(())
    }

    fn leave(&mut self, number: usize) {
        let device = &mut self.devices[number];
        device.stream = None;
        device.phase = Phase::Away;
        device.woken = None;
        device.carry = Vec::new();
    }

    fn lane_ready(&mut self, number: usize) -> Result<(), Error> {
        let lane = &mut self.lanes[number];
        match lane.read(&mut self.buffer) {
            Ok(()) => {}
            Err(_) if self.draining => return Ok(()),
            // Nothing had been asked for so long that the server closed it.
            Err(error)
                if error.kind() == io::ErrorKind::UnexpectedEof && lane.in_flight.is_empty() =>
            {
                lane.ended = true;
                return Ok(());
            }
            Err(error) => return Err(Error::system("a connection for requests")(error)),
        }
        let mut at = 0;
        loop {
            let lane = &mut self.lanes[number];
            let answer = match wire::answer(&lane.carry[at..], true) {
                Ok(Some(answer)) => answer,
                Ok(None) => break,
                Err(text) => return Err(Error::Usage(text)),
            };
            let text = String::from_utf8_lossy(&lane.carry[at..at + answer.length]).into_owned();
            at += answer.length;
            if let Some(errand) = lane.in_flight.pop_front() {
                self.answered(errand, answer.status, &text);
            }
        }
        let lane = &mut self.lanes[number];
        lane.carry.drain(..at);
        match lane.flush() {
            Err(error) if !self.draining => Err(Error::system("a connection for requests")(error)),
            _ => Ok(()),
        }
    }

    fn answered(&mut self, errand: Errand, status: u16, text: &str) {
        match errand {
            Errand::Beat { device, lease } => {
                self.seen.beats += 1;
                // The lease may have passed with a wake while its heartbeat was under way.
                let device = &self.devices[device];
                let current = device.lease == lease && device.phase == Phase::Watching;
                if status != 200 && current && device.woken.is_none() && !self.draining {
                    self.seen.failures.add(format!("{status} for a heartbeat"));
                }
            }
            Errand::Wake { device } => {
                let taken = ["\"sent\"", "\"confirmed\""].iter().any(|word| text.contains(word));
                if status != 200 || !taken {
                    let body = text.rsplit("\r\n").next().unwrap_or_default();
                    self.seen.failures.add(format!("{status} for a wake: {body}"));
                    if status != 200 || body.contains("error") {
                        self.devices[device].woken = None;
                    }
                }
            }
        }
    }
}

impl Lane {
    fn connect(poll: &Poll, address: SocketAddr, token: usize) -> io::Result<Self> {
        let stream = StdStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(token), interest)?;
        let (in_flight, waiting) = (VecDeque::new(), VecDeque::new());
        Ok(Self { stream, ended: false, out: Vec::new(), carry: Vec::new(), in_flight, waiting })
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.carry.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.in_flight.len() < LANE_IN_FLIGHT_MAX
            && let Some((errand, request)) = self.waiting.pop_front()
        {
            self.in_flight.push_back(errand);
            self.out.extend_from_slice(request.as_bytes());
        }
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
