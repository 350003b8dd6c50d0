//! The truth of the channels and users that live on this shard.
//!
//! Everything is applied in the order in which it arrived and answered in the order in which it
//! was applied. The home never joins publications: whoever delivers does.

use std::sync::Arc;

use super::{
    Broadcast, Congestion, ConnRef, Format, FromHome, Handling, HashKey, HomeAnswer, Join, Kind,
    Publication, Published, Reach, Read, ReplyTo, ShardId, SubRef, ToHome,
    channel::Channel,
    directory::Directory,
    encode,
    idempotency::Idempotency,
    roster::Change,
    streams::{
        HistoryFilter as Filter, HistoryOptions, Placement, Position, RecoveryBounds, Since,
        StreamCounts, Streams, Version,
    },
    users::Users,
};
use crate::{
    channels::{ChannelOptions, Channels, RecoveryMode, SlowConsumer},
    frame::Frame,
    limits::IDEMPOTENT_ANSWERS_PER_SHARD_MAX,
    mutations::{self, Mutation},
    protocol::{
        Begin, ErrorCode, History, HistoryFilter, MemberInfo, Name, Payload, PublicationExtra,
        Query, Recovered, StreamPosition,
    },
};

/// What a home is told once.
#[derive(Clone, Debug)]
pub struct HomeSettings {
    /// What holds in which channel.
    pub channels: Arc<Channels>,
    /// Connections of one user; `None`: without a bound.
    pub user_connections_max: Option<usize>,
    /// Bytes of all histories of this home.
    pub history_bytes_max: usize,
    /// What one subscribe may recover: bytes below what a connection's queue holds, or recovery
    /// would close the client, which would recover, for ever.
    pub recovery: RecoveryBounds,
    /// Begins the epochs of this process: no other process has the same.
    pub epoch_prefix: Arc<str>,
    /// Whether the backend is told of channels that become occupied or vacated, as far as their
    /// options say so.
    pub notices: bool,
}

/// A channel got its first subscriber, or lost its last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Which.
    pub channel: Name,
    /// It has subscribers now.
    pub occupied: bool,
}

/// Channels and users of this home.
#[derive(Debug)]
pub struct Home {
    settings: HomeSettings,
    directory: Directory,
    streams: Streams,
    idempotency: Idempotency,
    users: Users,
    notices: Vec<Notice>,
    frames_encoded: u64,
    memberships_dropped: u64,
}

type Out = Vec<(ShardId, FromHome)>;

impl Home {
    /// An empty home.
    pub fn new(key: HashKey, shard: ShardId, settings: HomeSettings) -> Self {
        let prefix = Arc::clone(&settings.epoch_prefix);
        Self {
            directory: Directory::new(key),
            streams: Streams::new(key, shard, prefix, settings.history_bytes_max),
            idempotency: Idempotency::new(key, IDEMPOTENT_ANSWERS_PER_SHARD_MAX),
            users: Users::new(key),
            notices: Vec::new(),
            frames_encoded: 0,
            memberships_dropped: 0,
            settings,
        }
    }

    /// Applies one message of shard `from`; what follows from it goes to `out` in order.
    ///
    /// What concerns a whole shard and not its home never comes here.
    pub fn apply(
        &mut self,
        now_ms: u64,
        from: ShardId,
        message: ToHome,
        congestion: &Congestion,
        out: &mut Out,
    ) {
        match message {
            ToHome::Join(join) => self.join(now_ms, from, &join, congestion, out),
            ToHome::Leave { channel, sub, format } => {
                self.leave(now_ms, from, (&channel, sub, format), congestion, out);
            }
            ToHome::Renew { channel, sub, member } => {
                if let Some(channel) = self.directory.get_mut(&channel)
                    && let Some(roster) = &mut channel.roster
                    && !mutations::is_on(Mutation::KeepsFormerInfo)
                {
                    roster.renew(from, sub, member);
                }
            }
            ToHome::Publish { publication, reply } => {
                let answer = self.publish(now_ms, (&publication, None), reply, congestion, out);
                if reply != ReplyTo::Nobody {
                    out.push((from, FromHome::Answer { reply, answer }));
                }
            }
            ToHome::PublishHandled { handled, reply } => {
                let publication = (&handled.publication, Some(handled.handling));
                let answer = self.publish(now_ms, publication, reply, congestion, out);
                out.push((from, FromHome::Answer { reply, answer }));
            }
            ToHome::Broadcast { broadcast, reply } => {
                self.broadcast(now_ms, from, *broadcast, reply, congestion, out);
            }
            ToHome::Read(read) => {
                let Read { channel, query, reply } = *read;
                let answer = self.read(now_ms, &channel, &query);
                out.push((from, FromHome::Answer { reply, answer }));
            }
            ToHome::UserJoin { user, conn, reply } => {
                let known = self.users.join(user, from, conn, self.settings.user_connections_max);
                let answer = if known {
                    HomeAnswer::Registered
                } else {
                    HomeAnswer::Failed(ErrorCode::LIMIT_EXCEEDED)
                };
                out.push((from, FromHome::Answer { reply, answer }));
            }
            ToHome::UserLeave { user, conn } => {
                if !mutations::is_on(Mutation::KeepsGoneUser) {
                    self.users.leave(&user, from, conn);
                }
            }
            ToHome::Channels { .. }
            | ToHome::Connections { .. }
            | ToHome::Order { .. }
            | ToHome::Direct(_)
            | ToHome::Count { .. }
            | ToHome::Lease(_)
            | ToHome::Marker(_) => unreachable!("the core answers these"),
        }
    }

