//! A server of the watch protocol whose every byte the test decides, and a device that asks it.

// One test file compiles this for itself.
#![allow(unreachable_pub)]

use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use tiderace::watch::{Builder, CancelHandle, Client, Retry, Status, Stopped, Wake};

use crate::support::DEADLINE;

pub const TOKEN: &str = "tide-7f3a";
pub const WATCH: &str = "/internal/platform/v1/remote-sessions/watch";
pub const HEARTBEAT: &str = "/internal/platform/v1/remote-sessions/watch/heartbeat";
pub const DEVICE_INFO: &str = "/internal/platform/v1/device-info";

/// A request, and the connection on which it is to be answered.
pub struct Request {
    /// In the order in which they were opened, from 0.
    pub connection: usize,
    pub method: String,
    pub path: String,
    pub query: String,
    /// Lines of the header.
    pub fields: Vec<String>,
    pub body: String,
    socket: TcpStream,
}

impl Request {
    pub fn has_field(&self, line: &str) -> bool {
        self.fields.iter().any(|field| field == line)
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        // A client that has gone is seen by what it does next.
        let _ = self.socket.write_all(bytes.as_ref());
    }

    /// A complete response.
    pub fn answer(&mut self, status: u16, content_type: &str, body: &str) {
        self.write(format!(
            "HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
    }

    /// A complete response with the body of an error.
    pub fn refuse(&mut self, status: u16) {
        self.answer(status, "application/json", r#"{"error":"no","code":"NO"}"#);
    }

    /// The response to a heartbeat.
    pub fn ok(&mut self) {
        self.answer(200, "text/plain", "");
    }

    /// The head of a chunked stream, and its hello.
    pub fn hello(&mut self, lease: &str, interval_ms: u64) {
        self.write(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
        );
        self.chunk(hello(lease, interval_ms));
    }

    pub fn chunk(&mut self, text: impl Display) {
        let text = text.to_string();
        self.write(format!("{:x}\r\n{text}\r\n", text.len()));
    }

    /// The end of a chunked stream.
    pub fn end(&mut self) {
        self.write("0\r\n\r\n");
    }

    /// The end of the connection.
    pub fn close(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Whether the client has closed the connection.
    pub fn is_closed(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match recv(&self.socket, &mut [0_u8; 1], flags) {
            Ok((_, bytes)) => bytes == 0,
            Err(error) => error != rustix::io::Errno::AGAIN,
        }
    }

    /// Waits until the client has closed the connection.
    pub fn wait_closed(&mut self) {
        self.socket.set_read_timeout(Some(DEADLINE)).unwrap();
        // A reset is an end too.
        match self.socket.peek(&mut [0]) {
            Ok(bytes) => assert_eq!(bytes, 0, "the client sends more"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

/// The event `hello`.
pub fn hello(lease: &str, interval_ms: u64) -> String {
    format!(
        "event: hello\ndata: {{\"watchLeaseId\":\"{lease}\",\"deviceWaitForViewerMs\":300000,\
         \"heartbeatIntervalMs\":{interval_ms}}}\n\n"
    )
}

/// The event `wake`.
pub fn wake(session: &str) -> String {
    format!(
        "event: wake\ndata: {{\"remoteAccessSessionId\":\"{session}\",\"url\":\"wss://room\",\
         \"token\":\"room-token\"}}\n\n"
    )
}

/// Listens on a free port and hands over every request.
pub struct Server {
    pub address: SocketAddr,
    requests: Receiver<Request>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = channel();
        // Both kinds of threads end with the test's process, or when nobody takes their requests.
        thread::spawn(move || {
            for (connection, socket) in listener.incoming().enumerate() {
                let sender = sender.clone();
                let socket = socket.unwrap();
                thread::spawn(move || serve(connection, &socket, &sender));
            }
        });
        Self { address, requests }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next request of any kind.
    pub fn next(&self) -> Request {
        self.requests.recv_timeout(DEADLINE).expect("a request comes")
    }

    /// The next request, which must be a watch.
    pub fn watch(&self) -> Request {
        let request = self.next();
        assert_eq!((&*request.method, &*request.path), ("GET", WATCH));
        assert!(request.query.starts_with("protocolVersion=2.3.0"), "{}", request.query);
        request
    }

    /// The next request, which must be a heartbeat of `lease`.
    pub fn heartbeat(&self, lease: &str) -> Request {
        let request = self.next();
        assert_eq!((&*request.method, &*request.path), ("POST", HEARTBEAT));
        assert_eq!(request.body, format!(r#"{{"watchLeaseId":"{lease}"}}"#));
        request
    }

    /// Answers the request for the device's description, which must be the next one.
    pub fn introduce(&self) {
        let mut request = self.next();
        assert_eq!((&*request.method, &*request.path), ("GET", DEVICE_INFO));
        request.answer(200, "application/json", r#"{"id":"d","name":"n","projectId":"p"}"#);
    }
}

fn serve(connection: usize, socket: &TcpStream, requests: &Sender<Request>) {
    let mut reader = BufReader::new(socket);
    while let Some(head) = head(&mut reader) {
        let mut words = head[0].split(' ').map(str::to_owned);
        let method = words.next().unwrap();
        let target = words.next().unwrap();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let fields = head[1..].to_vec();
        let length = fields.iter().find_map(|field| field.strip_prefix("Content-Length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let request = Request {
            connection,
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            fields,
            body: String::from_utf8(body).unwrap(),
            socket: socket.try_clone().unwrap(),
        };
        if requests.send(request).is_err() {
            return;
        }
    }
}

/// The lines of the next head; `None` at the end of the connection.
fn head(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(1..) if line == "\r\n" => return Some(lines),
            Ok(1..) => lines.push(line.trim_end().to_owned()),
            _ => return None,
        }
    }
}

/// What a device said of itself, in order.
#[derive(Debug, PartialEq)]
pub enum Said {
    Status(Status),
    Retry(Retry),
    Wake(Wake),
    Stopped(Stopped),
}

/// A device that watches for ever, on a thread of its own.
pub struct Device {
    pub cancel: CancelHandle,
    said: Receiver<Said>,
}

impl Device {
    pub fn start(server: &Server) -> Self {
        Self::build(Client::builder(server.url(), TOKEN))
    }

    pub fn build(builder: Builder) -> Self {
        let (sender, said) = channel();
        let (statuses, retries) = (sender.clone(), sender.clone());
        // The test may be over before the device is.
        let mut client = builder
            .on_status(move |status| drop(statuses.send(Said::Status(status))))
            .on_retry(move |retry| drop(retries.send(Said::Retry(retry.clone()))))
            .build()
            .unwrap();
        let cancel = client.cancel_handle();
        thread::spawn(move || {
            loop {
                match client.next_wake_blocking() {
                    Ok(wake) => drop(sender.send(Said::Wake(wake))),
                    Err(stopped) => return sender.send(Said::Stopped(stopped)),
                }
            }
        });
        Self { cancel, said }
    }

    pub fn next(&self) -> Said {
        self.said.recv_timeout(DEADLINE).expect("the device says something")
    }

    pub fn expect(&self, statuses: &[Status]) {
        for status in statuses {
            assert_eq!(self.next(), Said::Status(*status));
        }
    }

    /// It tries again after so long, for a reason with this in it.
    pub fn expect_retry(&self, after: Duration, reason: &str) {
        let said = self.next();
        let Said::Retry(retry) = &said else { panic!("{said:?} instead of {reason}") };
        assert_eq!(retry.after, after, "{}", retry.reason);
        assert!(retry.reason.contains(reason), "{}", retry.reason);
    }

    pub fn expect_wake(&self, session: &str) {
        let said = self.next();
        let Said::Wake(wake) = &said else { panic!("{said:?} instead of a wake") };
        assert_eq!(wake.session_id.as_deref(), Some(session));
        assert_eq!((&*wake.url, &*wake.token), ("wss://room", "room-token"));
        assert_eq!(wake.device_wait, Duration::from_secs(300));
    }

    /// It ends in order, and nothing else happens before.
    pub fn expect_stopped(&self, stopped: Stopped) {
        self.expect(&[Status::ShuttingDown, Status::Shutdown]);
        assert_eq!(self.next(), Said::Stopped(stopped));
    }

    pub fn cancel(&self) {
        self.cancel.cancel();
        self.expect_stopped(Stopped::Cancelled);
    }
}
