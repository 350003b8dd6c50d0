//! Requests of the HTTP API: from a method's name and a body to a [`Call`].

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

use super::{
    batch::Batch,
    call::{Call, ConnectionsOf, Disconnect, Subscribe, Target},
    legacy,
    shapes::{ApiError, ErrorMode, refused_as, transport_error},
};
use crate::{
    auth::SubscribeOverrides,
    codes::CloseReason,
    hub::ChannelPattern,
    limits::{CLOSE_TEXT_BYTES_MAX, PUBLICATION_KEY_BYTES_MAX},
    protocol::{
        ErrorCode, HistoryFilter, Name, Payload, PublicationExtra, StreamPosition,
        centrifuge::{Terms, one_line, present},
    },
};

/// Parses a request; `name` is what its path has behind the prefix of the API, such as `publish`, or
/// nothing where the body says which methods are called.
/// Unknown fields are accepted, so is `delta`, an offer that a server need not take.
///
/// # Errors
/// The whole response: 404 for an unknown method, 405 for anything but POST, 400 with a text that
/// says where for a body that is not the right JSON, and as `mode` has it an error 107 or 108 for
/// what cannot be done.
pub fn parse(
    mode: ErrorMode,
    method: &str,
    name: &str,
    body: &[u8],
    channel_bytes_max: usize,
) -> Result<Call, ApiError> {
    let called = Method::named(name);
    if called.is_none() && !matches!(name, "" | "batch") {
        return Err(transport_error(404, "no such API method"));
    }
    if method != "POST" {
        return Err(transport_error(405, "API methods are called with POST"));
    }
    let call = match called {
        None if name.is_empty() => return legacy::parse(body, channel_bytes_max),
        None => parse_as(Batch { channel_bytes_max }, body),
        // They look at nothing in their bodies.
        Some(Method::Info) => Ok(Ok(Call::Info)),
        Some(Method::Rpc) => Ok(Err(ErrorCode::NOT_AVAILABLE)),
        Some(method) => parse_as(Request { method, channel_bytes_max }, body),
    };
    call?.map_err(|error| refused_as(mode, error))
}

/// Reads the body of a request.
pub(super) fn parse_body<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    parse_as(Object(PhantomData), body)
}

fn parse_as<'a, S: DeserializeSeed<'a>>(seed: S, body: &'a [u8]) -> Result<S::Value, ApiError> {
    let body = std::str::from_utf8(body)
        .map_err(|error| transport_error(400, &format!("the body is not UTF-8: {error}")))?;
    if !body.trim_ascii_start().starts_with('{') {
        return Err(transport_error(400, "the body is not a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_str(body);
    let value = seed.deserialize(&mut json);
    value
        .and_then(|value| json.end().map(|()| value))
        .map_err(|error| transport_error(400, &format!("the body is not a valid request: {error}")))
}

/// A value that must be an object in JSON: serde alone would take an array, by position.
struct Object<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Object<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<T, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(entries))
    }
}

/// The methods that stand alone as well as in a batch.
#[derive(Clone, Copy)]
pub(super) enum Method {
    Publish,
    Broadcast,
    Subscribe,
    Unsubscribe,
    Disconnect,
    Refresh,
    Presence,
    PresenceStats,
    History,
    HistoryRemove,
    Channels,
    Connections,
    Info,
    Rpc,
}

impl Method {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "publish" => Self::Publish,
            "broadcast" => Self::Broadcast,
            "subscribe" => Self::Subscribe,
            "unsubscribe" => Self::Unsubscribe,
            "disconnect" => Self::Disconnect,
            "refresh" => Self::Refresh,
            "presence" => Self::Presence,
            "presence_stats" => Self::PresenceStats,
            "history" => Self::History,
            "history_remove" => Self::HistoryRemove,
            "channels" => Self::Channels,
            "connections" => Self::Connections,
            "info" => Self::Info,
            "rpc" => Self::Rpc,
            _ => return None,
        })
    }
}

