//! A program that has both sides in it: a server it embeds, and a device that watches it.

mod support;

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use support::DEADLINE;
use support::{http::Connection, websocket};
use tiderace::auth::tokens::sign_connection;
use tiderace::codec::websocket::Message;
use tiderace::codes::CloseReason;
use tiderace::config::{Config, Secret};
use tiderace::hub::{WakeOrder, WakeStatus};
use tiderace::protocol::{
    ErrorCode, HistoryFilter, Payload, PublicationExtra,
    centrifuge::Terms,
    handler::{Context, Handler},
    watch::WakeEvent,
};
use tiderace::server::{Handle, Server};
use tiderace::shard::Refused;
use tiderace::watch::{Client, Status, Stopped};

const SECRET: &str = "device secret";

fn config(watch: bool) -> Config {
    let mut config = Config { shards: 2.try_into().ok(), ..Config::default() };
    config.http_server.port = 0;
    config.watch.enabled = watch;
    config.watch.token.hmac_secret_key = Some(Secret::new(SECRET));
    config
}

fn order(session: &str, ttl_ms: u64) -> WakeOrder {
    let event =
        WakeEvent { session: Some(session.into()), url: "wss://room".into(), token: "t".into() };
    WakeOrder { event, ttl_ms }
}

/// Says what it hears.
struct Echo;

impl Handler for Echo {
    fn message(&mut self, message: Message<'_>, connection: &mut Context<'_>) {
        if let Message::Text(text) = message {
            connection.send_text(text);
        }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "{what} did not come");
        thread::yield_now();
    }
}

#[test]
fn an_embedder_wakes_lists_and_releases_devices() {
    let server = Server::builder(config(true)).start().expect("a server");
    let handle = server.handle();
    assert_eq!(handle.wake("d", order("now", 0)), Ok(WakeStatus::NoWatcher));
    assert_eq!(handle.wake("d", order("later", 60_000)), Ok(WakeStatus::Pending));
    assert_eq!(handle.release("d"), Ok(false));

    let (sender, statuses) = channel();
    let url = format!("http://{}", server.address());
    let mut client = Client::builder(url, sign_connection(SECRET, "d", None, None))
        .on_status(move |status| sender.send(status).expect("it is listened to"))
        .build()
        .expect("a client");
    let wake = client.next_wake_blocking().expect("the wake was held");
    assert_eq!(wake.session_id.as_deref(), Some("later"));
    let status = |handle: &Handle| handle.wake("d", order("later", 60_000));
    until("the confirmation", || status(&handle) == Ok(WakeStatus::Confirmed));
    assert_eq!(handle.watchers(None, 10).expect("a page").total, 0);

    let cancel = client.cancel_handle();
    let watching = thread::spawn(move || client.next_wake_blocking());
    let connected = |_: &Status| handle.watchers(None, 10).expect("a page").total == 1;
    assert!(statuses.iter().any(|status| connected(&status)), "it watches again");
    let page = handle.watchers(None, 1).expect("a page");
    assert_eq!((&*page.watchers[0].device, page.more), ("d", true));
    assert!(handle.watchers(Some("d"), 1).expect("a page").watchers.is_empty());
    assert_eq!(handle.release("d"), Ok(true));
    cancel.cancel();
    assert_eq!(watching.join().expect("no panic"), Err(Stopped::Cancelled));
    assert!(server.shutdown());
    assert_eq!(handle.release("d"), Err(Refused::Ended));
}

#[test]
fn calls_about_devices_are_refused_where_they_make_no_sense() {
    let server = Server::builder(config(true)).start().expect("a server");
    let handle = server.handle();
    assert_eq!(handle.wake("", order("s", 1)), Err(Refused::Invalid));
    assert_eq!(handle.wake("d", order("", 1)), Err(Refused::Invalid));
    assert_eq!(handle.release(&"x".repeat(256)), Err(Refused::Invalid));
    assert_eq!(handle.watchers(None, 0), Err(Refused::Invalid));
    assert!(server.shutdown());

    let without = Server::builder(config(false)).start().expect("a server");
    assert_eq!(without.handle().release("d"), Err(Refused::Disabled));
    assert!(without.shutdown());
}

