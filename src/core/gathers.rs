//! Answers that are under way: what a call waits for, what has come, and who is told in the end.
//!
//! A call that is long (a batch, a user's many connections) is worked off in steps, each turn so
//! many of all calls together: it delays no message by more than a turn's share.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::Core;
use crate::{
    api::{self, Call, ErrorMode, PresenceStats, Reply},
    codec::http,
    hub::{ConnRef, HomeAnswer, HttpReply, ReplyTo, ShardId, ToHome},
    limits::{
        BATCH_PARALLEL_MAX, BATCH_REPLY_BYTES_MAX, CHANNELS_PER_ANSWER_MAX,
        CONNECTIONS_PER_ANSWER_MAX, GENERATION_FIRST, ORDERS_IN_FLIGHT_MAX, REQUESTS_IN_FLIGHT_MAX,
        bound,
    },
    metrics::Counts,
    protocol::{Act, Described, ErrorCode, Name, Now, Order, StreamPosition},
};

/// Publications, orders and commands of batches that one turn sends for backends; what is more waits
/// for the next turns.
pub(super) const CALLS_PER_TURN: usize = bound(1_024, 2);

/// Orders that one step sends: so many calls go on side by side.
const ORDERS_PER_STEP: usize = bound(64, 1);

/// How an answer over HTTP is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// As the API has it.
    Api(ErrorMode),
    /// As measurements.
    Metrics,
}

/// Who waits for a gathered answer.
#[derive(Debug)]
pub(super) enum Asker {
    /// A backend, over HTTP.
    Http { reply: HttpReply, form: Form },
    /// A thread that is no shard, by its number.
    Outside(u64),
    /// Nobody: this shard began it by itself.
    Nobody,
    /// A batch of which this is a command.
    Batch { batch: Place, command: usize },
}

/// A place in the table, and which tenant of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    index: u32,
    generation: u32,
}

impl Place {
    pub(super) fn reply(self) -> ReplyTo {
        let Self { index, generation } = self;
        ReplyTo::Gather { index, generation, part: 0 }
    }
}

/// What has come so far.
#[derive(Debug)]
pub(super) enum Parts {
    /// Nothing of the one answer.
    One,
    /// It.
    Whole(Result<Reply, ErrorCode>),
    /// By the number of the channel.
    Broadcast(Vec<Option<Result<StreamPosition, ErrorCode>>>),
    /// Of all shards.
    Info(Vec<Counts>),
    /// Of all homes, unless there are too many.
    Channels(Result<BTreeMap<Name, u64>, ErrorCode>),
    Orders(Orders),
    Batch(Batch),
}

/// What is to be done with connections.
#[derive(Debug)]
pub(super) struct Orders {
    order: Arc<Order>,
    /// Listed, and not told yet.
    waiting: VecDeque<(ShardId, ConnRef)>,
    described: Vec<Described>,
    listed: usize,
    /// The first that went wrong.
    error: Option<ErrorCode>,
}

impl Orders {
    pub(super) fn new(order: Order) -> Self {
        let (waiting, described) = (VecDeque::new(), Vec::new());
        Self { order: Arc::new(order), waiting, described, listed: 0, error: None }
    }

    fn list(&mut self, connections: Vec<(ShardId, ConnRef)>) {
        self.listed += connections.len();
        self.waiting.extend(connections);
        let describes = matches!(self.order.act, Act::Describe);
        if describes && self.listed > CONNECTIONS_PER_ANSWER_MAX {
            self.error = Some(TOO_MANY_CONNECTIONS);
            self.waiting.clear();
        }
    }

    fn finish(mut self) -> Result<Reply, ErrorCode> {
        if let Some(error) = self.error {
            return Err(error);
        }
        Ok(match self.order.act {
            Act::Disconnect { .. } => Reply::Disconnect,
            Act::Unsubscribe { .. } => Reply::Unsubscribe,
            Act::Subscribe { .. } => Reply::Subscribe,
            Act::Refresh { .. } => Reply::Refresh,
            Act::Describe => {
                self.described.sort_unstable_by(|one, other| one.client.cmp(&other.client));
                Reply::Connections(self.described)
            }
        })
    }
}

