//! The transports beside the bidirectional WebSocket, each against a running server of two shards.

mod support;

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use support::{
    Server,
    http::{Connection, request},
    stream::{Event, Stream, connect_request},
    websocket::{Client, FIN, Raw, TEXT, frame},
};
use tiderace::auth::tokens::sign_connection;

const SECRET: &str = "a secret of 32 bytes for the tests";

/// No ping of a session comes in between.
const QUIET: (&str, &str) = ("TIDERACE_CLIENT_PING_INTERVAL", "24h");

const BIDIRECTIONAL: [&str; 3] = ["sse", "POST sse", "http_stream"];
const UNIDIRECTIONAL: [&str; 3] = ["uni_sse", "POST uni_sse", "uni_http_stream"];

/// A server where tokens count: users may subscribe and nothing else, anonymous ones may connect.
fn strict(environment: &[(&str, &str)]) -> Server {
    let environment: Vec<_> = [
        QUIET,
        ("TIDERACE_HTTP_API_KEY", "key"),
        ("TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY", SECRET),
        ("TIDERACE_CLIENT_ALLOW_ANONYMOUS_CONNECT_WITHOUT_TOKEN", "true"),
        ("TIDERACE_CHANNEL_WITHOUT_NAMESPACE_ALLOW_SUBSCRIBE_FOR_CLIENT", "true"),
        ("TIDERACE_SSE_ENABLED", "true"),
        ("TIDERACE_HTTP_STREAM_ENABLED", "true"),
        ("TIDERACE_UNI_WEBSOCKET_ENABLED", "true"),
        ("TIDERACE_UNI_SSE_ENABLED", "true"),
        ("TIDERACE_UNI_HTTP_STREAM_ENABLED", "true"),
        ("TIDERACE_EVENTS_ENABLED", "true"),
    ]
    .into_iter()
    .chain(environment.iter().copied())
    .collect();
    Server::start(&["--shards", "2"], &environment)
}

/// Says something for a stream, over a connection that may belong to another shard.
fn say(connection: &mut Connection, stream: &Stream, commands: &str) {
    let headers = "Content-Type: application/json\r\n";
    let response = connection.request("POST", "/emulation", headers, &stream.says(commands));
    assert_eq!((response.status, response.body.len()), (204, 0), "{response:?}");
}

/// Two streams of different shards.
fn one_on_each_shard(server: &Server, transport: &str) -> [Stream; 2] {
    let first = Stream::connect(server.address, transport);
    loop {
        let second = Stream::connect(server.address, transport);
        if second.shard() != first.shard() {
            return [first, second];
        }
    }
}

fn publication(channel: &str, data: &Value) -> Value {
    json!({"channel": channel, "pub": {"data": data}})
}

/// A unidirectional stream, and what its connect push says.
fn uni(server: &Server, transport: &str, request: &Value) -> (Stream, Value) {
    let mut stream =
        Stream::open(server.address, &connect_request(transport, &request.to_string()));
    let mut push = stream.json().expect("a connect push");
    assert_eq!(push.as_object().map(serde_json::Map::len), Some(1), "{push}");
    (stream, push["connect"].take())
}

fn events(server: &Server, target: &str) -> Stream {
    Stream::open(server.address, &request("GET", target, "", ""))
}

/// Waits until so many subscriptions are active.
fn await_subscriptions(server: &Server, count: u64) {
    server.wait_until("the subscriptions", |info| info["num_subs"] == count);
}

