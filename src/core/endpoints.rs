//! Where the transports are, and what a request asks of those beside WebSocket.
//!
//! Pages of other origins may use them as `allowed_origins` says (Fetch standard, section 3.2): what
//! they may not use they are refused, not merely kept from reading.

use serde_json::json;

use crate::{
    api::error_response,
    auth::origin,
    codec::{
        http::{Request, decode, parameter},
        transport::Transport,
    },
    protocol::{centrifuge::is_connect_request, emulation::EmulationRequest},
};

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The exact path; of events, what stands before the channel.
    pub path: String,
    /// Bytes of one request body, or of one WebSocket message.
    pub body_bytes_max: usize,
}

/// The endpoints of all transports; `None` where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Bidirectional WebSocket.
    pub websocket: Option<Endpoint>,
    /// Bidirectional server-sent events.
    pub sse: Option<Endpoint>,
    /// Bidirectional HTTP streaming.
    pub http_stream: Option<Endpoint>,
    /// What clients of these two say.
    pub emulation: Option<Endpoint>,
    /// Unidirectional WebSocket.
    pub uni_websocket: Option<Endpoint>,
    /// Unidirectional server-sent events.
    pub uni_sse: Option<Endpoint>,
    /// Unidirectional HTTP streaming.
    pub uni_http_stream: Option<Endpoint>,
    /// The payloads of one channel as server-sent events.
    pub events: Option<Endpoint>,
}

impl Endpoints {
    /// The WebSocket endpoint at a path, and whether it is unidirectional.
    pub(super) fn websocket_at(&self, path: &str) -> Option<bool> {
        let is_it = |endpoint: &Option<Endpoint>| {
            endpoint.as_ref().is_some_and(|endpoint| endpoint.path == path)
        };
        (is_it(&self.websocket) || is_it(&self.uni_websocket)).then(|| !is_it(&self.websocket))
    }

    /// Bytes of one message of a WebSocket client.
    pub(super) fn message_bytes_max(&self, unidirectional: bool) -> usize {
        let endpoint = if unidirectional { &self.uni_websocket } else { &self.websocket };
        endpoint.as_ref().map_or(0, |endpoint| endpoint.body_bytes_max)
    }

    fn find(&self, path: &str) -> Option<(Kind, &Endpoint)> {
        let streams = [
            (&self.sse, Transport::Sse),
            (&self.http_stream, Transport::HttpStream),
            (&self.uni_sse, Transport::UniSse),
            (&self.uni_http_stream, Transport::UniHttpStream),
        ];
        let is_it = |endpoint: &&Endpoint| endpoint.path == path;
        for (endpoint, transport) in streams {
            if let Some(endpoint) = endpoint.as_ref().filter(is_it) {
                return Some((Kind::Stream(transport), endpoint));
            }
        }
        if let Some(endpoint) = self.emulation.as_ref().filter(is_it) {
            return Some((Kind::Emulation, endpoint));
        }
        let of_channel = |endpoint: &&Endpoint| {
            path.strip_prefix(&*endpoint.path).is_some_and(|channel| !channel.is_empty())
        };
        let events = self.events.as_ref().filter(of_channel)?;
        Some((Kind::Stream(Transport::Events), events))
    }

