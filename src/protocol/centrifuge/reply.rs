//! Encodes what a Centrifuge client is told: replies and publication pushes, as JSON.
//!
//! Fields with a zero value are left out, as the protocol's own encoder does.

use serde::Serialize;

use crate::{close::CloseReason, protocol::ErrorCode};

/// The ping: an empty reply.
pub(super) const PING: &[u8] = b"{}";

/// The result of a connect command.
#[derive(Serialize)]
pub(super) struct ConnectResult<'a> {
    pub(super) client: &'a str,
    pub(super) version: &'a str,
    #[serde(flatten)]
    pub(super) expiry: Expiry,
    /// Seconds between two pings.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) ping: u64,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) pong: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) session: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) node: &'a str,
}

/// When a connection's token must be refreshed; also the whole result of a refresh command.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Expiry {
    #[serde(skip_serializing_if = "is_false")]
    pub(super) expires: bool,
    /// Seconds from now.
    #[serde(rename = "ttl", skip_serializing_if = "is_zero")]
    pub(super) ttl_s: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// `{"id":n,"method":{}}`.
pub(super) fn empty(command: u32, method: &str) -> Vec<u8> {
    format!(r#"{{"id":{command},"{method}":{{}}}}"#).into_bytes()
}

/// `{"id":n,"method":result}`.
pub(super) fn result(command: u32, method: &str, result: &impl Serialize) -> Vec<u8> {
    let mut out = format!(r#"{{"id":{command},"{method}":"#).into_bytes();
    write_json(&mut out, result);
    out.push(b'}');
    out
}

/// `{"push":{"kind":value}}`: a push that belongs to no channel.
pub(super) fn push(kind: &str, value: &impl Serialize) -> Vec<u8> {
    let mut out = format!(r#"{{"push":{{"{kind}":"#).into_bytes();
    write_json(&mut out, value);
    out.extend_from_slice(b"}}");
    out
}

/// `{"push":{"disconnect":{..}}}`: why a connection ends, where no close frame says it.
pub fn disconnect_push(reason: CloseReason) -> Vec<u8> {
    push("disconnect", &Disconnect { code: reason.code, reason: reason.reason })
}

/// `{"code":..,"reason":..}`: the same without what makes it a push.
pub fn disconnect(reason: CloseReason) -> String {
    let CloseReason { code, reason } = reason;
    serde_json::to_string(&Disconnect { code, reason }).expect("its keys are strings")
}

#[derive(Serialize)]
struct Disconnect<'a> {
    code: u16,
    reason: &'a str,
}

/// `{"id":n,"error":{..}}`.
pub(super) fn error(command: u32, error: ErrorCode) -> Vec<u8> {
    let ErrorCode { code, message, temporary } = error;
    let temporary = if temporary { r#","temporary":true"# } else { "" };
    format!(r#"{{"id":{command},"error":{{"code":{code},"message":"{message}"{temporary}}}}}"#)
        .into_bytes()
}

/// A publisher's `ClientInfo`: `{"user":..,"client":..,"conn_info":..}`.
pub(super) fn client_info(user: &str, client: &str, conn_info: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + user.len() + conn_info.map_or(0, <[u8]>::len));
    out.extend_from_slice(b"{\"user\":");
    write_json(&mut out, user);
    out.extend_from_slice(b",\"client\":\"");
    out.extend_from_slice(client.as_bytes());
    out.push(b'"');
    if let Some(info) = conn_info {
        out.extend_from_slice(b",\"conn_info\":");
        out.extend_from_slice(info);
    }
    out.push(b'}');
    out
}

/// Appends `{"push":{"channel":..,"pub":{"data":..,"info":..}}}` to `out`, without a newline.
///
/// `data` and `info` are encoded JSON without newlines. Called once per publication, whatever the
/// number of subscribers.
pub fn encode_publication(out: &mut Vec<u8>, channel: &str, data: &[u8], info: Option<&[u8]>) {
    out.reserve(64 + channel.len() + data.len() + info.map_or(0, <[u8]>::len));
    out.extend_from_slice(b"{\"push\":{\"channel\":");
    write_json(out, channel);
    out.extend_from_slice(b",\"pub\":{\"data\":");
    out.extend_from_slice(data);
    if let Some(info) = info {
        out.extend_from_slice(b",\"info\":");
        out.extend_from_slice(info);
    }
    out.extend_from_slice(b"}}}");
}

fn write_json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value)
        .expect("writing to memory cannot fail, and the keys of these types are strings");
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
        encode_publication(&mut out, "a\"b\n\u{e9}", br#"{"x": 1.0}"#, None);
        assert_eq!(
            text(out),
            "before{\"push\":{\"channel\":\"a\\\"b\\n\u{e9}\",\"pub\":{\"data\":{\"x\": 1.0}}}}"
        );
        let mut out = Vec::new();
        encode_publication(&mut out, "c", b"null", Some(br#"{"user":"u","client":"c"}"#));
        assert_eq!(
            text(out),
            r#"{"push":{"channel":"c","pub":{"data":null,"info":{"user":"u","client":"c"}}}}"#
        );
    }

    #[test]
    fn zero_values_are_left_out_of_the_connect_reply() {
        let mut connect = ConnectResult {
            client: "id",
            version: "1",
            expiry: Expiry { expires: false, ttl_s: 0 },
            ping: 0,
            pong: false,
            session: "",
            node: "",
        };
        let encoded = text(result(1, "connect", &connect));
        assert_eq!(encoded, r#"{"id":1,"connect":{"client":"id","version":"1"}}"#);
        connect.expiry = Expiry { expires: true, ttl_s: 60 };
        connect.ping = 25;
        connect.pong = true;
        connect.session = "s";
        connect.node = "n";
        assert_eq!(
            text(result(1, "connect", &connect)),
            concat!(
                r#"{"id":1,"connect":{"client":"id","version":"1","expires":true,"ttl":60,"#,
                r#""ping":25,"pong":true,"session":"s","node":"n"}}"#
            )
        );
    }

    #[test]
    fn a_disconnect_push_carries_code_and_reason() {
        assert_eq!(
            text(disconnect_push(crate::close::SHUTDOWN)),
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
        assert_eq!(text(client_info("", "c", None)), r#"{"user":"","client":"c"}"#);
        assert_eq!(
            text(client_info("a\"", "c", Some(b"{\"n\":1}"))),
            r#"{"user":"a\"","client":"c","conn_info":{"n":1}}"#
        );
    }
}
