//! A running server that asks a real backend over HTTP: who connects, subscribes, publishes, calls,
//! goes on; and what becomes of it when the backend refuses, fails, is slow or down.

mod support;

use std::{
    fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use support::{
    Server,
    backend::{Backend, Say},
    http,
    websocket::Client,
};
use tiderace::auth::{sign, tokens::sign_connection};

const SECRET: &str = "secret";

/// Seconds since the Unix epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A server of two shards with this configuration and no pings.
fn serve(name: &str, config: &Value) -> Server {
    let mut path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    path.push(format!("proxy-{name}-{}.json", std::process::id()));
    fs::write(&path, config.to_string()).expect("a temporary file");
    let environment = [
        ("TIDERACE_CLIENT_PING_INTERVAL", "24h"),
        ("TIDERACE_HTTP_API_KEY", "key"),
        ("TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY", SECRET),
    ];
    let config = path.to_str().expect("a path of text");
    let server = Server::start(&["--config", config, "--shards", "2"], &environment);
    fs::remove_file(&path).expect("it was read");
    server
}

fn proxy(backend: &Backend, path: &str) -> Value {
    json!({ "endpoint": backend.url(path), "timeout": "60s" })
}

/// The same with more options.
fn with(mut value: Value, more: &Value) -> Value {
    for (key, option) in more.as_object().expect("an object") {
        value[key] = option.clone();
    }
    value
}

/// A server where the backend decides everything, on paths that are called like the events.
fn all_proxies(name: &str, backend: &Backend, timeout: &str) -> Server {
    let proxy = |path: &str| json!({ "endpoint": backend.url(path), "timeout": timeout, "include_connection_meta": true });
    let more = json!({
        "enabled": true,
        "http_headers": ["Cookie"],
        "emulated_headers": ["Authorization"],
        "http": { "static_headers": { "X-Own": "yes" } },
    });
    let asked = json!({
        "subscribe_proxy_enabled": true,
        "publish_proxy_enabled": true,
        "history_size": 10,
        "history_ttl": "60s",
        "allow_recovery": true,
    });
    serve(
        name,
        &json!({
            "client": { "proxy": {
                "connect": with(proxy("/connect"), &more),
            } },
            "channel": {
                "proxy": {
                    "subscribe": proxy("/subscribe"),
                    "publish": proxy("/publish"),
                },
                "namespaces": [
                    with(asked, &json!({ "name": "asked" })),
                    { "name": "own", "allow_presence_for_client": true, "presence": true, "allow_subscribe_for_client": true },
                ],
            },
            "rpc": {
                "proxy": proxy("/rpc"),
                "without_namespace": { "proxy_enabled": true },
                "namespaces": [{ "name": "silent" }],
                "ping": { "enabled": true },
            },
        }),
    )
}

/// A client for whom the backend vouched as user 7.
fn connected(server: &Server, backend: &Backend) -> Client {
    backend.say("/connect", Say::result(&json!({ "user": "7" })));
    let mut client = Client::open(server.address);
    let reply = client.command(&json!({ "connect": {} }));
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    backend.seen_on("/connect");
    client
}

#[test]
fn the_backend_says_who_connects_and_what_it_gets() {
    let backend = Backend::start();
    let server = all_proxies("connect", &backend, "60s");
    backend.say(
        "/connect",
        Say::result(&json!({
            "user": "7", "info": { "name": "A" }, "data": { "welcome": true },
            "meta": { "org": 1 }, "channels": ["own:b"],
            "subs": { "own:a": { "data": [1], "info": "seat 3",
                "override": { "presence": { "value": true } } } },
        })),
    );
    backend.say("/rpc", Say::result(&json!({ "data": { "n": 2 } })));
    let headers = [("Cookie", "a=1"), ("X-Own", "forged")];
    let mut client = Client::open_with(server.address, &headers);
    // Clients send the next commands along with the first: whose they are is known later.
    client.send(concat!(
        r#"{"id":1,"connect":{"data":{"x":1},"name":"js","version":"5","subs":{"own:a":{}},"#,
        r#""headers":{"authorization":"Bearer b","x-own":"forged"}}}"#,
        "\n",
        r#"{"id":2,"rpc":{"method":"m","data":{"q":1}}}"#,
        "\n",
        r#"{"id":3,"presence":{"channel":"own:a"}}"#,
    ));
    let asked = backend.seen();
    let client_id = asked.body["client"].clone();
    assert_eq!(
        asked.body,
        json!({
            "client": client_id, "transport": "websocket", "protocol": "json", "encoding": "json",
            "data": { "x": 1 }, "name": "js", "version": "5", "channels": ["own:a"],
        })
    );
    assert_eq!(asked.header("cookie"), Some("a=1"));
    assert_eq!(asked.header("authorization"), Some("Bearer b"));
    assert_eq!(asked.header("x-own"), Some("yes"), "not what a client says");
    let connect = client.line();
    assert_eq!(connect["connect"]["client"], client_id);
    assert_eq!(connect["connect"]["data"], json!({ "welcome": true }));
    let subs = json!({ "own:a": { "data": [1] }, "own:b": {} });
    assert_eq!(connect["connect"]["subs"], subs, "{connect}");
    // By now the client is user 7: held commands are answered as that user's.
    let present = client.reply(3);
    let member = &present["presence"]["presence"][client_id.as_str().expect("a text")];
    assert_eq!(
        member,
        &json!({ "user": "7", "client": client_id, "conn_info": { "name": "A" },
            "chan_info": "seat 3" })
    );
    let rpc = client.reply(2);
    assert_eq!(rpc["rpc"], json!({ "data": { "n": 2 } }));
    let called = backend.seen();
    assert_eq!((&called.body["user"], &called.body["method"]), (&json!("7"), &json!("m")));
    assert_eq!(
        (&called.body["meta"], &called.body["data"]),
        (&json!({"org": 1}), &json!({"q": 1}))
    );
}

#[test]
fn a_token_is_looked_at_before_the_backend_is_asked() {
    let backend = Backend::start();
    let server = all_proxies("token", &backend, "60s");
    let mut client = Client::open(server.address);
    let token = sign_connection(SECRET, "42", None, None);
    let reply = client.command(&json!({ "connect": { "token": token } }));
    assert!(reply["connect"].is_object(), "{reply}");
    backend.say("/rpc", Say::result(&json!({})));
    let reply = client.command(&json!({ "rpc": { "method": "m" } }));
    assert_eq!(reply["rpc"], json!({}));
    let first = backend.seen();
    assert_eq!((first.path.as_str(), &first.body["user"]), ("/rpc", &json!("42")));
}

#[test]
fn without_a_result_nobody_has_connected() {
    let backend = Backend::start();
    let server = all_proxies("nobody", &backend, "60s");
    backend.say("/connect", Say::Status(200, "{}".into()));
    let mut client = Client::open(server.address);
    client.send_command(&json!({ "connect": {} }));
    assert_eq!(client.closed().0, 3501);
}

#[test]
fn refusals_are_the_backends_and_failures_are_temporary() {
    let backend = Backend::start();
    let server = all_proxies("refusals", &backend, "250ms");
    let error = json!({ "error": { "code": 451, "message": "no", "temporary": true } });
    let refused = json!({ "code": 451, "message": "no", "temporary": true });
    let protocols = json!({ "error": { "code": 103, "message": "permission denied" } });
    let denied = json!({ "code": 103, "message": "permission denied" });
    let failed = json!({ "code": 100, "message": "internal server error", "temporary": true });
    for (path, command) in [
        ("/connect", json!({ "connect": {} })),
        ("/subscribe", json!({ "subscribe": { "channel": "asked:a" } })),
        ("/publish", json!({ "publish": { "channel": "asked:a", "data": 1 } })),
        ("/rpc", json!({ "rpc": { "method": "m" } })),
    ] {
        let open = || match path {
            "/connect" => Client::open(server.address),
            _ => connected(&server, &backend),
        };
        for (say, expected) in [
            (Say::Status(200, error.to_string()), &refused),
            (Say::Status(200, protocols.to_string()), &denied),
            (Say::Status(500, "{}".into()), &failed),
            (Say::Status(200, "no JSON".into()), &failed),
            (Say::Nothing, &failed),
        ] {
            let mut client = open();
            backend.say(path, say.clone());
            let reply = client.command(&command);
            assert_eq!(&reply["error"], expected, "{path} {say:?}");
        }
        let mut client = open();
        let disconnect = json!({ "disconnect": { "code": 4501, "reason": "banned" } });
        backend.say(path, Say::Status(200, disconnect.to_string()));
        client.send_command(&command);
        assert_eq!(client.closed(), (4501, "banned".into()), "{path}");
    }
}

#[test]
fn a_backend_that_is_down_refuses_nobody_for_good() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}/connect", gone.local_addr().expect("it listens"));
    drop(gone);
    let server = serve(
        "down",
        &json!({ "client": { "proxy": { "connect": { "enabled": true, "endpoint": endpoint } } } }),
    );
    let mut client = Client::open(server.address);
    let reply = client.command(&json!({ "connect": {} }));
    assert_eq!(
        (&reply["error"]["code"], &reply["error"]["temporary"]),
        (&json!(100), &json!(true))
    );
}

