//! Where the server is and what is asked of it: the three requests of the protocol as bytes.
//!
//! PURE. Whatever could break a request apart is refused when the value is made.

use std::fmt::{self, Write};

use tungstenite::http::Uri;

/// Sent with every watch.
pub const PROTOCOL_VERSION: &str = "2.3.0";

/// Where watches are served, unless told otherwise; heartbeats are one level below.
pub const BASE_DEFAULT: &str = "/internal/platform/v1/remote-sessions";

const DEVICE_INFO_PATH: &str = "/internal/platform/v1/device-info";
const USER_AGENT: &str = concat!("tiderace/", env!("CARGO_PKG_VERSION"));

/// A server and the device's token.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) is_tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// Host and port as the requests name them.
    authority: String,
    /// The path of the URL: in front of every target, without a slash at the end.
    prefix: String,
    base: String,
    token: String,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.authority).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// From `http(s)://host[:port][/prefix]`, the path of the watches, and the token.
    pub(super) fn new(url: &str, base: &str, token: &str) -> Result<Self, &'static str> {
        let uri: Uri = url.parse().map_err(|_| "the URL is malformed")?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("the URL must begin with https:// or http://"),
        };
        let authority = uri.authority().ok_or("the URL names no host")?;
        if authority.as_str().contains('@') {
            return Err("the URL must not hold a user; give the token by itself");
        }
        if uri.query().is_some() || url.contains('#') {
            return Err("the URL must end with its path, without a query or fragment");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str().ends_with(authority.host()) => {
                if is_tls {
                    443
                } else {
                    80
                }
            }
            None => return Err("the port of the URL is not a number from 1 to 65535"),
        };
        if host.is_empty() || port == 0 {
            return Err("the URL names no host and port");
        }
        let is_path = |path: &str| path.starts_with('/') && path.bytes().all(is_visible);
        if !is_path(base) || base.contains(['?', '#']) {
            return Err("the base must be a path that begins with a slash");
        }
        if token.is_empty() || !token.bytes().all(is_visible) {
            return Err("the token must be visible ASCII characters without blanks");
        }
        Ok(Self {
            is_tls,
            host: host.to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            base: base.trim_end_matches('/').to_owned(),
            token: token.to_owned(),
        })
    }

    /// Which device is this?
    pub(super) fn device_info(&self) -> Vec<u8> {
        self.get(DEVICE_INFO_PATH, "application/json")
    }

    /// Watch, after a wake for `session_id`, taking over `previous_lease`.
    pub(super) fn watch(&self, session_id: Option<&str>, previous_lease: Option<&str>) -> Vec<u8> {
        let mut target = format!("{}/watch?protocolVersion={PROTOCOL_VERSION}", self.base);
        for (name, value) in
            [("remoteAccessSessionId", session_id), ("previousWatchLeaseId", previous_lease)]
        {
            if let Some(value) = value {
                let _ = write!(target, "&{name}=");
                put_encoded(&mut target, value);
            }
        }
        self.get(&target, "text/event-stream")
    }

    /// The holder of `lease` lives.
    pub(super) fn heartbeat(&self, lease: &str) -> Vec<u8> {
        let body = serde_json::json!({ "watchLeaseId": lease }).to_string();
        let mut request = self.head("POST", &format!("{}/watch/heartbeat", self.base), "*/*");
        let _ = write!(
            request,
            "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        request.into_bytes()
    }

    fn get(&self, target: &str, accept: &str) -> Vec<u8> {
        let mut request = self.head("GET", target, accept);
        request.push_str("\r\n");
        request.into_bytes()
    }

    fn head(&self, method: &str, target: &str, accept: &str) -> String {
        let Self { prefix, authority, token, .. } = self;
        format!(
            "{method} {prefix}{target} HTTP/1.1\r\nHost: {authority}\r\n\
             Authorization: DeviceToken {token}\r\nAccept: {accept}\r\nUser-Agent: {USER_AGENT}\r\n"
        )
    }
}

fn is_visible(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

/// Appends `value` percent-encoded but for RFC 3986's unreserved characters.
fn put_encoded(target: &mut String, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            target.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(target, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint, &'static str> {
        Endpoint::new(url, BASE_DEFAULT, "tide-7f3a")
    }

    #[test]
    fn urls() {
        for (url, is_tls, host, port, prefix) in [
            ("https://a.example", true, "a.example", 443, ""),
            ("http://a.example/", false, "a.example", 80, ""),
            ("http://127.0.0.1:8000/x/y/", false, "127.0.0.1", 8000, "/x/y"),
            ("https://[::1]:1", true, "::1", 1, ""),
            ("https://[::1]", true, "::1", 443, ""),
        ] {
            let endpoint = endpoint(url).unwrap();
            assert_eq!(
                (endpoint.is_tls, &*endpoint.host, endpoint.port, &*endpoint.prefix),
                (is_tls, host, port, prefix),
                "{url}"
            );
        }
        for url in [
            "",
            "a.example",
            "/x",
            "ftp://a.example",
            "http://",
            "http://u:p@a.example",
            "http://a.example?x",
            "http://a.example/#x",
            "http://a.example:0",
            "http://a.example:x",
            "http://a.example:65536",
            "http://a example",
        ] {
            assert!(endpoint(url).is_err(), "{url}");
        }
    }

    #[test]
    fn what_would_break_a_request_apart_is_refused() {
        for token in ["", "a b", "a\r\nX: y", "é"] {
            assert!(Endpoint::new("http://a", BASE_DEFAULT, token).is_err(), "{token:?}");
        }
        for base in ["", "x", "/a b", "/a?b", "/a#b", "/a\r\n"] {
            assert!(Endpoint::new("http://a", base, "t").is_err(), "{base:?}");
        }
    }

    #[test]
    fn the_token_is_not_in_debug_output() {
        assert!(!format!("{:?}", endpoint("http://a").unwrap()).contains("7f3a"));
    }

    #[test]
    fn the_requests() {
        let endpoint = endpoint("http://a:1/p").unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let fields = |accept: &str| {
            format!(
                " HTTP/1.1\r\nHost: a:1\r\nAuthorization: DeviceToken tide-7f3a\r\nAccept: {accept}\r\n\
                 User-Agent: {USER_AGENT}\r\n"
            )
        };
        let watch = "GET /p/internal/platform/v1/remote-sessions/watch?protocolVersion=2.3.0";
        let stream = fields("text/event-stream");
        assert_eq!(text(endpoint.watch(None, None)), format!("{watch}{stream}\r\n"));
        assert_eq!(
            text(endpoint.watch(Some("ras_1"), Some("a b&é"))),
            format!(
                "{watch}&remoteAccessSessionId=ras_1&previousWatchLeaseId=a%20b%26%C3%A9{stream}\r\n"
            )
        );
        assert_eq!(
            text(endpoint.device_info()),
            format!("GET /p/internal/platform/v1/device-info{}\r\n", fields("application/json"))
        );
        assert_eq!(
            text(endpoint.heartbeat("a\"b")),
            format!(
                "POST /p/internal/platform/v1/remote-sessions/watch/heartbeat{}\
                 Content-Type: application/json\r\nContent-Length: 23\r\n\r\n{}",
                fields("*/*"),
                r#"{"watchLeaseId":"a\"b"}"#
            )
        );
    }
}
