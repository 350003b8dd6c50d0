//! The load generator against a small server of tungstenite: exact counts and the fields of its
//! JSON report.

mod support;

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

/// A server on threads of its own: `/echo` answers, `/all` delivers each message to all,
/// `/centrifuge` speaks as much of that protocol as load needs.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let topic: Arc<Topic> = Arc::default();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let topic = topic.clone();
            thread::spawn(move || connection(stream.unwrap(), &topic));
        }
    });
    address
}

/// Who gets what is published: channel and the thread that writes to the subscriber.
type Topic = Mutex<Vec<(String, Sender<Message>)>>;

fn publish(topic: &Topic, channel: &str, message: &Message) {
    for (_, subscriber) in topic.lock().unwrap().iter().filter(|(name, _)| name == channel) {
        let _ = subscriber.send(message.clone());
    }
}

fn connection(mut stream: TcpStream, topic: &Topic) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut stream, &mut byte).unwrap();
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let echoes = request.starts_with("GET /echo ");
    let centrifuge = request.starts_with("GET /centrifuge ");
    let (sender, deliveries) = channel();
    if request.starts_with("GET /all ") {
        // Before the answer: a client that is connected misses nothing.
        topic.lock().unwrap().push((String::new(), sender.clone()));
    }
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    write!(stream, "{head}Sec-WebSocket-Accept: {accept}\r\n\r\n").unwrap();
    if !echoes {
        let stream = stream.try_clone().unwrap();
        thread::spawn(move || deliver(stream, deliveries));
    }
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
    while let Ok(message) = socket.read() {
        match message {
            message @ (Message::Text(_) | Message::Binary(_)) if echoes => {
                socket.send(message).unwrap();
            }
            Message::Text(commands) if centrifuge => {
                for command in commands.lines() {
                    obey(&serde_json::from_str(command).unwrap(), &sender, topic);
                }
            }
            message @ (Message::Text(_) | Message::Binary(_)) => publish(topic, "", &message),
            _ => {}
        }
    }
}

/// One Centrifuge command: its effect and its reply.
fn obey(command: &Value, own: &Sender<Message>, topic: &Topic) {
    let id = &command["id"];
    let reply = if command["connect"].is_object() {
        json!({"id": id, "connect": {"client": "c", "version": "0", "ping": 25, "pong": true}})
    } else if let Some(channel) = command["subscribe"]["channel"].as_str() {
        topic.lock().unwrap().push((channel.to_owned(), own.clone()));
        json!({"id": id, "subscribe": {}})
    } else if let Some(channel) = command["publish"]["channel"].as_str() {
        let data = &command["publish"]["data"];
        let push = json!({"push": {"channel": channel, "pub": {"data": data, "offset": 1}}});
        publish(topic, channel, &Message::text(push.to_string()));
        json!({"id": id, "publish": {}})
    } else {
        // The generator's only other message is its pong.
        assert_eq!(command, &json!({}));
        return;
    };
    own.send(Message::text(reply.to_string())).unwrap();
    // A ping, which the connect reply has asked to answer.
    own.send(Message::text("{}")).unwrap();
}

fn deliver(stream: TcpStream, deliveries: Receiver<Message>) {
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
    while let Ok(mut message) = deliveries.recv() {
        if let Message::Text(first) = &message {
            // What has queued up leaves as the lines of one message.
            let lines = deliveries.try_iter().map(|more| more.into_text().unwrap().to_string());
            message = Message::text(
                std::iter::once(first.to_string()).chain(lines).collect::<Vec<_>>().join("\n"),
            );
        }
        if let Err(tungstenite::Error::Io(error)) = socket.send(message) {
            assert_ne!(error.kind(), ErrorKind::WouldBlock);
            return;
        }
    }
}

/// Runs `tiderace bench` with `flags`; its JSON report.
fn bench(flags: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_tiderace"))
        .arg("bench")
        .args(flags.split_whitespace())
        .args(["--duration", "0.3", "--warmup", "0.05", "--json"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("deliveries/s"), "the summary is on stderr: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field}: {}", report[field]))
}

