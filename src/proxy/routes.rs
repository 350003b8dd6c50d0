//! Which proxy is asked about what.

use std::collections::BTreeMap;

use super::{HeaderRules, ProxyId};
use crate::channels::{ChannelOptions, ProxyName};

/// What happens in a channel that a backend has to do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelEvent {
    /// A client subscribes.
    Subscribe,
    /// A client publishes.
    Publish,
    /// A subscription expires.
    SubRefresh,
    /// It gets its first, or loses its last subscriber.
    State,
}

/// The proxies of a process, by what they are asked about; by default none.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Who connects without a token.
    pub connect: Option<ProxyId>,
    /// Whether a connection that expires goes on.
    pub refresh: Option<ProxyId>,
    /// The proxies of channels that are called "default".
    pub subscribe: Option<ProxyId>,
    /// Likewise.
    pub publish: Option<ProxyId>,
    /// Likewise.
    pub sub_refresh: Option<ProxyId>,
    /// Likewise.
    pub state: Option<ProxyId>,
    /// All others, by name.
    pub named: BTreeMap<String, ProxyId>,
    /// Which procedures there are.
    pub rpc: RpcRoutes,
    /// What must be kept of a client's headers, because some proxy shows it.
    pub headers: HeaderRules,
}

impl Routes {
    /// Who decides about, or is told of, an event in a channel with these options.
    pub fn of_channel(&self, event: ChannelEvent, options: &ChannelOptions) -> Option<ProxyId> {
        let (enabled, name, default) = match event {
            ChannelEvent::Subscribe => {
                (options.subscribe_proxy_enabled, &options.subscribe_proxy_name, self.subscribe)
            }
            ChannelEvent::Publish => {
                (options.publish_proxy_enabled, &options.publish_proxy_name, self.publish)
            }
            ChannelEvent::SubRefresh => (
                options.sub_refresh_proxy_enabled,
                &options.sub_refresh_proxy_name,
                self.sub_refresh,
            ),
            ChannelEvent::State => {
                (options.state_proxy_enabled, &options.state_proxy_name, self.state)
            }
        };
        match &*name.0 {
            _ if !enabled => None,
            ProxyName::DEFAULT => default,
            name => self.named.get(name).copied(),
        }
    }
}

/// Which remote procedure calls are answered, and by whom (`rpc` of the configuration).
#[derive(Clone, Debug, Default)]
pub struct RpcRoutes {
    /// Between namespace and the rest of a method; empty: there are no namespaces.
    pub boundary: String,
    /// Who answers methods without a namespace.
    pub without_namespace: Option<ProxyId>,
    /// Who answers those of each namespace.
    pub namespaces: BTreeMap<String, Option<ProxyId>>,
    /// The method that the server answers itself.
    pub ping: Option<String>,
}

/// Who answers a procedure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RpcRoute {
    /// The server itself, with nothing.
    Ping,
    /// The backend.
    Backend(ProxyId),
    /// Nobody: its namespace has no proxy, or there is none at all.
    Unavailable,
    /// Nobody: there is no such namespace.
    Unknown,
}

impl RpcRoutes {
    /// Who answers `method` (centrifugo `internal/proxy/rpc_handler.go`).
    pub fn of_method(&self, method: &str) -> RpcRoute {
        if self.ping.as_deref() == Some(method) {
            return RpcRoute::Ping;
        }
        if self.without_namespace.is_none() && self.namespaces.values().all(Option::is_none) {
            return RpcRoute::Unavailable;
        }
        let boundary = Some(&*self.boundary).filter(|boundary| !boundary.is_empty());
        let namespace = boundary.and_then(|boundary| Some(method.split_once(boundary)?.0));
        let proxy = match namespace {
            None => self.without_namespace,
            Some(namespace) => match self.namespaces.get(namespace) {
                None => return RpcRoute::Unknown,
                Some(proxy) => *proxy,
            },
        };
        proxy.map_or(RpcRoute::Unavailable, RpcRoute::Backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_asks_the_proxy_that_its_namespace_names() {
        let routes = Routes {
            subscribe: Some(ProxyId(1)),
            named: [("other".to_owned(), ProxyId(2))].into(),
            ..Routes::default()
        };
        let event = ChannelEvent::Subscribe;
        let mut options = ChannelOptions::default();
        assert_eq!(routes.of_channel(event, &options), None);
        options.subscribe_proxy_enabled = true;
        assert_eq!(routes.of_channel(event, &options), Some(ProxyId(1)));
        options.subscribe_proxy_name = ProxyName("other".into());
        assert_eq!(routes.of_channel(event, &options), Some(ProxyId(2)));
        options.publish_proxy_enabled = true;
        assert_eq!(routes.of_channel(ChannelEvent::Publish, &options), None, "there is none");
    }

    #[test]
    fn procedures_are_found_by_namespace() {
        let mut routes = RpcRoutes { boundary: ":".into(), ..RpcRoutes::default() };
        for method in ["m", "a:m", ""] {
            assert_eq!(routes.of_method(method), RpcRoute::Unavailable, "{method}");
        }
        routes.namespaces = [("a".to_owned(), Some(ProxyId(3))), ("b".to_owned(), None)].into();
        routes.ping = Some("ping".into());
        for (method, route) in [
            ("a:m", RpcRoute::Backend(ProxyId(3))),
            ("a:m:n", RpcRoute::Backend(ProxyId(3))),
            ("b:m", RpcRoute::Unavailable),
            ("c:m", RpcRoute::Unknown),
            ("m", RpcRoute::Unavailable),
            ("ping", RpcRoute::Ping),
        ] {
            assert_eq!(routes.of_method(method), route, "{method}");
        }
        routes.boundary.clear();
        routes.without_namespace = Some(ProxyId(4));
        assert_eq!(routes.of_method("a:m"), RpcRoute::Backend(ProxyId(4)));
    }
}
