//! A client of HTTP/1.1 over one plain connection: what it sends and reads is under its control.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::Value;

use super::DEADLINE;

/// One connection.
pub struct Connection {
    reader: BufReader<TcpStream>,
}

/// One answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header field, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// The body, which is declared to be JSON and is.
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(DEADLINE)).expect("a TCP socket");
        Self { reader: BufReader::new(stream) }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).expect("the server reads");
    }

    /// Sends to a server that may stop reading at any time.
    pub fn send_what_is_taken(&mut self, bytes: &[u8]) {
        let _ = self.reader.get_mut().write_all(bytes);
    }

    /// Sends no more.
    pub fn finish(&mut self) {
        self.reader.get_ref().shutdown(Shutdown::Write).expect("the connection is open");
    }

    /// Reads one answer with its body.
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// Reads the answer to a request of this method: to HEAD there is no body.
    pub fn response_to(&mut self, method: &str) -> Response {
        let status_line = self.line();
        let code = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = code.and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").expect("a header field");
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut response = Response { status, headers, body: Vec::new() };
        let length = response.header("content-length").map(|length| length.parse::<usize>());
        if let (Some(length), false) = (length, method == "HEAD") {
            response.body.resize(length.expect("a number"), 0);
            self.reader.read_exact(&mut response.body).expect("the whole body");
        }
        response
    }

    /// Reads one chunk of a chunked body; `None` is its end.
    pub fn chunk(&mut self) -> Option<String> {
        let size = usize::from_str_radix(&self.line(), 16).expect("the size of a chunk");
        let mut bytes = vec![0; size + 2];
        self.reader.read_exact(&mut bytes).expect("the whole chunk");
        assert!(bytes.ends_with(b"\r\n"), "a chunk ends in CRLF");
        bytes.truncate(size);
        (size > 0).then(|| String::from_utf8(bytes).expect("text"))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line of the head");
        let without_end = line.strip_suffix("\r\n");
        without_end.unwrap_or_else(|| panic!("the head ends in {line:?}")).to_owned()
    }

    /// Sends one request and reads its answer.
    pub fn request(&mut self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        self.send(request(method, path, headers, body).as_bytes());
        self.response_to(method)
    }

    /// Calls a method of the HTTP API; the parsed body of an answer 200.
    pub fn api(&mut self, key: &str, method: &str, body: &Value) -> Value {
        let headers = format!("X-API-Key: {key}\r\n");
        let path = format!("/api/{method}");
        let response = self.request("POST", &path, &headers, &body.to_string());
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    /// Whether nothing comes any more, and that is said by the end of the stream.
    pub fn is_at_end(&mut self) -> bool {
        match self.reader.fill_buf() {
            Ok(rest) => rest.is_empty(),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
            Err(error) => panic!("neither bytes nor an end: {error}"),
        }
    }
}

/// The bytes of a request; `headers` are whole lines.
pub fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: t\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
}
