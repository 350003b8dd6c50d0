//! Messages to many connections: who asked, which connections are meant, and how many got them.
//!
//! A channel's home distributes the message as a publication, and every shard that delivers it says
//! to how many; a user's home says which connections it has; all connections are those of every
//! shard. Walks over a shard's connections go on from turn to turn.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{Connection, Core, OutsideAnswer, Session, requests::NO_PLACE};
use crate::{
    codec::transport::Transport,
    frame::Range,
    hub::{
        ConnRef, Direct, Group, Handled, Handling, HashKey, HomeAnswer, Parcel, Publication,
        ReplyTo, ShardId, ToHome,
    },
    limits::{LINK_BACKLOG_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX, bound},
    mutations::{self, Mutation},
    protocol::{
        Answer, Audience, Delivery, ErrorCode, Name, Now, Outgoing, handler::ConnectionRef,
    },
};

/// Connections that one turn looks at for messages to many.
const LOOKS_PER_TURN: usize = bound(1_024, 3);

/// Who is told how many connections a message reached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sender {
    /// A thread that is no shard, by the number of its call.
    Outside(u64),
    /// A connection's handler, by the number of its command.
    Handler { conn: ConnRef, command: u32 },
}

/// A message whose receivers are not all counted.
#[derive(Debug)]
struct Pending {
    sender: Sender,
    delivery: Delivery,
    /// How many shards report is known: a report may come before the home says so.
    known: bool,
    missing: i64,
    /// Bytes that it pins until it is counted.
    cost_bytes: usize,
    /// What the connections of a user are sent once they are known.
    parcel: Option<Arc<Parcel>>,
    except: Option<(ShardId, ConnRef)>,
}

/// A message on its way along this shard's connections.
#[derive(Debug)]
struct Walk {
    sender: ShardId,
    direct: Direct,
    /// Place of the next slot, or of the next of those that are named.
    next: usize,
    /// What it is on each transport that was met.
    ranges: Vec<(Transport, Option<Range>)>,
    delivery: Delivery,
}

/// Messages that were asked for here, and those that are being queued here.
#[derive(Debug)]
pub(super) struct Directs {
    pending: HashMap<u32, Pending, HashKey>,
    /// Of all that are pending together.
    cost_bytes: usize,
    last: u32,
    walks: VecDeque<Walk>,
}

impl Directs {
    pub(super) fn new(key: HashKey) -> Self {
        Self { pending: HashMap::with_hasher(key), cost_bytes: 0, last: 0, walks: VecDeque::new() }
    }

    /// Whether so many are not counted yet, or pin so much, that no more are taken.
    fn is_full(&self) -> bool {
        self.pending.len() >= REQUESTS_IN_FLIGHT_MAX || self.cost_bytes >= LINK_BACKLOG_BYTES_MAX
    }

    fn insert(&mut self, pending: Pending) -> u32 {
        self.cost_bytes += pending.cost_bytes;
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.pending.contains_key(&self.last) {
                self.pending.insert(self.last, pending);
                return self.last;
            }
        }
    }

    fn remove(&mut self, id: u32) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.cost_bytes -= pending.cost_bytes;
        Some(pending)
    }

    /// Whether a walk goes on in the next turn.
    pub(super) fn walks(&self) -> bool {
        !self.walks.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.walks.is_empty()
    }
}

impl Connection {
    /// How messages travel to it, if it takes any: it is a handler's, or a client's that was told
    /// that it is connected.
    fn message_transport(&self) -> Option<Transport> {
        match &self.session {
            Session::Handler { .. } => Some(Transport::Plain),
            Session::Centrifuge { .. } | Session::Stream { .. } if self.connected => {
                Some(self.session.transport()).filter(|transport| *transport != Transport::Events)
            }
            _ => None,
        }
    }
}

