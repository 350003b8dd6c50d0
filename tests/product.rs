//! A product whose own HTTP server says who connects, who subscribes, what publications become, and
//! answers procedures: with clients as their makers publish them.

mod support;

use serde_json::{Value, json};
use support::{
    Server,
    clients::{TRANSPORTS, Told, configured},
};

/// A server that asks the product at this port about everything.
fn server(test: &str, port: u16) -> Server {
    let proxy = |section: &str, path: &str| {
        format!(
            "[{section}]\nendpoint = \"http://127.0.0.1:{port}/{path}\"\ntimeout = \"30s\"\n\
             include_connection_meta = true\nhttp = {{ static_headers = {{ X-Key = \"k2\" }} }}\n"
        )
    };
    let proxies = [
        proxy("client.proxy.connect", "connect") + "enabled = true\n",
        proxy("channel.proxy.subscribe", "subscribe"),
        proxy("channel.proxy.publish", "publish"),
        proxy("rpc.proxy", "rpc"),
    ];
    configured(
        test,
        &format!(
            "{}[rpc.without_namespace]\nproxy_enabled = true\n\
             [[channel.namespaces]]\nname = \"room\"\nsubscribe_proxy_enabled = true\n\
             publish_proxy_enabled = true\n",
            proxies.concat()
        ),
    )
}

/// What the product was asked on this path.
fn asked(product: &mut Told, path: &str) -> Value {
    let mut event = product.next("asked");
    assert_eq!((&event["path"], &event["key"]), (&json!(path), &json!("k2")), "{event}");
    assert_eq!(event["type"], "application/json");
    event["asked"].take()
}

fn connected(mut client: Told, transport: &str, product: &mut Told) -> Told {
    let data = json!({"session": "of ann"});
    client.tell(&json!({"do": "connect", "transport": transport, "data": data}));
    let connected = client.next("connected");
    assert_eq!(connected["data"], json!({"welcome": "ann"}));
    assert_eq!(client.next("server subscribed")["channel"], "room:lobby");
    let question = asked(product, "connect");
    assert_eq!(question["client"], connected["client"]);
    assert_eq!((&question["transport"], &question["data"]), (&json!(transport), &data));
    client
}

fn call(client: &mut Told, method: &str, data: Value) -> Value {
    client.ask(&json!({"do": "rpc", "method": method, "data": data}))
}

fn procedures_are_answered(client: &mut Told, product: &mut Told) {
    let sum = call(client, "sum", json!([1, 2.5, 3]));
    assert_eq!(sum["result"]["data"], json!({"sum": 6.5}), "{sum}");
    let question = asked(product, "rpc");
    assert_eq!((&question["method"], &question["data"]), (&json!("sum"), &json!([1, 2.5, 3])));
    let me = call(client, "whoami", Value::Null);
    assert_eq!(me["result"]["data"], json!({"user": "ann", "meta": {"plan": "free"}}), "{me}");
    assert_eq!(call(client, "buy", json!({}))["error"]["code"], 1001, "the product's own");
    assert_eq!(call(client, "broken", json!({}))["error"]["code"], 100, "the server's");
    assert_eq!(call(client, "sum", json!([1]))["result"]["data"], json!({"sum": 1}));
    for _ in 0..4 {
        asked(product, "rpc");
    }
}

fn channels_are_what_the_product_says(client: &mut Told, product: &mut Told, transport: &str) {
    let channel = format!("room:{transport}");
    client.tell(&json!({"do": "subscribe", "channel": channel, "claims": null}));
    let topic = format!("{channel} for ann");
    assert_eq!(client.next("subscribed")["data"], json!({"topic": topic}));
    let question = asked(product, "subscribe");
    assert_eq!((&question["channel"], &question["user"]), (&json!(channel), &json!("ann")));
    client.tell(&json!({"do": "publish", "channel": channel, "data": {"text": "hello"}}));
    let publication = client.publication("publication");
    assert_eq!(publication["data"], json!({"text": "hello", "checked": true}));
    assert_eq!(publication["info"]["user"], "ann");
    assert_eq!(asked(product, "publish")["data"], json!({"text": "hello"}));

    client.tell(&json!({"do": "subscribe", "channel": "room:closed"}));
    let refused = client.next("unsubscribed");
    assert_eq!(
        (&refused["code"], &refused["reason"]),
        (&json!(403), &json!("members only")),
        "{refused}"
    );
    asked(product, "subscribe");
}

fn lives(mut client: Told, product: &mut Told, transport: &str) -> Told {
    client = connected(client, transport, product);
    procedures_are_answered(&mut client, product);
    channels_are_what_the_product_says(&mut client, product, transport);
    // Whatever it is answered, the client has been sent away.
    call(&mut client, "leave", json!({}));
    let left = client.next("disconnected");
    assert_eq!((&left["code"], &left["reason"]), (&json!(4502), &json!("you asked for it")));
    asked(product, "rpc");
    client
}

#[test]
fn clients_speak_to_the_product_through_the_server() {
    let (mut product, port) = Told::product(0);
    let server = server("product", port);
    for transport in TRANSPORTS {
        lives(Told::node(server.address), &mut product, transport);
    }
    lives(Told::python(server.address), &mut product, "websocket");
    lives(Told::browser(server.address), &mut product, "websocket");
    for client in [Told::node, Told::python] {
        let mut client = client(server.address);
        let data = json!({"session": "of nobody"});
        client.tell(&json!({"do": "connect", "transport": "websocket", "data": data}));
        let refused = client.next("disconnected");
        assert_eq!(
            (&refused["code"], &refused["reason"]),
            (&json!(4501), &json!("no such session"))
        );
    }
    server.wait_until("the end of all", |info| info["num_clients"] == 0 && info["num_subs"] == 0);
}

#[test]
fn a_product_that_is_gone_refuses_calls_and_is_found_when_it_is_back() {
    let (mut product, port) = Told::product(0);
    let server = server("product-gone", port);
    let ann = connected(Told::node(server.address), "websocket", &mut product);
    let bob = connected(Told::python(server.address), "websocket", &mut product);
    let mut clients = [ann, bob];
    drop(product);
    for client in &mut clients {
        let failed = call(client, "sum", json!([1]));
        assert_eq!(failed["error"]["code"], 100, "{failed}");
        // What needs no answer of the product goes on.
        server.publish("room:lobby", &json!("meanwhile"));
        assert_eq!(client.publication("server publication")["data"], "meanwhile");
    }
    let (_product, _) = Told::product(port);
    for client in &mut clients {
        assert_eq!(call(client, "sum", json!([1]))["result"]["data"], json!({"sum": 1}));
        assert_eq!(client.left("disconnected"), 0);
    }
}