/// Reads the request of one method and checks its values.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) channel_bytes_max: usize,
}

impl<'de> DeserializeSeed<'de> for Request {
    type Value = Result<Call, ErrorCode>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        let max = self.channel_bytes_max;
        Ok(match self.method {
            Method::Publish => PublishRequest::read(from)?.publish(max),
            Method::Broadcast => PublishRequest::read(from)?.broadcast(max),
            Method::Subscribe => SubscribeRequest::read(from)?.subscribe(max),
            Method::Unsubscribe => TargetRequest::read(from)?.unsubscribe(max),
            Method::Disconnect => TargetRequest::read(from)?.disconnect(),
            Method::Refresh => TargetRequest::read(from)?.refresh(),
            Method::Presence => {
                ChannelRequest::read(from)?.channel(max).map(|channel| Call::Presence { channel })
            }
            Method::PresenceStats => ChannelRequest::read(from)?
                .channel(max)
                .map(|channel| Call::PresenceStats { channel }),
            Method::History => ChannelRequest::read(from)?.history(max),
            Method::HistoryRemove => ChannelRequest::read(from)?
                .channel(max)
                .map(|channel| Call::HistoryRemove { channel }),
            Method::Channels => ChannelRequest::read(from)?.channels(),
            Method::Connections => TargetRequest::read(from)?.connections(max),
            Method::Info => IgnoredAny::deserialize(from).map(|_| Ok(Call::Info))?,
            Method::Rpc => IgnoredAny::deserialize(from).map(|_| Err(ErrorCode::NOT_AVAILABLE))?,
        })
    }
}

trait Read<'de>: Deserialize<'de> {
    fn read<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Object(PhantomData).deserialize(from)
    }
}

impl<'de, T: Deserialize<'de>> Read<'de> for T {}

/// The fields of publish and broadcast that decide.
#[derive(Deserialize)]
struct PublishRequest<'a> {
    channel: Option<String>,
    channels: Option<Vec<String>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    tags: Option<BTreeMap<String, String>>,
    skip_history: Option<bool>,
    idempotency_key: Option<String>,
    version: Option<u64>,
    version_epoch: Option<String>,
}

impl PublishRequest<'_> {
    fn publish(self, channel_bytes_max: usize) -> Result<Call, ErrorCode> {
        let (data, extra) = (self.data()?, self.extra()?);
        let channel = named(self.channel, channel_bytes_max)?;
        Ok(Call::Publish { channel, data, payload: Payload::Json, extra })
    }

    fn broadcast(self, channel_bytes_max: usize) -> Result<Call, ErrorCode> {
        let (data, extra) = (self.data()?, self.extra()?);
        let channels = self.channels.unwrap_or_default();
        if channels.is_empty() {
            return Err(wrong("bad request: channels are missing"));
        }
        let named = |channel| named(Some(channel), channel_bytes_max);
        Ok(Call::Broadcast { channels: channels.into_iter().map(named).collect(), data, extra })
    }

    fn data(&self) -> Result<Bytes, ErrorCode> {
        payload(self.data, self.b64data.as_deref())?
            .ok_or(wrong("bad request: data and b64data are missing"))
    }

    fn extra(&self) -> Result<PublicationExtra, ErrorCode> {
        let key = |text: &Option<String>, too_long| match text.as_deref().unwrap_or_default() {
            text if text.len() > PUBLICATION_KEY_BYTES_MAX => Err(wrong(too_long)),
            text => Ok(text.to_owned()),
        };
        let idempotency_key =
            key(&self.idempotency_key, "bad request: idempotency_key is above 255 bytes")?;
        let version_epoch =
            key(&self.version_epoch, "bad request: version_epoch is above 255 bytes")?;
        Ok(PublicationExtra {
            tags: self.tags.clone().unwrap_or_default(),
            skip_history: self.skip_history.unwrap_or_default(),
            idempotency_key: Some(Name::from(idempotency_key)).filter(|key| !key.is_empty()),
            version: self.version.unwrap_or_default(),
            version_epoch,
        })
    }
}

