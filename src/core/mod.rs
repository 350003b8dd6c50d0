//! What one shard decides. PURE: the shell hands in what happened and carries out what follows.
//!
//! Slots, sessions, writers, backlogs, home and local hub are all here, because the races are
//! between them: a simulation that replaces the shell replaces no decision. Every input is
//! settled before the next one: what it asks of homes on this shard is applied and answered at
//! once, what it asks of others waits in their backlogs until [`Core::flush`].

mod asks;
mod backlog;
mod calls;
mod closing;
mod connection;
mod direct;
mod drain;
mod endpoints;
mod fanout;
mod flush;
mod gathers;
mod http;
mod orders;
mod outside;
mod overrun;
mod plain;
mod requests;
mod sessions;
mod settings;
mod streams;
mod subscriptions;
mod watch;
mod wheel;
mod writer;

pub use asks::{Notice, Question};
pub use backlog::LinkMessage;
pub use endpoints::{Endpoint, Endpoints};
pub use flush::{Flush, How, Shell};
pub use outside::{OutsideAnswer, OutsideCall};
pub use settings::{Process, Route, Settings};
pub use streams::Emulated;
pub use watch::{Lookup, WatchSettings};

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};

use self::{
    asks::Asks,
    backlog::Backlog,
    connection::{Connection, Http, Phase, Session, Slots},
    direct::Directs,
    drain::Drain,
    flush::Operation,
    gathers::Gathers,
    orders::Listing,
    overrun::Lost,
    subscriptions::Subscriptions,
    watch::WatchState,
    wheel::Wheel,
    writer::Joined,
};
use crate::{
    codes::CloseReason,
    hub::{
        Congestion, ConnRef, FromHome, Home, HomeAnswer, Leases, Local, ReplyTo, ShardId, ToHome,
    },
    limits::bound,
    metrics::{Counters, Counts},
    protocol::{Answer, Effect, Now},
};

/// Deadlines of connections that one tick looks at.
const DUE_PER_TICK: usize = bound(1_024, 2);

/// Why a receive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// The peer will send no more.
    Eof,
    /// For a reason of the kernel's own (no buffer, an overflow): arm it again.
    Again,
    /// The connection broke.
    Failed,
}

/// One shard's state.
pub struct Core {
    shard: ShardId,
    process: Arc<Process>,
    random: ChaCha12Rng,
    slots: Slots,
    local: Local,
    subscriptions: Subscriptions,
    home: Home,
    leases: Leases,
    wheel: Wheel,
    gathers: Gathers,
    directs: Directs,
    watch: WatchState,
    asks: Asks,
    drain: Drain,
    backlogs: Vec<Backlog>,
    congestion: Congestion,
    /// Connections that may have something to send, in the order in which they got it.
    dirty: VecDeque<u32>,
    /// Connections whose queue was over the bound when something came for them.
    slow: Vec<ConnRef>,
    /// Subscriptions whose client must recover what it did not read in time.
    overruns: Lost,
    operations: Vec<(ConnRef, Operation)>,
    outside_answers: Vec<(u64, OutsideAnswer)>,
    /// Messages between the shard and itself that the current input caused.
    to_self: VecDeque<ToHome>,
    from_self: VecDeque<FromHome>,
    /// Lists of channels that go on in the next turns.
    listings: VecDeque<Listing>,
    home_out: Vec<(ShardId, FromHome)>,
    /// Answers to what handlers asked while they were told an answer.
    handler_answers: VecDeque<(ConnRef, u32, Answer)>,
    telling_handler: bool,
    /// What backends publish, in order, as far as this turn's share was used up.
    later: VecDeque<(ShardId, ToHome)>,
    /// What this turn may still do for backends.
    share: usize,
    effects: Vec<Effect>,
    joined: Joined,
    counters: Counters,
    closed: BTreeMap<u16, u64>,
    clients: u64,
    anonymous_clients: u64,
}

