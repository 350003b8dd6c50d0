//! Watch streams, heartbeats and wakes as agents and backends speak them, over two shards.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{
    DEADLINE, Server,
    http::{Connection, Response, request},
};
use tiderace::auth::tokens::sign_connection;

const BASE: &str = "/internal/platform/v1/remote-sessions";
const INFO: &str = "/internal/platform/v1/device-info";
const SECRET: &str = "device secret";

/// A server of two shards that knows devices by signed tokens.
fn server(more: &[(&str, &str)]) -> Server {
    let mut environment =
        vec![("TIDERACE_WATCH_ENABLED", "true"), ("TIDERACE_WATCH_TOKEN_HMAC_SECRET_KEY", SECRET)];
    environment.extend(more);
    Server::dev(&environment)
}

/// One device's agent, as far as a test wants it.
struct Agent {
    address: SocketAddr,
    authorization: String,
}

/// An open stream.
struct Stream {
    connection: Connection,
    lease: String,
}

impl Agent {
    fn new(server: &Server, device: &str) -> Self {
        let token = sign_connection(SECRET, device, None, None);
        let authorization = format!("Authorization: DeviceToken {token}\r\n");
        Self { address: server.address, authorization }
    }

    fn ask(&self, connection: &mut Connection, previous: Option<&str>) -> Response {
        let previous = previous.map_or(String::new(), |id| format!("&previousWatchLeaseId={id}"));
        let path = format!("{BASE}/watch?protocolVersion=2.3.0{previous}");
        connection.request("GET", &path, &self.authorization, "")
    }

    fn watch_on(&self, mut connection: Connection, previous: Option<&str>) -> Stream {
        let response = self.ask(&mut connection, previous);
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(response.header("content-type"), Some("text/event-stream"));
        assert_eq!(response.header("transfer-encoding"), Some("chunked"));
        assert_eq!(response.header("cache-control"), Some("no-cache"));
        let hello = connection.chunk().expect("hello first");
        let data = hello.strip_prefix("event: hello\ndata: ").expect("hello");
        let hello: Value = serde_json::from_str(data).expect("one line of JSON");
        let lease = hello["watchLeaseId"].as_str().expect("a lease").to_owned();
        assert!(lease.starts_with("rwl_"), "{lease}");
        assert!(hello["deviceWaitForViewerMs"].is_u64() && hello["heartbeatIntervalMs"].is_u64());
        Stream { connection, lease }
    }

    fn watch(&self, previous: Option<&str>) -> Stream {
        self.watch_on(Connection::open(self.address), previous)
    }

    /// The status of a watch that is refused.
    fn refused(&self, previous: Option<&str>) -> u16 {
        let response = self.ask(&mut Connection::open(self.address), previous);
        assert!(response.json()["code"].is_string(), "{response:?}");
        response.status
    }

    fn heartbeat(&self, lease: &str) -> u16 {
        let body = json!({"watchLeaseId": lease}).to_string();
        let path = format!("{BASE}/watch/heartbeat");
        let mut connection = Connection::open(self.address);
        connection.request("POST", &path, &self.authorization, &body).status
    }
}

impl Stream {
    /// The next event that is no comment; `None` at the end of the stream.
    fn event(&mut self) -> Option<String> {
        loop {
            let chunk = self.connection.chunk()?;
            if chunk != ":\n\n" {
                return Some(chunk);
            }
        }
    }

    fn wake(&mut self) -> Value {
        let event = self.event().expect("a wake");
        let data = event.strip_prefix("event: wake\ndata: ").expect("a wake");
        serde_json::from_str(data).expect("one line of JSON")
    }
}

