//! What an operator may set: a value of [`Config`] is valid by construction.
//!
//! Names and nesting are those of Centrifugo v6 wherever an option means the same; `tiderace`
//! own options are `shards`, `engine.receive_buffers`, `engine.receive_buffer_bytes`,
//! `http_api.max_request_body_size`, `log.format` and all of `watch`. [`load`] makes a `Config` from the file,
//! the environment and the flags; an embedder fills the fields itself.

mod centrifugo;
mod error;
mod keys;
mod load;
mod secret;
mod value;
mod watch;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

pub use error::{ConfigError, Place};
pub use load::{Flag, Loaded, load};
pub use secret::Secret;

/// Everything `tiderace serve` can be told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Where clients and backends connect.
    pub http_server: HttpServer,
    /// What client connections may do and cost.
    pub client: Client,
    /// What channels may be called and who may use them.
    pub channel: Channel,
    /// The WebSocket transport.
    pub websocket: Websocket,
    /// The HTTP API of the backend.
    pub http_api: HttpApi,
    /// The health endpoint.
    pub health: Health,
    /// Watching of dormant devices.
    pub watch: Watch,
    /// How the server ends.
    pub shutdown: Shutdown,
    /// What is logged, and how.
    pub log: Log,
    /// Resources of each shard.
    pub engine: Engine,
    /// Shards to start, at most [`SHARDS_MAX`](crate::limits::SHARDS_MAX).
    /// `None` (0 in a file): one per CPU that the process may run on.
    pub shards: Option<NonZeroUsize>,
}

/// `http_server`: the listening socket.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpServer {
    /// `http_server.address`: an IP address or `localhost`. Default: all IPv4 interfaces.
    pub address: IpAddr,
    /// `http_server.port`. Default 8000; 0 lets the system choose.
    pub port: u16,
}

impl HttpServer {
    /// Address and port as one.
    pub fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

impl Default for HttpServer {
    fn default() -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 8000 }
    }
}

/// `client`: what client connections may do and cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// `client.insecure`: no tokens, and every operation on every channel. For development.
    pub insecure: bool,
    /// `client.token`: how connection tokens are checked.
    pub token: Token,
    /// `client.allow_anonymous_connect_without_token`: who has no token is the user "".
    pub allow_anonymous_connect_without_token: bool,
    /// `client.allowed_origins`: patterns that the `Origin` header of a browser may match, in lower
    /// case; `*` within a pattern stands for any characters. Empty: only the server's own origin.
    pub allowed_origins: Vec<String>,
    /// `client.ping_interval`: pause between pings, above `pong_timeout`. Default 25 s.
    pub ping_interval: Duration,
    /// `client.pong_timeout`: time to answer a ping. Default 8 s.
    pub pong_timeout: Duration,
    /// `client.stale_close_delay`: time to send `connect`. Default 10 s.
    pub stale_close_delay: Duration,
    /// `client.channel_limit`: subscriptions of one connection. Default 128.
    pub channel_limit: usize,
    /// `client.queue_max_size`: bytes that may be queued for one connection. Default 1 MiB.
    pub queue_max_size: usize,
    /// `client.connection_limit`: connections of this process. `None` (0 in a file): as many as
    /// there are file descriptors.
    pub connection_limit: Option<NonZeroUsize>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            insecure: false,
            token: Token::default(),
            allow_anonymous_connect_without_token: false,
            allowed_origins: Vec::new(),
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(8),
            stale_close_delay: Duration::from_secs(10),
            channel_limit: 128,
            queue_max_size: 1 << 20,
            connection_limit: None,
        }
    }
}

/// `client.token`: how connection tokens are checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Token {
    /// `client.token.hmac_secret_key`: the key of HS256, HS384 and HS512 tokens.
    pub hmac_secret_key: Option<Secret>,
    /// `client.token.audience`: tokens must name it in `aud`.
    pub audience: Option<String>,
    /// `client.token.issuer`: tokens must name it in `iss`.
    pub issuer: Option<String>,
}

/// `channel`: what channels may be called and who may use them.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    /// `channel.max_length`: bytes of a channel name. Default 255.
    pub max_length: usize,
    /// `channel.without_namespace`: the rules of channels without a namespace.
    pub without_namespace: ChannelOptions,
}

impl Default for Channel {
    fn default() -> Self {
        Self { max_length: 255, without_namespace: ChannelOptions::default() }
    }
}

