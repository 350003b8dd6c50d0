//! What channels have beyond publications, over the wire of a server with two shards: positions and
//! recovery, presence, who comes and goes, limits, channels of users.

mod support;

use serde_json::{Value, json};
use support::{Server, websocket::Client};
use tiderace::auth::sign;

const SECRET: &str = "a secret of 32 bytes for the tests";

fn server() -> Server {
    server_with(&[])
}

fn server_with(more: &[(&str, &str)]) -> Server {
    let namespaces = json!([
        {
            "name": "hist", "allow_subscribe_for_client": true, "allow_publish_for_client": true,
            "history_size": 5, "history_ttl": "1h", "allow_recovery": true,
            "allow_positioning": true, "allow_history_for_subscriber": true,
        },
        {
            "name": "here", "allow_subscribe_for_client": true, "presence": true, "join_leave": true,
            "force_push_join_leave": true, "allow_presence_for_subscriber": true,
        },
        {
            "name": "user", "allow_subscribe_for_client": true, "join_leave": true,
            "force_push_join_leave": true, "join_leave_by_user": true,
        },
        {"name": "few", "allow_subscribe_for_client": true, "max_subscribers": 1},
        {"name": "of", "allow_user_limited_channels": true},
        {"name": "own", "history_size": 5, "history_ttl": "1h", "force_recovery": true},
    ]);
    let namespaces = namespaces.to_string();
    let environment = [
        ("TIDERACE_CLIENT_PING_INTERVAL", "24h"),
        ("TIDERACE_HTTP_API_KEY", "key"),
        ("TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY", SECRET),
        ("TIDERACE_CLIENT_USER_CONNECTION_LIMIT", "3"),
        ("TIDERACE_CLIENT_SUBSCRIBE_TO_USER_PERSONAL_CHANNEL_ENABLED", "true"),
        ("TIDERACE_CLIENT_SUBSCRIBE_TO_USER_PERSONAL_CHANNEL_PERSONAL_CHANNEL_NAMESPACE", "own"),
        ("TIDERACE_CHANNEL_NAMESPACES", &namespaces),
    ];
    Server::start(&["--shards", "2"], &[&environment, more].concat())
}

/// A connection of `user` with these further claims, and the result of its connect command.
fn connect(server: &Server, user: &str, claims: &Value, request: &Value) -> (Client, Value) {
    let mut all = json!({"sub": user});
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    let mut connect = json!({"token": sign(SECRET, &all)});
    connect.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
    let mut client = Client::open(server.address);
    let reply = client.command(&json!({"connect": connect}));
    (client, reply["connect"].clone())
}

fn user(server: &Server, name: &str) -> Client {
    connect(server, name, &json!({}), &json!({})).0
}

fn publish(server: &Server, channel: &str, data: impl Into<Value>) {
    let answer = server.api("publish", &json!({"channel": channel, "data": data.into()}));
    assert!(answer["result"].is_object(), "{answer}");
}

fn subscribe(client: &mut Client, request: Value) -> Value {
    client.command(&json!({"subscribe": request}))["subscribe"].take()
}

fn error(client: &mut Client, request: Value) -> u64 {
    client.error_of(&json!({"subscribe": request}))
}

fn offsets(publications: &Value) -> Vec<u64> {
    let publications = publications.as_array().map(Vec::as_slice).unwrap_or_default();
    publications.iter().map(|publication| publication["offset"].as_u64().unwrap()).collect()
}