impl Core {
    /// Sends a message to many connections; `sender` is told how many it reached.
    pub(super) fn send_to(
        &mut self,
        now: Now,
        sender: Sender,
        audience: Audience,
        outgoing: Outgoing,
    ) {
        let shards = 0..self.process.shards as ShardId;
        let refusal = match &audience {
            _ if self.directs.is_full() => true,
            Audience::Channel(channel) => self.publish_refusal(channel).is_some(),
            Audience::All => shards.clone().any(|shard| self.congestion.is_full(shard)),
            Audience::User(_) => false,
        };
        if refusal {
            self.sent_to(now, sender, Err(ErrorCode::TOO_MANY_REQUESTS));
            return;
        }
        let except = outgoing.except.map(by_shard);
        let (delivery, known, missing) = (Delivery::default(), false, 0);
        let cost_bytes = outgoing.data.len();
        let pending =
            Pending { sender, delivery, known, missing, cost_bytes, parcel: None, except };
        match audience {
            Audience::Channel(channel) => {
                let reply = ReplyTo::Direct { id: self.directs.insert(pending) };
                let report = Some((self.shard, reply));
                self.publish_handled(channel, outgoing, Handling { except, report }, reply);
            }
            Audience::User(user) => {
                let parcel = Arc::new(Parcel::new(&outgoing));
                let (cost_bytes, parcel) = (parcel.cost_bytes(), Some(parcel));
                let id = self.directs.insert(Pending { cost_bytes, parcel, ..pending });
                let reply = ReplyTo::Direct { id };
                self.to_home(
                    self.home_of(&user),
                    ToHome::Connections { of: Group::User(user), reply },
                );
            }
            Audience::All => {
                let parcel = Arc::new(Parcel::new(&outgoing));
                let (cost_bytes, missing) = (parcel.cost_bytes(), i64::from(shards.end));
                let pending = Pending { known: true, missing, cost_bytes, ..pending };
                let reply = ReplyTo::Direct { id: self.directs.insert(pending) };
                for shard in shards {
                    let parcel = Arc::clone(&parcel);
                    let direct = Direct { parcel, to: None, except, reply };
                    self.to_home(shard, ToHome::Direct(Box::new(direct)));
                }
            }
        }
    }

    /// Publishes to all in a channel but one connection.
    pub(super) fn publish_to_others(
        &mut self,
        (conn, command): (ConnRef, u32),
        channel: Name,
        outgoing: Outgoing,
    ) {
        let reply = ReplyTo::Command { conn, place: NO_PLACE, command };
        let handling = Handling { except: Some((self.shard, conn)), report: None };
        self.publish_handled(channel, outgoing, handling, reply);
    }

    fn publish_handled(
        &mut self,
        channel: Name,
        Outgoing { payload, data, .. }: Outgoing,
        handling: Handling,
        reply: ReplyTo,
    ) {
        let home = self.home_of(&channel);
        let publication = Publication { channel, data, payload, info: None, extra: None };
        let handled = Box::new(Handled { publication, handling });
        self.to_home(home, ToHome::PublishHandled { handled, reply });
    }

    /// A home or a shard says how far a message came.
    pub(super) fn direct_answered(&mut self, now: Now, id: u32, answer: HomeAnswer) {
        let Some(pending) = self.directs.pending.get_mut(&id) else { return };
        match answer {
            HomeAnswer::Distributed(reach) => {
                pending.known = true;
                pending.missing += i64::from(reach.shards);
                pending.delivery.failed += reach.missed;
            }
            HomeAnswer::Delivered(delivery) => {
                pending.missing -= 1;
                pending.delivery.add(delivery);
            }
            HomeAnswer::Connections(connections) => self.send_to_these(id, &connections),
            HomeAnswer::Failed(error) => {
                if let Some(Pending { sender, .. }) = self.directs.remove(id) {
                    self.sent_to(now, sender, Err(error));
                }
                return;
            }
            other => unreachable!("{other:?} answers no message"),
        }
        let done = |pending: &Pending| pending.known && pending.missing == 0;
        if self.directs.pending.get(&id).is_some_and(done)
            && let Some(Pending { sender, delivery, .. }) = self.directs.remove(id)
        {
            self.sent_to(now, sender, Ok(delivery));
        }
    }