impl Core {
    /// The core of shard `shard`. The seed makes client ids and lease ids, and spreads deadlines.
    pub fn new(shard: ShardId, process: Arc<Process>, seed: [u8; 32], now: Now) -> Self {
        let key = process.key;
        let lease_ttl_ms = process.settings.watch.as_ref().map_or(0, |watch| watch.lease_ttl_ms);
        Self {
            shard,
            random: ChaCha12Rng::from_seed(seed),
            slots: Slots::new(),
            local: Local::new(key),
            subscriptions: Subscriptions::new(key),
            home: Home::new(key, shard, process.home_settings()),
            leases: Leases::new(lease_ttl_ms),
            wheel: Wheel::new(now.monotonic_ms),
            gathers: Gathers::default(),
            directs: Directs::new(key),
            watch: WatchState::default(),
            asks: Asks::default(),
            drain: Drain::default(),
            backlogs: (0..process.shards).map(|_| Backlog::default()).collect(),
            congestion: Congestion::NONE,
            dirty: VecDeque::new(),
            slow: Vec::new(),
            overruns: Lost::new(),
            operations: Vec::new(),
            outside_answers: Vec::new(),
            to_self: VecDeque::new(),
            from_self: VecDeque::new(),
            listings: VecDeque::new(),
            home_out: Vec::new(),
            handler_answers: VecDeque::new(),
            telling_handler: false,
            later: VecDeque::new(),
            share: gathers::CALLS_PER_TURN,
            effects: Vec::new(),
            joined: Joined::default(),
            counters: Counters::default(),
            closed: BTreeMap::new(),
            clients: 0,
            anonymous_clients: 0,
            process,
        }
    }

    /// A connection was accepted. `None`: there is no place for it, not even to refuse it.
    pub fn accepted(&mut self, now: Now) -> Option<ConnRef> {
        let admitted = !self.drain.has_begun() && self.process.admit();
        if !admitted {
            self.counters.connections_refused += 1;
            if !self.process.admit_refusal() {
                return None;
            }
        }
        let conn = self.slots.take();
        let deadline_ms = now.monotonic_ms + self.process.settings.request_timeout_ms;
        let connection = self.slots.at(conn.slot);
        connection.admitted = admitted;
        let reader = crate::codec::http::Reader::new();
        let refused = !admitted;
        connection.session =
            Session::Http(Http { reader, deadline_ms, refused, device: false, last: false });
        self.counters.connections_accepted += 1;
        self.wheel.set(conn.slot, deadline_ms);
        self.arm_receive(conn);
        Some(conn)
    }

    /// Bytes arrived. They are the caller's again when this returns.
    pub fn received(&mut self, now: Now, conn: ConnRef, bytes: &mut [u8]) {
        self.read(now, conn, bytes);
        self.settle(now);
    }

    /// The one receive of the connection ended.
    pub fn read_ended(&mut self, now: Now, conn: ConnRef, end: ReadEnd) {
        let Some(connection) = self.slots.get(conn) else { return };
        connection.receiving = false;
        connection.operations -= 1;
        match end {
            ReadEnd::Again if connection.phase != Phase::Aborting => {
                self.counters.receive_buffers_exhausted += 1;
                self.arm_receive(conn);
            }
            ReadEnd::Again => connection.input_ended = true,
            ReadEnd::Eof => {
                connection.input_ended = true;
                self.peer_finished(now, conn);
            }
            ReadEnd::Failed => {
                connection.input_ended = true;
                self.closed_by_peer(now, conn, CloseReason::CONNECTION_CLOSED);
                self.abort(conn);
            }
        }
        self.progress(conn);
        self.settle(now);
    }

    /// The one send of the connection ended: bytes taken, or an errno.
    pub fn sent(&mut self, now: Now, conn: ConnRef, result: Result<u32, i32>) {
        let Some(connection) = self.slots.get(conn) else { return };
        connection.operations -= 1;
        connection.writer.sent(result.unwrap_or(0));
        match result {
            Ok(bytes) if bytes > 0 => {
                if !connection.writer.is_idle() {
                    self.mark(conn.slot);
                } else if !connection.is_open() {
                    self.progress(conn);
                }
            }
            _ => {
                self.closed_by_peer(now, conn, CloseReason::CONNECTION_CLOSED);
                self.abort(conn);
                self.progress(conn);
            }
        }
        self.settle(now);
    }

