//! Answers that several homes give: calls of the HTTP API and of threads that are no shard.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::Core;
use crate::{
    api::{
        self, Call, ErrorMode, NodeInfo, NodeMetrics, PublishOptions, Reply, ShardInfo,
        watch::{WatchAnswer, WatchCall},
    },
    auth::{Devices, Verdict},
    close::CloseReason,
    hub::{
        Broadcast, Caller, ConnRef, HomeAnswer, HttpReply, Publication, ReplyTo, ShardId, ToHome,
    },
    limits::{GENERATION_FIRST, REQUESTS_IN_FLIGHT_MAX, bound},
    metrics::{Counters, Counts},
    protocol::{Effect, ErrorCode, Name, Now, Payload, handler::ConnectionRef},
    proxy::BackendAnswer,
};

pub use crate::api::Outcome;

/// Channels that one turn publishes to for backends; what is more waits for the next turns.
pub(super) const CHANNELS_PER_TURN: usize = bound(1_024, 2);

/// What a thread that is no shard asks for.
#[derive(Debug)]
pub enum OutsideCall {
    /// Publish. Answer: [`OutsideAnswer::Published`].
    Publish {
        /// The channel.
        channel: Name,
        /// The payload.
        data: Bytes,
        /// What the payload is.
        payload: Payload,
    },
    /// Describe the node. Answer: [`OutsideAnswer::Info`].
    Info,
    /// Something about devices. Answer: [`OutsideAnswer::Watch`].
    Watch(WatchCall),
    /// Send a message to a connection of this shard; no answer, the connection may be gone.
    Send {
        /// The connection.
        connection: ConnectionRef,
        /// The message.
        data: Bytes,
        /// Whether it is text.
        text: bool,
    },
    /// Device tokens are looked up here from now on; no answer. Streams go on: the next heartbeat of a
    /// device whose token is nobody's any more is told so.
    Devices(Arc<Devices>),
    /// What a backend said of a token; no answer.
    Verified {
        /// As in the [`Lookup`](super::Lookup).
        id: u64,
        /// What.
        verdict: Verdict,
    },
    /// What the backend said to a [`Question`](super::Question); no answer.
    Answered {
        /// As in the question.
        id: u64,
        /// What.
        answer: BackendAnswer,
    },
    /// Close a connection of this shard; no answer.
    Close {
        /// The connection.
        connection: ConnectionRef,
        /// Why.
        reason: CloseReason,
    },
}

/// What a thread that is no shard is told.
#[derive(Debug)]
pub enum OutsideAnswer {
    /// What became of the publication.
    Published(Outcome),
    /// The node.
    Info(Box<NodeInfo>),
    /// What was asked about devices.
    Watch(WatchAnswer),
}

/// Who waits for a gathered answer.
#[derive(Debug)]
enum Asker {
    Http { reply: HttpReply, mode: ErrorMode },
    Outside(u64),
}

#[derive(Debug)]
enum Parts {
    Publish(Option<Outcome>),
    Broadcast(Vec<Option<Outcome>>),
    Info(Vec<Counts>),
}

#[derive(Debug)]
struct Gather {
    asker: Asker,
    parts: Parts,
    missing: usize,
}

/// The bounded table of answers that are not complete.
#[derive(Debug, Default)]
pub(super) struct Gathers {
    places: Vec<(u32, Option<Gather>)>,
    free: Vec<u32>,
}

impl Gathers {
    fn has_room(&self) -> bool {
        self.places.len() - self.free.len() < REQUESTS_IN_FLIGHT_MAX
    }

    fn insert(&mut self, gather: Gather) -> ReplyTo {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push((GENERATION_FIRST, None));
            (self.places.len() - 1) as u32
        });
        let (generation, place) = &mut self.places[index as usize];
        *place = Some(gather);
        ReplyTo::Gather { index, generation: *generation, part: 0 }
    }

    fn get(&mut self, index: u32, generation: u32) -> Option<&mut Gather> {
        let (known, gather) = self.places.get_mut(index as usize)?;
        gather.as_mut().filter(|_| *known == generation)
    }

    fn remove(&mut self, index: u32) -> Option<Gather> {
        let (generation, gather) = &mut self.places[index as usize];
        *generation = generation.wrapping_add(1);
        self.free.push(index);
        gather.take()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }
}

impl Core {
    /// Begins what a backend asked over HTTP; the answer takes `place`.
    pub(super) fn call(&mut self, now: Now, reply: HttpReply, mode: ErrorMode, call: Call) {
        let asker = Asker::Http { reply, mode };
        match call {
            Call::Publish { channel, data, options } if is_plain(&options) => {
                self.gather_publish(now, asker, channel, data, Payload::Json);
            }
            Call::Broadcast { channels, data, options } if is_plain(&options) => {
                self.gather_broadcast(now, asker, channels, &data);
            }
            Call::Info => self.gather_info(now, asker),
            _ => {
                let error = Outcome::Failed(ErrorCode::NOT_AVAILABLE);
                self.finish_gather(now, asker, Parts::Publish(Some(error)));
            }
        }
    }