/// The fields of subscribe.
#[derive(Deserialize)]
struct SubscribeRequest<'a> {
    user: Option<String>,
    client: Option<String>,
    session: Option<String>,
    channel: Option<String>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
    b64info: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    expire_at: Option<i64>,
    recover_since: Option<PositionRequest>,
    #[serde(rename = "override")]
    overrides: Option<SubscribeOverrides>,
}

impl SubscribeRequest<'_> {
    fn subscribe(self, channel_bytes_max: usize) -> Result<Call, ErrorCode> {
        let info = payload(self.info, self.b64info.as_deref())?;
        let data = payload(self.data, self.b64data.as_deref())?;
        Ok(Call::Subscribe(Box::new(Subscribe {
            target: target(self.user, self.client, self.session)?,
            channel: named(self.channel, channel_bytes_max)?,
            terms: Terms {
                info,
                data,
                overrides: self.overrides.unwrap_or_default(),
                expire_at_unix_s: expiry(self.expire_at),
                cache_recover: false,
            },
            recover: self.recover_since.map(StreamPosition::from),
        })))
    }
}

/// The fields of unsubscribe, disconnect, refresh and connections.
#[derive(Deserialize)]
struct TargetRequest<'a> {
    user: Option<String>,
    client: Option<String>,
    session: Option<String>,
    channel: Option<String>,
    whitelist: Option<Vec<String>>,
    disconnect: Option<DisconnectRequest>,
    expired: Option<bool>,
    expire_at: Option<i64>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
    expression: Option<String>,
}

#[derive(Deserialize)]
struct DisconnectRequest {
    code: Option<u32>,
    reason: Option<String>,
}

impl TargetRequest<'_> {
    fn unsubscribe(self, channel_bytes_max: usize) -> Result<Call, ErrorCode> {
        let target = target(self.user, self.client, self.session)?;
        let channel = match given(self.channel) {
            None => None,
            channel => Some(named(channel, channel_bytes_max)?),
        };
        Ok(Call::Unsubscribe { target, channel })
    }

    fn disconnect(self) -> Result<Call, ErrorCode> {
        let target = target(self.user, self.client, self.session)?;
        let whitelist = self.whitelist.unwrap_or_default().into_iter().map(Name::from).collect();
        let disconnect = match self.disconnect {
            None => None,
            Some(DisconnectRequest { code, reason }) => {
                let code = u16::try_from(code.unwrap_or_default()).unwrap_or_default();
                if !(3000..=4999).contains(&code) {
                    return Err(wrong("bad request: disconnect.code is not from 3000 to 4999"));
                }
                let default = || CloseReason::FORCE_NO_RECONNECT.reason.to_owned();
                let reason = given(reason).unwrap_or_else(default);
                if reason.len() > CLOSE_TEXT_BYTES_MAX {
                    return Err(wrong("bad request: disconnect.reason is above 123 bytes"));
                }
                Some(Disconnect { code, reason: reason.into() })
            }
        };
        Ok(Call::Disconnect { target, whitelist, disconnect })
    }

    fn refresh(self) -> Result<Call, ErrorCode> {
        Ok(Call::Refresh {
            target: target(self.user, self.client, self.session)?,
            expired: self.expired.unwrap_or_default(),
            expire_at_unix_s: expiry(self.expire_at),
            info: self.info.map(one_line),
        })
    }

    fn connections(self, channel_bytes_max: usize) -> Result<Call, ErrorCode> {
        if given(self.expression).is_some() {
            return Err(ErrorCode {
                message: "not available: connections by expression",
                ..ErrorCode::NOT_AVAILABLE
            });
        }
        Ok(Call::Connections(match (self.user, given(self.channel)) {
            (Some(user), None) => ConnectionsOf::User(user.into()),
            (None, channel @ Some(_)) => ConnectionsOf::Channel(named(channel, channel_bytes_max)?),
            _ => return Err(wrong("bad request: give either user or channel")),
        }))
    }
}

