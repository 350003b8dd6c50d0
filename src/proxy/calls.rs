//! The calls, and their bodies as JSON (centrifugo `internal/proxyproto/proxy.proto`).
//!
//! Fields that are empty are left out, as Centrifugo does, except `user`.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use data_encoding::BASE64;

use super::{Headers, Method};
use crate::channels::Name;

/// The connection that a call is about.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The client's id.
    pub client: Name,
    /// Centrifugo's name of the transport, such as `websocket` or `uni_sse`.
    pub transport: &'static str,
    /// The user, empty for an anonymous one and before it is known.
    pub user: Name,
    /// What token or connect answer attached to the connection, as JSON. It is sent where the proxy
    /// has `include_connection_meta`.
    pub meta: Option<Bytes>,
    /// What may be forwarded of the client's headers.
    pub headers: Arc<Headers>,
}

/// How a call carries what clients sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As the JSON that it is, in `data`.
    Json,
    /// In Base64, in `b64data`, for backends that are used to any bytes.
    Binary,
}

impl Encoding {
    /// What calls say.
    const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Binary => "binary",
        }
    }
}

/// A call. Payloads are one JSON value each.
///
/// Calls of one connection are made on several threads and may overtake each other: who needs them
/// in order awaits the answer first.
#[derive(Clone)]
pub enum BackendCall {
    /// A client connects without a token.
    Connect {
        /// The connection.
        caller: Caller,
        /// What the client says of itself.
        data: Option<Bytes>,
        /// The client library.
        name: Name,
        /// Its version.
        version: Name,
        /// Channels that the client wants to be subscribed to by the server.
        channels: Vec<Name>,
    },
    /// A connection is about to expire.
    Refresh {
        /// The connection.
        caller: Caller,
    },
    /// A client subscribes.
    Subscribe {
        /// The connection.
        caller: Caller,
        /// To what.
        channel: Name,
        /// The subscription token, if the client sent one.
        token: Name,
        /// What the client says about it.
        data: Option<Bytes>,
    },
    /// A client publishes.
    Publish {
        /// The connection.
        caller: Caller,
        /// Where.
        channel: Name,
        /// What.
        data: Bytes,
    },
    /// A subscription is about to expire.
    SubRefresh {
        /// The connection.
        caller: Caller,
        /// Whose subscription.
        channel: Name,
    },
    /// A client calls a procedure.
    Rpc {
        /// The connection.
        caller: Caller,
        /// Which; may be empty.
        method: Name,
        /// Its argument.
        data: Option<Bytes>,
    },
    /// Whose a device token is: a `GET` with the token in its head and no body.
    Device {
        /// The token.
        token: String,
    },
}

impl BackendCall {
    /// What kind of call it is.
    pub fn method(&self) -> Method {
        match self {
            Self::Connect { .. } => Method::Connect,
            Self::Refresh { .. } => Method::Refresh,
            Self::Subscribe { .. } => Method::Subscribe,
            Self::Publish { .. } => Method::Publish,
            Self::SubRefresh { .. } => Method::SubRefresh,
            Self::Rpc { .. } => Method::Rpc,
            Self::Device { .. } => Method::Device,
        }
    }

    /// The connection that it is about, if it is about one.
    pub fn caller(&self) -> Option<&Caller> {
        match self {
            Self::Connect { caller, .. }
            | Self::Refresh { caller }
            | Self::Subscribe { caller, .. }
            | Self::Publish { caller, .. }
            | Self::SubRefresh { caller, .. }
            | Self::Rpc { caller, .. } => Some(caller),
            Self::Device { .. } => None,
        }
    }

    /// Says how the connection that it is about is connected: Centrifugo's name of a transport.
    pub fn set_transport(&mut self, name: &'static str) {
        match self {
            Self::Connect { caller, .. }
            | Self::Refresh { caller }
            | Self::Subscribe { caller, .. }
            | Self::Publish { caller, .. }
            | Self::SubRefresh { caller, .. }
            | Self::Rpc { caller, .. } => caller.transport = name,
            Self::Device { .. } => {}
        }
    }

