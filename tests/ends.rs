//! Connections that do not end well: reset under publications, or held open by a peer that was told
//! to go. Nothing of them stays.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::SockRef;
use support::{
    DEADLINE, Server,
    websocket::{Client, FIN, Raw, TEXT, frame},
};

fn open_files(server: &Server) -> usize {
    let path = format!("/proc/{}/fd", server.pid());
    fs::read_dir(path).expect("it runs").count()
}

/// Waits until the server has as few open files as before there were connections.
fn until_files_are_closed(server: &Server, before: usize) {
    let began = Instant::now();
    while open_files(server) > before {
        assert!(began.elapsed() < DEADLINE, "{} of {before} files", open_files(server));
        std::thread::yield_now();
    }
}

#[test]
fn a_reset_connection_is_out_of_everything_and_hurts_nobody() {
    let server = Server::dev(&[("TIDERACE_CLIENT_PING_INTERVAL", "24h")]);
    server.info();
    let before = open_files(&server);
    let mut stay: Vec<_> = (0..10).map(|_| Client::subscribed(server.address, "c")).collect();
    let go: Vec<_> = (0..10).map(|_| Client::subscribed(server.address, "c")).collect();
    // The connection of `info` may have been open when they were counted.
    assert!(open_files(&server) >= before + 19, "each is a file");
    for (n, client) in go.into_iter().enumerate() {
        server.publish("c", &json!(n));
        // What it did not read makes a reset of the end, also without this.
        SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
        drop(client);
        server.publish("c", &json!("again"));
    }
    for client in &mut stay {
        for n in 0..10 {
            assert_eq!([client.data(), client.data()], [json!(n), json!("again")]);
        }
    }
    server.wait_until("the end of ten", |info| info["num_clients"] == 10 && info["num_subs"] == 10);
    assert_eq!(server.metric("connections_closed_by_peer"), 10, "each is counted");
    drop(stay);
    server.wait_until("the end of all", |info| info["num_clients"] == 0 && info["num_subs"] == 0);
    until_files_are_closed(&server, before);
}

#[test]
fn who_is_told_to_go_and_stays_is_cut_off() {
    let server = Server::dev(&[]);
    server.info();
    let before = open_files(&server);
    let mut stubborn: Vec<_> = (0..4).map(|_| Raw::connect(server.address)).collect();
    for raw in &mut stubborn {
        raw.send(&frame(FIN | TEXT, b"no JSON"));
        assert_eq!(raw.closed(), 3501);
    }
    assert_eq!(server.info()["num_clients"], 0, "they are out at once");
    // They read to the end, and never close: the deadline of a close does it.
    until_files_are_closed(&server, before);
    drop(stubborn);
}
