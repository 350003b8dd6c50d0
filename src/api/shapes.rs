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
    let request: PublishRequest<'_> = parse_body(body)?;
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

/// Reads the body of a request.
pub(super) fn parse_body<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    let body = std::str::from_utf8(body)
        .map_err(|error| transport_error(400, &format!("the body is not UTF-8: {error}")))?;
    // serde would take an array for the struct, by position.
    if body.trim_ascii_start().starts_with('[') {
        return Err(transport_error(400, "the body is not a JSON object"));
    }
    serde_json::from_str(body)
        .map_err(|error| transport_error(400, &format!("the body is not a valid request: {error}")))
}

fn is_given(value: &Option<String>) -> bool {
    value.as_ref().is_some_and(|value| !value.is_empty())
}

/// Whether a request carries the API key: as `X-API-Key`, as `Authorization: apikey K`, or as
/// `api_key` of the query.
///
/// As in Centrifugo an `X-API-Key` hides the `Authorization`, and the query counts beside both. It
/// is compared as it stands: a key of letters, digits, `-`, `.`, `_` and `~` needs no escapes. An
/// empty key authorizes nobody.
pub fn authorized(
    key: &str,
    x_api_key: Option<&[u8]>,
    authorization: Option<&[u8]>,
    query: Option<&str>,
) -> bool {
    let by_header = match (x_api_key.filter(|given| !given.is_empty()), authorization) {
        (Some(given), _) => keys_match(key, given),
        (None, Some(given)) => api_key(given).is_some_and(|given| keys_match(key, given)),
        (None, None) => false,
    };
    let mut pairs = query.unwrap_or_default().split('&');
    by_header
        || pairs
            .find_map(|pair| pair.strip_prefix("api_key="))
            .is_some_and(|given| keys_match(key, given.as_bytes()))
}

/// The key of `apikey K`.
fn api_key(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, given) = authorization.trim_ascii().split_at_checked("apikey".len())?;
    (scheme.eq_ignore_ascii_case(b"apikey") && given.first()?.is_ascii_whitespace())
        .then(|| given.trim_ascii_start())
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

pub(super) fn transport_error(status: u16, message: &str) -> ApiError {
    ApiError { status, body: error_response(status, message) }
}

pub(super) fn refused(code: ErrorCode) -> ApiError {
    ApiError { status: 200, body: publish_response(Outcome::Failed(code)) }
}

pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("the keys of these types are strings")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(path: &str, body: &str) -> Result<Call, ApiError> {
        parse("POST", path, body.as_bytes(), 10)
    }

    fn status(result: Result<Call, ApiError>) -> (u16, u16) {
        let error = result.unwrap_err();
        let body: serde_json::Value = serde_json::from_slice(&error.body).unwrap();
        assert!(!body["error"]["message"].as_str().unwrap().is_empty());
        (error.status, body["error"]["code"].as_u64().unwrap() as u16)
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn calls_are_parsed_as_official_libraries_send_them() {
        let publish = |data: &'static str| Call::Publish {
            channel: "news".into(),
            data: Bytes::from_static(data.as_bytes()),
        };
        for (body, data) in [
            (r#"{"channel":"news","data":{"a": 1}}"#, r#"{"a": 1}"#),
            (r#"{"channel": "news", "data": "x", "skip_history": true, "delta": true}"#, "\"x\""),
            (r#"{"channel":"n\u0065ws","data":null,"tags":{},"b64data":""}"#, "null"),
            ("{\"channel\":\"news\",\n \"data\":[1,\r\n2],\n\"future\":[]}", "[1,  2]"),
        ] {
            assert_eq!(post("/api/publish", body), Ok(publish(data)), "{body}");
        }
        assert_eq!(
            post("/api/broadcast", r#"{"channels":["a","b","a"],"data":1}"#),
            Ok(Call::Broadcast {
                channels: vec!["a".into(), "b".into(), "a".into()],
                data: Bytes::from_static(b"1")
            })
        );
        for body in ["", "{}"] {
            assert_eq!(post("/api/info", body), Ok(Call::Info));
        }
    }

    #[test]
    fn what_is_no_request_has_a_status_of_its_own() {
        for path in ["/api", "/api/", "/api/batch", "/api/nothing", "/", "", "/publish"] {
            assert_eq!(status(post(path, r#"{"method":"publish","params":{}}"#)), (404, 404));
        }
        for method in ["GET", "PUT", "post"] {
            assert_eq!(status(parse(method, "/api/publish", b"{}", 10)), (405, 405));
            assert_eq!(status(parse(method, "/api/info", b"", 10)), (405, 405));
            assert_eq!(status(parse(method, "/api/history", b"", 10)), (405, 405));
        }
        for body in [
            "",
            "{",
            "[]",
            " [\"a\"]",
            "7",
            "{} {}",
            r#"{"channel":7,"data":1}"#,
            r#"{"channel":"a","data":}"#,
            r#"{"channel":"a","data":{"b":tru}}"#,
            r#"{"channels":"a","data":1}"#,
            r#"{"channel":"a","channel":"b","data":1}"#,
        ] {
            assert_eq!(status(post("/api/publish", body)), (400, 400), "{body}");
        }
        assert_eq!(
            status(parse("POST", "/api/publish", b"{\"channel\":\"\xff\"}", 10)),
            (400, 400)
        );
        let error = post("/api/publish", "{\"channel\":7}").unwrap_err();
        assert!(text(error.body).contains("expected a string at line 1 column 12"));
    }

    #[test]
    fn what_cannot_be_done_is_an_error_with_status_200() {
        for (path, body, code) in [
            ("publish", r#"{}"#, 107),
            ("publish", r#"{"channel":"a"}"#, 107),
            ("publish", r#"{"data":1}"#, 107),
            ("publish", r#"{"channel":"","data":1}"#, 107),
            ("publish", r#"{"channel":"12345678901","data":1}"#, 107),
            ("publish", r#"{"channel":"a","b64data":"eA=="}"#, 108),
            ("publish", r#"{"channel":"a","data":1,"tags":{"a":"b"}}"#, 108),
            ("publish", r#"{"channel":"a","data":1,"idempotency_key":"k"}"#, 108),
            ("broadcast", r#"{"data":1}"#, 107),
            ("broadcast", r#"{"channels":[],"data":1}"#, 107),
            ("broadcast", r#"{"channels":["a"]}"#, 107),
            ("broadcast", r#"{"channels":["a",""],"data":1}"#, 107),
            ("broadcast", r#"{"channels":["a","12345678901"],"data":1}"#, 107),
            ("history", r#"{"channel":"a"}"#, 108),
            ("disconnect", r#"{"user":"a"}"#, 108),
        ] {
            assert_eq!(status(post(&format!("/api/{path}"), body)), (200, code), "{path} {body}");
        }
    }

    #[test]
    fn the_key_is_taken_from_three_places() {
        let key = "k-1";
        let ok = |x: Option<&str>, auth: Option<&str>, query: Option<&str>| {
            authorized(key, x.map(str::as_bytes), auth.map(str::as_bytes), query)
        };
        assert!(ok(Some("k-1"), None, None));
        assert!(ok(Some("k-1"), Some("apikey wrong"), Some("api_key=wrong")));
        assert!(ok(None, Some("apikey k-1"), None));
        assert!(ok(Some(""), Some("ApiKey  k-1"), None));
        assert!(ok(None, None, Some("api_key=k-1")));
        assert!(ok(Some("wrong"), None, Some("a=b&api_key=k-1")));

        assert!(!ok(None, None, None));
        assert!(!ok(Some("k-2"), None, None));
        assert!(!ok(Some("wrong"), Some("apikey k-1"), None));
        for auth in ["", "apikey", "apikey ", "apikeyk-1", "Bearer k-1", "k-1", "apikey k-1 x"] {
            assert!(!ok(None, Some(auth), None), "{auth}");
        }
        for query in ["", "api_key", "api_key=", "xapi_key=k-1", "api_key=k-2&api_key=k-1"] {
            assert!(!ok(None, None, Some(query)), "{query}");
        }
        for none in [None, Some(&b""[..])] {
            assert!(!authorized("", none, Some(b"apikey "), Some("api_key=")));
        }
    }

    #[test]
    fn responses_have_the_shape_of_centrifugos() {
        let denied = Outcome::Failed(ErrorCode::UNKNOWN_CHANNEL);
        let error = r#"{"error":{"code":102,"message":"unknown channel"}}"#;
        assert_eq!(text(publish_response(Outcome::Published)), r#"{"result":{}}"#);
        assert_eq!(text(publish_response(denied)), error);
        assert_eq!(
            text(broadcast_response(&[Outcome::Published, denied])),
            format!(r#"{{"result":{{"responses":[{{"result":{{}}}},{error}]}}}}"#)
        );
        assert_eq!(
            text(error_response(401, "no \"key\"")),
            r#"{"error":{"code":401,"message":"no \"key\""}}"#
        );
    }

    #[test]
    fn info_has_every_field_even_when_zero() {
        let node = NodeInfo {
            uid: "u".to_owned(),
            name: "n".to_owned(),
            version: "1".to_owned(),
            num_clients: 3,
            uptime_s: 9,
            metrics: NodeMetrics {
                interval_s: 0.0,
                items: BTreeMap::from([("messages_sent".to_owned(), 2.5)]),
            },
            process: ProcessStats { cpu_percent: 1.5, rss_bytes: 7 },
            shards: vec![ShardInfo { num_clients: 3, num_subs: 0, num_channels: 1 }],
            ..NodeInfo::default()
        };
        assert_eq!(
            text(info_response(&node)),
            concat!(
                r#"{"result":{"nodes":[{"uid":"u","name":"n","version":"1","num_clients":3,"#,
                r#""num_users":0,"num_subs":0,"num_channels":0,"uptime":9,"#,
                r#""metrics":{"interval":0.0,"items":{"messages_sent":2.5}},"#,
                r#""process":{"cpu":1.5,"rss":7},"#,
                r#""shards":[{"num_clients":3,"num_subs":0,"num_channels":1}]}]}}"#
            )
        );
    }
}
