//! A plain WebSocket client and the embedder's handler that it talks to.
//!
//! `sub 7 c0`, `unsub 8 c0`, `pub 9 j c0 {..}` are answered `#7 0`: the number and an error or 0.
//! Everything else that the client gets is a publication of the one channel that it is in.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tiderace::{
    codec::websocket::Message,
    protocol::{
        Answer, Payload,
        handler::{Context, Handler},
    },
};

use super::{
    client::Peer,
    oracle::{Oracle, Window, name},
    random::Random,
    wire::{self, Said},
};

/// The server's side.
pub struct Relay {
    tags: BTreeMap<u32, String>,
    /// Connections whose end was not told yet.
    alive: Arc<AtomicUsize>,
}

impl Relay {
    pub fn new(alive: &Arc<AtomicUsize>) -> Self {
        Self { tags: BTreeMap::new(), alive: Arc::clone(alive) }
    }
}

impl Handler for Relay {
    fn opened(&mut self, _: &mut Context<'_>) {
        self.alive.fetch_add(1, Ordering::Relaxed);
    }

    fn message(&mut self, message: Message<'_>, connection: &mut Context<'_>) {
        let Message::Text(text) = message else { panic!("clients send text") };
        let mut words = text.splitn(5, ' ');
        let (verb, tag) = (words.next().unwrap(), words.next().unwrap());
        let command = match verb {
            "sub" => connection.subscribe(words.next().unwrap()),
            "unsub" => connection.unsubscribe(words.next().unwrap()),
            _ => {
                let payload = match words.next().unwrap() {
                    "j" => Payload::Json,
                    "t" => Payload::Text,
                    _ => Payload::Binary,
                };
                let channel = words.next().unwrap();
                connection.publish(channel, payload, words.next().unwrap().as_bytes())
            }
        };
        assert!(self.tags.insert(command, tag.to_owned()).is_none(), "numbers are unique");
    }

    fn answered(&mut self, command: u32, answer: Answer, connection: &mut Context<'_>) {
        let tag = self.tags.remove(&command).expect("one answer to a command");
        let code = if let Answer::Failed(error) = answer { error.code } else { 0 };
        connection.send_text(&format!("#{tag} {code}"));
    }

    fn closed(&mut self, _: u16) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Asks again for as long as it is refused.
pub struct Stubborn;

impl Stubborn {
    fn ask(connection: &mut Context<'_>) {
        connection.publish("stubborn", Payload::Text, b"again");
    }
}

impl Handler for Stubborn {
    fn message(&mut self, _: Message<'_>, connection: &mut Context<'_>) {
        Self::ask(connection);
    }

    fn answered(&mut self, _: u32, answer: Answer, connection: &mut Context<'_>) {
        if let Answer::Failed(_) = answer {
            Self::ask(connection);
        }
    }
}

#[derive(Debug)]
enum Command {
    Subscribe(usize),
    Unsubscribe,
    Publish(usize, u64),
}

/// The client's side.
pub struct Plain {
    number: usize,
    channels: usize,
    upgrade_sent: bool,
    refused: bool,
    tags: u32,
    outstanding: BTreeMap<u32, Command>,
    /// The channel that it will be in when all commands are executed.
    wanted: Option<usize>,
    window: Option<(usize, Window)>,
}

impl Plain {
    pub fn new(number: usize, channels: usize) -> Self {
        Self {
            number,
            channels,
            upgrade_sent: false,
            refused: false,
            tags: 0,
            outstanding: BTreeMap::new(),
            wanted: None,
            window: None,
        }
    }

    fn command(&mut self, command: Command) -> u32 {
        self.tags += 1;
        self.outstanding.insert(self.tags, command);
        self.tags
    }

    fn message(&mut self, oracle: &mut Oracle, random: &mut Random) -> String {
        let channel = random.below(self.channels);
        match self.wanted {
            None if random.chance(60) => {
                self.wanted = Some(channel);
                let tag = self.command(Command::Subscribe(channel));
                format!("sub {tag} {}", name(channel))
            }
            Some(channel) if random.chance(20) => {
                self.wanted = None;
                let tag = self.command(Command::Unsubscribe);
                format!("unsub {tag} {}", name(channel))
            }
            _ => {
                let (id, data) = oracle.publish(self.number, &[channel], random.below(60));
                let tag = self.command(Command::Publish(channel, id));
                format!("pub {tag} {} {} {data}", random.pick(&["j", "t", "b"]), name(channel))
            }
        }
    }

    fn answered(&mut self, answer: &str, oracle: &mut Oracle) {
        let (tag, code) = answer.split_once(' ').expect("a number and a code");
        let tag: u32 = tag.parse().unwrap();
        let command = self.outstanding.remove(&tag).expect("one answer to a command");
        match (command, code) {
            (Command::Subscribe(channel), "0") => {
                assert!(self.window.is_none(), "it is in one channel at a time");
                self.window = Some((channel, oracle.open(channel)));
            }
            (Command::Unsubscribe, "0") => self.window = None,
            (Command::Publish(channel, id), "0") => oracle.acknowledged(channel, id),
            (Command::Publish(channel, id), "111") => oracle.refused(channel, id),
            (command, code) => panic!("{command:?} was answered with {code}"),
        }
    }
}

impl Peer for Plain {
    fn act(&mut self, oracle: &mut Oracle, random: &mut Random) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.upgrade_sent {
            self.upgrade_sent = true;
            out = wire::upgrade("/relay");
        } else if self.refused {
            return out;
        }
        for _ in 0..random.below(4) {
            let message = self.message(oracle, random);
            out.extend(wire::text(&message, random));
        }
        out
    }

    fn heard(&mut self, said: Said, oracle: &mut Oracle, _: &mut Random) -> Vec<u8> {
        match said {
            Said::Response { status: 101, .. } => {}
            Said::Response { status: 408 | 503, .. } => self.refused = true,
            Said::Text(bytes) | Said::Binary(bytes) => {
                let text = std::str::from_utf8(&bytes).expect("everything here is text");
                if let Some(answer) = text.strip_prefix('#') {
                    self.answered(answer, oracle);
                } else {
                    let (_, window) = self.window.as_mut().expect("a publication in a channel");
                    oracle.delivered(window, text);
                }
            }
            other => panic!("not for a plain client: {other:?}"),
        }
        Vec::new()
    }

    fn goodbye(&mut self, random: &mut Random) -> Vec<u8> {
        if self.upgrade_sent && !self.refused { wire::close(random) } else { Vec::new() }
    }

    fn settled(&self) {
        assert!(self.outstanding.is_empty(), "never answered: {:?}", self.outstanding);
    }

    fn windows(&self) -> Vec<(usize, &Window)> {
        self.window.iter().map(|(channel, window)| (*channel, window)).collect()
    }

    fn wanted_windows(&self) -> Vec<&Window> {
        let window = self.window.as_ref().filter(|(channel, _)| self.wanted == Some(*channel));
        window.iter().map(|(_, window)| window).collect()
    }

    fn user(&self) -> Option<&str> {
        None
    }

    fn may_be_ended(&self) -> bool {
        self.refused
    }

    fn is_http(&self) -> bool {
        false
    }
}
