//! What all shards of a process agree on.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use super::WatchSettings;
use crate::{
    api::ProcessStats,
    hub::HashKey,
    protocol::{Now, centrifuge::Policy, handler::Handler},
};

/// A process: its shards' common constants and the one number that they share.
pub struct Process {
    /// Where names live.
    pub key: HashKey,
    /// How many shards there are.
    pub shards: usize,
    /// What the configuration decided.
    pub settings: Settings,
    /// Open connections of all shards: one relaxed counter makes the limit exact.
    pub connections: AtomicUsize,
    /// When the process started.
    pub started: Now,
    /// The node's id, unique among nodes and starts.
    pub uid: String,
}

/// An embedder's WebSocket endpoint.
#[derive(Clone)]
pub struct Route {
    /// The exact path.
    pub path: String,
    /// Makes the handler of one connection.
    pub handler: Arc<dyn Fn() -> Box<dyn Handler> + Send + Sync>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What the configuration decided, in the units of the core.
pub struct Settings {
    /// Connections of the process; above it new ones are told 503.
    pub connections_max: usize,
    /// Bytes queued for a connection beyond which the next message closes it.
    pub queue_bytes_max: usize,
    /// Bytes of one message of a client.
    pub message_bytes_max: usize,
    /// Bytes of one HTTP request body.
    pub body_bytes_max: usize,
    /// Subscriptions of one connection.
    pub subscriptions_max: usize,
    /// Milliseconds for one HTTP request to be complete.
    pub request_timeout_ms: u64,
    /// Milliseconds that an HTTP connection may wait between requests.
    pub idle_timeout_ms: u64,
    /// The Centrifuge protocol's policy.
    pub policy: Policy,
    /// Origins that browsers may connect from; empty: only the server's own.
    pub allowed_origins: Vec<String>,
    /// What API requests must carry; `None` refuses all, unless `api_insecure`.
    pub api_key: Option<String>,
    /// API requests need no key.
    pub api_insecure: bool,
    /// There is an API.
    pub api_enabled: bool,
    /// Watching of devices, if there is any.
    pub watch: Option<WatchSettings>,
    /// `GET /health` answers.
    pub health_enabled: bool,
    /// The page at `/`, if there is one.
    pub page: Option<String>,
    /// An embedder's endpoints.
    pub routes: Vec<Route>,
    /// The node's name for people.
    pub node_name: String,
    /// What the process uses, given its uptime; asked from the core, measured outside.
    pub process_stats: fn(Duration) -> ProcessStats,
}
