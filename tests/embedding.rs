//! A program that has both sides in it: a server it embeds, and a device that watches it.

mod support;

use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use support::DEADLINE;
use support::http::Connection;
use tiderace::auth::tokens::sign_connection;
use tiderace::config::{Config, Secret};
use tiderace::hub::{WakeOrder, WakeStatus};
use tiderace::protocol::watch::WakeEvent;
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
