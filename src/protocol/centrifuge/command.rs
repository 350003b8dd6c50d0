//! Parses the commands of a Centrifuge client (centrifugal/protocol `client.proto`, JSON encoding).

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer, IgnoredAny, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

/// One command: a number and one method with its request.
///
/// Unknown fields are accepted and values that this server has no use for are not looked at. Where
/// a client sends several methods in one command, [`Command::method`] takes the first in the order
/// of `dispatchCommand` in centrifuge `client.go`.
#[derive(Deserialize)]
pub(super) struct Command<'a> {
    #[serde(default)]
    pub(super) id: u32,
    #[serde(borrow)]
    connect: Option<TokenRequest<'a>>,
    #[serde(borrow)]
    subscribe: Option<ChannelRequest<'a>>,
    #[serde(borrow)]
    unsubscribe: Option<ChannelRequest<'a>>,
    #[serde(borrow)]
    publish: Option<PublishRequest<'a>>,
    presence: Option<IgnoredAny>,
    presence_stats: Option<IgnoredAny>,
    history: Option<IgnoredAny>,
    rpc: Option<IgnoredAny>,
    send: Option<IgnoredAny>,
    #[serde(borrow)]
    refresh: Option<TokenRequest<'a>>,
    #[serde(borrow)]
    sub_refresh: Option<ChannelRequest<'a>>,
}

/// What a command asks for.
pub(super) enum Method<'a> {
    Connect(TokenRequest<'a>),
    Subscribe(ChannelRequest<'a>),
    Unsubscribe(ChannelRequest<'a>),
    Publish(PublishRequest<'a>),
    /// Presence, presence_stats, history and rpc: methods of features that are not there.
    Unavailable,
    Send,
    Refresh(TokenRequest<'a>),
    SubRefresh(ChannelRequest<'a>),
}

/// The part of a connect or refresh request that decides.
#[derive(Deserialize)]
pub(super) struct TokenRequest<'a> {
    #[serde(borrow, default)]
    pub(super) token: Text<'a>,
}

/// The connect request of a client that says nothing else.
#[derive(Deserialize)]
pub(super) struct UniConnectRequest<'a> {
    #[serde(borrow, default)]
    token: Text<'a>,
    #[serde(borrow, default)]
    subs: Subs<'a>,
}

/// The channels that a unidirectional client wants to be in: the keys of a map.
#[derive(Default)]
struct Subs<'a>(Vec<Text<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Subs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SubsVisitor;

        impl<'de> Visitor<'de> for SubsVisitor {
            type Value = Subs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of channels")
            }

            fn visit_map<M: de::MapAccess<'de>>(self, mut map: M) -> Result<Subs<'de>, M::Error> {
                let mut channels = Vec::new();
                while let Some((channel, IgnoredAny)) = map.next_entry()? {
                    channels.push(channel);
                }
                Ok(Subs(channels))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Subs<'de>, E> {
                Ok(Subs::default())
            }
        }

        deserializer.deserialize_any(SubsVisitor)
    }
}

impl<'a> UniConnectRequest<'a> {
    /// Parses a whole request; `None` when it is none.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        if !text.trim_ascii_start().starts_with('{') {
            return None;
        }
        serde_json::from_str(text).ok()
    }

    /// What it says of its user, and the channels that it wants to be in.
    pub(super) fn parts(self) -> (TokenRequest<'a>, Vec<Text<'a>>) {
        (TokenRequest { token: self.token }, self.subs.0)
    }
}

/// The part of a subscribe, unsubscribe or sub_refresh request that decides.
#[derive(Deserialize)]
pub(super) struct ChannelRequest<'a> {
    #[serde(borrow, default)]
    pub(super) channel: Text<'a>,
    #[serde(borrow, default)]
    pub(super) token: Text<'a>,
}

/// A publish request.
#[derive(Deserialize)]
pub(super) struct PublishRequest<'a> {
    #[serde(borrow, default)]
    pub(super) channel: Text<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) data: Option<&'a RawValue>,
}

impl<'a> Command<'a> {
    /// Parses one line; `None` when it is no command.
    pub(super) fn parse(line: &'a str) -> Option<Self> {
        // serde would take an array for the struct, by position.
        if !line.trim_ascii_start().starts_with('{') {
            return None;
        }
        serde_json::from_str(line).ok()
    }

    /// Whether the command is a pong: no number and no `send`, whatever else it holds.
    pub(super) fn is_pong(&self) -> bool {
        self.id == 0 && self.send.is_none()
    }

    /// The method; `None` when there is none that the protocol knows.
    pub(super) fn method(self) -> Option<Method<'a>> {
        if let Some(request) = self.connect {
            return Some(Method::Connect(request));
        }
        if let Some(request) = self.subscribe {
            return Some(Method::Subscribe(request));
        }
        if let Some(request) = self.unsubscribe {
            return Some(Method::Unsubscribe(request));
        }
        if let Some(request) = self.publish {
            return Some(Method::Publish(request));
        }
        if self.presence.is_some()
            || self.presence_stats.is_some()
            || self.history.is_some()
            || self.rpc.is_some()
        {
            return Some(Method::Unavailable);
        }
        if self.send.is_some() {
            return Some(Method::Send);
        }
        if let Some(request) = self.refresh {
            return Some(Method::Refresh(request));
        }
        self.sub_refresh.map(Method::SubRefresh)
    }
}

