//! Requests and responses of the HTTP API (centrifugal.dev `docs/server/server_api.md`).
//!
//! As in Centrifugo, what is wrong with a request as HTTP has an HTTP status of its own; what is
//! wrong with what it asks for comes with status 200 and an `error`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::auth::keys_match;
use crate::protocol::centrifuge::{one_line, present};
use crate::protocol::{ErrorCode, Name};

/// What a backend asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// Publish to one channel. Response: [`publish_response`].
    Publish {
        /// The channel.
        channel: Name,
        /// The payload, as JSON without newlines.
        data: Bytes,
    },
    /// Publish the same to several channels. Response: [`broadcast_response`].
    Broadcast {
        /// The channels, at least one; a channel may stand there twice.
        channels: Vec<Name>,
        /// The payload, as JSON without newlines.
        data: Bytes,
    },
    /// Describe the node. Response: [`info_response`].
    Info,
}

/// The whole response to a request that is not to be executed.
#[derive(Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status; 405 needs the header `Allow: POST`.
    pub status: u16,
    /// The body, as JSON.
    pub body: Vec<u8>,
}

/// What became of one publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has its place in the channel's order.
    Published,
    /// It was not published.
    Failed(ErrorCode),
}

/// A node, in the shape of Centrifugo's `NodeResult` and with its shards.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NodeInfo {
    /// Unique among nodes and starts.
    pub uid: String,
    /// What the operator calls it.
    pub name: String,
    /// The server's version.
    pub version: String,
    /// Connections.
    pub num_clients: u64,
    /// Users with a connection; all anonymous connections are one.
    pub num_users: u64,
    /// Subscriptions.
    pub num_subs: u64,
    /// Channels with a subscription.
    pub num_channels: u64,
    /// Seconds since the start.
    #[serde(rename = "uptime")]
    pub uptime_s: u64,
    /// Measurements by name.
    pub metrics: NodeMetrics,
    /// The process.
    pub process: ProcessStats,
    /// The node's shards, in their order.
    pub shards: Vec<ShardInfo>,
}

/// Measurements of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeMetrics {
    /// Seconds over which they were taken; 0 where they count from the start.
    #[serde(rename = "interval")]
    pub interval_s: f64,
    /// The values, each finite.
    pub items: BTreeMap<String, f64>,
}

/// What a node's process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ProcessStats {
    /// Percent of one CPU.
    #[serde(rename = "cpu")]
    pub cpu_percent: f64,
    /// Bytes of resident memory.
    #[serde(rename = "rss")]
    pub rss_bytes: u64,
}

/// One shard of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShardInfo {
    /// Connections of the shard.
    pub num_clients: u64,
    /// Their subscriptions.
    pub num_subs: u64,
    /// Channels whose home the shard is.
    pub num_channels: u64,
}

/// The fields of publish and broadcast requests that decide. Unknown ones are accepted.
///
/// `skip_history` and `delta` are accepted and change nothing: there is no history to keep a
/// publication out of, and delta is an offer that a server need not take.
#[derive(Deserialize)]
struct PublishRequest<'a> {
    channel: Option<String>,
    channels: Option<Vec<String>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    idempotency_key: Option<String>,
    tags: Option<BTreeMap<String, String>>,
}

/// Methods of Centrifugo that this server does not have.
const UNAVAILABLE: &[&str] = &[
    "subscribe",
    "unsubscribe",
    "disconnect",
    "presence",
    "presence_stats",
    "history",
    "history_remove",
    "rpc",
    "refresh",
    "channels",
];

/// Parses a request; `path` is like `/api/publish`, without a query.
///
/// # Errors
/// The whole response: 404 for an unknown method (also for `POST /api` with the method in the body,
/// which Centrifugo keeps for old clients only, and for `batch`), 405 for anything but POST, 400
/// with a text that says where for a body that is not the right JSON, and 200 with an error 107 or
/// 108 for what cannot be done.
pub fn parse(
    method: &str,
    path: &str,
    body: &[u8],
    channel_bytes_max: usize,
) -> Result<Call, ApiError> {
    let name = path.strip_prefix("/api/").unwrap_or_default();
    let known = matches!(name, "publish" | "broadcast" | "info");
    if !known && !UNAVAILABLE.contains(&name) {
        return Err(transport_error(404, "no such API method"));
    }
    if method != "POST" {
        return Err(transport_error(405, "API methods are called with POST"));
    }
    if !known {
        return Err(refused(ErrorCode::NOT_AVAILABLE));
    }
    if name == "info" {
        return Ok(Call::Info);
    }
    let request = parse_publish(body)?;
    if is_given(&request.b64data)
        || is_given(&request.idempotency_key)
        || request.tags.is_some_and(|tags| !tags.is_empty())
    {
        // Clients would miss the tags, or see a publication twice: said rather than ignored.
        return Err(refused(ErrorCode::NOT_AVAILABLE));
    }
    let bad_request = || refused(ErrorCode::BAD_REQUEST);
    let data = one_line(request.data.ok_or_else(bad_request)?);
    let named = |channel: String| {
        if channel.is_empty() || channel.len() > channel_bytes_max {
            return Err(bad_request());
        }
        Ok(Name::from(channel))
    };
    if name == "publish" {
        let channel = named(request.channel.unwrap_or_default())?;
        return Ok(Call::Publish { channel, data });
    }
    let channels = request.channels.unwrap_or_default();
    if channels.is_empty() {
        return Err(bad_request());
    }
    let channels = channels.into_iter().map(named).collect::<Result<_, _>>()?;
    Ok(Call::Broadcast { channels, data })
}

