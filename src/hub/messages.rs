//! What shards say to each other about channels and users.
//!
//! Requests travel from a shard to a home; grants, publications and answers travel back, in the
//! order in which the home applied what caused them. A grant is therefore the cut: nothing that
//! the home pushed before it is for the new subscriber, everything after it is.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    ChannelPattern, Direct, Handled, Handling, LeaseAnswer, LeaseRequest, Position, Reach,
};
use crate::{
    frame::Frame,
    protocol::{
        Begin, Delivery, Described, ErrorCode, History, MemberInfo, Name, Order, Payload,
        PublicationExtra, Query, StreamPosition, Wants,
    },
};

/// The number of a shard, from 0.
pub type ShardId = u16;

/// A connection of the shard that said it. A freed slot raises its generation, so that a late
/// message never reaches the next tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnRef {
    /// Place in the shard's table.
    pub slot: u32,
    /// Which tenant of the slot.
    pub generation: u32,
}

/// One attempt of one connection to be in one channel, on the shard that said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubRef {
    /// Place in the shard's table of subscriptions.
    pub index: u32,
    /// Which tenant of the place.
    pub generation: u32,
}

/// A shard's own number of a channel: saves hashing its name on every delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalId {
    /// Place in the shard's table of channels.
    pub index: u32,
    /// Which tenant of the place.
    pub generation: u32,
}

/// How a subscriber wants publications encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Format {
    /// A Centrifuge push in JSON.
    Centrifuge = 0,
    /// The payload alone, one WebSocket message each.
    Plain = 1,
}

impl Format {
    /// Every format, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Centrifuge, Self::Plain];
}

/// A publication before its home gave it a place in the channel's order.
#[derive(Debug)]
pub struct Publication {
    /// The channel.
    pub channel: Name,
    /// The payload.
    pub data: Bytes,
    /// What the payload is.
    pub payload: Payload,
    /// The publisher's `ClientInfo` as encoded JSON, when a client published.
    pub info: Option<Bytes>,
    /// What few publications have.
    pub extra: Option<Box<PublicationExtra>>,
}

impl Publication {
    /// Bytes that this pins while it waits.
    pub fn cost_bytes(&self) -> usize {
        let extra = self.extra.as_ref().map_or(0, |extra| {
            extra.tags.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
        });
        self.channel.len() + self.data.len() + self.info.as_ref().map_or(0, Bytes::len) + extra
    }
}

/// The same publication for several channels of one home.
#[derive(Debug)]
pub struct Broadcast {
    /// Part number and channel.
    pub channels: Vec<(u32, Name)>,
    /// The payload, as JSON.
    pub data: Bytes,
    /// As in [`Publication`].
    pub extra: Option<PublicationExtra>,
}

/// What a [`Published`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something was published.
    Publication,
    /// Somebody came or went: for those alone who asked to be told.
    Membership,
}

/// A publication with its place, encoded once per format that someone wants.
#[derive(Debug)]
pub struct Published {
    /// What it is.
    pub kind: Kind,
    /// Its number in the channel since the channel has subscribers, dense from 1. 0: it has none.
    pub sequence: u64,
    /// Its place in the channel's stream, if it is kept there.
    pub position: Option<Position>,
    /// The encodings by format; `None` where nobody wants it.
    pub frames: [Option<Frame>; 2],
    /// The text of the position's epoch, where a format is wanted whose messages do not say it.
    pub epoch: Option<Name>,
    /// What the payload is.
    pub payload: Payload,
    /// Of several with one key that wait for a slow receiver, the newest counts.
    pub key: Option<Name>,
    /// Where it is not simply for everybody.
    pub handling: Option<Box<Handling>>,
}

impl Published {
    /// Its epoch and offset, if it is kept.
    pub fn position(&self) -> Option<(&str, u64)> {
        Some((self.epoch.as_deref()?, self.position?.offset))
    }

    /// Bytes that this pins while it waits.
    pub fn cost_bytes(&self) -> usize {
        self.frames.iter().flatten().map(|frame| frame.payload().len()).sum()
    }
}

/// An attempt to be in a channel.
#[derive(Debug)]
pub struct Join {
    /// The attempt.
    pub sub: SubRef,
    /// The channel.
    pub channel: Name,
    /// The asking shard's number of the channel.
    pub local: LocalId,
    /// How it wants publications.
    pub format: Format,
    /// What more it wants.
    pub wants: Wants,
    /// Where it was, to get what it missed since.
    pub recover: Option<StreamPosition>,
    /// Who it is; `None` where nobody will ask.
    pub member: Option<Arc<MemberInfo>>,
}

/// A question about a channel.
#[derive(Debug)]
pub struct Read {
    /// The channel.
    pub channel: Name,
    /// What is asked.
    pub query: Query,
    /// Who waits for the answer.
    pub reply: ReplyTo,
}

/// Where an answer goes, on the shard that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyTo {
    /// Nobody waits.
    Nobody,
    /// A command of a session.
    Command {
        /// Who asked.
        conn: ConnRef,
        /// The place in its queue.
        place: u32,
        /// The peer's number of the command.
        command: u32,
    },
    /// A part of an answer that several homes give.
    Gather {
        /// The gather's place in its table.
        index: u32,
        /// Which tenant of the place.
        generation: u32,
        /// Which part this is.
        part: u32,
    },
    /// A message to many connections.
    Direct {
        /// Its number on the shard that asked.
        id: u32,
    },
}

