//! Whether options that are right one by one are right together.

use std::collections::BTreeMap;
use std::fmt;

use super::client::{Client, Token};
use super::proxy::{Proxy, Rpc, RpcOptions};
use super::transport::Handlers;
use super::{Config, watch};
use crate::channels::{ChannelOptions, ProxyName, SlowConsumer};

/// What does not fit, and the path of the option to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(super) key: String,
    pub(super) message: String,
    /// The same of another option, to blame where nobody set the first.
    pub(super) otherwise: Option<Box<Fault>>,
}

impl Fault {
    pub(crate) fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into(), otherwise: None }
    }

    /// Blames another option where nobody set this one.
    pub(super) fn or(self, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { otherwise: Some(Box::new(Self::new(key, message))), ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

fn fault<T>(key: impl Into<String>, message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::new(key, message))
}

/// Checks everything; returns what has no effect, one sentence each.
pub(super) fn check(config: &Config) -> Result<Vec<String>, Fault> {
    let mut warnings = Vec::new();
    client(&config.client, &mut warnings)?;
    handlers(&config.handlers)?;
    let names = proxy_names(config)?;
    namespace_names(config)?;
    for (path, options) in config.channel.all_options() {
        history(config, &path, options)?;
        without_effect(&path, options, &mut warnings);
        let defaults = &config.channel.proxy;
        for (event, enabled, name, default) in [
            (
                "subscribe",
                options.subscribe_proxy_enabled,
                &options.subscribe_proxy_name,
                &defaults.subscribe,
            ),
            (
                "publish",
                options.publish_proxy_enabled,
                &options.publish_proxy_name,
                &defaults.publish,
            ),
            (
                "sub_refresh",
                options.sub_refresh_proxy_enabled,
                &options.sub_refresh_proxy_name,
                &defaults.sub_refresh,
            ),
            ("state", options.state_proxy_enabled, &options.state_proxy_name, &defaults.state),
        ] {
            let (path, section) =
                (format!("{path}.{event}_proxy"), format!("channel.proxy.{event}"));
            proxy_use(&path, enabled, name, &names, default, &section)?;
        }
    }
    rpc(&config.rpc, &names)?;
    for (path, proxy) in proxies(config) {
        status_transforms(&path, proxy)?;
    }
    personal_channel(config)?;
    paths(config)?;
    unused(config, &mut warnings);
    warnings.extend(watch::check(&config.watch)?);
    Ok(warnings)
}

fn handlers(handlers: &Handlers) -> Result<(), Fault> {
    let (ping, silence) = (handlers.ping_interval, handlers.silence_timeout);
    if !ping.is_zero() && !silence.is_zero() && silence <= ping {
        let message =
            format!("{silence:?} must be above handlers.ping_interval, which is {ping:?}");
        let other =
            format!("{ping:?} must be below handlers.silence_timeout, which is {silence:?}");
        return Err(
            Fault::new("handlers.silence_timeout", message).or("handlers.ping_interval", other)
        );
    }
    Ok(())
}

fn client(client: &Client, warnings: &mut Vec<String>) -> Result<(), Fault> {
    let (ping, pong) = (client.ping_interval, client.pong_timeout);
    if !ping.is_zero() && pong >= ping {
        let message = format!("{pong:?} must be below client.ping_interval, which is {ping:?}");
        let other = format!("{ping:?} must be above client.pong_timeout, which is {pong:?}");
        return Err(Fault::new("client.pong_timeout", message).or("client.ping_interval", other));
    }
    for (event, proxy) in [("connect", &client.proxy.connect), ("refresh", &client.proxy.refresh)] {
        if proxy.enabled && proxy.proxy.endpoint.is_none() {
            let key = format!("client.proxy.{event}.enabled");
            return fault(key, format!("needs client.proxy.{event}.endpoint"));
        }
    }
    for (path, token) in [
        ("client.token", &client.token),
        ("client.subscription_token", &client.subscription_token.token),
    ] {
        if token.jwks_public_endpoint.as_ref().is_some_and(|url| url.contains("{{")) {
            let message = "has a variable, which Centrifugo takes from the token; tiderace fetches \
                 the keys of one URL";
            return fault(format!("{path}.jwks_public_endpoint"), message);
        }
        for (name, text, pattern) in [
            ("audience", &token.audience, &token.audience_regex),
            ("issuer", &token.issuer, &token.issuer_regex),
        ] {
            if text.is_some() && pattern.is_some() {
                let message = format!("stands beside {path}.{name}: set one of them, not both");
                return fault(format!("{path}.{name}_regex"), message);
            }
        }
    }
    let own = &client.subscription_token;
    if own.enabled && !own.token.has_key() {
        warnings.push(
            "client.subscription_token.enabled without a key: no subscription token is valid"
                .into(),
        );
    }
    if !own.enabled && own.token != Token::default() {
        let section = "client.subscription_token";
        warnings.push(format!("{section} has no effect without {section}.enabled"));
    }
    unused_keys("client.token", &client.token, warnings);
    if own.enabled {
        unused_keys("client.subscription_token", &own.token, warnings);
    }
    Ok(())
}

/// Names keys that verify nothing.
fn unused_keys(path: &str, token: &Token, warnings: &mut Vec<String>) {
    let has_previous = token.hmac_previous_secret_key.is_some();
    if token.jwks_public_endpoint.is_some() {
        for (is_set, name) in [
            (token.hmac_secret_key.is_some(), "hmac_secret_key"),
            (has_previous, "hmac_previous_secret_key"),
            (token.rsa_public_key.is_some(), "rsa_public_key"),
            (token.ecdsa_public_key.is_some(), "ecdsa_public_key"),
            (token.ed25519_public_key.is_some(), "ed25519_public_key"),
        ] {
            if is_set {
                let beside = format!("{path}.jwks_public_endpoint");
                warnings.push(format!("{path}.{name} has no effect beside {beside}"));
            }
        }
    }
    if token.hmac_previous_secret_key_valid_until != 0 && !has_previous {
        let needed = "hmac_previous_secret_key";
        warnings.push(format!("{path}.{needed}_valid_until has no effect without {path}.{needed}"));
    }
}

/// Names options that are set and that nothing follows from.
fn unused(config: &Config, warnings: &mut Vec<String>) {
    let (client, uni_websocket) = (&config.client, &config.uni_websocket);
    let delay = Client::default().channel_position_check_delay;
    for (is_set, name) in [
        (client.channel_position_check_delay != delay, "client.channel_position_check_delay"),
        (uni_websocket.join_push_messages, "uni_websocket.join_push_messages"),
        (uni_websocket.disable_disconnect_push, "uni_websocket.disable_disconnect_push"),
    ] {
        if is_set {
            warnings.push(format!("{name} has no effect"));
        }
    }
}

/// The named proxies; each can be used.
fn proxy_names(config: &Config) -> Result<Vec<&str>, Fault> {
    let mut names: Vec<&str> = Vec::new();
    for (index, named) in config.proxies.iter().enumerate() {
        let path = format!("proxies[{index}]");
        if named.name.is_empty() {
            return fault(path, "has no name");
        }
        if named.name == ProxyName::DEFAULT {
            let message = "is what the proxies in the sections of their events are called";
            return fault(format!("{path}.name"), format!("{:?} {message}", named.name));
        }
        if names.contains(&&*named.name) {
            return fault(format!("{path}.name"), format!("{:?} is used twice", named.name));
        }
        if named.proxy.endpoint.is_none() {
            return fault(path, format!("{} has no endpoint", named.name));
        }
        names.push(&named.name);
    }
    Ok(names)
}

/// Whether the proxy that something names exists. `path` is that of its options, without the
/// `_enabled` and `_name` at their ends.
fn proxy_use(
    path: &str,
    enabled: bool,
    ProxyName(name): &ProxyName,
    names: &[&str],
    default: &Proxy,
    section: &str,
) -> Result<(), Fault> {
    if name != ProxyName::DEFAULT {
        if !names.contains(&&**name) {
            return fault(format!("{path}_name"), format!("there is no proxy {name:?} in proxies"));
        }
    } else if enabled && default.endpoint.is_none() {
        return fault(format!("{path}_enabled"), format!("needs {section}.endpoint"));
    }
    Ok(())
}

/// Every proxy, used or not, with its path.
fn proxies(config: &Config) -> impl Iterator<Item = (String, &Proxy)> {
    let (client, channel) = (&config.client.proxy, &config.channel.proxy);
    let own = [
        ("client.proxy.connect", &client.connect.proxy),
        ("client.proxy.refresh", &client.refresh.proxy),
        ("channel.proxy.subscribe", &channel.subscribe),
        ("channel.proxy.publish", &channel.publish),
        ("channel.proxy.sub_refresh", &channel.sub_refresh),
        ("channel.proxy.state", &channel.state),
        ("rpc.proxy", &config.rpc.proxy),
    ];
    let named = config.proxies.iter().enumerate();
    let named = named.map(|(index, named)| (format!("proxies[{index}]"), &named.proxy));
    own.into_iter().map(|(path, proxy)| (path.to_owned(), proxy)).chain(named)
}

/// Whether every status stands for one refusal.
fn status_transforms(path: &str, proxy: &Proxy) -> Result<(), Fault> {
    for (index, transform) in proxy.http.status_to_code_transforms.iter().enumerate() {
        let key = |name: &str| format!("{path}.http.status_to_code_transforms[{index}]{name}");
        if matches!(transform.status_code, 0 | 200) {
            return fault(key(""), "needs a status_code other than 200");
        }
        match (transform.to_error.code, transform.to_disconnect.code) {
            (0, 0) => return fault(key(""), "needs to_error.code or to_disconnect.code"),
            (0, 4000..=4999) | (100..=113 | 400..=1999, 0) => {}
            (0, _) => return fault(key(".to_disconnect.code"), "must be from 4000 to 4999"),
            (_, 0) => return fault(key(".to_error.code"), "must be from 400 to 1999"),
            _ => return fault(key(""), "has both to_error and to_disconnect"),
        }
    }
    Ok(())
}

fn namespace_names(config: &Config) -> Result<(), Fault> {
    let boundary = &*config.channel.namespace_boundary;
    let names = config.channel.namespaces.iter().map(|namespace| &*namespace.name);
    distinct("channel.namespaces", names.clone())?;
    for (index, name) in names.enumerate() {
        if boundary.is_empty() || name.contains(boundary) {
            let message = format!(
                "no channel can be in {name:?} with channel.namespace_boundary {boundary:?}"
            );
            return fault(format!("channel.namespaces[{index}].name"), message);
        }
    }
    Ok(())
}

/// Whether all elements of a list have a name of their own.
fn distinct<'a>(path: &str, names: impl Iterator<Item = &'a str>) -> Result<(), Fault> {
    let mut seen = Vec::new();
    for (index, name) in names.enumerate() {
        if name.is_empty() {
            return fault(format!("{path}[{index}]"), "has no name");
        }
        if seen.contains(&name) {
            return fault(format!("{path}[{index}].name"), format!("{name:?} is used twice"));
        }
        seen.push(name);
    }
    Ok(())
}