#[test]
fn a_slow_backend_keeps_nothing_else_from_a_client() {
    let backend = Backend::start();
    let server = all_proxies("slow", &backend, "60s");
    let mut client = connected(&server, &backend);
    backend.say("/subscribe", Say::result(&json!({})));
    client.subscribe_any("asked:a");
    backend.seen_on("/subscribe");
    backend.say("/rpc", Say::Nothing);
    let call = client.send_command(&json!({ "rpc": { "method": "m" } }));
    backend.seen_on("/rpc");
    server.publish("asked:a", &json!("meanwhile"));
    assert_eq!(client.data(), "meanwhile");
    let reply = client.command(&json!({ "ping": {} }));
    assert_eq!(reply["ping"], json!({}), "{reply} before {call}");
}

#[test]
fn the_backend_decides_about_subscriptions() {
    let backend = Backend::start();
    let server = all_proxies("subscribe", &backend, "60s");
    let mut client = connected(&server, &backend);
    backend.say("/subscribe", Say::result(&json!({ "data": { "seat": 3 } })));
    let command = json!({ "subscribe": {
        "channel": "asked:a", "data": { "want": 1 }, "recoverable": true,
    } });
    let reply = client.command(&command);
    let asked = backend.seen();
    assert_eq!((&asked.body["user"], &asked.body["channel"]), (&json!("7"), &json!("asked:a")));
    assert_eq!(asked.body["data"], json!({ "want": 1 }));
    let granted = &reply["subscribe"];
    assert_eq!((&granted["data"], &granted["recoverable"]), (&json!({"seat": 3}), &json!(true)));
    server.publish("asked:a", &json!(1));
    assert_eq!(client.data(), 1);
    // What was missed comes with the grant.
    client.command(&json!({ "unsubscribe": { "channel": "asked:a" } }));
    server.publish("asked:a", &json!(2));
    let reply = client.command(&json!({ "subscribe": {
        "channel": "asked:a", "recover": true, "epoch": granted["epoch"], "offset": 1,
    } }));
    let recovered = &reply["subscribe"];
    assert_eq!(
        (&recovered["recovered"], &recovered["publications"][0]["data"]),
        (&json!(true), &json!(2))
    );
    backend.say("/subscribe", Say::result(&json!({ "expire_at": 1 })));
    let late = json!({ "subscribe": { "channel": "asked:b" } });
    assert_eq!(client.error_of(&late), 110);
    // Who does not want it any more is not subscribed by a late word.
    backend.say("/subscribe", Say::Nothing);
    let subscribe = client.send_command(&json!({ "subscribe": { "channel": "asked:c" } }));
    while backend.seen_on("/subscribe").body["channel"] != "asked:c" {}
    let unsubscribe = client.send_command(&json!({ "unsubscribe": { "channel": "asked:c" } }));
    assert_eq!(client.reply(subscribe)["error"]["code"], 103);
    assert_eq!(client.reply(unsubscribe)["unsubscribe"], json!({}));
    // Nor whom the API has unsubscribed meanwhile, from it or from everything.
    for (asked, unsubscribed) in [("asked:d", "asked:d"), ("asked:e", "")] {
        let subscribe = client.send_command(&json!({ "subscribe": { "channel": asked } }));
        while backend.seen_on("/subscribe").body["channel"] != asked {}
        server.api("unsubscribe", &json!({ "user": "7", "channel": unsubscribed }));
        assert_eq!(client.reply(subscribe)["error"]["code"], 103, "{asked}");
    }
    assert_eq!(server.info()["num_subs"], 0);
}

