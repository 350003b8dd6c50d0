//! Clients of WebSocket: one that speaks the Centrifuge protocol, one that sends any bytes at all.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderName;
use tungstenite::{Message, WebSocket};

use super::{DEADLINE, http};

pub const PATH: &str = "/connection/websocket";

fn stream(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("a TCP socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("a TCP socket");
    stream
}

/// A session of the Centrifuge protocol over tungstenite. Answers the server's pings.
pub struct Client {
    socket: WebSocket<TcpStream>,
    lines: VecDeque<Value>,
    /// Pushes that came while a reply was awaited.
    pushes: VecDeque<Value>,
    last_id: u32,
    pub pings: u32,
    pub answers_pings: bool,
}

impl Client {
    /// A WebSocket connection on which nothing was said.
    pub fn open(address: SocketAddr) -> Self {
        Self::open_with(address, &[])
    }

    /// The same with headers in the request.
    pub fn open_with(address: SocketAddr, headers: &[(&str, &str)]) -> Self {
        let url = format!("ws://{address}{PATH}");
        let mut request = url.into_client_request().expect("a URL");
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            request.headers_mut().append(name, value.parse().expect("a value"));
        }
        let (socket, _) = tungstenite::client(request, stream(address)).expect("it is upgraded");
        Self {
            socket,
            lines: VecDeque::new(),
            pushes: VecDeque::new(),
            last_id: 0,
            pings: 0,
            answers_pings: true,
        }
    }

    /// A connected session without a token.
    pub fn connect(address: SocketAddr) -> Self {
        let mut client = Self::open(address);
        let reply = client.command(&json!({"connect": {}}));
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        client
    }

    /// A connected session with a token, and its client id.
    pub fn connect_as(address: SocketAddr, token: &str) -> (Self, String) {
        let mut client = Self::open(address);
        let reply = client.command(&json!({"connect": {"token": token, "name": "test"}}));
        let id = reply["connect"]["client"].as_str().unwrap_or_else(|| panic!("{reply}"));
        let id = id.to_owned();
        (client, id)
    }

    pub fn subscribed(address: SocketAddr, channel: &str) -> Self {
        let mut client = Self::connect(address);
        client.subscribe(channel);
        client
    }

    pub fn subscribe(&mut self, channel: &str) {
        let reply = self.command(&json!({"subscribe": {"channel": channel}}));
        assert_eq!(reply["subscribe"], json!({}), "{reply}");
    }

    /// Subscribes, whatever else the reply says.
    pub fn subscribe_any(&mut self, channel: &str) {
        let reply = self.command(&json!({"subscribe": {"channel": channel}}));
        assert!(reply["subscribe"].is_object(), "{reply}");
    }

    pub fn publish(&mut self, channel: &str, data: &Value) {
        let reply = self.command(&json!({"publish": {"channel": channel, "data": data}}));
        assert_eq!(reply["publish"], json!({}), "{reply}");
    }

    /// Sends a command with the next id and waits for its reply.
    pub fn command(&mut self, command: &Value) -> Value {
        let id = self.send_command(command);
        self.reply(id)
    }

    /// Sends a command with the next id.
    pub fn send_command(&mut self, command: &Value) -> u32 {
        self.last_id += 1;
        let mut command = command.clone();
        command["id"] = self.last_id.into();
        self.send(&command.to_string());
        self.last_id
    }

    /// The reply to a command; pushes that come before it are kept.
    pub fn reply(&mut self, id: u32) -> Value {
        loop {
            let line = self.line();
            if line["id"] == id {
                return line;
            }
            assert!(line["push"].is_object(), "expected reply {id} or a push: {line}");
            self.pushes.push_back(line["push"].clone());
        }
    }

    /// The error code of the reply to a command.
    pub fn error_of(&mut self, command: &Value) -> u64 {
        let reply = self.command(command);
        reply["error"]["code"].as_u64().unwrap_or_else(|| panic!("no error: {reply}"))
    }

    /// Whether the server answers the connect command, rather than close.
    pub fn connects(&mut self) -> bool {
        matches!(self.socket.read().expect("an answer"), Message::Text(_))
    }

    /// The next push, whatever it is.
    pub fn push(&mut self) -> Value {
        self.pushes.pop_front().unwrap_or_else(|| {
            let mut line = self.line();
            assert!(line["push"].is_object(), "expected a push: {line}");
            line["push"].take()
        })
    }

    /// The next publication: its channel and its fields.
    pub fn publication(&mut self) -> (String, Value) {
        let mut push = self.push();
        let channel = push["channel"].as_str().expect("a channel").to_owned();
        assert!(push["pub"].is_object(), "{push}");
        (channel, push["pub"].take())
    }

    /// The next publication's data.
    pub fn data(&mut self) -> Value {
        self.publication().1["data"].take()
    }

    pub fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).expect("the connection is open");
    }

    /// The next line that is no ping.
    pub fn line(&mut self) -> Value {
        loop {
            if let Some(line) = self.lines.pop_front() {
                if line != json!({}) {
                    return line;
                }
                self.ping();
            } else {
                let text = match self.socket.read().expect("a message") {
                    Message::Text(text) => text,
                    other => panic!("not a text message: {other:?}"),
                };
                let line = |line| serde_json::from_str(line).expect("a line of JSON");
                self.lines.extend(text.lines().map(line));
            }
        }
    }

    /// Reads until the server has sent so many pings in all.
    pub fn await_pings(&mut self, pings: u32) {
        while self.pings < pings {
            let message = self.socket.read().expect("a ping");
            assert_eq!(message, Message::text("{}"));
            self.ping();
        }
    }

    fn ping(&mut self) {
        self.pings += 1;
        if self.answers_pings {
            self.send("{}");
        }
    }

    /// The reply to a command, or the code with which the server closes instead.
    pub fn reply_or_close(&mut self, id: u32) -> Result<Value, u64> {
        loop {
            match self.socket.read().expect("a message") {
                Message::Text(text) => {
                    for line in text.lines() {
                        let line: Value = serde_json::from_str(line).expect("a line of JSON");
                        if line["id"] == id {
                            return Ok(line);
                        }
                    }
                }
                Message::Close(Some(close)) => return Err(u16::from(close.code).into()),
                other => panic!("neither a reply nor a close with a code: {other:?}"),
            }
        }
    }

    /// Reads until the server closes: the code and the reason. Then the stream must end.
    pub fn closed(&mut self) -> (u16, String) {
        let closed = loop {
            match self.socket.read() {
                Ok(Message::Close(Some(close))) => {
                    break (close.code.into(), close.reason.to_string());
                }
                Ok(Message::Text(_)) => {}
                other => panic!("not a close with a code: {other:?}"),
            }
        };
        // Sends the echo, then reads to the end.
        let end = self.socket.read();
        assert!(matches!(end, Err(tungstenite::Error::ConnectionClosed)), "{end:?}");
        closed
    }

    /// Reads until the server's close frame without answering it, and gives the open stream.
    pub fn closed_unanswered(mut self) -> (u16, TcpStream) {
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(close))) => {
                    let stream = self.socket.get_ref().try_clone().expect("a descriptor is left");
                    // Dropped unflushed: tungstenite sends its echo with the next read or flush.
                    return (close.code.into(), stream);
                }
                Ok(Message::Text(_)) => {}
                other => panic!("not a close with a code: {other:?}"),
            }
        }
    }

    /// Says goodbye and waits until the server has said it too.
    pub fn close(mut self) {
        self.socket.close(None).expect("the connection is open");
        loop {
            match self.socket.read() {
                Ok(_) => {}
                Err(tungstenite::Error::ConnectionClosed) => return,
                Err(error) => panic!("the server did not answer the close: {error}"),
            }
        }
    }

    pub fn stream(&self) -> &TcpStream {
        self.socket.get_ref()
    }
}

