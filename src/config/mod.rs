//! What an operator may set: a value of [`Config`] that [`load`] made is valid.
//!
//! Names and nesting are those of Centrifugo v6 wherever an option means the same. What is
//! tiderace's own says so: `shards`, `engine.*`, `log.format`, `http_api.max_request_body_size`,
//! `ed25519_public_key` of tokens, all of `watch`, `events`, `handlers`, and four options of channels.
//! [`load`] makes a `Config` from file,
//! environment and flags, and [`defaults()`] shows all there is; an embedder fills the fields itself.

mod centrifugo;
mod channel;
mod check;
mod client;
mod defaults;
mod error;
mod load;
mod parse;
mod proxy;
mod secret;
mod section;
mod show;
mod transport;
mod value;
mod watch;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

pub(crate) use check::Fault;

pub use channel::{Channel, ChannelProxies, Namespace};
pub use client::{Client, ClientProxies, PersonalChannel, SubscriptionToken, Token};
pub use defaults::defaults;
pub use error::{ConfigError, Place};
pub(crate) use load::load_for;
pub use load::{Flag, Loaded, load};
pub use parse::Format;
pub use proxy::{
    NamedProxy, OptionalProxy, Proxy, ProxyHttp, Rpc, RpcNamespace, RpcOptions, RpcPing,
    StatusTransform, ToDisconnect, ToError,
};
pub use secret::Secret;
pub use transport::{
    Emulation, Events, Handlers, HttpStream, Sse, UniHttpStream, UniSse, UniWebsocket, Websocket,
};
pub use watch::{Watch, WatchToken};

use section::section;
use value::{
    address, duration, error_mode, level, log_format, number, path, plain, power_of_two, secret,
    switch,
};

use crate::limits::SHARDS_MAX;

section! {
    /// Everything `tiderace serve` can be told.
    Config {
        /// Shards to start, at most 256; 0 is one per CPU that the process may run on.
        /// tiderace's own.
        shards: Option<NonZeroUsize> = None, |v| number(v, 0..=SHARDS_MAX).map(NonZeroUsize::new);
    }
    lists {
        /// Proxies that namespaces of channels and of RPC methods name.
        proxies: NamedProxy;
    }
    sections {
        /// The listening socket.
        http_server: HttpServer;
        /// What client connections may do and cost.
        client: Client;
        /// What channels may be called, and what holds in them.
        channel: Channel;
        /// Remote procedure calls of clients, which the backend answers.
        rpc: Rpc;
        /// The WebSocket transport.
        websocket: Websocket;
        /// The bidirectional transport over server-sent events.
        sse: Sse;
        /// The bidirectional transport over a streamed HTTP response.
        http_stream: HttpStream;
        /// Where clients of these two send to.
        emulation: Emulation;
        /// The unidirectional WebSocket transport.
        uni_websocket: UniWebsocket;
        /// The unidirectional transport over server-sent events.
        uni_sse: UniSse;
        /// The unidirectional transport over a streamed HTTP response.
        uni_http_stream: UniHttpStream;
        /// A channel as plain server-sent events, for an EventSource without a library.
        /// tiderace's own.
        events: Events;
        /// WebSocket endpoints of an embedding program. tiderace's own.
        handlers: Handlers;
        /// The HTTP API of the backend.
        http_api: HttpApi;
        /// Where measurements are collected.
        prometheus: Prometheus;
        /// The health endpoint.
        health: Health;
        /// What this process is called.
        node: Node;
        /// Leases and wakes of dormant devices. tiderace's own.
        watch: Watch;
        /// How the server ends.
        shutdown: Shutdown;
        /// What is logged, and how.
        log: Log;
        /// Resources of each shard. tiderace's own.
        engine: Engine;
    }
}

section! {
    /// `http_server`: the listening socket.
    HttpServer {
        /// An IP address or "localhost"; empty is all IPv4 interfaces.
        address: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED), address;
        /// The port; 0 lets the system choose.
        port: u16 = 8000, |v| number(v, 0..=u16::MAX);
    }
}

impl HttpServer {
    /// Address and port as one.
    pub fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// `http_api.error_mode`: how the HTTP API tells errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorMode {
    /// With status 200, in the body.
    #[default]
    Body,
    /// By the status of the response too.
    Transport,
}

section! {
    /// `http_api`: the HTTP API of the backend.
    HttpApi {
        /// There is no API.
        disabled: bool = false, switch;
        /// Below which path its methods are.
        handler_prefix: String = "/api".into(), path;
        /// What requests must carry. Without it, and unless `insecure`, every request is refused.
        key: Option<Secret> = None, secret;
        /// Requests need no key. For development or behind a firewall.
        insecure: bool = false, switch;
        /// "transport" tells errors by HTTP status too; "" tells them in the body alone.
        error_mode: ErrorMode = ErrorMode::Body, error_mode;
        /// Bytes of one request body. tiderace's own.
        max_request_body_size: usize = 1 << 20, |v| number(v, 128..=1 << 30);
    }
}

section! {
    /// `prometheus`: where measurements are collected.
    Prometheus {
        /// The endpoint answers GET, whoever asks.
        enabled: bool = false, switch;
        /// Its path.
        handler_prefix: String = "/metrics".into(), path;
    }
}

section! {
    /// `health`: the health endpoint.
    Health {
        /// The endpoint answers GET. In Centrifugo it does not, unless this is set.
        enabled: bool = true, switch;
        /// Its path.
        handler_prefix: String = "/health".into(), path;
    }
}

section! {
    /// `node`: what this process is called.
    Node {
        /// The node's name for people; empty is host name and process id.
        name: String = String::new(), plain;
    }
}

section! {
    /// `shutdown`: how the server ends.
    Shutdown {
        /// Time for connections to close.
        timeout: Duration = Duration::from_secs(30), duration;
    }
}

section! {
    /// `log`: what is logged, and how.
    Log {
        /// A level (none, error, warn, info, debug, trace) or directives such as
        /// "info,tiderace::shard=debug".
        level: String = "info".into(), level;
        /// "text", for people, or "json", one object per line. tiderace's own.
        format: LogFormat = LogFormat::Text, log_format;
    }
}

/// `log.format`: the shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `text`: for people.
    Text,
    /// `json`: one object per line.
    Json,
}

section! {
    /// `engine`: resources of each shard.
    Engine {
        /// Bytes of channel histories per shard. When they are used up, the channels that were
        /// published to least recently lose theirs first.
        history_bytes_max: usize = 256 << 20, |v| number(v, 0..=1 << 40);
        /// Buffers that a shard receives into, a power of two of at most 32768. More of them carry
        /// larger bursts; each costs memory once it was used.
        receive_buffers: u16 = 256, |v| power_of_two(v, 1..=32_768);
        /// Bytes of one such buffer.
        receive_buffer_bytes: u32 = 8192, |v| number(v, 512..=1 << 20);
    }
}