#[test]
fn the_backend_decides_what_is_published() {
    let backend = Backend::start();
    let server = all_proxies("publish", &backend, "60s");
    let mut client = connected(&server, &backend);
    backend.say("/subscribe", Say::result(&json!({})));
    client.subscribe_any("asked:a");
    backend.seen_on("/subscribe");
    let publish = |client: &mut Client, data: Value| {
        let command = json!({ "publish": { "channel": "asked:a", "data": data } });
        assert_eq!(client.command(&command)["publish"], json!({}));
    };
    backend.say("/publish", Say::Status(200, "{}".into()));
    publish(&mut client, json!({ "raw": 1 }));
    let asked = backend.seen();
    assert_eq!((&asked.body["user"], &asked.body["data"]), (&json!("7"), &json!({ "raw": 1 })));
    let (_, publication) = client.publication();
    assert_eq!((&publication["data"], &publication["offset"]), (&json!({ "raw": 1 }), &json!(1)));
    assert_eq!(publication["info"]["user"], "7");
    backend.say(
        "/publish",
        Say::result(&json!({ "data": { "clean": 1 }, "skip_history": true, "tags": { "k": "v" } })),
    );
    publish(&mut client, json!({ "raw": 2 }));
    let (_, publication) = client.publication();
    assert_eq!(publication["data"], json!({ "clean": 1 }));
    assert_eq!((&publication["tags"], &publication["offset"]), (&json!({"k": "v"}), &Value::Null));
}

