//! Encodes what a Centrifuge client is told: replies and pushes, as JSON
//! (centrifugal/protocol `client.proto`).

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{
    Unsubscribed,
    object::{Object, write_json},
};
use crate::protocol::{Begin, ErrorCode, History, MemberInfo, Recovered, Subscribed};

/// The ping: an empty reply.
pub(super) const PING: &[u8] = b"{}";

/// The result of a connect command.
pub(super) struct ConnectResult<'a> {
    pub(super) client: &'a str,
    pub(super) version: &'a str,
    pub(super) expiry: Expiry,
    /// What the backend wants the client to know, as JSON.
    pub(super) data: Option<&'a [u8]>,
    pub(super) subscriptions: &'a [Subscribed],
    /// Seconds between two pings.
    pub(super) ping: u64,
    pub(super) pong: bool,
    pub(super) session: &'a str,
    pub(super) node: &'a str,
    /// Of now, in seconds since the Unix epoch: subscriptions say how long they have.
    pub(super) now_unix_s: u64,
}

impl ConnectResult<'_> {
    pub(super) fn write(&self, object: &mut Object<'_>) {
        object.text("client", self.client).text("version", self.version);
        self.expiry.write(object);
        object.raw("data", self.data);
        if !self.subscriptions.is_empty() {
            object.object("subs", |subs| {
                for subscribed in self.subscriptions {
                    subs.object(&subscribed.channel, |result| {
                        write_subscribed(result, subscribed, self.now_unix_s);
                    });
                }
            });
        }
        object.number("ping", self.ping).flag("pong", self.pong);
        object.text("session", self.session).text("node", self.node);
    }
}

/// When a token must be refreshed; also the whole result of the refresh commands.
#[derive(Clone, Copy)]
pub(super) struct Expiry {
    pub(super) expires: bool,
    /// Seconds from now.
    pub(super) ttl_s: u64,
}

impl Expiry {
    /// The expiry at a moment; 0 is never.
    pub(super) fn at(expire_at_unix_s: u64, now_unix_s: u64) -> Self {
        let ttl_s = expire_at_unix_s.saturating_sub(now_unix_s);
        Self { expires: expire_at_unix_s != 0, ttl_s }
    }

    pub(super) fn write(self, object: &mut Object<'_>) {
        object.flag("expires", self.expires).number("ttl", self.ttl_s);
    }
}

/// The result of a subscribe command, also within that of a connect.
pub(super) fn write_subscribed(object: &mut Object<'_>, subscribed: &Subscribed, now_unix_s: u64) {
    let Subscribed { options, begin, .. } = subscribed;
    Expiry::at(options.expire_at_unix_s, now_unix_s).write(object);
    if let Some(Begin { position, recovered }) = begin {
        object.flag("recoverable", options.wants.recovery).text("epoch", &position.epoch);
        match recovered {
            Recovered::NotAsked => {}
            Recovered::All(publications) => {
                if !publications.is_empty() {
                    object.raw_list("publications", publications);
                }
                object.flag("recovered", true).flag("was_recovering", true);
            }
            Recovered::Not => {
                object.flag("was_recovering", true);
            }
        }
        object.number("offset", position.offset).flag("positioned", true);
    }
    object.raw("data", options.data.as_deref());
}

/// The subscribe push: as the result of a subscribe, but for what only who asked needs.
pub(super) fn subscribe_push(subscribed: &Subscribed) -> Vec<u8> {
    let Subscribed { channel, options, begin } = subscribed;
    push(channel, "subscribe", |object| {
        if let Some(Begin { position, .. }) = begin {
            object.flag("recoverable", options.wants.recovery).text("epoch", &position.epoch);
            object.number("offset", position.offset).flag("positioned", true);
        }
        object.raw("data", options.data.as_deref());
    })
}

/// The push of a publication that is encoded already, as histories have it.
pub fn publication_push(channel: &str, publication: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(48 + channel.len() + publication.len());
    let mut reply = Object::begin(&mut out);
    reply.object("push", |push| {
        push.text("channel", channel).raw("pub", Some(publication));
    });
    reply.end();
    out
}

/// The unsubscribe push.
pub(super) fn unsubscribe_push(channel: &str, reason: Unsubscribed) -> Vec<u8> {
    push(channel, "unsubscribe", |object| {
        object.number("code", u64::from(reason.code)).text("reason", reason.reason);
    })
}

/// The refresh push: the connection's expiry has moved.
pub(super) fn refresh_push(expiry: Expiry) -> Vec<u8> {
    push("", "refresh", |object| expiry.write(object))
}

/// The connect push: how a unidirectional session begins.
pub(super) fn connect_push(result: &ConnectResult<'_>) -> Vec<u8> {
    push("", "connect", |object| result.write(object))
}