fn wake(server: &Server, device: &str, session: &str, ttl: u64) -> String {
    let answer = server.api(
        "wake",
        &json!({"device": device, "url": "wss://r", "token": "t", "session_id": session, "ttl": ttl}),
    );
    answer["result"]["status"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn wake_until(server: &Server, device: &str, session: &str, status: &str) {
    let began = Instant::now();
    loop {
        let is = wake(server, device, session, 60);
        if is == status {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "{session} is {is}, not {status}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_device_learns_who_it_is_watches_and_beats() {
    let server = server(&[("TIDERACE_WATCH_HEARTBEAT_INTERVAL", "1s")]);
    let agent = Agent::new(&server, "d");
    let mut connection = Connection::open(server.address);
    let info = connection.request("GET", INFO, &agent.authorization, "");
    assert_eq!((info.status, info.json()), (200, json!({"id": "d", "name": "", "projectId": ""})));
    let mut stream = agent.watch_on(connection, None);
    for _ in 0..3 {
        assert_eq!(stream.connection.chunk().as_deref(), Some(":\n\n"), "signs of life");
        assert_eq!(agent.heartbeat(&stream.lease), 200);
    }
    let listed = server.api("watchers", &json!({}))["result"].clone();
    assert_eq!(listed["total"], 1);
    let watcher = &listed["watchers"][0];
    assert_eq!((&watcher["device"], &watcher["connected"]), (&json!("d"), &json!(true)));
    assert!(watcher["lease_age"].as_f64() >= watcher["last_heartbeat_age"].as_f64());
    assert_eq!((server.metric("leases"), server.metric("watch_streams")), (1, 1));
    assert_eq!(server.metric("heartbeats"), 3);
}

#[test]
fn one_stream_per_device_across_shards() {
    let server = server(&[]);
    let agent = Agent::new(&server, "d");
    let mut stream = agent.watch(None);
    // Connections are spread over the shards by chance: some of these cross.
    for _ in 0..24 {
        assert_eq!(agent.refused(None), 409);
        assert_eq!(agent.refused(Some("rwl_00000000000000000000000000000000")), 409);
        let next = agent.watch(Some(&stream.lease));
        assert_eq!(stream.event(), None, "the old stream has ended in order");
        assert_eq!(agent.heartbeat(&stream.lease), 409);
        assert_eq!(agent.heartbeat(&next.lease), 200);
        assert_eq!(agent.refused(Some(&stream.lease)), 409, "the lease before is no key");
        stream = next;
    }
    assert_eq!(server.metric("lease_handovers"), 24);
    assert_eq!(server.metric("watch_streams"), 1);
}

#[test]
fn a_stream_that_drops_keeps_its_lease_and_another_device_has_its_own() {
    let server = server(&[]);
    let (one, other) = (Agent::new(&server, "one"), Agent::new(&server, "other"));
    let stream = one.watch(None);
    let _other = other.watch(None);
    let lease = stream.lease.clone();
    drop(stream);
    server.wait_until("the end of the stream", |info| {
        info["metrics"]["items"]["watch_streams"] == 1.0
    });
    assert_eq!(one.refused(None), 409);
    assert_eq!(one.heartbeat(&lease), 200);
    let _resumed = one.watch(Some(&lease));
    let page = server.api("watchers", &json!({"limit": 1}))["result"].clone();
    assert_eq!((&page["total"], &page["after"]), (&json!(2), &json!("one")));
    let page = server.api("watchers", &json!({"limit": 2, "after": "one"}))["result"].clone();
    assert_eq!(page["watchers"][0]["device"], "other");
    assert!(page["after"].is_null());
}

#[test]
fn who_does_not_beat_expires_and_watches_again_on_the_same_connection() {
    let server =
        server(&[("TIDERACE_WATCH_HEARTBEAT_INTERVAL", "1s"), ("TIDERACE_WATCH_LEASE_TTL", "3s")]);
    let agent = Agent::new(&server, "d");
    let mut stream = agent.watch(None);
    assert_eq!(stream.event(), None, "expired");
    assert_eq!(agent.heartbeat(&stream.lease), 410);
    let Stream { connection, lease } = stream;
    let next = agent.watch_on(connection, Some(&lease));
    assert_eq!(agent.heartbeat(&next.lease), 200);
    assert_eq!(server.metric("leases_expired"), 1);
}

#[test]
fn a_wake_is_sent_once_and_confirmed_by_the_end_of_the_stream() {
    let server = server(&[]);
    let agent = Agent::new(&server, "d");
    for session in ["ras_1", "ras_2", "ras_3", "ras_4"] {
        let mut stream = agent.watch(None);
        assert_eq!(wake(&server, "d", session, 60), "sent");
        assert_eq!(
            stream.wake(),
            json!({"remoteAccessSessionId": session, "url": "wss://r", "token": "t"})
        );
        assert_eq!(wake(&server, "d", session, 60), "sent", "asking again asks for its state");
        drop(stream);
        wake_until(&server, "d", session, "confirmed");
    }
    assert_eq!(server.metric("device_wakes_sent"), 4);
    assert_eq!(server.metric("device_wakes_confirmed"), 4);
    assert_eq!(server.metric("lease_conflicts"), 0, "every wake released its lease");
}

#[test]
fn a_wake_waits_for_a_device_that_is_away() {
    let server = server(&[]);
    let agent = Agent::new(&server, "d");
    assert_eq!(wake(&server, "d", "now", 0), "no_watcher");
    assert_eq!(wake(&server, "d", "later", 60), "pending");
    assert_eq!(wake(&server, "d", "later", 60), "pending");
    let mut stream = agent.watch(None);
    assert_eq!(stream.wake()["remoteAccessSessionId"], "later");
    assert_eq!(agent.heartbeat(&stream.lease), 410, "released by the wake");
    assert_eq!(wake(&server, "d", "later", 60), "sent");
}

#[test]
fn an_agent_that_ignores_a_wake_is_woken_again() {
    let server = server(&[("TIDERACE_WATCH_HEARTBEAT_INTERVAL", "1s")]);
    let agent = Agent::new(&server, "d");
    let mut stream = agent.watch(None);
    assert_eq!(wake(&server, "d", "s", 60), "sent");
    stream.wake();
    assert_eq!(stream.event(), None, "the server ends what the agent does not");
    let mut next = agent.watch_on(stream.connection, Some(&stream.lease));
    assert_eq!(next.wake()["remoteAccessSessionId"], "s");
    assert_eq!(server.metric("device_wakes"), 1);
    assert_eq!(server.metric("device_wakes_sent"), 2);
}

#[test]
fn a_release_ends_the_stream() {
    let server = server(&[]);
    let agent = Agent::new(&server, "d");
    let release = || server.api("release", &json!({"device": "d"}));
    assert_eq!(release(), json!({"result": {"released": false}}));
    let mut stream = agent.watch(None);
    assert_eq!(release(), json!({"result": {"released": true}}));
    assert_eq!(stream.event(), None);
    assert_eq!(agent.heartbeat(&stream.lease), 410);
    agent.watch(None);
}

#[test]
fn refusals_are_whole_bodies_that_agents_understand() {
    let server = server(&[]);
    let good = Agent::new(&server, "d").authorization;
    let bad = "Authorization: DeviceToken guess\r\n";
    let expired = sign_connection(SECRET, "d", Some(1), None);
    let expired = format!("Authorization: Bearer {expired}\r\n");
    let (watch, beat) = (format!("{BASE}/watch"), format!("{BASE}/watch/heartbeat"));
    for (method, path, headers, body, status, code) in [
        ("GET", &*watch, "", "", 401, "unauthorized"),
        ("GET", &watch, bad, "", 401, "unauthorized"),
        ("GET", &watch, &expired, "", 401, "unauthorized"),
        ("GET", INFO, bad, "", 401, "unauthorized"),
        ("POST", &beat, bad, "{", 401, "unauthorized"),
        ("POST", &beat, &good, "{", 400, "bad_request"),
        ("POST", &beat, &good, r#"{"watchLeaseId":"rwl_0"}"#, 410, "gone"),
        ("POST", &watch, &good, "", 405, "bad_request"),
        ("GET", &beat, &good, "", 405, "bad_request"),
    ] {
        let mut connection = Connection::open(server.address);
        for _ in 0..2 {
            let response = connection.request(method, path, headers, body);
            assert_eq!(response.status, status, "{method} {path} {response:?}");
            assert_eq!(response.json()["code"], code);
            assert!(response.json()["error"].is_string());
            assert!(response.header("content-length").is_some());
            assert_eq!(response.header("allow").is_some(), status == 405);
        }
    }
    let mut connection = Connection::open(server.address);
    assert_eq!(connection.request("HEAD", &watch, &good, "").status, 404);
    assert_eq!(connection.request("GET", INFO, &good, "").status, 200, "no body was left over");
    let mut old = Connection::open(server.address);
    old.send(format!("GET {watch} HTTP/1.0\r\n{good}\r\n").as_bytes());
    assert_eq!(old.response().status, 505);
    assert!(old.is_at_end());
    let bearer = good.replace("DeviceToken", "Bearer");
    let mut connection = Connection::open(server.address);
    assert_eq!(connection.request("GET", INFO, &bearer, "").status, 200);
}

#[test]
fn a_stream_is_chunked_behind_pipelined_requests_and_says_when_it_is_the_last() {
    let server = server(&[]);
    let agent = Agent::new(&server, "d");
    let mut connection = Connection::open(server.address);
    let headers = format!("{}Connection: close\r\n", agent.authorization);
    let pipelined = request("GET", "/health", "", "")
        + &request("GET", INFO, &agent.authorization, "")
        + &request("GET", &format!("{BASE}/watch"), &headers, "");
    connection.send(pipelined.as_bytes());
    assert_eq!(connection.response().json(), json!({}));
    assert_eq!(connection.response().json()["id"], "d");
    let head = connection.response();
    assert_eq!((head.status, head.header("connection")), (200, Some("close")));
    assert!(connection.chunk().is_some_and(|hello| hello.starts_with("event: hello\n")));
    server.api("release", &json!({"device": "d"}));
    assert_eq!(connection.chunk(), None);
    connection.finish();
    // The end of the body is an empty line behind the last chunk, which `chunk` has read.
    assert!(connection.is_at_end());
}

#[test]
fn a_table_of_tokens_is_a_source_of_devices() {
    let path = std::env::temp_dir().join(format!("tiderace-devices-{}.json", std::process::id()));
    let rows = json!([{
        "token": "one", "id": "d1", "name": "One", "projectId": "p", "retainRecordingsSeconds": 9
    }]);
    std::fs::write(&path, rows.to_string()).expect("a temporary file");
    let file = path.to_str().expect("UTF-8");
    let server = Server::dev(&[
        ("TIDERACE_WATCH_ENABLED", "true"),
        ("TIDERACE_WATCH_TOKEN_TABLE_FILE", file),
        ("TIDERACE_WATCH_BASE_PATH", "/devices"),
    ]);
    std::fs::remove_file(&path).expect("it was read at the start");
    let mut connection = Connection::open(server.address);
    let info = connection.request("GET", INFO, "Authorization: DeviceToken one\r\n", "");
    assert_eq!(
        info.json(),
        json!({"id": "d1", "name": "One", "projectId": "p", "retainRecordingsSeconds": 9})
    );
    let other = connection.request("GET", INFO, "Authorization: DeviceToken two\r\n", "");
    assert_eq!(other.status, 401);
    let watch = connection.request("GET", "/devices/watch", "Authorization: Bearer one\r\n", "");
    assert_eq!(watch.status, 200);
}

#[test]
fn a_table_is_read_anew_on_a_signal() {
    let path = std::env::temp_dir().join(format!("tiderace-reload-{}.json", std::process::id()));
    let file = path.to_str().expect("UTF-8");
    let write = |token: &str| {
        let rows = json!([{"token": token, "id": "d1", "name": "One", "projectId": "p"}]);
        std::fs::write(&path, rows.to_string()).expect("a temporary file");
    };
    write("one");
    let server = Server::dev(&[
        ("TIDERACE_WATCH_ENABLED", "true"),
        ("TIDERACE_WATCH_TOKEN_TABLE_FILE", file),
    ]);
    let agent = |token: &str| Agent {
        address: server.address,
        authorization: format!("Authorization: DeviceToken {token}\r\n"),
    };
    let (old, new) = (agent("one"), agent("two"));
    let stream = old.watch(None);
    assert_eq!(old.heartbeat(&stream.lease), 200);
    write("two");
    let pid = Pid::from_raw(i32::try_from(server.pid()).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::HUP).expect("it runs");
    let began = Instant::now();
    while old.heartbeat(&stream.lease) != 401 {
        assert!(began.elapsed() < DEADLINE, "the old token is still good");
    }
    // The other shard may be a moment behind; every connection may be on either.
    while new.heartbeat(&stream.lease) != 200 {
        assert!(began.elapsed() < DEADLINE, "the new token is no good");
    }
    std::fs::remove_file(&path).expect("it is there");
}

/// A backend that answers by the token alone, one connection after the other.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it listens");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                let mut token = String::new();
                for line in reader.by_ref().lines().map_while(Result::ok) {
                    if line.is_empty() {
                        break;
                    }
                    if let Some((name, value)) = line.split_once(": ")
                        && name.eq_ignore_ascii_case("authorization")
                    {
                        token = value.replace("DeviceToken ", "");
                    }
                }
                let (status, body) = match token.as_str() {
                    "silence" => return thread::sleep(DEADLINE),
                    "unknown" => ("401 Unauthorized", String::new()),
                    "broken" => ("500 Internal Server Error", String::new()),
                    "nonsense" => ("200 OK", "[]".to_owned()),
                    device => {
                        ("200 OK", json!({"id": device, "name": "", "projectId": "p"}).to_string())
                    }
                };
                let length = body.len();
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n");
                let answer = format!("{head}Connection: close\r\n\r\n{body}");
                // The server may have given up.
                let _ = reader.get_mut().write_all(answer.as_bytes());
            });
        }
    });
    address
}

