//! What a backend's calls come to, before it is written.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::info::NodeInfo;
use crate::protocol::{ErrorCode, Name};

/// What the [`Call`](super::Call) of the same name came to.
#[derive(Clone, Debug)]
pub enum Reply {
    /// It was published.
    Publish(PublishResult),
    /// One outcome per channel, in the order of the request.
    Broadcast(Vec<Result<PublishResult, ErrorCode>>),
    /// One outcome per command, in the order of the request; none of them a batch.
    Batch(Vec<Result<Reply, ErrorCode>>),
    /// Done; there may have been nobody to do it to. So for all without a field.
    Subscribe,
    /// Done.
    Unsubscribe,
    /// Done.
    Disconnect,
    /// Done.
    Refresh,
    /// Client ids with their `ClientInfo` as encoded JSON, written in this order.
    Presence(Vec<(Name, Bytes)>),
    /// How many are there.
    PresenceStats(PresenceStats),
    /// A page of the stream.
    History(HistoryResult),
    /// Done.
    HistoryRemove,
    /// Channels with the number of their subscribers.
    Channels(BTreeMap<Name, u64>),
    /// Connections, written in this order.
    Connections(Vec<ConnectionInfo>),
    /// The node.
    Info(Box<NodeInfo>),
}

impl Reply {
    /// Its call's method, the name of its field in the replies of a batch.
    pub(super) fn method(&self) -> &'static str {
        match self {
            Self::Publish(_) => "publish",
            Self::Broadcast(_) => "broadcast",
            Self::Batch(_) => "batch",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Disconnect => "disconnect",
            Self::Refresh => "refresh",
            Self::Presence(_) => "presence",
            Self::PresenceStats(_) => "presence_stats",
            Self::History(_) => "history",
            Self::HistoryRemove => "history_remove",
            Self::Channels(_) => "channels",
            Self::Connections(_) => "connections",
            Self::Info(_) => "info",
        }
    }
}

/// Where a publication stands; of zeros, where its channel keeps no history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishResult {
    /// Its place in the stream, from 1; 0 is left out.
    pub offset: u64,
    /// The stream's epoch; the empty one is left out.
    pub epoch: Name,
}

/// How many are in a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresenceStats {
    /// Connections.
    pub num_clients: u64,
    /// Their users; all without a user are one.
    pub num_users: u64,
}

/// A page of a channel's stream.
#[derive(Clone, Debug)]
pub struct HistoryResult {
    /// Encoded publications: `{"data":..,"offset":..}` and what else each has, written in this order.
    pub publications: Vec<Bytes>,
    /// The stream's newest offset.
    pub offset: u64,
    /// The stream's epoch.
    pub epoch: Name,
}

/// A connection, in the shape of Centrifugo PRO's `ConnectionInfo`; what is empty is left out, but
/// for the user.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Its client id.
    pub client: Name,
    /// Its user; empty if it has none.
    pub user: Name,
    /// What the client says that it is: `name` of its connect command.
    pub app_name: Name,
    /// `version` of its connect command.
    pub app_version: Name,
    /// As in Centrifugo: `websocket`, `sse`, `http_stream`, `uni_websocket` and so on.
    pub transport: &'static str,
    /// How its frames are encoded: `json`.
    pub protocol: &'static str,
    /// Since when it is connected, in seconds since the Unix epoch. Not in Centrifugo.
    pub connected_at_unix_s: u64,
    /// The channels that it is subscribed to, written in this order.
    pub channels: Vec<Name>,
    /// Its connection token, if it had one that is named or dated.
    pub connection_token: Option<TokenInfo>,
    /// What only the backend sees of it: the token's `meta`, as encoded JSON.
    pub meta: Option<Bytes>,
}

/// A token that was shown.
#[derive(Clone, Debug)]
pub struct TokenInfo {
    /// Its `jti`; the empty one is left out.
    pub uid: Name,
    /// Its `iat`; 0 is left out.
    pub issued_at_unix_s: u64,
}
