//! A client of HTTP responses that do not end by themselves: lines, or server-sent events.

use std::collections::VecDeque;
use std::fmt::Write;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::http::{Connection, Response, request};

/// One event, or one line as its data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub id: Option<String>,
    pub name: Option<String>,
    pub data: String,
}

/// An open stream.
pub struct Stream {
    connection: Connection,
    pub head: Response,
    /// What came and is no whole line yet.
    rest: String,
    event: Event,
    events: VecDeque<Event>,
    /// What a client would say where it is.
    pub last_id: Option<String>,
    /// After how many milliseconds its client is to come back.
    pub retry_ms: Option<u32>,
    pub comments: u32,
    pub pings: u32,
    /// Of a bidirectional stream, from its connect reply.
    pub session: String,
    pub node: String,
}

impl Stream {
    /// The stream that answers a request.
    pub fn open(address: SocketAddr, request: &str) -> Self {
        let mut connection = Connection::open(address);
        connection.send(request.as_bytes());
        let head = connection.response();
        assert_eq!(head.status, 200, "{head:?}");
        assert_eq!(head.header("transfer-encoding"), Some("chunked"), "{head:?}");
        assert_eq!(head.header("cache-control"), Some("no-cache"), "{head:?}");
        assert_eq!(head.header("x-accel-buffering"), Some("no"), "{head:?}");
        Self {
            connection,
            head,
            rest: String::new(),
            event: Event::default(),
            events: VecDeque::new(),
            last_id: None,
            retry_ms: None,
            comments: 0,
            pings: 0,
            session: String::new(),
            node: String::new(),
        }
    }

    /// A connected session of a bidirectional transport: `sse`, `http_stream`, or `sse` by POST.
    pub fn connect(address: SocketAddr, transport: &str) -> Self {
        let command = r#"{"id":1,"connect":{}}"#;
        let mut stream = Self::open(address, &connect_request(transport, command));
        let reply = stream.json().expect("a connect reply");
        let text = |name: &str| reply["connect"][name].as_str().expect("text").to_owned();
        (stream.session, stream.node) = (text("session"), text("node"));
        stream
    }

    /// The shard of a bidirectional stream, by its session's name.
    pub fn shard(&self) -> &str {
        &self.session[..4]
    }

    /// The body of a request that speaks for this session.
    pub fn says(&self, commands: &str) -> String {
        json!({"session": self.session, "node": self.node, "data": commands}).to_string()
    }

    /// The next event or line that is no ping; `None` at the end, which is one in order.
    pub fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(event) = self.events.pop_front() {
                if event.data != "{}" || event.name.is_some() {
                    return Some(event);
                }
                self.pings += 1;
            }
            self.read()?;
        }
    }

    /// The next message as JSON.
    pub fn json(&mut self) -> Option<Value> {
        let event = self.next()?;
        Some(serde_json::from_str(&event.data).unwrap_or_else(|e| panic!("{e}: {event:?}")))
    }

    /// Reads until so many pings came.
    pub fn await_pings(&mut self, count: u32) {
        while self.pings < count {
            match self.events.pop_front() {
                Some(event) if event.data == "{}" => self.pings += 1,
                Some(event) => panic!("not a ping: {event:?}"),
                None => self.read().expect("the stream is open"),
            }
        }
    }

    /// Reads until it knows where it is.
    pub fn position(&mut self) -> String {
        while self.last_id.is_none() {
            self.read().expect("the stream is open");
        }
        self.last_id.clone().expect("it was just read")
    }

    /// Reads until so many comments came.
    pub fn await_comments(&mut self, count: u32) {
        while self.comments < count {
            self.read().expect("the stream is open");
        }
    }

    /// Reads to the end: what came before it.
    pub fn rest(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Sends bytes, which nobody asked for.
    pub fn send(&mut self, bytes: &[u8]) {
        self.connection.send(bytes);
    }

    /// Sends no more.
    pub fn finish(&mut self) {
        self.connection.finish();
    }

    /// Reads one chunk; `None` at the end of the response and of the connection.
    fn read(&mut self) -> Option<()> {
        let Some(chunk) = self.connection.chunk() else {
            assert!(self.connection.is_at_end(), "nothing follows the last chunk");
            assert_eq!(self.rest, "", "no line is cut off");
            return None;
        };
        self.rest.push_str(&chunk);
        while let Some((line, rest)) = self.rest.split_once('\n') {
            let (line, rest) = (line.trim_end_matches('\r').to_owned(), rest.to_owned());
            self.rest = rest;
            self.line(&line);
        }
        Some(())
    }

    fn line(&mut self, line: &str) {
        if self.head.header("content-type") != Some("text/event-stream") {
            self.events.push_back(Event { data: line.to_owned(), ..Event::default() });
            return;
        }
        match line.split_once(": ") {
            _ if line.is_empty() => {
                let event = std::mem::take(&mut self.event);
                self.last_id = event.id.clone().or(self.last_id.take());
                if !event.data.is_empty() {
                    self.events.push_back(event);
                }
            }
            _ if line.starts_with(':') => self.comments += 1,
            Some(("data", data)) => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(data);
            }
            Some(("event", name)) => self.event.name = Some(name.to_owned()),
            Some(("id", id)) => self.event.id = Some(id.to_owned()),
            Some(("retry", ms)) => self.retry_ms = ms.parse().ok(),
            _ => panic!("no line of an event stream: {line:?}"),
        }
    }
}

/// The request that opens a stream: `sse` and `uni_sse` by GET, `POST sse` and all others by POST.
pub fn connect_request(transport: &str, text: &str) -> String {
    match transport.strip_prefix("POST ") {
        Some(transport) => request("POST", &format!("/connection/{transport}"), "", text),
        None if transport.ends_with("sse") => {
            let target = format!("/connection/{transport}?cf_connect={}", percent_encoded(text));
            request("GET", &target, "", "")
        }
        None => request("POST", &format!("/connection/{transport}"), "", text),
    }
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(byte.into()),
            byte => write!(out, "%{byte:02X}").expect("a string takes all"),
        }
        out
    })
}
