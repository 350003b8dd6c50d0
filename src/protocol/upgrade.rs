//! The request that wants to become an embedder's connection, as its factory sees it before the 101.

use std::fmt;

use serde::Serialize;

use crate::codec::http::{self, Request};

/// A sound WebSocket handshake (RFC 6455 section 4.2.1) from an origin that is allowed, which is
/// not answered yet.
#[derive(Clone, Copy, Debug)]
pub struct Upgrade<'a> {
    request: &'a Request<'a>,
    protocols: &'a [&'a str],
}

impl<'a> Upgrade<'a> {
    pub(crate) fn new(request: &'a Request<'a>, protocols: &'a [&'a str]) -> Self {
        Self { request, protocols }
    }

    /// The path of the target, percent-encoded as it came.
    pub fn path(&self) -> &'a str {
        self.request.path
    }

    /// What follows the first `?` of the target, as it came.
    pub fn query(&self) -> Option<&'a str> {
        self.request.query
    }

    /// The first parameter of this name in the query, decoded as forms are.
    ///
    /// # Errors
    /// 400 for one that is not percent-encoded UTF-8.
    pub fn parameter(&self, name: &str) -> Result<Option<String>, Refusal> {
        http::parameter(self.request.query, name).map_err(|message| Refusal::new(400, message))
    }

    /// The value of the first header field of this name, any case; `None` also when it is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.request.header(name).and_then(|value| str::from_utf8(value).ok())
    }

    /// The values of all header fields of this name, any case, in their order.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.request.headers_named(name)
    }

    /// The value of the first cookie of this name, as the browser sent it (RFC 6265 section 5.4).
    pub fn cookie(&self, name: &str) -> Option<&'a str> {
        let fields = self.request.headers_named("cookie");
        let pairs = fields.filter_map(|field| str::from_utf8(field).ok());
        pairs.flat_map(|field| field.split(';')).find_map(|pair| {
            let (known, value) = pair.split_once('=')?;
            (known.trim_ascii() == name).then(|| value.trim_ascii())
        })
    }

    /// The page that asks; browsers always say it.
    pub fn origin(&self) -> Option<&'a str> {
        self.header("origin")
    }

    /// The host that the request is for (RFC 9112 section 3.2.2).
    pub fn host(&self) -> Option<&'a str> {
        self.request.host()
    }

    /// The subprotocols that the client offers, most wanted first. What the handler speaks of them
    /// it says in [`Handler::subprotocol`](super::handler::Handler::subprotocol).
    pub fn subprotocols(&self) -> &'a [&'a str] {
        self.protocols
    }
}

/// Why an upgrade is refused: the answer in place of the 101.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    status: u16,
    body: Vec<u8>,
}

impl Refusal {
    /// An answer whose body tells `message` to a person, as those of the server itself do:
    /// `{"error":{"code":401,"message":".."}}`. A status that is not from 400 to 599 becomes 500.
    pub fn new(status: u16, message: &str) -> Self {
        let status = sound(status);
        let body = serde_json::json!({"error": {"code": status, "message": message}});
        Self { status, body: body.to_string().into_bytes() }
    }

    /// An answer with a JSON body of the embedder's own.
    ///
    /// # Errors
    /// When `body` cannot be JSON, such as a map whose keys are no strings.
    pub fn json(status: u16, body: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self { status: sound(status), body: serde_json::to_vec(body)? })
    }

    /// The status of the answer, from 400 to 599.
    pub fn status(&self) -> u16 {
        self.status
    }

    pub(crate) fn into_body(self) -> Vec<u8> {
        self.body
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

impl std::error::Error for Refusal {}

/// An answer that a client takes for a refusal.
fn sound(status: u16) -> u16 {
    if (400..=599).contains(&status) { status } else { 500 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http::{Event, Limits, Reader};

    fn seen(head: &str, look: impl FnOnce(&Upgrade<'_>)) {
        let mut bytes = head.replace('\n', "\r\n").into_bytes();
        let mut input = &mut bytes[..];
        let limits = Limits { head_bytes_max: 1_000, body_bytes_max: 0 };
        let mut reader = Reader::new();
        let Ok(Some(Event::Request(request))) = reader.feed(&mut input, &limits) else {
            panic!("a whole request");
        };
        look(&Upgrade::new(&request, &["chat"]));
    }

    #[test]
    fn a_factory_sees_all_that_tells_who_asks() {
        let head = "GET /chat?name=J%C3%B6+x&bad=%ff HTTP/1.1\nHost: h\nOrigin: https://a.org\n\
                    Cookie: a=1; session=s3; session=later\nCookie: b=\"2\"\n\n";
        seen(head, |upgrade| {
            assert_eq!((upgrade.path(), upgrade.host()), ("/chat", Some("h")));
            assert_eq!(upgrade.query(), Some("name=J%C3%B6+x&bad=%ff"));
            assert_eq!(upgrade.parameter("name"), Ok(Some("J\u{f6} x".into())));
            assert_eq!(upgrade.parameter("none"), Ok(None));
            assert_eq!(upgrade.parameter("bad").map_err(|refusal| refusal.status()), Err(400));
            assert_eq!(upgrade.origin(), Some("https://a.org"));
            assert_eq!(
                (upgrade.cookie("session"), upgrade.cookie("b")),
                (Some("s3"), Some("\"2\""))
            );
            assert_eq!((upgrade.cookie("sess"), upgrade.cookie("")), (None, None));
            assert_eq!(upgrade.headers("cookie").count(), 2);
            assert_eq!(upgrade.subprotocols(), ["chat"]);
        });
    }

    #[test]
    fn a_refusal_is_an_error_whatever_its_status_was() {
        let refusal = Refusal::new(401, "who are you?");
        let body = r#"{"error":{"code":401,"message":"who are you?"}}"#;
        assert_eq!(refusal.clone().into_body(), body.as_bytes());
        assert_eq!(refusal.to_string(), format!("401 {body}"));
        assert_eq!(Refusal::new(101, "no").status(), 500);
        let own = Refusal::json(403, &[1, 2]).expect("numbers are JSON");
        assert_eq!((own.status(), own.into_body()), (403, b"[1,2]".to_vec()));
    }
}
