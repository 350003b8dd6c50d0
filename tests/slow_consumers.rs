//! Subscribers that do not read, in channels that keep them: what they lose is what the channel's
//! policy says, and they are told or it is counted.

mod support;

use serde_json::{Value, json};
use support::{Server, websocket::Client};

/// What makes a kernel's buffers full soon.
const FILLER_BYTES: usize = 64 << 10;

/// A server with one namespace of each policy.
fn server() -> Server {
    let namespaces = json!([
        {"name": "latest", "slow_consumer": "latest"},
        {"name": "prices", "slow_consumer": "latest", "conflation_tag": "symbol"},
        {"name": "oldest", "slow_consumer": "drop_oldest"},
        {
            "name": "state", "slow_consumer": "latest", "history_size": 100, "history_ttl": "1h",
            "force_recovery": true, "force_recovery_mode": "cache",
        },
    ]);
    let namespaces = namespaces.to_string();
    Server::dev(&[
        ("TIDERACE_CLIENT_PING_INTERVAL", "24h"),
        ("TIDERACE_CLIENT_QUEUE_MAX_SIZE", "262144"),
        ("TIDERACE_CHANNEL_NAMESPACES", &namespaces),
    ])
}

/// Publishes numbers until `metric` counts and some more; returns how many.
fn publish_until(server: &Server, channel: &str, metric: &str) -> u64 {
    let filler = "x".repeat(FILLER_BYTES);
    let mut published = 0;
    let mut after = 40;
    while after > 0 {
        server.publish(channel, &json!([published, filler]));
        published += 1;
        if published % 8 == 0 && server.metric(metric) > 0 {
            after -= 8;
        }
        assert!(published < 3_000, "no bound was ever reached");
    }
    published
}

#[test]
fn a_slow_subscriber_gets_the_newest_and_what_it_loses_is_counted() {
    for channel in ["latest:a", "oldest:a"] {
        let server = server();
        let mut slow = Client::subscribed(server.address, channel);
        let published = publish_until(&server, channel, "publications_overtaken");
        let mut read = vec![slow.data()[0].as_u64().unwrap()];
        while *read.last().unwrap() != published - 1 {
            read.push(slow.data()[0].as_u64().unwrap());
        }
        assert!(read.is_sorted_by(|one, next| one < next), "{channel}: {read:?}");
        let lost = server.metric("publications_overtaken");
        assert_eq!(read.len() as u64 + lost, published, "{channel}");
        server.publish(channel, &json!(["after"]));
        assert_eq!(slow.data()[0], "after", "it is connected and subscribed as before");
        assert_eq!(server.metric("slow_consumers_closed"), 0);
    }
}

#[test]
fn of_publications_with_one_tag_a_slow_subscriber_gets_the_newest_of_each_value() {
    const SYMBOLS: u64 = 3;
    let server = server();
    let mut slow = Client::subscribed(server.address, "prices:a");
    let filler = "x".repeat(FILLER_BYTES);
    let symbol_of = |number: u64| number % SYMBOLS;
    let publish = |number: u64, filler: &str| {
        let tags = json!({"symbol": symbol_of(number).to_string()});
        let body = json!({"channel": "prices:a", "data": [number, filler], "tags": tags});
        let answer = server.api("publish", &body);
        assert!(answer["result"].is_object(), "{answer}");
    };
    let mut published = 0;
    while published % 8 != 0 || server.metric("publications_overtaken") < 40 {
        publish(published, &filler);
        published += 1;
        assert!(published < 3_000, "no bound was ever reached");
    }
    // Long quiet: its newest waits although others of the channel are newer by far.
    let (first, rest) = (published, 4 * SYMBOLS);
    for number in (first..).filter(|number| symbol_of(*number) != 0).take(rest as usize) {
        publish(number, &filler);
    }
    let last = (first..).filter(|number| symbol_of(*number) != 0).nth(rest as usize - 1).unwrap();
    let newest_of = |symbol| {
        let below = if symbol == 0 { first - 1 } else { last };
        (0..=below).rev().find(|number| symbol_of(*number) == symbol).unwrap()
    };
    let expected: Vec<u64> = (0..SYMBOLS).map(newest_of).collect();
    let mut newest = vec![None; SYMBOLS as usize];
    let mut read = 0;
    while newest.iter().zip(&expected).any(|(newest, expected)| *newest != Some(*expected)) {
        let number = slow.data()[0].as_u64().unwrap();
        let newest = &mut newest[symbol_of(number) as usize];
        assert!(newest.is_none_or(|newest| newest < number), "{number} after {newest:?}");
        *newest = Some(number);
        read += 1;
    }
    let lost = server.metric("publications_overtaken");
    assert_eq!(read + lost, first + rest, "what it did not get is counted");
    server.publish("prices:a", &json!(["after"]));
    assert_eq!(slow.data()[0], "after");
}

#[test]
fn who_recovers_is_told_of_the_gap_and_gets_the_newest_state() {
    let server = server();
    let mut slow = Client::connect(server.address);
    let begun = slow.command(&json!({"subscribe": {"channel": "state:a"}}));
    assert_eq!(begun["subscribe"]["recoverable"], true, "{begun}");
    let published = publish_until(&server, "state:a", "positions_lost");
    let (mut offset, mut epoch) = (0, begun["subscribe"]["epoch"].clone());
    loop {
        let push = slow.line()["push"].take();
        if push["unsubscribe"]["code"] == 2500 {
            break;
        }
        let publication = &push["pub"];
        assert_eq!(publication["offset"], offset + 1, "nothing from behind the gap");
        offset += 1;
        if !publication["epoch"].is_null() {
            epoch = publication["epoch"].clone();
        }
    }
    let position = json!({"channel": "state:a", "recover": true, "offset": offset, "epoch": epoch});
    let again = slow.command(&json!({"subscribe": position}));
    assert_eq!(again["subscribe"]["recovered"], true, "{}", again["subscribe"]["offset"]);
    let recovered = again["subscribe"]["publications"].as_array().unwrap();
    assert_eq!(recovered.len(), 1, "the newest alone");
    assert_eq!(recovered[0]["offset"], published);
    assert_eq!(recovered[0]["data"][0], published - 1);
    server.publish("state:a", &Value::from("live"));
    assert_eq!(slow.data(), "live");
    assert_eq!(server.metric("slow_consumers_closed"), 0);
}