/// What clients may do in a channel. A user is anonymous if its id is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelOptions {
    /// Users may subscribe without a subscription token.
    pub allow_subscribe_for_client: bool,
    /// With the above: anonymous users too.
    pub allow_subscribe_for_anonymous: bool,
    /// Users may publish.
    pub allow_publish_for_client: bool,
    /// Users may publish while subscribed.
    pub allow_publish_for_subscriber: bool,
    /// With one of the two above: anonymous users too.
    pub allow_publish_for_anonymous: bool,
}

/// `websocket`: the WebSocket transport.
#[derive(Clone, Debug, PartialEq)]
pub struct Websocket {
    /// `websocket.message_size_limit`: bytes of one message of a client. Default 64 KiB.
    pub message_size_limit: usize,
}

impl Default for Websocket {
    fn default() -> Self {
        Self { message_size_limit: 65_536 }
    }
}

/// `http_api`: the HTTP API of the backend.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpApi {
    /// `http_api.disabled`: there is no API.
    pub disabled: bool,
    /// `http_api.key`: what requests must carry. Without it, and unless `insecure`, every request
    /// is refused.
    pub key: Option<Secret>,
    /// `http_api.insecure`: requests need no key. For development or behind a firewall.
    pub insecure: bool,
    /// `http_api.max_request_body_size`: bytes of one request body. Default 1 MiB.
    pub max_request_body_size: usize,
}

impl Default for HttpApi {
    fn default() -> Self {
        Self { disabled: false, key: None, insecure: false, max_request_body_size: 1 << 20 }
    }
}

/// `health`: the health endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// `health.enabled`: `GET /health` answers. Default true (false in Centrifugo).
    pub enabled: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `watch`: leases and wakes of dormant devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Watch {
    /// `watch.enabled`: devices may watch. Needs one source of tokens. Default false.
    pub enabled: bool,
    /// `watch.base_path`: streams are at `/watch` below it, heartbeats at `/watch/heartbeat`.
    pub base_path: String,
    /// `watch.device_info_path`: where agents learn who they are.
    pub device_info_path: String,
    /// `watch.lease_ttl`: how long a lease lasts without a heartbeat, at least three times
    /// `heartbeat_interval`; the interval and 30 s more is wise, because one request of an agent may
    /// hang for that long. Default 120 s.
    pub lease_ttl: Duration,
    /// `watch.heartbeat_interval`: pause between an agent's heartbeats, at least 1 s. Default 30 s.
    pub heartbeat_interval: Duration,
    /// `watch.device_wait_for_viewer`: how long a woken device waits for a viewer. Default 5 min.
    pub device_wait_for_viewer: Duration,
    /// `watch.token`: whose device tokens are whose.
    pub token: WatchToken,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            enabled: false,
            base_path: "/internal/platform/v1/remote-sessions".into(),
            device_info_path: "/internal/platform/v1/device-info".into(),
            lease_ttl: Duration::from_secs(120),
            heartbeat_interval: Duration::from_secs(30),
            device_wait_for_viewer: Duration::from_secs(300),
            token: WatchToken::default(),
        }
    }
}

/// `watch.token`: exactly one of the first three where watching is enabled.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchToken {
    /// `watch.token.hmac_secret_key`: the key of JSON Web Tokens whose claims are the device.
    pub hmac_secret_key: Option<Secret>,
    /// `watch.token.table_file`: a JSON file of tokens and devices, read at the start and on SIGHUP.
    pub table_file: Option<String>,
    /// `watch.token.proxy_endpoint`: the URL at which the backend answers for a token.
    pub proxy_endpoint: Option<String>,
    /// `watch.token.proxy_timeout`: time for such an answer. Default 5 s.
    pub proxy_timeout: Duration,
}

impl Default for WatchToken {
    fn default() -> Self {
        Self {
            hmac_secret_key: None,
            table_file: None,
            proxy_endpoint: None,
            proxy_timeout: Duration::from_secs(5),
        }
    }
}

/// `shutdown`: how the server ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Shutdown {
    /// `shutdown.timeout`: time for connections to close. Default 30 s.
    pub timeout: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30) }
    }
}

/// `log`: what is logged, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// `log.level`: a level, or directives such as `info,tiderace::shard=debug`. Default `info`.
    pub level: String,
    /// `log.format`. Default text.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
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

/// `engine`: resources of each shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Engine {
    /// `engine.receive_buffers`: buffers that a shard receives into, a power of two of at most
    /// 32,768. More of them carry larger bursts; each costs memory once it was used. Default 256.
    pub receive_buffers: u16,
    /// `engine.receive_buffer_bytes`: bytes of one such buffer. Default 8 KiB.
    pub receive_buffer_bytes: u32,
}

impl Default for Engine {
    fn default() -> Self {
        Self { receive_buffers: 256, receive_buffer_bytes: 8192 }
    }
}
