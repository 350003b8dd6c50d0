//! What all shards of a process agree on.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{Endpoints, WatchSettings};
use crate::{
    api::{ErrorMode, ProcessStats},
    hub::{HashKey, HomeSettings, RecoveryBounds},
    limits::REFUSALS_IN_FLIGHT_MAX,
    protocol::{Keepalive, Now, Refusal, Upgrade, centrifuge::Policy, handler::Handler},
};

/// A process: its shards' common constants and the one number that they share.
pub struct Process {
    /// Where names live.
    pub key: HashKey,
    /// How many shards there are.
    pub shards: usize,
    /// What the configuration decided.
    pub settings: Settings,
    /// Connections of all shards that count for the limit: one relaxed counter makes it exact.
    pub connections: AtomicUsize,
    /// Connections beyond it that are being told so.
    pub refusals: AtomicUsize,
    /// When the process started.
    pub started: Now,
    /// The node's id, unique among nodes and starts.
    pub uid: String,
    /// Begins every epoch: random, so that no epoch of an earlier process comes back.
    pub epoch_prefix: Arc<str>,
}

impl Process {
    /// What the home on every shard is told.
    pub(super) fn home_settings(&self) -> HomeSettings {
        let settings = &self.settings;
        HomeSettings {
            channels: Arc::clone(&settings.policy.channels),
            user_connections_max: settings.user_connections_max,
            history_bytes_max: settings.history_bytes_max,
            recovery: RecoveryBounds {
                count_max: settings.recovery_publications_max,
                bytes_max: settings.queue_bytes_max / 2,
            },
            epoch_prefix: Arc::clone(&self.epoch_prefix),
            notices: settings.notices,
        }
    }

    /// Takes one of the places that the connection limit allows.
    pub(super) fn admit(&self) -> bool {
        take(&self.connections, self.settings.connections_max)
    }

    /// Takes one of the spare places for those who are only told that there is no room.
    pub(super) fn admit_refusal(&self) -> bool {
        take(&self.refusals, REFUSALS_IN_FLIGHT_MAX)
    }

    /// Gives the place back.
    pub(super) fn left(&self, admitted: bool) {
        let places = if admitted { &self.connections } else { &self.refusals };
        places.fetch_sub(1, Ordering::Relaxed);
    }
}

fn take(places: &AtomicUsize, max: usize) -> bool {
    let one_more = |taken| (taken < max).then_some(taken + 1);
    places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
}

/// Makes the handler of one connection, or refuses it before the 101.
type Factory = dyn Fn(&Upgrade<'_>) -> Result<Box<dyn Handler>, Refusal> + Send + Sync;

/// An embedder's WebSocket endpoint.
#[derive(Clone)]
pub struct Route {
    /// The exact path.
    pub path: String,
    /// Asked on the connection's shard, which waits for it.
    pub handler: Arc<Factory>,
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
    /// Bytes of all histories of one shard.
    pub history_bytes_max: usize,
    /// Publications that one subscribe may recover.
    pub recovery_publications_max: usize,
    /// Connections of one user; `None`: without a bound.
    pub user_connections_max: Option<usize>,
    /// A new connection of a user closes its others.
    pub single_connection: bool,
    /// Bytes of one message to an embedder's handler.
    pub message_bytes_max: usize,
    /// Bytes of one HTTP request body.
    pub body_bytes_max: usize,
    /// Subscriptions of one connection.
    pub subscriptions_max: usize,
    /// Milliseconds for one HTTP request to be complete.
    pub request_timeout_ms: u64,
    /// Milliseconds that an HTTP connection may wait between requests.
    pub idle_timeout_ms: u64,
    /// The backend is told of channels that become occupied or vacated.
    pub notices: bool,
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
    /// Below which path it is.
    pub api_prefix: String,
    /// How it tells errors where a request does not say so.
    pub api_error_mode: ErrorMode,
    /// Watching of devices, if there is any.
    pub watch: Option<WatchSettings>,
    /// Where measurements are collected, if anywhere.
    pub metrics_path: Option<String>,
    /// Where the health endpoint is, if there is one.
    pub health_path: Option<String>,
    /// The page at `/`, if there is one.
    pub page: Option<String>,
    /// Where clients connect, by which transports.
    pub endpoints: Endpoints,
    /// An embedder's endpoints.
    pub routes: Vec<Route>,
    /// How their connections are watched.
    pub keepalive: Keepalive,
    /// The node's name for people.
    pub node_name: String,
    /// What the process uses, given its uptime; asked from the core, measured outside.
    pub process_stats: fn(Duration) -> ProcessStats,
}
