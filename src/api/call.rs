//! What a backend may ask for: every call with its values checked.

use std::{collections::BTreeMap, num::NonZeroU64};

use bytes::Bytes;

use crate::{
    hub::ChannelPattern,
    protocol::{ErrorCode, Name},
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
        /// The payload, as JSON without newlines.
        data: Bytes,
        /// What else is asked.
        options: PublishOptions,
    },
    /// Publish the same to several channels.
    Broadcast {
        /// The channels, at least one; a channel may stand there twice. One that cannot be is
        /// answered with its error and keeps no other from being published to.
        channels: Vec<Result<Name, ErrorCode>>,
        /// The payload, as JSON without newlines.
        data: Bytes,
        /// What else is asked.
        options: PublishOptions,
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
        whitelist: Vec<Name>,
        /// What they are told; `None` is [`FORCE_NO_RECONNECT`](crate::close::FORCE_NO_RECONNECT).
        disconnect: Option<Disconnect>,
    },
    /// Change when connections of a user expire.
    Refresh {
        /// Whose.
        target: Target,
        /// They expire now: each is closed with
        /// [`CONNECTION_EXPIRED`](crate::close::CONNECTION_EXPIRED).
        expired: bool,
        /// When they expire, in seconds since the Unix epoch; `None` is never.
        expire_at_unix_s: Option<u64>,
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
    History(History),
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

/// What may be asked of a publication beyond its payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// Names and values that subscribers get with it.
    pub tags: BTreeMap<String, String>,
    /// It is not kept, and so has no offset.
    pub skip_history: bool,
    /// A publication with the key of an earlier one is not published again. At most
    /// [`PUBLICATION_KEY_BYTES_MAX`](crate::limits::PUBLICATION_KEY_BYTES_MAX), not empty.
    pub idempotency_key: Option<Name>,
    /// It is not published unless it is newer than what the channel has seen.
    pub version: Option<Version>,
}

/// Which state of a document a publication carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Larger is newer, within an epoch.
    pub number: NonZeroU64,
    /// Another epoch is newer whatever the number. At most
    /// [`PUBLICATION_KEY_BYTES_MAX`](crate::limits::PUBLICATION_KEY_BYTES_MAX), may be empty.
    pub epoch: Name,
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

/// A place in a channel's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPosition {
    /// Behind the publication with this offset; 0 is in front of all.
    pub offset: u64,
    /// The stream's epoch; may be empty.
    pub epoch: Name,
}

/// A subscription that the backend makes.
#[derive(Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Whose connections.
    pub target: Target,
    /// To which channel.
    pub channel: Name,
    /// The subscription's `chan_info`, as JSON without newlines.
    pub info: Option<Bytes>,
    /// What the client is told with it, as JSON without newlines.
    pub data: Option<Bytes>,
    /// When it expires, in seconds since the Unix epoch; `None` is never.
    pub expire_at_unix_s: Option<u64>,
    /// Since when the client is to be told what it missed.
    pub recover_since: Option<StreamPosition>,
    /// What holds instead of the channel's options.
    pub overrides: Overrides,
}

/// Options of a channel that a subscription has otherwise; `None` is as the channel has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// It shows in presence.
    pub presence: Option<bool>,
    /// Its join and leave are published.
    pub join_leave: Option<bool>,
    /// It recovers.
    pub force_recovery: Option<bool>,
    /// It is told of gaps.
    pub force_positioning: Option<bool>,
    /// It is told of joins and leaves.
    pub force_push_join_leave: Option<bool>,
}

/// What a closed client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// From 3000 to 4999 (RFC 6455 section 7.4.2); the range says whether the client reconnects.
    pub code: u16,
    /// Not empty, and at most the 123 bytes that a close frame has for it (RFC 6455 section 5.5.1).
    pub reason: Name,
}

/// A page of a channel's stream.
#[derive(Debug, PartialEq, Eq)]
pub struct History {
    /// The channel.
    pub channel: Name,
    /// At most so many publications; 0 asks for the position alone, `None` for all that are kept.
    pub limit: Option<usize>,
    /// Publications behind this place, or before it in reverse.
    pub since: Option<StreamPosition>,
    /// From the newest to the oldest.
    pub reverse: bool,
}

/// Which connections are described.
#[derive(Debug, PartialEq, Eq)]
pub enum ConnectionsOf {
    /// Those of a user; of the empty one, those without a user.
    User(Name),
    /// Those that are subscribed to a channel.
    Channel(Name),
}
