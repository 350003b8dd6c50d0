//! The handshake that turns an HTTP connection into a WebSocket (RFC 6455 section 4.2).

use super::http::head::is_token;
use super::http::response::{put_header, put_status_line};
use super::http::{Rejection, Request};
use crate::limits::SUBPROTOCOLS_MAX;
use tungstenite::handshake::derive_accept_key;

/// A sound upgrade request, to be accepted or answered like any other.
#[derive(Clone, Debug)]
pub struct Upgrade<'a> {
    /// The value of Sec-WebSocket-Accept.
    pub accept: String,
    /// The subprotocols the client offers, most wanted first; at most [`SUBPROTOCOLS_MAX`].
    pub protocols: Vec<&'a str>,
}

/// Reads a request as a handshake; `None` if it is an ordinary one, that is, neither upgrades to
/// `websocket` nor has a Sec-WebSocket-Key.
///
/// # Errors
/// 405 for a method other than GET, 426 for a version other than 13, 400 for anything else that
/// RFC 6455 section 4.2.1 does not allow, and for a request with a body.
pub fn upgrade<'a>(request: &'a Request<'_>) -> Result<Option<Upgrade<'a>>, Rejection> {
    let names_websocket = request.header_has_token("upgrade", "websocket");
    if !names_websocket && request.header("sec-websocket-key").is_none() {
        return Ok(None);
    }
    let bad = |message| Err(Rejection::new(400, message));
    if request.method != "GET" {
        return Err(Rejection::new(405, "a WebSocket handshake is a GET request"));
    }
    if request.version == 0 {
        return bad("a WebSocket handshake needs HTTP/1.1");
    }
    if !names_websocket {
        return bad("no Upgrade: websocket; a proxy may have removed it");
    }
    if !request.header_has_token("connection", "upgrade") {
        return bad("no Connection: Upgrade; a proxy may have removed it");
    }
    if !request.body.is_empty() || request.header("transfer-encoding").is_some() {
        return bad("a WebSocket handshake has no body");
    }
    match single(request, "sec-websocket-version") {
        Some(b"13") => {}
        Some(version) if is_token(version) => {
            return Err(Rejection::new(426, "WebSocket version other than 13"));
        }
        _ => return bad("Sec-WebSocket-Version is not given once"),
    }
    let Some(key) = single(request, "sec-websocket-key").filter(|key| is_key(key)) else {
        return bad("Sec-WebSocket-Key is not given once, as 16 bytes in base64");
    };
    let protocols = offered_protocols(request)?;
    Ok(Some(Upgrade { accept: derive_accept_key(key), protocols }))
}

/// The value of a header that must not be repeated.
fn single<'a>(request: &Request<'a>, name: &str) -> Option<&'a [u8]> {
    let mut values = request.headers_named(name);
    values.next().filter(|_| values.next().is_none())
}

/// Whether the value is the base64 form of 16 bytes.
fn is_key(value: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    value.strip_suffix(b"==").is_some_and(|text| text.len() == 22 && text.iter().all(is_digit))
}

fn offered_protocols<'a>(request: &'a Request<'_>) -> Result<Vec<&'a str>, Rejection> {
    let mut protocols = Vec::new();
    let lists = request.headers_named("sec-websocket-protocol");
    for item in lists.flat_map(|list| list.split(|&byte| byte == b',')) {
        let item = item.trim_ascii();
        // A list may have empty elements (RFC 9110 section 5.6.1.2).
        if item.is_empty() {
            continue;
        }
        let name = str::from_utf8(item).ok().filter(|name| is_token(name.as_bytes()));
        protocols.push(name.ok_or(Rejection::new(400, "malformed Sec-WebSocket-Protocol"))?);
        if protocols.len() > SUBPROTOCOLS_MAX {
            return Err(Rejection::new(400, "too many subprotocols"));
        }
    }
    Ok(protocols)
}

/// Appends the response that accepts an upgrade; frames follow it.
///
/// `protocol` is named only if the client offered it: it would have to fail the connection
/// otherwise (RFC 6455 section 4.1).
pub fn write_switching_protocols(out: &mut Vec<u8>, upgrade: &Upgrade<'_>, protocol: Option<&str>) {
    put_status_line(out, 101);
    put_header(out, "Upgrade", "websocket");
    put_header(out, "Connection", "Upgrade");
    put_header(out, "Sec-WebSocket-Accept", &upgrade.accept);
    if let Some(protocol) = protocol.filter(|name| upgrade.protocols.contains(name)) {
        put_header(out, "Sec-WebSocket-Protocol", protocol);
    }
    out.extend_from_slice(b"\r\n");
}