    /// What holds in a channel; `None` when its namespace does not exist.
    fn options(&self, channel: &str) -> Option<Arc<ChannelOptions>> {
        match self.directory.get(channel) {
            Some(known) => Some(Arc::clone(&known.options)),
            None => self.settings.channels.options(channel).cloned(),
        }
    }

    fn join(
        &mut self,
        now_ms: u64,
        shard: ShardId,
        join: &Join,
        congestion: &Congestion,
        out: &mut Out,
    ) {
        let Some(options) = self.options(&join.channel) else {
            let (sub, error) = (join.sub, ErrorCode::UNKNOWN_CHANNEL);
            out.push((shard, FromHome::Refused { sub, error }));
            return;
        };
        let channel = self.directory.enter(&join.channel, &options);
        let full = options.max_subscribers.is_some_and(|max| {
            let max = max.get() + usize::from(mutations::is_on(Mutation::AdmitsSubscriber));
            usize::try_from(channel.subscribers()).is_ok_and(|present| present >= max)
        });
        let first = channel.interest.is_empty();
        // A refused attempt counts until its leave, which follows at once: who counts need not
        // know which is which.
        channel.join(shard, join.local, join.format);
        if first {
            if options.has_history() {
                let history = self.history_options(&options);
                self.streams.pin(now_ms, &join.channel, history);
            }
            if self.settings.notices && options.state_proxy_enabled {
                let channel = Name::clone(&join.channel);
                self.notices.push(Notice { channel, occupied: true });
            }
        }
        if full {
            let (sub, error) = (join.sub, ErrorCode::LIMIT_EXCEEDED);
            out.push((shard, FromHome::Refused { sub, error }));
            return;
        }
        let begin = self.begin(now_ms, join, &options);
        out.push((shard, FromHome::Granted { sub: join.sub, begin }));
        if let Some(info) = &join.member
            && (join.wants.presence || join.wants.join_leave)
            && let Some(channel) = self.directory.get_mut(&join.channel)
        {
            let change =
                channel.roster.get_or_insert_default().join(shard, join.sub, join.wants, info);
            self.announce(&join.channel, true, change, congestion, out);
        }
    }

    /// Where a subscription begins, if it wants to know and the channel has a stream.
    fn begin(&mut self, now_ms: u64, join: &Join, options: &ChannelOptions) -> Option<Box<Begin>> {
        let wants = join.wants;
        if !options.has_history() || !(wants.position || wants.recovery) {
            return None;
        }
        let history = self.history_options(options);
        let (channel, streams) = (&join.channel, &mut self.streams);
        let (position, recovered) = match &join.recover {
            Some(since) if wants.recovery => {
                let since = Since { offset: since.offset, epoch: &since.epoch };
                let mode = if wants.cache { RecoveryMode::Cache } else { RecoveryMode::Stream };
                let bounds = self.settings.recovery;
                let found = streams.recover(now_ms, channel, history, since, mode, bounds);
                let recovered = match found.entries {
                    Some(entries) => {
                        let left = usize::from(mutations::is_on(Mutation::RecoversTooLittle));
                        let bytes = entries.into_iter().skip(left).map(|entry| entry.bytes);
                        Recovered::All(bytes.collect())
                    }
                    None => Recovered::Not,
                };
                (found.position, recovered)
            }
            _ => (streams.position(now_ms, channel, history), Recovered::NotAsked),
        };
        let mut position = self.told(position);
        if mutations::is_on(Mutation::DatesGrantBack) {
            position.offset = position.offset.saturating_sub(1);
        }
        Some(Box::new(Begin { position, recovered }))
    }

