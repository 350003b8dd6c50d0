//! A world: a node, the crowd around it, and who of them moves next.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use tiderace::{
    api::Call,
    codes::CloseReason,
    core::{LinkMessage, OutsideCall},
    hub::{ConnRef, ReplyTo, ShardId, ToHome},
    limits::SHARDS_MAX,
    protocol::{Act, Audience, Name, Now, Order, Outgoing, Payload, PublicationExtra},
};

use super::{
    backend::Backend,
    centrifuge::Centrifuge,
    client::{Client, Peer},
    crowd::{ASKED, Crowd},
    expiry::NOTICED_MS,
    faults::{Mutation, Wrong},
    features::KEYS,
    letters::To,
    node::Node,
    oracle::{self, Will},
    plain::{self, Handlers, Plain},
    random::Random,
    settings::{self, HOUR_S, Shape, User},
    wishes::Memory,
};

/// Everything there is.
pub struct World {
    pub node: Node,
    pub crowd: Crowd,
    /// Connections that have an embedder's handler.
    pub handlers: Arc<Handlers>,
    users: &'static [User],
    /// Sockets that each shard's table of descriptors holds.
    files_max: usize,
    /// Connections that wait for a place in their shard's table.
    backlog: Vec<usize>,
    /// Times that the wall clock was set at rest.
    pub hours: u64,
    /// Connections that had to wait.
    pub waited: u64,
    /// Steps for which a shard does nothing.
    paused: Vec<usize>,
    /// What backends want of connections, on its way to their shards.
    orders: Vec<(ShardId, ConnRef, Arc<Order>)>,
}

impl World {
    pub fn new(seed: u64, wrong: Wrong) -> Self {
        let mut random = Random::new(seed);
        let mut shape = Shape::any(&mut random);
        if wrong.is_something() {
            shape.shards = shape.shards.max(2);
        }
        Self::of(shape, random, wrong.fake)
    }

    /// A world of that shape, in which nothing has happened yet.
    pub fn of(shape: Shape, mut random: Random, mutation: Option<Mutation>) -> Self {
        let Shape { shards, channels, link_capacity, files_max, .. } = shape;
        let now = Now { monotonic_ms: 1_000_000, unix_s: settings::START_S };
        let handlers = Arc::default();
        let process = settings::process(shape, &mut random, now, &handlers);
        let calm = random.chance(if shape.features.expiring { 40 } else { 70 });
        let mut crowd = Crowd::new(channels, calm, shape.features);
        let roomy = shape.queue_bytes_max >= 1 << 20;
        crowd.oracle.recovered_max = if roomy { settings::RECOVERED_MAX as u64 } else { 0 };
        crowd.oracle.clocks.show(now);
        let mut node = Node::new(process, now, link_capacity, mutation, random);
        node.expiring = shape.features.expiring;
        Self {
            node,
            crowd,
            orders: Vec::new(),
            handlers,
            users: settings::users(),
            files_max,
            backlog: vec![0; shards],
            waited: 0,
            hours: 0,
            paused: vec![0; shards],
        }
    }

    pub fn shards(&self) -> usize {
        self.node.shards()
    }

    pub fn random(&mut self) -> &mut Random {
        &mut self.node.random
    }

    /// One step of somebody.
    pub fn step(&mut self) {
        self.paused.iter_mut().for_each(|steps| *steps = steps.saturating_sub(1));
        let shards = self.shards();
        let shard = self.random().below(shards);
        match self.random().below(100) {
            0..=39 if self.paused[shard] == 0 => self.turn(shard, false),
            0..=59 => self.node.carry(shard, &mut self.crowd),
            60..=88 => self.somebody_acts(),
            89..=93 => self.somebody_comes_or_goes(),
            94..=95 => self.time_passes(),
            96 => self.paused[shard] = self.random().pause(),
            97 if self.random().chance(50) => self.outside_addresses(),
            97 => self.backend_wants(),
            98 => self.an_order_arrives(),
            _ if self.random().chance(50) => self.outside_sends(shard),
            _ => self.outside_publishes(shard),
        }
    }