/// Calls that are executed one behind the other, or side by side.
#[derive(Debug)]
pub(super) struct Batch {
    commands: std::iter::Enumerate<std::vec::IntoIter<Result<Call, ErrorCode>>>,
    parallel: bool,
    replies: Vec<Option<Result<Reply, ErrorCode>>>,
    /// Of the replies so far.
    cost_bytes: usize,
}

impl Batch {
    pub(super) fn new(commands: Vec<Result<Call, ErrorCode>>, parallel: bool) -> Self {
        let replies = commands.iter().map(|_| None).collect();
        let commands = commands.into_iter().enumerate();
        Self { commands, parallel, replies, cost_bytes: 0 }
    }

    fn replied(&mut self, command: usize, reply: Result<Reply, ErrorCode>) {
        self.cost_bytes += reply.as_ref().map_or(64, Reply::cost_bytes);
        self.replies[command] = Some(reply);
        if self.cost_bytes > BATCH_REPLY_BYTES_MAX {
            for (command, _) in self.commands.by_ref() {
                self.replies[command] = Some(Err(TOO_LONG_A_REPLY));
            }
        }
    }
}

#[derive(Debug)]
struct Gather {
    asker: Asker,
    parts: Parts,
    /// Answers that are outstanding.
    missing: usize,
    /// It waits for its share of a turn.
    queued: bool,
}

impl Gather {
    /// Takes note of an answer; whether it was the whole of one that was missing.
    fn take(&mut self, part: u32, answer: HomeAnswer) -> bool {
        match (&mut self.parts, answer) {
            (Parts::Broadcast(outcomes), answer) => {
                outcomes[part as usize] = Some(position_of(answer));
            }
            (Parts::Info(counts), HomeAnswer::Counts(of_shard)) => counts.push(*of_shard),
            (Parts::Channels(all), HomeAnswer::Channels { found, more }) => {
                if let Ok(channels) = all {
                    channels.extend(found.into_iter().map(|(name, count)| (name, count.into())));
                    if channels.len() > CHANNELS_PER_ANSWER_MAX {
                        *all = Err(TOO_MANY_CHANNELS);
                    }
                }
                return !more;
            }
            (Parts::Orders(orders), HomeAnswer::Connections(listed)) => orders.list(listed),
            (Parts::Orders(orders), HomeAnswer::Described(described)) => {
                orders.described.extend(described.map(|described| *described));
            }
            (Parts::Orders(orders), HomeAnswer::Failed(error)) => {
                orders.error.get_or_insert(error);
            }
            (Parts::Orders(_), HomeAnswer::Done) => {}
            (parts @ Parts::One, answer) => *parts = Parts::Whole(reply_of(answer)),
            (parts, answer) => unreachable!("{answer:?} answers nothing of {parts:?}"),
        }
        true
    }

    /// Whether there is something that it may begin.
    fn may_begin(&self) -> bool {
        match &self.parts {
            Parts::Orders(orders) => {
                !orders.waiting.is_empty() && self.missing < ORDERS_IN_FLIGHT_MAX
            }
            Parts::Batch(batch) => {
                let at_once = if batch.parallel { BATCH_PARALLEL_MAX } else { 1 };
                batch.commands.len() > 0 && self.missing < at_once
            }
            _ => false,
        }
    }
}

/// The bounded table of answers that are not complete.
#[derive(Debug, Default)]
pub(super) struct Gathers {
    places: Vec<(u32, Option<Gather>)>,
    free: Vec<u32>,
    /// Those that may begin something, in turn.
    queue: VecDeque<Place>,
}

impl Gathers {
    fn has_room(&self) -> bool {
        self.places.len() - self.free.len() < REQUESTS_IN_FLIGHT_MAX
    }