fn parse_publish(body: &[u8]) -> Result<PublishRequest<'_>, ApiError> {
    let body = std::str::from_utf8(body)
        .map_err(|error| transport_error(400, &format!("the body is not UTF-8: {error}")))?;
    serde_json::from_str(body)
        .map_err(|error| transport_error(400, &format!("the body is not a valid request: {error}")))
}

fn is_given(value: &Option<String>) -> bool {
    value.as_ref().is_some_and(|value| !value.is_empty())
}

/// Whether a request carries the API key: as `X-API-Key`, as `Authorization: apikey K`, or as
/// `api_key` of the query.
///
/// Only the first of these that is there counts, in Centrifugo's order. The query is compared as it
/// stands: a key of letters, digits, `-`, `.`, `_` and `~` needs no escapes.
pub fn authorized(
    key: &str,
    x_api_key: Option<&[u8]>,
    authorization: Option<&[u8]>,
    query: Option<&str>,
) -> bool {
    if let Some(given) = x_api_key {
        return keys_match(key, given);
    }
    if let Some(given) = authorization {
        let Some((scheme, given)) = given.split_at_checked("apikey ".len()) else { return false };
        return scheme.eq_ignore_ascii_case(b"apikey ") && keys_match(key, given);
    }
    let given = query.into_iter().flat_map(|query| query.split('&'));
    let mut given = given.filter_map(|pair| pair.strip_prefix("api_key="));
    given.next().is_some_and(|given| keys_match(key, given.as_bytes()))
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: u16,
    message: &'a str,
}

impl From<ErrorCode> for ErrorBody<'static> {
    fn from(error: ErrorCode) -> Self {
        Self { code: error.code, message: error.message }
    }
}

/// `{"result":..}` or `{"error":{"code":..,"message":..}}`.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Response<'a, T> {
    Result(T),
    Error(ErrorBody<'a>),
}

#[derive(Serialize)]
struct Empty {}

impl From<Outcome> for Response<'static, Empty> {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Published => Self::Result(Empty {}),
            Outcome::Failed(code) => Self::Error(code.into()),
        }
    }
}

/// The body of the response to [`Call::Publish`], with status 200. Without a history there is no
/// `offset` and no `epoch`.
pub fn publish_response(outcome: Outcome) -> Vec<u8> {
    encode(&Response::from(outcome))
}

/// The body of the response to [`Call::Broadcast`], with status 200: one outcome per channel, in
/// the order of the request.
pub fn broadcast_response(outcomes: &[Outcome]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Broadcast {
        responses: Vec<Response<'static, Empty>>,
    }
    let responses = outcomes.iter().copied().map(Response::from).collect();
    encode(&Response::Result(Broadcast { responses }))
}

/// The body of the response to [`Call::Info`], with status 200.
pub fn info_response(node: &NodeInfo) -> Vec<u8> {
    #[derive(Serialize)]
    struct Info<'a> {
        nodes: [&'a NodeInfo; 1],
    }
    encode(&Response::Result(Info { nodes: [node] }))
}

/// The body that says `message` to a person, for statuses other than 200: `{"error":{..}}` with the
/// status as its code.
pub fn error_response(status: u16, message: &str) -> Vec<u8> {
    encode(&Response::<Empty>::Error(ErrorBody { code: status, message }))
}

fn transport_error(status: u16, message: &str) -> ApiError {
    ApiError { status, body: error_response(status, message) }
}

fn refused(code: ErrorCode) -> ApiError {
    ApiError { status: 200, body: publish_response(Outcome::Failed(code)) }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("the keys of these types are strings")
}