    fn leave(
        &mut self,
        now_ms: u64,
        shard: ShardId,
        (name, sub, format): (&Name, SubRef, Format),
        congestion: &Congestion,
        out: &mut Out,
    ) {
        let Some(channel) = self.directory.get_mut(name) else { return };
        channel.leave(shard, format);
        let mut change = None;
        if let Some(roster) = &mut channel.roster
            && !mutations::is_on(Mutation::KeepsGonePresent)
        {
            change = roster.leave(shard, sub);
            if roster.is_empty() {
                channel.roster = None;
            }
        }
        if channel.interest.is_empty() {
            let notice = self.settings.notices && channel.options.state_proxy_enabled;
            if channel.options.has_history() {
                self.streams.unpin(now_ms, name);
            }
            self.directory.remove(name);
            if notice {
                self.notices.push(Notice { channel: Name::clone(name), occupied: false });
            }
            return;
        }
        if !mutations::is_on(Mutation::HidesLeaves) {
            self.announce(name, false, change, congestion, out);
        }
    }

    /// Tells a channel's subscribers who came or went. Nobody waits for room: who is there can be
    /// asked at any time.
    fn announce(
        &mut self,
        name: &Name,
        came: bool,
        change: Option<Change>,
        congestion: &Congestion,
        out: &mut Out,
    ) {
        let (Some(Change { info, of_user }), Some(channel)) = (change, self.directory.get(name))
        else {
            return;
        };
        if channel.options.join_leave_by_user && !of_user {
            return;
        }
        let frames = [Some(encode::membership(name, came, &info.json)), None];
        let published = Arc::new(Published {
            kind: Kind::Membership,
            sequence: 0,
            position: None,
            frames,
            epoch: None,
            payload: Payload::Json,
            key: None,
            handling: None,
        });
        self.frames_encoded += 1;
        for interest in &channel.interest {
            if congestion.is_full(interest.shard) {
                self.memberships_dropped += 1;
                continue;
            }
            let published = Arc::clone(&published);
            out.push((interest.shard, FromHome::Published { local: interest.local, published }));
        }
    }

    fn broadcast(
        &mut self,
        now_ms: u64,
        from: ShardId,
        broadcast: Broadcast,
        reply: ReplyTo,
        congestion: &Congestion,
        out: &mut Out,
    ) {
        let ReplyTo::Gather { index, generation, .. } = reply else {
            unreachable!("a broadcast is gathered");
        };
        let Broadcast { channels, data, extra } = broadcast;
        for (part, channel) in channels {
            let (data, extra) = (data.clone(), extra.clone().map(Box::new));
            let publication =
                Publication { channel, data, payload: Payload::Json, info: None, extra };
            let reply = ReplyTo::Gather { index, generation, part };
            let answer = self.publish(now_ms, (&publication, None), reply, congestion, out);
            out.push((from, FromHome::Answer { reply, answer }));
        }
    }

    /// Without a history all or nothing: where one interested shard cannot take it, the publisher
    /// is told instead. With one it is kept, and a shard that cannot take it is told of a gap.
    fn publish(
        &mut self,
        now_ms: u64,
        (publication, handling): (&Publication, Option<Handling>),
        reply: ReplyTo,
        congestion: &Congestion,
        out: &mut Out,
    ) -> HomeAnswer {
        let name = &publication.channel;
        let Some(options) = self.options(name) else {
            return HomeAnswer::Failed(ErrorCode::UNKNOWN_CHANNEL);
        };
        let extra = publication.extra.as_deref();
        let key = extra.and_then(|extra| extra.idempotency_key.as_ref());
        if let Some(position) = key.and_then(|key| self.idempotency.answer(now_ms, name, key)) {
            return self.published(position, reply);
        }
        let kept = options.has_history() && !extra.is_some_and(|extra| extra.skip_history);
        if !kept && self.is_congested(name, congestion) {
            return HomeAnswer::Failed(ErrorCode::TOO_MANY_REQUESTS);
        }
        let (frame, placement) = self.place(now_ms, publication, &options, kept);
        let position = match placement {
            Some(Placement::New(position) | Placement::Suppressed(position)) => Some(position),
            None => None,
        };
        let mut reach = Reach::default();
        if !matches!(placement, Some(Placement::Suppressed(_))) {
            if let Some(key) = key {
                self.idempotency.remember(now_ms, name, key, position);
            }
            let publication = (publication, handling);
            reach = self.distribute(publication, frame, position, congestion, out);
        }
        match reply {
            ReplyTo::Direct { .. } => HomeAnswer::Distributed(reach),
            _ => self.published(position, reply),
        }
    }