#[test]
fn a_subscriber_recovers_all_or_nothing_and_goes_on_behind_it() {
    let server = server();
    let mut ann = user(&server, "ann");
    let begun = subscribe(&mut ann, json!({"channel": "hist:a", "recoverable": true}));
    let epoch = begun["epoch"].as_str().unwrap().to_owned();
    assert_eq!(begun, json!({"recoverable": true, "epoch": epoch, "positioned": true}));
    for n in 1..=4 {
        publish(&server, "hist:a", n);
    }
    for n in 1..=4 {
        let (_, publication) = ann.publication();
        assert_eq!((&publication["data"], &publication["offset"]), (&json!(n), &json!(n)));
        let expected = if n == 1 { json!(epoch) } else { Value::Null };
        assert_eq!(publication["epoch"], expected, "the stream's first publication says it");
    }
    let mut bob = user(&server, "bob");
    let recover = |offset, epoch: &str| json!({"channel": "hist:a", "recover": true, "offset": offset, "epoch": epoch});
    let recovered = subscribe(&mut bob, recover(2, &epoch));
    assert_eq!(recovered["recovered"], true);
    assert_eq!(recovered["was_recovering"], true);
    assert_eq!(
        (offsets(&recovered["publications"]), &recovered["offset"]),
        (vec![3, 4], &json!(4))
    );
    publish(&server, "hist:a", 5);
    assert_eq!((bob.data(), ann.data()), (json!(5), json!(5)), "each once, behind the cut");
    bob.command(&json!({"unsubscribe": {"channel": "hist:a"}}));
    let in_step = subscribe(&mut bob, recover(5, &epoch));
    assert_eq!((&in_step["recovered"], &in_step["publications"]), (&json!(true), &Value::Null));
    for n in 6..=9 {
        publish(&server, "hist:a", n);
    }
    bob.command(&json!({"unsubscribe": {"channel": "hist:a"}}));
    // Of nine the last five are kept: position 3 is too old, 4 is just not.
    for (offset, epoch, all) in [(3, &epoch[..], false), (4, &epoch, true), (4, "other", false)] {
        let result = subscribe(&mut bob, recover(offset, epoch));
        assert_eq!(result["recovered"], if all { json!(true) } else { Value::Null }, "{result}");
        assert_eq!(result["was_recovering"], true);
        let expected = if all { vec![5, 6, 7, 8, 9] } else { vec![] };
        assert_eq!(offsets(&result["publications"]), expected);
        bob.command(&json!({"unsubscribe": {"channel": "hist:a"}}));
    }
    let mut strict = recover(1, &epoch);
    strict["flag"] = json!(2);
    assert_eq!(error(&mut bob, strict), 112, "who asked for it is refused instead");
    let mut carol = user(&server, "carol");
    let fresh = subscribe(&mut carol, json!({"channel": "hist:a"}));
    assert_eq!(fresh, json!({}), "who asks for nothing gets publications");
    publish(&server, "hist:a", 10);
    assert_eq!(carol.publication().1["offset"], 10, "with their offsets");
}

#[test]
fn a_history_is_read_in_pages_by_who_may() {
    let server = server();
    let mut ann = user(&server, "ann");
    let history =
        |client: &mut Client, request: Value| client.command(&json!({"history": request}));
    let denied = history(&mut ann, json!({"channel": "hist:a"}));
    assert_eq!(denied["error"]["code"], 103, "subscribers may");
    subscribe(&mut ann, json!({"channel": "hist:a"}));
    for n in 1..=7 {
        ann.publish("hist:a", &json!(n));
        ann.data();
    }
    let mut read = |request: Value| history(&mut ann, request)["history"].take();
    let position = read(json!({"channel": "hist:a"}));
    let epoch = position["epoch"].as_str().unwrap().to_owned();
    assert_eq!(position, json!({"publications": [], "epoch": epoch, "offset": 7}));
    let all = read(json!({"channel": "hist:a", "limit": -1}));
    assert_eq!(offsets(&all["publications"]), [3, 4, 5, 6, 7]);
    assert_eq!(all["publications"][0]["info"]["user"], "ann");
    let newest = read(json!({"channel": "hist:a", "limit": 2, "reverse": true}));
    assert_eq!(offsets(&newest["publications"]), [7, 6]);
    let since = json!({"offset": 4, "epoch": epoch});
    let page = read(json!({"channel": "hist:a", "limit": 2, "since": since}));
    assert_eq!(offsets(&page["publications"]), [5, 6]);
    let before = read(json!({"channel": "hist:a", "limit": 2, "since": since, "reverse": true}));
    assert_eq!(offsets(&before["publications"]), [3]);
    let other = json!({"offset": 4, "epoch": "other"});
    let error = history(&mut ann, json!({"channel": "hist:a", "limit": 2, "since": other}));
    assert_eq!(error["error"]["code"], 112);
    let none = history(&mut ann, json!({"channel": "here:a", "limit": 1}));
    assert_eq!(none["error"]["code"], 108, "there is none in this namespace");
}

