//! The backend's answers: read from JSON, checked, payloads kept as they are on one line.

use std::{collections::BTreeMap, ops::RangeInclusive};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Failure, Method};
use crate::{
    auth::{SubscribeOverrides, Terms, Verdict},
    codec::json::{one_line, present},
    limits::PUBLICATION_KEY_BYTES_MAX,
};

/// Codes of its own that a backend may refuse a command with (`docs/server/proxy.md`, "Return custom
/// error").
pub const ERROR_CODES: RangeInclusive<u16> = 400..=1999;
/// Codes of the protocol that it may use too: those of [`crate::protocol::ErrorCode`].
pub const PROTOCOL_ERROR_CODES: RangeInclusive<u16> = 100..=113;
/// Codes that a backend may close a connection with ("Return custom disconnect"); clients come back
/// after those below 4500.
pub const DISCONNECT_CODES: RangeInclusive<u16> = 4000..=4999;
/// Bytes of a reason: what a WebSocket close frame holds (RFC 6455 section 5.5).
pub const REASON_BYTES_MAX: usize = 123;

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendAnswer {
    /// Who connects; `None` where the backend did not say: the connection has no credentials.
    Connect(Option<Box<Connected>>),
    /// To a refresh.
    Refresh(Refreshed),
    /// The client may subscribe.
    Subscribe(Box<Terms>),
    /// The client may publish.
    Publish(Box<Published>),
    /// To a refresh of a subscription.
    SubRefresh(Refreshed),
    /// What the procedure returned, as JSON on one line.
    Rpc(Option<Bytes>),
    /// Whose the device token is. Never [`Verdict::Unavailable`].
    Device(Verdict),
    /// The command is refused, or the connection closed. Not to refreshes.
    Refused(Refusal),
    /// Nothing usable: see [`Method::aftermath`].
    Failed(Failure),
}

/// How a backend says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// An error reply; a unidirectional client is closed with 3004 instead.
    Error {
        /// Within [`ERROR_CODES`].
        code: u16,
        /// For the application.
        message: String,
        /// Whether the client may try the same again.
        temporary: bool,
    },
    /// The end of the connection.
    Disconnect {
        /// Within [`DISCONNECT_CODES`].
        code: u16,
        /// At most [`REASON_BYTES_MAX`].
        reason: String,
    },
}

/// Who connects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// The user, empty for an anonymous one.
    pub user: String,
    /// When the connection must have been refreshed, in seconds since the Unix epoch; 0 is never.
    pub expire_at_unix_s: u64,
    /// What others see of the connection, as JSON on one line.
    pub info: Option<Bytes>,
    /// For the connect reply, as JSON on one line.
    pub data: Option<Bytes>,
    /// What only backends see of the connection, as JSON on one line.
    pub meta: Option<Bytes>,
    /// Channels to which the server subscribes the connection, as their namespaces say.
    pub channels: Vec<String>,
    /// More such channels, with options; they win where a channel is in both.
    pub subs: BTreeMap<String, Terms>,
}

/// How a publication is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// In place of the client's, as JSON on one line.
    pub data: Option<Bytes>,
    /// The history does not keep it.
    pub skip_history: bool,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Publications with the same one are published once; empty is none.
    pub idempotency_key: String,
    /// Not published where the channel has this version or a later one; 0 is none.
    pub version: u64,
    /// Within which versions are compared.
    pub version_epoch: String,
}

/// How a connection or subscription goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// It does not.
    Expired,
    /// It does.
    Until {
        /// In seconds since the Unix epoch; 0 is for ever.
        expire_at_unix_s: u64,
        /// In place of what others saw, as JSON on one line.
        info: Option<Bytes>,
        /// In place of what backends saw, as JSON on one line; not of subscriptions.
        meta: Option<Bytes>,
    },
}

