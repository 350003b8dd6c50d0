//! What a backend's call leads to: which homes and shards are asked what.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Core,
    gathers::{Asker, Batch, CALLS_PER_TURN, Orders, Parts},
};
use crate::{
    api::{Call, ConnectionsOf, Disconnect, NodeInfo, NodeMetrics, ShardInfo, Subscribe, Target},
    codes::CloseReason,
    hub::{
        Broadcast, ChannelPattern, Group, HomeAnswer, Publication, Read, ReplyTo, ShardId, ToHome,
    },
    metrics::Counts,
    protocol::{Act, ErrorCode, Name, Now, Order, Payload, PublicationExtra, Query},
};

impl Core {
    /// Begins a call; whoever asked is told what it came to.
    pub(super) fn call(&mut self, now: Now, asker: Asker, call: Call) {
        match call {
            Call::Publish { channel, data, payload, extra } => {
                self.call_publish(now, asker, channel, (data, payload), extra);
            }
            Call::Broadcast { channels, data, extra } => {
                self.call_broadcast(now, asker, channels, &data, extra);
            }
            Call::Batch { commands, parallel } => {
                let parts = Parts::Batch(Batch::new(commands, parallel));
                if let Some(place) = self.begin_gather(now, asker, parts, 0) {
                    self.finish_or_queue(now, place);
                }
            }
            Call::Subscribe(subscribe) => {
                let Subscribe { target, channel, terms, recover } = *subscribe;
                let known = self.is_known(&channel);
                let act = Act::Subscribe { channel, terms: Box::new(terms), recover };
                self.call_order(now, asker, target, act, known);
            }
            Call::Unsubscribe { target, channel } => {
                let known = channel.as_ref().is_none_or(|channel| self.is_known(channel));
                let channel = channel.unwrap_or_default();
                self.call_order(now, asker, target, Act::Unsubscribe { channel }, known);
            }
            Call::Disconnect { target, whitelist, disconnect } => {
                let default = CloseReason::FORCE_NO_RECONNECT;
                let default = || Disconnect { code: default.code, reason: default.reason.into() };
                let Disconnect { code, reason } = disconnect.unwrap_or_else(default);
                let (group, mut order) = orders_of(target, Act::Disconnect { code, reason });
                order.except = whitelist;
                self.call_group(now, asker, group, order);
            }
            Call::Refresh { target, expired, expire_at_unix_s, info } => {
                let act = Act::Refresh { expired, expire_at_unix_s, info };
                self.call_order(now, asker, target, act, true);
            }
            Call::Presence { channel } => self.call_read(now, asker, channel, Query::Presence),
            Call::PresenceStats { channel } => {
                self.call_read(now, asker, channel, Query::PresenceStats);
            }
            Call::History { channel, filter } => {
                self.call_read(now, asker, channel, Query::History(filter));
            }
            Call::HistoryRemove { channel } => {
                self.call_read(now, asker, channel, Query::RemoveHistory);
            }
            Call::Channels { pattern } => self.call_channels(now, asker, pattern),
            Call::Connections(of) => {
                let group = match of {
                    ConnectionsOf::Channel(channel) if !self.is_known(&channel) => {
                        self.tell_asker(now, asker, Err(ErrorCode::UNKNOWN_CHANNEL));
                        return;
                    }
                    ConnectionsOf::Channel(channel) => Group::Channel(channel),
                    ConnectionsOf::User(user) => group_of(user),
                };
                let order = Order::to_all(Act::Describe);
                self.call_group(now, asker, group, order);
            }
            Call::Info => self.call_info(now, asker),
        }
    }

    /// Whether the channel's namespace exists.
    fn is_known(&self, channel: &str) -> bool {
        self.process.settings.policy.channels.options(channel).is_some()
    }

    fn call_publish(
        &mut self,
        now: Now,
        asker: Asker,
        channel: Name,
        (data, payload): (Bytes, Payload),
        extra: PublicationExtra,
    ) {
        if let Some(error) = self.publish_refusal(&channel) {
            self.tell_asker(now, asker, Err(error));
            return;
        }
        let home = self.home_of(&channel);
        let extra = Some(extra).filter(|extra| *extra != PublicationExtra::default());
        let extra = extra.map(Box::new);
        let publication = Box::new(Publication { channel, data, payload, info: None, extra });
        let Some(place) = self.begin_gather(now, asker, Parts::One, 1) else { return };
        let reply = place.reply();
        self.later.push_back((home, ToHome::Publish { publication, reply }));
        self.publish_some();
    }

    /// One request per home with all of its channels; outcomes are placed by their number.
    fn call_broadcast(
        &mut self,
        now: Now,
        asker: Asker,
        channels: Vec<Result<Name, ErrorCode>>,
        data: &Bytes,
        extra: PublicationExtra,
    ) {
        let mut outcomes = vec![None; channels.len()];
        let mut by_home: Vec<Vec<(u32, Name)>> = vec![Vec::new(); self.process.shards];
        for (part, channel) in channels.into_iter().enumerate() {
            let admitted = channel.and_then(|channel| match self.publish_refusal(&channel) {
                Some(error) => Err(error),
                None => Ok(channel),
            });
            match admitted {
                Err(error) => outcomes[part] = Some(Err(error)),
                Ok(channel) => {
                    by_home[usize::from(self.home_of(&channel))].push((part as u32, channel));
                }
            }
        }
        let missing = outcomes.iter().filter(|outcome| outcome.is_none()).count();
        let parts = Parts::Broadcast(outcomes);
        let Some(place) = self.begin_gather(now, asker, parts, missing) else { return };
        let extra = Some(extra).filter(|extra| *extra != PublicationExtra::default());
        let reply = place.reply();
        for (home, channels) in by_home.into_iter().enumerate() {
            for channels in channels.chunks(CALLS_PER_TURN) {
                let (data, extra) = (data.clone(), extra.clone());
                let broadcast = Box::new(Broadcast { channels: channels.to_vec(), data, extra });
                let message = ToHome::Broadcast { broadcast, reply };
                self.later.push_back((home as ShardId, message));
            }
        }
        self.publish_some();
        self.finish_or_queue(now, place);
    }