    /// A backend learns where its publication is; a client does not.
    fn published(&self, position: Option<Position>, reply: ReplyTo) -> HomeAnswer {
        match reply {
            ReplyTo::Gather { .. } => {
                HomeAnswer::Published(position.map(|position| Box::new(self.told(position))))
            }
            _ => HomeAnswer::Published(None),
        }
    }

    fn told(&self, position: Position) -> StreamPosition {
        let epoch = Name::from(position.epoch.text(&self.settings.epoch_prefix));
        StreamPosition { offset: position.offset, epoch }
    }

    fn is_congested(&self, channel: &str, congestion: &Congestion) -> bool {
        self.directory.get(channel).is_some_and(|channel| {
            channel.interest.iter().any(|interest| congestion.is_full(interest.shard))
        })
    }

    /// Gives a publication its place in the stream, if it is to have one, and encodes it for
    /// Centrifuge clients if anybody or the stream wants that.
    fn place(
        &mut self,
        now_ms: u64,
        publication: &Publication,
        options: &ChannelOptions,
        kept: bool,
    ) -> (Option<Frame>, Option<Placement>) {
        let name = &publication.channel;
        if !kept {
            let wanted = self.directory.get(name).is_some_and(|channel| channel.wanted()[0]);
            self.frames_encoded += u64::from(wanted);
            return (wanted.then(|| encode::centrifuge(publication, None).0), None);
        }
        let history = self.history_options(options);
        let version =
            publication.extra.as_deref().map_or(Version { number: 0, epoch: "" }, |extra| {
                Version { number: extra.version, epoch: &extra.version_epoch }
            });
        let prefix = &self.settings.epoch_prefix;
        let mut encoded = None;
        let placement = self.streams.publish(now_ms, name, history, version, |position| {
            let (frame, object) = encode::centrifuge(publication, Some((position, prefix)));
            let entry = frame.part(object);
            encoded = Some(frame);
            entry
        });
        self.frames_encoded += u64::from(encoded.is_some());
        (encoded, Some(placement))
    }

    /// Sends a publication to all who are interested.
    fn distribute(
        &mut self,
        (publication, handling): (&Publication, Option<Handling>),
        frame: Option<Frame>,
        position: Option<Position>,
        congestion: &Congestion,
        out: &mut Out,
    ) -> Reach {
        let mut reach = Reach::default();
        let Some(channel) = self.directory.get_mut(&publication.channel) else { return reach };
        channel.sequence += 1;
        let plain = channel.wanted()[Format::Plain as usize].then(|| encode::plain(publication));
        self.frames_encoded += u64::from(plain.is_some());
        let epoch = position
            .filter(|_| plain.is_some())
            .map(|position| Name::from(position.epoch.text(&self.settings.epoch_prefix)));
        let published = Arc::new(Published {
            kind: Kind::Publication,
            sequence: channel.sequence,
            position,
            frames: [frame, plain],
            epoch,
            payload: publication.payload,
            key: conflation_key(&channel.options, publication.extra.as_deref()),
            handling: handling.map(Box::new),
        });
        for interest in &mut channel.interest {
            let (shard, local) = (interest.shard, interest.local);
            if congestion.is_full(shard) {
                reach.missed += interest.subscribers();
                let first = !std::mem::replace(&mut interest.gap, true);
                if first && !mutations::is_on(Mutation::HidesGap) {
                    out.push((shard, FromHome::Gap { local }));
                }
                continue;
            }
            interest.gap = false;
            reach.shards += 1;
            let published = Arc::clone(&published);
            out.push((shard, FromHome::Published { local, published }));
        }
        reach
    }

    fn read(&mut self, now_ms: u64, name: &Name, query: &Query) -> HomeAnswer {
        let Some(options) = self.options(name) else {
            return HomeAnswer::Failed(ErrorCode::UNKNOWN_CHANNEL);
        };
        let roster = self.directory.get(name).and_then(|channel| channel.roster.as_ref());
        match query {
            Query::Presence | Query::PresenceStats if !options.presence => {
                HomeAnswer::Failed(ErrorCode::NOT_AVAILABLE)
            }
            Query::History(_) | Query::RemoveHistory if !options.has_history() => {
                HomeAnswer::Failed(ErrorCode::NOT_AVAILABLE)
            }
            Query::Presence => {
                HomeAnswer::Presence(roster.map_or_else(Vec::new, |roster| roster.present()))
            }
            Query::PresenceStats => {
                let (clients, users) = roster.map_or((0, 0), |roster| roster.stats());
                HomeAnswer::PresenceStats { clients, users }
            }
            Query::History(filter) => self.history(now_ms, name, &options, filter),
            Query::RemoveHistory => {
                self.streams.remove(name);
                HomeAnswer::Done
            }
        }
    }