    /// One turn of a shard, which first accepts who has waited for a descriptor.
    pub fn turn(&mut self, shard: usize, all: bool) {
        while self.backlog[shard] > 0 && self.has_file(shard) {
            self.backlog[shard] -= 1;
            self.accept(shard);
        }
        self.node.turn(shard, all, &mut self.crowd);
    }

    fn has_file(&self, shard: usize) -> bool {
        self.node.kernels[shard].sockets.len() < self.files_max
    }

    fn somebody_acts(&mut self) {
        if self.crowd.clients.is_empty() {
            return;
        }
        let index = self.node.random.below(self.crowd.clients.len());
        let client = &mut self.crowd.clients[index];
        if !client.is_live() || client.code.is_some() {
            return;
        }
        let sockets = &mut self.node.kernels[client.shard].sockets;
        let Some(socket) = sockets.get_mut(&client.conn.slot) else { return };
        self.crowd.oracle.tick();
        let bytes = client.peer.act(&mut self.crowd.oracle, &mut self.node.random);
        socket.inbound.extend(bytes);
    }

    fn somebody_comes_or_goes(&mut self) {
        let clients = &self.crowd.clients;
        let live: Vec<usize> = (0..clients.len()).filter(|at| clients[*at].is_live()).collect();
        let random = &mut self.node.random;
        if live.len() < 3 || live.len() < 9 && random.chance(50) {
            self.connect();
            return;
        }
        let client = *random.pick(&live);
        match random.below(10) {
            0..=1 => self.stall(client, true),
            2 => self.stall(client, false),
            _ => self.leave(client),
        }
    }

    /// A client stops reading, or begins again.
    pub fn stall(&mut self, client: usize, stalled: bool) {
        let Client { shard, conn, .. } = self.crowd.clients[client];
        let socket = self.node.kernels[shard].sockets.get_mut(&conn.slot);
        if let Some(socket) = socket.filter(|socket| socket.conn == conn) {
            socket.stalled = stalled;
        }
    }

    /// Somebody connects to a random shard, and waits where its table of descriptors is full.
    pub fn connect(&mut self) {
        let shards = self.shards();
        let shard = self.random().below(shards);
        if self.backlog[shard] > 0 || !self.has_file(shard) {
            self.backlog[shard] += 1;
            self.waited += 1;
        } else {
            self.accept(shard);
        }
    }

    fn accept(&mut self, shard: usize) {
        let Self { node, crowd, .. } = self;
        let Some(conn) = node.cores[shard].accepted(node.now) else { return };
        let number = crowd.clients.len();
        crowd.oracle.letters.came(number);
        node.kernels[shard].open(conn, number);
        let channels = crowd.channels.len();
        let peer: Box<dyn Peer> = match node.random.below(10) {
            0..=5 => {
                let user = node.random.pick(self.users);
                let memories = &mut crowd.memories;
                let again = !memories.is_empty() && node.random.chance(80);
                let memory = if again {
                    memories.swap_remove(node.random.below(memories.len()))
                } else {
                    Memory::new()
                };
                Box::new(Centrifuge::new(number, channels, crowd.features, user, memory))
            }
            6..=7 => Box::new(Plain::new(number, channels, crowd.features)),
            _ => Box::new(Backend::new(number, channels)),
        };
        let reader = Default::default();
        let client = Client { shard, conn, reader, peer, leaving: false, over: false, code: None };
        crowd.clients.push(client);
    }

