//! Options that Centrifugo v6 has and tiderace does not, those of Centrifugo PRO included.
//!
//! A file written for Centrifugo starts here too: what is missing is named in a warning. Only options
//! whose loss would open something that the operator closed, or would tear the clients of several
//! nodes apart, stop the start.

use std::collections::BTreeMap;

use super::check::Fault;

/// What the loss of an option means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// A feature is missing: a warning.
    Feature,
    /// Less is protected than the file says: an error.
    Protection,
    /// Nothing: what it asks for is so anyway.
    Nothing,
    /// It says where channels or presence are kept, and [`shared`] whether that can be followed.
    Store,
    /// Each node would have channels or presence of its own: an error.
    Nodes,
}

/// Where channels and presence are kept, by default, and by what goes before that if it is enabled.
const STORES: &[&str] = &["engine.type", "broker", "presence_manager"];

/// The same in Centrifugo PRO: lists of stores, and how nodes find each other.
const NODES: &[&str] = &["brokers", "controller", "presence_managers"];

/// The store that tiderace has.
const OWN_STORE: &str = "memory";

/// What an operator of several nodes should know.
pub(super) const SINGLE: &str = "tiderace is a single node that keeps channels, histories and \
     presence in its own memory: clients of two nodes would not see each other";

/// Paths whose loss opens something. Everything below a path counts too.
const PROTECTIONS: &[&str] = &[
    "http_server.internal_address",
    "http_server.internal_port",
    "http_server.tls",
    "http_server.tls_autocert",
    // PRO: what was blocked or revoked would be good again.
    "token_revoke",
    "user_block",
    "user_tokens_invalidate",
    // PRO: channels would be under the rules of no namespace instead of their pattern's.
    "channel.patterns",
];

/// Paths of missing features. Everything below a path counts too.
#[rustfmt::skip]
const FEATURES: &[&str] = &[
    // Sections.
    "admin", "consumers", "debug", "dev", "enable_unreleased_features", "graphite",
    "grpc_api", "init", "map_broker", "opentelemetry", "pid_file", "shared_poll", "swagger", "uni_grpc", "webtransport",
    // Within the sections that tiderace has.
    "http_server.h2c_external", "http_server.http3", "http_server.internal_tls",
    "http_server.tls_external",
    "prometheus.instrument_http_handlers", "prometheus.native_histograms",
    "prometheus.recovered_publications_histogram",
    "log.file",
    "node.info_metrics_aggregate_interval",
    "engine.redis",
    "client.allowed_delta_types", "client.channel_position_max_time_lag", "client.concurrency",
    "client.connect_code_to_unidirectional_disconnect", "client.connect_include_server_time",
    "client.connection_rate_limit", "client.presence_update_interval",
    "client.token.insecure_skip_jwks_endpoint_safety_check",
    "client.subscription_token.insecure_skip_jwks_endpoint_safety_check",
    "channel.publication_data_format",
    "channel.proxy.cache_empty", "channel.proxy.map_publish", "channel.proxy.map_remove",
    "channel.proxy.shared_poll_refresh", "channel.proxy.subscribe_stream",
    "websocket.compression", "websocket.compression_level", "websocket.compression_min_size",
    "websocket.decompressed_message_size_limit", "websocket.disable_closing_handshake",
    "websocket.read_buffer_size", "websocket.use_write_buffer_pool", "websocket.write_buffer_size",
    "websocket.write_timeout",
    "uni_websocket.compression", "uni_websocket.compression_level",
    "uni_websocket.compression_min_size", "uni_websocket.decompressed_message_size_limit",
    "uni_websocket.disable_closing_handshake", "uni_websocket.read_buffer_size",
    "uni_websocket.use_write_buffer_pool", "uni_websocket.write_buffer_size",
    "uni_websocket.write_timeout",
    "uni_http_stream.connect_code_to_http_response", "uni_sse.connect_code_to_http_response",
    "http_api.external",
    "shutdown.termination_delay",
];