    /// What a request asks of these endpoints, if it is for one; the WebSocket among them is no
    /// request like the others.
    pub(super) fn asked(&self, request: &Request<'_>, allowed: &[String]) -> Option<Asked> {
        let (kind, endpoint) = self.find(request.path)?;
        let origin = request.header("origin");
        let (head, keep_alive) = (request.method == "HEAD", request.keep_alive);
        let refused = |Refusal(status, methods, message): Refusal, mut headers: Headers| {
            if !methods.is_empty() {
                headers.push(("Allow", format!("{methods}, OPTIONS")));
            }
            let body = error_response(status, &message);
            Asked::Answer(Answer { status, headers, body, head, keep_alive })
        };
        if !origin::is_allowed(origin, request.host(), allowed) {
            let refusal = Refusal(403, "", "the origin is not allowed".into());
            return Some(refused(refusal, Vec::new()));
        }
        let cors = cors(request);
        let methods = kind.methods();
        if request.method == "OPTIONS" {
            let mut headers = cors;
            headers.push(("Access-Control-Allow-Methods", format!("{methods}, OPTIONS")));
            headers.push(("Access-Control-Max-Age", "300".to_owned()));
            let (status, body) = (204, Vec::new());
            return Some(Asked::Answer(Answer { status, headers, body, head, keep_alive }));
        }
        let asked = match kind {
            Kind::Emulation => emulation(request, endpoint).map(|request| {
                Asked::Emulate(Emulate { request, headers: cors.clone(), keep_alive })
            }),
            Kind::Stream(transport) => {
                stream(request, endpoint, transport).map(|(text, channel)| {
                    Asked::Open(Open { transport, text, channel, headers: cors.clone() })
                })
            }
        };
        Some(asked.unwrap_or_else(|refusal| refused(refusal, cors)))
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Stream(Transport),
    Emulation,
}

impl Kind {
    fn methods(self) -> &'static str {
        match self {
            Self::Stream(Transport::Sse | Transport::UniSse) => "GET, POST",
            Self::Stream(Transport::Events) => "GET",
            Self::Stream(_) | Self::Emulation => "POST",
        }
    }
}

/// Headers of an answer beyond those that every answer has.
pub(super) type Headers = Vec<(&'static str, String)>;

/// What a request asks for; holds nothing of the request's bytes.
pub(super) enum Asked {
    Open(Open),
    Emulate(Emulate),
    Answer(Answer),
}

/// A stream that is to be.
pub(super) struct Open {
    pub(super) transport: Transport,
    /// What its client says: commands, or the connect request.
    pub(super) text: String,
    /// What it is about, if that is one channel.
    pub(super) channel: Option<String>,
    pub(super) headers: Headers,
}

/// What a client of a stream says beside it.
pub(super) struct Emulate {
    pub(super) request: EmulationRequest,
    pub(super) headers: Headers,
    pub(super) keep_alive: bool,
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Headers,
    pub(super) body: Vec<u8>,
    /// The headers alone are sent (RFC 9110 section 9.3.2).
    pub(super) head: bool,
    pub(super) keep_alive: bool,
}

/// Status, the methods that are allowed, and what is wrong in the terms of the sender.
struct Refusal(u16, &'static str, String);

fn bad(message: &str) -> Refusal {
    Refusal(400, "", message.to_owned())
}

/// Lets a page whose origin is allowed read the answer.
fn cors(request: &Request<'_>) -> Headers {
    let text = |name| request.header(name).and_then(|value| str::from_utf8(value).ok());
    let Some(origin) = text("origin") else { return Vec::new() };
    let mut headers = vec![
        ("Access-Control-Allow-Origin", origin.to_owned()),
        ("Access-Control-Allow-Credentials", "true".to_owned()),
        ("Vary", "Origin".to_owned()),
    ];
    if let Some(wanted) = text("access-control-request-headers").filter(|wanted| !wanted.is_empty())
    {
        headers.push(("Access-Control-Allow-Headers", wanted.to_owned()));
    }
    headers
}

/// Whether a query asks for Protobuf, as clients of a WebSocket do that offer no subprotocol
/// (centrifuge `handler_websocket.go`).
pub(super) fn asks_for_protobuf(query: Option<&str>) -> bool {
    ["cf_protocol", "format"]
        .iter()
        .any(|name| parameter(query, name).is_ok_and(|value| value.as_deref() == Some("protobuf")))
}

/// Refuses who asks for Protobuf by the query.
fn check_format(request: &Request<'_>) -> Result<(), Refusal> {
    match asks_for_protobuf(request.query) {
        true => Err(bad("Protobuf is not spoken here, only JSON")),
        false => Ok(()),
    }
}

/// The body of a request that may have one.
fn body<'a>(request: &Request<'a>, endpoint: &Endpoint) -> Result<&'a str, Refusal> {
    if request.body.len() > endpoint.body_bytes_max {
        return Err(Refusal(413, "", "request body too large".into()));
    }
    if request.header_has_token("content-type", "application/octet-stream") {
        return Err(Refusal(415, "", "Protobuf is not spoken here, only JSON".into()));
    }
    str::from_utf8(request.body).map_err(|_| bad("the body is not UTF-8"))
}