    /// The body of the request; empty where there is none.
    pub fn to_json(&self, include_meta: bool, encoding: Encoding) -> Vec<u8> {
        let Some(caller) = self.caller() else { return Vec::new() };
        let mut out = Object::new();
        out.text("client", &caller.client);
        out.text("transport", caller.transport);
        out.text("protocol", "json");
        out.text("encoding", encoding.name());
        if !matches!(self, Self::Connect { .. }) {
            out.text("user", &caller.user);
        }
        match self {
            Self::Connect { data, name, version, channels, .. } => {
                out.data(encoding, data.as_ref());
                out.text_if_any("name", name);
                out.text_if_any("version", version);
                if !channels.is_empty() {
                    let names: Vec<&str> = channels.iter().map(|name| &**name).collect();
                    out.value("channels", &names);
                }
                return out.end();
            }
            Self::Subscribe { channel, token, data, .. } => {
                out.text_if_any("channel", channel);
                out.text_if_any("token", token);
                out.data(encoding, data.as_ref());
            }
            Self::Publish { channel, data, .. } => {
                out.text_if_any("channel", channel);
                out.data(encoding, Some(data));
            }
            Self::SubRefresh { channel, .. } => out.text_if_any("channel", channel),
            Self::Rpc { method, data, .. } => {
                out.text_if_any("method", method);
                out.data(encoding, data.as_ref());
            }
            Self::Refresh { .. } | Self::Device { .. } => {}
        }
        out.raw("meta", caller.meta.as_ref().filter(|_| include_meta));
        out.end()
    }
}

/// The kind alone: tokens and payloads are in no log.
impl fmt::Debug for BackendCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackendCall({})", self.method().name())
    }
}

/// An object on its way out, so that payloads are copied and not parsed.
struct Object(Vec<u8>);

impl Object {
    fn new() -> Self {
        Self(Vec::with_capacity(256))
    }

