//! Worlds of dormant devices: agents that fight for leases, drop and come back, and wakes for them.
//!
//! After every step at most one stream of a device is live on all shards together, and it is the
//! one that the home names. At rest every question is answered and no wake is lost.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use serde_json::Value;
use tiderace::{
    auth::{Devices, SignedDevices, tokens::sign_connection},
    core::{Core, How, LinkMessage, Lookup, OutsideAnswer, Process, Shell, WatchSettings},
    frame::Segment,
    hub::{ConnRef, Ending, FromHome, LeaseAnswer, LeaseRequest, ShardId, ToHome},
    protocol::{Name, Now, watch::LeaseId},
};

use super::{
    kernel::{Completion, Kernel},
    random::Random,
    settings::{self, Shape},
};

const SECRET: &str = "device";
const TTL_MS: u64 = 9_000;
const INTERVAL_MS: u64 = 3_000;
const DRAIN_MS: u64 = 2_000;
const DEVICES: usize = 3;
const AGENTS: usize = 5;
/// Seconds for which wakes are held: longer than a world lives before its end.
const WAKE_TTL_S: u64 = 100_000;

/// What a link does wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// The end of a stream is confirmed before its shard has heard of it: a grant does not wait.
    ConfirmsUnheard,
    /// A confirmation is lost.
    LosesEnd,
    /// Two messages of a link change places.
    Reorders,
}

impl Mutation {
    pub const ALL: [Self; 3] = [Self::ConfirmsUnheard, Self::LosesEnd, Self::Reorders];
}

/// What a world did, to see that it did something and did the same again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub trace: u64,
    pub hellos: u64,
    pub handovers: u64,
    pub conflicts: u64,
    pub expired: u64,
    pub wakes_read: u64,
    pub wakes_confirmed: u64,
    pub wakes_repeated: u64,
    pub drained: u64,
    pub drained_apart: u64,
}

struct Links {
    shards: usize,
    capacity: usize,
    queues: Vec<VecDeque<LinkMessage>>,
    mutation: Option<Mutation>,
    /// Whose a lease is, for confirmations that nobody gave.
    devices: BTreeMap<LeaseId, Name>,
    random: Random,
}

impl Links {
    fn push(&mut self, from: usize, to: usize, message: LinkMessage) -> Result<(), LinkMessage> {
        let at = from * self.shards + to;
        if self.queues[at].len() >= self.capacity {
            return Err(message);
        }
        match (&message, self.mutation) {
            (LinkMessage::FromHome(FromHome::Lease(answer)), Some(Mutation::ConfirmsUnheard)) => {
                match &**answer {
                    LeaseAnswer::Granted { device, lease, .. } => {
                        self.devices.insert(*lease, Name::clone(device));
                    }
                    LeaseAnswer::EndStream { lease, .. } => {
                        if let Some(device) = self.devices.get(lease) {
                            let device = Name::clone(device);
                            let (lease, ending) = (*lease, Ending::Other);
                            let ended = LeaseRequest::StreamEnded { device, lease, ending };
                            let ended = LinkMessage::ToHome(ToHome::Lease(Box::new(ended)));
                            self.queues[to * self.shards + from].push_back(ended);
                        }
                    }
                    _ => {}
                }
            }
            (LinkMessage::ToHome(ToHome::Lease(request)), Some(Mutation::LosesEnd))
                if matches!(**request, LeaseRequest::StreamEnded { .. })
                    && self.random.chance(30) =>
            {
                return Ok(());
            }
            (_, Some(Mutation::Reorders)) if self.random.chance(30) => {
                self.queues[at].push_front(message);
                return Ok(());
            }
            _ => {}
        }
        self.queues[at].push_back(message);
        Ok(())
    }
}

struct Hands<'a> {
    shard: usize,
    kernel: &'a mut Kernel,
    links: &'a mut Links,
}

