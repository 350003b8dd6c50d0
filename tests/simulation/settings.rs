//! What the process of a world is configured to, as small as its seed wants it.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicUsize, Ordering},
};

use tiderace::{
    api::{ErrorMode, ProcessStats},
    auth::{
        sign,
        tokens::{Tokens, sign_connection},
    },
    channels::Channels,
    core::{Endpoint, Endpoints, Process, Route, Settings},
    hub::HashKey,
    limits::SEGMENT_BYTES_MAX,
    protocol::{Keepalive, Now, centrifuge::Policy},
    proxy::{ProxyId, Routes, routes::RpcRoutes},
};

use super::{
    features::Features,
    oracle::name,
    plain::{Handlers, Relay, Stubborn},
    random::Random,
};

const SECRET: &str = "secret";

/// The wall clock when a world begins, in seconds since the Unix epoch.
pub const START_S: u64 = 1_700_000_000;
/// What the wall clock may jump by.
pub const HOUR_S: u64 = 3_600;

/// Publications that one subscribe may recover.
pub const RECOVERED_MAX: usize = 300;

/// Bytes of the longest single entry of a connection's queue: a segment, or a publication or answer
/// that is longer than one.
pub const ENTRY_BYTES_MAX: usize =
    if SEGMENT_BYTES_MAX > 8 << 10 { SEGMENT_BYTES_MAX } else { 8 << 10 };

/// Somebody who may connect.
pub struct User {
    /// Empty: anonymous.
    pub name: String,
    pub token: String,
    /// Channels that the token puts it in.
    pub channels: &'static [usize],
}

/// Everybody. One token expires when the wall clock jumps, one comes with channels. Signed once.
pub fn users() -> &'static [User] {
    static USERS: LazyLock<Vec<User>> = LazyLock::new(|| {
        let named = [("ann", None), ("bob", None), ("cyd", Some(START_S + HOUR_S / 2))];
        let named = named.map(|(name, exp)| User {
            name: name.to_owned(),
            token: sign_connection(SECRET, name, exp, None),
            channels: &[],
        });
        let anonymous = User { name: String::new(), token: String::new(), channels: &[] };
        let channels: &[usize] = &[0];
        let names: Vec<String> = channels.iter().copied().map(name).collect();
        let claims = serde_json::json!({ "sub": "dan", "channels": names });
        let dan = User { name: "dan".to_owned(), token: sign(SECRET, &claims), channels };
        [anonymous].into_iter().chain(named).chain([dan]).collect()
    });
    &USERS
}

/// A token with these claims.
pub fn token(claims: &serde_json::Value) -> String {
    sign(SECRET, claims)
}

/// What differs between worlds.
#[derive(Clone, Copy)]
pub struct Shape {
    pub shards: usize,
    pub channels: usize,
    /// Messages that a link holds.
    pub link_capacity: usize,
    pub connections_max: usize,
    /// Descriptors of each shard.
    pub files_max: usize,
    pub queue_bytes_max: usize,
    pub subscriptions_max: usize,
    pub features: Features,
}

impl Shape {
    /// Of `shards` shards with room for everything.
    pub fn roomy(shards: usize) -> Self {
        Self {
            shards,
            channels: 4,
            link_capacity: 64,
            connections_max: 1_000,
            files_max: 1_000,
            queue_bytes_max: 1 << 20,
            subscriptions_max: 100,
            features: Features::default(),
        }
    }

    /// As narrow as chance wants it.
    pub fn any(random: &mut Random) -> Self {
        Self {
            shards: *random.pick(&[1, 2, 3, 7]),
            channels: random.between(1, 4),
            link_capacity: *random.pick(&[1, 2, 3, 4, 64]),
            connections_max: *random.pick(&[5, 1_000, 1_000]),
            files_max: *random.pick(&[3, 1_000, 1_000, 1_000]),
            queue_bytes_max: *random.pick(&[500, 4_000, 1 << 20, 1 << 20]),
            subscriptions_max: *random.pick(&[2, 100]),
            features: Features::any(random),
        }
    }
}

/// A process of that shape; `handlers` knows connections with a handler.
pub fn process(
    shape: Shape,
    random: &mut Random,
    now: Now,
    handlers: &Arc<Handlers>,
) -> Arc<Process> {
    let handlers = Arc::clone(handlers);
    let options = Arc::new(shape.features.options());
    let at = |path: &str| Some(Endpoint { path: path.to_owned(), body_bytes_max: 64 << 10 });
    let channels = Channels { without_namespace: options, ..Channels::default() };
    let policy = Policy {
        insecure: false,
        anonymous: true,
        disallow_anonymous_tokens: false,
        user_id_header: None,
        proxies: Routes {
            connect: shape.features.asks.then_some(ProxyId(0)),
            subscribe: shape.features.proxied.then_some(ProxyId(0)),
            publish: shape.features.proxied.then_some(ProxyId(0)),
            rpc: RpcRoutes { without_namespace: Some(ProxyId(0)), ..RpcRoutes::default() },
            ..Routes::default()
        },
        tokens: Some(Tokens::new(SECRET, None, None)),
        subscription_tokens: None,
        ping_interval_ms: 25_000,
        pong_timeout_ms: 8_000,
        stale_close_ms: 15_000,
        channels: Arc::new(channels),
        history_publications_max: 300,
        personal_namespace: None,
        expired_close_delay_s: 25,
        expired_sub_close_delay_s: 25,
        version: "0".to_owned(),
        node: String::new(),
    };
    let settings = Settings {
        connections_max: shape.connections_max,
        queue_bytes_max: shape.queue_bytes_max,
        history_bytes_max: shape.features.history.map_or(1, |history| history.bytes_max),
        recovery_publications_max: RECOVERED_MAX,
        single_connection: false,
        user_connections_max: shape.features.user_connections_max,
        message_bytes_max: 64 << 10,
        body_bytes_max: 64 << 10,
        subscriptions_max: shape.subscriptions_max,
        request_timeout_ms: 10_000,
        idle_timeout_ms: 75_000,
        notices: false,
        policy,
        allowed_origins: Vec::new(),
        api_key: None,
        api_insecure: true,
        api_enabled: true,
        api_prefix: "/api".to_owned(),
        api_error_mode: ErrorMode::Body,
        watch: None,
        metrics_path: None,
        health_path: Some("/health".to_owned()),
        page: None,
        endpoints: Endpoints {
            websocket: at("/connection/websocket"),
            http_stream: at("/connection/http_stream"),
            sse: at("/connection/sse"),
            emulation: at("/emulation"),
            ..Endpoints::default()
        },
        routes: vec![
            Route {
                path: "/relay".to_owned(),
                handler: Arc::new(move |_| Ok(Box::new(Relay::new(&handlers)))),
            },
            Route { path: "/stubborn".to_owned(), handler: Arc::new(|_| Ok(Box::new(Stubborn))) },
        ],
        keepalive: Keepalive { ping_interval_ms: 0, silence_timeout_ms: 0 },
        node_name: "simulated".to_owned(),
        process_stats: |_| ProcessStats::default(),
    };
    Arc::new(Process {
        key: HashKey(random.next(), random.next()),
        shards: shape.shards,
        settings,
        connections: AtomicUsize::default(),
        refusals: AtomicUsize::default(),
        started: now,
        uid: "simulated".to_owned(),
        epoch_prefix: "epoch".into(),
    })
}

/// Open connections of the process.
pub fn connections(process: &Process) -> usize {
    process.connections.load(Ordering::Relaxed) + process.refusals.load(Ordering::Relaxed)
}
