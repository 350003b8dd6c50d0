//! One publication is encoded once and shared by all who get it: by count of frames, and of memory.

mod support;

use std::io::Read;
use std::thread;

use serde_json::json;
use support::{
    Server, raise_open_files,
    websocket::{FIN, Raw, TEXT, frame},
};

const SUBSCRIBERS: usize = 1000;

fn subscribe_all(server: &Server) -> Vec<Raw> {
    let subscribers: Vec<_> = (0..SUBSCRIBERS)
        .map(|_| {
            let mut raw = Raw::connect(server.address);
            raw.send(&frame(FIN | TEXT, br#"{"id":2,"subscribe":{"channel":"c"}}"#));
            assert_eq!(raw.text(), r#"{"id":2,"subscribe":{}}"#);
            raw
        })
        .collect();
    let info = server.info();
    assert_eq!(info["num_subs"], SUBSCRIBERS);
    for shard in [0, 1] {
        assert!(info["shards"][shard]["num_clients"].as_u64() > Some(0), "on both shards");
    }
    subscribers
}

#[test]
fn a_publication_is_one_frame_however_many_read_it() {
    raise_open_files(4096);
    let server = Server::dev(&[("TIDERACE_CLIENT_PING_INTERVAL", "24h")]);
    let mut subscribers = subscribe_all(&server);
    for n in 1..=3 {
        server.publish("c", &json!({"n": n}));
        for subscriber in &mut subscribers {
            let push = format!(r#"{{"push":{{"channel":"c","pub":{{"data":{{"n":{n}}}}}}}}}"#);
            assert_eq!(subscriber.text(), push);
        }
        assert_eq!(server.metric("frames_encoded"), n);
        assert_eq!(server.metric("deliveries"), n * SUBSCRIBERS as u64);
    }
}

#[test]
fn where_nobody_is_nothing_is_encoded_and_no_channel_is_made() {
    let server = Server::dev(&[]);
    for _ in 0..3 {
        server.publish("empty", &json!("for nobody"));
    }
    assert_eq!(server.metric("frames_encoded"), 0);
    assert_eq!(server.info()["num_channels"], 0);
}

#[test]
fn a_mebibyte_for_a_thousand_is_not_a_thousand_mebibytes() {
    const MIB: u64 = 1 << 20;
    raise_open_files(4096);
    let environment = [
        ("TIDERACE_CLIENT_PING_INTERVAL", "24h"),
        ("TIDERACE_HTTP_API_MAX_REQUEST_BODY_SIZE", "2097152"),
    ];
    let server = Server::dev(&environment);
    let subscribers = subscribe_all(&server);
    let (before, _) = server.resident_bytes();
    let data = "x".repeat(MIB as usize);
    let text = format!(r#"{{"push":{{"channel":"c","pub":{{"data":"{data}"}}}}}}"#);
    let mut wanted = vec![FIN | TEXT, 127];
    wanted.extend((text.len() as u64).to_be_bytes());
    wanted.extend(text.as_bytes());
    server.publish("c", &json!(data));
    // All at once, piece by piece: the server has every send in flight at the same time.
    thread::scope(|scope| {
        let mut subscribers = subscribers;
        while !subscribers.is_empty() {
            let rest = subscribers.split_off(subscribers.len().min(SUBSCRIBERS / 4));
            let some = std::mem::replace(&mut subscribers, rest);
            scope.spawn(|| read_all(some, &wanted));
        }
    });
    let (_, highest) = server.resident_bytes();
    let growth = highest - before;
    println!("{SUBSCRIBERS} readers of 1 MiB: {} KiB more at the highest", growth >> 10);
    assert!(growth < 100 * MIB, "{growth} bytes more, from {before}");
    assert_eq!(server.metric("frames_encoded"), 1);
    assert_eq!(server.metric("slow_consumers_closed"), 0);
}

fn read_all(mut subscribers: Vec<Raw>, wanted: &[u8]) {
    let mut buffer = vec![0; 64 << 10];
    for piece in wanted.chunks(buffer.len()) {
        for subscriber in &mut subscribers {
            let buffer = &mut buffer[..piece.len()];
            subscriber.stream.read_exact(buffer).expect("the whole message");
            assert!(*buffer == *piece, "what was published");
        }
    }
}