    /// A shutdown of the connection ended, well or not.
    pub fn shut_down(&mut self, now: Now, conn: ConnRef) {
        let Some(connection) = self.slots.get(conn) else { return };
        connection.operations -= 1;
        self.progress(conn);
        self.settle(now);
    }

    /// The connection's descriptor is closed: its slot is free.
    pub fn released(&mut self, conn: ConnRef) {
        let Some(connection) = self.slots.get(conn) else { return };
        connection.operations -= 1;
        self.process.left(connection.admitted);
        self.wheel.clear(conn.slot);
        self.slots.release(conn.slot);
    }

    /// A message arrived over the link from another shard.
    pub fn link(&mut self, now: Now, from: ShardId, message: LinkMessage) {
        match message {
            LinkMessage::ToHome(message) => self.apply_to_home(now, from, message),
            LinkMessage::FromHome(message) => self.apply_from_home(now, message),
            LinkMessage::Emulated(emulated) => self.emulated(now, &emulated),
        }
        self.settle(now);
    }

    /// A thread that is no shard asks for something; the answer carries `id`.
    pub fn outside(&mut self, now: Now, id: u64, call: OutsideCall) {
        self.call_from_outside(now, id, call);
        self.settle(now);
    }

    /// Looks at deadlines that have come, a bounded number; returns whether more wait.
    pub fn tick(&mut self, now: Now) -> bool {
        let histories_left = self.home.expire(now.monotonic_ms);
        let leases_left = self.leases_due(now) || histories_left;
        for _ in 0..DUE_PER_TICK {
            let Some(slot) = self.wheel.pop(now.monotonic_ms) else { return leases_left };
            let connection = self.slots.at(slot);
            let conn = ConnRef { slot, generation: connection.generation };
            if connection.deadline_ms() <= now.monotonic_ms {
                self.due(now, conn);
                self.settle(now);
            }
            let connection = self.slots.at(slot);
            let deadline_ms = connection.deadline_ms();
            let waits =
                matches!(connection.phase, Phase::Aborting | Phase::Releasing | Phase::Free);
            if !waits && deadline_ms != u64::MAX {
                self.wheel.set(slot, deadline_ms);
            }
        }
        true
    }

    /// Sends a request to a home; the home on this shard gets it before the input is settled.
    #[expect(clippy::wrong_self_convention, reason = "it sends to a home, it converts nothing")]
    fn to_home(&mut self, home: ShardId, message: ToHome) {
        if home == self.shard {
            self.to_self.push_back(message);
        } else {
            self.push(home, LinkMessage::ToHome(message));
        }
    }

    fn push(&mut self, to: ShardId, message: LinkMessage) {
        let backlog = &mut self.backlogs[usize::from(to)];
        backlog.push(message);
        self.congestion.set(to, backlog.is_full());
    }

    fn home_of(&self, name: &str) -> ShardId {
        self.process.key.home(name, self.process.shards)
    }

    /// Applies what the last input caused between this shard and itself, and closes slow consumers,
    /// until nothing new comes of it.
    fn settle(&mut self, now: Now) {
        loop {
            // First of all: until it has left, a subscription must not get what is behind its gap.
            if self.lose_overrun() {
                continue;
            }
            if let Some(message) = self.from_self.pop_front() {
                self.apply_from_home(now, message);
            } else if let Some(message) = self.to_self.pop_front() {
                self.apply_to_home(now, self.shard, message);
            } else if let Some(conn) = self.slow.pop() {
                self.close(now, conn, CloseReason::SLOW);
            } else {
                return;
            }
        }
    }