    fn key(&mut self, key: &'static str) {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        self.0.push(b'"');
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn value(&mut self, key: &'static str, value: &(impl serde::Serialize + ?Sized)) {
        self.key(key);
        serde_json::to_writer(&mut self.0, value).expect("writing texts to memory cannot fail");
    }

    fn text(&mut self, key: &'static str, text: &str) {
        self.value(key, text);
    }

    fn text_if_any(&mut self, key: &'static str, text: &str) {
        if !text.is_empty() {
            self.text(key, text);
        }
    }

    fn raw(&mut self, key: &'static str, json: Option<&Bytes>) {
        if let Some(json) = json.filter(|json| !json.is_empty()) {
            self.key(key);
            self.0.extend_from_slice(json);
        }
    }

    /// A payload, if there is one.
    fn data(&mut self, encoding: Encoding, json: Option<&Bytes>) {
        match encoding {
            Encoding::Json => self.raw("data", json),
            Encoding::Binary => {
                self.text_if_any("b64data", &BASE64.encode(json.map_or(&[], |json| &json[..])));
            }
        }
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn caller() -> Caller {
        Caller {
            client: "9336a229-2400-4ebc-8c50-0a643d22e8a0".into(),
            transport: "websocket",
            user: "56".into(),
            meta: Some(Bytes::from_static(br#"{"org":1}"#)),
            headers: Arc::default(),
        }
    }

    /// What stands in every request.
    fn with(more: Value) -> Value {
        let mut all = json!({
            "client": "9336a229-2400-4ebc-8c50-0a643d22e8a0",
            "transport": "websocket",
            "protocol": "json",
            "encoding": "json",
        });
        for (key, value) in more.as_object().expect("an object") {
            all[key] = value.clone();
        }
        all
    }

    fn body(call: &BackendCall, include_meta: bool) -> Value {
        serde_json::from_slice(&call.to_json(include_meta, Encoding::Json)).expect("JSON")
    }

    fn bytes(json: &'static str) -> Bytes {
        Bytes::from_static(json.as_bytes())
    }

    /// The examples of centrifugal.dev `docs/server/proxy.md`.
    #[test]
    fn requests_are_as_documented() {
        let index: Name = "chat:index".into();
        let none: Name = "".into();
        let connect = BackendCall::Connect {
            caller: caller(),
            data: None,
            name: Name::clone(&none),
            version: Name::clone(&none),
            channels: Vec::new(),
        };
        let subscribe = BackendCall::Subscribe {
            caller: caller(),
            channel: Name::clone(&index),
            token: none,
            data: None,
        };
        let data = bytes(r#"{"input":"hello"}"#);
        let publish = BackendCall::Publish { caller: caller(), channel: Name::clone(&index), data };
        let data = Some(bytes(r#"{"params": {"object_id": 12}}"#));
        let rpc = BackendCall::Rpc { caller: caller(), method: "getCurrentPrice".into(), data };
        let refresh = BackendCall::Refresh { caller: caller() };
        let sub_refresh = BackendCall::SubRefresh { caller: caller(), channel: "channel".into() };
        for (call, more) in [
            (connect, json!({})),
            (refresh, json!({"user": "56"})),
            (subscribe, json!({"user": "56", "channel": "chat:index"})),
            (publish, json!({"user": "56", "channel": "chat:index", "data": {"input": "hello"}})),
            (sub_refresh, json!({"user": "56", "channel": "channel"})),
            (
                rpc,
                json!({
                    "user": "56",
                    "method": "getCurrentPrice",
                    "data": {"params": {"object_id": 12}},
                }),
            ),
        ] {
            assert_eq!(body(&call, false), with(more), "{call:?}");
        }
    }

    #[test]
    fn all_that_a_client_said_is_passed_on() {
        let connect = BackendCall::Connect {
            caller: caller(),
            data: Some(bytes("{\"a\": 1.50}")),
            name: "js".into(),
            version: "5".into(),
            channels: vec!["a".into(), "b\"".into()],
        };
        let text = String::from_utf8(connect.to_json(true, Encoding::Json)).unwrap();
        assert!(text.contains("\"data\":{\"a\": 1.50}"), "payloads are copied as they are: {text}");
        assert_eq!(
            body(&connect, true),
            with(json!({
                "data": {"a": 1.5}, "name": "js", "version": "5", "channels": ["a", "b\""],
            })),
            "a connection has no meta before it is connected"
        );
        let subscribe = BackendCall::Subscribe {
            caller: Caller { user: "".into(), ..caller() },
            channel: "c".into(),
            token: "t".into(),
            data: Some(bytes("[]")),
        };
        let said =
            json!({"user": "", "channel": "c", "token": "t", "data": [], "meta": {"org": 1}});
        assert_eq!(body(&subscribe, true), with(said), "an anonymous user is said too");
        let rpc = BackendCall::Rpc { caller: caller(), method: "".into(), data: None };
        assert_eq!(body(&rpc, true), with(json!({"user": "56", "meta": {"org": 1}})));
    }

    #[test]
    fn tokens_and_payloads_are_in_no_log() {
        let call = BackendCall::Device { token: "s3cret".into() };
        assert_eq!(format!("{call:?}"), "BackendCall(device)");
        assert!(call.to_json(true, Encoding::Json).is_empty());
    }

    #[test]
    fn payloads_may_be_in_base64() {
        let publish = BackendCall::Publish {
            caller: caller(),
            channel: "chat:index".into(),
            data: bytes(r#"{"a":1}"#),
        };
        let rpc = BackendCall::Rpc { caller: caller(), method: "m".into(), data: None };
        for (call, more) in [
            (publish, json!({"user": "56", "channel": "chat:index", "b64data": "eyJhIjoxfQ=="})),
            (rpc, json!({"user": "56", "method": "m"})),
        ] {
            let mut expected = with(more);
            expected["encoding"] = "binary".into();
            let body = call.to_json(false, Encoding::Binary);
            assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
        }
    }
}
