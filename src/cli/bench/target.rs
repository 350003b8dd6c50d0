//! Where the load goes: the URL, and the upgrade request that every connection sends.

use std::net::{SocketAddr, ToSocketAddrs};

use tungstenite::handshake::derive_accept_key;

use super::Error;

/// The same nonce on each connection: the answer has to be checked, not to be secret.
const NONCE: &str = "dGlkZXJhY2UgYmVuY2ggIQ==";

/// The request that makes a connection a WebSocket, and what must come back.
pub(super) struct Upgrade {
    pub(super) address: SocketAddr,
    pub(super) request: Vec<u8>,
    accept: String,
}

/// Splits `ws://host:port/path`, or what `scheme` says instead, into an address, host and path; one that
/// is not a loopback address needs `allow_remote`.
pub(super) fn parse<'a>(
    url: &'a str,
    scheme: &str,
    allow_remote: bool,
) -> Result<(SocketAddr, &'a str, &'a str), Error> {
    let invalid = |why: &str| Error::Target { url: url.to_owned(), why: why.to_owned() };
    let rest =
        url.strip_prefix(scheme).ok_or_else(|| invalid(&format!("must begin with {scheme}")))?;
    let (host, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(invalid("the path holds a space or control character"));
    }
    let address = host
        .to_socket_addrs()
        .map_err(|error| invalid(&format!("host:port is expected: {error}")))?
        .next()
        .ok_or_else(|| invalid("the host has no address"))?;
    if !allow_remote && !address.ip().is_loopback() {
        return Err(invalid("not a loopback address (--allow-remote permits it)"));
    }
    Ok((address, host, path))
}

impl Upgrade {
    /// Reads `ws://host:port/path`; a target that is not a loopback address needs `allow_remote`.
    pub(super) fn parse(url: &str, allow_remote: bool) -> Result<Self, Error> {
        let (address, host, path) = parse(url, "ws://", allow_remote)?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {NONCE}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        Ok(Self {
            address,
            request: request.into_bytes(),
            accept: derive_accept_key(NONCE.as_bytes()),
        })
    }

    /// Where the WebSocket frames begin in `response`; `None` while it is incomplete; why not, if
    /// it is no acceptance.
    pub(super) fn accepted(&self, response: &[u8]) -> Result<Option<usize>, String> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut headers);
        let end = match parsed.parse(response) {
            Ok(httparse::Status::Complete(end)) => end,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(format!("no HTTP response: {error}")),
        };
        if parsed.code != Some(101) {
            let reason = parsed.reason.unwrap_or_default();
            return Err(format!("{} {reason}", parsed.code.unwrap_or_default()));
        }
        let accepted = parsed.headers.iter().any(|header| {
            header.name.eq_ignore_ascii_case("sec-websocket-accept")
                && header.value == self.accept.as_bytes()
        });
        if accepted {
            Ok(Some(end))
        } else {
            Err("101 without a valid Sec-WebSocket-Accept".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_requests() {
        let upgrade = Upgrade::parse("ws://127.0.0.1:8000/echo?a=b", false).unwrap();
        assert_eq!(upgrade.address, "127.0.0.1:8000".parse().unwrap());
        let text = String::from_utf8(upgrade.request).unwrap();
        assert!(text.starts_with("GET /echo?a=b HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"));
        assert!(Upgrade::parse("ws://[::1]:1", false).is_ok());
    }

    #[test]
    fn what_is_no_target_is_refused_with_a_reason() {
        for url in ["http://127.0.0.1:1/", "ws://127.0.0.1/", "ws://127.0.0.1:1/a b", "ws://"] {
            assert!(Upgrade::parse(url, false).is_err(), "{url}");
        }
        let remote = Upgrade::parse("ws://192.0.2.1:80/", false).err().unwrap();
        assert!(remote.to_string().contains("--allow-remote"));
        assert!(Upgrade::parse("ws://192.0.2.1:80/", true).is_ok());
    }

    #[test]
    fn only_a_valid_acceptance_opens_the_connection() {
        let upgrade = Upgrade::parse("ws://127.0.0.1:1", false).unwrap();
        let good = format!(
            "HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: {}\r\n\r\n",
            derive_accept_key(NONCE.as_bytes())
        );
        for end in 0..good.len() {
            assert_eq!(upgrade.accepted(&good.as_bytes()[..end]), Ok(None));
        }
        let with_frame = [good.as_bytes(), &[0x81, 0]].concat();
        assert_eq!(upgrade.accepted(&with_frame), Ok(Some(good.len())));
        assert_eq!(
            upgrade.accepted(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"),
            Err("503 Service Unavailable".into())
        );
        assert!(upgrade.accepted(b"HTTP/1.1 101 ok\r\n\r\n").is_err());
    }
}