fn history(config: &Config, path: &str, options: &ChannelOptions) -> Result<(), Fault> {
    let key = |name: &str| format!("{path}.{name}");
    if options.history_size > 0 && options.history_ttl.is_zero() {
        return fault(key("history_size"), "needs history_ttl: without both there is no history");
    }
    if options.history_size == 0 && !options.history_ttl.is_zero() {
        return fault(key("history_ttl"), "needs history_size: without both there is no history");
    }
    if options.force_recovery && !options.has_history() {
        return fault(key("force_recovery"), "needs a history: history_size and history_ttl");
    }
    let (meta_ttl, name) = if options.history_meta_ttl.is_zero() {
        (config.channel.history_meta_ttl, "channel.history_meta_ttl")
    } else {
        (options.history_meta_ttl, "history_meta_ttl")
    };
    if options.history_ttl > meta_ttl {
        let message =
            format!("{:?} must not be above {name}, which is {meta_ttl:?}", options.history_ttl);
        return fault(key("history_ttl"), message);
    }
    Ok(())
}

/// Names options that another one makes meaningless.
fn without_effect(path: &str, options: &ChannelOptions, warnings: &mut Vec<String>) {
    let publishes = options.allow_publish_for_client || options.allow_publish_for_subscriber;
    let asks_presence = options.allow_presence_for_client || options.allow_presence_for_subscriber;
    let reads_history = options.allow_history_for_client || options.allow_history_for_subscriber;
    for (set, needs, name, needed) in [
        (
            options.allow_subscribe_for_anonymous,
            options.allow_subscribe_for_client,
            "allow_subscribe_for_anonymous",
            "allow_subscribe_for_client",
        ),
        (
            options.allow_publish_for_anonymous,
            publishes,
            "allow_publish_for_anonymous",
            "allow_publish_for_client or allow_publish_for_subscriber",
        ),
        (
            options.allow_presence_for_anonymous,
            asks_presence,
            "allow_presence_for_anonymous",
            "allow_presence_for_client or allow_presence_for_subscriber",
        ),
        (
            options.allow_history_for_anonymous,
            reads_history,
            "allow_history_for_anonymous",
            "allow_history_for_client or allow_history_for_subscriber",
        ),
        (options.force_push_join_leave, options.join_leave, "force_push_join_leave", "join_leave"),
        (options.join_leave_by_user, options.join_leave, "join_leave_by_user", "join_leave"),
        (
            !options.conflation_tag.is_empty(),
            options.slow_consumer == SlowConsumer::Latest,
            "conflation_tag",
            "slow_consumer \"latest\"",
        ),
        (asks_presence, options.presence, "allow_presence_for_*", "presence"),
        (reads_history, options.has_history(), "allow_history_for_*", "history_size"),
    ] {
        if set && !needs {
            warnings.push(format!("{path}.{name} has no effect without {needed}"));
        }
    }
}