fn emulation(request: &Request<'_>, endpoint: &Endpoint) -> Result<EmulationRequest, Refusal> {
    if request.method != "POST" {
        return Err(Refusal(405, "POST", "method not allowed".into()));
    }
    check_format(request)?;
    let body = body(request, endpoint)?;
    EmulationRequest::parse(body.as_bytes()).map_err(|message| bad(&message))
}

/// What the client of a stream says with its request, and the one channel that it is about.
fn stream(
    request: &Request<'_>,
    endpoint: &Endpoint,
    transport: Transport,
) -> Result<(String, Option<String>), Refusal> {
    let methods = Kind::Stream(transport).methods();
    let allowed = methods.split(", ").any(|method| method == request.method);
    if !allowed {
        return Err(Refusal(405, methods, "method not allowed".into()));
    }
    if request.version == 0 {
        return Err(Refusal(505, "", "a stream needs the chunked coding of HTTP/1.1".into()));
    }
    if transport == Transport::Events {
        return of_channel(request, endpoint);
    }
    check_format(request)?;
    let text = match request.method {
        "POST" => body(request, endpoint)?.to_owned(),
        _ => match parameter(request.query, "cf_connect").map_err(bad)? {
            Some(text) => text,
            None if transport.is_unidirectional() => "{}".to_owned(),
            None => return Err(bad("the parameter cf_connect is missing")),
        },
    };
    if transport.is_unidirectional() && !is_connect_request(&text) {
        return Err(bad(
            "the connect request is not an object of token, data, name, version, subs",
        ));
    }
    Ok((text, None))
}

/// The connect request of who asked for a channel by its path, with the parameter `token` or
/// `Authorization: Bearer`. A bare `EventSource` that comes back says where it was by itself
/// (HTML Living Standard, section 9.2.4); what comes back as a page does, by `last_event_id`.
fn of_channel(
    request: &Request<'_>,
    endpoint: &Endpoint,
) -> Result<(String, Option<String>), Refusal> {
    let channel = &request.path[endpoint.path.len()..];
    let channel = decode(channel).ok_or_else(|| bad("the channel is not percent-encoded UTF-8"))?;
    let given = parameter(request.query, "token").map_err(bad)?;
    let bearer = || {
        let text = str::from_utf8(request.header("authorization")?).ok()?;
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    };
    let token = given.or_else(bearer).unwrap_or_default();
    let header = request.header("last-event-id").and_then(|id| str::from_utf8(id).ok());
    let last = match header {
        Some(id) => Some(id.to_owned()),
        None => parameter(request.query, "last_event_id").map_err(bad)?,
    };
    let subscription = match last.as_deref().and_then(position) {
        None => json!({ "recoverable": true }),
        Some((epoch, offset)) => {
            json!({ "recoverable": true, "recover": true, "epoch": epoch, "offset": offset })
        }
    };
    let text = json!({ "token": token, "subs": { &channel: subscription } }).to_string();
    Ok((text, Some(channel)))
}

