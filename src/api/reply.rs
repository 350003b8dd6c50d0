//! What a backend's calls come to, before it is written.

use std::{collections::BTreeMap, sync::Arc};

use super::info::NodeInfo;
use crate::protocol::{Described, ErrorCode, History, MemberInfo, Name, StreamPosition};

/// What the [`Call`](super::Call) of the same name came to.
#[derive(Clone, Debug)]
pub enum Reply {
    /// It was published, and stands there; of zeros, where its channel keeps no history.
    Publish(StreamPosition),
    /// One outcome per channel, in the order of the request.
    Broadcast(Vec<Result<StreamPosition, ErrorCode>>),
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
    /// Who is there, written in this order.
    Presence(Vec<Arc<MemberInfo>>),
    /// How many are there.
    PresenceStats(PresenceStats),
    /// A page of the stream.
    History(History),
    /// Done.
    HistoryRemove,
    /// Channels with the number of their subscribers.
    Channels(BTreeMap<Name, u64>),
    /// Connections, written in this order.
    Connections(Vec<Described>),
    /// The node.
    Info(Box<NodeInfo>),
}

impl Reply {
    /// Bytes that it takes in a response, within a factor of about two.
    pub fn cost_bytes(&self) -> usize {
        let of_channels = |channels: &[Name]| channels.iter().map(|c| c.len() + 8).sum::<usize>();
        match self {
            Self::Publish(_) => 64,
            Self::Broadcast(outcomes) => 64 * outcomes.len(),
            Self::Batch(replies) => {
                replies.iter().map(|reply| reply.as_ref().map_or(64, Self::cost_bytes)).sum()
            }
            Self::Presence(present) => {
                present.iter().map(|member| member.client.len() + member.json.len()).sum()
            }
            Self::History(page) => page.publications.iter().map(|entry| entry.len()).sum(),
            Self::Channels(channels) => channels.keys().map(|channel| channel.len() + 32).sum(),
            Self::Connections(connections) => connections
                .iter()
                .map(|one| 256 + one.user.len() + of_channels(&one.channels))
                .sum(),
            Self::Info(_) => 8 << 10,
            Self::Subscribe
            | Self::Unsubscribe
            | Self::Disconnect
            | Self::Refresh
            | Self::PresenceStats(_)
            | Self::HistoryRemove => 64,
        }
    }

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

/// How many are in a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresenceStats {
    /// Connections.
    pub num_clients: u64,
    /// Their users; all without a user are one.
    pub num_users: u64,
}
