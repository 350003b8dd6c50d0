//! The program as a server and as agents, each a process of its own: what is killed, stopped, cut and ended.

mod support;

use std::io::BufReader;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{DEADLINE, Server, http::Connection};
use tiderace::auth::tokens::sign_connection;

const SECRET: &str = "device secret";
const WATCH: &str = "/internal/platform/v1/remote-sessions/watch";

/// The shortest leases that the configuration permits: 3 s, with heartbeats each second.
const BRISK: &[(&str, &str)] =
    &[("TIDERACE_WATCH_HEARTBEAT_INTERVAL", "1s"), ("TIDERACE_WATCH_LEASE_TTL", "3s")];

fn environment(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let own = [
        ("TIDERACE_WATCH_ENABLED", "true"),
        ("TIDERACE_WATCH_TOKEN_HMAC_SECRET_KEY", SECRET),
        ("TIDERACE_HTTP_API_KEY", "key"),
    ];
    [&own[..], more].concat()
}

/// A server of two shards that knows devices by signed tokens.
fn server(more: &[(&'static str, &'static str)]) -> Server {
    Server::dev(&environment(more))
}

/// A running `tiderace watch`; dropped, it is killed.
struct Agent {
    child: Child,
    events: Receiver<String>,
    /// What the commands have printed.
    output: Receiver<String>,
}

impl Agent {
    /// An agent whose command prints each wake as one line.
    fn start(server: &Server, device: &str) -> Self {
        Self::with_token(server, &sign_connection(SECRET, device, None, None))
    }

    fn with_token(server: &Server, token: &str) -> Self {
        let mut command: Command = support::program();
        let url = format!("http://{}", server.address);
        let exec = "echo \"$TIDERACE_WAKE_SESSION_ID $TIDERACE_WAKE_URL $TIDERACE_WAKE_TOKEN\"";
        command.args(["watch", "--json", "--url", &url, "--exec", exec]);
        command.env("TIDERACE_WATCH_TOKEN", token);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it is built");
        let events = BufReader::new(child.stdout.take().expect("it is piped"));
        let output = BufReader::new(child.stderr.take().expect("it is piped"));
        Self { child, events: support::lines(events), output: support::lines(output) }
    }

    /// The next event that is as wanted; those before it are passed over.
    fn wait_for(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Vec::new();
        loop {
            let Ok(line) = self.events.recv_timeout(DEADLINE) else {
                panic!("no {what} behind {seen:#?}");
            };
            let event = serde_json::from_str(&line).expect("a line of JSON");
            if wanted(&event) {
                return event;
            }
            seen.push(line);
        }
    }

    fn connected(&self) {
        self.wait_for("connection", |event| event["event"] == "connected");
    }

    /// Waits until another lease of the device keeps it away: it asks again in 30 s.
    fn refused(&self) {
        let refused = |event: &Value| event["event"] == "retry" && event["after_ms"] == 30_000;
        let reason = self.wait_for("refusal", refused)["reason"].to_string();
        assert!(reason.contains("409"), "{reason}");
    }

