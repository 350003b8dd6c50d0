//! Where the backend is asked: endpoints, what requests carry, and which RPC methods go where.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Secret;
use super::section::section;
use super::value::{
    duration, endpoint, header_names, headers, name, number, plain, proxy_name, switch, zero_is,
};
use crate::channels::ProxyName;

section! {
    /// One endpoint of the backend.
    Proxy {
        /// The URL that is posted to, by HTTP or HTTPS.
        endpoint: Option<String> = None, endpoint;
        /// Time for the answer; "0s" is the default.
        timeout: Duration = Duration::from_secs(1), zero_is(Duration::from_secs(1), duration);
        /// Headers of the client's HTTP request that the backend gets to see.
        http_headers: Vec<String> = Vec::new(), header_names;
        /// Headers of the client's connect command that the backend gets to see. A client says in
        /// them what it likes.
        emulated_headers: Vec<String> = Vec::new(), header_names;
        /// Requests carry the `meta` of the connection.
        include_connection_meta: bool = false, switch;
        /// Requests carry payloads in Base64, as `b64data`.
        binary_encoding: bool = false, switch;
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
    lists {
        /// What answers with a status other than 200 mean, where they mean more than a failure.
        status_to_code_transforms: StatusTransform;
    }
}

section! {
    /// An element of `http.status_to_code_transforms` of a proxy.
    StatusTransform {
        /// The status of the answer.
        status_code: u16 = 0, |v| number(v, 100..=599);
    }
    sections {
        /// The client gets this error.
        to_error: ToError;
        /// The client is disconnected so.
        to_disconnect: ToDisconnect;
    }
}

section! {
    /// `to_error`: an error reply in place of the answer.
    ToError {
        /// From 400 to 1999, or one of the protocol's; 0 is none.
        code: u32 = 0, |v| number(v, 0..=1999);
        /// For the application.
        message: String = String::new(), plain;
        /// The client may try again.
        temporary: bool = false, switch;
    }
}

section! {
    /// `to_disconnect`: a close of the connection in place of the answer.
    ToDisconnect {
        /// From 4000 to 4999; clients come back after those below 4500. 0 is none.
        code: u32 = 0, |v| number(v, 0..=4999);
        /// Why, for the client.
        reason: String = String::new(), plain;
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
