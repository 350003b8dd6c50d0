//! What a backend may ask for: every call with its values checked.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::{
    hub::ChannelPattern,
    protocol::{
        ErrorCode, HistoryFilter, Name, Payload, PublicationExtra, StreamPosition,
        centrifuge::Terms,
    },
};

/// What a backend asks for. Channels are not empty and within the configured length; whether their
/// namespace exists and allows the call is for whoever executes it. Each is answered by the
/// [`Reply`](super::Reply) of its name.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// Publish to one channel.
    Publish {
        /// The channel.
        channel: Name,
        /// The payload; JSON is without newlines.
        data: Bytes,
        /// What the payload is.
        payload: Payload,
        /// What else is asked.
        extra: PublicationExtra,
    },
    /// Publish the same to several channels.
    Broadcast {
        /// The channels, at least one; a channel may stand there twice. One that cannot be is
        /// answered with its error and keeps no other from being published to.
        channels: Vec<Result<Name, ErrorCode>>,
        /// The payload, as JSON without newlines.
        data: Bytes,
        /// What else is asked.
        extra: PublicationExtra,
    },
    /// Several calls at once, at most [`BATCH_COMMANDS_MAX`](crate::limits::BATCH_COMMANDS_MAX).
    Batch {
        /// The calls, none of them a batch; one that cannot be is answered with its error.
        commands: Vec<Result<Call, ErrorCode>>,
        /// Whether they may be executed in any order; otherwise each waits for the one before.
        parallel: bool,
    },
    /// Subscribe connections of a user to a channel.
    Subscribe(Box<Subscribe>),
    /// End subscriptions of a user's connections.
    Unsubscribe {
        /// Whose.
        target: Target,
        /// To which channel; `None` is all.
        channel: Option<Name>,
    },
    /// Close connections of a user.
    Disconnect {
        /// Whose.
        target: Target,
        /// Ids of clients that stay.
        whitelist: BTreeSet<Name>,
        /// What they are told; `None` is
        /// [`FORCE_NO_RECONNECT`](crate::codes::CloseReason::FORCE_NO_RECONNECT).
        disconnect: Option<Disconnect>,
    },
    /// Change when connections of a user expire.
    Refresh {
        /// Whose.
        target: Target,
        /// They expire now: each is closed with
        /// [`CONNECTION_EXPIRED`](crate::codes::CloseReason::CONNECTION_EXPIRED).
        expired: bool,
        /// When they expire, in seconds since the Unix epoch; 0: never.
        expire_at_unix_s: u64,
        /// Their new connection info, as JSON without newlines.
        info: Option<Bytes>,
    },
    /// Who is in a channel.
    Presence {
        /// The channel.
        channel: Name,
    },
    /// How many are in a channel.
    PresenceStats {
        /// The channel.
        channel: Name,
    },
    /// What was published to a channel.
    History {
        /// The channel.
        channel: Name,
        /// Which part of it. Without a limit it is all that is kept.
        filter: HistoryFilter,
    },
    /// Forget what was published to a channel; offset and epoch stay.
    HistoryRemove {
        /// The channel.
        channel: Name,
    },
    /// Channels that have subscribers.
    Channels {
        /// Those that it names; `None` is all.
        pattern: Option<ChannelPattern>,
    },
    /// Describe connections.
    Connections(ConnectionsOf),
    /// Describe the node.
    Info,
}

/// Connections of one user: all, or those that every filter leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The user; empty are the connections without one.
    pub user: Name,
    /// Only the connection with this client id.
    pub client: Option<Name>,
    /// Only the connection with this session.
    pub session: Option<Name>,
}

impl Target {
    /// All connections of a user.
    pub fn user(user: &str) -> Self {
        Self { user: user.into(), client: None, session: None }
    }
}

/// A subscription that the backend makes.
#[derive(Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Whose connections.
    pub target: Target,
    /// To which channel.
    pub channel: Name,
    /// On what terms.
    pub terms: Terms,
    /// Since when the client is to be told what it missed.
    pub recover: Option<StreamPosition>,
}

/// What a closed client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// From 3000 to 4999 (RFC 6455 section 7.4.2); the range says whether the client reconnects.
    pub code: u16,
    /// Not empty, and at most the 123 bytes that a close frame has for it (RFC 6455 section 5.5.1).
    pub reason: Name,
}

/// Which connections are described.
#[derive(Debug, PartialEq, Eq)]
pub enum ConnectionsOf {
    /// Those of a user; of the empty one, those without a user.
    User(Name),
    /// Those that are subscribed to a channel.
    Channel(Name),
}
