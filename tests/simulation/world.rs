//! A world: cores, their fake kernels and links, clients, and who of them moves next.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tiderace::{
    api::Call,
    core::{Core, How, LinkMessage, Lookup, OutsideAnswer, OutsideCall, Process, Shell},
    frame::Segment,
    hub::{ConnRef, ShardId},
    limits::SEGMENT_BYTES_MAX,
    protocol::{Name, Now, Payload},
};

use super::{
    backend::Backend,
    centrifuge::Centrifuge,
    client::Client,
    faults::Mutation,
    kernel::{Completion, Kernel},
    links::Links,
    oracle::{Oracle, name},
    plain::Plain,
    random::Random,
    settings::{self, Shape},
};

/// The cores' hands: what the ring and the real links are in a process.
struct Hands<'a> {
    shard: usize,
    kernel: &'a mut Kernel,
    links: &'a mut Links,
    answers: &'a mut Vec<(u64, OutsideAnswer)>,
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

    fn look_up(&mut self, _: Lookup) -> bool {
        false
    }

    fn links_flushed(&mut self) {}

    fn answer(&mut self, id: u64, answer: OutsideAnswer) {
        self.answers.push((id, answer));
    }
}

/// Everything there is.
pub struct World {
    pub random: Random,
    pub now: Now,
    pub process: Arc<Process>,
    pub cores: Vec<Core>,
    pub kernels: Vec<Kernel>,
    pub links: Links,
    pub clients: Vec<Client>,
    pub oracle: Oracle,
    pub channels: usize,
    /// Connections that have an embedder's handler.
    pub handlers: Arc<AtomicUsize>,
    users: Vec<(String, String)>,
    /// Whether so little time passes that no deadline comes by itself.
    pub calm: bool,
    /// Ends that only a full queue explains.
    pub slow: u64,
    /// Steps for which a shard does nothing.
    paused: Vec<usize>,
    /// Publications of threads that are no shard.
    pub outside: BTreeMap<u64, usize>,
    /// What happened so far, to see that something did.
    pub events: u64,
    /// All bytes that clients got, in order: equal for equal seeds.
    pub trace: u64,
    pub draining: bool,
}

