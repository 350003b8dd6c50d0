//! The HTTP API as it acts: each method of a running server of two shards, seen by real clients.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use support::{Server, http::Connection, websocket::Client};
use tiderace::auth::tokens::sign_connection;

const SECRET: &str = "a secret of 32 bytes for the tests";

const NAMESPACES: &str = r#"
shards = 2
[client]
allow_anonymous_connect_without_token = true
history_max_publication_limit = 3
# A read that nothing answers ends at the deadline, not never.
ping_interval = "10m"
[http_api]
key = "k"
[channel.without_namespace]
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
allow_publish_for_client = true
[[channel.namespaces]]
name = "room"
presence = true
history_size = 5
history_ttl = "300s"
force_recovery = true
allow_subscribe_for_client = true
"#;

/// A server of two shards with a namespace `room` that has everything, and nothing for the rest.
fn server() -> Server {
    server_with(&[])
}

fn server_with(environment: &[(&str, &str)]) -> Server {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("api-{}-{number}.toml", std::process::id()));
    let text = format!("{NAMESPACES}\n[client.token]\nhmac_secret_key = \"{SECRET}\"\n");
    std::fs::write(&path, text).expect("the directory of the tests is there");
    let mut server = Server::start(&["--config", path.to_str().expect("UTF-8")], environment);
    std::fs::remove_file(path).expect("it was just written");
    server.api_key = "k".into();
    server
}

