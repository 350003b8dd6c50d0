//! The HTTP API, health and the page over HTTP/1.1 as backends and proxies speak it.

mod support;

use serde_json::{Value, json};
use support::{
    Server,
    http::{Connection, request},
    websocket::Client,
};

fn publish(server: &Server, channel: &str) -> String {
    let headers = format!("X-API-Key: {}\r\n", server.api_key);
    let body = json!({"channel": channel, "data": {}}).to_string();
    request("POST", "/api/publish", &headers, &body)
}

#[test]
fn one_connection_serves_many_requests() {
    let server = Server::dev(&[]);
    let mut connection = Connection::open(server.address);
    let health = connection.request("GET", "/health", "", "");
    assert_eq!((health.status, health.json()), (200, json!({})));
    assert_eq!(health.header("connection"), Some("keep-alive"));
    let page = connection.request("GET", "/", "", "");
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(String::from_utf8_lossy(&page.body).contains(&server.api_key));
    let head = connection.request("HEAD", "/health", "", "");
    assert_eq!((head.status, head.header("content-length")), (200, Some("2")));
    assert_eq!(connection.request("POST", "/health", "", "").status, 405);
    assert_eq!(connection.request("GET", "/nowhere", "", "").status, 404);
    assert_eq!(
        connection.api(&server.api_key, "publish", &json!({"channel": "c", "data": 1})),
        json!({"result": {}})
    );
    let last = connection.request("GET", "/health", "Connection: close\r\n", "");
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(connection.is_at_end());
}

