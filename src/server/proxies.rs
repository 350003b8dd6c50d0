//! The proxies of the configuration as a list, and who in it is asked about what.

use std::collections::BTreeMap;

use super::Error;
use crate::{
    backend::{self, Backend, Bounds, Notifier, Trust, Workers},
    channels::{ChannelOptions, ProxyName},
    config::{self, Config, Fault, OptionalProxy, RpcOptions, StatusTransform},
    proxy::{
        HeaderRules, ProxyId, Routes,
        answers::Refusal,
        notices::VACATED_DELAY,
        routes::{ChannelEvent, RpcRoutes},
    },
};

/// What the configuration says of proxies to the backend, without that of device tokens.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    list: Vec<backend::Proxy>,
    /// Where each of them stands in the configuration.
    paths: Vec<String>,
    pub(super) routes: Routes,
    /// Those that are told of channels.
    notified: Vec<ProxyId>,
}

/// The ways to the threads that ask, not started, and to those that tell.
#[derive(Debug, Default)]
pub(super) struct Ways {
    pub(super) backend: Option<(Backend, Workers)>,
    pub(super) notifiers: BTreeMap<ProxyId, Notifier>,
}

/// What a status stands for; a configuration that was checked has nothing else.
fn refusal(transform: &StatusTransform) -> Option<Refusal> {
    let (error, disconnect) = (&transform.to_error, &transform.to_disconnect);
    match error.code {
        0 => Refusal::disconnect(disconnect.code, &disconnect.reason),
        code => Refusal::error(code, &error.message, error.temporary),
    }
    .ok()
}