/// The fields of presence, presence_stats, history, history_remove and channels.
#[derive(Deserialize)]
struct ChannelRequest {
    channel: Option<String>,
    limit: Option<i64>,
    since: Option<PositionRequest>,
    reverse: Option<bool>,
    pattern: Option<String>,
}

impl ChannelRequest {
    fn channel(self, channel_bytes_max: usize) -> Result<Name, ErrorCode> {
        named(self.channel, channel_bytes_max)
    }

    fn history(self, channel_bytes_max: usize) -> Result<Call, ErrorCode> {
        let filter = HistoryFilter {
            limit: usize::try_from(self.limit.unwrap_or_default()).ok(),
            since: self.since.map(StreamPosition::from),
            reverse: self.reverse.unwrap_or_default(),
        };
        Ok(Call::History { channel: named(self.channel, channel_bytes_max)?, filter })
    }

    fn channels(self) -> Result<Call, ErrorCode> {
        let pattern = given(self.pattern).map(|pattern| ChannelPattern::new(&pattern));
        Ok(Call::Channels { pattern: pattern.transpose().map_err(wrong)? })
    }
}

#[derive(Deserialize)]
struct PositionRequest {
    offset: Option<u64>,
    epoch: Option<String>,
}

impl From<PositionRequest> for StreamPosition {
    fn from(position: PositionRequest) -> Self {
        Self {
            offset: position.offset.unwrap_or_default(),
            epoch: position.epoch.unwrap_or_default().into(),
        }
    }
}

/// An error 107 that says what is wrong.
const fn wrong(message: &'static str) -> ErrorCode {
    ErrorCode { message, ..ErrorCode::BAD_REQUEST }
}

/// As everywhere in Centrifugo's API the empty text is none.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn named(channel: Option<String>, bytes_max: usize) -> Result<Name, ErrorCode> {
    match given(channel) {
        None => Err(wrong("bad request: a channel is missing")),
        Some(channel) if channel.len() > bytes_max => {
            Err(wrong("bad request: a channel is longer than channel.max_length"))
        }
        Some(channel) => Ok(channel.into()),
    }
}

/// Somebody who names nobody at all is not taken to mean all who have no user.
fn target(
    user: Option<String>,
    client: Option<String>,
    session: Option<String>,
) -> Result<Target, ErrorCode> {
    let (client, session) = (given(client).map(Name::from), given(session).map(Name::from));
    if user.is_none() && client.is_none() && session.is_none() {
        return Err(wrong("bad request: the user is missing"));
    }
    Ok(Target { user: user.unwrap_or_default().into(), client, session })
}

/// Seconds since the Unix epoch; 0, which what is before becomes too, is never.
fn expiry(unix_s: Option<i64>) -> u64 {
    unix_s.and_then(|at| u64::try_from(at).ok()).unwrap_or_default()
}