/// What holds of every run in which nothing was lost.
fn assert_exact(report: &Value, deliveries_per_message: u64) {
    assert_eq!(report["errors"], 0, "{report}");
    assert_eq!(report["undelivered"], 0, "{report}");
    assert_eq!(
        number(report, "deliveries_total"),
        number(report, "messages_total") * deliveries_per_message
    );
    assert!(number(report, "messages_total") > 0);
    assert!(["server", "generator", "neither"].contains(&report["saturated"].as_str().unwrap()));
    for field in ["messages_per_s", "deliveries_per_s", "generator_busy", "generator_cpu"] {
        assert!(report[field].as_f64().unwrap() >= 0.0, "{field}");
    }
    let latency = &report["latency"];
    let quantiles = ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"]
        .map(|quantile| latency[quantile].as_f64().unwrap());
    assert!(quantiles.is_sorted() && quantiles[0] > 0.0, "{quantiles:?}");
}

#[test]
fn echo_counts_every_round_trip() {
    let target = serve();
    let pid = std::process::id();
    let report = bench(&format!(
        "echo --protocol plain --target ws://{target}/echo --connections 8 \
         --window 3 --size 200 --server-pid {pid}"
    ));
    assert_exact(&report, 1);
    assert_eq!(report["case"], "echo");
    assert_eq!((&report["window"], &report["payload_bytes"]), (&3.into(), &200.into()));
    assert_eq!(report["latency"]["sample_every"], 1);
    assert!(report["server_process_cpu"].as_f64().is_some());
    assert!(report["server_memory"]["resident"].as_u64().unwrap() > 0);
}

#[test]
fn an_open_loop_sends_what_its_rate_says() {
    let target = serve();
    let report = bench(&format!(
        "echo --protocol plain --target ws://{target}/echo --connections 5 --rate 1000"
    ));
    assert_exact(&report, 1);
    assert_eq!(report["rate"], 1000.0);
    // The schedule never slips: 0.35 s make 350 messages, and a slow end of the run some more.
    assert!(number(&report, "messages_total") >= 349, "{report}");
}

#[test]
fn fanout_counts_a_delivery_for_each_connection() {
    let target = serve();
    let report = bench(&format!(
        "fanout --protocol plain --target ws://{target}/all --connections 10 \
         --publishers 2 --window 4 --size 16"
    ));
    assert_exact(&report, 10);
    assert_eq!((&report["case"], &report["publishers"]), (&"fanout".into(), &2.into()));
}

#[test]
fn centrifuge_is_spoken_and_counted_line_by_line() {
    let target = serve();
    let url = format!("ws://{target}/centrifuge");
    let report =
        bench(&format!("fanout --target {url} --connections 10 --window 8 --channel a --size 50"));
    assert_exact(&report, 10);
    assert_eq!(report["protocol"], "centrifuge");
    let report = bench(&format!("broadcast --target {url} --connections 7 --channel b"));
    assert_exact(&report, 7);
    let report = bench(&format!("echo --target {url} --connections 5 --window 2 --channel c"));
    assert_exact(&report, 1);
    let report = bench(&format!("idle --target {url} --connections 5"));
    assert_eq!(report["errors"], 0, "{report}");
}

#[test]
fn broadcast_counts_the_square() {
    let target = serve();
    let report =
        bench(&format!("broadcast --protocol plain --target ws://{target}/all --connections 6"));
    assert_exact(&report, 6);
    assert_eq!(number(&report, "messages_total"), number(&report, "rounds") * 6);
}

#[test]
fn connect_and_idle_establish_connections() {
    let target = serve();
    let report = bench(&format!(
        "connect --protocol plain --target ws://{target}/echo --connections 4 --keep 2"
    ));
    assert_eq!((&report["messages_total"], &report["errors"]), (&4.into(), &0.into()));
    let report =
        bench(&format!("connect --protocol plain --target ws://{target}/echo --connections 4"));
    assert!(number(&report, "messages_total") >= 4);
    assert_eq!(report["errors"], 0, "{report}");
    let pid = std::process::id();
    let report = bench(&format!(
        "idle --protocol plain --target ws://{target}/echo --connections 20 --server-pid {pid}"
    ));
    assert!(report["idle"]["bytes_per_connection"].as_f64().is_some(), "{report}");
}