    /// A client ends its connection in one of the ways that there are.
    pub fn leave(&mut self, client: usize) {
        let client = &mut self.crowd.clients[client];
        let sockets = &mut self.node.kernels[client.shard].sockets;
        let Some(socket) = sockets.get_mut(&client.conn.slot) else { return };
        if socket.conn != client.conn || client.leaving {
            return;
        }
        client.leaving = true;
        let random = &mut self.node.random;
        match random.below(4) {
            0 => {
                let bytes = client.peer.goodbye(random);
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

    /// A little time; or, where deadlines may come, more of it: some, up to the next deadline
    /// exactly, so much that many come in one tick, or an hour of the wall clock alone.
    fn time_passes(&mut self) {
        let Node { random, now, .. } = &mut self.node;
        if self.crowd.calm {
            now.monotonic_ms += random.below(40) as u64;
            return;
        }
        match random.below(10) {
            0..=5 => now.monotonic_ms += random.below(9_000) as u64,
            6..=7 => self.node.until_next_deadline(),
            8 => now.monotonic_ms += 30_000,
            _ => now.unix_s += HOUR_S,
        }
        self.crowd.oracle.clocks.show(self.node.now);
    }

    /// The wall clock is set while nothing is under way, and everybody sees that.
    pub fn an_hour_passes(&mut self) {
        self.node.now.unix_s += HOUR_S;
        self.crowd.oracle.clocks.show(self.node.now);
        self.node.now.monotonic_ms += NOTICED_MS + 1;
        self.settle();
        self.check_truth();
        self.hours += 1;
    }

    /// A thread that is no shard publishes.
    pub fn outside_publishes(&mut self, shard: usize) {
        let Self { node, crowd, .. } = self;
        let channel = node.random.below(crowd.channels.len());
        let publisher = usize::MAX - shard;
        // Long ones fill links.
        let most = if node.random.chance(20) { 2_000 } else { 60 };
        let padding = node.random.below(most);
        let (id, data) = crowd.oracle.publish(publisher, &[channel], padding);
        let tags = crowd.oracle.keyed(id, &[channel], node.random.pick::<&str>(&KEYS));
        crowd.outside.insert(id, To::Channel(channel));
        let payload = *node.random.pick(&[Payload::Json, Payload::Text, Payload::Binary]);
        let (channel, data) = (Name::from(crowd.channels[channel].as_str()), Bytes::from(data));
        let extra = PublicationExtra { tags, ..PublicationExtra::default() };
        let call = Call::Publish { channel, data, payload, extra };
        node.cores[shard].outside(node.now, id, OutsideCall::Call(call));
    }

    /// A thread that is no shard sends a message to many, perhaps to all of them but one.
    fn outside_sends(&mut self, shard: usize) {
        let known = self.handlers.known();
        let Self { node, crowd, .. } = self;
        let random = &mut node.random;
        let except = (!known.is_empty() && random.chance(30)).then(|| *random.pick(&known));
        let excepted = except.and_then(|except| crowd.client_of(&except.to_string()));
        let to = To::any(random.below(crowd.channels.len()), random);
        let most = if random.chance(20) { 2_000 } else { 60 };
        let padding = random.below(most);
        // Publications may wait for another turn: these have an order of their own.
        let sender = usize::MAX - SHARDS_MAX - shard;
        let (id, data) = crowd.oracle.send(sender, to.clone(), excepted, padding);
        let outgoing = plain::outgoing(random.pick::<&str>(&["j", "t", "b"]), &data);
        let outgoing = except.into_iter().fold(outgoing, Outgoing::except);
        let audience = match &to {
            To::All => Audience::All,
            To::User(user) => Audience::User(Name::from(user.as_str())),
            To::Channel(channel) => Audience::Channel(crowd.channels[*channel].as_str().into()),
        };
        crowd.outside.insert(id, to);
        let call = OutsideCall::SendTo { audience, outgoing };
        node.cores[shard].outside(node.now, id, call);
    }

    /// Nobody comes or goes while messages to many are under way: their counts are exact.
    pub fn sends_in_peace(&mut self) {
        self.crowd.peace = true;
        for _ in 0..self.random().between(1, 8) {
            let shards = self.shards();
            let shard = self.random().below(shards);
            self.outside_sends(shard);
        }
        self.settle();
        self.check_truth();
        self.crowd.peace = false;
    }

    /// A thread that is no shard addresses a connection that it heard of, which may be long gone:
    /// closes it, or sends it a message that nobody else may get.
    fn outside_addresses(&mut self) {
        let known = self.handlers.known();
        if known.is_empty() {
            return;
        }
        let Self { node, crowd, .. } = self;
        let at = node.random.below(known.len());
        let connection = known[at];
        let call = if node.random.chance(30) {
            crowd.ends_asked += 1;
            OutsideCall::Close { connection, reason: CloseReason { code: ASKED, reason: "asked" } }
        } else {
            let data = Bytes::from(format!("@{at}"));
            OutsideCall::Send { connection, data, text: true }
        };
        node.cores[usize::from(connection.shard())].outside(node.now, 0, call);
    }

    /// A backend wants something of all connections of a user: it is told which there are, and their
    /// shards hear of it one by one.
    fn backend_wants(&mut self) {
        let Self { node, crowd, users, .. } = self;
        let user = &node.random.pick(&users[1..]).name;
        let channel = node.random.below(crowd.channels.len());
        let name = Name::from(crowd.channels[channel].as_str());
        let (will, act) = match node.random.below(8) {
            0..=1 => (Will::Disconnect, Act::Disconnect { code: 3503, reason: "asked".into() }),
            2..=4 => (Will::Unsubscribe(channel), Act::Unsubscribe { channel: name }),
            5..=6 => {
                let (terms, recover) = (node.terms(), None);
                (Will::Subscribe(channel), Act::Subscribe { channel: name, terms, recover })
            }
            _ => {
                let info = Some(Bytes::from(crowd.oracle.tick().to_string()));
                let act = Act::Refresh { expired: false, expire_at_unix_s: 0, info };
                (Will::Refresh, act)
            }
        };
        let order = Order { client: None, session: None, except: Default::default(), act };
        let order = Arc::new(order);
        let known = node.cores[node.home(user)].home().connections_of(user);
        if matches!(will, Will::Subscribe(_)) {
            let at = |client: &Client| (client.shard as ShardId, client.conn);
            let clients = crowd.clients.iter().enumerate();
            let meant = clients.filter(|(_, client)| known.contains(&at(client)));
            meant.for_each(|(index, _)| crowd.oracle.letters.reads(index, channel));
        }
        self.orders.extend(known.iter().map(|(shard, conn)| (*shard, *conn, Arc::clone(&order))));
        let at = crowd.oracle.tick();
        crowd.oracle.orders.push(oracle::Order { user: user.clone(), will, at });
    }

    fn an_order_arrives(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        let Self { node, orders, crowd, .. } = self;
        let (shard, conn, order) = orders.swap_remove(node.random.below(orders.len()));
        if let Act::Refresh { info: Some(info), .. } = &order.act {
            let info = String::from_utf8_lossy(info).into_owned();
            crowd.infos.insert((shard, conn), info);
        }
        let from = node.random.below(node.shards()) as ShardId;
        let order = ToHome::Order { conn, order, reply: ReplyTo::Nobody };
        node.cores[usize::from(shard)].link(node.now, from, LinkMessage::ToHome(order));
    }

    /// Everybody reads again, nobody begins anything, until nothing moves.
    pub fn settle(&mut self) {
        for kernel in &mut self.node.kernels {
            kernel.sockets.values_mut().for_each(|socket| socket.stalled = false);
        }
        while !self.orders.is_empty() {
            self.an_order_arrives();
        }
        self.rest();
    }

    /// Nobody begins anything; what is under way goes on until nothing moves.
    fn rest(&mut self) {
        self.node.rest(&mut self.crowd);
        assert!(self.crowd.outside.is_empty(), "a thread waits: {:?}", self.crowd.outside);
    }

    /// The truth of the clients against the cores' account of it, when all is settled.
    pub fn check_truth(&mut self) {
        self.crowd.check_truth(&self.node);
    }

    /// Everybody has gone, well or not: nothing of them is left anywhere when the deadlines of
    /// those who do not read or never say FIN have passed.
    pub fn check_empty(&mut self) {
        self.node.now.monotonic_ms += 200;
        for _ in 0..20 {
            self.rest();
            self.node.now.monotonic_ms += 1_000;
        }
        for (shard, core) in self.node.cores.iter().enumerate() {
            let sockets = &self.node.kernels[shard].sockets;
            assert!(core.is_empty(), "shard {shard} holds something: {:?}", core.counts());
            assert!(sockets.is_empty(), "shard {shard} has {} sockets", sockets.len());
        }
        assert_eq!(settings::connections(&self.node.process), 0);
        // What was published outlives everybody, but not for ever.
        self.node.now.monotonic_ms += 4_000_000;
        self.rest();
        for core in &self.node.cores {
            let left = core.home().histories();
            assert_eq!((left.streams, left.entries, left.bytes), (0, 0, 0), "{left:?}");
        }
        let alive = self.handlers.alive.load(Ordering::Relaxed);
        assert_eq!(alive, 0, "handlers not told of their end");
    }
}