/// The same in Centrifugo PRO.
#[rustfmt::skip]
const PRO_FEATURES: &[&str] = &[
    // Sections.
    "cache", "clickhouse_analytics", "database", "distributed_rate_limit", "license",
    "push_notifications", "schemas", "sentry", "singleflight",
    "state", "user_status",
    // Within the sections that tiderace has.
    "client.batch_periodic_events", "client.max_messages_in_frame", "client.queue_initial_cap",
    "client.rate_limit", "client.reply_without_queue", "client.write_delay",
    "client.token.jwks", "client.token.labels_from_claim", "client.token.meta_from_claim",
    "client.subscription_token.jwks",
    "http_api.jwks",
    "prometheus.additional_client_names",
    "prometheus.channel_namespace_for_transport_messages_received",
    "prometheus.channel_namespace_for_transport_messages_sent",
    "prometheus.channel_namespace_resolution",
    "prometheus.client_labels", "prometheus.expose_transport_accept_protocol",
    "websocket.compression_prepared_message_cache_size",
    "websocket.process_commands_off_read_loop",
];

/// Where the options of channels stand.
const CHANNELS: &[&str] = &["channel.without_namespace", "channel.namespaces"];

/// Missing features of channels, below each of [`CHANNELS`].
const CHANNEL_FEATURES: &[&str] = &[
    "allow_tags_filter",
    "allowed_delta_types",
    "auto_cache_recovery",
    "cache_empty_proxy_enabled",
    "cache_empty_proxy_name",
    "delta_publish",
    "map",
    "map_clients_presence_channel_prefix",
    "map_users_presence_channel_prefix",
    "publication_data_format",
    "shared_poll",
    "subscribe_stream_proxy_bidirectional",
    "subscribe_stream_proxy_enabled",
    "subscribe_stream_proxy_name",
    "subscription_type",
    // PRO. Expressions only ever allow more than the other options do.
    "allow_channel_compaction",
    "batch_flush_latest",
    "batch_max_delay",
    "batch_max_size",
    "broker_name",
    "client_publication_tags",
    "history_cel",
    "keep_latest_publication",
    "pattern",
    "presence_cel",
    "presence_manager_name",
    "publish_cel",
    "shared_position_sync",
    "state_events",
    "subscribe_cel",
];

/// Options of channels, below each of [`CHANNELS`], whose loss opens something: those of PRO that
/// say what clients may publish, and who is told that it was them.
const CHANNEL_PROTECTIONS: &[&str] = &[
    "client_publication",
    "client_publication_data_schemas",
    "client_publication_exclude_client_info",
];

/// Where proxies stand.
const PROXIES: &[&str] = &[
    "client.proxy.connect",
    "client.proxy.refresh",
    "channel.proxy.subscribe",
    "channel.proxy.publish",
    "channel.proxy.sub_refresh",
    "channel.proxy.state",
    "rpc.proxy",
    "proxies",
];

/// Missing features of proxies, below each of [`PROXIES`].
const PROXY_FEATURES: &[&str] = &["grpc", "grpc_metadata", "http.tls", "http.use_fast_client"];

/// Paths that ask for what is so anyway: no statistics are sent to anybody.
const NOTHING: &[&str] = &["usage_stats"];

/// What is lost with the option at `path`, if Centrifugo has it and tiderace does not. The number
/// of an element may follow the name of its list.
pub(super) fn loss(path: &str) -> Option<Loss> {
    let path = without_numbers(path);
    listed().find_map(|(entry, loss)| {
        let rest = path.strip_prefix(&entry)?;
        (rest.is_empty() || rest.starts_with('.')).then_some(loss)
    })
}

/// The store that several nodes would share, if `asked` names one: the values of what is listed as
/// a store, by their paths.
pub(super) fn shared(asked: &BTreeMap<String, String>) -> Option<Fault> {
    let is_used = |section: &str| {
        let switch = asked.get(&format!("{section}.enabled")).map(|on| on.to_ascii_lowercase());
        section == "engine" || matches!(switch.as_deref(), Some("true" | "1"))
    };
    ["engine", "broker", "presence_manager"].into_iter().find_map(|section| {
        let key = format!("{section}.type");
        let kind = asked.get(&key).filter(|kind| !["", OWN_STORE].contains(&kind.as_str()))?;
        is_used(section).then(|| {
            let message = format!(
                "{kind:?} is a store that several nodes share, and {SINGLE}; set {OWN_STORE:?}, \
                 and run one node"
            );
            Fault::new(key, message)
        })
    })
}

