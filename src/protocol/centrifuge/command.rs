//! Parses the commands of a Centrifuge client (centrifugal/protocol `client.proto`, JSON encoding).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use crate::codec::json::present;

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
    connect: Option<ConnectRequest<'a>>,
    #[serde(borrow)]
    subscribe: Option<SubscribeRequest<'a>>,
    #[serde(borrow)]
    unsubscribe: Option<ChannelRequest<'a>>,
    #[serde(borrow)]
    publish: Option<PublishRequest<'a>>,
    #[serde(borrow)]
    presence: Option<ChannelRequest<'a>>,
    #[serde(borrow)]
    presence_stats: Option<ChannelRequest<'a>>,
    #[serde(borrow)]
    history: Option<HistoryRequest<'a>>,
    ping: Option<IgnoredAny>,
    #[serde(borrow)]
    rpc: Option<RpcRequest<'a>>,
    send: Option<IgnoredAny>,
    #[serde(borrow)]
    refresh: Option<TokenRequest<'a>>,
    #[serde(borrow)]
    sub_refresh: Option<ChannelRequest<'a>>,
}

/// What a command asks for.
pub(super) enum Method<'a> {
    Connect(ConnectRequest<'a>),
    Subscribe(SubscribeRequest<'a>),
    Unsubscribe(ChannelRequest<'a>),
    Publish(PublishRequest<'a>),
    Presence(ChannelRequest<'a>),
    PresenceStats(ChannelRequest<'a>),
    History(HistoryRequest<'a>),
    Ping,
    Rpc(RpcRequest<'a>),
    Send,
    Refresh(TokenRequest<'a>),
    SubRefresh(ChannelRequest<'a>),
}

/// The part of a connect request that decides.
#[derive(Default, Deserialize)]
pub(crate) struct ConnectRequest<'a> {
    #[serde(borrow, default)]
    pub(super) token: Text<'a>,
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) name: Text<'a>,
    #[serde(borrow, default)]
    pub(super) version: Text<'a>,
    /// Where the client was in the channels to which the server subscribes it.
    #[serde(borrow, default)]
    pub(super) subs: Option<BTreeMap<Cow<'a, str>, Option<SubscribeRequest<'a>>>>,
    /// What a browser's client would have sent as headers, had it been let.
    #[serde(borrow, default)]
    pub(super) headers: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
}

impl<'a> ConnectRequest<'a> {
    /// Parses a whole request; `None` when it is none.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        if !text.trim_ascii_start().starts_with('{') {
            return None;
        }
        serde_json::from_str(text).ok()
    }
}

/// The part of a refresh request that decides.
#[derive(Deserialize)]
pub(super) struct TokenRequest<'a> {
    #[serde(borrow, default)]
    pub(super) token: Text<'a>,
}

/// The part of a subscribe request that decides.
#[derive(Default, Deserialize)]
pub(super) struct SubscribeRequest<'a> {
    #[serde(borrow, default)]
    pub(super) channel: Text<'a>,
    #[serde(borrow, default)]
    pub(super) token: Text<'a>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) recover: bool,
    #[serde(borrow, default)]
    pub(super) epoch: Text<'a>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) offset: u64,
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) positioned: bool,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) recoverable: bool,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) join_leave: bool,
    /// Bit 2: a failed recovery is error 112.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) flag: i64,
    /// A filter of publications by their tags. There are none here: who asks for one is refused,
    /// for without it would come what is not wanted.
    pub(super) tf: Option<IgnoredAny>,
}

/// The part of a history request that decides.
#[derive(Deserialize)]
pub(super) struct HistoryRequest<'a> {
    #[serde(borrow, default)]
    pub(super) channel: Text<'a>,
    /// 0: the position alone; below 0: all.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) limit: i32,
    #[serde(borrow, default)]
    pub(super) since: Option<Since<'a>>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) reverse: bool,
}

/// A position in a stream.
#[derive(Deserialize)]
pub(super) struct Since<'a> {
    #[serde(default, deserialize_with = "nullable")]
    pub(super) offset: u64,
    #[serde(borrow, default)]
    pub(super) epoch: Text<'a>,
}

/// A remote procedure call.
#[derive(Deserialize)]
pub(super) struct RpcRequest<'a> {
    #[serde(borrow, default)]
    pub(super) method: Text<'a>,
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
}

/// The part of an unsubscribe, presence or sub_refresh request that decides.
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
        if let Some(request) = self.presence {
            return Some(Method::Presence(request));
        }
        if let Some(request) = self.presence_stats {
            return Some(Method::PresenceStats(request));
        }
        if let Some(request) = self.history {
            return Some(Method::History(request));
        }
        if self.ping.is_some() {
            return Some(Method::Ping);
        }
        if let Some(request) = self.rpc {
            return Some(Method::Rpc(request));
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

/// For a field whose JSON `null` is its zero value, as in Go.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
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
            Some(Method::Presence(_)) => "presence",
            Some(Method::PresenceStats(_)) => "presence_stats",
            Some(Method::History(_)) => "history",
            Some(Method::Ping) => "ping",
            Some(Method::Rpc(_)) => "rpc",
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
            (r#"{"id":1,"presence":{"channel":"c"}}"#, "presence"),
            (r#"{"id":1,"presence_stats":{}}"#, "presence_stats"),
            (r#"{"id":1,"history":{"limit":-1,"since":{"offset":1,"epoch":"e"}}}"#, "history"),
            (r#"{"id":1,"ping":{}}"#, "ping"),
            (r#"{"id":1,"rpc":{"method":"m","data":{}}}"#, "rpc"),
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
}
