//! The agents of dormant devices, their connections, and what is true of leases and wakes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use serde_json::Value;
use tiderace::{
    auth::tokens::sign_connection,
    core::OutsideAnswer,
    hub::{ConnRef, ShardId},
    protocol::Name,
};

use super::node::{Node, Observer};

pub const SECRET: &str = "device";
pub const DEVICES: usize = 3;
const AGENTS: usize = 5;
/// Seconds for which wakes are held: longer than a world lives before its end.
pub const WAKE_TTL_S: u64 = 100_000;

/// What a connection is for.
#[derive(Debug)]
pub enum Purpose {
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
pub struct Client {
    shard: usize,
    conn: ConnRef,
    device: usize,
    purpose: Purpose,
    bytes: Vec<u8>,
    /// The head of its answer came.
    status: Option<u16>,
    chunked: bool,
    /// It left by itself.
    pub left: bool,
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
pub struct Agent {
    device: usize,
    /// Its stream, or the attempt at one.
    client: Option<usize>,
    /// Leases that it was told, the latest last.
    pub leases: Vec<String>,
}

/// By device.
static TOKENS: LazyLock<[String; DEVICES]> = LazyLock::new(|| {
    std::array::from_fn(|number| sign_connection(SECRET, &device(number), None, None))
});

/// All agents, and whoever wakes them.
pub struct Fleet {
    pub clients: Vec<Client>,
    pub agents: Vec<Agent>,
    /// By device: leases in the order of their hellos.
    pub hellos: Vec<Vec<String>>,
    /// Leases whose successor was seen.
    superseded: BTreeSet<String>,
    /// Sessions that were asked for, whether or not the answer came.
    pub asked: BTreeSet<String>,
    /// Sessions that are known, and what became of them last.
    pub sessions: BTreeMap<String, String>,
    /// Sessions whose wake came to an agent that had left.
    missed: BTreeSet<String>,
    /// Sessions whose wake an agent read, and how often.
    pub read: BTreeMap<String, u64>,
    pub draining: bool,
}

fn device(number: usize) -> String {
    format!("device-{number}")
}

impl Fleet {
    pub fn new() -> Self {
        Self {
            clients: Vec::new(),
            agents: (0..AGENTS)
                .map(|agent| Agent { device: agent % DEVICES, ..Agent::default() })
                .collect(),
            hellos: vec![Vec::new(); DEVICES],
            superseded: BTreeSet::new(),
            asked: BTreeSet::new(),
            sessions: BTreeMap::new(),
            missed: BTreeSet::new(),
            read: BTreeMap::new(),
            draining: false,
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

    fn understand(&mut self, node: &mut Node, client: usize) {
        while let Some(said) = self.clients[client].next() {
            match said {
                Said::Head(status, body) => self.replied(node, client, status, &body),
                Said::Chunk(text) => self.event(node, client, &text),
                Said::End => {
                    self.clients[client].done = true;
                    if node.random.chance(50) {
                        self.leave(node, client);
                    }
                }
            }
        }
    }

    fn replied(&mut self, node: &mut Node, client: usize, status: u16, body: &[u8]) {
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
        self.leave(node, client);
    }

    fn event(&mut self, node: &mut Node, client: usize, text: &str) {
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
            }
            "event: wake" => {
                *woken = true;
                let session = data["remoteAccessSessionId"].as_str().expect("a session");
                assert!(session.starts_with(&device.to_string()), "{session} is of another device");
                *self.read.entry(session.to_owned()).or_default() += 1;
                // Most agents end their stream on a wake and forget its lease.
                if node.random.chance(80) {
                    self.agents[agent].leases.clear();
                    self.agents[agent].client = None;
                    self.leave(node, client);
                }
            }
            other => panic!("{other}"),
        }
    }

    fn connect(
        &mut self,
        node: &mut Node,
        device: usize,
        purpose: Purpose,
        request: &str,
    ) -> Option<usize> {
        let shard = node.random.below(node.cores.len());
        let Some(conn) = node.cores[shard].accepted(node.now) else {
            assert!(self.draining, "there is room");
            return None;
        };
        let number = self.clients.len();
        node.kernels[shard].open(conn, number);
        let socket = node.kernels[shard].sockets.get_mut(&conn.slot).expect("just opened");
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
        Some(number)
    }

    fn authorization(device: usize) -> String {
        let token = &TOKENS[device];
        format!("Host: sim\r\nAuthorization: DeviceToken {token}\r\n")
    }