impl Shell for Hands<'_> {
    fn receive(&mut self, conn: ConnRef) {
        self.kernel.receive(conn);
    }

    fn send(&mut self, conn: ConnRef, segment: Segment, from: u32, to: u32) {
        self.kernel.send(conn, segment, from, to);
    }

    fn shutdown(&mut self, conn: ConnRef, how: How) {
        self.kernel.shutdown(conn, how);
    }

    fn release(&mut self, conn: ConnRef) {
        self.kernel.release(conn);
    }

    fn push(&mut self, to: ShardId, message: LinkMessage) -> Result<(), LinkMessage> {
        self.links.push(self.shard, usize::from(to), message)
    }

    fn links_flushed(&mut self) {}

    fn look_up(&mut self, lookup: Lookup) -> bool {
        panic!("signed tokens need no backend: {lookup:?}");
    }

    fn answer(&mut self, _: u64, answer: OutsideAnswer) {
        panic!("nobody outside asks: {answer:?}");
    }
}

/// What a connection is for.
#[derive(Debug)]
enum Purpose {
    Watch {
        agent: usize,
        previous: Option<String>,
        woken: bool,
    },
    /// `superseded`: the lease had been handed over, and that was seen, when it was sent.
    Beat {
        lease: String,
        superseded: bool,
    },
    Wake {
        session: String,
    },
}

/// One connection and what came over it.
#[derive(Debug)]
struct Client {
    shard: usize,
    conn: ConnRef,
    device: usize,
    purpose: Purpose,
    bytes: Vec<u8>,
    /// The head of its answer came.
    status: Option<u16>,
    chunked: bool,
    /// It left by itself.
    left: bool,
    /// Its answer is complete, or the connection over.
    done: bool,
}

/// What an agent says in its stream.
enum Said {
    Head(u16, Vec<u8>),
    Chunk(String),
    End,
}

impl Client {
    fn next(&mut self) -> Option<Said> {
        if self.chunked {
            let line = self.bytes.windows(2).position(|window| window == b"\r\n")?;
            let size = std::str::from_utf8(&self.bytes[..line]).expect("a size is text");
            let size = usize::from_str_radix(size, 16).expect("the size of a chunk");
            let end = line + 2 + size + 2;
            if self.bytes.len() < end {
                return None;
            }
            let chunk = String::from_utf8(self.bytes[line + 2..end - 2].to_vec()).expect("text");
            self.bytes.drain(..end);
            self.chunked = size > 0;
            return Some(if size > 0 { Said::Chunk(chunk) } else { Said::End });
        }
        let end = self.bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&self.bytes[..end]).expect("a head is text").to_owned();
        let status = head.strip_prefix("HTTP/1.1 ").expect("a status line")[..3].parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        self.chunked = head.contains("\r\nTransfer-Encoding: chunked\r\n");
        assert_ne!(length.is_some(), self.chunked, "one framing: {head}");
        let length = length.map_or(0, |length| length.parse::<usize>().unwrap());
        if self.bytes.len() < end + length {
            self.chunked = false;
            return None;
        }
        let body = self.bytes[end..end + length].to_vec();
        self.bytes.drain(..end + length);
        Some(Said::Head(status, body))
    }
}

#[derive(Default)]
struct Agent {
    device: usize,
    /// Its stream, or the attempt at one.
    client: Option<usize>,
    /// Leases that it was told, the latest last.
    leases: Vec<String>,
}

struct World {
    random: Random,
    now: Now,
    process: Arc<Process>,
    cores: Vec<Core>,
    kernels: Vec<Kernel>,
    links: Links,
    clients: Vec<Client>,
    agents: Vec<Agent>,
    /// By device: leases in the order of their hellos.
    hellos: Vec<Vec<String>>,
    /// Leases whose successor was seen.
    superseded: BTreeSet<String>,
    /// Sessions that were asked for, and what became of them last.
    sessions: BTreeMap<String, String>,
    /// Sessions whose wake came to an agent that had left.
    missed: BTreeSet<String>,
    /// Sessions whose wake an agent read.
    read: BTreeMap<String, u64>,
    draining: bool,
    events: u64,
    summary: Summary,
}