/// A string that is borrowed where it holds no escapes; JSON `null` counts as empty, as in Go.
#[derive(Default)]
pub(super) struct Text<'a>(Cow<'a, str>);

impl<'a> Text<'a> {
    /// A subscribe request for the channel of this name.
    pub(super) fn subscription(self) -> ChannelRequest<'a> {
        ChannelRequest { channel: self, token: Text::default() }
    }
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Text<'de>, E> {
                Ok(Text::default())
            }
        }

        deserializer.deserialize_any(TextVisitor)
    }
}

/// For a field whose JSON `null` is a value and not an absence.
pub(crate) fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Copies valid JSON so that it takes one line.
///
/// Replies and pushes are separated by newlines, and lines of server-sent events by carriage
/// returns too. Neither can stand inside a JSON string, so a space in its place changes nothing.
pub(crate) fn one_line(json: &RawValue) -> Bytes {
    let json = json.get().as_bytes();
    if !json.iter().any(|&byte| byte == b'\n' || byte == b'\r') {
        return Bytes::copy_from_slice(json);
    }
    json.iter().map(|&byte| if byte == b'\n' || byte == b'\r' { b' ' } else { byte }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(line: &str) -> &'static str {
        match Command::parse(line).unwrap().method() {
            None => "none",
            Some(Method::Connect(_)) => "connect",
            Some(Method::Subscribe(_)) => "subscribe",
            Some(Method::Unsubscribe(_)) => "unsubscribe",
            Some(Method::Publish(_)) => "publish",
            Some(Method::Unavailable) => "unavailable",
            Some(Method::Send) => "send",
            Some(Method::Refresh(_)) => "refresh",
            Some(Method::SubRefresh(_)) => "sub_refresh",
        }
    }

    #[test]
    fn methods_are_told_apart_whatever_else_stands_there() {
        for (line, expected) in [
            (r#"{}"#, "none"),
            (r#"{"id":1}"#, "none"),
            (r#"{"id":1,"teleport":{}}"#, "none"),
            (r#"{"id":1,"connect":null}"#, "none"),
            (r#"{"id":1,"connect":{"name":"js","data":{"a":[{}]},"subs":{"c":{}}}}"#, "connect"),
            (r#"{"id":1,"subscribe":{"channel":"c","flag":1,"recover":true}}"#, "subscribe"),
            (r#"{"id":1,"unsubscribe":{"channel":"c"}}"#, "unsubscribe"),
            (r#"{"id":1,"publish":{"channel":"c","data":1}}"#, "publish"),
            (r#"{"id":1,"presence":{"channel":"c"}}"#, "unavailable"),
            (r#"{"id":1,"presence_stats":{}}"#, "unavailable"),
            (r#"{"id":1,"history":{"limit":-1}}"#, "unavailable"),
            (r#"{"id":1,"rpc":{"method":"m","data":{}}}"#, "unavailable"),
            (r#"{"send":{"data":{}}}"#, "send"),
            (r#"{"id":1,"refresh":{"token":"t"}}"#, "refresh"),
            (r#"{"id":1,"sub_refresh":{"channel":"c","token":"t"}}"#, "sub_refresh"),
            (r#"{"id":1,"publish":{},"connect":{}}"#, "connect"),
        ] {
            assert_eq!(name(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for line in [
            "",
            "1",
            "null",
            "\"x\"",
            "{",
            "{} {}",
            "[1,{}]",
            r#"{"id":-1}"#,
            r#"{"id":1.5}"#,
            r#"{"id":4294967296}"#,
            r#"{"id":"1"}"#,
            r#"{"id":1,"connect":7}"#,
            r#"{"id":1,"subscribe":{"channel":7}}"#,
            r#"{"id":1,"publish":{"channel":"c","data":}}"#,
            r#"{"id":1,"publish":{"channel":"c","data":{"a":01}}}"#,
            r#"{"id":1,"publish":{"channel":"c","data":NaN}}"#,
        ] {
            assert!(Command::parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn strings_are_unescaped_and_data_stays_raw() {
        let line = r#"{"id":1,"publish":{"channel":"a\u00e9\n","data": {"b" : 1.50} }}"#;
        let Some(Method::Publish(request)) = Command::parse(line).unwrap().method() else {
            panic!("not a publish")
        };
        assert_eq!(&*request.channel, "a\u{e9}\n");
        assert_eq!(request.data.unwrap().get(), r#"{"b" : 1.50}"#);
    }

    #[test]
    fn null_is_data_but_no_channel() {
        let line = r#"{"id":1,"publish":{"channel":null,"data":null}}"#;
        let Some(Method::Publish(request)) = Command::parse(line).unwrap().method() else {
            panic!("not a publish")
        };
        assert!(request.channel.is_empty());
        assert_eq!(request.data.unwrap().get(), "null");
    }

    #[test]
    fn deep_data_costs_no_stack() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        let line = format!(r#"{{"id":1,"publish":{{"channel":"c","data":{deep}}},"x":{deep}}}"#);
        assert_eq!(name(&line), "publish");
    }

    #[test]
    fn newlines_between_tokens_become_spaces() {
        let json: Box<RawValue> = serde_json::from_str("{\n\"a\\n\":\r\n[1,\n2]}").unwrap();
        assert_eq!(&one_line(&json)[..], b"{ \"a\\n\":  [1, 2]}");
        let json: Box<RawValue> = serde_json::from_str("[1, 2]").unwrap();
        assert_eq!(&one_line(&json)[..], b"[1, 2]");
    }
}
