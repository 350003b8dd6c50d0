//! What the process of a world is configured to, as small as its seed wants it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tiderace::{
    api::ProcessStats,
    auth::tokens::{Tokens, sign_connection},
    core::{Process, Route, Settings},
    hub::HashKey,
    protocol::{
        Now,
        centrifuge::{ChannelRules, Policy},
    },
};

use super::{plain::Relay, random::Random};

const SECRET: &str = "secret";

/// Users and their tokens; the first is anonymous.
pub fn users() -> Vec<(String, String)> {
    let named = ["ann", "bob"].map(|user| (user.into(), sign_connection(SECRET, user, None, None)));
    [(String::new(), String::new())].into_iter().chain(named).collect()
}

/// A process for `shards` cores; `alive` counts connections with a handler.
pub fn process(
    shards: usize,
    random: &mut Random,
    now: Now,
    alive: &Arc<AtomicUsize>,
) -> Arc<Process> {
    let alive = Arc::clone(alive);
    let rules = ChannelRules {
        allow_subscribe_for_client: true,
        allow_subscribe_for_anonymous: true,
        allow_publish_for_client: true,
        allow_publish_for_subscriber: true,
        allow_publish_for_anonymous: true,
    };
    let policy = Policy {
        insecure: false,
        anonymous: true,
        tokens: Some(Tokens::new(SECRET, None, None)),
        ping_interval_ms: 25_000,
        pong_timeout_ms: 8_000,
        stale_close_ms: 15_000,
        channel_bytes_max: 255,
        channels: rules,
        version: "0".to_owned(),
        node: String::new(),
    };
    let settings = Settings {
        connections_max: *random.pick(&[5, 1_000, 1_000]),
        queue_bytes_max: *random.pick(&[500, 4_000, 1 << 20]),
        message_bytes_max: 64 << 10,
        body_bytes_max: 64 << 10,
        subscriptions_max: *random.pick(&[2, 100]),
        request_timeout_ms: 10_000,
        idle_timeout_ms: 75_000,
        policy,
        allowed_origins: Vec::new(),
        api_key: None,
        api_insecure: true,
        api_enabled: true,
        watch: None,
        health_enabled: true,
        page: None,
        routes: vec![Route {
            path: "/relay".to_owned(),
            handler: Arc::new(move || Box::new(Relay::new(&alive))),
        }],
        node_name: "simulated".to_owned(),
        process_stats: ProcessStats::default,
    };
    Arc::new(Process {
        key: HashKey(random.next(), random.next()),
        shards,
        settings,
        connections: AtomicUsize::default(),
        started: now,
        uid: "simulated".to_owned(),
    })
}

/// Open connections of the process.
pub fn connections(process: &Process) -> usize {
    process.connections.load(Ordering::Relaxed)
}