    pub fn somebody_acts(&mut self, node: &mut Node) {
        let at = node.random.below(self.agents.len());
        let number = self.agents[at].device;
        let over = self.agents[at].client.is_none_or(|client| self.clients[client].done);
        if over {
            self.agents[at].client = None;
            self.watch(node, at);
            return;
        }
        match node.random.below(10) {
            0..=5 => {
                let Some(lease) = self.agents[at].leases.last().cloned() else { return };
                self.beat(node, number, lease);
            }
            6 => {
                let lease = "rwl_ffffffffffffffffffffffffffffffff".to_owned();
                self.beat(node, number, lease);
            }
            7 => {
                let Client { shard, conn, .. } = self.clients[self.agents[at].client.unwrap()];
                let socket = node.kernels[shard].sockets.get_mut(&conn.slot);
                if let Some(socket) = socket.filter(|socket| socket.conn == conn) {
                    socket.stalled ^= true;
                }
            }
            _ => {
                // The stream, or the attempt at one, drops; what it was told is remembered.
                let client = self.agents[at].client.take().expect("it is not over");
                self.leave(node, client);
            }
        }
    }

    pub fn watch(&mut self, node: &mut Node, agent: usize) {
        let Agent { device, leases, .. } = &self.agents[agent];
        let device = *device;
        let previous = match node.random.below(10) {
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
        self.agents[agent].client = self.connect(node, device, purpose, &request);
    }

    fn beat(&mut self, node: &mut Node, device: usize, lease: String) {
        let superseded = self.superseded.contains(&lease);
        let body = format!(r#"{{"watchLeaseId":"{lease}"}}"#);
        let head = format!("{}Content-Length: {}", Self::authorization(device), body.len());
        let request = format!("POST /beat HTTP/1.1\r\n{head}\r\n\r\n{body}");
        self.connect(node, device, Purpose::Beat { lease, superseded }, &request);
    }

    /// A new wake of a device, or a question about an old one.
    pub fn wake(&mut self, node: &mut Node, session: Option<String>) {
        let repeated = node.random.chance(30);
        let old = self.sessions.keys().nth(node.random.below(self.sessions.len().max(1))).cloned();
        let number = node.random.below(DEVICES);
        let session = session
            .or(old.filter(|_| repeated))
            .unwrap_or_else(|| format!("{number}-{}", self.clients.len()));
        self.asked.insert(session.clone());
        let number: usize = session[..1].parse().expect("sessions begin with their device");
        let body = format!(
            r#"{{"device":"{}","url":"u","token":"t","session_id":"{session}","ttl":{WAKE_TTL_S}}}"#,
            device(number)
        );
        let length = body.len();
        let request = format!(
            "POST /api/wake HTTP/1.1\r\nHost: sim\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.connect(node, number, Purpose::Wake { session }, &request);
    }

    /// Ends a connection: in order, by a reset, or before anything arrived.
    pub fn leave(&mut self, node: &mut Node, client: usize) {
        let Client { shard, conn, .. } = self.clients[client];
        let socket = node.kernels[shard].sockets.get_mut(&conn.slot);
        let Some(socket) = socket.filter(|socket| socket.conn == conn) else { return };
        self.clients[client].left = true;
        self.clients[client].done = true;
        socket.client_fin = true;
        if matches!(self.clients[client].purpose, Purpose::Watch { woken: false, .. }) {
            match node.random.below(4) {
                0 => socket.client_reset = true,
                1 => socket.inbound.clear(),
                _ => {}
            }
        }
    }

    /// At most one stream of a device is live, and it is the one that the home names.
    fn check(node: &mut Node) {
        let mut live = BTreeSet::new();
        for shard in 0..node.cores.len() {
            for (device, lease) in node.cores[shard].live_streams() {
                let home = node.home(&device);
                let named = node.cores[home].leases().stream(&device);
                assert_eq!(named, Some((shard as ShardId, lease)), "the stream of {device}");
                assert!(live.insert(Name::clone(&device)), "two live streams of {device}");
            }
        }
    }

    /// At rest everybody who is still there has an answer.
    pub fn check_answers(&self) {
        for client in self.clients.iter().filter(|client| !client.left && !client.done) {
            assert!(client.status.is_some(), "never answered: {client:?}");
        }
    }
}

impl Observer for Fleet {
    fn input(&mut self, node: &mut Node) {
        Self::check(node);
    }

    fn heard(&mut self, node: &mut Node, client: usize, bytes: &[u8]) {
        self.clients[client].bytes.extend_from_slice(bytes);
        if self.clients[client].left {
            self.unheard(client);
        } else {
            self.understand(node, client);
        }
    }

    fn finished(&mut self, node: &mut Node, client: usize) {
        let Client { shard, conn, .. } = self.clients[client];
        let socket = node.kernels[shard].sockets.get_mut(&conn.slot).expect("it has its FIN");
        socket.client_fin = true;
        self.clients[client].done = true;
    }

    fn released(&mut self, shard: usize, conn: ConnRef) {
        let its = |client: &&mut Client| client.shard == shard && client.conn == conn;
        for client in self.clients.iter_mut().filter(its) {
            client.done = true;
        }
    }

    fn answered(&mut self, _: u64, answer: OutsideAnswer) {
        panic!("nobody outside asks: {answer:?}");
    }
}