    fn insert(&mut self, gather: Gather) -> Place {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push((GENERATION_FIRST, None));
            (self.places.len() - 1) as u32
        });
        let (generation, place) = &mut self.places[index as usize];
        *place = Some(gather);
        Place { index, generation: *generation }
    }

    fn get(&mut self, place: Place) -> Option<&mut Gather> {
        let (known, gather) = self.places.get_mut(place.index as usize)?;
        gather.as_mut().filter(|_| *known == place.generation)
    }

    fn remove(&mut self, place: Place) -> Option<Gather> {
        let (generation, gather) = &mut self.places[place.index as usize];
        *generation = generation.wrapping_add(1);
        self.free.push(place.index);
        gather.take()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    /// Whether a call waits for its share of a turn.
    pub(super) fn waits(&self) -> bool {
        !self.queue.is_empty()
    }
}

impl Core {
    /// Makes a place for an answer of which so many parts are missing. Where there is none, the
    /// asker is told so.
    pub(super) fn begin_gather(
        &mut self,
        now: Now,
        asker: Asker,
        parts: Parts,
        missing: usize,
    ) -> Option<Place> {
        if !self.gathers.has_room() {
            self.tell_asker(now, asker, Err(ErrorCode::TOO_MANY_REQUESTS));
            return None;
        }
        Some(self.gathers.insert(Gather { asker, parts, missing, queued: false }))
    }

    /// An answer of a home, or of a connection's shard.
    pub(super) fn gathered(
        &mut self,
        now: Now,
        index: u32,
        generation: u32,
        part: u32,
        answer: HomeAnswer,
    ) {
        let place = Place { index, generation };
        let Some(gather) = self.gathers.get(place) else { return };
        let refused = matches!(&answer, HomeAnswer::Failed(ErrorCode::TOO_MANY_REQUESTS));
        self.counters.publications_refused += u64::from(refused);
        gather.missing -= usize::from(gather.take(part, answer));
        self.finish_or_queue(now, place);
    }

    /// Finishes an answer that is complete; one that may begin something waits for its share.
    pub(super) fn finish_or_queue(&mut self, now: Now, place: Place) {
        let Some(gather) = self.gathers.get(place) else { return };
        if gather.may_begin() {
            if !std::mem::replace(&mut gather.queued, true) {
                self.gathers.queue.push_back(place);
            }
        } else if gather.missing == 0
            && let Some(Gather { asker, parts, .. }) = self.gathers.remove(place)
        {
            let outcome = self.outcome(now, parts);
            self.tell_asker(now, asker, outcome);
        }
    }

    /// A turn's share of what backends want; what is left waits for the next turn.
    pub(super) fn calls_share(&mut self, now: Now) {
        self.share = CALLS_PER_TURN;
        self.publish_some();
        self.settle(now);
        while self.share > 0
            && let Some(place) = self.gathers.queue.pop_front()
        {
            self.go_on(now, place);
            self.settle(now);
        }
        self.mark_behind_publications();
    }

    /// One step of a long call.
    fn go_on(&mut self, now: Now, place: Place) {
        let Some(gather) = self.gathers.get(place) else { return };
        gather.queued = false;
        match &mut gather.parts {
            Parts::Orders(orders) => {
                let room = ORDERS_IN_FLIGHT_MAX.saturating_sub(gather.missing);
                let count = orders.waiting.len().min(room).min(ORDERS_PER_STEP).min(self.share);
                let step: Vec<_> = orders.waiting.drain(..count).collect();
                gather.missing += count;
                self.share -= count;
                let (order, reply) = (Arc::clone(&orders.order), place.reply());
                for (shard, conn) in step {
                    let order = Arc::clone(&order);
                    self.to_home(shard, ToHome::Order { conn, order, reply });
                }
            }
            Parts::Batch(batch) => {
                self.share -= 1;
                match batch.commands.next() {
                    Some((command, Ok(call))) => {
                        gather.missing += 1;
                        self.call(now, Asker::Batch { batch: place, command }, call);
                    }
                    Some((command, Err(error))) => batch.replied(command, Err(error)),
                    None => {}
                }
            }
            _ => {}
        }
        self.finish_or_queue(now, place);
    }