impl Refusal {
    /// An error reply.
    ///
    /// # Errors
    /// Codes outside of [`ERROR_CODES`].
    pub fn error(code: u32, message: &str, temporary: bool) -> Result<Self, String> {
        let of_protocol = in_range(code, &PROTOCOL_ERROR_CODES, "error");
        let code = of_protocol.or_else(|_| in_range(code, &ERROR_CODES, "error"))?;
        Ok(Self::Error { code, message: message.to_owned(), temporary })
    }

    /// The end of the connection. A reason that is too long is cut.
    ///
    /// # Errors
    /// Codes outside of [`DISCONNECT_CODES`].
    pub fn disconnect(code: u32, reason: &str) -> Result<Self, String> {
        let code = in_range(code, &DISCONNECT_CODES, "disconnect")?;
        let reason = reason[..reason.floor_char_boundary(REASON_BYTES_MAX)].to_owned();
        Ok(Self::Disconnect { code, reason })
    }
}

fn in_range(code: u32, range: &RangeInclusive<u16>, what: &str) -> Result<u16, String> {
    u16::try_from(code).ok().filter(|code| range.contains(code)).ok_or_else(|| {
        format!("{what}.code {code} is not from {} to {}", range.start(), range.end())
    })
}

/// `{"result":..}`, `{"error":..}` or `{"disconnect":..}`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Envelope<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    disconnect: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorShape {
    code: u32,
    message: Option<String>,
    temporary: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DisconnectShape {
    code: u32,
    reason: Option<String>,
}

/// All fields of all results; each method reads its own.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ResultShape<'a> {
    user: Option<String>,
    expired: Option<bool>,
    expire_at: Option<i64>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
    b64info: Option<String>,
    /// `null` is data to publish, and nothing elsewhere.
    #[serde(borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    #[serde(borrow)]
    meta: Option<&'a RawValue>,
    channels: Option<Vec<String>>,
    #[serde(borrow)]
    subs: Option<BTreeMap<String, &'a RawValue>>,
    #[serde(rename = "override")]
    overrides: Option<OverrideShape>,
    cache_recover: Option<bool>,
    skip_history: Option<bool>,
    tags: Option<BTreeMap<String, String>>,
    idempotency_key: Option<String>,
    version: Option<u64>,
    version_epoch: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OverrideShape {
    presence: Option<BoolValue>,
    join_leave: Option<BoolValue>,
    force_push_join_leave: Option<BoolValue>,
    force_recovery: Option<BoolValue>,
    force_positioning: Option<BoolValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BoolValue {
    value: bool,
}

impl ResultShape<'_> {
    fn expire_at_unix_s(&self) -> u64 {
        self.expire_at.map_or(0, |at| u64::try_from(at).unwrap_or(0))
    }

    fn info(&self) -> Result<Option<Bytes>, String> {
        match payload("b64info", self.b64info.as_deref())? {
            Some(info) => Ok(Some(info)),
            None => Ok(self.info.map(one_line)),
        }
    }

    fn data(&self) -> Result<Option<Bytes>, String> {
        match payload("b64data", self.b64data.as_deref())? {
            Some(data) => Ok(Some(data)),
            None => Ok(self.data.filter(|data| data.get() != "null").map(one_line)),
        }
    }

    fn connected(&self) -> Result<Connected, String> {
        let mut subs = BTreeMap::new();
        for (channel, options) in self.subs.iter().flatten() {
            let options = object::<ResultShape<'_>>(options.get())
                .and_then(|shape| shape.terms())
                .map_err(|error| format!("subs: {channel:?}: {error}"))?;
            subs.insert(channel.clone(), options);
        }
        Ok(Connected {
            user: self.user.clone().unwrap_or_default(),
            expire_at_unix_s: self.expire_at_unix_s(),
            info: self.info()?,
            data: self.data()?,
            meta: self.meta.map(one_line),
            channels: self.channels.clone().unwrap_or_default(),
            subs,
        })
    }

    fn terms(&self) -> Result<Terms, String> {
        let empty = OverrideShape::default();
        let overrides = self.overrides.as_ref().unwrap_or(&empty);
        let value = |option: &Option<BoolValue>| option.as_ref().map(|option| option.value);
        Ok(Terms {
            expire_at_unix_s: self.expire_at_unix_s(),
            info: self.info()?,
            data: self.data()?,
            overrides: SubscribeOverrides {
                presence: value(&overrides.presence),
                join_leave: value(&overrides.join_leave),
                force_push_join_leave: value(&overrides.force_push_join_leave),
                force_recovery: value(&overrides.force_recovery),
                force_positioning: value(&overrides.force_positioning),
            },
            cache_recover: self.cache_recover.unwrap_or(false),
        })
    }

    fn published(&self) -> Result<Published, String> {
        let data = match self.data {
            Some(data) => Some(one_line(data)),
            None => payload("b64data", self.b64data.as_deref())?,
        };
        let key = self.idempotency_key.clone().unwrap_or_default();
        let version_epoch = self.version_epoch.clone().unwrap_or_default();
        for (name, text) in [("idempotency_key", &key), ("version_epoch", &version_epoch)] {
            if text.len() > PUBLICATION_KEY_BYTES_MAX {
                return Err(format!("{name} has more than {PUBLICATION_KEY_BYTES_MAX} bytes"));
            }
        }
        Ok(Published {
            data,
            skip_history: self.skip_history.unwrap_or(false),
            tags: self.tags.clone().unwrap_or_default(),
            idempotency_key: key,
            version: self.version.unwrap_or(0),
            version_epoch,
        })
    }

    fn refreshed(&self, of_connection: bool) -> Result<Refreshed, String> {
        if self.expired == Some(true) {
            return Ok(Refreshed::Expired);
        }
        Ok(Refreshed::Until {
            expire_at_unix_s: self.expire_at_unix_s(),
            info: self.info()?,
            meta: self.meta.filter(|_| of_connection).map(one_line),
        })
    }
}

