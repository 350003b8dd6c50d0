//! Every option by its path: the one table behind files, environment variables and flags.

use std::num::NonZeroUsize;

use super::Config;
use super::value::{
    Value, address, duration, level, log_format, number, origins, path, power_of_two, secret,
    switch, text, url,
};
use crate::limits::SHARDS_MAX;

/// An option: its path, and how a value becomes a field.
pub(super) struct Key {
    /// Such as `client.ping_interval`.
    pub(super) path: &'static str,
    /// Puts a value into its field, or says what would be right.
    pub(super) set: fn(&mut Config, Value) -> Result<(), String>,
}

impl Key {
    /// Such as `TIDERACE_CLIENT_PING_INTERVAL`.
    pub(super) fn environment_name(&self) -> String {
        environment_name(self.path)
    }
}

/// The environment variable of a path.
pub(super) fn environment_name(path: &str) -> String {
    format!("TIDERACE_{}", path.replace('.', "_").to_ascii_uppercase())
}

macro_rules! keys {
    ($($first:ident $(. $rest:ident)* = $read:expr;)*) => {
        /// Every option. A test holds this table against the fields of [`Config`].
        pub(super) const KEYS: &[Key] = &[$(Key {
            path: concat!(stringify!($first) $(, ".", stringify!($rest))*),
            set: |config, value| {
                config.$first$(.$rest)* = $read(value)?;
                Ok(())
            },
        }),*];
    };
}

keys! {
    http_server.address = address;
    http_server.port = |v| number(v, 0..=u16::MAX);
    client.insecure = switch;
    client.token.hmac_secret_key = secret;
    client.token.audience = text;
    client.token.issuer = text;
    client.allow_anonymous_connect_without_token = switch;
    client.allowed_origins = origins;
    client.ping_interval = duration;
    client.pong_timeout = duration;
    client.stale_close_delay = duration;
    client.channel_limit = |v| number(v, 1..=65_536);
    client.queue_max_size = |v| number(v, 1024..=1 << 30);
    client.connection_limit = |v| number(v, 0..=1 << 24).map(NonZeroUsize::new);
    channel.max_length = |v| number(v, 1..=4096);
    channel.without_namespace.allow_subscribe_for_client = switch;
    channel.without_namespace.allow_subscribe_for_anonymous = switch;
    channel.without_namespace.allow_publish_for_client = switch;
    channel.without_namespace.allow_publish_for_subscriber = switch;
    channel.without_namespace.allow_publish_for_anonymous = switch;
    websocket.message_size_limit = |v| number(v, 128..=1 << 30);
    http_api.disabled = switch;
    http_api.key = secret;
    http_api.insecure = switch;
    http_api.max_request_body_size = |v| number(v, 128..=1 << 30);
    health.enabled = switch;
    watch.enabled = switch;
    watch.base_path = path;
    watch.device_info_path = path;
    watch.lease_ttl = duration;
    watch.heartbeat_interval = duration;
    watch.device_wait_for_viewer = duration;
    watch.token.hmac_secret_key = secret;
    watch.token.table_file = text;
    watch.token.proxy_endpoint = url;
    watch.token.proxy_timeout = duration;
    shutdown.timeout = duration;
    log.level = level;
    log.format = log_format;
    engine.receive_buffers = |v| power_of_two(v, 1..=32_768);
    engine.receive_buffer_bytes = |v| number(v, 512..=1 << 20);
    shards = |v| number(v, 0..=SHARDS_MAX).map(NonZeroUsize::new);
}