#[test]
fn who_is_there_is_seen_comes_and_goes_and_leaves_no_ghost() {
    let server = server();
    let (mut ann, connected) = connect(&server, "ann", &json!({"info": {"n": 1}}), &json!({}));
    subscribe(&mut ann, json!({"channel": "here:a"}));
    let push = ann.line()["push"].take();
    let own = json!({"user": "ann", "client": connected["client"], "conn_info": {"n": 1}});
    assert_eq!(push, json!({"channel": "here:a", "join": {"info": own}}), "behind its own reply");
    let (mut bob, connected) = connect(&server, "bob", &json!({}), &json!({}));
    subscribe(&mut bob, json!({"channel": "here:a"}));
    let other = json!({"user": "bob", "client": connected["client"]});
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.line()["push"]["join"]["info"], other);
    }
    let presence = ann.command(&json!({"presence": {"channel": "here:a"}}));
    let expected =
        json!({own["client"].as_str().unwrap(): own, other["client"].as_str().unwrap(): other});
    assert_eq!(presence["presence"]["presence"], expected);
    let stats = ann.command(&json!({"presence_stats": {"channel": "here:a"}}));
    assert_eq!(stats["presence_stats"], json!({"num_clients": 2, "num_users": 2}));
    // However it goes: by a reset of its connection here, which nobody can announce but the server.
    drop(bob);
    assert_eq!(ann.line()["push"]["leave"]["info"], other);
    let presence = ann.command(&json!({"presence": {"channel": "here:a"}}));
    assert_eq!(presence["presence"]["presence"].as_object().unwrap().len(), 1);
    ann.command(&json!({"unsubscribe": {"channel": "here:a"}}));
    let denied = ann.command(&json!({"presence": {"channel": "here:a"}}));
    assert_eq!(denied["error"]["code"], 103);
}

#[test]
fn a_user_comes_with_its_first_connection_and_goes_with_its_last() {
    let server = server();
    let mut watcher = user(&server, "watcher");
    subscribe(&mut watcher, json!({"channel": "user:a"}));
    assert_eq!(watcher.line()["push"]["join"]["info"]["user"], "watcher");
    let mut connections: Vec<Client> = (0..2).map(|_| user(&server, "ann")).collect();
    for connection in &mut connections {
        subscribe(connection, json!({"channel": "user:a"}));
    }
    assert_eq!(watcher.line()["push"]["join"]["info"]["user"], "ann");
    let second = connections.pop().unwrap();
    second.close();
    drop(connections);
    let push = watcher.line()["push"].take();
    assert_eq!(push["leave"]["info"]["user"], "ann", "once, and nothing in between: {push}");
    publish(&server, "user:a", "after");
    assert_eq!(watcher.data(), "after");
}