#[test]
fn the_backend_knows_the_devices_and_its_failure_is_no_401() {
    let endpoint = format!("http://{}/device", backend());
    let server = Server::dev(&[
        ("TIDERACE_WATCH_ENABLED", "true"),
        ("TIDERACE_WATCH_TOKEN_PROXY_ENDPOINT", &endpoint),
        ("TIDERACE_WATCH_TOKEN_PROXY_TIMEOUT", "1s"),
    ]);
    let authorization = |token: &str| format!("Authorization: DeviceToken {token}\r\n");
    let watch = format!("{BASE}/watch");
    for (token, status) in [("unknown", 401), ("broken", 503), ("nonsense", 503), ("silence", 503)]
    {
        for path in [INFO, &watch] {
            let mut connection = Connection::open(server.address);
            let response = connection.request("GET", path, &authorization(token), "");
            assert_eq!(response.status, status, "{token} {path}");
            assert_eq!(response.header("retry-after").is_some(), status == 503);
        }
    }
    let agent = Agent { address: server.address, authorization: authorization("d7") };
    let mut connection = Connection::open(server.address);
    let info = connection.request("GET", INFO, &agent.authorization, "");
    assert_eq!(info.json()["id"], "d7");
    let mut stream = agent.watch_on(connection, None);
    assert_eq!(agent.heartbeat(&stream.lease), 200);
    assert_eq!(wake(&server, "d7", "s", 60), "sent");
    stream.wake();
}