    fn command_printed(&self, line: &str) {
        let printed = self.output.recv_timeout(DEADLINE).expect("the command runs");
        assert_eq!(printed, line);
        self.wait_for("end of the command", |event| event["event"] == "command_ended");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Ends it in order; what its commands have printed and nobody has asked for.
    fn end(mut self) -> Vec<String> {
        self.signal(Signal::TERM);
        assert_eq!(support::wait(&mut self.child).code(), Some(0));
        self.output.iter().collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn watchers(server: &Server) -> Value {
    server.api("watchers", &json!({}))["result"].clone()
}

/// How far the wake of a session is, which is asked for with the first call.
fn wake(server: &Server, session: &str) -> Value {
    let order = json!({
        "device": "d", "url": "wss://room", "token": "t", "session_id": session, "ttl": 600
    });
    server.api("wake", &order)["result"]["status"].take()
}

fn until_confirmed(server: &Server, session: &str) {
    let began = Instant::now();
    while wake(server, session) != "confirmed" {
        assert!(began.elapsed() < DEADLINE, "{session} is {}", wake(server, session));
        thread::yield_now();
    }
}

fn until_expired(server: &Server) {
    server.wait_until("the end of a lease", |info| {
        info["metrics"]["items"]["leases_expired"].as_f64() >= Some(1.0)
    });
    assert_eq!(watchers(server)["total"], 0);
}

#[test]
fn of_two_agents_one_is_live_and_each_wake_is_run_once() {
    let server = server(&[]);
    let live = Agent::start(&server, "d");
    live.connected();
    let other = Agent::start(&server, "d");
    other.refused();
    let listed = watchers(&server);
    assert_eq!((&listed["total"], &listed["watchers"][0]["device"]), (&json!(1), &json!("d")));
    assert_eq!(server.metric("watch_streams"), 1);
    for session in ["ras_1", "ras_2", "ras_3"] {
        wake(&server, session);
        live.command_printed(&format!("{session} wss://room t"));
        until_confirmed(&server, session);
        live.connected();
    }
    assert_eq!(server.metric("device_wakes_sent"), 3);
    assert_eq!(server.metric("device_wakes_confirmed"), 3);
    assert_eq!(live.end(), Vec::<String>::new(), "each command ran once");
    assert_eq!(other.end(), Vec::<String>::new(), "nobody else was woken");
}

#[test]
fn a_wake_waits_for_the_agent_to_start() {
    let server = server(&[]);
    assert_eq!(wake(&server, "ras_1"), "pending");
    let agent = Agent::start(&server, "d");
    agent.command_printed("ras_1 wss://room t");
    until_confirmed(&server, "ras_1");
    agent.connected();
    assert_eq!(agent.end(), Vec::<String>::new());
    assert_eq!(server.metric("device_wakes_sent"), 1);
}

#[test]
fn the_lease_of_a_killed_agent_expires_and_another_takes_over() {
    let server = server(BRISK);
    let first = Agent::start(&server, "d");
    first.connected();
    first.signal(Signal::KILL);
    server.wait_until("the end of its stream", |info| {
        info["metrics"]["items"]["watch_streams"].as_f64().unwrap_or_default() == 0.0
    });
    assert_eq!(watchers(&server)["total"], 1, "the end of a stream releases nothing");
    assert_eq!(wake(&server, "ras_1"), "pending");
    until_expired(&server);
    let next = Agent::start(&server, "d");
    next.command_printed("ras_1 wss://room t");
    until_confirmed(&server, "ras_1");
}

#[test]
fn agents_come_back_to_a_server_that_was_killed() {
    let mut server = server(BRISK);
    let agent = Agent::start(&server, "d");
    agent.connected();
    for session in ["ras_1", "ras_2"] {
        let address = server.address.to_string();
        let pid = Pid::from_raw(i32::try_from(server.pid()).expect("a pid")).expect("a pid");
        kill_process(pid, Signal::KILL).expect("it runs");
        drop(server);
        let arguments = ["--dev", "--shards", "2", "--listen", &address];
        server = Server::start(&arguments, &environment(BRISK));
        server.wait_until("the agent", |info| {
            info["metrics"]["items"]["watch_streams"].as_f64() == Some(1.0)
        });
        wake(&server, session);
        agent.command_printed(&format!("{session} wss://room t"));
        until_confirmed(&server, session);
    }
    assert_eq!(agent.end(), Vec::<String>::new());
}

#[test]
fn an_agent_that_hangs_loses_its_lease_and_does_not_take_it_back() {
    let server = server(BRISK);
    let hanging = Agent::start(&server, "d");
    hanging.connected();
    hanging.signal(Signal::STOP);
    until_expired(&server);
    let next = Agent::start(&server, "d");
    next.connected();
    hanging.signal(Signal::CONT);
    hanging.refused();
    assert_eq!(watchers(&server)["total"], 1);
    assert_eq!(server.metric("watch_streams"), 1);
    wake(&server, "ras_1");
    next.command_printed("ras_1 wss://room t");
    assert_eq!(hanging.end(), Vec::<String>::new());
}

#[test]
fn a_token_that_is_nobodys_ends_the_agent() {
    let server = server(&[]);
    let mut agent = Agent::with_token(&server, &sign_connection("other", "d", None, None));
    assert_eq!(support::wait(&mut agent.child).code(), Some(77));
    let said: String = agent.output.iter().collect();
    assert!(said.contains("401"), "{said}");
    assert_eq!(watchers(&server)["total"], 0);
}

/// Asks for a stream; its connection and lease.
fn stream(server: &Server, device: usize, previous: &str) -> (Connection, String) {
    let token = sign_connection(SECRET, &format!("d{device}"), None, None);
    let authorization = format!("Authorization: DeviceToken {token}\r\n");
    let mut connection = Connection::open(server.address);
    let path = format!("{WATCH}?protocolVersion=2.3.0{previous}");
    let response = connection.request("GET", &path, &authorization, "");
    assert_eq!(response.status, 200, "{response:?}");
    let hello = connection.chunk().expect("hello");
    let hello = hello.strip_prefix("event: hello\ndata: ").expect("hello");
    let hello: Value = serde_json::from_str(hello).expect("one line of JSON");
    (connection, hello["watchLeaseId"].as_str().expect("a lease").to_owned())
}

/// Agents ask again at once when their stream ends. Behind a balancer that is another server, which
/// feels how the streams of the first one were ended.
#[test]
fn a_drain_is_no_stampede_to_the_next_server() {
    const AGENTS: usize = 500;
    support::raise_open_files(6 * AGENTS as u64);
    let next = server(&[]);
    let ending = server(&[("TIDERACE_SHUTDOWN_TIMEOUT", "6s")]);
    let streams: Vec<_> = (0..AGENTS).map(|device| stream(&ending, device, "")).collect();
    ending.terminate();
    let next = &next;
    let mut back: Vec<(Instant, Connection)> = thread::scope(|scope| {
        let moves = streams.into_iter().enumerate().map(|(device, (mut connection, lease))| {
            scope.spawn(move || {
                while let Some(chunk) = connection.chunk() {
                    assert_eq!(chunk, ":\n\n", "nothing but signs of life");
                }
                let ended = Instant::now();
                let previous = format!("&previousWatchLeaseId={lease}");
                (ended, stream(next, device, &previous).0)
            })
        });
        let moves: Vec<_> = moves.collect();
        moves.into_iter().map(|moved| moved.join().expect("it ends in order")).collect()
    });
    let (status, stderr) = ending.wait();
    assert!(status.success(), "{stderr}");
    assert_eq!((next.metric("watch_streams"), next.metric("leases")), (500, 500));
    assert_eq!(next.metric("lease_conflicts"), 0);

    back.sort_by_key(|(ended, _)| *ended);
    let tenth = (back[AGENTS - 1].0 - back[0].0) / 10;
    let until = |from: usize| back.partition_point(|(ended, _)| *ended <= back[from].0 + tenth);
    let busiest = (0..AGENTS).map(|from| until(from) - from).max().unwrap_or_default();
    // Evenly spread, it is 50; a machine that stands still for a second adds what it delays.
    assert!(busiest < AGENTS / 2, "{busiest} of {AGENTS} streams ended in a tenth of the time");
}
