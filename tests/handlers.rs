//! An embedder's own WebSocket endpoint: who may in, who is there, and how it ends.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use serde_json::{Value, json};
use support::embedded::{Told, World, config, counts, hears_nothing, say, until, who};
use support::http::{self, Response};
use support::websocket::{CLOSE, FIN, PING, PONG, Raw, TEXT, frame, upgrade_at};
use tiderace::codec::websocket::Message;
use tiderace::codes::CloseReason;
use tiderace::protocol::handler::{Context, Handler};
use tiderace::protocol::{Answer, ErrorCode, Outgoing, Refusal, Upgrade};
use tiderace::server::Server;

/// Path, query, headers, cookie and subprotocols are there before the 101, a refusal is HTTP
/// with a JSON body, and what is no handshake or of another origin is not the embedder's business.
#[test]
fn a_factory_sees_the_request_and_may_refuse_it() {
    struct Silent;
    impl Handler for Silent {
        fn subprotocol(&self) -> Option<&str> {
            Some("chat.v2")
        }
        fn message(&mut self, _: Message<'_>, _: &mut Context<'_>) {}
    }
    fn admit(upgrade: &Upgrade<'_>) -> Result<Silent, Refusal> {
        assert_eq!((upgrade.path(), upgrade.host()), ("/chat", Some("t")));
        let Some(session) = upgrade.cookie("session") else {
            return Err(Refusal::new(401, "no session"));
        };
        let own =
            json!({"room": upgrade.parameter("room")?, "agent": upgrade.header("user-agent")});
        match session {
            "good" => Ok(Silent),
            _ => Err(Refusal::json(403, &own).expect("it is JSON")),
        }
    }
    let mut config = config();
    config.client.allowed_origins = vec!["https://app.example".into()];
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let server = Server::builder(config)
        .websocket("/chat", move |upgrade| {
            counter.fetch_add(1, Ordering::Relaxed);
            admit(upgrade)
        })
        .start()
        .expect("a server");
    let mut connection = http::Connection::open(server.address());
    let mut response = |target: &str, headers: &str| -> Response {
        connection.send(upgrade_at(target, headers).as_bytes());
        connection.response()
    };
    let refused = response("/chat", "");
    assert_eq!(refused.status, 401);
    assert_eq!(refused.json(), json!({"error": {"code": 401, "message": "no session"}}));
    let refused = response("/chat?room=a%20b", "Cookie: a=1; session=bad\r\nUser-Agent: x\r\n");
    assert_eq!((refused.status, refused.json()), (403, json!({"room": "a b", "agent": "x"})));
    let broken = response("/chat?room=%ff", "Cookie: session=good\r\n");
    assert_eq!(broken.status, 400);
    assert_eq!(asked.load(Ordering::Relaxed), 3);

    let stranger = response("/chat", "Origin: https://else.example\r\nCookie: session=good\r\n");
    assert_eq!(stranger.status, 403);
    assert_eq!(asked.load(Ordering::Relaxed), 3, "it was refused before");

    // The connection is still good for an upgrade.
    let headers = "Origin: https://app.example\r\nCookie: session=good\r\n\
                   Sec-WebSocket-Protocol: chat.v1, chat.v2\r\n";
    let upgraded = response("/chat", headers);
    assert_eq!(upgraded.status, 101);
    assert_eq!(upgraded.header("sec-websocket-protocol"), Some("chat.v2"));
    connection = http::Connection::open(server.address());
    assert_eq!(connection.request("GET", "/chat", "Cookie: session=good\r\n", "").status, 426);
    assert_eq!(asked.load(Ordering::Relaxed), 4);
    drop(connection);
    assert!(server.shutdown());
}

