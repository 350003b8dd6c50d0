//! Handlers of an embedder speak to everybody from within: nothing is locked while a message is sent.

mod support;

use support::websocket::{BINARY, FIN, Raw, TEXT, frame};
use tiderace::{
    codec::websocket::Message,
    config::Config,
    protocol::{
        Answer, Payload,
        handler::{Context, Handler},
    },
    server::Server,
};

/// Everybody is in one room; what one says, all hear, who said it too.
struct Member;

impl Handler for Member {
    fn opened(&mut self, connection: &mut Context<'_>) {
        connection.subscribe("all");
    }

    fn message(&mut self, message: Message<'_>, connection: &mut Context<'_>) {
        match message {
            Message::Text(text) => {
                connection.publish("all", Payload::Text, text.as_bytes());
            }
            Message::Binary(bytes) => {
                connection.publish("all", Payload::Binary, bytes);
            }
            _ => {}
        }
    }

    fn answered(&mut self, _: u32, answer: Answer, connection: &mut Context<'_>) {
        if matches!(answer, Answer::Subscribed(_)) {
            connection.send_text("joined");
        }
    }
}

/// A connection that is in the room.
fn member(server: &Server) -> Raw {
    let mut raw = Raw::open_at(server.address(), "/room");
    assert_eq!(raw.text(), "joined");
    raw
}

#[test]
fn a_handler_speaks_to_all_from_within_in_one_order() {
    let mut config = Config { shards: 2.try_into().ok(), ..Config::default() };
    config.http_server.port = 0;
    let room = Server::builder(config).websocket("/room", |_| Ok(Member));
    let server = room.start().expect("a server");
    let mut members: Vec<_> = (0..8).map(|_| member(&server)).collect();
    for (number, raw) in members.iter_mut().enumerate() {
        for round in 0..10 {
            let text = format!("{number}:{round}");
            raw.send(&frame(FIN | TEXT, text.as_bytes()));
            raw.send(&frame(FIN | BINARY, text.as_bytes()));
        }
    }
    let mut heard = members.iter_mut().map(|raw| {
        let frames = (0..160).map(|_| raw.frame().expect("a publication"));
        frames.map(|frame| (frame.opcode, frame.payload)).collect::<Vec<_>>()
    });
    let first = heard.next().expect("eight members");
    assert!(heard.all(|other| other == first), "one order for all, the one who speaks too");
    for number in 0..8 {
        let own = format!("{number}:");
        let of_one = first.iter().filter(|(_, payload)| payload.starts_with(own.as_bytes()));
        let wanted = (0..10).flat_map(|round| {
            let payload = format!("{number}:{round}").into_bytes();
            [(TEXT, payload.clone()), (BINARY, payload)]
        });
        assert!(of_one.cloned().eq(wanted), "what one says keeps its order and its kind");
    }
    drop(members);
    assert!(server.shutdown());
}