#[test]
fn limits_of_users_and_channels_hold_across_shards() {
    let server = server();
    let mut connections: Vec<Client> = (0..3).map(|_| user(&server, "ann")).collect();
    let mut fourth = Client::open(server.address);
    let token = sign(SECRET, &json!({"sub": "ann"}));
    fourth.send_command(&json!({"connect": {"token": token}}));
    assert_eq!(fourth.closed(), (3504, "connection limit".into()));
    assert_eq!(subscribe(&mut connections[0], json!({"channel": "few:a"})), json!({}));
    assert_eq!(error(&mut connections[1], json!({"channel": "few:a"})), 106);
    connections[0].command(&json!({"unsubscribe": {"channel": "few:a"}}));
    // The leave and the next attempt come from two shards: either may reach the channel's home first.
    while connections[1].command(&json!({"subscribe": {"channel": "few:a"}}))["error"].is_object() {
    }
    connections.remove(0).close();
    loop {
        let mut again = Client::open(server.address);
        again.send_command(&json!({"connect": {"token": token}}));
        if again.connects() {
            break;
        }
    }
}

#[test]
fn channels_of_users_are_theirs() {
    let server = server();
    let (mut ann, connected) = connect(
        &server,
        "ann",
        &json!({"channels": ["hist:a"]}),
        &json!({"subs": {"own:#ann": {"recover": true, "offset": 0, "epoch": ""}}}),
    );
    let subs = connected["subs"].as_object().unwrap();
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["hist:a", "own:#ann"]);
    assert_eq!(subs["own:#ann"]["recovered"], true, "nothing was missed: {connected}");
    publish(&server, "own:#ann", "for ann");
    publish(&server, "own:#bob", "not for ann");
    publish(&server, "hist:a", "for all");
    let mut heard = [ann.publication(), ann.publication()];
    heard.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!((&*heard[0].0, &heard[0].1["data"]), ("hist:a", &json!("for all")));
    assert_eq!((&*heard[1].0, &heard[1].1["data"]), ("own:#ann", &json!("for ann")));
    assert_eq!(error(&mut ann, json!({"channel": "hist:a"})), 105, "the server did already");
    assert_eq!(subscribe(&mut ann, json!({"channel": "of:room#ann,bob"})), json!({}));
    assert_eq!(error(&mut ann, json!({"channel": "of:room#bob"})), 103);
    assert_eq!(error(&mut ann, json!({"channel": "$hist:secret"})), 103, "a token opens it");
    assert_eq!(error(&mut ann, json!({"channel": "none:a"})), 102);
    // It comes back and gets what it missed.
    let epoch = subs["own:#ann"]["epoch"].clone();
    ann.close();
    publish(&server, "own:#ann", "missed");
    let position = json!({"recover": true, "offset": 1, "epoch": epoch});
    let (_, connected) =
        connect(&server, "ann", &json!({}), &json!({"subs": {"own:#ann": position}}));
    let own = &connected["subs"]["own:#ann"];
    assert_eq!(
        (&own["recovered"], &own["publications"][0]["data"]),
        (&json!(true), &json!("missed"))
    );
}

