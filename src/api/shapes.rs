//! Responses of the HTTP API in Centrifugo's shapes (centrifugal.dev `docs/server/server_api.md`).
//!
//! What is wrong with a request as HTTP has an HTTP status of its own; what is wrong with what it
//! asks for comes as its [`ErrorMode`] has it. Fields with a zero value are left out where
//! Centrifugo leaves them out (centrifugo `internal/apiproto/generate_tags.sh` lists the others).

use serde::Serialize;

use super::reply::{PresenceStats, Reply};
use crate::protocol::{Described, ErrorCode, History, StreamPosition};

/// The whole response to a request that is not to be executed.
#[derive(Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status; 405 needs the header `Allow: POST`.
    pub status: u16,
    /// The body, as JSON.
    pub body: Vec<u8>,
}

/// How a backend is told that its call failed (`http_api.error_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorMode {
    /// With status 200 and a body `{"error":{..}}`. Only an overload (111) has status 503, so that
    /// whoever stands between stops too.
    #[default]
    Body,
    /// With a status that fits the error, and the error alone as the body.
    Transport,
    /// As `Body` has it, and the replies of a batch are a line each, as they are where a request
    /// names its methods in its body.
    Lines,
}

impl ErrorMode {
    /// The mode of one request for the method that its path names, if it does: `Transport` if the
    /// header `X-Centrifugo-Error-Mode` asks for it, otherwise the configured one.
    pub fn of_request(self, name: &str, header: Option<&[u8]>) -> Self {
        match header {
            _ if name.is_empty() => Self::Lines,
            Some(b"transport") => Self::Transport,
            _ => self,
        }
    }

    /// The status of an error (centrifugo `MapErrorToHTTPCode`). What Centrifugo's API never answers
    /// is 400: an error that is not ours must not look like one.
    fn status(self, error: ErrorCode) -> u16 {
        match (self, error.code) {
            (Self::Body | Self::Lines, 111) => 503,
            (Self::Body | Self::Lines, _) => 200,
            (Self::Transport, 100) => 500,
            (Self::Transport, 102 | 104) => 404,
            (Self::Transport, 111) => 429,
            (Self::Transport, 112) => 416,
            (Self::Transport, 113) => 409,
            (Self::Transport, _) => 400,
        }
    }
}

/// The status and body of the response to a call: `{"result":..}`, for a batch `{"replies":[..]}`.
/// Inside a broadcast or a batch errors stay in the body in both modes, as they do in Centrifugo.
pub fn response(mode: ErrorMode, outcome: &Result<Reply, ErrorCode>) -> (u16, Vec<u8>) {
    let mut out = Vec::with_capacity(64);
    let status = match outcome {
        Ok(Reply::Batch(replies)) if mode == ErrorMode::Lines => {
            for (index, reply) in replies.iter().enumerate() {
                if index > 0 {
                    out.push(b'\n');
                }
                match reply {
                    Ok(reply) => write_result(&mut out, reply),
                    Err(error) => write_error(&mut out, *error),
                }
            }
            200
        }
        Ok(Reply::Batch(replies)) => {
            write_replies(&mut out, replies);
            200
        }
        Ok(reply) => {
            write_result(&mut out, reply);
            200
        }
        Err(error) => {
            match mode {
                ErrorMode::Body | ErrorMode::Lines => write_error(&mut out, *error),
                ErrorMode::Transport => write_json(&mut out, &ErrorBody::from(*error)),
            }
            mode.status(*error)
        }
    };
    (status, out)
}

/// The body that says `message` to a person, for statuses other than 200: `{"error":{..}}` with the
/// status as its code, in both modes.
pub fn error_response(status: u16, message: &str) -> Vec<u8> {
    encode(&ErrorResponse { error: ErrorBody { code: status, message, temporary: false } })
}

pub(super) fn transport_error(status: u16, message: &str) -> ApiError {
    ApiError { status, body: error_response(status, message) }
}

