//! The program as a server and as agents, each a process of its own: what is killed, stopped and ended.

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use support::Server;
use support::watch::{Agent, BRISK, environment, server, until_confirmed, wake, watchers};
use tiderace::auth::tokens::sign_connection;

fn until_expired(server: &Server) {
    server.wait_until("the end of a lease", |info| {
        info["metrics"]["items"]["leases_expired"].as_f64() >= Some(1.0)
    });
    assert_eq!(watchers(server)["total"], 0);
}

#[test]
fn of_two_agents_one_is_live_and_each_wake_is_run_once() {
    let server = server(&[]);
    let live = Agent::start(server.address, "d");
    live.connected();
    let other = Agent::start(server.address, "d");
    other.refused();
    let listed = watchers(&server);
    assert_eq!((&listed["total"], &listed["watchers"][0]["device"]), (&json!(1), &json!("d")));
    assert_eq!(server.metric("watch_streams"), 1);
    for session in ["ras_1", "ras_2", "ras_3"] {
        wake(&server, "d", session);
        live.command_printed(&format!("{session} wss://room t"));
        until_confirmed(&server, "d", session);
        live.connected();
    }
    assert_eq!(server.metric("device_wakes_sent"), 3);
    assert_eq!(server.metric("device_wakes_confirmed"), 3);
    assert_eq!(live.end(), Vec::<String>::new(), "each command ran once");
    assert_eq!(other.end(), Vec::<String>::new(), "nobody else was woken");
}

#[test]
fn a_wake_waits_for_the_agent_to_start() {
    let server = server(&[]);
    assert_eq!(wake(&server, "d", "ras_1"), "pending");
    let agent = Agent::start(server.address, "d");
    agent.command_printed("ras_1 wss://room t");
    until_confirmed(&server, "d", "ras_1");
    agent.connected();
    assert_eq!(agent.end(), Vec::<String>::new());
    assert_eq!(server.metric("device_wakes_sent"), 1);
}

#[test]
fn the_lease_of_a_killed_agent_expires_and_another_takes_over() {
    let server = server(BRISK);
    let first = Agent::start(server.address, "d");
    first.connected();
    first.signal(Signal::KILL);
    server.wait_until("the end of its stream", |info| {
        info["metrics"]["items"]["watch_streams"].as_f64().unwrap_or_default() == 0.0
    });
    assert_eq!(watchers(&server)["total"], 1, "the end of a stream releases nothing");
    assert_eq!(wake(&server, "d", "ras_1"), "pending");
    until_expired(&server);
    let next = Agent::start(server.address, "d");
    next.command_printed("ras_1 wss://room t");
    until_confirmed(&server, "d", "ras_1");
}

#[test]
fn agents_come_back_to_a_server_that_was_killed() {
    let mut server = server(BRISK);
    let agent = Agent::start(server.address, "d");
    agent.connected();
    for session in ["ras_1", "ras_2"] {
        let address = server.address.to_string();
        let pid = Pid::from_raw(i32::try_from(server.pid()).expect("a pid")).expect("a pid");
        kill_process(pid, Signal::KILL).expect("it runs");
        drop(server);
        let arguments = ["--dev", "--shards", "2", "--listen", &address];
        server = Server::start(&arguments, &environment(BRISK));
        server.wait_until("the agent", |info| {
            info["metrics"]["items"]["watch_streams"].as_f64() == Some(1.0)
        });
        wake(&server, "d", session);
        agent.command_printed(&format!("{session} wss://room t"));
        until_confirmed(&server, "d", session);
    }
    assert_eq!(agent.end(), Vec::<String>::new());
}

#[test]
fn an_agent_that_hangs_loses_its_lease_and_does_not_take_it_back() {
    let server = server(BRISK);
    let hanging = Agent::start(server.address, "d");
    hanging.connected();
    hanging.signal(Signal::STOP);
    until_expired(&server);
    let next = Agent::start(server.address, "d");
    next.connected();
    hanging.signal(Signal::CONT);
    hanging.refused();
    assert_eq!(watchers(&server)["total"], 1);
    assert_eq!(server.metric("watch_streams"), 1);
    wake(&server, "d", "ras_1");
    next.command_printed("ras_1 wss://room t");
    assert_eq!(hanging.end(), Vec::<String>::new());
}

#[test]
fn a_token_that_is_nobodys_ends_the_agent() {
    let server = server(&[]);
    let mut agent = Agent::with_token(server.address, &sign_connection("other", "d", None, None));
    assert_eq!(support::wait(&mut agent.child).code(), Some(77));
    let said: String = agent.output.iter().collect();
    assert!(said.contains("401"), "{said}");
    assert_eq!(watchers(&server)["total"], 0);
}
