//! What one connection's protocol decides. PURE: no sockets, no clock, no randomness.
//!
//! A session turns messages of its peer into [`Effect`]s and [`Answer`]s of the core into bytes.
//! The core executes requests in order; an answer takes the place in the connection's queue that
//! was reserved when its request was read.

pub mod centrifuge;
pub mod emulation;
pub mod handler;
mod liveness;
mod order;
mod outgoing;
mod stream;
mod subscription;
mod upgrade;
pub mod watch;

pub use liveness::{Due, Keepalive, Liveness};
pub use order::{Act, Described, Order};
pub use outgoing::{Audience, Delivery, Outgoing};
pub use stream::{History, HistoryFilter, PublicationExtra, Query, StreamPosition};
pub use subscription::{Begin, MemberInfo, Recovered, SubscribeOptions, Subscribed, Wants};
pub use upgrade::{Refusal, Upgrade};

use std::sync::Arc;

use bytes::Bytes;

pub use crate::channels::Name;
use crate::codes::CloseReason;
pub use crate::codes::ErrorCode;

/// The time of one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Milliseconds of the monotonic clock, for protocol timers.
    pub monotonic_ms: u64,
    /// Seconds since the Unix epoch, for token expiry.
    pub unix_s: u64,
}

impl Now {
    /// Whether what expires at that second has expired; 0 is never.
    pub const fn is_past(self, expire_at_unix_s: u64) -> bool {
        expire_at_unix_s != 0 && expire_at_unix_s <= self.unix_s
    }
}

/// What a session wants done, in the order in which it was decided.
#[derive(Debug)]
pub enum Effect {
    /// Send these bytes as one message. Text for Centrifuge sessions.
    Reply(Vec<u8>),
    /// Send these bytes as one binary message.
    Binary(Vec<u8>),
    /// Do this and answer with the same `command` number.
    Request {
        /// The peer's number of the command, given back with the answer.
        command: u32,
        /// What is asked.
        request: Request,
    },
    /// A subscription was not refreshed in time: end it, or the connection if the server made it.
    Expire {
        /// The channel.
        channel: Name,
    },
    /// Ask the backend. Ends in [`Session::backend_answered`](centrifuge::Session::backend_answered),
    /// unless the connection is gone by then.
    Ask {
        /// The peer's number of the command that the backend decides about; 0: of none.
        command: u32,
        /// What.
        ask: Box<centrifuge::Ask>,
    },
    /// A token names a key that is not known: fetch these keys anew.
    KeysWanted(KeyUse),
    /// Close the connection with a code and reason of the backend's. Nothing after this effect is
    /// executed.
    Disconnect {
        /// The close code.
        code: u16,
        /// The reason on the wire, below 124 bytes.
        reason: String,
    },
    /// Close the connection. Nothing after this effect is executed.
    Close(CloseReason),
}

/// What keys verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUse {
    /// Connection tokens, and subscription tokens where those have no keys of their own.
    Connections,
    /// Subscription tokens.
    Subscriptions,
}

/// What the bytes of a publication are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// One JSON value.
    Json,
    /// UTF-8 text.
    Text,
    /// Any bytes.
    Binary,
}

/// What a session asks of the core.
#[derive(Debug)]
pub enum Request {
    /// The peer is who it says: register it at its user's home, and subscribe it to these
    /// channels. Answer: [`Answer::Connected`].
    Connect {
        /// The user, empty for an anonymous one.
        user: Name,
        /// Subscriptions by the server.
        subscriptions: Vec<(Name, Box<SubscribeOptions>)>,
    },
    /// Subscribe to a channel. Answer: [`Answer::Subscribed`].
    Subscribe {
        /// The channel.
        channel: Name,
        /// What it has beyond publications.
        options: Box<SubscribeOptions>,
    },
    /// Move the expiry of a subscription that is there. Answer: [`Answer::Prolonged`].
    Prolong {
        /// The channel.
        channel: Name,
        /// When it must have been refreshed again, in seconds since the Unix epoch; 0: never.
        expire_at_unix_s: u64,
        /// What others see of it from now on, as JSON; `None`: what they saw before.
        info: Option<Bytes>,
    },
    /// End a subscription. Answer: [`Answer::Unsubscribed`], also when there was none.
    Unsubscribe {
        /// The channel.
        channel: Name,
    },
    /// Publish to a channel. Answer: [`Answer::Published`].
    Publish {
        /// The channel.
        channel: Name,
        /// The payload.
        data: Bytes,
        /// What the payload is.
        payload: Payload,
        /// The publisher's `ClientInfo`, as encoded JSON.
        info: Option<Bytes>,
        /// Refuse with [`ErrorCode::PERMISSION_DENIED`] unless the connection is subscribed.
        subscribers_only: bool,
        /// What few publications have.
        extra: Option<Box<PublicationExtra>>,
    },
    /// The connection belongs to another user from now on, or to none. Handlers alone ask for it.
    /// Answer: [`Answer::UserSet`].
    SetUser {
        /// The user; `None`: it belongs to nobody.
        user: Option<Name>,
    },
    /// Publish to everybody in a channel but the asking connection. Handlers alone ask for it.
    /// Answer: [`Answer::Published`].
    PublishToOthers {
        /// The channel.
        channel: Name,
        /// The payload.
        data: Bytes,
        /// What the payload is.
        payload: Payload,
    },
    /// Send a message to many connections. Handlers alone ask for it. Answer:
    /// [`Answer::Delivered`].
    Send {
        /// To whom.
        audience: Audience,
        /// What.
        outgoing: Outgoing,
    },
    /// Ask about a channel. Answer: [`Answer::Presence`], [`Answer::PresenceStats`] or
    /// [`Answer::History`].
    Read {
        /// The channel.
        channel: Name,
        /// What is asked.
        query: Query,
        /// Refuse with [`ErrorCode::PERMISSION_DENIED`] unless the connection is subscribed.
        subscribers_only: bool,
    },
}

/// What became of a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The connection is known to its user's home, and these subscriptions are active.
    Connected(Vec<Subscribed>),
    /// The subscription is active: what follows in the queue is after the cut. `None` for one that
    /// has nothing beyond publications.
    Subscribed(Option<Box<Subscribed>>),
    /// The subscription lives on.
    Prolonged {
        /// Its channel.
        channel: Name,
        /// As it was asked.
        expire_at_unix_s: u64,
        /// As it was asked.
        info: Option<Bytes>,
    },
    /// The subscription is over.
    Unsubscribed,
    /// The publication has its place in the channel's order.
    Published,
    /// Every message to the user reaches the connection too; or, where it belongs to nobody now, none
    /// does.
    UserSet,
    /// How many connections the message reached.
    Delivered(Delivery),
    /// Who is there.
    Presence(Vec<Arc<MemberInfo>>),
    /// Connections and different users that are there.
    PresenceStats {
        /// Connections.
        clients: u32,
        /// Users; all anonymous ones are one.
        users: u32,
    },
    /// What was published.
    History(Box<History>),
    /// Nothing was done.
    Failed(ErrorCode),
}