/// JSON as it stands or in base64, which goes first. Clients speak JSON alone, so must it.
fn payload(json: Option<&RawValue>, base64: Option<&str>) -> Result<Option<Bytes>, ErrorCode> {
    let Some(base64) = base64.filter(|text| !text.is_empty()) else {
        return Ok(json.map(one_line));
    };
    let bytes = BASE64
        .decode(base64.as_bytes())
        .map_err(|_| wrong("bad request: b64data or b64info is not base64"))?;
    let json: &RawValue = serde_json::from_slice(&bytes).map_err(|_| {
        wrong("bad request: b64data or b64info is not JSON, which all clients need")
    })?;
    Ok(Some(one_line(json)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn post(name: &str, body: &str) -> Result<Call, ApiError> {
        parse(ErrorMode::Body, "POST", name, body.as_bytes(), 10)
    }

    fn status(result: Result<Call, ApiError>) -> (u16, u16) {
        let error = result.unwrap_err();
        let body: serde_json::Value = serde_json::from_slice(&error.body).unwrap();
        assert!(!body["error"]["message"].as_str().unwrap().is_empty());
        (error.status, body["error"]["code"].as_u64().unwrap() as u16)
    }

    fn plain() -> PublicationExtra {
        PublicationExtra::default()
    }

    fn of(user: &str, client: &str, session: &str) -> Target {
        let given = |text: &str| given(Some(text.to_owned())).map(Name::from);
        Target { user: user.into(), client: given(client), session: given(session) }
    }

    #[test]
    fn publications_are_parsed_as_official_libraries_send_them() {
        let publish = |data: &'static str, extra| Call::Publish {
            channel: "news".into(),
            data: Bytes::from_static(data.as_bytes()),
            payload: Payload::Json,
            extra,
        };
        for (body, data) in [
            (r#"{"channel":"news","data":{"a": 1}}"#, r#"{"a": 1}"#),
            (r#"{"channel": "news", "data": "x", "delta": true}"#, "\"x\""),
            (r#"{"channel":"n\u0065ws","data":null,"tags":{},"b64data":""}"#, "null"),
            (r#"{"channel":"news","data":0,"b64data":"eyJhIjoKMX0="}"#, r#"{"a": 1}"#),
            (r#"{"channel":"news","b64data":"IDcg"}"#, "7"),
            (r#"{"channel":"news","data":1,"idempotency_key":null,"version":0}"#, "1"),
            ("{\"channel\":\"news\",\n \"data\":[1,\r\n2],\n\"future\":[]}", "[1,  2]"),
        ] {
            assert_eq!(post("publish", body), Ok(publish(data, plain())), "{body}");
        }
        let all = r#"{"channel":"news","data":1,"tags":{"b":"2","a":""},"skip_history":true,
            "idempotency_key":"k","delta":true,"version":18446744073709551615,"version_epoch":"e"}"#;
        let extra = PublicationExtra {
            tags: BTreeMap::from([("a".into(), "".into()), ("b".into(), "2".into())]),
            skip_history: true,
            idempotency_key: Some("k".into()),
            version: u64::MAX,
            version_epoch: "e".into(),
        };
        assert_eq!(post("publish", all), Ok(publish("1", extra.clone())));
        let all = all.replace("\"channel\":\"news\"", r#""channels":["a","","a","12345678901"]"#);
        let Ok(Call::Broadcast { channels, data, extra: parsed }) = post("broadcast", &all) else {
            panic!("{all}");
        };
        let codes: Vec<_> = channels.into_iter().map(|c| c.map_err(|error| error.code)).collect();
        assert_eq!(codes, [Ok("a".into()), Err(107), Ok("a".into()), Err(107)]);
        assert_eq!((&data[..], parsed), (&b"1"[..], extra));
    }

    #[test]
    fn calls_about_users_name_their_connections() {
        let full = r#"{"user":"u","client":"c","session":"s","channel":"ch","info":{"a":1},
            "b64data":"WzFd","expire_at":7,"recover_since":{"offset":3,"epoch":"e"},"override":
            {"presence":{"value":true},"join_leave":{"value":false},"force_recovery":{},
             "force_positioning":null,"force_push_join_leave":{"value":true}}}"#;
        let subscribe = Subscribe {
            target: of("u", "c", "s"),
            channel: "ch".into(),
            terms: Terms {
                info: Some(Bytes::from_static(b"{\"a\":1}")),
                data: Some(Bytes::from_static(b"[1]")),
                expire_at_unix_s: 7,
                cache_recover: false,
                overrides: SubscribeOverrides {
                    presence: Some(true),
                    join_leave: Some(false),
                    force_recovery: Some(false),
                    force_positioning: None,
                    force_push_join_leave: Some(true),
                },
            },
            recover: Some(StreamPosition { offset: 3, epoch: "e".into() }),
        };
        assert_eq!(post("subscribe", full), Ok(Call::Subscribe(Box::new(subscribe))));
        let least = Subscribe {
            target: of("", "", ""),
            channel: "ch".into(),
            terms: Terms::default(),
            recover: None,
        };
        let body = r#"{"user":"","channel":"ch","info":null,"expire_at":0,"override":{}}"#;
        assert_eq!(post("subscribe", body), Ok(Call::Subscribe(Box::new(least))));

        let unsubscribe = |target, channel| Ok(Call::Unsubscribe { target, channel });
        assert_eq!(post("unsubscribe", full), unsubscribe(of("u", "c", "s"), Some("ch".into())));
        assert_eq!(post("unsubscribe", r#"{"user":"u"}"#), unsubscribe(of("u", "", ""), None));
        let refresh = Call::Refresh {
            target: of("u", "c", "s"),
            expired: false,
            expire_at_unix_s: 7,
            info: Some(Bytes::from_static(b"{\"a\":1}")),
        };
        assert_eq!(post("refresh", full), Ok(refresh));
        let expired = Call::Refresh {
            target: of("u", "", ""),
            expired: true,
            expire_at_unix_s: 0,
            info: None,
        };
        let body = r#"{"user":"u","expired":true,"expire_at":-1}"#;
        assert_eq!(post("refresh", body), Ok(expired));
    }

    #[test]
    fn a_disconnect_has_a_code_that_clients_understand() {
        let call = |whitelist: &[&str], disconnect| Call::Disconnect {
            target: of("u", "", ""),
            whitelist: whitelist.iter().copied().map(Name::from).collect(),
            disconnect,
        };
        assert_eq!(post("disconnect", r#"{"user":"u"}"#), Ok(call(&[], None)));
        let long = "x".repeat(CLOSE_TEXT_BYTES_MAX);
        for (code, given, told) in
            [(3000, "r", "r"), (4999, &*long, &*long), (4500, "", "force disconnect")]
        {
            let disconnect = format!(r#"{{"code":{code},"reason":"{given}"}}"#);
            let body = format!(r#"{{"user":"u","whitelist":["a"],"disconnect":{disconnect}}}"#);
            let disconnect = Disconnect { code, reason: told.into() };
            assert_eq!(post("disconnect", &body), Ok(call(&["a"], Some(disconnect))));
        }
        for disconnect in [
            "{}",
            r#"{"code":2999,"reason":"r"}"#,
            r#"{"code":5000,"reason":"r"}"#,
            r#"{"code":69536,"reason":"r"}"#,
            &format!(r#"{{"code":4000,"reason":"{long}x"}}"#),
        ] {
            let body = format!(r#"{{"user":"u","disconnect":{disconnect}}}"#);
            assert_eq!(status(post("disconnect", &body)), (200, 107), "{body}");
        }
    }

    #[test]
    fn calls_about_channels_name_them() {
        let channel = || Name::from("c");
        let body = r#"{"channel":"c"}"#;
        assert_eq!(post("presence", body), Ok(Call::Presence { channel: channel() }));
        assert_eq!(post("presence_stats", body), Ok(Call::PresenceStats { channel: channel() }));
        assert_eq!(post("history_remove", body), Ok(Call::HistoryRemove { channel: channel() }));
        let since = |offset, epoch: &str| StreamPosition { offset, epoch: epoch.into() };
        for (body, limit, from, reverse) in [
            (body, Some(0), None, false),
            (r#"{"channel":"c","limit":null,"since":null}"#, Some(0), None, false),
            (r#"{"channel":"c","limit":-1,"since":{}}"#, None, Some(since(0, "")), false),
            (
                r#"{"channel":"c","limit":5,"since":{"offset":2,"epoch":"e"},"reverse":true}"#,
                Some(5),
                Some(since(2, "e")),
                true,
            ),
        ] {
            let filter = HistoryFilter { limit, since: from, reverse };
            let history = Call::History { channel: channel(), filter };
            assert_eq!(post("history", body), Ok(history), "{body}");
        }
        for body in ["{}", r#"{"pattern":""}"#] {
            assert_eq!(post("channels", body), Ok(Call::Channels { pattern: None }));
        }
        let pattern = ChannelPattern::new("a:*").ok();
        assert_eq!(post("channels", r#"{"pattern":"a:*"}"#), Ok(Call::Channels { pattern }));
        let connections = |of| Ok(Call::Connections(of));
        for user in ["u", ""] {
            let body = format!(r#"{{"user":"{user}","channel":""}}"#);
            assert_eq!(post("connections", &body), connections(ConnectionsOf::User(user.into())));
        }
        assert_eq!(
            post("connections", r#"{"channel":"c"}"#),
            connections(ConnectionsOf::Channel("c".into()))
        );
        for body in ["", "{}", "["] {
            assert_eq!(post("info", body), Ok(Call::Info));
        }
    }

    #[test]
    fn what_is_no_request_has_a_status_of_its_own() {
        let mode = ErrorMode::Transport;
        for name in ["nothing", "wake", "/publish"] {
            let body = br#"{"method":"publish","params":{}}"#;
            assert_eq!(status(parse(mode, "POST", name, body, 10)), (404, 404));
        }
        for method in ["GET", "PUT", "post"] {
            for name in ["publish", "info", "history", "batch", "rpc"] {
                assert_eq!(status(parse(mode, method, name, b"{}", 10)), (405, 405));
            }
        }
        for (name, body) in [
            ("publish", ""),
            ("publish", "{"),
            ("publish", "[]"),
            ("publish", " [\"a\"]"),
            ("publish", "7"),
            ("publish", "{} {}"),
            ("publish", r#"{"channel":7,"data":1}"#),
            ("publish", r#"{"channel":"a","data":}"#),
            ("publish", r#"{"channel":"a","data":{"b":tru}}"#),
            ("publish", r#"{"channel":"a","channel":"b","data":1}"#),
            ("publish", r#"{"channel":"a","data":1,"tags":{"a":1}}"#),
            ("publish", r#"{"channel":"a","data":1,"version":-1}"#),
            ("broadcast", r#"{"channels":"a","data":1}"#),
            ("subscribe", r#"{"user":1,"channel":"a"}"#),
            ("subscribe", r#"{"user":"u","channel":"a","override":{"presence":true}}"#),
            ("disconnect", r#"{"user":"u","whitelist":"c"}"#),
            ("history", r#"{"channel":"a","since":{"offset":-1}}"#),
            ("history", r#"{"channel":"a","limit":1.5}"#),
            ("channels", r#"{"pattern":["a"]}"#),
        ] {
            assert_eq!(status(post(name, body)), (400, 400), "{name} {body}");
        }
        let body = b"{\"channel\":\"\xff\"}";
        assert_eq!(status(parse(mode, "POST", "publish", body, 10)), (400, 400));
        let error = post("publish", "{\"channel\":7}").unwrap_err();
        let text = String::from_utf8(error.body).unwrap();
        assert!(text.contains("expected a string at line 1 column 12"), "{text}");
    }

    #[test]
    fn what_cannot_be_done_is_an_error_that_says_why() {
        let long = "k".repeat(PUBLICATION_KEY_BYTES_MAX + 1);
        let publish = |field: &str| format!(r#"{{"channel":"a","data":1,"{field}":"{long}"}}"#);
        for (name, body, code) in [
            ("publish", r#"{}"#, 107),
            ("publish", r#"{"channel":"a"}"#, 107),
            ("publish", r#"{"data":1}"#, 107),
            ("publish", r#"{"channel":"","data":1}"#, 107),
            ("publish", r#"{"channel":"12345678901","data":1}"#, 107),
            ("publish", r#"{"channel":"a","b64data":"!"}"#, 107),
            ("publish", r#"{"channel":"a","b64data":"eA=="}"#, 107),
            ("publish", r#"{"channel":"a","b64data":"Ii//Ig=="}"#, 107),
            ("publish", &publish("idempotency_key"), 107),
            ("publish", &publish("version_epoch"), 107),
            ("broadcast", r#"{"data":1}"#, 107),
            ("broadcast", r#"{"channels":[],"data":1}"#, 107),
            ("broadcast", r#"{"channels":["a"]}"#, 107),
            ("subscribe", r#"{"user":"u"}"#, 107),
            ("subscribe", r#"{"channel":"a"}"#, 107),
            ("subscribe", r#"{"user":"u","channel":"a","b64info":"eA=="}"#, 107),
            ("unsubscribe", r#"{"channel":"a"}"#, 107),
            ("unsubscribe", r#"{"user":"u","channel":"12345678901"}"#, 107),
            ("disconnect", "{}", 107),
            ("refresh", r#"{"client":"","session":""}"#, 107),
            ("presence", "{}", 107),
            ("presence_stats", "{}", 107),
            ("history", r#"{"channel":""}"#, 107),
            ("history_remove", "{}", 107),
            ("channels", r#"{"pattern":"[a"}"#, 107),
            ("connections", "{}", 107),
            ("connections", r#"{"user":"u","channel":"a"}"#, 107),
            ("connections", r#"{"user":"u","expression":"true"}"#, 108),
            ("rpc", r#"{"method":"m"}"#, 108),
            ("rpc", "", 108),
        ] {
            assert_eq!(status(post(name, body)), (200, code), "{name} {body}");
            let error = parse(ErrorMode::Transport, "POST", name, body.as_bytes(), 10).unwrap_err();
            let text = String::from_utf8(error.body).unwrap();
            assert!(text.starts_with(&format!(r#"{{"code":{code},"message":"#)), "{text}");
            assert_eq!(error.status, 400);
        }
        for target in [r#"{"client":"c"}"#, r#"{"session":"s"}"#, r#"{"user":""}"#] {
            assert!(post("disconnect", target).is_ok(), "{target}");
        }
    }

    const NAMES: &[&str] = &[
        "publish",
        "broadcast",
        "batch",
        "subscribe",
        "unsubscribe",
        "disconnect",
        "refresh",
        "presence",
        "presence_stats",
        "history",
        "history_remove",
        "channels",
        "connections",
        "info",
        "rpc",
    ];

    /// Objects of the API's own field names and values of every kind, so that they get far.
    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "(null|true|false|0|-1|1\\.5|99999999999999999999)",
            "\"[a-z*\\[{]{0,3}\"",
            Just("\"eyJhIjoxfQ==\"".to_owned()),
        ];
        let field = "(channel|channels|data|b64data|tags|user|client|since|offset|limit|pattern|\
                     commands|parallel|publish|history|info|disconnect|code|override|presence|value)";
        leaf.prop_recursive(4, 24, 4, move |inner| {
            let fields = prop::collection::vec((field, inner.clone()), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4)
                    .prop_map(|items| format!("[{}]", items.join(","))),
                fields.prop_map(|fields| {
                    let fields: Vec<_> =
                        fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                    format!("{{{}}}", fields.join(","))
                }),
            ]
        })
    }

    fn is_answered(name: &str, body: &[u8]) {
        if let Err(error) = parse(ErrorMode::Body, "POST", name, body, 10) {
            let body: serde_json::Value = serde_json::from_slice(&error.body).unwrap();
            let code = body["error"]["code"].as_u64().unwrap();
            match error.status {
                200 => assert!(matches!(code, 107 | 108), "{body}"),
                status => assert!(status == 400 && code == 400, "{body}"),
            }
        }
    }

    proptest! {
        #[test]
        fn any_json_is_parsed_or_refused(name in prop::sample::select(NAMES), body in json()) {
            is_answered(name, body.as_bytes());
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(
            name in prop::sample::select(NAMES),
            body in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            is_answered(name, &body);
        }
    }
}