/// A payload in Base64; connections speak JSON, so it must be that.
fn payload(field: &str, base64: Option<&str>) -> Result<Option<Bytes>, String> {
    let Some(base64) = base64.filter(|base64| !base64.is_empty()) else { return Ok(None) };
    let bytes = data_encoding::BASE64
        .decode(base64.as_bytes())
        .map_err(|error| format!("{field} is not Base64: {error}"))?;
    let json: &RawValue = serde_json::from_slice(&bytes).map_err(|error| {
        format!("{field} is not JSON, as clients of this server speak: {error}")
    })?;
    Ok(Some(one_line(json)))
}

/// Reads an object; serde would take an array for the struct, by position.
fn object<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, String> {
    if !json.trim_ascii_start().starts_with('{') {
        return Err("not a JSON object".into());
    }
    serde_json::from_str(json).map_err(|error| error.to_string())
}

impl BackendAnswer {
    /// The answer in a body with status 200. What a device is, is [`crate::auth::Device::parse`]'s.
    ///
    /// # Errors
    /// What is wrong with it, for the operator's log.
    pub fn parse(method: Method, body: &[u8]) -> Result<Self, String> {
        let body = std::str::from_utf8(body).map_err(|error| error.to_string())?;
        let envelope: Envelope<'_> = object(body)?;
        let of_refresh = matches!(method, Method::Refresh | Method::SubRefresh);
        if let (Some(disconnect), false) = (envelope.disconnect, of_refresh) {
            let DisconnectShape { code, reason } = object(disconnect.get())?;
            return Refusal::disconnect(code, reason.as_deref().unwrap_or("")).map(Self::Refused);
        }
        if let (Some(error), false) = (envelope.error, of_refresh) {
            let ErrorShape { code, message, temporary } = object(error.get())?;
            let message = message.unwrap_or_default();
            return Refusal::error(code, &message, temporary == Some(true)).map(Self::Refused);
        }
        let result: Option<ResultShape<'_>> = match envelope.result {
            Some(result) => Some(object(result.get()).map_err(|error| format!("result: {error}"))?),
            None => None,
        };
        let given = result.is_some();
        let result = result.unwrap_or_default();
        Ok(match method {
            Method::Connect if given => Self::Connect(Some(Box::new(result.connected()?))),
            Method::Connect => Self::Connect(None),
            Method::Refresh if given => Self::Refresh(result.refreshed(true)?),
            Method::SubRefresh if given => Self::SubRefresh(result.refreshed(false)?),
            Method::Refresh => Self::Refresh(Refreshed::Expired),
            Method::SubRefresh => Self::SubRefresh(Refreshed::Expired),
            Method::Subscribe => Self::Subscribe(Box::new(result.terms()?)),
            Method::Publish => Self::Publish(Box::new(result.published()?)),
            Method::Rpc => Self::Rpc(result.data()?),
            Method::Device => return Err("a device is no result".into()),
        })
    }
}

