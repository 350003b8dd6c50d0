//! What is published while a client is away reaches it exactly once and in order when it is back:
//! clients as their makers publish them, over every transport, behind a connection that breaks.

mod support;

use serde_json::{Value, json};
use support::{
    Server,
    clients::{TRANSPORTS, Told, configured},
    relay::Relay,
};

/// A server whose channels `kept:…` are recovered.
fn server() -> Server {
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    configured(
        &format!("recovery-{name}"),
        "[[channel.namespaces]]\nname = \"kept\"\nhistory_size = 100\nhistory_ttl = \"10m\"\n\
         force_recovery = true\nallow_subscribe_for_client = true\n\
         allow_subscribe_for_anonymous = true\n",
    )
}

/// Publishes numbers, from where it stopped.
struct Publisher {
    backend: Told,
    channel: &'static str,
    published: u64,
}

impl Publisher {
    fn new(server: &Server, channel: &'static str) -> Self {
        Self { backend: Told::backend(server), channel, published: 0 }
    }

    fn say(&mut self, data: Value) {
        self.backend.call("publish", json!({"channel": self.channel, "data": data}));
    }

    fn publish(&mut self, count: u64) {
        for number in self.published..self.published + count {
            self.say(number.into());
        }
        self.published += count;
    }

    /// Ends the publications; a client must have seen these since it began to count.
    fn end(&mut self) -> Vec<Value> {
        self.say("end".into());
        (0..std::mem::take(&mut self.published)).map(Value::from).collect()
    }
}

/// How a client is torn from its server.
#[derive(Clone, Copy, Debug)]
enum Away {
    /// Its TCP connection breaks.
    Cut,
    /// The backend disconnects its user with this code.
    Disconnect(u32),
}

const WAYS: [Away; 2] = [Away::Cut, Away::Disconnect(4_001)];

/// The client is connected as ann and subscribed; publications are its events `kind`.
fn goes_away_and_misses_nothing(
    (server, relay): (&Server, &Relay),
    (client, kind): (&mut Told, &str),
    publisher: &mut Publisher,
    away: Away,
) {
    let subscribed = if kind == "publication" { "subscribed" } else { "server subscribed" };
    publisher.publish(3);
    match away {
        Away::Cut => relay.cut(),
        Away::Disconnect(code) => {
            relay.shut();
            let disconnect = json!({"code": code, "reason": "away"});
            publisher.backend.call("disconnect", json!({"user": "ann", "disconnect": disconnect}));
        }
    }
    let connecting = client.next("connecting");
    if let Away::Disconnect(code) = away {
        assert_eq!((&connecting["code"], &connecting["reason"]), (&json!(code), &json!("away")));
    }
    server.wait_until("its end", |info| info["num_clients"] == 0 && info["num_subs"] == 0);
    publisher.publish(20);
    relay.mend();
    // Some of these come before it is back, some while it recovers.
    publisher.publish(10);
    client.next("connected");
    let back = client.next(subscribed);
    let recovered = back["recovered"] == true;
    let was_recovering = back["wasRecovering"] == true || back["was_recovering"] == true;
    assert!(recovered && was_recovering, "{away:?}: {back}");
    assert_eq!(publisher.end(), client.until_end(kind), "{away:?}");
    assert_eq!((client.left(kind), client.left("unsubscribed")), (0, 0), "{away:?}");
}

fn a_subscriber_comes_back(client: &mut Told, server: &Server, relay: &Relay, transport: &str) {
    client.tell(&json!({"do": "connect", "transport": transport, "claims": {"sub": "ann"}}));
    client.next("connecting");
    client.next("connected");
    client.tell(&json!({"do": "subscribe", "channel": "kept:news"}));
    let first = client.next("subscribed");
    let was_recovering = [&first["wasRecovering"], &first["was_recovering"]];
    assert!(first["recoverable"] == true && was_recovering.iter().all(|was| *was != true));
    let mut publisher = Publisher::new(server, "kept:news");
    for away in WAYS {
        let client = (&mut *client, "publication");
        goes_away_and_misses_nothing((server, relay), client, &mut publisher, away);
    }
    client.tell(&json!({"do": "disconnect"}));
    server.wait_until("its end", |info| info["num_clients"] == 0);
}

#[test]
fn in_node() {
    let server = server();
    for transport in TRANSPORTS {
        let relay = Relay::start(server.address);
        let mut client = Told::node(relay.address);
        a_subscriber_comes_back(&mut client, &server, &relay, transport);
    }
}

#[test]
fn in_a_browser() {
    let server = server();
    let relay = Relay::start(server.address);
    // A page has one client: each transport has a page of its own.
    for transport in TRANSPORTS {
        let mut client = Told::browser(relay.address);
        a_subscriber_comes_back(&mut client, &server, &relay, transport);
    }
}

#[test]
fn in_python() {
    let server = server();
    let relay = Relay::start(server.address);
    let mut client = Told::python(relay.address);
    a_subscriber_comes_back(&mut client, &server, &relay, "websocket");
}

#[test]
fn a_subscription_that_the_token_makes() {
    let server = server();
    for transport in TRANSPORTS {
        let relay = Relay::start(server.address);
        let mut client = Told::node(relay.address);
        let claims = json!({"sub": "ann", "channels": ["kept:mine"]});
        client.tell(&json!({"do": "connect", "transport": transport, "claims": claims}));
        client.next("connecting");
        client.next("connected");
        assert_eq!(client.next("server subscribed")["channel"], "kept:mine");
        let mut publisher = Publisher::new(&server, "kept:mine");
        for away in WAYS {
            let client = (&mut client, "server publication");
            goes_away_and_misses_nothing((&server, &relay), client, &mut publisher, away);
        }
        client.tell(&json!({"do": "disconnect"}));
        server.wait_until("its end", |info| info["num_clients"] == 0);
    }
}

fn an_event_source_comes_back(mut source: Told, server: &Server, relay: &Relay) {
    let mut publisher = Publisher::new(server, "kept:news");
    source.tell(&json!({"do": "source", "path": "/events/kept:news"}));
    source.next("open");
    server.wait_until("its subscription", |info| info["num_subs"] == 1);
    publisher.publish(1);
    assert_eq!(source.publication("publication")["data"], 0);
    relay.cut();
    server.wait_until("its end", |info| info["num_clients"] == 0);
    publisher.publish(20);
    relay.mend();
    publisher.publish(10);
    source.next("open");
    assert_eq!(publisher.end()[1..], source.until_end("publication"));
    drop(source);
    server.wait_until("its end", |info| info["num_clients"] == 0);
}

#[test]
fn a_bare_event_source_without_any_library() {
    let server = server();
    let relay = Relay::start(server.address);
    an_event_source_comes_back(Told::browser(relay.address), &server, &relay);
    an_event_source_comes_back(Told::node(relay.address), &server, &relay);
}