/// What others see of who publishes is what they see of who is there: with the info of the
/// subscription, whoever made it.
#[test]
fn a_publisher_has_the_info_of_its_subscription() {
    let server = server();
    let said = |client: &mut Client, connected: &Value, chan_info: Option<Value>| {
        let published = client.command(&json!({"publish": {"channel": "hist:a", "data": 1}}));
        assert_eq!(published["publish"], json!({}));
        let newest = json!({"channel": "hist:a", "limit": 1, "reverse": true});
        let page = server.api("history", &newest);
        let id = &connected["client"];
        let mut info = json!({"user": "ann", "client": id, "conn_info": {"n": 1}});
        info.as_object_mut().unwrap().extend(chan_info.map(|info| ("chan_info".into(), info)));
        assert_eq!(page["result"]["publications"][0]["info"], info);
    };
    let seat = |seat: u64| json!({"seat": seat});
    let token = |info: Value| {
        let claims = json!({"sub": "ann", "channel": "hist:a", "info": info});
        json!({"channel": "hist:a", "token": sign(SECRET, &claims)})
    };
    let claims = json!({"info": {"n": 1}});
    let (mut ann, id) = connect(&server, "ann", &claims, &json!({}));
    said(&mut ann, &id, None);
    subscribe(&mut ann, token(seat(3)));
    said(&mut ann, &id, Some(seat(3)));
    let prolonged = ann.command(&json!({"sub_refresh": token(seat(4))}));
    assert_eq!(prolonged["sub_refresh"], json!({}));
    said(&mut ann, &id, Some(seat(4)));
    assert_eq!(
        ann.command(&json!({"unsubscribe": {"channel": "hist:a"}}))["unsubscribe"],
        json!({})
    );
    subscribe(&mut ann, json!({"channel": "hist:a"}));
    said(&mut ann, &id, None);

    let claims = json!({"info": {"n": 1}, "subs": {"hist:a": {"info": seat(5)}}});
    let (mut ann, id) = connect(&server, "ann", &claims, &json!({}));
    said(&mut ann, &id, Some(seat(5)));
    let unsubscribe = json!({"user": "ann", "channel": "hist:a"});
    assert_eq!(server.api("unsubscribe", &unsubscribe), json!({"result": {}}));
    said(&mut ann, &id, None);
    let by_backend = json!({"user": "ann", "channel": "hist:a", "info": seat(6)});
    assert_eq!(server.api("subscribe", &by_backend), json!({"result": {}}));
    said(&mut ann, &id, Some(seat(6)));
}

#[test]
fn who_grants_a_channel_may_call_it_what_it_likes() {
    let server = server();
    let claims = json!({"channels": ["hist:\u{e4}", ""]});
    let (mut ann, connected) = connect(&server, "\u{e9}mile", &claims, &json!({}));
    let subs = connected["subs"].as_object().expect("both are granted");
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["hist:\u{e4}", "own:#\u{e9}mile"]);
    publish(&server, "own:#\u{e9}mile", "for him");
    assert_eq!(ann.data(), "for him");
    assert_eq!(error(&mut ann, json!({"channel": "hist:\u{eb}"})), 107, "clients may not");
    let claims = json!({"sub": "ann", "channels": [format!("hist:{}", "a".repeat(251))]});
    let connect = json!({"connect": {"token": sign(SECRET, &claims)}});
    assert_eq!(Client::open(server.address).error_of(&connect), 102, "it is too long");
}

#[test]
fn a_client_comes_back_to_channels_that_the_backend_had_it_in() {
    let server = server();
    let mut ann = user(&server, "ann");
    for channel in ["hist:a", "of:room#bob"] {
        let answer = server.api("subscribe", &json!({"user": "ann", "channel": channel}));
        assert_eq!(answer, json!({"result": {}}));
        assert_eq!(ann.line()["push"]["channel"], channel);
    }
    ann.close();
    // It says so, as official clients do, and is believed as far as it may subscribe by itself.
    let subs = json!({"subs": {"hist:a": {}, "of:room#bob": {}, "$hist:a": {}, "none:a": {}}});
    let (_ann, connected) = connect(&server, "ann", &json!({}), &subs);
    let subs = connected["subs"].as_object().unwrap();
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["hist:a", "own:#ann"]);
}

#[test]
fn a_user_may_have_one_connection_the_newest() {
    let server = server_with(&[
        ("TIDERACE_CLIENT_SUBSCRIBE_TO_USER_PERSONAL_CHANNEL_SINGLE_CONNECTION", "true"),
        ("TIDERACE_CHANNEL_NAMESPACES_OWN_PRESENCE", "true"),
    ]);
    let mut other = user(&server, "bob");
    let mut newest = user(&server, "ann");
    // So many that some are on other shards.
    for _ in 0..8 {
        let mut older = std::mem::replace(&mut newest, user(&server, "ann"));
        assert_eq!(older.closed(), (3504, "connection limit".into()));
    }
    for client in [&mut newest, &mut other] {
        assert_eq!(client.command(&json!({"ping": {}}))["ping"], json!({}));
    }
}