impl World {
    pub fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut random = Random::new(seed);
        let mut shape = Shape::any(&mut random);
        if mutation.is_some() {
            shape.shards = shape.shards.max(2);
        }
        Self::of(shape, random, mutation)
    }

    /// A world of that shape, in which nothing has happened yet.
    pub fn of(shape: Shape, mut random: Random, mutation: Option<Mutation>) -> Self {
        let Shape { shards, channels, link_capacity, .. } = shape;
        let now = Now { monotonic_ms: 1_000_000, unix_s: 1_700_000_000 };
        let handlers = Arc::default();
        let process = settings::process(shape, &mut random, now, &handlers);
        let core = |shard: usize| {
            let seed = [shard as u8; 32];
            Core::new(shard as ShardId, Arc::clone(&process), seed, now)
        };
        Self {
            now,
            cores: (0..shards).map(core).collect(),
            kernels: (0..shards).map(|_| Kernel::new(mutation)).collect(),
            links: Links::new(shards, link_capacity, mutation, random.clone()),
            clients: Vec::new(),
            oracle: Oracle::new(channels),
            channels,
            handlers,
            users: settings::users(),
            calm: random.chance(70),
            slow: 0,
            paused: vec![0; shards],
            outside: BTreeMap::new(),
            events: 0,
            trace: 0,
            draining: false,
            process,
            random,
        }
    }

    pub fn shards(&self) -> usize {
        self.cores.len()
    }

    /// One step of somebody.
    pub fn step(&mut self) {
        self.paused.iter_mut().for_each(|steps| *steps = steps.saturating_sub(1));
        let shard = self.random.below(self.shards());
        match self.random.below(100) {
            0..=39 if self.paused[shard] == 0 => self.turn(shard, false),
            0..=59 => self.carry_some(shard),
            60..=89 => self.somebody_acts(),
            90..=94 => self.somebody_comes_or_goes(),
            95..=96 => self.time_passes(),
            97 => self.paused[shard] = self.random.below(60),
            _ => self.outside_publishes(shard),
        }
    }

    /// One turn of a shard: some of what is there for it, or all; then a flush.
    pub fn turn(&mut self, shard: usize, all: bool) {
        let now = self.now;
        let completions = if all { usize::MAX } else { self.random.below(8) };
        for _ in 0..completions {
            let Some(done) = self.kernels[shard].complete(&mut self.random) else { break };
            self.events += 1;
            self.complete(shard, done);
        }
        let shards = self.shards();
        let first = self.random.below(shards);
        for from in (0..shards).map(|at| (first + at) % shards) {
            let messages = if all { usize::MAX } else { self.random.below(5) };
            for _ in 0..messages {
                let Some(message) = self.links.take(from, shard) else { break };
                self.events += 1;
                self.cores[shard].link(now, from as ShardId, message);
            }
        }
        while self.cores[shard].tick(now) {}
        self.flush(shard, all);
    }

    fn flush(&mut self, shard: usize, all: bool) {
        let mut answers = Vec::new();
        loop {
            let kernel = &mut self.kernels[shard];
            let hands = &mut Hands { shard, kernel, links: &mut self.links, answers: &mut answers };
            let flush = self.cores[shard].flush(self.now, hands);
            self.check_connections(shard);
            if !flush.more || !all && self.random.chance(50) {
                break;
            }
        }
        for (id, answer) in answers {
            let OutsideAnswer::Called(outcome) = answer else { panic!("{answer:?}") };
            let channel = self.outside.remove(&id).expect("one answer to a call");
            self.oracle.tick();
            match outcome {
                Ok(_) => self.oracle.acknowledged(channel, id),
                Err(_) => self.oracle.refused(channel, id),
            }
        }
    }

    /// After a flush core and kernel agree about every connection, and no queue is over its bound
    /// by more than the one thing that was queued last.
    fn check_connections(&mut self, shard: usize) {
        let bound = self.process.settings.queue_bytes_max + SEGMENT_BYTES_MAX;
        for socket in self.kernels[shard].sockets.values() {
            let operations = self.cores[shard].operations_of(socket.conn);
            assert_eq!(
                operations.map(usize::from),
                Some(socket.outstanding()),
                "{:?}",
                socket.conn
            );
            let queued = self.cores[shard].queued_bytes_of(socket.conn).expect("it exists");
            assert!(queued <= bound, "{queued} bytes wait for {:?}", socket.conn);
        }
    }

    fn complete(&mut self, shard: usize, completion: Completion) {
        let (now, core) = (self.now, &mut self.cores[shard]);
        match completion {
            Completion::Received { conn, mut bytes, end } => {
                core.received(now, conn, &mut bytes);
                bytes.fill(0xdd);
                if let Some(end) = end {
                    core.read_ended(now, conn, end);
                }
            }
            Completion::ReadEnded(conn, end) => core.read_ended(now, conn, end),
            Completion::Sent(conn, result) => core.sent(now, conn, result),
            Completion::ShutDown(conn) => core.shut_down(now, conn),
            Completion::Released(conn) => {
                core.released(conn);
                let ended = |client: &Client| client.shard == shard && client.conn == conn;
                if let Some(client) = self.clients.iter().position(ended) {
                    self.end(client);
                }
            }
        }
    }

    /// Bytes of sends reach the clients of a shard, which read them at once.
    pub fn carry_some(&mut self, shard: usize) {
        let slots: Vec<u32> = self.kernels[shard].sockets.keys().copied().collect();
        for slot in slots {
            while let Some(bytes) = self.kernels[shard].carry(slot, &mut self.random) {
                self.events += 1;
                let socket = self.kernels[shard].sockets.get_mut(&slot).expect("it carried");
                let client = &mut self.clients[socket.client];
                for byte in &bytes {
                    self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
                }
                let answer = client.read(&bytes, &mut self.oracle, &mut self.random);
                if !socket.client_fin {
                    socket.inbound.extend(answer);
                }
                if self.kernels[shard].hostile && self.random.chance(50) {
                    break;
                }
            }
            self.end_of_server(shard, slot);
        }
    }

    /// A client sees our FIN: it must know why, and mostly answers with its own.
    fn end_of_server(&mut self, shard: usize, slot: u32) {
        let Some(socket) = self.kernels[shard].sockets.get_mut(&slot) else { return };
        if !socket.server_fin || socket.stalled || socket.client_reset {
            return;
        }
        let client = socket.client;
        if !self.clients[client].over {
            self.events += 1;
            socket.client_fin |= self.random.chance(80);
            self.end(client);
        }
    }

    /// A client is at its connection's end: who did not want that must have been told why, or be
    /// one of those whose queue was full.
    fn end(&mut self, client: usize) {
        let client = &mut self.clients[client];
        let was_live = client.is_live();
        client.over = true;
        match client.code {
            _ if !was_live => {}
            Some(3008 | 1013) => self.slow += 1,
            Some(3001 | 1001) if self.draining => {}
            Some(3012 | 3502) if !self.calm => {}
            None if client.peer.may_be_ended() => {}
            None if !self.calm || self.draining && client.peer.is_http() => {}
            None => self.slow += 1,
            code => panic!("a client that did nothing wrong was closed with {code:?}"),
        }
    }

    fn somebody_acts(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let index = self.random.below(self.clients.len());
        let client = &mut self.clients[index];
        if !client.is_live() || client.code.is_some() {
            return;
        }
        let Some(socket) = self.kernels[client.shard].sockets.get_mut(&client.conn.slot) else {
            return;
        };
        self.oracle.tick();
        let bytes = client.peer.act(&mut self.oracle, &mut self.random);
        socket.inbound.extend(bytes);
    }

    fn somebody_comes_or_goes(&mut self) {
        let live: Vec<usize> =
            (0..self.clients.len()).filter(|at| self.clients[*at].is_live()).collect();
        if live.len() < 3 || live.len() < 9 && self.random.chance(50) {
            self.connect();
            return;
        }
        let client = *self.random.pick(&live);
        match self.random.below(10) {
            0..=1 => self.stall(client, true),
            2 => self.stall(client, false),
            _ => self.leave(client),
        }
    }

    /// A client stops reading, or begins again.
    pub fn stall(&mut self, client: usize, stalled: bool) {
        let Client { shard, conn, .. } = self.clients[client];
        let socket = self.kernels[shard].sockets.get_mut(&conn.slot);
        if let Some(socket) = socket.filter(|socket| socket.conn == conn) {
            socket.stalled = stalled;
        }
    }

    /// Somebody connects to a random shard.
    pub fn connect(&mut self) {
        let shard = self.random.below(self.shards());
        let Some(conn) = self.cores[shard].accepted(self.now) else { return };
        let number = self.clients.len();
        self.kernels[shard].open(conn, number);
        let channels = self.channels;
        let peer: Box<dyn super::client::Peer> = match self.random.below(10) {
            0..=5 => {
                let (user, token) = self.random.pick(&self.users);
                Box::new(Centrifuge::new(number, channels, user, token))
            }
            6..=7 => Box::new(Plain::new(number, channels)),
            _ => Box::new(Backend::new(number, channels)),
        };
        let reader = Default::default();
        let client = Client { shard, conn, reader, peer, leaving: false, over: false, code: None };
        self.clients.push(client);
    }

    /// A client ends its connection in one of the ways that there are.
    pub fn leave(&mut self, client: usize) {
        let client = &mut self.clients[client];
        let Some(socket) = self.kernels[client.shard].sockets.get_mut(&client.conn.slot) else {
            return;
        };
        if socket.conn != client.conn || client.leaving {
            return;
        }
        client.leaving = true;
        match self.random.below(4) {
            0 => {
                let bytes = client.peer.goodbye(&mut self.random);
                socket.client_fin = bytes.is_empty();
                socket.inbound.extend(bytes);
            }
            1 => socket.client_reset = true,
            2 => {
                socket.inbound.clear();
                socket.client_fin = true;
            }
            _ => socket.client_fin = true,
        }
    }

    fn time_passes(&mut self) {
        let most = if self.calm { 40 } else { 9_000 };
        self.now.monotonic_ms += self.random.below(most) as u64;
    }

    fn outside_publishes(&mut self, shard: usize) {
        let channel = self.random.below(self.channels);
        let publisher = usize::MAX - shard;
        let (id, data) = self.oracle.publish(publisher, &[channel], self.random.below(60));
        self.outside.insert(id, channel);
        let payload = *self.random.pick(&[Payload::Json, Payload::Text, Payload::Binary]);
        let (channel, data) = (Name::from(name(channel)), Bytes::from(data));
        let call = Call::Publish { channel, data, payload, extra: Default::default() };
        self.cores[shard].outside(self.now, id, OutsideCall::Call(call));
    }

    /// Everybody reads again, nobody begins anything, until nothing moves.
    pub fn settle(&mut self) {
        for kernel in &mut self.kernels {
            kernel.sockets.values_mut().for_each(|socket| socket.stalled = false);
        }
        self.rest();
    }

    /// Nobody begins anything; what is under way goes on until nothing moves.
    fn rest(&mut self) {
        self.kernels.iter_mut().for_each(|kernel| kernel.hostile = false);
        let mut quiet = 0;
        for _ in 0..100_000 {
            let before = self.events;
            for shard in 0..self.shards() {
                self.turn(shard, true);
                self.carry_some(shard);
            }
            quiet = if self.events == before { quiet + 1 } else { 0 };
            if quiet == 3 {
                assert!(self.links.are_empty(), "a link is stuck");
                assert!(self.outside.is_empty(), "a thread waits: {:?}", self.outside);
                self.kernels.iter_mut().for_each(|kernel| kernel.hostile = true);
                return;
            }
        }
        panic!("the world never comes to rest");
    }

    /// The truth of the clients against the cores' account of it, when all is settled.
    pub fn check_truth(&mut self) {
        let live: Vec<&Client> = self.clients.iter().filter(|client| client.is_live()).collect();
        let mut subscribers = vec![0; self.channels];
        let mut users: Vec<&str> = Vec::new();
        let mut connected = 0;
        for client in &live {
            assert!(client.reader.is_between_messages(), "half a message came");
            client.peer.settled();
            for (channel, window) in client.peer.windows() {
                self.oracle.complete(window);
                subscribers[channel] += 1;
            }
            if let Some(user) = client.peer.user() {
                connected += 1;
                users.push(user);
            }
        }
        users.retain(|user| !user.is_empty());
        users.sort_unstable();
        users.dedup();
        for (channel, expected) in subscribers.iter().enumerate() {
            let name = name(channel);
            let home = usize::from(self.process.key.home(&name, self.shards()));
            let known = self.cores[home].home().subscribers(&name);
            assert_eq!(known, *expected, "subscribers of {name} by its home and by its clients");
        }
        let counts: Vec<_> = self.cores.iter().map(Core::counts).collect();
        let sum = |of: fn(&tiderace::metrics::Counts) -> u64| counts.iter().map(of).sum::<u64>();
        assert_eq!(sum(|counts| counts.clients), connected, "clients");
        assert_eq!(sum(|counts| counts.subscriptions), u64::from(subscribers.iter().sum::<u32>()));
        assert_eq!(sum(|counts| counts.users), users.len() as u64, "users {users:?}");
        let sockets: Vec<usize> = self.kernels.iter().map(|kernel| kernel.sockets.len()).collect();
        assert_eq!(settings::connections(&self.process), sockets.iter().sum::<usize>());
        for (counts, sockets) in counts.iter().zip(sockets) {
            assert_eq!(counts.connections, sockets as u64);
        }
        let closed = sum(|counts| counts.counters.slow_consumers_closed);
        assert!(self.slow <= closed, "{} ends that {closed} slow consumers explain", self.slow);
    }

    /// Everybody has gone, well or not: nothing of them is left anywhere when the deadlines of
    /// those who do not read or never say FIN have passed.
    pub fn check_empty(&mut self) {
        self.now.monotonic_ms += 200;
        for _ in 0..20 {
            self.rest();
            self.now.monotonic_ms += 1_000;
        }
        for (shard, core) in self.cores.iter().enumerate() {
            let sockets = &self.kernels[shard].sockets;
            assert!(core.is_empty(), "shard {shard} holds something: {:?}", core.counts());
            assert!(sockets.is_empty(), "shard {shard} has {} sockets", sockets.len());
        }
        assert_eq!(settings::connections(&self.process), 0);
        assert_eq!(self.handlers.load(Ordering::Relaxed), 0, "handlers not told of their end");
    }
}