#[test]
fn clients_of_streams_speak_over_any_connection_of_any_shard() {
    let server = Server::dev(&[QUIET]);
    for transport in BIDIRECTIONAL {
        let mut streams = one_on_each_shard(&server, transport);
        // Whichever shard it belongs to, for one of the two it is another one.
        let mut upstream = Connection::open(server.address);
        for stream in &mut streams {
            say(&mut upstream, stream, r#"{"id":2,"subscribe":{"channel":"c"}}"#);
            assert_eq!(stream.json(), Some(json!({"id": 2, "subscribe": {}})), "{transport}");
            let two = "{\"id\":3,\"publish\":{\"channel\":\"d\",\"data\":1}}\n\
                       {\"id\":4,\"rpc\":{\"method\":\"m\"}}";
            say(&mut upstream, stream, two);
            assert_eq!(stream.json(), Some(json!({"id": 3, "publish": {}})));
            let error = json!({"code": 108, "message": "not available"});
            assert_eq!(stream.json(), Some(json!({"id": 4, "error": error})));
        }
        server.publish("c", &json!({"from": "api"}));
        say(&mut upstream, &streams[0], r#"{"id":5,"publish":{"channel":"c","data":5}}"#);
        assert_eq!(streams[1].json().unwrap()["push"], publication("c", &json!({"from": "api"})));
        assert_eq!(streams[1].json().unwrap()["push"]["pub"]["data"], 5);
        // The reply stands where its command was read; the publications keep their own order.
        let heard: Vec<Value> = std::iter::from_fn(|| streams[0].json()).take(3).collect();
        let data: Vec<_> = heard.iter().map(|heard| &heard["push"]["pub"]["data"]).collect();
        let data: Vec<_> = data.into_iter().filter(|data| !data.is_null()).collect();
        assert_eq!(data, [&json!({"from": "api"}), &json!(5)]);
        assert!(heard.contains(&json!({"id": 5, "publish": {}})), "{heard:?}");
        for stream in &mut streams {
            say(&mut upstream, stream, r#"{"id":6,"unsubscribe":{"channel":"c"}}"#);
            assert_eq!(stream.json(), Some(json!({"id": 6, "unsubscribe": {}})));
        }
    }
    server.wait_until("the end of all clients", |info| info["num_clients"] == 0);
}

#[test]
fn nobody_speaks_for_a_stream_without_knowing_its_name() {
    let server = Server::dev(&[QUIET]);
    let mut stream = Stream::connect(server.address, "http_stream");
    let mut upstream = Connection::open(server.address);
    let mut status = |session: &str, node: &str, data: Value| {
        let body = json!({"session": session, "node": node, "data": data}).to_string();
        upstream.request("POST", "/emulation", "", &body).status
    };
    let (session, node) = (stream.session.clone(), stream.node.clone());
    let other = |at: usize| {
        let mut name = session.clone().into_bytes();
        name[at] = if name[at] == b'0' { b'1' } else { b'0' };
        String::from_utf8(name).unwrap()
    };
    let subscribe = json!(r#"{"id":2,"subscribe":{"channel":"c"}}"#);
    for wrong in [other(0), other(3), other(11), other(19), other(20), other(51), "x".into()] {
        assert_eq!(status(&wrong, &node, subscribe.clone()), 204, "nobody learns what there is");
    }
    assert_eq!(status(&session, "another node", subscribe.clone()), 404);
    assert_eq!(status(&session, &node, json!({"id": 2})), 400, "commands are a text");
    assert_eq!(status(&session, &node, json!("x".repeat(65_536))), 413);
    assert_eq!(
        status(&session, &node, json!(r#"{"id":3,"publish":{"channel":"c","data":1}}"#)),
        204
    );
    assert_eq!(stream.json(), Some(json!({"id": 3, "publish": {}})), "nothing else was heard");
    assert_eq!(server.info()["num_subs"], 0);

    // Who may not be spoken for: a client that says nothing but who it is.
    let (mut silent, connect) = uni(&server, "uni_http_stream", &json!({"subs": {"c": {}}}));
    await_subscriptions(&server, 1);
    let session = connect["session"].as_str().expect("it has a name").to_owned();
    assert_eq!(status(&session, &node, json!(r#"{"id":2,"unsubscribe":{"channel":"c"}}"#)), 204);
    server.publish("c", &json!(1));
    assert_eq!(silent.json(), Some(publication("c", &json!(1))));
}

#[test]
fn unidirectional_clients_get_bare_pushes() {
    let server = Server::dev(&[QUIET]);
    let wanted = json!({"name": "test", "subs": {"a": {}, "b": {"recover": true}}});
    let mut streams: Vec<Stream> = Vec::new();
    for transport in UNIDIRECTIONAL {
        let (stream, connect) = uni(&server, transport, &wanted);
        assert_eq!(connect["client"].as_str().map(str::len), Some(36), "{connect}");
        assert!(connect["session"].is_string() && connect["version"].is_string(), "{connect}");
        assert!(connect["pong"].is_null(), "nobody answers pings: {connect}");
        assert_eq!(connect["subs"], json!({"a": {}, "b": {}}));
        streams.push(stream);
    }
    let mut raw = Raw::open_at(server.address, "/connection/uni_websocket");
    raw.send(&frame(FIN | TEXT, wanted.to_string().as_bytes()));
    let connect: Value = serde_json::from_str(&raw.text()).unwrap();
    assert_eq!(connect["connect"]["client"].as_str().map(str::len), Some(36), "{connect}");
    raw.send(&frame(FIN | TEXT, b"whatever comes behind means nothing"));
    await_subscriptions(&server, 8);
    let mut websocket = Client::subscribed(server.address, "a");
    let before = server.metric("frames_encoded");
    for channel in ["a", "b"] {
        let data = json!({"in": channel});
        server.publish(channel, &data);
        let push = publication(channel, &data);
        for stream in &mut streams {
            assert_eq!(stream.json(), Some(push.clone()));
        }
        assert_eq!(serde_json::from_str::<Value>(&raw.text()).unwrap(), push);
    }
    assert_eq!(websocket.data(), json!({"in": "a"}));
    assert_eq!(server.metric("frames_encoded"), before + 2, "once for all kinds of clients");
    drop((raw, streams, websocket));
    server.wait_until("the end of all clients", |info| info["num_clients"] == 0);
}

#[test]
fn unidirectional_clients_that_may_not_connect_are_told_why() {
    let server = strict(&[]);
    let token = sign_connection(SECRET, "42", None, None);
    let wanted = json!({"token": token, "subs": {"c": {}}});
    let forged = json!({"token": sign_connection("another secret", "42", None, None)});
    let expired = json!({"token": sign_connection(SECRET, "42", Some(1000), None)});
    for transport in UNIDIRECTIONAL {
        for (request, code) in [(&forged, 3500), (&expired, 3005)] {
            let request = connect_request(transport, &request.to_string());
            let mut stream = Stream::open(server.address, &request);
            let push = stream.json().expect("a disconnect push");
            assert_eq!(push["disconnect"]["code"], code, "{transport}: {push}");
            assert_eq!(stream.next(), None);
        }
        let mut malformed = Connection::open(server.address);
        malformed.send(connect_request(transport, "[]").as_bytes());
        assert_eq!(malformed.response().status, 400, "{transport}");
        // What the anonymous user may not have is left out.
        let (_anonymous, connect) = uni(&server, transport, &json!({"subs": {"c": {}}}));
        assert!(connect["subs"].is_null(), "{connect}");
        let (mut stream, connect) = uni(&server, transport, &wanted);
        assert_eq!(connect["subs"], json!({"c": {}}));
        await_subscriptions(&server, 1);
        server.publish("c", &json!(1));
        assert_eq!(stream.json(), Some(publication("c", &json!(1))));
        drop(stream);
        await_subscriptions(&server, 0);
    }
    for (text, code) in [(forged.to_string(), 3500), ("[]".into(), 3501)] {
        let mut raw = Raw::open_at(server.address, "/connection/uni_websocket");
        raw.send(&frame(FIN | TEXT, text.as_bytes()));
        let push: Value = serde_json::from_str(&raw.text()).unwrap();
        assert_eq!(push["disconnect"]["code"], code);
        assert_eq!(raw.closed(), code);
    }
}

#[test]
fn pings_keep_streams_alive_and_who_should_answer_must() {
    let environment =
        [("TIDERACE_CLIENT_PING_INTERVAL", "2s"), ("TIDERACE_CLIENT_PONG_TIMEOUT", "1900ms")];
    let server = Server::dev(&environment);
    let mut alive = Stream::connect(server.address, "sse");
    let mut upstream = Connection::open(server.address);
    let mut silent = Stream::connect(server.address, "http_stream");
    let (mut one_way, _) = uni(&server, "uni_sse", &json!({}));
    let mut plain = events(&server, "/events/c");
    let closed = std::thread::spawn(move || (silent.rest(), silent.pings));
    while alive.pings < 2 || !closed.is_finished() {
        alive.await_pings(alive.pings + 1);
        say(&mut upstream, &alive, "{}");
    }
    let (told, pings) = closed.join().expect("it was closed");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].data, r#"{"push":{"disconnect":{"code":3012,"reason":"no pong"}}}"#);
    assert!(pings >= 1);
    one_way.await_pings(2);
    plain.await_comments(3);
    say(&mut upstream, &alive, r#"{"id":2,"subscribe":{"channel":"c"}}"#);
    assert_eq!(alive.json(), Some(json!({"id": 2, "subscribe": {}})));
    assert_eq!(server.metric("connections_closed_3012"), 1);
}

#[test]
fn streams_end_with_the_reason_and_in_order() {
    let server = strict(&[]);
    let token = sign_connection("another secret", "42", None, None);
    let cases = [
        ("{\"id\":1,\"subscribe\":{\"channel\":\"c\"}}".to_owned(), 3501),
        ("nonsense".to_owned(), 3501),
        (format!("{{\"id\":1,\"connect\":{{\"token\":\"{token}\"}}}}"), 3500),
    ];
    for transport in BIDIRECTIONAL {
        for (text, code) in &cases {
            let mut stream = Stream::open(server.address, &connect_request(transport, text));
            let told = stream.json().expect("a reason");
            assert_eq!(told["push"]["disconnect"]["code"], *code, "{transport} {text}");
            assert!(told["push"]["disconnect"]["reason"].is_string());
            assert_eq!(stream.next(), None);
        }
        let mut stream = Stream::connect(server.address, transport);
        say(&mut Connection::open(server.address), &stream, "{");
        let told = stream.json().expect("a reason");
        assert_eq!(told["push"]["disconnect"], json!({"code": 3501, "reason": "bad request"}));
        assert_eq!(stream.next(), None);
    }
    let count = (BIDIRECTIONAL.len() * 3) as u64;
    assert_eq!(server.metric("connections_closed_3501"), count);
    assert_eq!(server.info()["num_clients"], 0);
}

#[test]
fn a_stream_ends_when_its_client_says_so_and_not_before() {
    let server = Server::dev(&[QUIET]);
    let mut stream = Stream::connect(server.address, "http_stream");
    stream.send(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n");
    say(&mut Connection::open(server.address), &stream, r#"{"id":2,"subscribe":{"channel":"c"}}"#);
    assert_eq!(stream.json(), Some(json!({"id": 2, "subscribe": {}})), "input is ignored");
    stream.finish();
    assert_eq!(stream.rest(), [], "who has left is told nothing more than that it is over");
    server.wait_until("its end", |info| info["num_clients"] == 0 && info["num_subs"] == 0);

    let mut noisy = Stream::connect(server.address, "sse");
    noisy.send(&[b'x'; 17 << 10]);
    let told = noisy.json().expect("a reason");
    assert_eq!(told["push"]["disconnect"]["code"], 3501, "what is ignored is bounded");
    assert_eq!(noisy.next(), None);
}

#[test]
fn a_stream_that_nobody_reads_is_closed_and_ends_between_two_messages() {
    let server = Server::dev(&[QUIET, ("TIDERACE_CLIENT_QUEUE_MAX_SIZE", "65536")]);
    let (mut lines, _) = uni(&server, "uni_http_stream", &json!({"subs": {"c": {}}}));
    let mut plain = events(&server, "/events/c");
    await_subscriptions(&server, 2);
    let data = json!("x".repeat(60_000));
    let mut published = 0;
    let mut backend = Connection::open(server.address);
    while server.metric("slow_consumers_closed") < 2 {
        let body = json!({"channel": "c", "data": data});
        assert_eq!(backend.api(&server.api_key, "publish", &body), json!({"result": {}}));
        published += 1;
        assert!(published < 10_000, "sockets are not that large");
    }
    assert_eq!(server.metric("connections_closed_3008"), 2);
    assert!(server.metric("slow_consumer_bytes_dropped") > 0);
    let told = lines.rest();
    let (last, whole) = told.split_last().expect("something was sent");
    assert_eq!(last.data, r#"{"disconnect":{"code":3008,"reason":"slow"}}"#);
    assert!(whole.len() < published && !whole.is_empty());
    let push = publication("c", &data).to_string();
    assert!(whole.iter().all(|message| message.data == push), "no message is cut");
    let last = plain.rest().pop().expect("something was sent");
    assert_eq!(last.name.as_deref(), Some("disconnect"), "{last:?}");
    assert_eq!(last.data, r#"{"code":3008,"reason":"slow"}"#);
}

#[test]
fn a_drain_ends_every_stream_with_3001() {
    let server = Server::dev(&[QUIET]);
    let mut bidirectional = BIDIRECTIONAL.map(|name| Stream::connect(server.address, name));
    let mut unidirectional =
        UNIDIRECTIONAL.map(|name| uni(&server, name, &json!({"subs": {"c": {}}})).0);
    let mut plain = events(&server, "/events/c");
    let mut raw = Raw::open_at(server.address, "/connection/uni_websocket");
    raw.send(&frame(FIN | TEXT, b"{}"));
    raw.text();
    await_subscriptions(&server, 4);
    server.publish("c", &json!(1));
    server.terminate();
    let told = r#"{"disconnect":{"code":3001,"reason":"shutdown"}}"#;
    for stream in &mut bidirectional {
        assert_eq!(stream.next().map(|event| event.data), Some(format!("{{\"push\":{told}}}")));
        assert_eq!(stream.next(), None);
    }
    for stream in &mut unidirectional {
        assert_eq!(stream.json(), Some(publication("c", &json!(1))), "acknowledged, so delivered");
        assert_eq!(stream.next().map(|event| event.data).as_deref(), Some(told));
        assert_eq!(stream.next(), None);
    }
    let rest = plain.rest();
    assert_eq!(rest[0].data, "1");
    assert_eq!(rest[1].name.as_deref(), Some("disconnect"));
    assert_eq!(rest[1].data, r#"{"code":3001,"reason":"shutdown"}"#);
    assert_eq!(raw.text(), told);
    assert_eq!(raw.closed(), 3001);
    let (status, stderr) = server.wait();
    assert!(status.success(), "{status}\n{stderr}");
}

#[test]
fn a_channel_is_an_event_stream_for_any_client() {
    let server = strict(&[]);
    let token = sign_connection(SECRET, "42", None, None);
    let mut by_parameter = events(&server, &format!("/events/a%20b?token={token}"));
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let mut by_header = Stream::open(server.address, &request("GET", "/events/a%20b", &bearer, ""));
    await_subscriptions(&server, 2);
    assert_eq!(server.info()["num_users"], 1);
    server.publish("a b", &json!({"text": "1\n2"}));
    server.publish("a b", &json!("x"));
    for stream in [&mut by_parameter, &mut by_header] {
        let event = |data: &str| Some(Event { data: data.into(), ..Event::default() });
        assert_eq!(stream.next(), event(r#"{"text":"1\n2"}"#));
        assert_eq!(stream.next(), event("\"x\""));
        // Not all at once, and not for ever.
        assert!(stream.retry_ms.is_some_and(|ms| (1_000..3_000).contains(&ms)), "it comes back");
    }
    // What a bare EventSource should not try again is no stream at all.
    let forged = sign_connection("another secret", "42", None, None);
    let expired = sign_connection(SECRET, "42", Some(1000), None);
    let claims = json!({"sub": "42", "channels": ["nowhere:c"]});
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let elsewhere = encode(&Header::default(), &claims, &key).expect("a token");
    let long = "x".repeat(256);
    for (target, status) in [
        ("/events/c".to_owned(), 403),
        (format!("/events/c?token={forged}"), 401),
        (format!("/events/c?token={expired}"), 401),
        (format!("/events/{long}?token={token}"), 400),
        (format!("/events/%C3%A9?token={token}"), 400),
        (format!("/events/nowhere:c?token={token}"), 404),
        ("/events/nowhere:c".to_owned(), 404),
        (format!("/events/nowhere:c?token={forged}"), 401),
        (format!("/events/nowhere:c?token={elsewhere}"), 404),
        (format!("/events/$private?token={token}"), 403),
    ] {
        let mut connection = Connection::open(server.address);
        let response = connection.request("GET", &target, "", "");
        assert_eq!(response.status, status, "{target}: {response:?}");
        let error = &response.json()["error"];
        assert_eq!(error["code"], status);
        if status == 404 {
            assert_eq!(error["message"], "unknown channel");
        }
        assert!(connection.is_at_end());
    }
    let head = Connection::open(server.address).request("HEAD", "/events/c", "", "");
    assert_eq!((head.status, head.header("allow")), (405, Some("GET, OPTIONS")));
}

#[test]
fn an_event_stream_goes_on_where_its_client_was() {
    let environment = [
        QUIET,
        ("TIDERACE_CHANNEL_WITHOUT_NAMESPACE_HISTORY_SIZE", "5"),
        ("TIDERACE_CHANNEL_WITHOUT_NAMESPACE_HISTORY_TTL", "10m"),
    ];
    let server = Server::dev(&environment);
    let publish = |n: u64| {
        let answer = server.api("publish", &json!({"channel": "c", "data": n}));
        assert!(answer["result"].is_object(), "{answer}");
    };
    let mut stream = events(&server, "/events/c");
    let at = stream.position();
    let (epoch, offset) = at.rsplit_once(':').expect("an epoch and an offset");
    assert_eq!(offset, "0", "where it begins is known before anything is published");
    let event = |n: u64| {
        let (id, data) = (Some(format!("{epoch}:{n}")), n.to_string());
        Some(Event { id, name: None, data })
    };
    publish(1);
    publish(2);
    assert_eq!((stream.next(), stream.next()), (event(1), event(2)));
    drop(stream);
    publish(3);
    publish(4);
    let header = format!("Last-Event-ID: {epoch}:2\r\n");
    let mut returned = Stream::open(server.address, &request("GET", "/events/c", &header, ""));
    let mut by_parameter = events(&server, &format!("/events/c?last_event_id={epoch}:2"));
    assert_eq!(by_parameter.next(), event(3));
    publish(5);
    let heard: Vec<_> = (0..3).map(|_| returned.next()).collect();
    assert_eq!(heard, [event(3), event(4), event(5)], "nothing missing, nothing twice");
    let mut late = events(&server, "/events/c");
    assert_eq!(late.position(), format!("{epoch}:5"), "who asks for nothing gets what comes");
    (6..=9).for_each(publish);
    // The history has 5 to 9: what is behind that is said to be missing, and the stream goes on.
    for lost in [format!("{epoch}:2"), "another:9".to_owned()] {
        let mut stream = events(&server, &format!("/events/c?last_event_id={lost}"));
        let missed = stream.next().expect("an event");
        assert_eq!(missed.name.as_deref(), Some("unrecovered"), "{missed:?}");
        assert_eq!(stream.position(), format!("{epoch}:9"));
    }
    assert_eq!(late.next(), event(6));
}

#[test]
fn an_event_stream_is_about_its_channel_alone() {
    let personal = [
        ("TIDERACE_CLIENT_SUBSCRIBE_TO_USER_PERSONAL_CHANNEL_ENABLED", "true"),
        ("TIDERACE_CHANNEL_WITHOUT_NAMESPACE_ALLOW_USER_LIMITED_CHANNELS", "true"),
    ];
    let server = strict(&personal);
    let token = sign_connection(SECRET, "42", None, None);
    let mut stream = events(&server, &format!("/events/c?token={token}"));
    let (mut all, connect) = uni(&server, "uni_sse", &json!({"token": token}));
    assert_eq!(connect["subs"], json!({"#42": {}}));
    server.publish("#42", &json!("personal"));
    server.publish("c", &json!("of the channel"));
    assert_eq!(all.json(), Some(publication("#42", &json!("personal"))));
    assert_eq!(stream.next().map(|event| event.data).as_deref(), Some("\"of the channel\""));
}

#[test]
fn who_comes_and_goes_is_a_bare_push_too() {
    let environment = [
        QUIET,
        ("TIDERACE_CHANNEL_WITHOUT_NAMESPACE_JOIN_LEAVE", "true"),
        ("TIDERACE_CHANNEL_WITHOUT_NAMESPACE_FORCE_PUSH_JOIN_LEAVE", "true"),
    ];
    let server = Server::dev(&environment);
    let wanted = json!({"subs": {"c": {}}});
    let (mut first, connect) = uni(&server, "uni_http_stream", &wanted);
    let seen = |push: &Value, kind: &str| {
        assert_eq!(push["channel"], "c", "{push}");
        push[kind]["info"]["client"].clone()
    };
    assert_eq!(seen(&first.json().unwrap(), "join"), connect["client"]);
    let (second, connect) = uni(&server, "uni_sse", &wanted);
    assert_eq!(seen(&first.json().unwrap(), "join"), connect["client"]);
    drop(second);
    assert_eq!(seen(&first.json().unwrap(), "leave"), connect["client"]);
}

#[test]
fn pages_of_allowed_origins_may_use_all_of_it() {
    let server = Server::dev(&[QUIET, ("TIDERACE_CLIENT_ALLOWED_ORIGINS", "https://a.org")]);
    let mut connection = Connection::open(server.address);
    let preflight = |connection: &mut Connection, path: &str, origin: &str| {
        let headers =
            format!("Origin: {origin}\r\nAccess-Control-Request-Headers: content-type\r\n");
        connection.request("OPTIONS", path, &headers, "")
    };
    for path in ["/emulation", "/connection/http_stream", "/connection/sse", "/events/c"] {
        let allowed = preflight(&mut connection, path, "https://a.org");
        assert_eq!(allowed.status, 204);
        assert_eq!(allowed.header("access-control-allow-origin"), Some("https://a.org"));
        assert_eq!(allowed.header("access-control-allow-headers"), Some("content-type"));
        assert_eq!(allowed.header("access-control-allow-credentials"), Some("true"));
        let other = preflight(&mut connection, path, "https://b.org");
        assert_eq!((other.status, other.header("access-control-allow-origin")), (403, None));
    }
    let own = "Origin: https://a.org\r\n";
    let stream = Stream::open(server.address, &request("GET", "/events/c", own, ""));
    assert_eq!(stream.head.header("access-control-allow-origin"), Some("https://a.org"));
    let text = r#"{"id":1,"connect":{}}"#;
    let open = request("POST", "/connection/http_stream", own, text);
    let mut stream = Stream::open(server.address, &open);
    assert_eq!(stream.head.header("access-control-allow-origin"), Some("https://a.org"));
    let reply = stream.json().expect("a connect reply");
    stream.session = reply["connect"]["session"].as_str().expect("a name").into();
    stream.node = reply["connect"]["node"].as_str().expect("a name").into();
    let body = stream.says(r#"{"id":2,"subscribe":{"channel":"c"}}"#);
    let said = connection.request("POST", "/emulation", own, &body);
    assert_eq!(said.header("access-control-allow-origin"), Some("https://a.org"));
    assert_eq!(said.status, 204);
    let other = "Origin: https://b.org\r\n";
    assert_eq!(connection.request("POST", "/emulation", other, &body).status, 403);
    assert_eq!(connection.request("GET", "/events/c", other, "").status, 403);
}

#[test]
fn streams_count_as_connections() {
    let server = Server::dev(&[QUIET, ("TIDERACE_CLIENT_CONNECTION_LIMIT", "2")]);
    let stream = Stream::connect(server.address, "sse");
    let second = events(&server, "/events/c");
    let mut third = Connection::open(server.address);
    third.send(connect_request("http_stream", r#"{"id":1,"connect":{}}"#).as_bytes());
    let response = third.response();
    assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
    drop((stream, second));
    let began = std::time::Instant::now();
    loop {
        let mut connection = Connection::open(server.address);
        connection.send(connect_request("http_stream", r#"{"id":1,"connect":{}}"#).as_bytes());
        if connection.response().status == 200 {
            break;
        }
        assert!(began.elapsed() < support::DEADLINE, "their places come back");
        std::thread::yield_now();
    }
}
