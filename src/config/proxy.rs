//! Where the backend is asked: endpoints, what requests carry, and which RPC methods go where.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Secret;
use super::section::section;
use super::value::{duration, endpoint, header_names, headers, name, plain, proxy_name, switch};
use crate::channels::ProxyName;

section! {
    /// One endpoint of the backend.
    Proxy {
        /// The URL that is posted to, by HTTP or HTTPS.
        endpoint: Option<String> = None, endpoint;
        /// Time for the answer.
        timeout: Duration = Duration::from_secs(1), duration;
        /// Headers of the client's HTTP request that the backend gets to see.
        http_headers: Vec<String> = Vec::new(), header_names;
        /// Headers of the client's connect command that the backend gets to see. A client says in
        /// them what it likes.
        emulated_headers: Vec<String> = Vec::new(), header_names;
        /// Requests carry the `meta` of the connection.
        include_connection_meta: bool = false, switch;
    }
    sections {
        /// What is HTTP's.
        http: ProxyHttp;
    }
}

section! {
    /// `http` of a proxy.
    ProxyHttp {
        /// Headers of every request; what the client sent and `http_headers` lets through wins.
        static_headers: BTreeMap<String, Secret> = BTreeMap::new(), headers;
    }
}

section! {
    /// A proxy that has a switch.
    OptionalProxy {
        /// The backend is asked.
        enabled: bool = false, switch;
    }
    flat {
        /// Where.
        proxy: Proxy;
    }
}

section! {
    /// An element of `proxies`.
    NamedProxy {
        /// What namespaces call it; "default" is taken.
        name: String = String::new(), name;
    }
    flat {
        /// Where the backend is.
        proxy: Proxy;
    }
}

section! {
    /// `rpc`: remote procedure calls of clients, which the backend answers.
    Rpc {
        /// Between namespace and the rest of a method.
        namespace_boundary: String = ":".into(), plain;
    }
    lists {
        /// What holds for the methods of each namespace.
        namespaces: RpcNamespace;
    }
    sections {
        /// The proxy named "default".
        proxy: Proxy;
        /// What holds for methods without a namespace.
        without_namespace: RpcOptions;
        /// A method that the server answers itself.
        ping: RpcPing;
    }
}

section! {
    /// What holds for the RPC methods of a namespace.
    RpcOptions {
        /// The backend answers them.
        proxy_enabled: bool = false, switch;
        /// By which proxy.
        proxy_name: ProxyName = ProxyName::default(), proxy_name;
    }
}

section! {
    /// An element of `rpc.namespaces`.
    RpcNamespace {
        /// What its methods begin with.
        name: String = String::new(), name;
    }
    flat {
        /// What holds for them.
        options: RpcOptions;
    }
}

section! {
    /// `rpc.ping`: a method that the server answers itself.
    RpcPing {
        /// There is such a method.
        enabled: bool = false, switch;
        /// What it is called.
        method: String = "ping".into(), plain;
    }
}
