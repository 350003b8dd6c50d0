//! What the server says of itself: a node, its process and its shards.

use std::collections::BTreeMap;

use serde::Serialize;

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

/// Measurements of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeMetrics {
    /// Seconds over which they were taken; 0 where they count from the start.
    #[serde(rename = "interval")]
    pub interval_s: f64,
    /// The values, each finite.
    pub items: BTreeMap<String, f64>,
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
