//! Options that Centrifugo v6 has and tiderace does not.
//!
//! A file written for Centrifugo starts here too: what is missing is named in a warning. Only
//! options whose loss would open something that the operator closed stop the start.

/// What the loss of an option means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// A feature is missing: a warning.
    Feature,
    /// Less is protected than the file says: an error.
    Protection,
}

/// Paths whose loss opens something. Everything below a path counts too.
const PROTECTIONS: &[&str] = &[
    "http_server.internal_address",
    "http_server.internal_port",
    "http_server.tls.enabled",
    "client.token.audience_regex",
    "client.token.issuer_regex",
    "client.disallow_anonymous_connection_tokens",
    "channel.namespaces",
    "channel.without_namespace.channel_regex",
];

/// Paths of missing features. Everything below a path counts too.
#[rustfmt::skip]
const FEATURES: &[&str] = &[
    // Sections.
    "admin", "broker", "consumers", "debug", "dev", "emulation", "enable_unreleased_features",
    "graphite", "grpc_api", "http_stream", "init", "map_broker", "node", "opentelemetry",
    "pid_file", "presence_manager", "prometheus", "proxies", "rpc", "sse", "swagger", "uni_grpc",
    "uni_http_stream", "uni_sse", "uni_websocket", "usage_stats", "webtransport",
    // Within the sections that tiderace has.
    "http_server.http3", "http_server.tls", "http_server.tls_external", "http_server.internal_tls",
    "log.file",
    "engine.type", "engine.redis",
    "client.allowed_delta_types", "client.channel_position_check_delay",
    "client.channel_position_max_time_lag", "client.concurrency",
    "client.connect_include_server_time", "client.connect_proxy_name",
    "client.connection_rate_limit", "client.expired_close_delay",
    "client.expired_sub_close_delay", "client.history_max_publication_limit",
    "client.insecure_skip_token_signature_verify", "client.presence_update_interval",
    "client.proxy", "client.recovery_max_publication_limit", "client.refresh_proxy_name",
    "client.subscribe_to_user_personal_channel", "client.subscription_token",
    "client.user_connection_limit", "client.user_id_http_header",
    "client.token.ecdsa_public_key", "client.token.jwks_public_endpoint",
    "client.token.rsa_public_key", "client.token.user_id_claim",
    "channel.history_meta_ttl", "channel.namespace_boundary", "channel.private_prefix",
    "channel.proxy", "channel.user_boundary", "channel.user_separator",
    "channel.without_namespace.allow_history_for_anonymous",
    "channel.without_namespace.allow_history_for_client",
    "channel.without_namespace.allow_history_for_subscriber",
    "channel.without_namespace.allow_positioning",
    "channel.without_namespace.allow_presence_for_anonymous",
    "channel.without_namespace.allow_presence_for_client",
    "channel.without_namespace.allow_presence_for_subscriber",
    "channel.without_namespace.allow_recovery",
    "channel.without_namespace.allow_user_limited_channels",
    "channel.without_namespace.allowed_delta_types", "channel.without_namespace.delta_publish",
    "channel.without_namespace.force_positioning",
    "channel.without_namespace.force_push_join_leave",
    "channel.without_namespace.force_recovery",
    "channel.without_namespace.force_recovery_mode",
    "channel.without_namespace.history_meta_ttl", "channel.without_namespace.history_size",
    "channel.without_namespace.history_ttl", "channel.without_namespace.join_leave",
    "channel.without_namespace.presence", "channel.without_namespace.publish_proxy_enabled",
    "channel.without_namespace.publish_proxy_name",
    "channel.without_namespace.sub_refresh_proxy_enabled",
    "channel.without_namespace.sub_refresh_proxy_name",
    "channel.without_namespace.subscribe_proxy_enabled",
    "channel.without_namespace.subscribe_proxy_name",
    "channel.without_namespace.subscribe_stream_bidirectional",
    "channel.without_namespace.subscribe_stream_proxy_enabled",
    "channel.without_namespace.subscribe_stream_proxy_name",
    "websocket.compression", "websocket.compression_level", "websocket.compression_min_size",
    "websocket.disabled", "websocket.handler_prefix", "websocket.read_buffer_size",
    "websocket.use_write_buffer_pool", "websocket.write_buffer_size", "websocket.write_timeout",
    "http_api.error_mode", "http_api.external", "http_api.handler_prefix",
    "health.handler_prefix",
    "shutdown.termination_delay",
];

/// What is lost with the option at `path`, if Centrifugo has it and tiderace does not.
pub(super) fn loss(path: &str) -> Option<Loss> {
    let covers = |entry: &&&str| {
        path.strip_prefix(**entry).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    if PROTECTIONS.iter().any(|entry| covers(&entry)) {
        Some(Loss::Protection)
    } else if FEATURES.iter().any(|entry| covers(&entry)) {
        Some(Loss::Feature)
    } else {
        None
    }
}

/// Every listed path.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    PROTECTIONS.iter().chain(FEATURES).copied()
}