    fn outcome(&self, now: Now, parts: Parts) -> Result<Reply, ErrorCode> {
        let lost = Err(ErrorCode::INTERNAL);
        match parts {
            Parts::One => lost,
            Parts::Whole(outcome) => outcome,
            Parts::Broadcast(outcomes) => {
                let lost = |outcome: Option<_>| outcome.unwrap_or(Err(ErrorCode::INTERNAL));
                Ok(Reply::Broadcast(outcomes.into_iter().map(lost).collect()))
            }
            Parts::Info(counts) => Ok(Reply::Info(Box::new(self.node_info(now, counts)))),
            Parts::Channels(channels) => channels.map(Reply::Channels),
            Parts::Orders(orders) => orders.finish(),
            Parts::Batch(batch) => {
                let lost = |reply: Option<_>| reply.unwrap_or(Err(ErrorCode::INTERNAL));
                Ok(Reply::Batch(batch.replies.into_iter().map(lost).collect()))
            }
        }
    }

    /// Tells who asked.
    pub(super) fn tell_asker(&mut self, now: Now, asker: Asker, outcome: Result<Reply, ErrorCode>) {
        match asker {
            Asker::Http { reply: HttpReply { conn, place, keep_alive }, form } => match form {
                Form::Api(mode) => {
                    let (status, body) = api::response(mode, &outcome);
                    self.respond(now, conn, place, keep_alive, status, &body);
                }
                Form::Metrics => {
                    let (status, body) = api::exposition(outcome);
                    let (body, kind) = (body.as_bytes(), api::EXPOSITION_TYPE);
                    let mut out = Vec::with_capacity(body.len() + 160);
                    http::write_response(&mut out, status, kind, &[], body, keep_alive);
                    self.fill_place(now, conn, place, out);
                }
            },
            Asker::Nobody => {}
            Asker::Outside(id) => {
                self.outside_answers.push((id, super::OutsideAnswer::Called(outcome)));
            }
            Asker::Batch { batch, command } => {
                let Some(gather) = self.gathers.get(batch) else { return };
                gather.missing -= 1;
                if let Parts::Batch(batch) = &mut gather.parts {
                    batch.replied(command, outcome);
                }
                self.finish_or_queue(now, batch);
            }
        }
    }
}

fn position_of(answer: HomeAnswer) -> Result<StreamPosition, ErrorCode> {
    match answer {
        HomeAnswer::Published(position) => Ok(position.map(|at| *at).unwrap_or_default()),
        HomeAnswer::Failed(error) => Err(error),
        other => unreachable!("{other:?} answers no publication"),
    }
}

fn reply_of(answer: HomeAnswer) -> Result<Reply, ErrorCode> {
    Ok(match answer {
        HomeAnswer::Presence(present) => Reply::Presence(present),
        HomeAnswer::PresenceStats { clients, users } => {
            let (num_clients, num_users) = (clients.into(), users.into());
            Reply::PresenceStats(PresenceStats { num_clients, num_users })
        }
        HomeAnswer::History(history) => Reply::History(*history),
        HomeAnswer::Done => Reply::HistoryRemove,
        other => Reply::Publish(position_of(other)?),
    })
}

const TOO_MANY_CONNECTIONS: ErrorCode = ErrorCode {
    message: "limit exceeded: more than 10000 connections",
    ..ErrorCode::LIMIT_EXCEEDED
};

const TOO_MANY_CHANNELS: ErrorCode = ErrorCode {
    message: "limit exceeded: more than 100000 channels match",
    ..ErrorCode::LIMIT_EXCEEDED
};

const TOO_LONG_A_REPLY: ErrorCode = ErrorCode {
    message: "limit exceeded: the replies of the batch are above 64 MiB; not executed",
    ..ErrorCode::LIMIT_EXCEEDED
};