    /// Goes on with what backends publish, in order, as far as this turn's share allows.
    pub(super) fn publish_some(&mut self) {
        while self.share > 0
            && let Some((home, message)) = self.later.pop_front()
        {
            let channels = match &message {
                ToHome::Broadcast { broadcast, .. } => broadcast.channels.len(),
                _ => 1,
            };
            self.share = self.share.saturating_sub(channels);
            if self.congestion.is_full(home) {
                self.refuse_later(message);
            } else {
                self.to_home(home, message);
            }
        }
    }

    /// Refuses what a backend publishes: the link to its home has become full since it was admitted.
    fn refuse_later(&mut self, message: ToHome) {
        let replies = match message {
            ToHome::Publish { reply, .. } => vec![reply],
            ToHome::Broadcast { broadcast, reply: ReplyTo::Gather { index, generation, .. } } => {
                let parts = broadcast.channels.iter().map(|(part, _)| *part);
                parts.map(|part| ReplyTo::Gather { index, generation, part }).collect()
            }
            other => unreachable!("{other:?} waits for no turn"),
        };
        for reply in replies {
            let refused = HomeAnswer::Failed(ErrorCode::TOO_MANY_REQUESTS);
            self.reply(self.shard, reply, refused);
        }
    }

    fn call_read(&mut self, now: Now, asker: Asker, channel: Name, query: Query) {
        let Some(place) = self.begin_gather(now, asker, Parts::One, 1) else { return };
        let (home, reply) = (self.home_of(&channel), place.reply());
        self.to_home(home, ToHome::Read(Box::new(Read { channel, query, reply })));
    }

    fn call_order(&mut self, now: Now, asker: Asker, target: Target, act: Act, known: bool) {
        if !known {
            self.tell_asker(now, asker, Err(ErrorCode::UNKNOWN_CHANNEL));
            return;
        }
        let (group, order) = orders_of(target, act);
        self.call_group(now, asker, group, order);
    }

    /// Has every connection of a group told what to do: a user's home knows who they are; of a channel,
    /// and of nobody, each shard its own.
    fn call_group(&mut self, now: Now, asker: Asker, group: Group, order: Order) {
        let shards = match &group {
            Group::User(user) => {
                let home = self.home_of(user);
                home..home + 1
            }
            Group::Anonymous | Group::Channel(_) => 0..self.process.shards as ShardId,
        };
        let parts = Parts::Orders(Orders::new(order));
        let Some(place) = self.begin_gather(now, asker, parts, shards.len()) else { return };
        let reply = place.reply();
        for shard in shards {
            self.to_home(shard, ToHome::Connections { of: group.clone(), reply });
        }
    }

    fn call_channels(&mut self, now: Now, asker: Asker, pattern: Option<ChannelPattern>) {
        let (parts, shards) = (Parts::Channels(Ok(Default::default())), self.process.shards);
        let Some(place) = self.begin_gather(now, asker, parts, shards) else { return };
        for shard in 0..shards {
            let (pattern, reply) = (pattern.clone().map(Arc::new), place.reply());
            self.to_home(shard as ShardId, ToHome::Channels { pattern, reply });
        }
    }

    fn call_info(&mut self, now: Now, asker: Asker) {
        let shards = self.process.shards;
        let parts = Parts::Info(Vec::new());
        let Some(place) = self.begin_gather(now, asker, parts, shards) else { return };
        for shard in 0..shards {
            self.to_home(shard as ShardId, ToHome::Count { reply: place.reply() });
        }
    }

    pub(super) fn node_info(&self, now: Now, mut counts: Vec<Counts>) -> NodeInfo {
        counts.sort_by_key(|counts| counts.shard);
        let mut metrics = NodeMetrics::default();
        for counts in &counts {
            metrics.counters.add(&counts.counters);
            metrics.leases += counts.leases;
            metrics.watch_streams += counts.watch_streams;
            for (code, closed) in &counts.closed {
                *metrics.closed.entry(*code).or_default() += *closed;
            }
        }
        let started_ms = self.process.started.monotonic_ms;
        let uptime = Duration::from_millis(now.monotonic_ms.saturating_sub(started_ms));
        let sum = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
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
            metrics,
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

/// Whom a target means, and what they are told.
fn orders_of(Target { user, client, session }: Target, act: Act) -> (Group, Order) {
    (group_of(user), Order { client, session, ..Order::to_all(act) })
}

/// The empty user is nobody's, and so are all connections without one together.
fn group_of(user: Name) -> Group {
    if user.is_empty() { Group::Anonymous } else { Group::User(user) }
}