/// The position that an event's id names. An id that is not ours is nothing to recover from: its
/// client would come back with it for ever.
fn position(id: &str) -> Option<(&str, u64)> {
    let (epoch, offset) = id.rsplit_once(':')?;
    Some((epoch, offset.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http::{Event, Limits, Reader};

    fn endpoints() -> Endpoints {
        let at = |path: &str| Some(Endpoint { path: path.to_owned(), body_bytes_max: 65_536 });
        Endpoints {
            websocket: at("/connection/websocket"),
            sse: at("/connection/sse"),
            http_stream: at("/connection/http_stream"),
            emulation: at("/emulation"),
            uni_websocket: at("/connection/uni_websocket"),
            uni_sse: at("/connection/uni_sse"),
            uni_http_stream: at("/connection/uni_http_stream"),
            events: at("/events/"),
        }
    }

    /// What an endpoint makes of a request, in short.
    fn asked(request: &str) -> Option<String> {
        let mut bytes = request.replace('\n', "\r\n").into_bytes();
        let mut input = &mut bytes[..];
        let limits = Limits { head_bytes_max: 4096, body_bytes_max: 100_000 };
        let mut reader = Reader::new();
        let Ok(Some(Event::Request(request))) = reader.feed(&mut input, &limits) else {
            panic!("not a request: {request:?}")
        };
        let allowed = ["https://a.org".to_owned()];
        let text = |headers: &Headers| -> String {
            headers.iter().map(|(name, value)| format!(" {name}={value}")).collect()
        };
        Some(match endpoints().asked(&request, &allowed)? {
            Asked::Open(open) => {
                format!("{} {}{}", open.transport.name(), open.text, text(&open.headers))
            }
            Asked::Emulate(emulate) => format!("emulate {}", emulate.request.data),
            Asked::Answer(answer) => format!("{}{}", answer.status, text(&answer.headers)),
        })
    }

    fn get(target: &str) -> Option<String> {
        asked(&format!("GET {target} HTTP/1.1\nHost: t\n\n"))
    }

    fn post(target: &str, body: &str) -> Option<String> {
        let length = body.len();
        asked(&format!("POST {target} HTTP/1.1\nHost: t\nContent-Length: {length}\n\n{body}"))
    }

    #[test]
    fn the_connect_request_is_where_the_method_has_room_for_it() {
        assert_eq!(get("/connection/sse?cf_connect=%7B%7D").as_deref(), Some("sse {}"));
        assert_eq!(get("/connection/sse").as_deref(), Some("400"));
        assert_eq!(post("/connection/sse", "{}").as_deref(), Some("sse {}"));
        assert_eq!(post("/connection/http_stream", "{}").as_deref(), Some("http_stream {}"));
        assert_eq!(get("/connection/uni_sse").as_deref(), Some("uni_sse {}"));
        let told = get("/connection/uni_sse?cf_connect={%22token%22:%22t%22}");
        assert_eq!(told.as_deref(), Some(r#"uni_sse {"token":"t"}"#));
        assert_eq!(post("/connection/uni_http_stream", "").as_deref(), Some("400"));
        assert_eq!(post("/connection/uni_http_stream", "[]").as_deref(), Some("400"));
        assert_eq!(post("/emulation", r#"{"data":"{}"}"#).as_deref(), Some("emulate {}"));
        assert_eq!(post("/emulation", r#"{"data":{}}"#).as_deref(), Some("400"));
        assert_eq!(post("/emulation", &" ".repeat(65_537)).as_deref(), Some("413"));
        assert_eq!(get("/connection/websocket"), None);
        let websockets = ["/connection/websocket", "/connection/uni_websocket", "/"];
        let found = websockets.map(|path| endpoints().websocket_at(path));
        assert_eq!(found, [Some(false), Some(true), None]);
        assert_eq!(get("/connection/sse/"), None);
    }

    #[test]
    fn a_channel_is_named_by_its_path() {
        let wanted = r#"events {"token":"t","subs":{"a b/c":{"recoverable":true}}}"#;
        assert_eq!(get("/events/a%20b/c?token=t").as_deref(), Some(wanted));
        let bearer = "GET /events/a%20b/c HTTP/1.1\nHost: t\nAuthorization: bearer t\n\n";
        assert_eq!(asked(bearer).as_deref(), Some(wanted));
        let anonymous = r#"events {"token":"","subs":{"c":{"recoverable":true}}}"#;
        assert_eq!(get("/events/c").as_deref(), Some(anonymous));
        let recovering = concat!(
            r#"events {"token":"","subs":{"c":{"recoverable":true,"recover":true,"#,
            r#""epoch":"e:1","offset":7}}}"#
        );
        assert_eq!(get("/events/c?last_event_id=e:1:7").as_deref(), Some(recovering));
        let returning =
            |id: &str| asked(&format!("GET /events/c HTTP/1.1\nHost: t\nLast-Event-ID: {id}\n\n"));
        assert_eq!(returning("e:1:7").as_deref(), Some(recovering));
        assert_eq!(returning("e:-7").as_deref(), Some(anonymous), "not an id of ours");
        assert_eq!(get("/events/%ff").as_deref(), Some("400"));
        assert_eq!(get("/events/"), None);
    }

    #[test]
    fn methods_versions_and_types_that_are_not_spoken_are_refused() {
        let refused = |line: &str, headers: &str| {
            asked(&format!("{line}\nHost: t\n{headers}\n")).expect("an endpoint")
        };
        let allow = |methods: &str| format!("405 Allow={methods}, OPTIONS");
        assert_eq!(refused("PUT /connection/sse HTTP/1.1", ""), allow("GET, POST"));
        assert_eq!(refused("HEAD /connection/uni_sse HTTP/1.1", ""), allow("GET, POST"));
        assert_eq!(refused("GET /connection/http_stream HTTP/1.1", ""), allow("POST"));
        assert_eq!(refused("GET /emulation HTTP/1.1", ""), allow("POST"));
        assert_eq!(refused("HEAD /events/c HTTP/1.1", ""), allow("GET"));
        assert_eq!(refused("GET /events/c HTTP/1.0", ""), "505");
        let octets = "Content-Type: application/octet-stream\n";
        for path in ["connection/http_stream", "connection/sse", "connection/uni_sse", "emulation"]
        {
            assert_eq!(refused(&format!("POST /{path} HTTP/1.1"), octets), "415");
            for asked in ["cf_protocol=protobuf", "cf_connect=%7B%7D&format=protobuf"] {
                assert_eq!(refused(&format!("POST /{path}?{asked} HTTP/1.1"), ""), "400");
            }
        }
        assert_eq!(get("/connection/sse?cf_connect={}&format=protobuf").as_deref(), Some("400"));
        assert!(get("/connection/sse?cf_connect={}&format=json").is_some_and(|it| it != "400"));
    }

    #[test]
    fn pages_of_allowed_origins_may_read_and_others_are_refused() {
        let from = |method: &str, origin: &str| {
            let wanted = "Access-Control-Request-Headers: content-type\n";
            asked(&format!("{method} /events/c HTTP/1.1\nHost: t\nOrigin: {origin}\n{wanted}\n"))
                .expect("an endpoint")
        };
        let readable = " Access-Control-Allow-Origin=https://a.org \
            Access-Control-Allow-Credentials=true Vary=Origin \
            Access-Control-Allow-Headers=content-type";
        assert_eq!(from("GET", "https://b.org"), "403");
        assert_eq!(from("OPTIONS", "https://b.org"), "403");
        assert!(from("GET", "https://a.org").ends_with(readable));
        assert_eq!(
            from("OPTIONS", "https://a.org"),
            format!(
                "204{readable} Access-Control-Allow-Methods=GET, OPTIONS Access-Control-Max-Age=300"
            )
        );
        assert_eq!(from("PUT", "https://a.org"), format!("405{readable} Allow=GET, OPTIONS"));
    }
}
