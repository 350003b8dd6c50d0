//! Who is in a channel, what was said there, and how long one may stay: with clients and a backend's
//! package as their makers publish them.

mod support;

use serde_json::{Value, json};
use support::{
    Server,
    clients::{TRANSPORTS, Told, configured},
};

/// Everybody sees everything in `room:…`; `members:…` is for those with a token of their own.
fn server(test: &str) -> Server {
    configured(
        test,
        "[[channel.namespaces]]\nname = \"room\"\npresence = true\njoin_leave = true\n\
         force_push_join_leave = true\nhistory_size = 10\nhistory_ttl = \"10m\"\n\
         allow_subscribe_for_client = true\nallow_publish_for_subscriber = true\n\
         allow_presence_for_subscriber = true\nallow_history_for_subscriber = true\n\
         [[channel.namespaces]]\nname = \"members\"\n",
    )
}

fn connected(mut client: Told, transport: &str, user: &str) -> Told {
    let claims = json!({"sub": user, "info": {"name": user}});
    client.tell(&json!({"do": "connect", "transport": transport, "claims": claims}));
    client.next("connected");
    client
}

fn subscribe(client: &mut Told, channel: &str) {
    client.tell(&json!({"do": "subscribe", "channel": channel, "joinLeave": true}));
    client.next("subscribed");
}

/// The next event of this name that is about `user`.
fn about(client: &mut Told, name: &str, user: &str) -> Value {
    loop {
        let mut event = client.next(name);
        if event["info"]["user"] == user {
            return event["info"].take();
        }
    }
}

/// Both libraries have a name of their own for some members.
fn either<'a>(value: &'a Value, names: [&str; 2]) -> &'a Value {
    names.iter().find_map(|name| value.get(name)).unwrap_or(&Value::Null)
}

/// The users that a client sees in the channel, and how many it is told that there are.
fn seen(client: &mut Told, channel: &str) -> Vec<String> {
    let presence = client.tell(&json!({"do": "presence", "channel": channel}));
    let clients = presence["clients"].as_object().expect("clients by id");
    let mut users = Vec::new();
    for (id, info) in clients {
        let user = info["user"].as_str().expect("a user");
        assert_eq!(info["client"], json!(id));
        assert_eq!(either(info, ["connInfo", "conn_info"]), &json!({"name": user}));
        users.push(user.to_owned());
    }
    users.sort();
    let stats = client.tell(&json!({"do": "presence_stats", "channel": channel}));
    assert_eq!(either(&stats, ["numClients", "num_clients"]), &json!(users.len()), "{stats}");
    users.dedup();
    assert_eq!(either(&stats, ["numUsers", "num_users"]), &json!(users.len()), "{stats}");
    users
}

/// What `ann` sees of `bob`, who comes, speaks, goes, comes back and is killed.
fn meet(server: &Server, mut ann: Told, mut bob: Told, channel: &str) {
    subscribe(&mut ann, channel);
    subscribe(&mut bob, channel);
    assert!(about(&mut ann, "join", "bob")["client"].is_string());
    for client in [&mut ann, &mut bob] {
        assert_eq!(seen(client, channel), ["ann", "bob"]);
    }

    bob.tell(&json!({"do": "publish", "channel": channel, "data": {"text": "hello"}}));
    let hello = ann.publication("publication");
    assert_eq!(hello["data"], json!({"text": "hello"}));
    assert_eq!(hello["info"]["user"], "bob");
    bob.tell(&json!({"do": "publish", "channel": channel, "data": "bye"}));
    for client in [&mut ann, &mut bob] {
        let ask = |limit: u32| json!({"do": "history", "channel": channel, "limit": limit});
        let history = client.tell(&ask(10));
        let said = history["publications"].as_array().expect("publications");
        assert_eq!(
            (said.len(), &said[0]["data"], &said[1]["data"]),
            (2, &hello["data"], &json!("bye"))
        );
        assert_eq!((&said[0]["offset"], &said[1]["offset"]), (&json!(1), &json!(2)));
        assert_eq!(history["offset"], 2);
        let position = client.tell(&ask(0));
        assert_eq!(
            (&position["publications"], &position["epoch"]),
            (&json!([]), &history["epoch"])
        );
        let mut since = ask(1);
        since["since"] = json!({"offset": 1, "epoch": history["epoch"]});
        if client.is_python() {
            // Its positions are objects of its own.
            continue;
        }
        assert_eq!(client.tell(&since)["publications"][0]["data"], "bye");
    }

    bob.tell(&json!({"do": "unsubscribe", "channel": channel}));
    assert_eq!(bob.next("unsubscribed")["code"], 0);
    about(&mut ann, "leave", "bob");
    assert_eq!(seen(&mut ann, channel), ["ann"]);
    bob.tell(&json!({"do": "subscribe", "channel": channel}));
    bob.next("subscribed");
    about(&mut ann, "join", "bob");
    assert_eq!(seen(&mut ann, channel), ["ann", "bob"]);
    drop(bob);
    about(&mut ann, "leave", "bob");
    assert_eq!(seen(&mut ann, channel), ["ann"]);
    assert_eq!((ann.left("join"), ann.left("leave")), (0, 0), "each came once");
    drop(ann);
    server.wait_until("the end", |info| info["num_clients"] == 0 && info["num_channels"] == 0);
}

#[test]
fn clients_see_who_comes_and_goes_and_what_was_said() {
    let server = server("membership-meet");
    for (number, transport) in TRANSPORTS.iter().enumerate() {
        let ann = connected(Told::node(server.address), transport, "ann");
        let bob = connected(Told::python(server.address), "websocket", "bob");
        meet(&server, ann, bob, &format!("room:{number}"));
    }
    let ann = connected(Told::python(server.address), "websocket", "ann");
    let bob = connected(Told::browser(server.address), "websocket", "bob");
    meet(&server, ann, bob, "room:browser");
}

fn stays_with_new_tokens(mut client: Told, server: &Server, transport: &str) {
    let claims = json!({"sub": "ann"});
    client.tell(&json!({"do": "connect", "transport": transport, "claims": claims, "seconds": 2}));
    client.next("connected");
    let channel = "members:all";
    client.tell(&json!({"do": "subscribe", "channel": channel, "claims": claims, "seconds": 2}));
    client.next("subscribed");
    let mut asked = [0, 0];
    while asked.iter().any(|asked| *asked < 3) {
        let of_channel = client.next("token asked")["channel"] == channel;
        asked[usize::from(of_channel)] += 1;
    }
    server.publish(channel, &json!("still here"));
    assert_eq!(client.publication("publication")["data"], "still here");
    assert_eq!((client.left("connecting"), client.left("subscribing")), (1, 1), "once each");
    for wrong in ["connected", "subscribed", "disconnected", "unsubscribed", "error"] {
        assert_eq!(client.left(wrong), 0, "{wrong}");
    }
}

#[test]
fn tokens_are_refreshed_without_a_new_connection() {
    let server = server("membership-refresh");
    std::thread::scope(|scope| {
        for transport in TRANSPORTS {
            let server = &server;
            scope.spawn(move || {
                stays_with_new_tokens(Told::node(server.address), server, transport);
            });
        }
        scope.spawn(|| {
            stays_with_new_tokens(Told::python(server.address), &server, "websocket");
        });
    });
}