/// Any thread publishes, reads, and acts on a user's connections.
#[test]
fn an_embedder_publishes_reads_and_acts_on_users() {
    let mut config = config(false);
    config.client.token.hmac_secret_key = Some(Secret::new(SECRET));
    let room = &mut config.channel.without_namespace;
    (room.presence, room.history_size, room.history_ttl) = (true, 5, Duration::from_secs(60));
    let server = Server::builder(config).start().expect("a server");
    let handle = server.handle();
    let token = sign_connection(SECRET, "u", None, None);
    let (mut client, id) = websocket::Client::connect_as(server.address(), &token);

    let tags = [("k".to_owned(), "v".to_owned())].into();
    let key = Some("once".into());
    let extra = PublicationExtra { tags, idempotency_key: key, ..Default::default() };
    let publish = |data: &'static str| {
        handle.publish_with("room", Payload::Json, data, extra.clone()).expect("it is published")
    };
    let position = publish("1");
    assert_eq!((position.offset, publish("2")), (1, position.clone()));
    handle.subscribe("u", "room", Terms::default()).expect("it is subscribed");
    handle.publish("room", Payload::Text, "text").expect("it is published");
    assert_eq!(client.push()["channel"], "room");
    assert_eq!(client.data(), "text");
    let filter = HistoryFilter { limit: None, since: Some(position), reverse: false };
    let page = handle.history("room", filter).expect("there is a history");
    assert_eq!((page.publications.len(), page.position.offset), (1, 2));
    let present = handle.presence("room").expect("there is presence");
    assert_eq!(present.iter().map(|one| &one.client).collect::<Vec<_>>(), [&id]);
    let connections = handle.connections("u").expect("they are described");
    assert_eq!((connections.len(), &*connections[0].channels[0]), (1, "room"));
    handle.unsubscribe("u", Some("room")).expect("it is unsubscribed");
    assert_eq!(client.push()["unsubscribe"]["code"], 2000);
    assert_eq!(handle.info().expect("a node").num_clients, 1);

    let unknown = Refused::Failed(ErrorCode::UNKNOWN_CHANNEL);
    assert_eq!(handle.publish("x:y", Payload::Json, "1"), Err(unknown));
    assert_eq!(handle.publish("", Payload::Json, "1"), Err(Refused::Invalid));
    assert_eq!(handle.publish("room", Payload::Json, "{"), Err(Refused::Invalid));
    assert_eq!(handle.publish("room", Payload::Json, "1\n"), Err(Refused::Invalid));
    let going = CloseReason { code: 1000, reason: "not ours to say" };
    assert_eq!(handle.disconnect("u", going), Err(Refused::Invalid));
    let going = CloseReason { code: 4001, reason: "go" };
    handle.disconnect("u", going).expect("it is disconnected");
    assert_eq!(client.closed(), (4001, "go".into()));
    handle.disconnect("u", going).expect("nobody is there to be disconnected");
    assert!(server.shutdown());
    assert_eq!(handle.publish("room", Payload::Json, "1"), Err(Refused::Ended));
}

/// Files are read within bounds; an embedder may mean "never" with the longest duration there is.
#[test]
fn durations_without_end_are_just_long() {
    let mut config = config(true);
    let endless = Duration::MAX;
    config.client.insecure = true;
    for duration in [
        &mut config.client.ping_interval,
        &mut config.client.stale_close_delay,
        &mut config.client.expired_close_delay,
        &mut config.client.expired_sub_close_delay,
        &mut config.handlers.ping_interval,
        &mut config.handlers.silence_timeout,
        &mut config.watch.lease_ttl,
        &mut config.watch.heartbeat_interval,
        &mut config.watch.device_wait_for_viewer,
        &mut config.channel.history_meta_ttl,
        &mut config.channel.without_namespace.history_ttl,
        &mut config.shutdown.timeout,
    ] {
        *duration = endless;
    }
    config.channel.without_namespace.history_size = 1;
    let server =
        Server::builder(config).websocket("/echo", |_| Ok(Echo)).start().expect("a server");
    let (mut client, _) = websocket::Client::connect_as(server.address(), "");
    client.subscribe_any("room");
    server.handle().publish("room", Payload::Json, "1").expect("it is published");
    assert_eq!(client.data(), 1);
    let mut plain = websocket::Raw::open_at(server.address(), "/echo");
    plain.send(&websocket::frame(websocket::FIN | websocket::TEXT, b"echo"));
    assert_eq!(plain.text(), "echo");
    let token = format!("Authorization: Bearer {}\r\n", sign_connection(SECRET, "d", None, None));
    let mut device = Connection::open(server.address());
    let path = "/internal/platform/v1/device-info";
    assert_eq!(device.request("GET", path, &token, "").status, 200);
    client.close();
    assert!(server.shutdown());
}

#[test]
fn a_table_that_cannot_be_read_changes_nothing() {
    let path = std::env::temp_dir().join(format!("tiderace-table-{}.json", std::process::id()));
    let write = |text: &str| std::fs::write(&path, text).expect("a temporary file");
    write(r#"[{"token":"s3cret","id":"d1","name":"One","projectId":"p"}]"#);
    let mut config = config(true);
    config.watch.token.hmac_secret_key = None;
    config.watch.token.table_file = path.to_str().map(String::from);
    let server = Server::builder(config).start().expect("a server");
    let handle = server.handle();
    let status = || {
        let mut connection = Connection::open(server.address());
        let token = "Authorization: DeviceToken s3cret\r\n";
        connection.request("GET", "/internal/platform/v1/device-info", token, "").status
    };
    write(r#"[{"token":"s3cret"}]"#);
    let error = handle.reload_devices().expect_err("rows lack something").to_string();
    assert!(error.contains("table_file") && !error.contains("s3cret"), "{error}");
    assert_eq!(status(), 200);
    write("[]");
    handle.reload_devices().expect("nobody is a table, too");
    until("the end of the token", || status() == 401);
    std::fs::remove_file(&path).expect("it is there");
    assert!(server.shutdown());
}