    /// Sends a user's message on to its connections, which are in the order of their shards.
    fn send_to_these(&mut self, id: u32, connections: &[(ShardId, ConnRef)]) {
        let Some(pending) = self.directs.pending.get_mut(&id) else { return };
        pending.known = true;
        let Some(parcel) = pending.parcel.take() else { return };
        let (except, reply) = (pending.except, ReplyTo::Direct { id });
        let mut out = Vec::new();
        for of_shard in connections.chunk_by(|one, other| one.0 == other.0) {
            let shard = of_shard[0].0;
            if self.congestion.is_full(shard) {
                if !mutations::is_on(Mutation::HidesUnsent) {
                    let meant = of_shard.iter().filter(|one| except != Some(**one));
                    pending.delivery.failed += meant.count() as u32;
                }
                continue;
            }
            pending.missing += 1;
            let to = Some(of_shard.iter().map(|(_, conn)| *conn).collect());
            out.push((shard, Direct { parcel: Arc::clone(&parcel), to, except, reply }));
        }
        for (shard, direct) in out {
            self.to_home(shard, ToHome::Direct(Box::new(direct)));
        }
    }

    fn sent_to(&mut self, now: Now, sender: Sender, outcome: Result<Delivery, ErrorCode>) {
        match sender {
            Sender::Outside(id) => {
                self.outside_answers.push((id, OutsideAnswer::Delivered(outcome)));
            }
            Sender::Handler { conn, command } => {
                let answer = outcome.map_or_else(Answer::Failed, Answer::Delivered);
                self.answer(now, conn, NO_PLACE, command, answer);
            }
        }
    }

    /// Begins to queue a message for connections of this shard.
    pub(super) fn begin_walk(&mut self, sender: ShardId, direct: Direct) {
        let (next, ranges, delivery) = (0, Vec::new(), Delivery::default());
        self.directs.walks.push_back(Walk { sender, direct, next, ranges, delivery });
    }

    /// Goes on with messages to many, a bounded number of connections.
    pub(super) fn walk_some(&mut self, now: Now) {
        let mut looks = LOOKS_PER_TURN;
        while looks > 0
            && let Some(mut walk) = self.directs.walks.pop_front()
        {
            let end = match &walk.direct.to {
                Some(these) => these.len(),
                None => self.slots.end() as usize,
            };
            let until = end.min(walk.next + looks);
            looks -= until - walk.next;
            for place in walk.next..until {
                self.walk_to(&mut walk, place);
            }
            walk.next = until;
            if until < end && !mutations::is_on(Mutation::EndsWalkWithTurn) {
                self.directs.walks.push_front(walk);
            } else {
                self.reply(walk.sender, walk.direct.reply, HomeAnswer::Delivered(walk.delivery));
            }
        }
        self.settle(now);
    }

    fn walk_to(&mut self, walk: &mut Walk, place: usize) {
        let named = walk.direct.to.as_ref().map(|these| these[place]);
        let conn = named.unwrap_or_else(|| {
            let slot = place as u32;
            ConnRef { slot, generation: self.slots.at(slot).generation }
        });
        let except = walk.direct.except.filter(|_| !mutations::is_on(Mutation::SendsToExcepted));
        if except == Some((self.shard, conn)) {
            return;
        }
        let connection = self.slots.get(conn).filter(|connection| connection.is_open());
        let Some(transport) = connection.and_then(|connection| connection.message_transport())
        else {
            // Of all connections those are meant that take messages; a user's are all meant.
            if named.is_some() {
                walk.delivery.count(false);
            }
            return;
        };
        let known = walk.ranges.iter().position(|(known, _)| *known == transport);
        let at = known.unwrap_or_else(|| {
            walk.ranges.push((transport, walk.direct.parcel.range(transport)));
            walk.ranges.len() - 1
        });
        let queued = match &walk.ranges[at].1 {
            Some(range) => self.queue_shared(conn, range.clone()),
            None => false,
        };
        walk.delivery.count(queued);
    }
}

fn by_shard(ConnectionRef { shard, slot, generation }: ConnectionRef) -> (ShardId, ConnRef) {
    (shard, ConnRef { slot, generation })
}
