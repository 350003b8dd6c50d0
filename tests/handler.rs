//! An embedder's own protocol: its connections are told apart, told once how they ended, and reach each
//! other from within their own handlers.

mod support;

use std::net::Shutdown;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use support::websocket::{BINARY, CLOSE, FIN, Raw, TEXT, frame};
use tiderace::{
    close::CloseReason,
    codec::websocket::Message,
    config::Config,
    protocol::{
        Answer, Payload, Upgrade,
        handler::{Context, Handler},
    },
    server::Server,
};

/// Everybody is in one room; what one says, all hear, who said it too.
struct Member {
    number: u32,
    ends: Sender<(u32, u16)>,
}

const BYE: CloseReason = CloseReason { code: 4500, reason: "bye" };

impl Handler for Member {
    fn opened(&mut self, connection: &mut Context<'_>) {
        connection.subscribe("all");
    }

    fn message(&mut self, message: Message<'_>, connection: &mut Context<'_>) {
        match message {
            Message::Text("leave") => connection.close(BYE),
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
            connection.send_text(&self.number.to_string());
        }
    }

    fn closed(&mut self, code: u16) {
        self.ends.send((self.number, code)).expect("it is listened to");
    }
}

/// A connection that is in the room, with its number.
fn member(server: &Server) -> (Raw, u32) {
    let mut raw = Raw::open_at(server.address(), "/room");
    let number = raw.text().parse().expect("its number");
    (raw, number)
}

fn room() -> (Server, Receiver<(u32, u16)>) {
    let (sender, ends) = channel();
    let mut config = Config { shards: 2.try_into().ok(), ..Config::default() };
    config.http_server.port = 0;
    let count = AtomicU32::new(0);
    let make = move |_: &Upgrade<'_>| {
        Ok(Member { number: count.fetch_add(1, Ordering::Relaxed), ends: sender.clone() })
    };
    (Server::builder(config).websocket("/room", make).start().expect("a server"), ends)
}

fn close_frame(code: u16) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes()[..], b"why"].concat())
}

#[test]
fn the_end_is_told_once_with_its_code_whatever_ended_it() {
    let (server, ends) = room();
    let unmasked = [FIN | TEXT, 1, b'x'].to_vec();
    // What is sent, and the code that the peer is answered, which its handler is told as well.
    let cases = [
        (close_frame(1000), 1000),
        (close_frame(3000), 3000),
        (close_frame(4999), 4999),
        (close_frame(1005), 1002),
        (close_frame(1015), 1002),
        (close_frame(5000), 1002),
        (frame(FIN | CLOSE, &[3]), 1002),
        (unmasked, 1002),
        (frame(FIN | TEXT, &[0xff]), 1007),
        (frame(FIN | BINARY, &[0; 70_000]), 1009),
        (frame(FIN | TEXT, b"leave"), BYE.code),
    ];
    for (bytes, code) in cases {
        let (mut raw, number) = member(&server);
        raw.send(&bytes);
        assert_eq!(raw.closed(), code);
        assert_eq!(ends.recv().expect("it ends"), (number, code));
    }
    // Who is gone without a word.
    let (raw, number) = member(&server);
    drop(raw);
    assert_eq!(ends.recv().expect("it ends").0, number);

    let mut left: Vec<_> = (0..4).map(|_| member(&server)).collect();
    thread::scope(|scope| {
        for (raw, _) in &mut left {
            scope.spawn(|| {
                assert_eq!(raw.closed(), 1001);
                raw.stream.shutdown(Shutdown::Both).expect("it is open");
            });
        }
        assert!(server.shutdown());
    });
    let mut told: Vec<_> = ends.iter().collect();
    told.sort_unstable();
    let wanted: Vec<_> = left.iter().map(|(_, number)| (*number, 1001)).collect();
    assert_eq!(told, wanted, "once each, and nobody else again");
}

#[test]
fn a_handler_speaks_to_all_from_within_in_one_order() {
    let (server, _ends) = room();
    let mut members: Vec<_> = (0..8).map(|_| member(&server).0).collect();
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