/// Whether a body with status 200 says that notices were processed.
///
/// # Errors
/// What it says instead.
pub fn parse_notices(body: &[u8]) -> Result<(), String> {
    let body = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    match object::<Envelope<'_>>(body)?.error {
        None => Ok(()),
        Some(error) => Err(format!("the backend's error: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Method; 6] = [
        Method::Connect,
        Method::Refresh,
        Method::Subscribe,
        Method::Publish,
        Method::SubRefresh,
        Method::Rpc,
    ];

    fn parse(method: Method, body: &str) -> Result<BackendAnswer, String> {
        BackendAnswer::parse(method, body.as_bytes())
    }

    fn bytes(json: &'static str) -> Option<Bytes> {
        Some(Bytes::from_static(json.as_bytes()))
    }

    #[test]
    fn connect_says_who_it_is() {
        let body = r#"{"result": {
            "user": "56", "expire_at": 1565436268, "info": {"name":
                "A"}, "data": [1], "meta": {"org": 1}, "channels": ["a", "b"], "caps": [{"x": 1}],
            "subs": {
                "news": {"info": 1, "b64data": "eyJhIjoxfQ==", "cache_recover": true,
                    "override": {"presence": {"value": true}, "join_leave": {}}},
                "plain": {"expire_at": 7}
            }, "labels": {"never": "heard of"}
        }}"#;
        let news = Terms {
            info: bytes("1"),
            data: bytes(r#"{"a":1}"#),
            overrides: SubscribeOverrides {
                presence: Some(true),
                join_leave: Some(false),
                ..SubscribeOverrides::default()
            },
            cache_recover: true,
            ..Terms::default()
        };
        let plain = Terms { expire_at_unix_s: 7, ..Terms::default() };
        let Ok(BackendAnswer::Connect(Some(mut connected))) = parse(Method::Connect, body) else {
            panic!("{:?}", parse(Method::Connect, body))
        };
        let info = connected.info.take().unwrap();
        assert!(!info.contains(&b'\n'), "what goes on a line takes one");
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&info).unwrap()["name"], "A");
        let expected = Connected {
            user: "56".into(),
            expire_at_unix_s: 1_565_436_268,
            info: None,
            data: bytes("[1]"),
            meta: bytes(r#"{"org": 1}"#),
            channels: vec!["a".into(), "b".into()],
            subs: [("news".to_owned(), news), ("plain".to_owned(), plain)].into(),
        };
        assert_eq!(*connected, expected);
        let anonymous =
            r#"{"result":{"user":null,"info":null,"data":null,"expire_at":-1,"subs":null}}"#;
        let answer = BackendAnswer::Connect(Some(Box::default()));
        assert_eq!(parse(Method::Connect, anonymous), Ok(answer), "null is as good as absent");
    }

    #[test]
    fn the_other_results_are_read() {
        let until =
            |expire_at_unix_s, info, meta| Refreshed::Until { expire_at_unix_s, info, meta };
        let result = r#"{"result":{"expire_at":1565436268,"b64info":"MQ==","info":2,"meta":{}}}"#;
        let refreshed = until(1_565_436_268, bytes("1"), bytes("{}"));
        assert_eq!(parse(Method::Refresh, result), Ok(BackendAnswer::Refresh(refreshed)));
        let refreshed = until(1_565_436_268, bytes("1"), None);
        assert_eq!(parse(Method::SubRefresh, result), Ok(BackendAnswer::SubRefresh(refreshed)));
        let expired = r#"{"result":{"expired":true,"expire_at":5}}"#;
        let answer = BackendAnswer::Refresh(Refreshed::Expired);
        assert_eq!(parse(Method::Refresh, expired), Ok(answer));
        let subscribed = r#"{"result":{"info":{"a":1},"data":"d","expire_at":9,"override":
            {"force_push_join_leave":{"value":true},"force_recovery":{"value":false},
             "force_positioning":{"value":true},"presence":null}}}"#;
        let options = Terms {
            expire_at_unix_s: 9,
            info: bytes(r#"{"a":1}"#),
            data: bytes("\"d\""),
            overrides: SubscribeOverrides {
                force_push_join_leave: Some(true),
                force_recovery: Some(false),
                force_positioning: Some(true),
                ..SubscribeOverrides::default()
            },
            cache_recover: false,
        };
        let answer = BackendAnswer::Subscribe(Box::new(options));
        assert_eq!(parse(Method::Subscribe, subscribed), Ok(answer));
        let published = r#"{"result":{"data":null,"b64data":"MQ==","skip_history":true,
            "tags":{"a":"b"},"idempotency_key":"k","version":3,"version_epoch":"e"}}"#;
        let options = Published {
            data: bytes("null"),
            skip_history: true,
            tags: [("a".into(), "b".into())].into(),
            idempotency_key: "k".into(),
            version: 3,
            version_epoch: "e".into(),
        };
        let answer = BackendAnswer::Publish(Box::new(options));
        assert_eq!(parse(Method::Publish, published), Ok(answer), "null is data to publish");
        let result = r#"{"result":{"data": {"answer": "2019"}}}"#;
        assert_eq!(
            parse(Method::Rpc, result),
            Ok(BackendAnswer::Rpc(bytes(r#"{"answer": "2019"}"#)))
        );
    }

    #[test]
    fn no_result_means_what_it_means_to_centrifugo() {
        for (method, answer) in [
            (Method::Connect, BackendAnswer::Connect(None)),
            (Method::Refresh, BackendAnswer::Refresh(Refreshed::Expired)),
            (Method::SubRefresh, BackendAnswer::SubRefresh(Refreshed::Expired)),
            (Method::Subscribe, BackendAnswer::Subscribe(Box::default())),
            (Method::Publish, BackendAnswer::Publish(Box::default())),
            (Method::Rpc, BackendAnswer::Rpc(None)),
        ] {
            for body in ["{}", r#"{"result":null}"#] {
                assert_eq!(parse(method, body).as_ref(), Ok(&answer), "{method:?} {body}");
            }
        }
    }

    #[test]
    fn refusals_are_taken_within_their_ranges() {
        let error = r#"{"error":{"code":403,"message":"no","temporary":true},"result":{}}"#;
        let refused = Refusal::Error { code: 403, message: "no".into(), temporary: true };
        let disconnect =
            r#"{"disconnect":{"code":4501,"reason":"unauthorized"},"error":{"code":400}}"#;
        let closed = Refusal::Disconnect { code: 4501, reason: "unauthorized".into() };
        for method in ALL {
            let of_refresh = matches!(method, Method::Refresh | Method::SubRefresh);
            for (body, refusal) in [(error, &refused), (disconnect, &closed)] {
                let answer = parse(method, body).unwrap();
                let is_refusal = answer == BackendAnswer::Refused(refusal.clone());
                assert_eq!(is_refusal, !of_refresh, "{method:?} {answer:?}");
            }
        }
        for (body, taken) in [
            (r#"{"error":{"code":400}}"#, true),
            (r#"{"error":{"code":1999}}"#, true),
            (r#"{"error":{"code":100}}"#, true),
            (r#"{"error":{"code":113}}"#, true),
            (r#"{"error":{"code":99}}"#, false),
            (r#"{"error":{"code":114}}"#, false),
            (r#"{"error":{"code":399}}"#, false),
            (r#"{"error":{"code":2000}}"#, false),
            (r#"{"error":{"code":65936}}"#, false),
            (r#"{"error":{}}"#, false),
            (r#"{"disconnect":{"code":4000}}"#, true),
            (r#"{"disconnect":{"code":4999}}"#, true),
            (r#"{"disconnect":{"code":3999}}"#, false),
            (r#"{"disconnect":{"code":5000}}"#, false),
        ] {
            let answer = parse(Method::Rpc, body);
            assert_eq!(answer.is_ok(), taken, "{body} {answer:?}");
        }
        assert_eq!(
            parse(Method::Rpc, r#"{"error":{"code":200}}"#).unwrap_err(),
            "error.code 200 is not from 400 to 1999"
        );
    }

    proptest! {
        #[test]
        fn nothing_that_a_backend_says_panics(
            body in prop::collection::vec(any::<u8>(), 0..200),
            field in "(user|info|b64info|data|b64data|subs|override|tags|expire_at|version)",
            value in "(null|-?[0-9]{1,25}|\"[A-Za-z0-9+/=\\\\]{0,9}\"|\\{\"a\":[0-9]\\}|\\[1\\])",
        ) {
            let result = format!(r#"{{"result":{{"{field}":{value}}}}}"#);
            for method in ALL {
                let _ = BackendAnswer::parse(method, &body);
                if let Ok(BackendAnswer::Rpc(Some(data))) = parse(method, &result) {
                    prop_assert!(serde_json::from_slice::<&RawValue>(&data).is_ok());
                }
            }
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = "é".repeat(100);
        let Ok(Refusal::Disconnect { reason, .. }) = Refusal::disconnect(4000, &reason) else {
            panic!()
        };
        assert_eq!(reason, "é".repeat(61));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for body in [
            "",
            "[]",
            "1",
            "{",
            "<html>",
            r#"{"result":[]}"#,
            r#"{"result":["56"]}"#,
            r#"{"error":"no"}"#,
            r#"{"disconnect":[4000,"x"]}"#,
        ] {
            for method in [Method::Connect, Method::Subscribe, Method::Publish, Method::Rpc] {
                assert!(parse(method, body).is_err(), "{method:?} {body}");
            }
        }
        for result in [
            r#"{"user":56}"#,
            r#"{"expire_at":"never"}"#,
            r#"{"b64info":"?"}"#,
            r#"{"b64info":"/w=="}"#,
            r#"{"channels":"a"}"#,
            r#"{"subs":{"a":[]}}"#,
            r#"{"subs":{"a":{"b64data":"AA=="}}}"#,
        ] {
            let body = format!(r#"{{"result":{result}}}"#);
            assert!(parse(Method::Connect, &body).is_err(), "{body}");
        }
        assert!(BackendAnswer::parse(Method::Rpc, b"{\"result\":{\"data\":\"\xff\"}}").is_err());
    }

    #[test]
    fn notices_count_as_processed_without_an_error() {
        assert_eq!(parse_notices(br#"{"result":{}}"#), Ok(()));
        assert_eq!(parse_notices(b"{}"), Ok(()));
        for body in ["", "ok", "[]", r#"{"error":{"code":1}}"#] {
            assert!(parse_notices(body.as_bytes()).is_err(), "{body}");
        }
    }
}