#[test]
fn a_server_whose_leases_cannot_hold_does_not_start() {
    for (ttl, interval, code) in [("2s", "1s", Some(1)), ("10s", "5s", Some(1))] {
        let command = support::serve(
            &["--dev"],
            &[
                ("TIDERACE_WATCH_ENABLED", "true"),
                ("TIDERACE_WATCH_TOKEN_HMAC_SECRET_KEY", SECRET),
                ("TIDERACE_WATCH_LEASE_TTL", ttl),
                ("TIDERACE_WATCH_HEARTBEAT_INTERVAL", interval),
            ],
        );
        let (status, _, stderr) = support::run(command);
        assert_eq!(status.code(), code, "{stderr}");
        assert!(stderr.contains("watch.lease_ttl"), "{stderr}");
    }
}

#[test]
fn watching_that_is_not_enabled_is_said() {
    let server = Server::dev(&[]);
    let body = json!({"device": "d", "url": "u", "token": "t"});
    assert_eq!(server.api("wake", &body)["error"]["code"], 108);
    let mut connection = Connection::open(server.address);
    assert_eq!(connection.request("GET", &format!("{BASE}/watch"), "", "").status, 404);
}

#[test]
fn the_agent_of_this_program_is_woken_and_ends_as_it_was_told() {
    let server = server(&[]);
    let token = sign_connection(SECRET, "d", None, None);
    let mut command = support::program();
    command.args(["watch", "--url", &format!("http://{}", server.address), "--token", &token]);
    command.args(["--once", "--exec", "test \"$TIDERACE_WAKE_SESSION_ID\" = ras_1"]);
    let mut agent = command.spawn().expect("it is built");
    server.wait_until("the stream", |info| info["metrics"]["items"]["watch_streams"] == 1.0);
    assert_eq!(wake(&server, "d", "ras_1", 60), "sent");
    assert!(support::wait(&mut agent).success(), "the command saw the session");
    wake_until(&server, "d", "ras_1", "confirmed");
}