    pub(super) fn call_from_outside(&mut self, now: Now, id: u64, call: OutsideCall) {
        match call {
            OutsideCall::Publish { channel, data, payload } => {
                self.gather_publish(now, Asker::Outside(id), channel, data, payload);
            }
            OutsideCall::Info => self.gather_info(now, Asker::Outside(id)),
            OutsideCall::Watch(call) => self.watch_call(now, Caller::Outside(id), call),
            OutsideCall::Send { connection, data, text } => {
                let bytes = data.to_vec();
                let effect = if text { Effect::Reply(bytes) } else { Effect::Binary(bytes) };
                self.run(now, own(connection), &mut vec![effect]);
            }
            OutsideCall::Devices(devices) => self.watch.devices = Some(devices),
            OutsideCall::Verified { id, verdict } => self.verified(now, id, verdict),
            OutsideCall::Answered { id, answer } => self.backend_answered(now, id, answer),
            OutsideCall::Close { connection, reason } => self.close(now, own(connection), reason),
        }
    }

    fn gather_publish(
        &mut self,
        now: Now,
        asker: Asker,
        channel: Name,
        data: Bytes,
        payload: Payload,
    ) {
        if let Some(error) = self.publish_refusal(&channel) {
            self.finish_gather(now, asker, Parts::Publish(Some(Outcome::Failed(error))));
            return;
        }
        let home = self.home_of(&channel);
        let publication = Box::new(Publication { channel, data, payload, info: None, extra: None });
        let parts = Parts::Publish(None);
        let Some(reply) = self.begin_gather(now, asker, parts, 1) else { return };
        self.later.push_back((home, ToHome::Publish { publication, reply }));
        self.publish_some();
    }

    /// One request per home with all of its channels; outcomes are placed by their number.
    fn gather_broadcast(
        &mut self,
        now: Now,
        asker: Asker,
        channels: Vec<Result<Name, ErrorCode>>,
        data: &Bytes,
    ) {
        let mut outcomes = vec![None; channels.len()];
        let mut by_home: Vec<Vec<(u32, Name)>> = vec![Vec::new(); self.process.shards];
        for (part, channel) in channels.into_iter().enumerate() {
            let admitted = channel.and_then(|channel| match self.publish_refusal(&channel) {
                Some(error) => Err(error),
                None => Ok(channel),
            });
            match admitted {
                Err(error) => outcomes[part] = Some(Outcome::Failed(error)),
                Ok(channel) => {
                    by_home[usize::from(self.home_of(&channel))].push((part as u32, channel));
                }
            }
        }
        let missing = outcomes.iter().filter(|outcome| outcome.is_none()).count();
        if missing == 0 {
            self.finish_gather(now, asker, Parts::Broadcast(outcomes));
            return;
        }
        let parts = Parts::Broadcast(outcomes);
        let Some(reply) = self.begin_gather(now, asker, parts, missing) else { return };
        for (home, channels) in by_home.into_iter().enumerate() {
            for channels in channels.chunks(CHANNELS_PER_TURN) {
                let data = data.clone();
                let broadcast =
                    Box::new(Broadcast { channels: channels.to_vec(), data, extra: None });
                let message = ToHome::Broadcast { broadcast, reply };
                self.later.push_back((home as ShardId, message));
            }
        }
        self.publish_some();
    }

    /// Goes on with what backends publish, in order, as far as this turn's share allows.
    fn publish_some(&mut self) {
        while self.share > 0
            && let Some((home, message)) = self.later.pop_front()
        {
            let channels = match &message {
                ToHome::Broadcast { broadcast, .. } => broadcast.channels.len(),
                _ => 1,
            };
            self.share = self.share.saturating_sub(channels);
            self.to_home(home, message);
        }
    }

    /// A turn's share of what backends publish; returns whether more is left for the next turn.
    pub(super) fn publish_share(&mut self, now: Now) -> bool {
        self.share = CHANNELS_PER_TURN;
        self.publish_some();
        self.settle(now);
        self.mark_behind_publications();
        !self.later.is_empty()
    }

    fn gather_info(&mut self, now: Now, asker: Asker) {
        let shards = self.process.shards;
        let Some(reply) = self.begin_gather(now, asker, Parts::Info(Vec::new()), shards) else {
            return;
        };
        for shard in 0..shards {
            self.to_home(shard as ShardId, ToHome::Count { reply });
        }
    }

    fn begin_gather(
        &mut self,
        now: Now,
        asker: Asker,
        parts: Parts,
        missing: usize,
    ) -> Option<ReplyTo> {
        if self.gathers.has_room() {
            return Some(self.gathers.insert(Gather { asker, parts, missing }));
        }
        let error = Outcome::Failed(ErrorCode::TOO_MANY_REQUESTS);
        self.finish_gather(now, asker, Parts::Publish(Some(error)));
        None
    }