/// Every listed path, and what its loss means.
pub(super) fn listed() -> impl Iterator<Item = (String, Loss)> {
    let plain = |paths: &'static [&'static str], loss| {
        paths.iter().map(move |path| ((*path).to_owned(), loss))
    };
    let below = |sections: &'static [&'static str], names: &'static [&'static str], loss| {
        sections.iter().flat_map(move |section| {
            names.iter().map(move |name| (format!("{section}.{name}"), loss))
        })
    };
    plain(PROTECTIONS, Loss::Protection)
        .chain(plain(FEATURES, Loss::Feature))
        .chain(plain(PRO_FEATURES, Loss::Feature))
        .chain(plain(NOTHING, Loss::Nothing))
        .chain(plain(STORES, Loss::Store))
        .chain(plain(NODES, Loss::Nodes))
        .chain(below(CHANNELS, CHANNEL_PROTECTIONS, Loss::Protection))
        .chain(below(CHANNELS, CHANNEL_FEATURES, Loss::Feature))
        .chain(below(PROXIES, PROXY_FEATURES, Loss::Feature))
}

/// Names that may follow `path`.
pub(super) fn children(path: &str) -> impl Iterator<Item = String> {
    let path = without_numbers(path);
    listed().filter_map(move |(entry, _)| {
        let rest = match &*path {
            "" => &*entry,
            path => entry.strip_prefix(path)?.strip_prefix('.')?,
        };
        rest.split('.').next().map(str::to_owned)
    })
}

fn without_numbers(path: &str) -> String {
    path.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::section::{Child, Section};

    #[test]
    fn losses_are_found_within_elements() {
        for (path, expected) in [
            ("admin", Some(Loss::Feature)),
            ("admin.password", Some(Loss::Feature)),
            ("administrator", None),
            ("http_server.tls", Some(Loss::Protection)),
            ("channel.namespaces[12].delta_publish", Some(Loss::Feature)),
            ("proxies[0].http.tls", Some(Loss::Feature)),
            ("channel.namespaces[0].presence", None),
            ("usage_stats.disabled", Some(Loss::Nothing)),
            ("client.rate_limit.client_command.enabled", Some(Loss::Feature)),
            ("channel.namespaces[0].subscribe_cel", Some(Loss::Feature)),
            ("user_block.storage_type", Some(Loss::Protection)),
            ("channel.patterns", Some(Loss::Protection)),
            (
                "channel.namespaces[0].client_publication.exclude_client_info",
                Some(Loss::Protection),
            ),
            ("channel.namespaces[0].client_publication_tags", Some(Loss::Feature)),
            ("engine.type", Some(Loss::Store)),
            ("engine.redis.address", Some(Loss::Feature)),
            ("presence_manager", Some(Loss::Store)),
            ("presence_managers", Some(Loss::Nodes)),
        ] {
            assert_eq!(loss(path), expected, "{path}");
        }
        assert!(children("proxies[3].http").any(|name| name == "tls"));
    }

    #[test]
    fn what_is_listed_as_missing_is_missing() {
        fn is_there(section: &mut dyn Section, path: &str) -> bool {
            let (name, rest) = path.split_once('.').unwrap_or((path, ""));
            match section.child(name) {
                None => false,
                Some(_) if rest.is_empty() => true,
                Some(Child::Option(_)) => panic!("{path} is below an option"),
                Some(Child::Section(section)) => is_there(section, rest),
                Some(Child::List(list)) => is_there(list.push(), rest),
            }
        }
        for (path, _) in listed() {
            assert!(!is_there(&mut Config::default(), &path), "{path}");
        }
    }
}