pub(super) fn refused_as(mode: ErrorMode, error: ErrorCode) -> ApiError {
    let (status, body) = response(mode, &Err(error));
    ApiError { status, body }
}

pub(super) fn refused(error: ErrorCode) -> ApiError {
    refused_as(ErrorMode::Body, error)
}

pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    write_json(&mut out, value);
    out
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: u16,
    message: &'a str,
    /// The same call may succeed later.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    temporary: bool,
}

impl From<ErrorCode> for ErrorBody<'static> {
    fn from(ErrorCode { code, message, temporary }: ErrorCode) -> Self {
        Self { code, message, temporary }
    }
}

#[derive(Serialize)]
struct ErrorResponse<'a> {
    error: ErrorBody<'a>,
}

fn write_error(out: &mut Vec<u8>, error: ErrorCode) {
    write_json(out, &ErrorResponse { error: error.into() });
}

fn write_result(out: &mut Vec<u8>, reply: &Reply) {
    out.extend_from_slice(b"{\"result\":");
    write_reply(out, reply);
    out.push(b'}');
}

fn write_replies(out: &mut Vec<u8>, replies: &[Result<Reply, ErrorCode>]) {
    out.extend_from_slice(b"{\"replies\":");
    write_list(out, b"[]", replies, |out, reply| match reply {
        Ok(reply) => {
            out.extend_from_slice(b"{\"");
            out.extend_from_slice(reply.method().as_bytes());
            out.extend_from_slice(b"\":");
            write_reply(out, reply);
            out.push(b'}');
        }
        Err(error) => write_error(out, *error),
    });
    out.push(b'}');
}