#[test]
fn a_fleet_watches_is_woken_and_is_sent_away() {
    let server = support::Server::dev(&[
        ("TIDERACE_WATCH_ENABLED", "true"),
        ("TIDERACE_WATCH_TOKEN_HMAC_SECRET_KEY", "secret"),
        ("TIDERACE_WATCH_HEARTBEAT_INTERVAL", "1s"),
        ("TIDERACE_WATCH_LEASE_TTL", "31s"),
        ("TIDERACE_SHUTDOWN_TIMEOUT", "2s"),
    ]);
    let (address, key, pid) = (server.address, &server.api_key, server.pid());
    let report = bench(&format!(
        "watch --target http://{address} --token-secret secret --api-key {key} --connections 40 \
         --ramp 0.2 --wakes-per-second 200 --server-pid {pid} --drain"
    ));
    assert_exact(&report, 1);
    assert!(number(&report, "messages_total") >= 69, "{report}");
    let watch = &report["watch"];
    assert!(watch["rest"]["heartbeats_per_s"].as_f64() > Some(0.0), "{watch}");
    assert!(watch["rest"]["comments_per_s"].as_f64() > Some(0.0), "{watch}");
    let drain = &watch["drain"];
    assert_eq!(
        (&drain["streams"], &drain["ended"], &drain["in_order"]),
        (&json!(40), &json!(40), &json!(40))
    );
    let (status, stderr) = server.wait();
    assert!(status.success(), "{stderr}");
}

/// The server of `benches/hub`, with two shards.
fn hub() -> (support::Server, String) {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/hub.toml");
    let key = [("TIDERACE_HTTP_API_KEY", "key")];
    let server = support::Server::start(&["--config", config, "--shards", "2"], &key);
    let target = format!("--target ws://{}/connection/websocket", server.address);
    (server, target)
}

#[test]
fn channels_are_counted_with_what_each_costs() {
    let (server, target) = hub();
    let pid = server.pid();
    let report = bench(&format!(
        "channels {target} --connections 6 --per-connection 40 --channel history:c --history 3 \
         --rate 500 --server-pid {pid}"
    ));
    assert_exact(&report, 1);
    let channels = &report["channels"];
    assert_eq!(
        [&channels["channels"], &channels["subscriptions"], &channels["history_entries"]],
        [&json!(240), &json!(240), &json!(720)]
    );
    assert!(channels["bytes_per_history_entry"].is_f64(), "{channels}");
    let report = bench(&format!(
        "channels {target} --connections 5 --per-connection 40 --channel plain:c --shared"
    ));
    let channels = &report["channels"];
    assert_eq!([&channels["channels"], &channels["subscriptions"]], [&json!(40), &json!(200)]);
    assert_eq!(report["errors"], 0, "{report}");
}

#[test]
fn members_come_and_go_beside_exact_deliveries() {
    let (_server, target) = hub();
    let moving = "--movers 4 --moves 40 --rate 50";
    for (channel, pushed) in [("presence:m", false), ("joins:m", true)] {
        let report =
            bench(&format!("members {target} --connections 9 --channel {channel} {moving}"));
        assert_exact(&report, 9);
        let members = &report["members"];
        assert!(number(members, "joins") >= number(members, "leaves"), "{members}");
        assert!(number(members, "leaves") > 0, "{members}");
        assert_eq!(number(members, "pushes") > 0, pushed, "{members}");
    }
}

#[test]
fn a_server_that_refuses_is_named_in_the_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let _ = std::io::Read::read(&mut stream, &mut request).unwrap();
            stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap();
        }
    });
    let output = Command::new(env!("CARGO_BIN_EXE_tiderace"))
        .args(["bench", "echo", "--protocol", "plain", "--target", &format!("ws://{target}/")])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("503 Service Unavailable"), "{stderr}");
}