#[test]
fn procedures_are_found_by_namespace() {
    let backend = Backend::start();
    let server = all_proxies("rpc", &backend, "60s");
    let mut client = connected(&server, &backend);
    backend.say("/rpc", Say::result(&json!({ "data": [1, 2] })));
    let mut call = |method: &str| client.command(&json!({ "rpc": { "method": method } }));
    assert_eq!(call("m")["rpc"], json!({ "data": [1, 2] }));
    assert_eq!(call("ping")["rpc"], json!({}));
    assert_eq!(call("silent:m")["error"]["code"], 108);
    assert_eq!(call("other:m")["error"]["code"], 104);
}

#[test]
fn statuses_stand_for_refusals_and_payloads_may_be_in_base64() {
    let backend = Backend::start();
    let more = json!({ "binary_encoding": true, "http": { "status_to_code_transforms": [
        { "status_code": 404, "to_error": { "code": 404, "message": "no such thing" } },
        { "status_code": 403, "to_disconnect": { "code": 4504, "reason": "forbidden" } },
    ] } });
    let config = json!({
        "client": { "allow_anonymous_connect_without_token": true },
        "rpc": {
            "proxy": with(proxy(&backend, "/rpc"), &more),
            "without_namespace": { "proxy_enabled": true },
        },
    });
    let server = serve("transforms", &config);
    let mut client = Client::connect(server.address);
    let call = json!({ "rpc": { "method": "m", "data": { "a": 1 } } });
    backend.say("/rpc", Say::result(&json!({ "b64data": "WzJd" })));
    assert_eq!(client.command(&call)["rpc"], json!({ "data": [2] }));
    let asked = backend.seen().body;
    assert_eq!((&asked["encoding"], &asked["b64data"]), (&json!("binary"), &json!("eyJhIjoxfQ==")));
    assert!(asked["data"].is_null(), "{asked}");
    backend.say("/rpc", Say::Status(404, "nothing here".into()));
    let reply = client.command(&call);
    assert_eq!(reply["error"], json!({ "code": 404, "message": "no such thing" }));
    backend.say("/rpc", Say::Status(500, "oh".into()));
    assert_eq!(client.error_of(&call), 100);
    backend.say("/rpc", Say::Status(403, String::new()));
    client.send_command(&call);
    assert_eq!(client.closed(), (4504, "forbidden".into()));
}