impl Proxies {
    /// # Errors
    /// What is wrong with a proxy.
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        let mut proxies = Self::of(config);
        proxies.routes.headers = proxies.headers()?;
        Ok(proxies)
    }

    /// Those that are used, right or wrong, and without the rules of their headers.
    pub(super) fn of(config: &Config) -> Self {
        let mut proxies = Self::default();
        for (index, named) in config.proxies.iter().enumerate() {
            let name = format!("proxies: {}", named.name);
            if let Some(id) = proxies.add_at(format!("proxies[{index}]"), name, &named.proxy) {
                proxies.routes.named.insert(named.name.clone(), id);
            }
        }
        let mut optional = |event: &str, proxy: &OptionalProxy| {
            let id =
                proxy.enabled.then(|| proxies.add(format!("client.proxy.{event}"), &proxy.proxy));
            id.flatten()
        };
        let connect = optional("connect", &config.client.proxy.connect);
        let refresh = optional("refresh", &config.client.proxy.refresh);
        (proxies.routes.connect, proxies.routes.refresh) = (connect, refresh);
        proxies.add_channels(config);
        proxies.add_rpc(config);
        proxies
    }

    /// A proxy that is called as its section is.
    fn add(&mut self, path: String, proxy: &config::Proxy) -> Option<ProxyId> {
        self.add_at(path.clone(), path, proxy)
    }

    fn add_at(&mut self, path: String, name: String, proxy: &config::Proxy) -> Option<ProxyId> {
        let id = ProxyId(u16::try_from(self.list.len()).ok()?);
        let static_headers = proxy.http.static_headers.iter();
        self.list.push(backend::Proxy {
            name,
            endpoint: proxy.endpoint.clone()?,
            timeout: proxy.timeout.min(super::DURATION_MAX),
            http_headers: proxy.http_headers.clone(),
            emulated_headers: proxy.emulated_headers.clone(),
            static_headers: static_headers
                .map(|(name, value)| (name.clone(), value.expose().to_owned()))
                .collect(),
            include_connection_meta: proxy.include_connection_meta,
            binary_encoding: proxy.binary_encoding,
            status_to_code_transforms: proxy
                .http
                .status_to_code_transforms
                .iter()
                .filter_map(|transform| Some((transform.status_code, refusal(transform)?)))
                .collect(),
        });
        self.paths.push(path);
        Some(id)
    }

    /// The proxies called "default" of the events that some namespace has with that name.
    fn add_channels(&mut self, config: &Config) {
        type Used = fn(&ChannelOptions) -> (bool, &ProxyName);
        let channels = config.channel.channels();
        let all = || {
            let namespaces = channels.namespaces.values();
            namespaces.chain([&channels.without_namespace])
        };
        let defaults = &config.channel.proxy;
        let events: [(ChannelEvent, &str, &config::Proxy, Used); 4] = [
            (ChannelEvent::Subscribe, "subscribe", &defaults.subscribe, |options| {
                (options.subscribe_proxy_enabled, &options.subscribe_proxy_name)
            }),
            (ChannelEvent::Publish, "publish", &defaults.publish, |options| {
                (options.publish_proxy_enabled, &options.publish_proxy_name)
            }),
            (ChannelEvent::SubRefresh, "sub_refresh", &defaults.sub_refresh, |options| {
                (options.sub_refresh_proxy_enabled, &options.sub_refresh_proxy_name)
            }),
            (ChannelEvent::State, "state", &defaults.state, |options| {
                (options.state_proxy_enabled, &options.state_proxy_name)
            }),
        ];
        for (event, name, proxy, used) in events {
            let is_used = all().any(|options| {
                let (enabled, name) = used(options);
                enabled && name.0 == ProxyName::DEFAULT
            });
            let id = is_used.then(|| self.add(format!("channel.proxy.{name}"), proxy)).flatten();
            match event {
                ChannelEvent::Subscribe => self.routes.subscribe = id,
                ChannelEvent::Publish => self.routes.publish = id,
                ChannelEvent::SubRefresh => self.routes.sub_refresh = id,
                ChannelEvent::State => self.routes.state = id,
            }
        }
        let routes = &self.routes;
        let notified = all().filter_map(|o| routes.of_channel(ChannelEvent::State, o));
        self.notified = notified.collect();
        self.notified.sort_unstable();
        self.notified.dedup();
    }

    fn add_rpc(&mut self, config: &Config) {
        let rpc = &config.rpc;
        let none = (None, &rpc.without_namespace);
        let namespaces = rpc.namespaces.iter();
        let all: Vec<(Option<&str>, &RpcOptions)> = namespaces
            .map(|namespace| (Some(&*namespace.name), &namespace.options))
            .chain([none])
            .collect();
        let is_default = |options: &RpcOptions| {
            options.proxy_enabled && options.proxy_name.0 == ProxyName::DEFAULT
        };
        let default = all
            .iter()
            .any(|(_, options)| is_default(options))
            .then(|| self.add("rpc.proxy".into(), &rpc.proxy))
            .flatten();
        let id = |options: &RpcOptions| match &*options.proxy_name.0 {
            _ if !options.proxy_enabled => None,
            ProxyName::DEFAULT => default,
            name => self.routes.named.get(name).copied(),
        };
        let mut namespaces = BTreeMap::new();
        let mut without_namespace = None;
        for (name, options) in all {
            match name {
                Some(name) => {
                    namespaces.insert(name.to_owned(), id(options));
                }
                None => without_namespace = id(options),
            }
        }
        self.routes.rpc = RpcRoutes {
            boundary: rpc.namespace_boundary.clone(),
            without_namespace,
            namespaces,
            ping: rpc.ping.enabled.then(|| rpc.ping.method.clone()),
        };
    }

    fn headers(&self) -> Result<HeaderRules, Error> {
        let rules = self.list.iter().map(|proxy| {
            HeaderRules::new(&proxy.http_headers, &proxy.emulated_headers)
                .map_err(|error| Error::Backend(format!("{}: {error}", proxy.name)))
        });
        let rules: Vec<_> = rules.collect::<Result<_, _>>()?;
        Ok(HeaderRules::union(&rules))
    }

    /// Whether the backend is told of channels.
    pub(super) fn notifies(&self) -> bool {
        !self.notified.is_empty()
    }

    /// Whether all of them can be asked; nobody is.
    ///
    /// # Errors
    /// The option that is wrong.
    pub(super) fn check(&self) -> Result<(), Fault> {
        // All together first: each time the system's certificates are read. Where one is wrong it is
        // looked for.
        if Backend::new(&self.list, &Trust::System, Bounds::default()).is_ok() {
            return Ok(());
        }
        let each = self.paths.iter().zip(&self.list);
        each.into_iter().try_for_each(|(path, proxy)| {
            let fixed: Vec<_> = proxy.static_headers.iter().map(|(name, _)| name.clone()).collect();
            for (names, option) in [
                (&proxy.http_headers, "http_headers"),
                (&proxy.emulated_headers, "emulated_headers"),
                (&fixed, "http.static_headers"),
            ] {
                HeaderRules::new(names, &[])
                    .map_err(|error| Fault::new(format!("{path}.{option}"), error))?;
            }
            check_endpoint(format!("{path}.endpoint"), proxy)
        })
    }

    /// Starts who tells, and opens the way to who asks.
    ///
    /// # Errors
    /// What is wrong with a proxy, or that the system has no threads left.
    pub(super) fn start(&self) -> Result<Ways, Error> {
        if self.list.is_empty() {
            return Ok(Ways::default());
        }
        let backend = Backend::new(&self.list, &Trust::System, Bounds::default());
        let backend = backend.map_err(Error::Backend)?;
        let mut notifiers = BTreeMap::new();
        for id in &self.notified {
            let proxy = &self.list[usize::from(id.0)];
            let notifier = Notifier::start(proxy, &Trust::System, VACATED_DELAY)
                .map_err(|error| Error::Backend(error.to_string()))?;
            notifiers.insert(*id, notifier);
        }
        Ok(Ways { backend: Some(backend), notifiers })
    }
}

/// Whether a proxy with good headers can be asked. `key` is that of its endpoint.
///
/// # Errors
/// What is wrong with the endpoint.
pub(super) fn check_endpoint(key: String, proxy: &backend::Proxy) -> Result<(), Fault> {
    let asked = Backend::new(std::slice::from_ref(proxy), &Trust::System, Bounds::default());
    asked.map(|_| ()).map_err(|error| {
        let named = error.strip_prefix(&proxy.name).and_then(|rest| rest.strip_prefix(": "));
        Fault::new(key, named.unwrap_or(&error))
    })
}
