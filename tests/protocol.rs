//! The Centrifuge protocol and RFC 6455 against a running server, byte by byte where it matters.

mod support;

use std::time::Instant;

use serde_json::{Value, json};
use support::{
    DEADLINE, Server, http,
    websocket::{
        self, BINARY, CLOSE, Client, FIN, Frame, PING, PONG, Raw, TEXT, frame, upgrade,
        upgrade_response,
    },
};
use tiderace::auth::tokens::sign_connection;

/// No ping of a session comes in between.
const QUIET: (&str, &str) = ("TIDERACE_CLIENT_PING_INTERVAL", "24h");
const CONNECT: &str = r#"{"id":1,"connect":{}}"#;

#[test]
fn control_frames_stand_between_fragments_and_a_ping_has_one_pong() {
    let server = Server::dev(&[QUIET]);
    let mut raw = Raw::open(server.address);
    let (first, rest) = CONNECT.as_bytes().split_at(7);
    raw.send(&frame(TEXT, first));
    raw.send(&frame(FIN | PING, b"in between"));
    assert_eq!(raw.frame(), Some(Frame { opcode: PONG, payload: b"in between".to_vec() }));
    raw.send(&frame(FIN | PONG, b"asked for by nobody"));
    raw.send(&frame(0, &rest[..3]));
    raw.send(&frame(FIN, &rest[3..]));
    assert!(raw.text().starts_with(r#"{"id":1,"connect":{"#));
    raw.send(&frame(FIN | PING, b""));
    raw.send(&frame(FIN | BINARY, br#"{"id":2,"subscribe":{"channel":"c"}}"#));
    assert_eq!(raw.frame(), Some(Frame { opcode: PONG, payload: Vec::new() }));
    assert_eq!(raw.text(), r#"{"id":2,"subscribe":{}}"#);
}

#[test]
fn broken_frames_close_with_the_code_of_the_rfc() {
    let server = Server::dev(&[QUIET, ("TIDERACE_WEBSOCKET_MESSAGE_SIZE_LIMIT", "1024")]);
    let unmasked = [&[FIN | TEXT, CONNECT.len() as u8], CONNECT.as_bytes()].concat();
    let cases: &[(&str, Vec<u8>, u16)] = &[
        ("unmasked", unmasked, 1002),
        ("a reserved bit", frame(FIN | 0x40 | TEXT, b"{}"), 1002),
        ("an unknown opcode", frame(FIN | 3, b""), 1002),
        ("a fragmented ping", frame(PING, b""), 1002),
        ("a long ping", frame(FIN | PING, &[0; 126]), 1002),
        ("a continuation of nothing", frame(FIN, b"{}"), 1002),
        ("a message in a message", [frame(TEXT, b"{"), frame(TEXT, b"}")].concat(), 1002),
        ("half a close code", frame(FIN | CLOSE, b"\x03"), 1002),
        ("a close code that never travels", frame(FIN | CLOSE, &1005_u16.to_be_bytes()), 1002),
        ("text that is not UTF-8", frame(FIN | TEXT, b"\xff\xfe"), 1007),
        ("a character cut off", frame(FIN | TEXT, b"\xc3"), 1007),
        ("a reason that is not UTF-8", frame(FIN | CLOSE, b"\x03\xe8\xff"), 1007),
        ("too much", frame(FIN | TEXT, &[b' '; 1025]), 1009),
        ("too much in fragments", [frame(TEXT, &[b' '; 1024]), frame(FIN, b" ")].concat(), 1009),
        ("a length beyond all", [&[FIN | TEXT, 0xff, 0x7f][..], &[0xff; 7]].concat(), 1009),
    ];
    for (what, bytes, code) in cases {
        let mut raw = Raw::open(server.address);
        raw.send(bytes);
        assert_eq!(raw.closed(), *code, "{what}");
    }
    let items = &server.info()["metrics"]["items"];
    assert_eq!(items["connections_closed_1002"], 9.0, "{items}");
    assert_eq!(items["connections_closed_1007"], 3.0, "{items}");
    assert_eq!(items["connections_closed_1009"], 3.0, "{items}");
}

#[test]
fn a_close_is_answered_with_its_code_and_the_end() {
    let server = Server::dev(&[QUIET]);
    for (said, answered) in
        [(&b"\x03\xe8bye"[..], 1000), (b"", 1000), (b"\x0f\xa0", 4000), (b"\x0b\xc0", 3008)]
    {
        let mut raw = Raw::connect(server.address);
        raw.send(&frame(FIN | CLOSE, said));
        assert_eq!(raw.closed(), answered);
    }
    let info = server.wait_until("the end of all clients", |info| info["num_clients"] == 0);
    let items = &info["metrics"]["items"];
    assert_eq!(items["connections_closed_by_peer"], 4.0, "{items}");
    for code in [1000, 3008, 4000] {
        let counted = &items[format!("connections_closed_{code}")];
        assert!(counted.is_null(), "the server decided nothing: {items}");
    }
}

#[test]
fn commands_that_break_the_protocol_close_with_3501() {
    let server = Server::dev(&[QUIET]);
    let fresh: &[&str] = &[
        r#"{"id":1,"subscribe":{"channel":"c"}}"#,
        r#"{"id":1,"publish":{"channel":"c","data":1}}"#,
        r#"{"connect":{}}"#,
        "{}",
        "{",
        "[]",
        "",
        "\n\n",
    ];
    for text in fresh {
        let mut raw = Raw::open(server.address);
        raw.send(&frame(FIN | TEXT, text.as_bytes()));
        assert_eq!(raw.closed(), 3501, "{text:?} before connect");
    }
    let connected: &[&str] = &[
        r#"{"id":2,"connect":{}}"#,
        "{}",
        r#"{"id":2}"#,
        r#"{"id":2,"subscribe":{}}"#,
        r#"{"id":2,"unsubscribe":{"channel":""}}"#,
        "not JSON",
    ];
    for text in connected {
        let mut raw = Raw::connect(server.address);
        raw.send(&frame(FIN | TEXT, text.as_bytes()));
        assert_eq!(raw.closed(), 3501, "{text:?} when connected");
    }
    let count = (fresh.len() + connected.len()) as u64;
    assert_eq!(server.metric("connections_closed_3501"), count);
}

#[test]
fn who_does_not_connect_is_stale_and_who_does_stays() {
    let server = Server::dev(&[QUIET, ("TIDERACE_CLIENT_STALE_CLOSE_DELAY", "1s")]);
    let mut connected = Client::connect(server.address);
    let mut stale = Client::open(server.address);
    assert_eq!(stale.closed(), (3502, "stale".into()));
    // It came first: what closed the other would have closed it.
    connected.subscribe("c");
}

#[test]
fn who_does_not_answer_a_ping_is_closed_and_who_does_stays() {
    let environment =
        [("TIDERACE_CLIENT_PING_INTERVAL", "2s"), ("TIDERACE_CLIENT_PONG_TIMEOUT", "1900ms")];
    let server = Server::dev(&environment);
    let mut silent = Client::connect(server.address);
    silent.answers_pings = false;
    let mut alive = Client::connect(server.address);
    let closed = std::thread::spawn(move || silent.closed());
    while alive.pings < 2 || !closed.is_finished() {
        alive.await_pings(alive.pings + 1);
    }
    assert_eq!(closed.join().expect("it was closed"), (3012, "no pong".into()));
    alive.subscribe("c");
    assert_eq!(server.metric("connections_closed_3012"), 1);
}

#[test]
fn several_commands_in_one_message_and_fields_of_the_future() {
    let server = Server::dev(&[QUIET]);
    let mut client = Client::open(server.address);
    client.send(concat!(
        r#"{"id":1,"connect":{"name":"js","later":[1]},"whenever":{"a":null}}"#,
        "\n\n",
        r#"{"id":2,"subscribe":{"channel":"a","flag":7}}"#,
        "\n",
        r#"{"id":3,"subscribe":{"channel":"b"}}"#,
        "\n",
        r#"{"id":4,"publish":{"channel":"a","data":{"n":1},"later":true}}"#,
        "\n",
        r#"{"id":5,"unsubscribe":{"channel":"b"}}"#,
        "\n",
    ));
    assert!(client.line()["connect"]["client"].is_string());
    assert_eq!(client.line(), json!({"id": 2, "subscribe": {}}));
    assert_eq!(client.line(), json!({"id": 3, "subscribe": {}}));
    assert_eq!(client.reply(4), json!({"id": 4, "publish": {}}));
    assert_eq!(client.reply(5), json!({"id": 5, "unsubscribe": {}}));
    assert_eq!(client.data(), json!({"n": 1}));
}

#[test]
fn errors_have_the_codes_of_the_protocol() {
    let server = Server::dev(&[QUIET, ("TIDERACE_CLIENT_CHANNEL_LIMIT", "2")]);
    let mut client = Client::subscribed(server.address, "a");
    assert_eq!(client.error_of(&json!({"subscribe": {"channel": "a"}})), 105);
    client.subscribe("b");
    assert_eq!(client.error_of(&json!({"subscribe": {"channel": "c"}})), 106);
    let left = client.command(&json!({"unsubscribe": {"channel": "b"}}));
    assert_eq!(left["unsubscribe"], json!({}));
    client.subscribe(&"x".repeat(255));
    let long = "x".repeat(256);
    assert_eq!(client.error_of(&json!({"subscribe": {"channel": long}})), 107);
    assert_eq!(client.error_of(&json!({"publish": {"channel": "a"}})), 107);
    for method in ["rpc", "presence", "presence_stats", "history"] {
        assert_eq!(client.error_of(&json!({method: {"channel": "a"}})), 108, "{method}");
    }
    assert_eq!(
        client.command(&json!({"rpc": {"method": "m"}}))["error"]["message"],
        "not available"
    );
}

#[test]
fn outside_development_tokens_and_rules_decide() {
    const SECRET: &str = "a secret of the tests";
    let rules = [
        ("TIDERACE_HTTP_API_KEY", "k"),
        ("TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY", SECRET),
        ("TIDERACE_CLIENT_ALLOW_ANONYMOUS_CONNECT_WITHOUT_TOKEN", "true"),
        ("TIDERACE_CHANNEL_WITHOUT_NAMESPACE_ALLOW_SUBSCRIBE_FOR_CLIENT", "true"),
        ("TIDERACE_CHANNEL_WITHOUT_NAMESPACE_ALLOW_PUBLISH_FOR_SUBSCRIBER", "true"),
        QUIET,
    ];
    let server = Server::start(&["--shards", "2"], &rules);
    let mut anonymous = Client::connect(server.address);
    assert_eq!(anonymous.error_of(&json!({"subscribe": {"channel": "c"}})), 103);
    let publish = json!({"publish": {"channel": "c", "data": 1}});
    assert_eq!(anonymous.error_of(&publish), 103);

    let token = sign_connection(SECRET, "ann", None, Some(r#"{"role":"admin"}"#));
    let mut ann = Client::open(server.address);
    let connected = ann.command(&json!({"connect": {"token": token}}));
    let id = connected["connect"]["client"].as_str().expect("a client id").to_owned();
    assert_eq!(ann.error_of(&publish), 103, "not subscribed");
    ann.subscribe("c");
    ann.publish("c", &json!({"n": 1}));
    let (channel, publication) = ann.publication();
    let info = json!({"user": "ann", "client": id, "conn_info": {"role": "admin"}});
    assert_eq!((channel.as_str(), publication), ("c", json!({"data": {"n": 1}, "info": info})));
    server.publish("c", &json!(null));
    assert_eq!(ann.publication().1, json!({"data": null}), "the backend has no client info");

    let mut expired = Client::open(server.address);
    let token = sign_connection(SECRET, "bob", Some(1_000), None);
    assert_eq!(expired.error_of(&json!({"connect": {"token": token}})), 109);
    let mut forged = Client::open(server.address);
    forged.send_command(&json!({"connect": {"token": sign_connection("x", "ann", None, None)}}));
    assert_eq!(forged.closed(), (3500, "invalid token".into()));
    assert_eq!(server.info()["num_users"], 2, "ann, and all anonymous ones as one");
}

#[test]
fn after_an_unsubscribe_nothing_comes() {
    let server = Server::dev(&[QUIET]);
    for channel in ["a", "b", "c", "d"] {
        let mut witness = Client::subscribed(server.address, channel);
        let mut client = Client::subscribed(server.address, channel);
        server.publish(channel, &json!(1));
        assert_eq!((witness.data(), client.data()), (json!(1), json!(1)));
        client.command(&json!({"unsubscribe": {"channel": channel}}));
        server.publish(channel, &json!(2));
        assert_eq!(witness.data(), 2);
        client.subscribe(channel);
        server.publish(channel, &json!(3));
        assert_eq!(witness.data(), 3);
        // One connection's queue has one order: a 2 would stand before the 3.
        assert_eq!(client.data(), 3);
    }
}

#[test]
fn publications_of_many_have_one_order_for_all() {
    const PUBLISHERS: u64 = 4;
    const EACH: u64 = 500;
    let server = Server::dev(&[QUIET]);
    let mut subscribers: Vec<_> =
        (0..6).map(|_| Client::subscribed(server.address, "order")).collect();
    let address = server.address;
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                for n in 0..EACH {
                    client.publish("order", &json!([publisher, n]));
                }
            })
        })
        .collect();
    let orders: Vec<Vec<Value>> = subscribers
        .iter_mut()
        .map(|client| (0..PUBLISHERS * EACH).map(|_| client.data()).collect())
        .collect();
    for publisher in publishers {
        publisher.join().expect("every publish was answered");
    }
    assert!(orders.iter().all(|order| *order == orders[0]), "one order for all");
    for publisher in 0..PUBLISHERS {
        let own = orders[0].iter().filter(|data| data[0] == publisher).map(|data| &data[1]);
        assert!(own.eq(0..EACH), "what one client publishes keeps its order");
    }
}

#[test]
fn a_request_and_frames_behind_it_may_come_in_any_pieces() {
    let server = Server::dev(&[QUIET]);
    let subscribe = r#"{"id":2,"subscribe":{"channel":"u"},"note":"ü"}"#;
    let frames =
        [frame(FIN | TEXT, CONNECT.as_bytes()), frame(FIN | TEXT, subscribe.as_bytes())].concat();
    let all = [upgrade("").as_bytes(), &frames].concat();
    let check = |raw: &mut Raw| {
        raw.switched();
        assert!(raw.text().starts_with(r#"{"id":1,"connect":{"#));
        assert_eq!(raw.text(), r#"{"id":2,"subscribe":{}}"#);
    };
    let mut at_once = Raw::tcp(server.address);
    at_once.send(&all);
    check(&mut at_once);
    let mut bytewise = Raw::tcp(server.address);
    for byte in &all {
        bytewise.send(&[*byte]);
    }
    check(&mut bytewise);
    // Each half is read by itself: an answer to the first shows that it was.
    for at in 1..frames.len() {
        let mut raw = Raw::tcp(server.address);
        raw.send(upgrade("").as_bytes());
        raw.switched();
        raw.send(&frames[..at]);
        raw.send(&frames[at..]);
        assert!(raw.text().starts_with(r#"{"id":1,"connect":{"#), "cut at {at}");
        assert_eq!(raw.text(), r#"{"id":2,"subscribe":{}}"#, "cut at {at}");
    }
}

#[test]
fn pages_of_other_origins_are_refused() {
    let environment = [("TIDERACE_CLIENT_ALLOWED_ORIGINS", "https://*.example.com")];
    let server = Server::dev(&environment);
    for (origin, status) in [
        ("http://t", 101),
        ("https://app.example.com", 101),
        ("https://example.org", 403),
        ("https://app.example.com.example.org", 403),
        ("null", 403),
    ] {
        let response = upgrade_response(server.address, &format!("Origin: {origin}\r\n"));
        assert_eq!(response.status, status, "{origin}");
    }
    assert_eq!(upgrade_response(server.address, "").status, 101, "not a browser");
    let mut plain = http::Connection::open(server.address);
    assert_eq!(plain.request("GET", websocket::PATH, "", "").status, 426);
}

#[test]
fn who_wants_protobuf_is_told_before_the_upgrade_that_it_is_not_spoken() {
    let server = Server::dev(&[("TIDERACE_UNI_WEBSOCKET_ENABLED", "true")]);
    let uni = "/connection/uni_websocket";
    let offers = |names: &str| format!("Sec-WebSocket-Protocol: {names}\r\n");
    for (path, query, names, status) in [
        (websocket::PATH, "", "centrifuge-protobuf", 400),
        (websocket::PATH, "?cf_protocol=protobuf", "", 400),
        (websocket::PATH, "?a=b&format=protobuf", "", 400),
        (websocket::PATH, "?format=protobuf", "centrifuge-json", 400),
        (uni, "", "centrifuge-protobuf", 400),
        (uni, "?cf_protocol=protobuf", "", 400),
        (websocket::PATH, "", "centrifuge-protobuf, centrifuge-json", 101),
        (websocket::PATH, "?cf_protocol=json&format=json", "", 101),
        (websocket::PATH, "", "centrifuge-json", 101),
    ] {
        let mut connection = http::Connection::open(server.address);
        let headers = if names.is_empty() { String::new() } else { offers(names) };
        connection.send(websocket::upgrade_at(&format!("{path}{query}"), &headers).as_bytes());
        let response = connection.response();
        assert_eq!(response.status, status, "{path}{query} {names}: {response:?}");
        if status == 101 {
            let chosen = (!names.is_empty()).then_some("centrifuge-json");
            assert_eq!(response.header("sec-websocket-protocol"), chosen);
        } else {
            let error = &response.json()["error"];
            assert_eq!(error["code"], 400);
            let message = error["message"].as_str().expect("a text");
            assert!(message.starts_with("Protobuf is not spoken"), "{message}");
        }
    }
}

#[test]
fn a_full_server_says_so_before_the_upgrade_and_recovers() {
    let server = Server::dev(&[QUIET, ("TIDERACE_CLIENT_CONNECTION_LIMIT", "3")]);
    let clients: Vec<_> = (0..3).map(|_| Client::connect(server.address)).collect();
    for _ in 0..10 {
        let mut refused = http::Connection::open(server.address);
        refused.send(upgrade("").as_bytes());
        let response = refused.response();
        assert_eq!(response.status, 503);
        assert!(response.header("retry-after").is_some(), "{response:?}");
        assert!(refused.is_at_end());
    }
    clients.into_iter().for_each(Client::close);
    // The last packets of the goodbye may be under way.
    let began = Instant::now();
    while upgrade_response(server.address, "").status == 503 {
        assert!(began.elapsed() < DEADLINE, "no place became free");
    }
    assert!(server.metric("connections_refused") >= 10);
}

#[test]
fn a_slow_consumer_is_closed_and_hurts_nobody() {
    let server = Server::dev(&[QUIET, ("TIDERACE_CLIENT_QUEUE_MAX_SIZE", "65536")]);
    let mut slow = Client::subscribed(server.address, "c");
    let mut reader = Client::subscribed(server.address, "c");
    let filler = "x".repeat(64 << 10);
    let mut publications = 0;
    while server.metric("slow_consumers_closed") == 0 {
        for _ in 0..16 {
            server.publish("c", &json!([publications, filler]));
            assert_eq!(reader.data()[0], publications, "the other one misses nothing");
            publications += 1;
        }
        // 1 MiB at a time: far above what the kernel takes for a socket that nobody reads.
        assert!(publications < 16 * 200, "no bound was ever reached");
    }
    assert_eq!(slow.closed(), (3008, "slow".into()));
    server.publish("c", &json!("after"));
    assert_eq!(reader.data(), "after");
    let info = server.wait_until("its end", |info| info["num_subs"] == 1);
    let items = &info["metrics"]["items"];
    assert_eq!(
        (&items["slow_consumers_closed"], &items["connections_closed_3008"]),
        (&json!(1.0), &json!(1.0))
    );
    assert!(items["slow_consumer_bytes_dropped"].as_f64() > Some(0.0), "{items}");
}

#[test]
fn one_message_above_the_bound_fits_an_empty_queue() {
    let environment = [QUIET, ("TIDERACE_CLIENT_QUEUE_MAX_SIZE", "1024")];
    // One shard: by the time of the next request it has seen the end of the send before.
    let server = Server::start(&["--dev", "--shards", "1"], &environment);
    let mut client = Client::subscribed(server.address, "c");
    let large = json!("x".repeat(500_000));
    for _ in 0..3 {
        server.publish("c", &large);
        assert_eq!(client.data(), large);
    }
    assert_eq!(server.metric("slow_consumers_closed"), 0);
}