    fn apply_to_home(&mut self, now: Now, from: ShardId, message: ToHome) {
        match message {
            ToHome::Marker(round) => self.marker(round),
            ToHome::Lease(request) => self.apply_lease(now, from, *request),
            ToHome::Count { reply } => {
                let answer = HomeAnswer::Counts(Box::new(self.counts()));
                self.home_out.push((from, FromHome::Answer { reply, answer }));
            }
            ToHome::Channels { pattern, reply } => self.list_channels(from, pattern, reply),
            ToHome::Connections { of, reply } => self.list_connections(from, of, reply),
            ToHome::Order { conn, order, reply } => self.obey(now, from, conn, &order, reply),
            ToHome::Direct(direct) => self.begin_walk(from, *direct),
            message => {
                let (now_ms, out) = (now.monotonic_ms, &mut self.home_out);
                self.home.apply(now_ms, from, message, &self.congestion, out);
            }
        }
        self.send_from_home();
    }

    /// Sends what homes on this shard decided, in order.
    fn send_from_home(&mut self) {
        let mut out = std::mem::take(&mut self.home_out);
        for (to, message) in out.drain(..) {
            if to == self.shard {
                self.from_self.push_back(message);
            } else {
                self.push(to, LinkMessage::FromHome(message));
            }
        }
        self.home_out = out;
    }

    fn apply_from_home(&mut self, now: Now, message: FromHome) {
        match message {
            FromHome::Granted { sub, begin } => self.granted(now, sub, begin),
            FromHome::Refused { sub, error } => self.refused(now, sub, error),
            FromHome::Gap { local } => self.gap(local),
            FromHome::Published { local, published } => self.deliver(local, &published),
            FromHome::Lease(answer) => self.lease_answered(now, *answer),
            FromHome::Answer { reply, answer } => match reply {
                ReplyTo::Nobody => {}
                ReplyTo::Command { conn, place, command } => {
                    self.answer_command(now, conn, place, command, answer);
                }
                ReplyTo::Gather { index, generation, part } => {
                    self.gathered(now, index, generation, part, answer);
                }
                ReplyTo::Direct { id } => self.direct_answered(now, id, answer),
            },
        }
    }

    /// What there is on this shard.
    pub fn counts(&self) -> Counts {
        let mut counters = self.counters.clone();
        counters.frames_encoded = self.home.frames_encoded();
        counters.memberships_dropped = self.home.memberships_dropped();
        Counts {
            shard: self.shard,
            clients: self.clients,
            connections: self.slots.used() as u64,
            subscriptions: self.local.active(),
            channels: self.home.channels() as u64,
            users: self.home.users() as u64,
            leases: self.leases.len(),
            watch_streams: self.watch.streams,
            anonymous: self.anonymous_clients > 0,
            counters,
            closed: self.closed.clone(),
        }
    }

    /// The counters that the shell keeps: sleeps, wakes and what the ring counted.
    pub fn counters(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// The home on this shard, to be asked by tests.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Who of this shard's connections gets what, to be asked by tests.
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// What waits in front of the link to a shard, to be looked at by tests.
    pub fn waiting(&self, to: ShardId) -> impl Iterator<Item = &LinkMessage> {
        self.backlogs[usize::from(to)].iter()
    }

    /// The leases on this shard, to be asked by tests.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Whether the shard holds nothing of anybody.
    pub fn is_empty(&self) -> bool {
        self.slots.used() == 0
            && self.local.is_empty()
            && self.subscriptions.is_empty()
            && self.home.channels() == 0
            && self.home.users() == 0
            && self.leases.is_empty()
            && self.watch.is_empty()
            && self.gathers.is_empty()
            && self.asks.is_empty()
            && self.later.is_empty()
            && self.listings.is_empty()
            && self.directs.is_empty()
            && self.backlogs.iter().all(Backlog::is_empty)
    }

    /// Operations of a connection that the kernel holds, to be checked by tests.
    pub fn operations_of(&mut self, conn: ConnRef) -> Option<u8> {
        self.slots.get(conn).map(|connection: &mut Connection| connection.operations)
    }

    /// Bytes that wait for a connection or are with the kernel, to be checked by tests.
    pub fn queued_bytes_of(&mut self, conn: ConnRef) -> Option<usize> {
        self.slots.get(conn).map(|connection| connection.writer.queued_bytes())
    }
}