#[test]
fn the_backend_refreshes_connections_and_ends_them() {
    let backend = Backend::start();
    let enabled = json!({ "enabled": true });
    let config = json!({ "client": { "proxy": {
        "connect": with(proxy(&backend, "/connect"), &enabled),
        "refresh": with(proxy(&backend, "/refresh"), &enabled),
    } } });
    let server = serve("refresh", &config);
    backend.say("/connect", Say::result(&json!({ "user": "7", "expire_at": now() + 2 })));
    backend.say("/refresh", Say::result(&json!({ "expire_at": now() + 4 })));
    let mut client = Client::open(server.address);
    let reply = client.command(&json!({ "connect": {} }));
    assert_eq!(reply["connect"]["expires"], Value::Null, "the client refreshes nothing: {reply}");
    let asked = backend.seen_on("/refresh");
    assert_eq!(asked.body["user"], "7");
    backend.say("/refresh", Say::Status(200, "{}".into()));
    assert_eq!(backend.seen_on("/refresh").body["user"], "7", "asked again at the new moment");
    assert_eq!(client.closed(), (3005, "connection expired".into()));
    // Nobody is closed because the backend cannot be asked.
    backend.say("/connect", Say::result(&json!({ "user": "8", "expire_at": now() + 2 })));
    backend.say("/refresh", Say::Status(500, "{}".into()));
    let mut client = Client::connect(server.address);
    backend.seen_on("/refresh");
    assert_eq!(client.command(&json!({ "ping": {} }))["ping"], json!({}));
    // And who refreshes although it may not is broken.
    let token = sign_connection(SECRET, "8", None, None);
    client.send_command(&json!({ "refresh": { "token": token } }));
    assert_eq!(client.closed().0, 3501);
}

#[test]
fn the_backend_refreshes_subscriptions_and_ends_them() {
    let backend = Backend::start();
    let config = json!({
        "client": { "allow_anonymous_connect_without_token": true },
        "channel": {
            "proxy": { "subscribe": proxy(&backend, "/subscribe") },
            "without_namespace": {
                "subscribe_proxy_enabled": true,
                "sub_refresh_proxy_enabled": true,
                "sub_refresh_proxy_name": "other",
            },
        },
        "proxies": [with(proxy(&backend, "/sub_refresh"), &json!({ "name": "other" }))],
    });
    let server = serve("sub-refresh", &config);
    let mut client = Client::connect(server.address);
    backend.say("/subscribe", Say::result(&json!({ "expire_at": now() + 2 })));
    backend.say("/sub_refresh", Say::result(&json!({ "expire_at": now() + 4 })));
    client.subscribe("a");
    assert_eq!(backend.seen_on("/sub_refresh").body["channel"], "a");
    backend.say("/sub_refresh", Say::result(&json!({ "expired": true })));
    backend.seen_on("/sub_refresh");
    let push = client.line();
    assert_eq!(push["push"]["channel"], "a");
    assert_eq!(push["push"]["unsubscribe"], json!({ "code": 2501, "reason": "expired" }));
}

#[test]
fn the_backend_is_told_of_channels_in_order() {
    let backend = Backend::start();
    let config = json!({
        "client": { "allow_anonymous_connect_without_token": true, "insecure": true },
        "channel": {
            "proxy": { "state": proxy(&backend, "/state") },
            "namespaces": [{ "name": "told", "state_proxy_enabled": true }, { "name": "quiet" }],
        },
    });
    let server = serve("state", &config);
    backend.say("/state", Say::result(&json!({})));
    let mut client = Client::connect(server.address);
    for channel in ["quiet:a", "told:a"] {
        client.subscribe(channel);
    }
    let told = backend.seen();
    let event = &told.body["events"][0];
    assert_eq!((&event["channel"], &event["type"]), (&json!("told:a"), &json!("occupied")));
    client.command(&json!({ "unsubscribe": { "channel": "told:a" } }));
    let told = backend.seen();
    let event = &told.body["events"][0];
    assert_eq!((&event["channel"], &event["type"]), (&json!("told:a"), &json!("vacated")));
}