fn device(number: usize) -> String {
    format!("device-{number}")
}

impl World {
    fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut random = Random::new(seed);
        let shards = if mutation.is_some() { 3 } else { random.between(1, 3) };
        let now = Now { monotonic_ms: 1_000_000, unix_s: 1_700_000_000 };
        let shape = Shape::roomy(shards);
        let mut process = settings::process(shape, &mut random, now, &Arc::default());
        let settings = &mut Arc::get_mut(&mut process).expect("nobody else has it").settings;
        settings.watch = Some(WatchSettings {
            watch_path: "/watch".into(),
            heartbeat_path: "/beat".into(),
            device_info_path: "/info".into(),
            devices: Devices::Signed(Box::new(SignedDevices::new(SECRET))),
            lease_ttl_ms: TTL_MS,
            heartbeat_interval_ms: INTERVAL_MS,
            device_wait_ms: 1_000,
            drain_spread_ms: DRAIN_MS,
        });
        let core = |shard: usize| {
            Core::new(shard as ShardId, Arc::clone(&process), [shard as u8; 32], now)
        };
        let links = Links {
            shards,
            capacity: *random.pick(&[1, 2, 64]),
            queues: (0..shards * shards).map(|_| VecDeque::new()).collect(),
            mutation,
            devices: BTreeMap::new(),
            random: random.clone(),
        };
        Self {
            now,
            cores: (0..shards).map(core).collect(),
            kernels: (0..shards).map(|_| Kernel::new(None)).collect(),
            links,
            clients: Vec::new(),
            agents: (0..AGENTS)
                .map(|agent| Agent { device: agent % DEVICES, ..Agent::default() })
                .collect(),
            hellos: vec![Vec::new(); DEVICES],
            superseded: BTreeSet::new(),
            sessions: BTreeMap::new(),
            missed: BTreeSet::new(),
            read: BTreeMap::new(),
            draining: false,
            events: 0,
            summary: Summary::default(),
            process,
            random,
        }
    }

    fn step(&mut self) {
        let shard = self.random.below(self.cores.len());
        match self.random.below(100) {
            0..=44 => self.turn(shard, false),
            45..=64 => self.carry(shard),
            65..=88 => self.somebody_acts(),
            89 => self.wake(None),
            90..=98 => self.now.monotonic_ms += self.random.below(700) as u64,
            _ => self.now.monotonic_ms += *self.random.pick(&[INTERVAL_MS, TTL_MS, 5 * TTL_MS]),
        }
        self.check();
    }

    fn turn(&mut self, shard: usize, all: bool) {
        let now = self.now;
        let completions = if all { usize::MAX } else { self.random.below(8) };
        for _ in 0..completions {
            let Some(done) = self.kernels[shard].complete(&mut self.random) else { break };
            self.events += 1;
            self.complete(shard, done);
            self.check();
        }
        for from in 0..self.cores.len() {
            let messages = if all { usize::MAX } else { self.random.below(3) };
            for _ in 0..messages {
                let at = from * self.links.shards + shard;
                let Some(message) = self.links.queues[at].pop_front() else { break };
                self.events += 1;
                self.cores[shard].link(now, from as ShardId, message);
                self.check();
            }
        }
        while self.cores[shard].tick(now) {}
        let kernel = &mut self.kernels[shard];
        let hands = &mut Hands { shard, kernel, links: &mut self.links };
        while self.cores[shard].flush(now, hands).more {}
    }

    fn complete(&mut self, shard: usize, completion: Completion) {
        let (now, core) = (self.now, &mut self.cores[shard]);
        match completion {
            Completion::Received { conn, mut bytes, end } => {
                core.received(now, conn, &mut bytes);
                if let Some(end) = end {
                    core.read_ended(now, conn, end);
                }
            }
            Completion::ReadEnded(conn, end) => core.read_ended(now, conn, end),
            Completion::Sent(conn, result) => core.sent(now, conn, result),
            Completion::ShutDown(conn) => core.shut_down(now, conn),
            Completion::Released(conn) => {
                core.released(conn);
                let ended = |client: &&mut Client| client.shard == shard && client.conn == conn;
                for client in self.clients.iter_mut().filter(ended) {
                    client.done = true;
                }
            }
        }
    }

    /// At most one stream of a device is live, and it is the one that the home names.
    fn check(&mut self) {
        let mut live = BTreeSet::new();
        for shard in 0..self.cores.len() {
            for (device, lease) in self.cores[shard].live_streams() {
                let home = usize::from(self.process.key.home(&device, self.cores.len()));
                let named = self.cores[home].leases().stream(&device);
                assert_eq!(named, Some((shard as ShardId, lease)), "the stream of {device}");
                assert!(live.insert(Name::clone(&device)), "two live streams of {device}");
            }
        }
    }

    fn carry(&mut self, shard: usize) {
        let slots: Vec<u32> = self.kernels[shard].sockets.keys().copied().collect();
        for slot in slots {
            while let Some(bytes) = self.kernels[shard].carry(slot, &mut self.random) {
                self.events += 1;
                for byte in &bytes {
                    let mixed = self.summary.trace ^ u64::from(*byte);
                    self.summary.trace = mixed.wrapping_mul(0x0100_0000_01B3);
                }
                let client = self.kernels[shard].sockets[&slot].client;
                self.clients[client].bytes.extend_from_slice(&bytes);
                if self.clients[client].left {
                    self.unheard(client);
                } else {
                    self.heard(client);
                }
            }
            let Some(socket) = self.kernels[shard].sockets.get_mut(&slot) else { continue };
            if socket.server_fin && !socket.stalled {
                socket.client_fin = true;
                self.clients[socket.client].done = true;
            }
        }
    }

    /// An agent had ended its stream when this was on the way: whoever sent it cannot know that,
    /// unless the agent comes back with the lease of that stream.
    fn unheard(&mut self, client: usize) {
        let text = String::from_utf8_lossy(&self.clients[client].bytes);
        let sessions = text.split("\"remoteAccessSessionId\":\"").skip(1);
        let sessions = sessions.filter_map(|rest| rest.split_once('"'));
        self.missed.extend(sessions.map(|(session, _)| session.to_owned()));
    }

    fn heard(&mut self, client: usize) {
        while let Some(said) = self.clients[client].next() {
            match said {
                Said::Head(status, body) => self.answered(client, status, &body),
                Said::Chunk(text) => self.event(client, &text),
                Said::End => {
                    self.clients[client].done = true;
                    if self.random.chance(50) {
                        self.leave(client);
                    }
                }
            }
        }
    }

    fn answered(&mut self, client: usize, status: u16, body: &[u8]) {
        let at = &mut self.clients[client];
        assert!(at.status.is_none(), "one answer: {at:?}");
        at.status = Some(status);
        let device = at.device;
        match &at.purpose {
            Purpose::Watch { .. } if status == 200 => return,
            // Half of the request came, and then time passed.
            _ if status == 408 => {}
            _ if status == 503 => assert!(self.draining, "503 without a reason"),
            Purpose::Watch { .. } => assert_eq!(status, 409),
            Purpose::Beat { lease, superseded } => match status {
                200 => {
                    assert!(self.hellos[device].contains(lease), "nobody was told {lease}");
                    assert!(!superseded, "{lease} was extended behind its successor's hello");
                }
                409 | 410 => {}
                other => panic!("a heartbeat was answered {other}"),
            },
            Purpose::Wake { session } => {
                let answer: Value = serde_json::from_slice(body).expect("JSON");
                if answer["error"]["code"] != 106 {
                    let status = answer["result"]["status"].as_str().expect("a status");
                    // Until its stream's end is known it may have been taken.
                    if status == "confirmed" {
                        let read = self.read.contains_key(session);
                        assert!(read || self.missed.contains(session), "nobody got {session}");
                    }
                    self.sessions.insert(session.clone(), status.to_owned());
                }
            }
        }
        self.clients[client].done = true;
        self.leave(client);
    }

    fn event(&mut self, client: usize, text: &str) {
        if text == ":\n\n" {
            return;
        }
        let (event, data) = text.split_once("\ndata: ").expect("one line of data");
        let data: Value = serde_json::from_str(data.trim_end()).expect("JSON");
        let device = self.clients[client].device;
        let Purpose::Watch { agent, previous, woken } = &mut self.clients[client].purpose else {
            panic!("an event for {:?}", self.clients[client]);
        };
        let agent = *agent;
        assert!(!*woken, "an event behind the wake: {text}");
        match event {
            "event: hello" => {
                let lease = data["watchLeaseId"].as_str().expect("a lease").to_owned();
                let known = self.hellos.iter().flatten().any(|known| *known == lease);
                assert!(!known, "{lease} was granted twice");
                self.superseded.extend(previous.take());
                self.hellos[device].push(lease.clone());
                self.agents[agent].leases.push(lease);
                self.summary.hellos += 1;
            }
            "event: wake" => {
                *woken = true;
                let session = data["remoteAccessSessionId"].as_str().expect("a session");
                assert!(session.starts_with(&device.to_string()), "{session} is of another device");
                *self.read.entry(session.to_owned()).or_default() += 1;
                self.summary.wakes_read += 1;
                // Most agents end their stream on a wake and forget its lease.
                if self.random.chance(80) {
                    self.agents[agent].leases.clear();
                    self.agents[agent].client = None;
                    self.leave(client);
                }
            }
            other => panic!("{other}"),
        }
    }

    fn connect(&mut self, device: usize, purpose: Purpose, request: &str) -> usize {
        let shard = self.random.below(self.cores.len());
        let conn = self.cores[shard].accepted(self.now).expect("there is room");
        let number = self.clients.len();
        self.kernels[shard].open(conn, number);
        let socket = self.kernels[shard].sockets.get_mut(&conn.slot).expect("just opened");
        socket.inbound.extend_from_slice(request.as_bytes());
        self.clients.push(Client {
            shard,
            conn,
            device,
            purpose,
            bytes: Vec::new(),
            status: None,
            chunked: false,
            left: false,
            done: false,
        });
        number
    }

    fn authorization(device_number: usize) -> String {
        let token = sign_connection(SECRET, &device(device_number), None, None);
        format!("Host: sim\r\nAuthorization: DeviceToken {token}\r\n")
    }

    fn somebody_acts(&mut self) {
        let at = self.random.below(self.agents.len());
        let number = self.agents[at].device;
        let over = self.agents[at].client.is_none_or(|client| self.clients[client].done);
        if over {
            self.agents[at].client = None;
            self.watch(at);
            return;
        }
        match self.random.below(10) {
            0..=5 => {
                let Some(lease) = self.agents[at].leases.last().cloned() else { return };
                self.beat(number, lease);
            }
            6 => {
                let lease = "rwl_ffffffffffffffffffffffffffffffff".to_owned();
                self.beat(number, lease);
            }
            7 => {
                let Client { shard, conn, .. } = self.clients[self.agents[at].client.unwrap()];
                let socket = self.kernels[shard].sockets.get_mut(&conn.slot);
                if let Some(socket) = socket.filter(|socket| socket.conn == conn) {
                    socket.stalled ^= true;
                }
            }
            _ => {
                // The stream, or the attempt at one, drops; what it was told is remembered.
                let client = self.agents[at].client.take().expect("it is not over");
                self.leave(client);
            }
        }
    }

    fn watch(&mut self, agent: usize) {
        let Agent { device, leases, .. } = &self.agents[agent];
        let device = *device;
        let previous = match self.random.below(10) {
            0..=6 => leases.last().cloned(),
            7 => leases.first().cloned(),
            8 => self.hellos[device].first().cloned(),
            _ => None,
        };
        let query = previous.as_ref();
        let query = query.map_or(String::new(), |id| format!("?previousWatchLeaseId={id}"));
        let head = Self::authorization(device);
        let purpose = Purpose::Watch { agent, previous, woken: false };
        let request = format!("GET /watch{query} HTTP/1.1\r\n{head}\r\n");
        self.agents[agent].client = Some(self.connect(device, purpose, &request));
    }

    fn beat(&mut self, device: usize, lease: String) {
        let superseded = self.superseded.contains(&lease);
        let body = format!(r#"{{"watchLeaseId":"{lease}"}}"#);
        let head = format!("{}Content-Length: {}", Self::authorization(device), body.len());
        let request = format!("POST /beat HTTP/1.1\r\n{head}\r\n\r\n{body}");
        self.connect(device, Purpose::Beat { lease, superseded }, &request);
    }

    /// A new wake of a device, or a question about an old one.
    fn wake(&mut self, session: Option<String>) {
        let repeated = self.random.chance(30);
        let old = self.sessions.keys().nth(self.random.below(self.sessions.len().max(1))).cloned();
        let number = self.random.below(DEVICES);
        let session = session
            .or(old.filter(|_| repeated))
            .unwrap_or_else(|| format!("{number}-{}", self.clients.len()));
        let number: usize = session[..1].parse().expect("sessions begin with their device");
        let body = format!(
            r#"{{"device":"{}","url":"u","token":"t","session_id":"{session}","ttl":{WAKE_TTL_S}}}"#,
            device(number)
        );
        let length = body.len();
        let request = format!(
            "POST /api/wake HTTP/1.1\r\nHost: sim\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.connect(number, Purpose::Wake { session }, &request);
    }

    /// Ends a connection: in order, by a reset, or before anything arrived.
    fn leave(&mut self, client: usize) {
        let Client { shard, conn, .. } = self.clients[client];
        let socket = self.kernels[shard].sockets.get_mut(&conn.slot);
        let Some(socket) = socket.filter(|socket| socket.conn == conn) else { return };
        self.clients[client].left = true;
        self.clients[client].done = true;
        socket.client_fin = true;
        if matches!(self.clients[client].purpose, Purpose::Watch { woken: false, .. }) {
            match self.random.below(4) {
                0 => socket.client_reset = true,
                1 => socket.inbound.clear(),
                _ => {}
            }
        }
    }

    /// Nobody begins anything; what is under way goes on until nothing moves.
    fn settle(&mut self) {
        for kernel in &mut self.kernels {
            kernel.hostile = false;
            kernel.sockets.values_mut().for_each(|socket| socket.stalled = false);
        }
        let mut quiet = 0;
        for _ in 0..10_000 {
            let before = self.events;
            for shard in 0..self.cores.len() {
                self.turn(shard, true);
                self.carry(shard);
            }
            self.check();
            quiet = if self.events == before { quiet + 1 } else { 0 };
            if quiet == 3 {
                self.kernels.iter_mut().for_each(|kernel| kernel.hostile = true);
                return;
            }
        }
        panic!("the world never comes to rest");
    }

    /// At rest everybody who is still there has an answer.
    fn check_answers(&self) {
        for client in self.clients.iter().filter(|client| !client.left && !client.done) {
            assert!(client.status.is_some(), "never answered: {client:?}");
        }
    }

    fn everybody_leaves(&mut self) {
        for client in 0..self.clients.len() {
            if !self.clients[client].left {
                self.leave(client);
            }
        }
        self.settle();
    }

    /// The server ends: streams end within their time, each in order, and nothing is left.
    fn drain(mut self) -> Summary {
        for shard in 0..self.cores.len() {
            self.draining = true;
            self.cores[shard].drain_begin();
            for _ in 0..self.random.below(30) {
                self.step();
            }
        }
        self.cores.iter_mut().for_each(Core::drain_mark);
        self.settle();
        let live: usize = self.cores.iter_mut().map(|core| core.live_streams().len()).sum();
        let began_ms = self.now.monotonic_ms;
        self.cores.iter_mut().for_each(Core::drain_close);
        let mut ends = BTreeSet::new();
        let mut left = live;
        while left > 0 {
            self.settle();
            let now: usize = self.cores.iter_mut().map(|core| core.live_streams().len()).sum();
            if now < left {
                ends.insert(self.now.monotonic_ms);
            }
            left = now;
            self.now.monotonic_ms += 50;
            let late = self.now.monotonic_ms - began_ms;
            assert!(left == 0 || late <= DRAIN_MS + 200, "{left} streams stay");
        }
        self.summary.drained += live as u64;
        self.summary.drained_apart += u64::from(ends.len() > 1);
        self.everybody_leaves();
        for _ in 0..3 {
            self.now.monotonic_ms += WAKE_TTL_S * 1_000;
            self.settle();
        }
        for core in &self.cores {
            assert!(core.is_empty(), "something is left: {:?} {:?}", core.counts(), core.leases());
        }
        self.summary
    }

    /// Nobody is there any more, and time goes on until nothing is left of anything.
    fn end(mut self) -> Summary {
        self.everybody_leaves();
        // Each device can be watched again, whatever became of its agents.
        self.now.monotonic_ms += TTL_MS;
        self.settle();
        for agent in 0..DEVICES {
            self.agents[agent].leases.clear();
            let before = self.hellos[agent].len();
            self.watch(agent);
            self.settle();
            assert_eq!(self.hellos[agent].len(), before + 1, "device {agent} is not granted");
        }
        self.everybody_leaves();
        // No wake is lost: each is confirmed, or still waits.
        let sessions: Vec<String> = self.sessions.keys().cloned().collect();
        for session in &sessions {
            self.wake(Some(session.clone()));
        }
        self.settle();
        let states: Vec<&str> = self.sessions.values().map(String::as_str).collect();
        assert!(states.iter().all(|state| ["confirmed", "pending"].contains(state)), "{states:?}");
        let sum = |world: &Self, of: fn(&tiderace::metrics::Counters) -> u64| {
            world.cores.iter().map(|core| of(&core.counts().counters)).sum::<u64>()
        };
        let asked = sum(&self, |counters| counters.device_wakes);
        assert_eq!(asked, sessions.len() as u64, "a session is one wake");
        let waiting = states.iter().filter(|state| **state == "pending").count() as u64;
        self.everybody_leaves();
        for _ in 0..3 {
            self.now.monotonic_ms += WAKE_TTL_S * 1_000;
            self.settle();
        }
        for core in &self.cores {
            assert!(core.is_empty(), "something is left: {:?} {:?}", core.counts(), core.leases());
        }
        assert_eq!(sum(&self, |counters| counters.device_wakes_expired), waiting);
        Summary {
            handovers: sum(&self, |counters| counters.lease_handovers),
            conflicts: sum(&self, |counters| counters.lease_conflicts),
            expired: sum(&self, |counters| counters.leases_expired),
            wakes_confirmed: sum(&self, |counters| counters.device_wakes_confirmed),
            wakes_repeated: self.read.values().filter(|times| **times > 1).count() as u64,
            ..self.summary
        }
    }
}

/// Lives a world from its seed to its end; panics where something does not hold.
pub fn live(seed: u64, mutation: Option<Mutation>) -> Summary {
    let mut world = World::new(seed, mutation);
    for _ in 0..world.random.between(1, 3) {
        for _ in 0..world.random.between(50, 700) {
            world.step();
        }
        world.settle();
        world.check_answers();
    }
    if world.random.chance(20) { world.drain() } else { world.end() }
}