    fn history(
        &mut self,
        now_ms: u64,
        name: &Name,
        options: &ChannelOptions,
        filter: &HistoryFilter,
    ) -> HomeAnswer {
        let history = self.history_options(options);
        let since = filter.since.as_ref();
        let since = since.map(|since| Since { offset: since.offset, epoch: &since.epoch });
        let filter = Filter { limit: filter.limit, since, reverse: filter.reverse };
        match self.streams.read(now_ms, name, history, filter) {
            Ok((entries, position)) => {
                let publications = entries.into_iter().map(|entry| entry.bytes).collect();
                HomeAnswer::History(Box::new(History {
                    publications,
                    position: self.told(position),
                }))
            }
            Err(error) => HomeAnswer::Failed(error),
        }
    }

    fn history_options(&self, options: &ChannelOptions) -> HistoryOptions {
        HistoryOptions::new(options, self.settings.channels.history_meta_ttl)
    }

    /// Forgets what has expired, a bounded number; returns whether more has.
    pub fn expire(&mut self, now_ms: u64) -> bool {
        let keys = self.idempotency.expire(now_ms);
        self.streams.expire(now_ms) || keys
    }

    /// When [`Home::expire`] has something to do.
    pub fn next_ms(&self) -> Option<u64> {
        self.streams.next_ms().into_iter().chain(self.idempotency.next_ms()).min()
    }

    /// Channels that became occupied or vacated since this was called last.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// A stretch of the channels with subscribers, and how many, as far as `matches` likes their
    /// names; and where the next stretch begins, if there is one.
    pub fn list(
        &self,
        from: usize,
        places: usize,
        matches: impl Fn(&str) -> bool,
        found: &mut Vec<(Name, u32)>,
    ) -> Option<usize> {
        let (channels, next) = self.directory.stretch(from, places);
        let matching = channels.filter(|channel| matches(&channel.name));
        found.extend(matching.map(|c| (Name::clone(&c.name), c.subscribers())));
        next
    }

    /// Channels with at least one subscriber anywhere.
    pub fn channels(&self) -> usize {
        self.directory.len()
    }

    /// Users with at least one connection anywhere.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// A user's connections, in order.
    pub fn connections_of(&self, user: &str) -> &[(ShardId, ConnRef)] {
        self.users.of(user)
    }

    /// Publications and announcements encoded so far, each format once.
    pub fn frames_encoded(&self) -> u64 {
        self.frames_encoded
    }

    /// One shard's subscribers of a channel by the home's account, to be asked by tests.
    pub fn interest(&self, channel: &str, shard: ShardId) -> u32 {
        let known = self.directory.get(channel);
        known.map_or(0, |channel| channel.subscribers_on(shard))
    }

    /// Who is to be seen in a channel, to be asked by tests.
    pub fn present(&self, channel: &str) -> Vec<Arc<MemberInfo>> {
        let roster = self.directory.get(channel).and_then(|channel| channel.roster.as_ref());
        roster.map_or_else(Vec::new, |roster| roster.present())
    }

    /// Announcements that a full link did not take.
    pub fn memberships_dropped(&self) -> u64 {
        self.memberships_dropped
    }

    /// What there is of histories, also of channels without subscribers.
    pub fn histories(&self) -> StreamCounts {
        self.streams.counts()
    }

    /// See [`Streams::kept`].
    pub fn kept(&self, channel: &str) -> Option<(Position, usize)> {
        self.streams.kept(channel)
    }

    /// Subscribers of a channel by the home's account: joins minus leaves of all shards.
    pub fn subscribers(&self, channel: &str) -> u32 {
        self.directory.get(channel).map_or(0, Channel::subscribers)
    }
}

/// What of several publications that wait for a slow receiver stands for the same thing.
fn conflation_key(options: &ChannelOptions, extra: Option<&PublicationExtra>) -> Option<Name> {
    if options.slow_consumer != SlowConsumer::Latest {
        return None;
    }
    let tag = extra.and_then(|extra| extra.tags.get(&options.conflation_tag));
    Some(tag.map_or_else(Name::default, |value| Name::from(value.as_str())))
}

#[cfg(test)]
mod tests;