    pub(super) fn gathered(
        &mut self,
        now: Now,
        index: u32,
        generation: u32,
        part: u32,
        answer: HomeAnswer,
    ) {
        let Some(gather) = self.gathers.get(index, generation) else { return };
        gather.missing -= 1;
        self.counters.publications_refused += u64::from(matches!(answer, HomeAnswer::Failed(_)));
        match (&mut gather.parts, answer) {
            (Parts::Publish(outcome), answer) => *outcome = Some(outcome_of(&answer)),
            (Parts::Broadcast(outcomes), answer) => {
                outcomes[part as usize] = Some(outcome_of(&answer));
            }
            (Parts::Info(counts), HomeAnswer::Counts(of_shard)) => counts.push(*of_shard),
            (Parts::Info(_), _) => unreachable!("info asks for counts"),
        }
        if gather.missing == 0
            && let Some(Gather { asker, parts, .. }) = self.gathers.remove(index)
        {
            self.finish_gather(now, asker, parts);
        }
    }

    fn finish_gather(&mut self, now: Now, asker: Asker, parts: Parts) {
        let lost = Outcome::Failed(ErrorCode::INTERNAL);
        let published = |outcome: Option<Outcome>| outcome.unwrap_or(lost).result();
        match (asker, parts) {
            (Asker::Http { reply, mode }, parts) => {
                let outcome = match parts {
                    Parts::Publish(outcome) => published(outcome).map(Reply::Publish),
                    Parts::Broadcast(outcomes) => {
                        Ok(Reply::Broadcast(outcomes.into_iter().map(published).collect()))
                    }
                    Parts::Info(counts) => Ok(Reply::Info(Box::new(self.node_info(now, counts)))),
                };
                let HttpReply { conn, place, keep_alive } = reply;
                let (status, body) = api::response(mode, &outcome);
                self.respond(now, conn, place, keep_alive, status, &body);
            }
            (Asker::Outside(id), Parts::Publish(outcome)) => {
                let answer = OutsideAnswer::Published(outcome.unwrap_or(lost));
                self.outside_answers.push((id, answer));
            }
            (Asker::Outside(id), Parts::Info(counts)) => {
                let info = Box::new(self.node_info(now, counts));
                self.outside_answers.push((id, OutsideAnswer::Info(info)));
            }
            (Asker::Outside(_), Parts::Broadcast(_)) => {
                unreachable!("threads publish to one channel at a time")
            }
        }
    }

    fn node_info(&self, now: Now, mut counts: Vec<Counts>) -> NodeInfo {
        counts.sort_by_key(|counts| counts.shard);
        let mut totals = Counters::default();
        counts.iter().for_each(|counts| totals.add(&counts.counters));
        let mut items: std::collections::BTreeMap<String, f64> =
            totals.items().into_iter().map(|(name, value)| (name.into(), value as f64)).collect();
        for (code, closed) in counts.iter().flat_map(|counts| &counts.closed) {
            *items.entry(format!("connections_closed_{code}")).or_default() += *closed as f64;
        }
        let started_ms = self.process.started.monotonic_ms;
        let uptime = Duration::from_millis(now.monotonic_ms.saturating_sub(started_ms));
        let sum = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
        items.insert("leases".into(), sum(|counts| counts.leases) as f64);
        items.insert("watch_streams".into(), sum(|counts| counts.watch_streams) as f64);
        NodeInfo {
            uid: self.process.uid.clone(),
            name: self.process.settings.node_name.clone(),
            version: self.process.settings.policy.version.clone(),
            num_clients: sum(|counts| counts.clients),
            num_users: sum(|counts| counts.users)
                + u64::from(counts.iter().any(|counts| counts.anonymous)),
            num_subs: sum(|counts| counts.subscriptions),
            num_channels: sum(|counts| counts.channels),
            uptime_s: uptime.as_secs(),
            metrics: NodeMetrics { interval_s: 0.0, items },
            process: (self.process.settings.process_stats)(uptime),
            shards: counts
                .iter()
                .map(|counts| ShardInfo {
                    num_clients: counts.clients,
                    num_subs: counts.subscriptions,
                    num_channels: counts.channels,
                })
                .collect(),
        }
    }
}

fn outcome_of(answer: &HomeAnswer) -> Outcome {
    match answer {
        HomeAnswer::Failed(error) => Outcome::Failed(*error),
        _ => Outcome::Published,
    }
}

/// Whether the home can publish with them. What it would ignore is refused instead: clients would
/// miss tags, or see a publication twice. Without histories there is none to skip.
fn is_plain(options: &PublishOptions) -> bool {
    options.tags.is_empty() && options.idempotency_key.is_none() && options.version.is_none()
}

fn own(connection: ConnectionRef) -> ConnRef {
    ConnRef { slot: connection.slot, generation: connection.generation }
}