#[test]
fn what_is_wrong_is_said_in_json() {
    let server = Server::dev(&[("TIDERACE_HTTP_API_MAX_REQUEST_BODY_SIZE", "1000")]);
    let key = format!("X-API-Key: {}\r\n", server.api_key);
    let wrong_key = "X-API-Key: guess\r\n";
    let good = r#"{"channel":"c","data":1}"#;
    let large = format!(r#"{{"channel":"c","data":"{}"}}"#, "x".repeat(1000));
    for (method, path, headers, body, status) in [
        ("POST", "/api/publish", &*key, r#"{"channel":"c","data":}"#, 400),
        ("POST", "/api/publish", &key, "", 400),
        ("POST", "/api/publish", &key, "[]", 400),
        ("POST", "/api/publish", wrong_key, good, 401),
        ("POST", "/api/publish", "", good, 401),
        ("POST", "/api/publish", wrong_key, "{", 401),
        ("GET", "/api/nonsense", "", "", 401),
        ("POST", "/api/nonsense", &key, "{}", 404),
        ("GET", "/api/publish", &key, "", 405),
        ("POST", "/api/publish", &key, &large, 413),
    ] {
        let response = Connection::open(server.address).request(method, path, headers, body);
        assert_eq!(response.status, status, "{method} {path} {body}: {response:?}");
        let error = &response.json()["error"];
        assert_eq!(error["code"], status, "{error}");
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
        assert_eq!(response.header("allow"), (status == 405).then_some("POST"));
    }
    for (body, code) in [
        (json!({"data": 1}), 107),
        (json!({"channel": "c"}), 107),
        (json!({"channel": "x".repeat(256), "data": 1}), 107),
        (json!({"channel": "c", "data": 1, "idempotency_key": "k".repeat(256)}), 107),
    ] {
        assert_eq!(server.api("publish", &body)["error"]["code"], code, "{body}");
    }
    assert_eq!(server.api("presence", &json!({"channel": "c"}))["error"]["code"], 108);
    let transport = format!("{key}X-Centrifugo-Error-Mode: transport\r\n");
    let response =
        Connection::open(server.address).request("POST", "/api/publish", &transport, "{}");
    assert_eq!((response.status, &response.json()["code"]), (400, &json!(107)));
    for headers in [format!("Authorization: apikey {}\r\n", server.api_key), key.clone()] {
        let response =
            Connection::open(server.address).request("POST", "/api/publish", &headers, good);
        assert_eq!(response.status, 200);
    }
    let query = format!("/api/publish?api_key={}", server.api_key);
    assert_eq!(Connection::open(server.address).request("POST", &query, "", good).status, 200);
}

#[test]
fn a_body_too_large_is_refused_before_it_is_sent() {
    let server = Server::dev(&[]);
    let mut connection = Connection::open(server.address);
    let key = &server.api_key;
    connection.send(
        format!("POST /api/publish HTTP/1.1\r\nHost: t\r\nX-API-Key: {key}\r\nContent-Length: 1048577\r\n\r\n")
            .as_bytes(),
    );
    assert_eq!(connection.response().status, 413);
    assert!(connection.is_at_end());
}

#[test]
fn who_sends_much_too_much_is_told_so() {
    let server = Server::dev(&[]);
    let key = &server.api_key;
    let mut request = format!(
        "POST /api/publish HTTP/1.1\r\nHost: t\r\nX-API-Key: {key}\r\nContent-Length: 1500000\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + 1_500_000, b'x');
    // How much of it comes before the answer is on its way is another in each of them.
    for _ in 0..20 {
        let mut connection = Connection::open(server.address);
        connection.send_what_is_taken(&request);
        assert_eq!(connection.response().status, 413);
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let server = Server::dev(&[]);
    let headers = format!("X-API-Key: {}\r\n", server.api_key);
    // The number of outcomes tells the answers apart; their channels live on both shards.
    let broadcast = |count: usize| {
        let channels: Vec<_> = (0..count).map(|n| format!("{count}-{n}")).collect();
        let body = json!({"channels": channels, "data": count}).to_string();
        request("POST", "/api/broadcast", &headers, &body)
    };
    let health = request("GET", "/health", "", "");
    let requests: String =
        (1..=100).map(|n| if n % 10 == 0 { health.clone() } else { broadcast(n) }).collect();
    let mut connection = Connection::open(server.address);
    connection.send(requests.as_bytes());
    for n in 1..=100 {
        let response = connection.response();
        assert_eq!(response.status, 200);
        let outcomes = response.json()["result"]["responses"].as_array().map(Vec::len);
        assert_eq!(outcomes, (n % 10 != 0).then_some(n), "answer {n}");
    }
}

#[test]
fn a_broadcast_reaches_each_of_a_thousand_channels_once() {
    const CHANNELS: usize = 1000;
    let server = Server::dev(&[("TIDERACE_CLIENT_CHANNEL_LIMIT", "1000")]);
    let channels: Vec<_> = (0..CHANNELS).map(|n| format!("channel-{n}")).collect();
    let mut client = Client::connect(server.address);
    for channel in &channels {
        client.subscribe(channel);
    }
    let shards = server.info()["shards"].clone();
    let homes: Vec<_> = (0..2).map(|shard| shards[shard]["num_channels"].as_u64()).collect();
    assert!(homes.iter().all(|channels| *channels > Some(0)), "both shards are homes: {homes:?}");
    let answer = server.api("broadcast", &json!({"channels": channels, "data": {"n": 7}}));
    let outcomes = answer["result"]["responses"].as_array().expect("outcomes");
    assert_eq!(outcomes.len(), CHANNELS);
    assert!(outcomes.iter().all(|outcome| *outcome == json!({"result": {}})));
    let mut reached: Vec<_> = (0..CHANNELS)
        .map(|_| {
            let (channel, publication) = client.publication();
            assert_eq!(publication, json!({"data": {"n": 7}}));
            channel
        })
        .collect();
    reached.sort();
    let mut wanted = channels;
    wanted.sort();
    assert_eq!(reached, wanted);
    assert_eq!(server.metric("frames_encoded"), CHANNELS as u64);
}

#[test]
fn old_and_careful_clients_are_served() {
    let server = Server::dev(&[]);
    let mut old = Connection::open(server.address);
    old.send(b"GET /health HTTP/1.0\r\n\r\n");
    let response = old.response();
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    assert!(old.is_at_end());

    let mut careful = Connection::open(server.address);
    let body = json!({"channel": "c", "data": 1}).to_string();
    let (key, length) = (&server.api_key, body.len());
    careful.send(
        format!(
            "POST /api/publish HTTP/1.1\r\nHost: t\r\nX-API-Key: {key}\r\nExpect: 100-continue\r\n\
             Content-Length: {length}\r\n\r\n"
        )
        .as_bytes(),
    );
    assert_eq!(careful.response().status, 100);
    careful.send(body.as_bytes());
    assert_eq!(careful.response().json(), json!({"result": {}}));

    let mut chunked = Connection::open(server.address);
    chunked.send(
        format!(
            "POST /api/publish HTTP/1.1\r\nHost: t\r\nX-API-Key: {key}\r\n\
             Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
        )
        .as_bytes(),
    );
    assert_eq!(chunked.response().json(), json!({"result": {}}));
}

#[test]
fn a_request_that_does_not_end_times_out() {
    let server = Server::dev(&[("TIDERACE_CLIENT_STALE_CLOSE_DELAY", "1s")]);
    let mut half = Connection::open(server.address);
    half.send(b"POST /api/publish HTTP/1.1\r\nHost: t\r\nContent-Le");
    let response = half.response();
    assert_eq!((response.status, response.header("connection")), (408, Some("close")));
    assert!(half.is_at_end());
    let mut silent = Connection::open(server.address);
    assert!(silent.is_at_end(), "who began nothing is told nothing");
}

#[test]
fn who_has_finished_sending_is_still_answered() {
    let server = Server::dev(&[]);
    let requests: String = (0..50).map(|n| publish(&server, &format!("c{n}"))).collect();
    let mut connection = Connection::open(server.address);
    connection.send(requests.as_bytes());
    connection.finish();
    for n in 0..50 {
        assert_eq!(connection.response().json(), json!({"result": {}}), "answer {n}");
    }
    assert!(connection.is_at_end());
}

#[test]
fn info_counts_what_there_is() {
    let server = Server::dev(&[]);
    let sums = |info: &Value, field: &str| {
        let shards = info["shards"].as_array().expect("shards");
        shards.iter().filter_map(|shard| shard[field].as_u64()).sum::<u64>()
    };
    let clients: Vec<_> = (0..5)
        .map(|n| {
            let mut client = Client::subscribed(server.address, "all");
            client.subscribe(&format!("of {n}"));
            client
        })
        .collect();
    let info = server.info();
    for (field, count) in [("num_clients", 5), ("num_subs", 10), ("num_channels", 6)] {
        assert_eq!(info[field], count, "{field}");
        assert_eq!(sums(&info, field), count, "{field} of the shards");
    }
    assert_eq!(info["num_users"], 1, "all anonymous ones are one");
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert!(info["process"]["rss"].as_u64() > Some(1 << 20));
    clients.into_iter().for_each(Client::close);
    let none = |info: &Value| {
        ["num_clients", "num_subs", "num_channels", "num_users"].iter().all(|f| info[*f] == 0)
    };
    server.wait_until("the end of everything", none);
}

#[test]
fn measurements_are_collected_where_they_are_enabled() {
    let server = Server::dev(&[("CENTRIFUGO_PROMETHEUS_ENABLED", "true")]);
    let _client = Client::connect(server.address);
    let mut connection = Connection::open(server.address);
    let answer = connection.request("GET", "/metrics", "", "");
    assert_eq!(answer.status, 200);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.header("content-type"), Some(kind));
    let text = String::from_utf8(answer.body).expect("text");
    assert!(text.lines().any(|line| line == "centrifugo_node_num_clients 1"), "{text}");
    let accepted =
        text.lines().find_map(|line| line.strip_prefix("tiderace_connections_accepted_total "));
    assert_eq!(accepted, Some("2"), "{text}");
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    assert_eq!(connection.request("POST", "/metrics", "", "").status, 405);
    let without = Server::dev(&[]);
    assert_eq!(Connection::open(without.address).request("GET", "/metrics", "", "").status, 404);
}