fn token(user: &str) -> String {
    sign_connection(SECRET, user, None, Some(r#"{"name":"N"}"#))
}

/// Connections of a user on both shards, with their client ids; of the empty one without a token.
fn on_both_shards(server: &Server, user: &str) -> Vec<(Client, String)> {
    let before = server.info();
    let mut clients = Vec::new();
    let token = if user.is_empty() { String::new() } else { token(user) };
    loop {
        clients.push(Client::connect_as(server.address, &token));
        let now = server.info();
        let grew = |shard: usize| {
            now["shards"][shard]["num_clients"].as_u64()
                > before["shards"][shard]["num_clients"].as_u64()
        };
        if grew(0) && grew(1) {
            return clients;
        }
        assert!(clients.len() < 100, "the kernel gives all connections to one shard");
    }
}

/// Calls a method; what stands behind `result`.
fn ok(server: &Server, method: &str, body: &Value) -> Value {
    let mut answer = server.api(method, body);
    assert!(answer["result"].is_object(), "{method} {body}: {answer}");
    answer["result"].take()
}

fn error(server: &Server, method: &str, body: &Value) -> u64 {
    let answer = server.api(method, body);
    answer["error"]["code"].as_u64().unwrap_or_else(|| panic!("{method} {body}: {answer}"))
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Nobody is there and all is well; one call reaches several channels.
#[test]
fn publications_have_places_tags_and_keys() {
    let server = server();
    let publish = |body: &Value| ok(&server, "publish", body);
    assert_eq!(publish(&json!({"channel": "empty", "data": 1})), json!({}));
    let first = publish(&json!({"channel": "room:a", "data": 1}));
    let epoch = first["epoch"].as_str().expect("an epoch");
    assert_eq!(first["offset"], 1);

    let (mut reader, _) = Client::connect_as(server.address, &token("u"));
    let reply = reader.command(&json!({"subscribe": {"channel": "room:a"}}));
    assert_eq!(reply["subscribe"]["offset"], 1, "{reply}");
    let tags = json!({"k": "v", "l": ""});
    let tagged = json!({"channel": "room:a", "data": 2, "tags": tags});
    assert_eq!(publish(&tagged), json!({"offset": 2, "epoch": epoch}));
    assert_eq!(
        reader.publication(),
        ("room:a".into(), json!({"data": 2, "offset": 2, "tags": tags}))
    );

    // The repeated one is answered as the first, and reaches nobody.
    let once = json!({"channel": "room:a", "data": 3, "idempotency_key": "once"});
    assert_eq!(publish(&once)["offset"], 3);
    assert_eq!(publish(&once)["offset"], 3);
    assert_eq!(reader.data(), 3);
    let skipped = json!({"channel": "room:a", "data": 4, "skip_history": true});
    assert_eq!(publish(&skipped), json!({}));
    assert_eq!(reader.publication().1, json!({"data": 4}));

    // An older state than the channel has seen is answered and reaches nobody.
    for (version, data, offset) in [(7, 5, 4), (6, 6, 4), (7, 7, 4), (8, 8, 5)] {
        let state = json!({"channel": "room:a", "data": data, "version": version});
        assert_eq!(publish(&state)["offset"], offset);
    }
    assert_eq!([reader.data(), reader.data()], [json!(5), json!(8)]);

    let to = json!(["room:a", "nowhere:b", "plain", "", "room:b", "room:a"]);
    let result = ok(&server, "broadcast", &json!({"channels": to, "data": "all", "tags": tags}));
    let responses = result["responses"].as_array().expect("one per channel");
    assert_eq!(responses.len(), 6);
    assert_eq!(responses[0]["result"], json!({"offset": 6, "epoch": epoch}));
    assert_eq!(responses[1]["error"]["code"], 102);
    assert_eq!(responses[2], json!({"result": {}}));
    assert_eq!(responses[3]["error"]["code"], 107);
    assert_eq!(responses[4]["result"]["offset"], 1);
    assert_eq!(responses[5]["result"]["offset"], 7);
    assert_eq!(reader.publication().1, json!({"data": "all", "offset": 6, "tags": tags}));
}

#[test]
fn a_history_is_read_in_pages_and_removed() {
    let server = server();
    // Whatever its home is: both are asked.
    for channel in ["room:a", "room:b", "room:c", "room:d"] {
        let history = |more: Value| {
            let mut body = json!({"channel": channel});
            body.as_object_mut().expect("it is one").extend(more.as_object().cloned().unwrap());
            ok(&server, "history", &body)
        };
        let data = |page: &Value| {
            let publications = page["publications"].as_array().expect("a list");
            publications.iter().map(|one| one["data"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        let empty = history(json!({}));
        let epoch = empty["epoch"].as_str().expect("an epoch").to_owned();
        assert_eq!(empty, json!({"publications": [], "epoch": epoch, "offset": 0}));
        for n in 1..=7 {
            let body = json!({"channel": channel, "data": n, "tags": {"n": n.to_string()}});
            assert_eq!(ok(&server, "publish", &body)["epoch"], epoch);
        }
        let at = |offset: u64| json!({"offset": offset, "epoch": epoch});
        assert_eq!(history(json!({}))["publications"], json!([]), "a limit of 0 asks where it is");
        let page = history(json!({"limit": 2}));
        assert_eq!((data(&page), &page["offset"]), (vec![3, 4], &json!(7)));
        assert_eq!(page["publications"][0], json!({"data": 3, "offset": 3, "tags": {"n": "3"}}));
        assert_eq!(data(&history(json!({"limit": 5}))), [3, 4, 5, 6, 7]);
        let all = history(json!({"limit": -1}));
        assert_eq!(data(&all), [3, 4, 5, 6, 7], "the limit of clients is none of a backend");
        assert_eq!(data(&history(json!({"limit": 2, "since": at(4)}))), [5, 6]);
        assert_eq!(data(&history(json!({"limit": 9, "since": at(7)}))), [0_u64; 0]);
        assert_eq!(data(&history(json!({"limit": 2, "reverse": true}))), [7, 6]);
        assert_eq!(data(&history(json!({"limit": 2, "since": at(6), "reverse": true}))), [5, 4]);
        let other = json!({"channel": channel, "limit": 1, "since": {"offset": 1, "epoch": "x"}});
        assert_eq!(error(&server, "history", &other), 112);

        assert_eq!(ok(&server, "history_remove", &json!({"channel": channel})), json!({}));
        let removed = history(json!({"limit": 5}));
        assert_eq!(removed, json!({"publications": [], "epoch": epoch, "offset": 7}));
        let next = ok(&server, "publish", &json!({"channel": channel, "data": 8}));
        assert_eq!(next, at(8));
    }
}

/// Every device of a user, wherever it is; what follows the answer is seen.
#[test]
fn users_are_subscribed_and_unsubscribed() {
    let server = server();
    let mut clients = on_both_shards(&server, "u");
    let (mut stranger, _) = Client::connect_as(server.address, &token("v"));
    ok(&server, "publish", &json!({"channel": "room:s", "data": "before"}));
    let expire_at = unix_s() + 1_000;
    let subscribe = json!({"user": "u", "channel": "room:s", "data": {"d": 1},
        "info": {"i": 1}, "expire_at": expire_at});
    assert_eq!(ok(&server, "subscribe", &subscribe), json!({}));
    assert_eq!(ok(&server, "subscribe", &subscribe), json!({}), "they are already");
    ok(&server, "publish", &json!({"channel": "room:s", "data": "after"}));
    for (client, _) in &mut clients {
        let push = client.push();
        assert_eq!(push["channel"], "room:s");
        let told = &push["subscribe"];
        assert_eq!((&told["data"], &told["offset"]), (&json!({"d": 1}), &json!(1)), "{push}");
        assert_eq!(told["recoverable"], true, "{push}");
        assert_eq!(client.data(), "after");
    }
    let present = ok(&server, "presence", &json!({"channel": "room:s"}));
    assert_eq!(present["presence"].as_object().map(|clients| clients.len()), Some(clients.len()));
    for (_, id) in &clients {
        let expected = json!({"user": "u", "client": id, "conn_info": {"name": "N"},
            "chan_info": {"i": 1}});
        assert_eq!(present["presence"][id], expected);
    }
    let stats = ok(&server, "presence_stats", &json!({"channel": "room:s"}));
    assert_eq!(stats, json!({"num_clients": clients.len(), "num_users": 1}));

    // One of them leaves, then the others with all that they have.
    let first = clients[0].1.clone();
    let unsubscribe = json!({"user": "u", "client": first, "channel": "room:s"});
    assert_eq!(ok(&server, "unsubscribe", &unsubscribe), json!({}));
    let ended = json!({"code": 2000, "reason": "server unsubscribe"});
    assert_eq!(clients[0].0.push(), json!({"channel": "room:s", "unsubscribe": ended}));
    let count = json!(clients.len() - 1);
    let num_clients = || ok(&server, "presence_stats", &json!({"channel": "room:s"}));
    assert_eq!(num_clients()["num_clients"], count);
    assert_eq!(ok(&server, "unsubscribe", &json!({"user": "u"})), json!({}));
    for (client, _) in &mut clients[1..] {
        assert_eq!(client.push(), json!({"channel": "room:s", "unsubscribe": ended}));
    }
    assert_eq!(num_clients(), json!({"num_clients": 0, "num_users": 0}));

    // By its client id, without presence, from where it was.
    let since = json!({"user": "u", "client": first, "channel": "room:s",
        "recover_since": {"offset": 0, "epoch": ""}, "override": {"presence": {"value": false}}});
    assert_eq!(ok(&server, "subscribe", &since), json!({}));
    let told = clients[0].0.push()["subscribe"].take();
    assert_eq!(told["offset"], 2, "{told}");
    let missed = [clients[0].0.data(), clients[0].0.data()];
    assert_eq!(missed, [json!("before"), json!("after")]);
    assert_eq!(num_clients(), json!({"num_clients": 0, "num_users": 0}));
    ok(&server, "publish", &json!({"channel": "room:s", "data": "one"}));
    assert_eq!(clients[0].0.data(), "one");
    assert_eq!(stranger.command(&json!({"ping": {}}))["ping"], json!({}), "it was told nothing");
}

/// Whoever asks for what is over already is refused, and nobody hears of it.
#[test]
fn a_subscription_that_is_over_is_not_made() {
    let server = server();
    let mut clients = on_both_shards(&server, "u");
    let past = unix_s() - 1;
    let over = json!({"user": "u", "channel": "room:s", "expire_at": past});
    assert_eq!(error(&server, "subscribe", &over), 110);
    let unknown = json!({"user": "u", "channel": "nowhere:s", "expire_at": past});
    assert_eq!(error(&server, "subscribe", &unknown), 102);
    let nobody = json!({"num_clients": 0, "num_users": 0});
    assert_eq!(ok(&server, "presence_stats", &json!({"channel": "room:s"})), nobody);
    // The first push of each of them is of the subscription that counts.
    let lasting = json!({"user": "u", "channel": "room:s", "expire_at": 0});
    assert_eq!(ok(&server, "subscribe", &lasting), json!({}));
    for (client, _) in &mut clients {
        assert_eq!(client.push()["channel"], "room:s");
    }
    // A subscription that is there stays as it was.
    assert_eq!(error(&server, "subscribe", &over), 110);
    ok(&server, "publish", &json!({"channel": "room:s", "data": "one"}));
    for (client, _) in &mut clients {
        assert_eq!(client.data(), "one");
    }
}

/// Users are disconnected with a reason, all but some, or one alone, or nobody.
#[test]
fn users_are_disconnected() {
    let server = server();
    let mut clients = on_both_shards(&server, "u");
    let (stays, one) = (clients.pop().expect("two at least"), clients.pop().expect("two"));
    let disconnect = |body: &Value| assert_eq!(ok(&server, "disconnect", body), json!({}));
    disconnect(&json!({"user": "nobody"}));
    disconnect(&json!({"user": "u", "client": "no such id"}));
    disconnect(&json!({"user": "v", "client": one.1}));
    let told = json!({"code": 4042, "reason": "be gone"});
    disconnect(&json!({"user": "u", "client": one.1, "disconnect": told}));
    let (mut client, _) = one;
    assert_eq!(client.closed(), (4042, "be gone".into()));
    disconnect(&json!({"user": "u", "whitelist": [stays.1]}));
    for (mut client, _) in clients {
        assert_eq!(client.closed(), (3503, "force disconnect".into()));
    }
    let (client, id) = stays;
    let left = ok(&server, "connections", &json!({"user": "u"}));
    assert_eq!(left["connections"].as_object().map(|all| all.keys().collect()), Some(vec![&id]));

    // Who has no user is nobody's, and all of them together are the empty user.
    let mut anonymous = on_both_shards(&server, "");
    let last = anonymous.pop().expect("one at least");
    disconnect(&json!({"user": "", "whitelist": [last.1]}));
    for (mut client, _) in anonymous {
        assert_eq!(client.closed(), (3503, "force disconnect".into()));
    }
    for (client, _) in [&mut { last }, &mut (client, id)] {
        assert_eq!(client.command(&json!({"ping": {}}))["ping"], json!({}));
    }
}

#[test]
fn connections_are_refreshed() {
    let server = server_with(&[("TIDERACE_CLIENT_EXPIRED_CLOSE_DELAY", "1h")]);
    let mut clients = on_both_shards(&server, "u");
    let info = json!({"name": "M"});
    let body = json!({"user": "u", "expire_at": unix_s() + 1_000, "info": info});
    assert_eq!(ok(&server, "refresh", &body), json!({}));
    for (client, id) in &mut clients {
        let push = client.push();
        assert_eq!(push["refresh"]["expires"], true, "{push}");
        let ttl = push["refresh"]["ttl"].as_u64().expect("seconds");
        assert!((900..=1_000).contains(&ttl), "{push}");
        client.subscribe("news");
        client.publish("news", &json!(1));
        let (_, publication) = client.publication();
        assert_eq!(publication["info"], json!({"user": "u", "client": id, "conn_info": info}));
        let gone = client.command(&json!({"unsubscribe": {"channel": "news"}}));
        assert_eq!(gone["unsubscribe"], json!({}));
    }
    assert_eq!(ok(&server, "refresh", &json!({"user": "u"})), json!({}));
    for (client, _) in &mut clients {
        assert_eq!(client.push(), json!({"refresh": {}}), "it does not expire any more");
    }
    let (mut late, late_id) = clients.pop().expect("two at least");
    let past = json!({"user": "u", "client": late_id, "expire_at": unix_s() - 1});
    assert_eq!(ok(&server, "refresh", &past), json!({}));
    assert_eq!(late.closed(), (3005, "connection expired".into()), "its time is over already");
    assert_eq!(ok(&server, "refresh", &json!({"user": "u", "expired": true})), json!({}));
    for (mut client, _) in clients {
        assert_eq!(client.closed(), (3005, "connection expired".into()));
    }
}

/// Id, user, what it says that it is, its channels. Both homes are asked for their channels.
#[test]
fn channels_and_connections_are_listed() {
    let server = server();
    let mut clients = on_both_shards(&server, "u");
    let count = clients.len();
    let (anonymous, nobody) = Client::connect_as(server.address, "");
    for (client, _) in &mut clients {
        (0..20).for_each(|n| client.subscribe(&format!("list-{n}")));
    }
    clients[0].0.subscribe("other");
    let shards = server.info()["shards"].as_array().expect("two").clone();
    assert!(shards.iter().all(|shard| shard["num_channels"].as_u64() > Some(0)), "{shards:?}");
    let channels = |pattern: Value| {
        let found = ok(&server, "channels", &pattern);
        let channels = found["channels"].as_object().expect("an object").clone();
        let count = |(name, info): (String, Value)| (name, info["num_clients"].as_u64().unwrap());
        channels.into_iter().map(count).collect::<BTreeMap<_, _>>()
    };
    let of = |names: &[&str], count: u64| {
        names.iter().map(|name| ((*name).to_owned(), count)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(channels(json!({})).len(), 21);
    let some = channels(json!({"pattern": "list-1?"}));
    assert_eq!((some.len(), some["list-10"]), (10, count as u64));
    assert_eq!(channels(json!({"pattern": "o*"})), of(&["other"], 1));
    assert_eq!(channels(json!({"pattern": "{other,list-7,none}"})).len(), 2);
    assert_eq!(channels(json!({"pattern": "none"})), of(&[], 0));

    let connections = |body: Value| {
        let found = ok(&server, "connections", &body);
        found["connections"].as_object().expect("an object").clone()
    };
    let of_user = connections(json!({"user": "u"}));
    assert_eq!(of_user.len(), count);
    for (at, (_, id)) in clients.iter().enumerate() {
        let one = &of_user[id];
        assert_eq!((&one["user"], &one["app_name"]), (&json!("u"), &json!("test")), "{one}");
        let how = (&one["transport"], &one["protocol"]);
        assert_eq!(how, (&json!("websocket"), &json!("json")), "{one}");
        let joined = one["state"]["channels"].as_object().expect("an object").len();
        assert_eq!(joined, if at == 0 { 21 } else { 20 }, "{one}");
    }
    let ids = |found: &serde_json::Map<String, Value>| found.keys().cloned().collect::<Vec<_>>();
    assert_eq!(connections(json!({"channel": "list-3"})), of_user);
    assert_eq!(ids(&connections(json!({"channel": "other"}))), [clients[0].1.clone()]);
    assert!(connections(json!({"channel": "none"})).is_empty());
    assert!(connections(json!({"user": "nobody"})).is_empty());
    assert_eq!(ids(&connections(json!({"user": ""}))), [nobody]);
    anonymous.close();
    server.wait_until("the end of a client", |info| info["num_clients"] == count);
    assert!(connections(json!({"user": ""})).is_empty());
}

/// Each command waits for the one before, whatever homes they are for.
#[test]
fn a_batch_is_executed_in_its_order() {
    let server = server();
    let (mut client, id) = Client::connect_as(server.address, &token("u"));
    let batch = |commands: &Value, parallel: bool| {
        let mut answer = server.api("batch", &json!({"commands": commands, "parallel": parallel}));
        answer["replies"].as_array_mut().map(std::mem::take).unwrap_or_else(|| panic!("{answer}"))
    };
    let mut commands = vec![json!({"subscribe": {"user": "u", "channel": "news"}})];
    for n in 0..100 {
        let channel = format!("room:{}", n % 5);
        commands.push(json!({"publish": {"channel": channel, "data": n}}));
        commands.push(json!({"publish": {"channel": "news", "data": n}}));
        commands.push(json!({"history": {"channel": channel, "limit": 1, "reverse": true}}));
    }
    commands.push(json!({"unsubscribe": {"user": "u", "channel": "news"}}));
    commands.push(json!({"publish": {"channel": "news", "data": "unheard"}}));
    commands.push(json!({"connections": {"user": "u"}}));
    commands.push(json!({"presence": {"channel": "news"}}));
    commands.push(json!({"publish": {"channel": "nowhere:a", "data": 1}}));
    commands.push(json!({"disconnect": {"user": "u"}}));
    commands.push(json!({"connections": {"user": "u"}}));
    let count = commands.len();
    let replies = batch(&json!(commands), false);
    assert_eq!((replies.len(), &replies[0]), (count, &json!({"subscribe": {}})));
    for n in 0..100_u64 {
        let of_one = &replies[1 + 3 * n as usize..][..3];
        assert_eq!(of_one[0]["publish"]["offset"], n / 5 + 1);
        assert_eq!(of_one[1], json!({"publish": {}}));
        assert_eq!(of_one[2]["history"]["publications"][0]["data"], n);
    }
    let rest = &replies[301..];
    assert_eq!(rest[..2], [json!({"unsubscribe": {}}), json!({"publish": {}})]);
    assert!(rest[2]["connections"]["connections"][&id]["state"]["channels"].is_null());
    assert_eq!((&rest[3]["error"]["code"], &rest[4]["error"]["code"]), (&json!(108), &json!(102)));
    assert_eq!(rest[5], json!({"disconnect": {}}));
    assert_eq!(rest[6], json!({"connections": {"connections": {}}}));

    assert_eq!(client.push(), json!({"channel": "news", "subscribe": {}}));
    (0..100).for_each(|n| assert_eq!(client.data(), n));
    assert_eq!(client.push()["unsubscribe"]["code"], 2000);
    assert_eq!(client.closed().0, 3503);

    let commands: Vec<_> = (0..3_000)
        .map(|n| json!({"publish": {"channel": format!("room:p{}", n % 7), "data": n}}))
        .collect();
    let replies = batch(&json!(commands), true);
    let mut offsets: Vec<_> =
        replies.iter().step_by(7).map(|one| one["publish"]["offset"].as_u64()).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (1..=429).map(Some).collect::<Vec<_>>(), "each of one channel once");
    assert_eq!(batch(&json!([]), false), [json!(null); 0]);
}

#[test]
fn what_a_namespace_has_not_is_said() {
    let server = server();
    let body = |channel: &str| json!({"channel": channel, "user": "u", "data": 1, "limit": 1});
    let with_channel = [
        "publish",
        "subscribe",
        "unsubscribe",
        "presence",
        "presence_stats",
        "history",
        "history_remove",
    ];
    for method in with_channel {
        assert_eq!(error(&server, method, &body("nowhere:a")), 102, "{method}");
        ok(&server, method, &body("room:a"));
    }
    assert_eq!(error(&server, "connections", &json!({"channel": "nowhere:a"})), 102);
    for method in ["presence", "presence_stats", "history", "history_remove"] {
        assert_eq!(error(&server, method, &body("plain")), 108, "{method}");
    }
    assert_eq!(error(&server, "rpc", &json!({"method": "m"})), 108);
}

#[test]
fn errors_may_be_statuses_and_the_api_may_be_elsewhere() {
    let ask = |server: &Server, path: &str, mode: &str, channel: &str| {
        let headers = format!("X-API-Key: k\r\n{mode}");
        let body = json!({"channel": channel}).to_string();
        let answer = Connection::open(server.address).request("POST", path, &headers, &body);
        (answer.status, answer.json())
    };
    let header = "X-Centrifugo-Error-Mode: transport\r\n";
    let unknown = json!({"code": 102, "message": "unknown channel"});
    let in_body = json!({"error": unknown});
    let usual = server();
    assert_eq!(ask(&usual, "/api/presence", "", "nowhere:a"), (200, in_body.clone()));
    assert_eq!(ask(&usual, "/api/presence", header, "nowhere:a"), (404, unknown.clone()));
    assert_eq!(ask(&usual, "/api/presence", header, "plain").0, 400);

    let moved = server_with(&[
        ("TIDERACE_HTTP_API_HANDLER_PREFIX", "/backend/api"),
        ("TIDERACE_HTTP_API_ERROR_MODE", "transport"),
    ]);
    assert_eq!(ask(&moved, "/backend/api/presence", "", "nowhere:a"), (404, unknown));
    let there = ask(&moved, "/backend/api/presence", "", "room:a");
    assert_eq!(there, (200, json!({"result": {"presence": {}}})));
    for path in ["/api/presence", "/backend/apipresence", "/backend/api/presence/"] {
        let (status, body) = ask(&moved, path, "", "room:a");
        assert_eq!((status, &body["error"]["code"]), (404, &json!(404)), "{path}");
    }
}

#[test]
fn methods_without_paths_are_answered_by_a_line_each() {
    let server = server();
    let mut client = Client::connect(server.address);
    client.subscribe("a");
    let mut http = Connection::open(server.address);
    let body = concat!(
        r#"{"method":"publish","params":{"channel":"a","data":1}}"#,
        "\n",
        r#"{"method":"presence_stats","params":{"channel":"none:a"}}"#,
        "\n",
        r#"{"method":"broadcast","params":{"channels":["a"],"data":2}}"#,
    );
    let key = "Authorization: apikey k\r\n";
    let answer = http.request("POST", "/api", key, body);
    assert_eq!(answer.status, 200);
    assert_eq!(
        String::from_utf8(answer.body).unwrap(),
        concat!(
            r#"{"result":{}}"#,
            "\n",
            r#"{"error":{"code":102,"message":"unknown channel"}}"#,
            "\n",
            r#"{"result":{"responses":[{"result":{}}]}}"#,
        )
    );
    assert_eq!(
        [client.publication().1, client.publication().1],
        [json!({"data": 1}), json!({"data": 2})]
    );
    assert_eq!(http.request("POST", "/api", "", body).status, 401);
    assert_eq!(http.request("GET", "/api", key, "").status, 405);
    assert_eq!(http.request("POST", "/api", key, "{").status, 400);
}