/// Connections that belong together.
#[derive(Clone, Debug)]
pub enum Group {
    /// All of a user, anywhere: its home knows them.
    User(Name),
    /// Those of this shard that are connected and have no user.
    Anonymous,
    /// Those of this shard that are subscribed to a channel, at most one above
    /// [`CONNECTIONS_PER_ANSWER_MAX`](crate::limits::CONNECTIONS_PER_ANSWER_MAX).
    Channel(Name),
}

/// From a shard to a home.
#[derive(Debug)]
pub enum ToHome {
    /// A connection wants to be in a channel. Followed by exactly one `Leave`, on the same link.
    Join(Box<Join>),
    /// The end of a `Join`, whatever became of it.
    Leave {
        /// The channel.
        channel: Name,
        /// As in the `Join`.
        sub: SubRef,
        /// As in the `Join`.
        format: Format,
    },
    /// Others see something else of a `Join` from now on.
    Renew {
        /// The channel.
        channel: Name,
        /// As in the `Join`.
        sub: SubRef,
        /// Who it is; the client and the user are the same.
        member: Arc<MemberInfo>,
    },
    /// A question about a channel.
    Read(Box<Read>),
    /// Give this its place in the channel's order and send it to all who are interested.
    Publish {
        /// The publication.
        publication: Box<Publication>,
        /// Who waits for the answer.
        reply: ReplyTo,
    },
    /// As `Publish`, not simply for everybody in the channel. To a [`ReplyTo::Direct`] it is answered
    /// by [`HomeAnswer::Distributed`].
    PublishHandled {
        /// The publication. Boxed: it is rare.
        handled: Box<Handled>,
        /// Who waits for the answer.
        reply: ReplyTo,
    },
    /// The same payload to several channels that live here; parts are numbered as given.
    Broadcast {
        /// What to publish where.
        broadcast: Box<Broadcast>,
        /// The gather; its part is taken from the broadcast's channels.
        reply: ReplyTo,
    },
    /// A connection belongs to a user. Followed by exactly one `UserLeave`, on the same link.
    UserJoin {
        /// The user.
        user: Name,
        /// The connection.
        conn: ConnRef,
        /// Who waits for the answer.
        reply: ReplyTo,
    },
    /// The end of a `UserJoin`.
    UserLeave {
        /// The user.
        user: Name,
        /// The connection.
        conn: ConnRef,
    },
    /// Which connections belong together? Answer: [`HomeAnswer::Connections`].
    Connections {
        /// Of whom.
        of: Group,
        /// The gather.
        reply: ReplyTo,
    },
    /// Which channels of this shard match? Answer: [`HomeAnswer::Channels`], several of them.
    Channels {
        /// What a name must match; `None`: nothing.
        pattern: Option<Arc<ChannelPattern>>,
        /// The gather.
        reply: ReplyTo,
    },
    /// To the shard of a connection, not to a home: do this with it.
    Order {
        /// The connection.
        conn: ConnRef,
        /// What.
        order: Arc<Order>,
        /// The gather.
        reply: ReplyTo,
    },
    /// To a shard, not to a home: queue this for connections. Answer: [`HomeAnswer::Delivered`].
    Direct(Box<Direct>),
    /// How much is here?
    Count {
        /// The gather.
        reply: ReplyTo,
    },
    /// About the lease of a device.
    Lease(Box<LeaseRequest>),
    /// All that was said before a drain began stands before this.
    Marker(u8),
}

/// From a home to a shard.
#[derive(Debug)]
pub enum FromHome {
    /// The subscription is active from here on.
    Granted {
        /// Which.
        sub: SubRef,
        /// Where in the channel's stream, if it has one and wants to know.
        begin: Option<Box<Begin>>,
    },
    /// The subscription will not become active. Its `Leave` follows nevertheless.
    Refused {
        /// Which.
        sub: SubRef,
        /// Why.
        error: ErrorCode,
    },
    /// Publications of a channel were left out, because the link was full: who has a position
    /// must recover.
    Gap {
        /// The receiving shard's number of the channel.
        local: LocalId,
    },
    /// A publication for the shard's subscribers of a channel.
    Published {
        /// The receiving shard's number of the channel.
        local: LocalId,
        /// The publication, shared by all shards.
        published: Arc<Published>,
    },
    /// An answer.
    Answer {
        /// To whom.
        reply: ReplyTo,
        /// What.
        answer: HomeAnswer,
    },
    /// About the lease of a device.
    Lease(Box<LeaseAnswer>),
}

/// What a home answers.
#[derive(Debug)]
pub enum HomeAnswer {
    /// The user's home knows the connection.
    Registered,
    /// The publication has its place; where, if the channel has a history and a backend asked.
    Published(Option<Box<StreamPosition>>),
    /// The publication has its place, and went so far; its shards report.
    Distributed(Reach),
    /// How many connections of the shard the message reached.
    Delivered(Delivery),
    /// Nothing was done.
    Failed(ErrorCode),
    /// What there is on the shard.
    Counts(Box<crate::metrics::Counts>),
    /// Who is there.
    Presence(Vec<Arc<MemberInfo>>),
    /// Connections and users that are there.
    PresenceStats {
        /// Connections.
        clients: u32,
        /// Different users; all anonymous ones are one.
        users: u32,
    },
    /// What was published.
    History(Box<History>),
    /// Connections, in an order that does not change by itself.
    Connections(Vec<(ShardId, ConnRef)>),
    /// Channels with subscribers, and how many. One that was vacated and occupied again while it was
    /// looked for may come twice.
    Channels {
        /// Some of them.
        found: Vec<(Name, u32)>,
        /// Others follow.
        more: bool,
    },
    /// It is done.
    Done,
    /// What a connection is, if it is still there.
    Described(Option<Box<Described>>),
}