/// `{"push":{"disconnect":{..}}}`: why a connection ends, where no close frame says it.
pub fn disconnect_push(code: u16, reason: &str) -> Vec<u8> {
    push("", "disconnect", |object| write_disconnect(object, code, reason))
}

/// `{"code":..,"reason":..}`: the same without what makes it a push.
pub fn disconnect(code: u16, reason: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut object = Object::begin(&mut out);
    write_disconnect(&mut object, code, reason);
    object.end();
    out
}

fn write_disconnect(object: &mut Object<'_>, code: u16, reason: &str) {
    object.always("code", &code).always("reason", reason);
}

fn push(channel: &str, kind: &str, write: impl FnOnce(&mut Object<'_>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(96 + channel.len());
    let mut reply = Object::begin(&mut out);
    reply.object("push", |push| {
        push.text("channel", channel).object(kind, write);
    });
    reply.end();
    out
}

/// `{"id":n,"method":{}}`.
pub(super) fn empty(command: u32, method: &str) -> Vec<u8> {
    format!(r#"{{"id":{command},"{method}":{{}}}}"#).into_bytes()
}

/// `{"id":n,"method":{..}}`.
pub(super) fn result(command: u32, method: &str, write: impl FnOnce(&mut Object<'_>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    let mut reply = Object::begin(&mut out);
    reply.number("id", u64::from(command)).object(method, write);
    reply.end();
    out
}

/// The result of a presence command. The map is there also when nobody is.
pub(super) fn presence(command: u32, present: &[Arc<MemberInfo>]) -> Vec<u8> {
    result(command, "presence", |object| {
        object.object("presence", |clients| {
            for member in present {
                clients.raw(&member.client, Some(&member.json));
            }
        });
    })
}

/// The result of a presence_stats command; both numbers are always there.
pub(super) fn presence_stats(command: u32, clients: u32, users: u32) -> Vec<u8> {
    result(command, "presence_stats", |object| {
        object.always("num_clients", &clients).always("num_users", &users);
    })
}

/// The result of a history command; all of it is always there.
pub(super) fn history(command: u32, history: &History) -> Vec<u8> {
    result(command, "history", |object| {
        object.raw_list("publications", &history.publications);
        object.always("epoch", &*history.position.epoch);
        object.always("offset", &history.position.offset);
    })
}

/// The result of an RPC command; `data` is JSON on one line.
pub(super) fn rpc(command: u32, data: Option<&[u8]>) -> Vec<u8> {
    result(command, "rpc", |object| {
        object.raw("data", data);
    })
}

/// `{"id":n,"error":{..}}`.
pub(super) fn error(command: u32, error: ErrorCode) -> Vec<u8> {
    let ErrorCode { code, message, temporary } = error;
    error_saying(command, code, message, temporary)
}

/// The same with an error that is not the protocol's own.
pub(super) fn error_saying(command: u32, code: u16, message: &str, temporary: bool) -> Vec<u8> {
    result(command, "error", |object| {
        object
            .number("code", u64::from(code))
            .text("message", message)
            .flag("temporary", temporary);
    })
}

/// A `ClientInfo`: `{"user":..,"client":..,"conn_info":..,"chan_info":..}`.
pub(super) fn client_info(
    user: &str,
    client: &str,
    conn_info: Option<&[u8]>,
    chan_info: Option<&[u8]>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + user.len() + conn_info.map_or(0, <[u8]>::len));
    let mut object = Object::begin(&mut out);
    object.always("user", user).always("client", client);
    object.raw("conn_info", conn_info).raw("chan_info", chan_info);
    object.end();
    out
}

/// What a publication push says beside its channel. What is JSON is without newlines.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublicationFields<'a> {
    /// The payload, as JSON.
    pub data: &'a [u8],
    /// The publisher's `ClientInfo`, as JSON.
    pub info: Option<&'a [u8]>,
    /// Its offset in the channel's stream; 0 has none.
    pub offset: u64,
    /// The stream's epoch.
    pub epoch: Option<&'a str>,
    /// The publication's tags.
    pub tags: Option<&'a BTreeMap<String, String>>,
}

/// Appends `{"push":{"channel":..,"pub":{..}}}` to `out`, without a newline; returns where in
/// `out` the publication object stands, which is what histories and replies contain.
///
/// Called once per publication, whatever the number of subscribers.
pub fn encode_publication(
    out: &mut Vec<u8>,
    channel: &str,
    fields: &PublicationFields<'_>,
) -> Range<usize> {
    out.reserve(96 + channel.len() + fields.data.len() + fields.info.map_or(0, <[u8]>::len));
    out.extend_from_slice(PUSH_PREFIX);
    write_json(out, channel);
    out.extend_from_slice(b",\"pub\":");
    let from = out.len();
    out.extend_from_slice(b"{\"data\":");
    out.extend_from_slice(fields.data);
    if let Some(info) = fields.info {
        out.extend_from_slice(b",\"info\":");
        out.extend_from_slice(info);
    }
    if fields.offset != 0 {
        out.extend_from_slice(b",\"offset\":");
        write_json(out, &fields.offset);
    }
    if let Some(tags) = fields.tags {
        out.extend_from_slice(b",\"tags\":");
        write_json(out, tags);
    }
    if let Some(epoch) = fields.epoch {
        out.extend_from_slice(b",\"epoch\":");
        write_json(out, epoch);
    }
    out.push(b'}');
    let to = out.len();
    out.extend_from_slice(b"}}");
    from..to
}

const PUSH_PREFIX: &[u8] = b"{\"push\":{\"channel\":";

/// Appends `{"push":{"channel":..,"join":{"info":..}}}` or the same with `leave`.
pub fn encode_membership(out: &mut Vec<u8>, channel: &str, came: bool, info: &[u8]) {
    let kind = if came { "join" } else { "leave" };
    out.extend_from_slice(&push(channel, kind, |object| {
        object.raw("info", Some(info));
    }));
}

/// Appends `{"push":{"message":{"data":..}}}`: what a backend tells a connection; `data` is JSON
/// without newlines.
pub fn encode_message(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(b"{\"push\":{\"message\":{\"data\":");
    out.extend_from_slice(data);
    out.extend_from_slice(b"}}}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn publications_carry_data_and_info_as_they_are() {
        let mut out = b"before".to_vec();
        let fields = PublicationFields { data: br#"{"x": 1.0}"#, ..Default::default() };
        let object = encode_publication(&mut out, "a\"b\n\u{e9}", &fields);
        assert_eq!(&out[object], br#"{"data":{"x": 1.0}}"#);
        assert_eq!(
            text(out),
            "before{\"push\":{\"channel\":\"a\\\"b\\n\u{e9}\",\"pub\":{\"data\":{\"x\": 1.0}}}}"
        );
        let mut out = Vec::new();
        let tags = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let fields = PublicationFields {
            data: b"null",
            info: Some(br#"{"user":"u","client":"c"}"#),
            offset: 1,
            epoch: Some("e"),
            tags: Some(&tags),
        };
        let object = encode_publication(&mut out, "c", &fields);
        let expected = concat!(
            r#"{"data":null,"info":{"user":"u","client":"c"},"offset":1,"#,
            r#""tags":{"a":"b"},"epoch":"e"}"#
        );
        assert_eq!(std::str::from_utf8(&out[object]).unwrap(), expected);
        assert_eq!(text(out), format!(r#"{{"push":{{"channel":"c","pub":{expected}}}}}"#));
    }

    #[test]
    fn zero_values_are_left_out_of_the_connect_reply() {
        let mut connect = ConnectResult {
            client: "id",
            version: "1",
            expiry: Expiry { expires: false, ttl_s: 0 },
            data: None,
            subscriptions: &[],
            ping: 0,
            pong: false,
            session: "",
            node: "",
            now_unix_s: 100,
        };
        let encoded = text(result(1, "connect", |object| connect.write(object)));
        assert_eq!(encoded, r#"{"id":1,"connect":{"client":"id","version":"1"}}"#);
        connect.expiry = Expiry { expires: true, ttl_s: 60 };
        connect.ping = 25;
        connect.pong = true;
        connect.session = "s";
        connect.node = "n";
        assert_eq!(
            text(result(1, "connect", |object| connect.write(object))),
            concat!(
                r#"{"id":1,"connect":{"client":"id","version":"1","expires":true,"ttl":60,"#,
                r#""ping":25,"pong":true,"session":"s","node":"n"}}"#
            )
        );
    }

    #[test]
    fn a_disconnect_push_carries_code_and_reason() {
        assert_eq!(
            text(disconnect_push(3001, "shutdown")),
            r#"{"push":{"disconnect":{"code":3001,"reason":"shutdown"}}}"#
        );
    }

    #[test]
    fn errors_say_temporary_only_when_they_are() {
        assert_eq!(
            text(error(7, ErrorCode::PERMISSION_DENIED)),
            r#"{"id":7,"error":{"code":103,"message":"permission denied"}}"#
        );
        assert_eq!(
            text(error(u32::MAX, ErrorCode::TOO_MANY_REQUESTS)),
            r#"{"id":4294967295,"error":{"code":111,"message":"too many requests","temporary":true}}"#
        );
    }

    #[test]
    fn client_info_escapes_the_user_and_keeps_conn_info() {
        assert_eq!(text(client_info("", "c", None, None)), r#"{"user":"","client":"c"}"#);
        assert_eq!(
            text(client_info("a\"", "c", Some(b"{\"n\":1}"), Some(b"2"))),
            r#"{"user":"a\"","client":"c","conn_info":{"n":1},"chan_info":2}"#
        );
    }
}