/// What stands behind `"result":`, or behind the method in a batch.
fn write_reply(out: &mut Vec<u8>, reply: &Reply) {
    match reply {
        Reply::Publish(result) => write_publish(out, result),
        Reply::Broadcast(outcomes) => write_broadcast(out, outcomes),
        Reply::Batch(replies) => write_replies(out, replies),
        Reply::Subscribe
        | Reply::Unsubscribe
        | Reply::Disconnect
        | Reply::Refresh
        | Reply::HistoryRemove => out.extend_from_slice(b"{}"),
        Reply::Presence(clients) => {
            out.extend_from_slice(b"{\"presence\":");
            write_list(out, b"{}", clients, |out, member| {
                write_key(out, &member.client);
                out.extend_from_slice(&member.json);
            });
            out.push(b'}');
        }
        Reply::PresenceStats(PresenceStats { num_clients, num_users }) => {
            let stats = format!(r#"{{"num_clients":{num_clients},"num_users":{num_users}}}"#);
            out.extend_from_slice(stats.as_bytes());
        }
        Reply::History(page) => write_history(out, page),
        Reply::Channels(channels) => {
            out.extend_from_slice(b"{\"channels\":");
            write_list(out, b"{}", channels, |out, (channel, num_clients)| {
                write_key(out, channel);
                out.extend_from_slice(format!(r#"{{"num_clients":{num_clients}}}"#).as_bytes());
            });
            out.push(b'}');
        }
        Reply::Connections(connections) => {
            out.extend_from_slice(b"{\"connections\":");
            write_list(out, b"{}", connections, |out, connection| {
                write_key(out, &connection.client);
                write_connection(out, connection);
            });
            out.push(b'}');
        }
        Reply::Info(node) => {
            out.extend_from_slice(b"{\"nodes\":[");
            write_json(out, node);
            out.extend_from_slice(b"]}");
        }
    }
}

fn write_publish(out: &mut Vec<u8>, position: &StreamPosition) {
    #[derive(Serialize)]
    struct Published<'a> {
        #[serde(skip_serializing_if = "is_zero")]
        offset: u64,
        #[serde(skip_serializing_if = "str::is_empty")]
        epoch: &'a str,
    }
    write_json(out, &Published { offset: position.offset, epoch: &position.epoch });
}

fn write_broadcast(out: &mut Vec<u8>, outcomes: &[Result<StreamPosition, ErrorCode>]) {
    out.extend_from_slice(b"{\"responses\":");
    write_list(out, b"[]", outcomes, |out, outcome| match outcome {
        Ok(result) => {
            out.extend_from_slice(b"{\"result\":");
            write_publish(out, result);
            out.push(b'}');
        }
        Err(error) => write_error(out, *error),
    });
    out.push(b'}');
}

fn write_history(out: &mut Vec<u8>, page: &History) {
    out.extend_from_slice(b"{\"publications\":");
    write_list(out, b"[]", &page.publications, |out, publication| {
        out.extend_from_slice(publication);
    });
    out.extend_from_slice(b",\"epoch\":");
    write_json(out, &*page.position.epoch);
    out.extend_from_slice(format!(",\"offset\":{}}}", page.position.offset).as_bytes());
}

/// A connection in the shape of Centrifugo PRO's `ConnectionInfo`; what is empty is left out, but for
/// the user. `connected_at`, in seconds since the Unix epoch, is ours.
fn write_connection(out: &mut Vec<u8>, connection: &Described) {
    /// The fields in front of the state, whose `meta` is encoded already.
    #[derive(Serialize)]
    struct Head<'a> {
        #[serde(skip_serializing_if = "str::is_empty")]
        app_name: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        app_version: &'a str,
        transport: &'a str,
        protocol: &'static str,
        user: &'a str,
    }
    let Described { name: app_name, version: app_version, transport, user, .. } = connection;
    write_json(out, &Head { app_name, app_version, transport, protocol: "json", user });
    // The state goes in front of the brace that closes the head.
    out.pop();
    let connected_at = connection.connected_at_unix_s;
    out.extend_from_slice(format!(r#","state":{{"connected_at":{connected_at}"#).as_bytes());
    if !connection.channels.is_empty() {
        out.extend_from_slice(b",\"channels\":");
        write_list(out, b"{}", &connection.channels, |out, channel| {
            write_key(out, channel);
            out.extend_from_slice(b"{}");
        });
    }
    if let Some(meta) = &connection.meta {
        out.extend_from_slice(b",\"meta\":");
        out.extend_from_slice(meta);
    }
    out.extend_from_slice(b"}}");
}

/// Writes items between `brackets` and with commas between them.
fn write_list<I: IntoIterator>(
    out: &mut Vec<u8>,
    brackets: &[u8; 2],
    items: I,
    write: impl Fn(&mut Vec<u8>, I::Item),
) {
    out.push(brackets[0]);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(brackets[1]);
}

fn write_key(out: &mut Vec<u8>, key: &str) {
    write_json(out, key);
    out.push(b':');
}

fn write_json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value)
        .expect("writing to memory cannot fail, and the keys of these types are strings");
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use bytes::Bytes;

    use super::*;
    use crate::{
        api::{NodeInfo, NodeMetrics, ProcessStats, ShardInfo},
        metrics::Counters,
        protocol::{MemberInfo, Name},
    };

    fn body(outcome: Result<Reply, ErrorCode>) -> String {
        let (status, body) = response(ErrorMode::Body, &outcome);
        assert_eq!(status, if outcome.is_err_and(|e| e.code == 111) { 503 } else { 200 });
        String::from_utf8(body).unwrap()
    }

    fn published(offset: u64, epoch: &str) -> StreamPosition {
        StreamPosition { offset, epoch: epoch.into() }
    }

    const UNKNOWN: &str = r#"{"error":{"code":102,"message":"unknown channel"}}"#;

    fn connections() -> Reply {
        let least = Described {
            client: "c-1".into(),
            user: "".into(),
            name: String::new(),
            version: String::new(),
            transport: "websocket",
            connected_at_unix_s: 5,
            channels: Vec::new(),
            meta: None,
        };
        let full = Described {
            client: "c-2".into(),
            user: "u\"".into(),
            name: "js".into(),
            version: "2".into(),
            channels: vec!["b".into(), "a\n".into()],
            meta: Some(Bytes::from_static(b"{\"m\":1}")),
            ..least.clone()
        };
        Reply::Connections(vec![least, full])
    }

    #[test]
    fn results_have_the_shape_of_centrifugos() {
        let history = |publications: &[&'static [u8]], offset, epoch: &str| {
            let publications = publications.iter().copied().map(Bytes::from_static).collect();
            let position = StreamPosition { offset, epoch: epoch.into() };
            Reply::History(History { publications, position })
        };
        let clients = [("c2", r#"{"user":"","client":"c2"}"#), ("c1", r#"{"user":"u"}"#)];
        let clients = clients.map(|(client, json)| {
            let json = Bytes::from_static(json.as_bytes());
            Arc::new(MemberInfo { client: client.into(), user: "".into(), json })
        });
        let channels = BTreeMap::from([(Name::from("b"), 2), (Name::from("a\""), 1)]);
        for (reply, result) in [
            (Reply::Publish(published(0, "")), "{}"),
            (Reply::Publish(published(3, "e")), r#"{"offset":3,"epoch":"e"}"#),
            (Reply::Subscribe, "{}"),
            (Reply::Unsubscribe, "{}"),
            (Reply::Disconnect, "{}"),
            (Reply::Refresh, "{}"),
            (Reply::HistoryRemove, "{}"),
            (Reply::Presence(Vec::new()), r#"{"presence":{}}"#),
            (
                Reply::Presence(clients.to_vec()),
                r#"{"presence":{"c2":{"user":"","client":"c2"},"c1":{"user":"u"}}}"#,
            ),
            (
                Reply::PresenceStats(PresenceStats { num_clients: 0, num_users: 0 }),
                r#"{"num_clients":0,"num_users":0}"#,
            ),
            (history(&[], 0, ""), r#"{"publications":[],"epoch":"","offset":0}"#),
            (
                history(&[b"{\"data\":1,\"offset\":1}", b"{\"data\":2,\"offset\":2}"], 2, "e"),
                concat!(
                    r#"{"publications":[{"data":1,"offset":1},{"data":2,"offset":2}],"#,
                    r#""epoch":"e","offset":2}"#
                ),
            ),
            (Reply::Channels(BTreeMap::new()), r#"{"channels":{}}"#),
            (
                Reply::Channels(channels),
                r#"{"channels":{"a\"":{"num_clients":1},"b":{"num_clients":2}}}"#,
            ),
            (Reply::Connections(Vec::new()), r#"{"connections":{}}"#),
            (
                connections(),
                concat!(
                    r#"{"connections":{"c-1":{"transport":"websocket","protocol":"json","#,
                    r#""user":"","state":{"connected_at":5}},"c-2":{"app_name":"js","#,
                    r#""app_version":"2","transport":"websocket","protocol":"json","#,
                    r#""user":"u\"","state":{"connected_at":5,"channels":{"b":{},"a\n":{}},"#,
                    r#""meta":{"m":1}}}}}"#
                ),
            ),
        ] {
            assert_eq!(body(Ok(reply.clone())), format!(r#"{{"result":{result}}}"#));
            let method = reply.method();
            assert_eq!(
                body(Ok(Reply::Batch(vec![Ok(reply)]))),
                format!(r#"{{"replies":[{{"{method}":{result}}}]}}"#)
            );
        }
    }

    #[test]
    fn broadcasts_and_batches_have_an_outcome_each() {
        let some =
            vec![Ok(published(1, "e")), Err(ErrorCode::UNKNOWN_CHANNEL), Ok(published(0, ""))];
        let responses = format!(
            r#"{{"responses":[{{"result":{{"offset":1,"epoch":"e"}}}},{UNKNOWN},{{"result":{{}}}}]}}"#
        );
        let broadcast = Reply::Broadcast(some);
        assert_eq!(body(Ok(broadcast.clone())), format!(r#"{{"result":{responses}}}"#));
        let batch = Reply::Batch(vec![
            Ok(Reply::Publish(published(0, ""))),
            Err(ErrorCode::UNKNOWN_CHANNEL),
            Ok(broadcast),
        ]);
        let replies =
            format!(r#"{{"replies":[{{"publish":{{}}}},{UNKNOWN},{{"broadcast":{responses}}}]}}"#);
        assert_eq!(body(Ok(batch.clone())), replies);
        assert_eq!(response(ErrorMode::Transport, &Ok(batch)), (200, replies.into_bytes()));
        assert_eq!(body(Ok(Reply::Batch(Vec::new()))), r#"{"replies":[]}"#);
    }

    #[test]
    fn errors_come_as_their_mode_has_them() {
        assert_eq!(body(Err(ErrorCode::UNKNOWN_CHANNEL)), UNKNOWN);
        assert_eq!(
            body(Err(ErrorCode::TOO_MANY_REQUESTS)),
            r#"{"error":{"code":111,"message":"too many requests","temporary":true}}"#
        );
        let (status, body) = response(ErrorMode::Transport, &Err(ErrorCode::UNKNOWN_CHANNEL));
        assert_eq!(status, 404);
        assert_eq!(body, br#"{"code":102,"message":"unknown channel"}"#);
        for error in ErrorCode::ALL {
            let expected = match error.code {
                100 => 500,
                102 | 104 => 404,
                111 => 429,
                112 => 416,
                113 => 409,
                _ => 400,
            };
            assert_eq!(response(ErrorMode::Transport, &Err(*error)).0, expected, "{error:?}");
        }
        assert_eq!(
            error_response(401, "no \"key\""),
            br#"{"error":{"code":401,"message":"no \"key\""}}"#
        );
    }

    #[test]
    fn a_request_may_ask_for_statuses() {
        for mode in [ErrorMode::Body, ErrorMode::Transport] {
            assert_eq!(mode.of_request("info", Some(b"transport")), ErrorMode::Transport);
            assert_eq!(mode.of_request("", Some(b"transport")), ErrorMode::Lines);
            for header in [None, Some(&b"any"[..]), Some(b"")] {
                assert_eq!(mode.of_request("info", header), mode);
            }
        }
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
                counters: Counters { deliveries: 2, ..Counters::default() },
                closed: [(3008, 1)].into(),
                ..NodeMetrics::default()
            },
            process: ProcessStats { cpu_percent: 1.5, rss_bytes: 7 },
            shards: vec![ShardInfo { num_clients: 3, num_subs: 0, num_channels: 1 }],
            ..NodeInfo::default()
        };
        let text = body(Ok(Reply::Info(Box::new(node))));
        let (start, rest) = text.split_once(r#""items":{"#).expect("measurements");
        let (items, end) = rest.split_once('}').expect("their end");
        assert_eq!(
            start,
            concat!(
                r#"{"result":{"nodes":[{"uid":"u","name":"n","version":"1","num_clients":3,"#,
                r#""num_users":0,"num_subs":0,"num_channels":0,"uptime":9,"#,
                r#""metrics":{"interval":0.0,"#,
            )
        );
        for item in [r#""connections_closed_3008":1.0"#, r#""deliveries":2.0"#, r#""leases":0.0"#] {
            assert!(items.split(',').any(|has| has == item), "{item} in {items}");
        }
        assert_eq!(
            end,
            concat!(
                r#"},"process":{"cpu":1.5,"rss":7},"#,
                r#""shards":[{"num_clients":3,"num_subs":0,"num_channels":1}]}]}}"#
            )
        );
    }
}
