//! Agents as processes of their own, and what a server says of their devices.

use std::io::BufReader;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tiderace::auth::tokens::sign_connection;

use super::{DEADLINE, Server, http::Connection};

pub const SECRET: &str = "device secret";
const WATCH: &str = "/internal/platform/v1/remote-sessions/watch";

/// The shortest leases that the configuration permits: 3 s, with heartbeats each second.
pub const BRISK: &[(&str, &str)] =
    &[("TIDERACE_WATCH_HEARTBEAT_INTERVAL", "1s"), ("TIDERACE_WATCH_LEASE_TTL", "3s")];

/// What lets a server know devices by tokens that are signed with [`SECRET`]; and `more`.
pub fn environment(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let own = [
        ("TIDERACE_WATCH_ENABLED", "true"),
        ("TIDERACE_WATCH_TOKEN_HMAC_SECRET_KEY", SECRET),
        ("TIDERACE_HTTP_API_KEY", "key"),
    ];
    [&own[..], more].concat()
}

/// A server of two shards that knows devices by signed tokens.
pub fn server(more: &[(&'static str, &'static str)]) -> Server {
    Server::dev(&environment(more))
}

/// A running `tiderace watch`; dropped, it is killed.
pub struct Agent {
    pub child: Child,
    events: Receiver<String>,
    /// What the commands have printed.
    pub output: Receiver<String>,
}

impl Agent {
    /// An agent whose command prints each wake as one line.
    pub fn start(server: SocketAddr, device: &str) -> Self {
        Self::with_token(server, &sign_connection(SECRET, device, None, None))
    }

    pub fn with_token(server: SocketAddr, token: &str) -> Self {
        let mut command = super::program();
        command.args(Self::arguments(&format!("http://{server}")));
        command.env("TIDERACE_WATCH_TOKEN", token);
        Self::spawn(command)
    }

    /// What the program is told to be an agent whose command prints each wake as one line.
    pub fn arguments(url: &str) -> [String; 6] {
        let exec = "echo \"$TIDERACE_WAKE_SESSION_ID $TIDERACE_WAKE_URL $TIDERACE_WAKE_TOKEN\"";
        ["watch", "--json", "--url", url, "--exec", exec].map(String::from)
    }

    /// Runs a command that is, or becomes, an agent.
    pub fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it can be run");
        let events = BufReader::new(child.stdout.take().expect("it is piped"));
        let output = BufReader::new(child.stderr.take().expect("it is piped"));
        Self { child, events: super::lines(events), output: super::lines(output) }
    }

    /// The next event that is as wanted; those before it are passed over.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Vec::new();
        loop {
            let Ok(line) = self.events.recv_timeout(DEADLINE) else {
                let said: Vec<_> = self.output.try_iter().collect();
                panic!("no {what} behind {seen:#?}; {said:#?}");
            };
            let event = serde_json::from_str(&line).expect("a line of JSON");
            if wanted(&event) {
                return event;
            }
            seen.push(line);
        }
    }

    pub fn connected(&self) {
        self.wait_for("connection", |event| event["event"] == "connected");
    }

    /// Waits until another lease of the device keeps it away: it asks again in 30 s.
    pub fn refused(&self) {
        let refused = |event: &Value| event["event"] == "retry" && event["after_ms"] == 30_000;
        let reason = self.wait_for("refusal", refused)["reason"].to_string();
        assert!(reason.contains("409"), "{reason}");
    }

    pub fn command_printed(&self, line: &str) {
        let printed = self.output.recv_timeout(DEADLINE).expect("the command runs");
        assert_eq!(printed, line);
        self.wait_for("end of the command", |event| event["event"] == "command_ended");
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Ends it in order; what its commands have printed and nobody has asked for.
    pub fn end(mut self) -> Vec<String> {
        self.signal(Signal::TERM);
        assert_eq!(super::wait(&mut self.child).code(), Some(0));
        self.output.iter().collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn watchers(server: &Server) -> Value {
    server.api("watchers", &json!({}))["result"].clone()
}

/// How far the wake of a session is, which is asked for with the first call.
pub fn wake(server: &Server, device: &str, session: &str) -> Value {
    let order = json!({
        "device": device, "url": "wss://room", "token": "t", "session_id": session, "ttl": 600
    });
    server.api("wake", &order)["result"]["status"].take()
}

pub fn until_confirmed(server: &Server, device: &str, session: &str) {
    let began = Instant::now();
    loop {
        let status = wake(server, device, session);
        if status == "confirmed" {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "{session} is {status}");
        thread::yield_now();
    }
}

/// Asks for a stream of the device; `Err` with the connection if another lease is active (409).
pub fn watch(mut connection: Connection, device: &str) -> Result<Stream, Connection> {
    let token = sign_connection(SECRET, device, None, None);
    let authorization = format!("Authorization: DeviceToken {token}\r\n");
    let response = connection.request("GET", WATCH, &authorization, "");
    if response.status == 409 {
        return Err(connection);
    }
    assert_eq!(response.status, 200, "{response:?}");
    let mut stream = Stream(connection);
    assert!(stream.event().starts_with("event: hello\n"));
    Ok(stream)
}

/// A watch stream of which every byte is seen.
pub struct Stream(Connection);

impl Stream {
    /// The next event; signs of life are passed over.
    pub fn event(&mut self) -> String {
        loop {
            let chunk = self.0.chunk().expect("the stream goes on");
            if chunk != ":\n\n" {
                return chunk;
            }
        }
    }
}