#[test]
fn a_drain_ends_streams_one_after_the_other() {
    const AGENTS: usize = 500;
    support::raise_open_files(4 * AGENTS as u64);
    let server = server(&[("TIDERACE_SHUTDOWN_TIMEOUT", "8s")]);
    let mut streams: Vec<Stream> =
        (0..AGENTS).map(|n| Agent::new(&server, &format!("d{n}")).watch(None)).collect();
    let agent = Agent::new(&server, "d0");
    let mut beating = Connection::open(server.address);
    let body = json!({"watchLeaseId": streams[0].lease}).to_string();
    let mut beat =
        || beating.request("POST", &format!("{BASE}/watch/heartbeat"), &agent.authorization, &body);
    assert_eq!(beat().status, 200);
    let told = Instant::now();
    server.terminate();
    // Behind the last 200 the server is in its drain: the next one is told so, and its connection.
    let last = loop {
        let response = beat();
        if response.status != 200 {
            break response;
        }
    };
    assert_eq!((last.status, last.header("connection")), (503, Some("close")));
    let mut ends: Vec<Duration> = streams
        .iter_mut()
        .map(|stream| {
            assert_eq!(stream.event(), None, "a drain ends streams in order");
            told.elapsed()
        })
        .collect();
    ends.sort();
    // They are spread over 4 s; later is always possible, earlier is not.
    assert!(ends[AGENTS - 1] > Duration::from_secs(3), "the last at {:?}", ends[AGENTS - 1]);
    let (status, stderr) = server.wait();
    assert!(status.success(), "{stderr}");
}