/// The server pings; who answers lives, who is silent is closed with 1011 and its handler told.
/// A client's ping is answered by exactly one pong.
#[test]
fn a_peer_that_answers_pings_lives_and_a_silent_one_is_closed() {
    let mut config = config();
    config.handlers.ping_interval = Duration::from_millis(200);
    config.handlers.silence_timeout = Duration::from_secs(2);
    let mut world = World::new(config);
    let (mut alive, _) = world.client("alive");
    let (mut silent, _) = world.client("silent");
    let over = Arc::new(AtomicBool::new(false));
    let enough = Arc::clone(&over);
    let answering = thread::spawn(move || {
        let mut pings = 0;
        while !enough.load(Ordering::Relaxed) {
            let ping = alive.frame().expect("it is not closed");
            assert_eq!(ping.opcode, PING);
            alive.send(&frame(FIN | PONG, &ping.payload));
            pings += 1;
        }
        (alive, pings)
    });
    let mut pings = 0;
    let closed = loop {
        let frame = silent.frame().expect("a close comes first");
        match frame.opcode {
            PING => pings += 1,
            opcode => break (opcode, frame.payload),
        }
    };
    assert_eq!(closed, (CLOSE, [&1011_u16.to_be_bytes()[..], b"keepalive timeout"].concat()));
    assert!(pings > 0, "it was asked before it was closed");
    assert_eq!(world.next("silent"), Told::Closed(1011));
    over.store(true, Ordering::Relaxed);
    let (mut alive, answered) = answering.join().expect("it was pinged and lives");
    assert!(answered > 1);

    let mut answers = Vec::new();
    alive.send(
        &[frame(FIN | PING, b"one"), frame(FIN | PING, b"two"), frame(FIN | TEXT, b"end")].concat(),
    );
    while answers.last() != Some(&(TEXT, b"end".to_vec())) {
        let next = alive.frame().expect("it is open");
        if next.opcode != PING {
            answers.push((next.opcode, next.payload));
        }
    }
    let texts = [(PONG, b"one".to_vec()), (PONG, b"two".to_vec()), (TEXT, b"end".to_vec())];
    assert_eq!(answers, texts);
    drop((alive, silent));
    assert!(world.server.shutdown());
}

/// Setting, changing and clearing the user moves the connection in the index at once; the
/// limit of a user's connections may refuse; the end cleans up; nobody gets nothing, without an error.
#[test]
fn a_user_is_set_changed_refused_and_cleared() {
    let mut config = config();
    config.client.user_connection_limit = 1.try_into().ok();
    let mut world = World::new(config);
    let (mut one, connection) = world.client("one");
    assert_eq!(world.to_user("ann"), (0, 0));
    assert_eq!(world.ask("one", &mut one, "user ann"), Answer::UserSet);
    assert_eq!(world.to_user("ann"), (1, 0));
    assert_eq!(one.text(), "to a user");
    let described = json!({"id": connection.to_string(), "user": "ann", "rooms": []});
    assert_eq!(who(&mut one), described);
    assert_eq!(world.ask("one", &mut one, "user ann"), Answer::UserSet, "the same is no other");

    let (mut other, _) = world.client("other");
    let full = Answer::Failed(ErrorCode::LIMIT_EXCEEDED);
    assert_eq!(world.ask("other", &mut other, "user ann"), full);
    assert_eq!(who(&mut other)["user"], Value::Null);
    assert_eq!(world.ask("other", &mut other, "user bob"), Answer::UserSet);
    assert_eq!(world.ask("other", &mut other, "user ann"), full, "it leaves the one before");
    assert_eq!((world.to_user("ann"), world.to_user("bob")), ((1, 0), (0, 0)));
    assert_eq!(one.text(), "to a user");

    say(&mut one, "user bob\nuser ann\nuser\nuser cid\nuser ann\nuser dan");
    for _ in 0..6 {
        assert_eq!(world.answer("one"), Answer::UserSet);
    }
    let reached = ["ann", "bob", "cid", "dan", ""].map(|user| world.to_user(user));
    assert_eq!(reached, [(0, 0), (0, 0), (0, 0), (1, 0), (0, 0)]);
    assert_eq!(one.text(), "to a user");
    hears_nothing(&mut one);
    assert_eq!(world.ask("one", &mut one, "user"), Answer::UserSet);
    assert_eq!(who(&mut one)["user"], Value::Null);
    assert_eq!(world.to_user("dan"), (0, 0));

    assert_eq!(world.ask("one", &mut one, "user eve"), Answer::UserSet);
    drop(one);
    assert_eq!(world.next("one"), Told::Closed(1006));
    until("the end of eve", || world.to_user("eve") == (0, 0));
    assert_eq!(world.ask("other", &mut other, "user eve"), Answer::UserSet, "her place is free");
    assert_eq!(world.handle.info().expect("a node").num_users, 1);
    drop(other);
    assert!(world.server.shutdown());
}

