//! A server in the process of the test, with a WebSocket endpoint whose handlers do what their clients say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tiderace::close::CloseReason;
use tiderace::codec::websocket::Message;
use tiderace::config::{Config, Secret};
use tiderace::protocol::handler::{ConnectionRef, Context, Handler};
use tiderace::protocol::{Answer, Audience, Delivery, Outgoing, Payload};
use tiderace::server::{Handle, Server};
use tiderace::shard::Refused;

use super::DEADLINE;
use super::websocket::{FIN, Raw, TEXT, frame};

pub const SECRET: &str = "a secret of 32 bytes for the tests";

pub fn config() -> Config {
    let mut config = Config { shards: 2.try_into().ok(), ..Config::default() };
    config.http_server.port = 0;
    config.handlers.ping_interval = Duration::ZERO;
    config.client.token.hmac_secret_key = Some(Secret::new(SECRET));
    config
}

/// What a connection's handler was told, by the name that its client gave.
#[derive(Debug, PartialEq)]
pub enum Told {
    Opened(ConnectionRef),
    Answered(Answer),
    Closed(u16),
}

/// Does what its client says.
pub struct Obedient {
    name: String,
    told: Sender<(String, Told)>,
}

impl Obedient {
    fn obey(line: &str, connection: &mut Context<'_>) {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default();
        match (word(), word(), word()) {
            ("join", channel, _) => drop(connection.subscribe(channel)),
            ("leave", channel, _) => drop(connection.unsubscribe(channel)),
            ("publish", channel, text) => {
                connection.publish(channel, Payload::Text, text.as_bytes());
            }
            ("others", channel, text) => {
                connection.publish_to_others(channel, Payload::Text, text.as_bytes());
            }
            ("all", "others", text) => {
                let outgoing = Outgoing::text(text).except(connection.connection());
                connection.send_to(Audience::All, outgoing);
            }
            ("tell", user, text) => {
                connection.send_to(Audience::User(user.into()), Outgoing::text(text));
            }
            ("user", "", _) => drop(connection.set_user(None)),
            ("user", user, _) => drop(connection.set_user(Some(user))),
            ("close", code, _) => {
                let code = code.parse().expect("a code");
                connection.close(CloseReason { code, reason: "asked for" });
            }
            ("who", ..) => {
                let (user, rooms) = (connection.user().cloned(), connection.channels());
                let rooms: Vec<&str> = rooms.iter().map(|room| &**room).collect();
                let id = connection.connection();
                let who = json!({"id": id, "user": user.as_deref(), "rooms": rooms});
                connection.send_json(&who).expect("it is JSON");
            }
            _ => connection.send_text(line),
        }
    }
}

impl Handler for Obedient {
    fn opened(&mut self, connection: &mut Context<'_>) {
        self.tell(Told::Opened(connection.connection()));
    }

    fn message(&mut self, message: Message<'_>, connection: &mut Context<'_>) {
        if let Message::Text(text) = message {
            text.lines().for_each(|line| Self::obey(line, connection));
        }
    }

    fn answered(&mut self, _: u32, answer: Answer, _: &mut Context<'_>) {
        self.tell(Told::Answered(answer));
    }

    fn closed(&mut self, code: u16) {
        self.tell(Told::Closed(code));
    }
}

impl Obedient {
    fn tell(&self, told: Told) {
        // The test may have heard enough.
        let _ = self.told.send((self.name.clone(), told));
    }
}

/// A server with `Obedient` at `/room`, and all that its handlers are told.
pub struct World {
    pub server: Server,
    pub handle: Handle,
    pub told: Receiver<(String, Told)>,
    /// What was told of others while something was awaited of one.
    pub waiting: BTreeMap<String, Vec<Told>>,
}

impl World {
    pub fn new(config: Config) -> Self {
        let (sender, told) = channel();
        let server = Server::builder(config)
            .websocket("/room", move |upgrade| {
                let name = upgrade.parameter("name")?.unwrap_or_default();
                Ok(Obedient { name, told: sender.clone() })
            })
            .start()
            .expect("a server");
        let handle = server.handle();
        Self { server, handle, told, waiting: BTreeMap::new() }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// A client whose handler is there.
    pub fn client(&mut self, name: &str) -> (Raw, ConnectionRef) {
        let raw = Raw::open_at(self.address(), &format!("/room?name={name}"));
        match self.next(name) {
            Told::Opened(connection) => (raw, connection),
            other => panic!("{other:?} comes first"),
        }
    }

    /// What the handler of this name is told next.
    pub fn next(&mut self, name: &str) -> Told {
        if let Some(waiting) = self.waiting.get_mut(name).filter(|waiting| !waiting.is_empty()) {
            return waiting.remove(0);
        }
        loop {
            let (other, told) = self.told.recv_timeout(DEADLINE).expect("it is told");
            if other == name {
                return told;
            }
            self.waiting.entry(other).or_default().push(told);
        }
    }

    /// Has the client of this name say something that is answered.
    pub fn ask(&mut self, name: &str, client: &mut Raw, line: &str) -> Answer {
        say(client, line);
        self.answer(name)
    }

    pub fn answer(&mut self, name: &str) -> Answer {
        match self.next(name) {
            Told::Answered(answer) => answer,
            other => panic!("{other:?} is no answer"),
        }
    }

    pub fn to_user(&self, user: &str) -> (u32, u32) {
        counts(self.handle.send_to_user(user, Outgoing::text("to a user")))
    }
}

pub fn counts(delivery: Result<Delivery, Refused>) -> (u32, u32) {
    let Delivery { queued, failed } = delivery.expect("it is delivered");
    (queued, failed)
}

pub fn say(client: &mut Raw, lines: &str) {
    client.send(&frame(FIN | TEXT, lines.as_bytes()));
}

pub fn who(client: &mut Raw) -> Value {
    say(client, "who");
    serde_json::from_str(&client.text()).expect("JSON")
}

/// Nothing is under way to a client: what it says now is the next that comes back.
pub fn hears_nothing(client: &mut Raw) {
    say(client, "nothing");
    assert_eq!(client.text(), "nothing");
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "{what} did not come");
        thread::yield_now();
    }
}