fn rpc(rpc: &Rpc, names: &[&str]) -> Result<(), Fault> {
    distinct("rpc.namespaces", rpc.namespaces.iter().map(|namespace| &*namespace.name))?;
    let namespaces = rpc.namespaces.iter().enumerate();
    let namespaces = namespaces
        .map(|(index, namespace)| (format!("rpc.namespaces[{index}].proxy"), &namespace.options));
    let none: (String, &RpcOptions) =
        ("rpc.without_namespace.proxy".into(), &rpc.without_namespace);
    for (path, options) in [none].into_iter().chain(namespaces) {
        let (enabled, name) = (options.proxy_enabled, &options.proxy_name);
        proxy_use(&path, enabled, name, names, &rpc.proxy, "rpc.proxy")?;
    }
    Ok(())
}

fn personal_channel(config: &Config) -> Result<(), Fault> {
    let personal = &config.client.subscribe_to_user_personal_channel;
    let key = |name: &str| format!("client.subscribe_to_user_personal_channel.{name}");
    if !personal.enabled {
        return Ok(());
    }
    let name = &personal.personal_channel_namespace;
    let options = if name.is_empty() {
        &config.channel.without_namespace
    } else {
        let mut namespaces = config.channel.namespaces.iter();
        match namespaces.find(|namespace| namespace.name == *name) {
            Some(namespace) => &namespace.options,
            None => {
                let message = format!("there is no namespace {name:?}");
                return fault(key("personal_channel_namespace"), message);
            }
        }
    };
    if personal.single_connection && !options.presence {
        let place = if name.is_empty() {
            "channel.without_namespace".into()
        } else {
            format!("namespace {name}")
        };
        return fault(key("single_connection"), format!("needs presence in {place}"));
    }
    Ok(())
}