/// Whatever ends a connection, its handler is told once, with the code, and nothing after it.
#[test]
fn every_end_is_told_exactly_once_with_its_code() {
    let mut config = config();
    config.client.queue_max_size = 64 << 10;
    config.websocket.message_size_limit = 1 << 10;
    let mut world = World::new(config);
    let close = |code: u16| frame(FIN | CLOSE, &code.to_be_bytes());
    type End<'a> = &'a dyn Fn(&mut Raw);
    let ends: [(&str, u16, End<'_>); 14] = [
        ("normal", 1000, &|peer| peer.send(&close(1000))),
        ("peer", 4001, &|peer| peer.send(&close(4001))),
        ("last-code", 4999, &|peer| peer.send(&close(4999))),
        ("no-code", 1002, &|peer| peer.send(&close(5000))),
        ("tls-code", 1002, &|peer| peer.send(&close(1015))),
        ("half-code", 1002, &|peer| peer.send(&frame(FIN | CLOSE, &[3]))),
        ("codeless", 1000, &|peer| peer.send(&frame(FIN | CLOSE, b""))),
        ("bad-code", 1002, &|peer| peer.send(&close(1005))),
        ("unmasked", 1002, &|peer| peer.send(&[FIN | TEXT, 1, b'x'])),
        ("no-text", 1007, &|peer| peer.send(&frame(FIN | TEXT, b"\xff"))),
        ("too-big", 1009, &|peer| peer.send(&frame(FIN | TEXT, &[b'x'; 2_000]))),
        ("asked", 4321, &|peer| say(peer, "join q\nclose 4321\njoin late\nuser late")),
        ("half", 1006, &|peer| {
            peer.stream.shutdown(std::net::Shutdown::Write).expect("it is open")
        }),
        ("reset", 1006, &|peer| {
            set_socket_linger(&peer.stream, Some(Duration::ZERO)).expect("a TCP socket");
            // A descriptor that is put in its place closes this one: with a reset.
            peer.stream = Raw::tcp(peer.stream.peer_addr().expect("it was connected")).stream;
        }),
    ];
    for (name, code, end) in ends {
        let (mut peer, _) = world.client(name);
        assert_eq!(world.ask(name, &mut peer, "join r"), Answer::Subscribed(None));
        assert_eq!(world.ask(name, &mut peer, &format!("user {name}")), Answer::UserSet);
        end(&mut peer);
        if code != CloseReason::ABNORMAL_CODE {
            assert_eq!(peer.closed(), code, "{name} is answered with what its handler is told");
        }
        assert_eq!(world.next(name), Told::Closed(code), "{name}");
    }
    let (mut peer, connection) = world.client("handle");
    world.handle.close(connection, CloseReason { code: 4003, reason: "out" }).expect("it is told");
    assert_eq!(peer.closed(), 4003);
    drop(peer);
    assert_eq!(world.next("handle"), Told::Closed(4003));
    // It is gone: nothing that names it finds anybody.
    world.handle.close(connection, CloseReason { code: 4004, reason: "out" }).expect("it is told");
    world.handle.send(connection, "too late", true).expect("it is told");

    let (slow, _) = world.client("slow");
    assert_eq!(world.next_after_flood(), Told::Closed(1013));
    drop(slow);

    // Who asked to join while it ended is nowhere.
    let handle = world.handle.clone();
    until("the end of the rooms", || handle.info().expect("a node").num_channels == 0);
    for user in ["late", "asked", "reset"] {
        until("the end of a user", || world.to_user(user) == (0, 0));
    }
    let (mut last, _) = world.client("last");
    let (waiting, told) = (world.waiting, world.told);
    let ending = thread::spawn(move || world.server.shutdown());
    assert_eq!(last.closed(), 1001);
    drop(last);
    assert!(ending.join().expect("no panic"), "all ended in order");
    let rest: Vec<_> = told.try_iter().collect();
    assert_eq!(rest, [("last".to_owned(), Told::Closed(1001))]);
    assert!(waiting.values().all(Vec::is_empty), "something was told twice: {waiting:?}");
}

impl World {
    /// Sends to everybody until the one that does not read is counted as failed, and then not at all.
    fn next_after_flood(&mut self) -> Told {
        let outgoing = Outgoing::binary(vec![0; 512 << 10]);
        until("the failure of who does not read", || {
            counts(self.handle.send_to_all(outgoing.clone())) == (0, 1)
        });
        until("its end", || counts(self.handle.send_to_all(outgoing.clone())) == (0, 0));
        self.next("slow")
    }
}