/// What the server sent in one frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
pub const FIN: u8 = 0x80;

/// A connection that sends whatever bytes it is told to.
pub struct Raw {
    pub stream: TcpStream,
}

/// The bytes of a request for an upgrade; `headers` are whole lines.
pub fn upgrade(headers: &str) -> String {
    upgrade_at(PATH, headers)
}

/// The same to another endpoint.
pub fn upgrade_at(path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// The answer to such a request on a connection of its own.
pub fn upgrade_response(address: SocketAddr, headers: &str) -> http::Response {
    let mut connection = http::Connection::open(address);
    connection.send(upgrade(headers).as_bytes());
    connection.response()
}

/// The bytes of a masked frame; `first` is the opcode with [`FIN`] or without.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((medium as u16).to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

impl Raw {
    /// A connection on which nothing was sent.
    pub fn tcp(address: SocketAddr) -> Self {
        Self { stream: stream(address) }
    }

    /// An upgraded connection.
    pub fn open(address: SocketAddr) -> Self {
        Self::open_at(address, PATH)
    }

    /// An upgraded connection to another endpoint.
    pub fn open_at(address: SocketAddr, path: &str) -> Self {
        let mut raw = Self::tcp(address);
        raw.send(upgrade_at(path, "").as_bytes());
        raw.switched();
        raw
    }

    /// An upgraded connection whose session is connected.
    pub fn connect(address: SocketAddr) -> Self {
        let mut raw = Self::open(address);
        raw.send(&frame(FIN | TEXT, br#"{"id":1,"connect":{}}"#));
        let reply = raw.text();
        assert!(reply.starts_with(r#"{"id":1,"connect":{"#), "{reply}");
        raw
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Reads the head of the answer 101, and not a byte behind it.
    pub fn switched(&mut self) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("the head of an answer");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("ASCII");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455 section 1.3: {head}");
    }

    /// The next frame, or `None` at the end of the stream.
    pub fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 2];
        match self.stream.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
            read => read.expect("a frame or the end"),
        }
        assert_eq!(head[0] & 0xf0, FIN, "whole frames without extensions");
        let mut length = u64::from(head[1]);
        assert!(length < 128, "a server does not mask");
        if length >= 126 {
            let width = if length == 126 { 2 } else { 8 };
            let mut bytes = [0; 8];
            self.stream.read_exact(&mut bytes[8 - width..]).expect("a length");
            length = u64::from_be_bytes(bytes);
        }
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).expect("a payload");
        Some(Frame { opcode: head[0] & 0x0f, payload })
    }

    /// The next frame, a text that is no ping of the session.
    pub fn text(&mut self) -> String {
        loop {
            let frame = self.frame().expect("a text");
            assert_eq!(frame.opcode, TEXT, "{frame:?}");
            if frame.payload != b"{}" {
                return String::from_utf8(frame.payload).expect("UTF-8");
            }
            self.send(&super::websocket::frame(FIN | TEXT, b"{}"));
        }
    }

    /// The code of the close frame that must come next, with the end of the stream behind it.
    pub fn closed(&mut self) -> u16 {
        let frame = self.frame().expect("a close frame");
        assert_eq!(frame.opcode, CLOSE, "{frame:?}");
        assert_eq!(self.frame(), None, "nothing follows a close frame");
        u16::from_be_bytes(frame.payload[..2].try_into().expect("a code"))
    }
}