#[test]
fn streams_are_connections_to_the_backend_too() {
    let backend = Backend::start();
    let enabled = json!({ "enabled": true, "http_headers": ["x-from"] });
    let config = json!({
        "client": { "proxy": { "connect": with(proxy(&backend, "/connect"), &enabled) } },
        "uni_sse": { "enabled": true },
    });
    let server = serve("uni", &config);
    backend.say("/connect", Say::result(&json!({ "user": "7", "data": 5 })));
    let open = || {
        let mut connection = http::Connection::open(server.address);
        let request = http::request("GET", "/connection/uni_sse", "X-From: here\r\n", "");
        connection.send(request.as_bytes());
        assert_eq!(connection.response().status, 200);
        connection
    };
    let mut stream = open();
    let asked = backend.seen();
    assert_eq!(asked.body["transport"], "uni_sse");
    assert_eq!(asked.header("x-from"), Some("here"));
    let mut said = stream.chunk().expect("the stream begins");
    while !said.contains("connect") {
        said = stream.chunk().expect("the stream goes on");
    }
    assert!(said.contains(r#""data":5"#), "{said}");
    backend.say("/connect", Say::Status(500, "{}".into()));
    let mut stream = open();
    let mut said = stream.chunk().expect("the stream begins");
    while !said.contains("disconnect") {
        said = stream.chunk().expect("the stream goes on");
    }
    assert!(said.contains("3004"), "{said}");
}

#[test]
fn what_the_backend_grants_and_is_over_already_is_refused() {
    let backend = Backend::start();
    let server = all_proxies("past", &backend, "60s");
    let past = now() - 1;
    let connect = json!({ "connect": {} });
    for result in [
        json!({ "user": "7", "expire_at": past }),
        json!({ "user": "7", "channels": ["own:b"], "subs": { "own:a": { "expire_at": past } } }),
    ] {
        backend.say("/connect", Say::result(&result));
        assert_eq!(Client::open(server.address).error_of(&connect), 110, "{result}");
    }
    let mut client = connected(&server, &backend);
    backend.say("/subscribe", Say::result(&json!({ "expire_at": past })));
    let subscribe = json!({ "subscribe": { "channel": "asked:a" } });
    assert_eq!(client.error_of(&subscribe), 110);
    backend.say("/subscribe", Say::result(&json!({ "expire_at": 0 })));
    let reply = client.command(&subscribe);
    assert!(reply["subscribe"].is_object(), "it was not subscribed: {reply}");
}

/// An event stream of whom the backend knows, about a channel that may not be.
#[test]
fn an_event_stream_that_cannot_be_is_an_answer() {
    let backend = Backend::start();
    let enabled = json!({ "enabled": true });
    let config = json!({
        "client": { "proxy": { "connect": with(proxy(&backend, "/connect"), &enabled) } },
        "events": { "enabled": true },
    });
    let server = serve("events", &config);
    for (granted, channel, status, message) in [
        (json!([]), "c", 403, "permission denied"),
        (json!([]), "nowhere:c", 404, "unknown channel"),
        (json!(["nowhere:c"]), "nowhere:c", 404, "unknown channel"),
        (json!(["nowhere:c"]), "c", 500, "internal server error"),
        (json!([]), "%C3%A9", 400, "bad request"),
        (json!(["c"]), "c", 200, ""),
    ] {
        backend.say("/connect", Say::result(&json!({ "user": "7", "channels": granted })));
        let mut connection = http::Connection::open(server.address);
        let request = http::request("GET", &format!("/events/{channel}"), "", "");
        connection.send(request.as_bytes());
        let response = connection.response();
        assert_eq!(response.status, status, "{channel} of {granted}: {response:?}");
        if status != 200 {
            let expected = json!({ "error": { "code": status, "message": message } });
            assert_eq!(response.json(), expected, "{channel} of {granted}");
        }
    }
}

#[test]
fn who_says_too_much_before_it_is_known_is_closed() {
    let backend = Backend::start();
    let server = all_proxies("held", &backend, "60s");
    backend.say("/connect", Say::Nothing);
    let mut client = Client::open(server.address);
    client.send_command(&json!({ "connect": {} }));
    let half = "x".repeat(33 << 10);
    for _ in 0..2 {
        client.send_command(&json!({ "rpc": { "method": "m", "data": half } }));
    }
    assert_eq!(client.closed(), (3013, "too many requests".into()));
}

/// The claims of a subscription token for user 7.
fn subscription(secret: &str, channel: &str, expire_at: u64) -> String {
    sign(secret, &json!({ "sub": "7", "channel": channel, "expire_at": expire_at }))
}

#[test]
fn subscriptions_have_tokens_of_their_own_and_expire() {
    let config = json!({
        "client": {
            "subscription_token": { "enabled": true, "hmac_secret_key": "other" },
            "expired_sub_close_delay": "1s",
        },
    });
    let server = serve("subscriptions", &config);
    let connected = || {
        let mut client = Client::open(server.address);
        let token = sign_connection(SECRET, "7", None, None);
        client.command(&json!({ "connect": { "token": token } }));
        client
    };
    let mut client = connected();
    let subscribe = |token: String| json!({ "subscribe": { "channel": "a", "token": token } });
    assert_eq!(client.error_of(&subscribe(subscription(SECRET, "a", 0))), 103);
    assert_eq!(client.error_of(&subscribe(subscription("other", "a", 1))), 110);
    let reply = client.command(&subscribe(subscription("other", "a", now() + 3600)));
    assert_eq!(reply["subscribe"]["expires"], true, "{reply}");
    let refresh = |token: String| json!({ "sub_refresh": { "channel": "a", "token": token } });
    assert_eq!(client.error_of(&refresh(String::new())), 107);
    let mut forger = connected();
    forger.send_command(&refresh(subscription(SECRET, "a", 0)));
    assert_eq!(forger.closed().0, 3500, "with the key of connections");
    let reply = client.command(&refresh(subscription("other", "a", now() + 1)));
    assert_eq!(reply["sub_refresh"]["expires"], true, "{reply}");
    // Not refreshed within the time for it.
    let push = client.line();
    assert_eq!(push["push"]["unsubscribe"], json!({ "code": 2501, "reason": "expired" }));
    client.send_command(&subscribe(subscription("other", "b", 0)));
    assert_eq!(client.closed().0, 3500, "of another channel");
}

#[test]
fn a_subscription_of_the_servers_that_expires_ends_the_connection() {
    let backend = Backend::start();
    let config = json!({
        "client": {
            "proxy": { "connect": with(proxy(&backend, "/connect"), &json!({ "enabled": true })) },
            "expired_sub_close_delay": "1s",
        },
    });
    let server = serve("server-side", &config);
    let subs = json!({ "a": { "expire_at": now() + 3 } });
    backend.say("/connect", Say::result(&json!({ "user": "7", "subs": subs })));
    let mut client = Client::connect(server.address);
    assert_eq!(client.closed(), (3006, "subscription expired".into()));
}

#[test]
fn who_a_client_is_follows_the_options_of_tokens() {
    let config = json!({
        "client": {
            "token": {
                "audience_regex": "^app-[0-9]$", "issuer": "me", "user_id_claim": "id",
                "hmac_previous_secret_key": "before",
            },
            "disallow_anonymous_connection_tokens": true,
            "user_id_http_header": "X-User",
        },
    });
    let server = serve("tokens", &config);
    let claims = |aud: &str, id: &str| json!({ "aud": aud, "iss": "me", "id": id });
    for (secret, claims, code) in [
        (SECRET, claims("app-1", "7"), None),
        ("before", claims("app-1", "7"), None),
        ("never", claims("app-1", "7"), Some(3500)),
        (SECRET, claims("app-10", "7"), Some(3500)),
        (SECRET, json!({ "aud": "app-1", "id": "7" }), Some(3500)),
        (SECRET, claims("app-1", ""), Some(3507)),
    ] {
        let mut client = Client::open(server.address);
        client.send_command(&json!({ "connect": { "token": sign(secret, &claims) } }));
        match code {
            None => assert!(client.reply(1)["connect"].is_object(), "{claims}"),
            Some(code) => assert_eq!(client.closed().0, code, "{claims}"),
        }
    }
    for (headers, code) in [
        (&[("X-User", "7")][..], None),
        (&[], Some(3501)),
        (&[("X-User", "")], Some(3501)),
        (&[("X-User", "7"), ("X-User", "8")], Some(3501)),
    ] {
        let mut client = Client::open_with(server.address, headers);
        client.send_command(&json!({ "connect": {} }));
        match code {
            None => assert!(client.reply(1)["connect"].is_object(), "{headers:?}"),
            Some(code) => assert_eq!(client.closed().0, code, "{headers:?}"),
        }
    }
}

/// A key pair of `tests/keys` as its private PEM and what a key set says of it.
fn key(id: &str, file: &str) -> (Vec<u8>, Value) {
    let read = |name: String| fs::read_to_string(format!("tests/keys/{name}")).expect("a key");
    let public = read(format!("{file}.pub.pem"));
    let base64: String = public.lines().filter(|line| !line.starts_with("--")).collect();
    let der = data_encoding::BASE64.decode(base64.as_bytes()).expect("PEM is Base64");
    let text = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    // The point stands at the end of the structure.
    let (_, point) = der.split_at(der.len() - if file == "p256" { 64 } else { 32 });
    let jwk = match file {
        "p256" => json!({
            "kid": id, "kty": "EC", "crv": "P-256", "alg": "ES256",
            "x": text(&point[..32]), "y": text(&point[32..]),
        }),
        _ => json!({ "kid": id, "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": text(point) }),
    };
    (read(format!("{file}.pem")).into_bytes(), jwk)
}

#[test]
fn keys_are_fetched_and_rotate() {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    let (old_pem, old) = key("old", "ed25519");
    let (new_pem, new) = key("new", "p256");
    let token = |id: &str, algorithm: Algorithm, key: EncodingKey| {
        let header = Header { kid: Some(id.into()), ..Header::new(algorithm) };
        encode(&header, &json!({ "sub": "7" }), &key).expect("a token")
    };
    let ed = EncodingKey::from_ed_pem(&old_pem).expect("a key");
    let ec = EncodingKey::from_ec_pem(&new_pem).expect("a key");
    let (old_token, new_token) =
        (token("old", Algorithm::EdDSA, ed), token("new", Algorithm::ES256, ec));
    let provider = Backend::start();
    let publish = |key: &Value| {
        provider.say("/keys", Say::Status(200, json!({ "keys": [key] }).to_string()));
    };
    publish(&old);
    let keys = json!({ "jwks_public_endpoint": provider.url("/keys") });
    let server = serve("keys", &json!({ "client": { "token": keys } }));
    // What becomes of a connect with this token: a code to close or of an error, or 0.
    let connect = |token: &str| {
        let mut client = Client::open(server.address);
        client.send_command(&json!({ "connect": { "token": token } }));
        client
            .reply_or_close(1)
            .map_or_else(|code| code, |reply| reply["error"]["code"].as_u64().unwrap_or(0))
    };
    let until = |token: &str, wanted: u64, meanwhile: &[u64]| {
        let began = std::time::Instant::now();
        loop {
            let code = connect(token);
            if code == wanted {
                return;
            }
            assert!(meanwhile.contains(&code), "{code}");
            assert!(began.elapsed() < support::DEADLINE, "the keys never came");
            std::thread::yield_now();
        }
    };
    until(&old_token, 0, &[100]);
    publish(&new);
    // Unknown keys are asked for, but not all the time.
    until(&new_token, 0, &[100, 3500]);
    until(&old_token, 3500, &[]);
}
