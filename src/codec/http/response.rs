//! Responses: status line, framing and connection headers, body.

use super::Rejection;
use std::io::Write;

/// The reason phrase of a status code (RFC 9110 section 15); empty, as it may be, for others.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// Appends a whole response to `out`.
///
/// An empty `content_type` leaves that header out. The statuses that have no body (1xx, 204, 304)
/// are written without one, and without its headers. Control characters in `extra_headers` become
/// blanks, so that no value can begin a header of its own.
pub fn write_response(
    out: &mut Vec<u8>,
    status: u16,
    content_type: &str,
    extra_headers: &[(&str, &str)],
    body: &[u8],
    keep_alive: bool,
) {
    let has_body = !matches!(status, 100..200 | 204 | 304);
    put_status_line(out, status);
    if has_body && !content_type.is_empty() {
        put_header(out, "Content-Type", content_type);
    }
    if has_body {
        put_number_header(out, "Content-Length", body.len());
    }
    put_header(out, "Connection", if keep_alive { "keep-alive" } else { "close" });
    for (name, value) in extra_headers {
        put_header(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
    if has_body {
        out.extend_from_slice(body);
    }
}

/// Appends the interim response that a waiting peer sends its body after.
pub fn write_continue(out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
}

/// Appends the response to a refused request, after which the connection closes.
///
/// The body is `{"error":{"code":<status>,"message":"..."}}`. A 405 names the method that is
/// allowed, a 426 the WebSocket version (RFC 6455 section 4.4).
pub fn write_rejection(out: &mut Vec<u8>, rejection: &Rejection) {
    let Rejection { status, message } = *rejection;
    let body = serde_json::json!({ "error": { "code": status, "message": message } }).to_string();
    let extra_headers: &[(&str, &str)] = match status {
        405 => &[("Allow", "GET")],
        426 => {
            &[("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
        }
        _ => &[],
    };
    write_response(out, status, "application/json", extra_headers, body.as_bytes(), false);
}

pub(in crate::codec) fn put_status_line(out: &mut Vec<u8>, status: u16) {
    // Writing to a vector does not fail.
    let _ = write!(out, "HTTP/1.1 {status} {}\r\n", reason_phrase(status));
}

pub(in crate::codec) fn put_header(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let blank = |byte: u8| if byte.is_ascii_control() && byte != b'\t' { b' ' } else { byte };
    out.extend(value.bytes().map(blank));
    out.extend_from_slice(b"\r\n");
}

fn put_number_header(out: &mut Vec<u8>, name: &str, value: usize) {
    let _ = write!(out, "{name}: {value}\r\n");
}
