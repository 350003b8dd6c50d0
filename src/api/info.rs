//! What the server says of itself: a node, its process and its shards.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::metrics::Counters;

/// A node, in the shape of Centrifugo's `NodeResult` and with its shards.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NodeInfo {
    /// Unique among nodes and starts.
    pub uid: String,
    /// What the operator calls it.
    pub name: String,
    /// The server's version.
    pub version: String,
    /// Connections.
    pub num_clients: u64,
    /// Users with a connection; all anonymous connections are one.
    pub num_users: u64,
    /// Subscriptions.
    pub num_subs: u64,
    /// Channels with a subscription.
    pub num_channels: u64,
    /// Seconds since the start.
    #[serde(rename = "uptime")]
    pub uptime_s: u64,
    /// Measurements by name.
    pub metrics: NodeMetrics,
    /// The process.
    pub process: ProcessStats,
    /// The node's shards, in their order.
    pub shards: Vec<ShardInfo>,
}

/// Measurements of a node. Centrifugo's shape has numbers by name, over an interval; these count
/// from the start, which is the interval 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(into = "Measured")]
pub struct NodeMetrics {
    /// What its shards counted, summed.
    pub counters: Counters,
    /// Connections that the server decided to close, by code.
    pub closed: BTreeMap<u16, u64>,
    /// Leases of devices.
    pub leases: u64,
    /// Open watch streams.
    pub watch_streams: u64,
}

#[derive(Serialize)]
struct Measured {
    interval: f64,
    items: BTreeMap<String, f64>,
}

impl From<NodeMetrics> for Measured {
    fn from(NodeMetrics { counters, closed, leases, watch_streams }: NodeMetrics) -> Self {
        let counted = counters.items().map(|(name, _, value)| (name.to_owned(), value));
        let closed = closed.into_iter();
        let closed = closed.map(|(code, count)| (format!("connections_closed_{code}"), count));
        let present = [("leases".to_owned(), leases), ("watch_streams".to_owned(), watch_streams)];
        let items = counted.into_iter().chain(closed).chain(present);
        Self { interval: 0.0, items: items.map(|(name, value)| (name, value as f64)).collect() }
    }
}

/// What a node's process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ProcessStats {
    /// Percent of one CPU.
    #[serde(rename = "cpu")]
    pub cpu_percent: f64,
    /// Bytes of resident memory.
    #[serde(rename = "rss")]
    pub rss_bytes: u64,
}

/// One shard of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShardInfo {
    /// Connections of the shard.
    pub num_clients: u64,
    /// Their subscriptions.
    pub num_subs: u64,
    /// Channels whose home the shard is.
    pub num_channels: u64,
}
