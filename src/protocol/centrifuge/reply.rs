//! Encodes what a Centrifuge client is told: replies and publication pushes, as JSON.
//!
//! Fields with a zero value are left out, as the protocol's own encoder does.

use serde::Serialize;

use crate::protocol::ErrorCode;

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