/// Whether every endpoint that is there has a path of its own.
fn paths(config: &Config) -> Result<(), Fault> {
    let mut taken = BTreeMap::new();
    for (is_there, path, key) in [
        (!config.websocket.disabled, &config.websocket.handler_prefix, "websocket"),
        (config.sse.enabled, &config.sse.handler_prefix, "sse"),
        (config.http_stream.enabled, &config.http_stream.handler_prefix, "http_stream"),
        (
            config.sse.enabled || config.http_stream.enabled,
            &config.emulation.handler_prefix,
            "emulation",
        ),
        (config.uni_websocket.enabled, &config.uni_websocket.handler_prefix, "uni_websocket"),
        (config.uni_sse.enabled, &config.uni_sse.handler_prefix, "uni_sse"),
        (config.uni_http_stream.enabled, &config.uni_http_stream.handler_prefix, "uni_http_stream"),
        (config.events.enabled, &config.events.handler_prefix, "events"),
        (!config.http_api.disabled, &config.http_api.handler_prefix, "http_api"),
        (config.prometheus.enabled, &config.prometheus.handler_prefix, "prometheus"),
        (config.health.enabled, &config.health.handler_prefix, "health"),
    ] {
        if is_there && let Some(other) = taken.insert(path, key) {
            let message = |other| format!("{path} is the path of {other} too");
            return Err(Fault::new(format!("{key}.handler_prefix"), message(other))
                .or(format!("{other}.handler_prefix"), message(key)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{NamedProxy, Namespace, RpcNamespace, Secret, StatusTransform};

    /// The key that is to blame in a default configuration that was changed so.
    fn blamed(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        check(&config).map_or_else(|fault| fault.key, |_| "nothing".into())
    }

    fn namespace(name: &str) -> Namespace {
        Namespace { name: name.into(), ..Namespace::default() }
    }

    fn named_proxy(name: &str) -> NamedProxy {
        let endpoint = Some("http://b.example".into());
        NamedProxy { name: name.into(), proxy: Proxy { endpoint, ..Proxy::default() } }
    }

    #[test]
    fn silence_is_longer_than_the_pause_between_pings() {
        let blamed = |ping_s, silence_s| {
            blamed(|config| {
                config.handlers.ping_interval = Duration::from_secs(ping_s);
                config.handlers.silence_timeout = Duration::from_secs(silence_s);
            })
        };
        assert_eq!(blamed(30, 30), "handlers.silence_timeout");
        for fits in [(30, 31), (30, 0), (0, 5)] {
            assert_eq!(blamed(fits.0, fits.1), "nothing");
        }
    }

    #[test]
    fn what_has_no_effect_is_named() {
        let mut config = Config::default();
        config.client.channel_position_check_delay = Duration::from_secs(1);
        config.uni_websocket.join_push_messages = true;
        config.uni_websocket.disable_disconnect_push = true;
        let warnings = check(&config).unwrap();
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings.iter().all(|warning| warning.ends_with(" has no effect")));
    }

    #[test]
    fn the_defaults_fit_together() {
        assert_eq!(check(&Config::default()), Ok(vec![]));
    }

    #[test]
    fn histories_are_whole() {
        type Change = fn(&mut ChannelOptions);
        let changes: [(Change, &str); 6] = [
            (|options| options.history_size = 1, "history_size"),
            (|options| options.history_ttl = Duration::from_secs(1), "history_ttl"),
            (|options| options.force_recovery = true, "force_recovery"),
            (
                |options| {
                    options.history_size = 1;
                    options.history_ttl = Duration::from_secs(2);
                    options.history_meta_ttl = Duration::from_secs(1);
                },
                "history_ttl",
            ),
            (
                |options| {
                    options.history_size = 1;
                    options.history_ttl = Duration::from_secs(31 * 24 * 3600);
                },
                "history_ttl",
            ),
            (
                |options| {
                    options.history_size = 1;
                    options.history_ttl = Duration::from_secs(2);
                    options.force_recovery = true;
                },
                "",
            ),
        ];
        for (change, key) in changes {
            let expected = |path: &str| match key {
                "" => String::from("nothing"),
                key => format!("{path}.{key}"),
            };
            let without = blamed(|config| change(&mut config.channel.without_namespace));
            assert_eq!(without, expected("channel.without_namespace"));
            let within = blamed(|config| {
                config.channel.namespaces = vec![namespace("one"), namespace("two")];
                change(&mut config.channel.namespaces[1].options);
            });
            assert_eq!(within, expected("channel.namespaces[1]"));
        }
    }

    #[test]
    fn names_are_there_once_and_can_be_used() {
        let namespaces = |names: &[&str], boundary: &str| {
            blamed(|config| {
                config.channel.namespaces = names.iter().map(|name| namespace(name)).collect();
                config.channel.namespace_boundary = boundary.into();
            })
        };
        assert_eq!(namespaces(&["aa", "bb"], ":"), "nothing");
        assert_eq!(namespaces(&["aa", "aa"], ":"), "channel.namespaces[1].name");
        assert_eq!(namespaces(&["aa", ""], ":"), "channel.namespaces[1]");
        assert_eq!(namespaces(&["a.a"], "."), "channel.namespaces[0].name");
        assert_eq!(namespaces(&["aa"], ""), "channel.namespaces[0].name");
        let proxies = |names: &[&str]| {
            blamed(|config| config.proxies = names.iter().map(|name| named_proxy(name)).collect())
        };
        assert_eq!(proxies(&["aa", "bb"]), "nothing");
        assert_eq!(proxies(&["aa", "aa"]), "proxies[1].name");
        assert_eq!(proxies(&["default"]), "proxies[0].name");
        assert_eq!(proxies(&[""]), "proxies[0]");
        assert_eq!(
            blamed(
                |c| c.proxies = vec![NamedProxy { proxy: Proxy::default(), ..named_proxy("aa") }]
            ),
            "proxies[0]"
        );
        let rpc = |name: &str| {
            blamed(|config| {
                config.rpc.namespaces =
                    vec![RpcNamespace { name: name.into(), ..RpcNamespace::default() }];
            })
        };
        assert_eq!((rpc("aa"), rpc("")), ("nothing".into(), "rpc.namespaces[0]".into()));
    }

    #[test]
    fn a_proxy_that_is_used_is_there() {
        let endpoint = || Some(String::from("http://b.example"));
        assert_eq!(
            blamed(|c| c.client.proxy.connect.enabled = true),
            "client.proxy.connect.enabled"
        );
        assert_eq!(
            blamed(|c| c.client.proxy.refresh.enabled = true),
            "client.proxy.refresh.enabled"
        );
        let connect = blamed(|config| {
            config.client.proxy.connect.enabled = true;
            config.client.proxy.connect.proxy.endpoint = endpoint();
        });
        assert_eq!(connect, "nothing");
        type Change = fn(&mut ChannelOptions);
        let switches: [(Change, &str); 4] = [
            (|options| options.subscribe_proxy_enabled = true, "subscribe_proxy_enabled"),
            (|options| options.publish_proxy_enabled = true, "publish_proxy_enabled"),
            (|options| options.sub_refresh_proxy_enabled = true, "sub_refresh_proxy_enabled"),
            (|options| options.state_proxy_enabled = true, "state_proxy_enabled"),
        ];
        for (change, key) in switches {
            let without = blamed(|config| change(&mut config.channel.without_namespace));
            assert_eq!(without, format!("channel.without_namespace.{key}"));
            let with = blamed(|config| {
                change(&mut config.channel.without_namespace);
                let proxy = &mut config.channel.proxy;
                for proxy in [
                    &mut proxy.subscribe,
                    &mut proxy.publish,
                    &mut proxy.sub_refresh,
                    &mut proxy.state,
                ] {
                    proxy.endpoint = endpoint();
                }
            });
            assert_eq!(with, "nothing");
        }
        let by_name = |names: &[&str]| {
            blamed(|config| {
                config.proxies = names.iter().map(|name| named_proxy(name)).collect();
                config.channel.without_namespace.publish_proxy_name = ProxyName("mine".into());
            })
        };
        assert_eq!(by_name(&["mine"]), "nothing");
        assert_eq!(by_name(&["yours"]), "channel.without_namespace.publish_proxy_name");
        let rpc = blamed(|config| config.rpc.without_namespace.proxy_enabled = true);
        assert_eq!(rpc, "rpc.without_namespace.proxy_enabled");
    }

    #[test]
    fn statuses_stand_for_one_refusal() {
        let blamed = |status_code, error, disconnect| {
            blamed(|config| {
                let mut transform = StatusTransform { status_code, ..StatusTransform::default() };
                transform.to_error.code = error;
                transform.to_disconnect.code = disconnect;
                config.rpc.proxy.http.status_to_code_transforms.push(transform);
            })
        };
        let key = "rpc.proxy.http.status_to_code_transforms[0]";
        assert_eq!(blamed(404, 404, 0), "nothing");
        assert_eq!(blamed(404, 103, 0), "nothing");
        assert_eq!(blamed(403, 0, 4504), "nothing");
        for (status_code, error, disconnect, end) in [
            (0, 404, 0, ""),
            (200, 404, 0, ""),
            (404, 0, 0, ""),
            (404, 404, 4000, ""),
            (404, 200, 0, ".to_error.code"),
            (404, 0, 3000, ".to_disconnect.code"),
        ] {
            assert_eq!(blamed(status_code, error, disconnect), format!("{key}{end}"));
        }
    }

    #[test]
    fn who_is_not_pinged_needs_no_answer() {
        assert_eq!(blamed(|c| c.client.ping_interval = Duration::ZERO), "nothing");
        assert_eq!(blamed(|c| c.client.pong_timeout = Duration::ZERO), "nothing");
    }

    #[test]
    fn key_sets_have_one_url() {
        let blamed = |url: &str| blamed(|c| c.client.token.jwks_public_endpoint = Some(url.into()));
        assert_eq!(blamed("https://sso.example/a/certs"), "nothing");
        let key = "client.token.jwks_public_endpoint";
        assert_eq!(blamed("https://sso.example/{{realm}}/certs"), key);
    }

    #[test]
    fn personal_channels_have_their_namespace() {
        let personal = |name: &str, single: bool, presence: bool| {
            blamed(|config| {
                let personal = &mut config.client.subscribe_to_user_personal_channel;
                personal.enabled = true;
                personal.personal_channel_namespace = name.into();
                personal.single_connection = single;
                config.channel.namespaces = vec![namespace("users")];
                config.channel.namespaces[0].options.presence = presence;
            })
        };
        let key = |name: &str| format!("client.subscribe_to_user_personal_channel.{name}");
        assert_eq!(personal("", false, false), "nothing");
        assert_eq!(personal("users", false, false), "nothing");
        assert_eq!(personal("users", true, true), "nothing");
        assert_eq!(personal("users", true, false), key("single_connection"));
        assert_eq!(personal("", true, true), key("single_connection"));
        assert_eq!(personal("others", false, false), key("personal_channel_namespace"));
    }

    #[test]
    fn endpoints_do_not_shadow_each_other() {
        let shared = |enabled| {
            blamed(|config| {
                config.uni_sse.enabled = enabled;
                config.uni_sse.handler_prefix = "/health".into();
            })
        };
        assert_eq!(shared(false), "nothing");
        assert_eq!(shared(true), "health.handler_prefix");
    }

    #[test]
    fn options_without_effect_are_named() {
        let mut config = Config::default();
        let options = &mut config.channel.without_namespace;
        options.allow_subscribe_for_anonymous = true;
        options.force_push_join_leave = true;
        options.conflation_tag = "k".into();
        options.allow_history_for_client = true;
        config.client.subscription_token.enabled = true;
        let warnings = check(&config).unwrap().join("\n");
        for part in [
            "allow_subscribe_for_anonymous has no effect without allow_subscribe_for_client",
            "force_push_join_leave has no effect without join_leave",
            "conflation_tag has no effect without slow_consumer \"latest\"",
            "allow_history_for_* has no effect without history_size",
            "client.subscription_token.enabled without a key",
        ] {
            assert!(warnings.contains(part), "{part} in {warnings}");
        }
        assert_eq!(warnings.lines().count(), 5, "{warnings}");
    }

    #[test]
    fn keys_that_verify_nothing_are_named() {
        let key = || Some(Secret::new("k"));
        let pem = || Some(String::from("-----BEGIN PUBLIC KEY-----"));
        let all = Token {
            hmac_secret_key: key(),
            hmac_previous_secret_key: key(),
            rsa_public_key: pem(),
            ecdsa_public_key: pem(),
            ed25519_public_key: pem(),
            ..Token::default()
        };
        let mut config = Config::default();
        config.client.token = all.clone();
        assert_eq!(check(&config), Ok(vec![]));
        config.client.token.jwks_public_endpoint = Some("https://sso.example/certs".into());
        config.client.subscription_token.token = all;
        let beside = |name: &str| {
            format!("client.token.{name} has no effect beside client.token.jwks_public_endpoint")
        };
        let mut expected: Vec<String> = [
            "hmac_secret_key",
            "hmac_previous_secret_key",
            "rsa_public_key",
            "ecdsa_public_key",
            "ed25519_public_key",
        ]
        .map(beside)
        .into();
        let section = "client.subscription_token";
        expected.insert(0, format!("{section} has no effect without {section}.enabled"));
        assert_eq!(check(&config), Ok(expected));

        let mut config = Config::default();
        config.client.token.hmac_previous_secret_key_valid_until = 7;
        let key = "client.token.hmac_previous_secret_key";
        let warning = format!("{key}_valid_until has no effect without {key}");
        assert_eq!(check(&config), Ok(vec![warning]));
    }
}
