//! A plain WebSocket client and the embedder's handler that it talks to.
//!
//! `sub 7 c0`, `unsub 8 c0`, `pub 9 j c0 {..}`, `others 10 j c0 {..}`, `user 11 ann` are answered
//! `#7 0`: the number and an error or 0. `send 12 j to {..}`, to `*`, `@ann` or `c0`, and `spare`, the
//! same but for this connection, are answered with counts, too.
//! Of several lines each waits for the answer to the one before it, and is executed inside it.
//! `@5` comes from a thread that addresses the connection as the fifth that there was. Everything
//! else that the client gets is a publication of the one channel that it is in.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::value::RawValue;
use tiderace::{
    codec::websocket::Message,
    protocol::{
        Answer, Audience, Delivery, Outgoing, Payload,
        handler::{ConnectionRef, Context, Handler},
    },
};

use super::{
    client::Peer,
    features::Features,
    letters::{To, Told},
    oracle::{Oracle, name},
    random::Random,
    settings,
    window::{Promise, Window},
    wire::{self, Said},
};

/// What an embedder remembers of its connections.
#[derive(Default)]
pub struct Handlers {
    /// Connections whose end was not told yet.
    pub alive: AtomicUsize,
    /// All that there ever were.
    known: Mutex<Vec<ConnectionRef>>,
}

impl Handlers {
    pub fn known(&self) -> Vec<ConnectionRef> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The server's side.
pub struct Relay {
    /// By command: its tag, and the lines that wait for its answer.
    tags: BTreeMap<u32, (String, String)>,
    handlers: Arc<Handlers>,
    /// The last user that it asked to be of, until that is answered.
    user: Option<(u32, String)>,
}

impl Relay {
    pub fn new(handlers: &Arc<Handlers>) -> Self {
        Self { tags: BTreeMap::new(), handlers: Arc::clone(handlers), user: None }
    }

    /// Executes the first of these lines.
    fn execute(&mut self, lines: &str, connection: &mut Context<'_>) {
        let (line, rest) = lines.split_once('\n').unwrap_or((lines, ""));
        let mut words = line.splitn(5, ' ');
        let (verb, tag) = (words.next().unwrap(), words.next().unwrap());
        let command = match verb {
            "sub" => connection.subscribe(words.next().unwrap()),
            "unsub" => connection.unsubscribe(words.next().unwrap()),
            "user" => {
                let user = words.next().unwrap();
                let command = connection.set_user((user != "-").then_some(user));
                self.user = Some((command, user.to_owned()));
                command
            }
            "send" | "spare" => {
                let kind = words.next().unwrap();
                let audience = match words.next().unwrap() {
                    "*" => Audience::All,
                    to => match to.strip_prefix('@') {
                        Some(user) => Audience::User(user.into()),
                        None => Audience::Channel(to.into()),
                    },
                };
                let outgoing = outgoing(kind, words.next().unwrap());
                let own = connection.connection();
                connection.send_to(
                    audience,
                    if verb == "spare" { outgoing.except(own) } else { outgoing },
                )
            }
            _ => {
                let payload = match words.next().unwrap() {
                    "j" => Payload::Json,
                    "t" => Payload::Text,
                    _ => Payload::Binary,
                };
                let (channel, data) = (words.next().unwrap(), words.next().unwrap().as_bytes());
                match verb {
                    "others" => connection.publish_to_others(channel, payload, data),
                    _ => connection.publish(channel, payload, data),
                }
            }
        };
        let before = self.tags.insert(command, (tag.to_owned(), rest.to_owned()));
        assert!(before.is_none(), "numbers are unique");
    }
}

/// A message for many, of this kind.
pub fn outgoing(kind: &str, data: &str) -> Outgoing {
    match kind {
        "j" => {
            let data = RawValue::from_string(data.to_owned()).expect("a payload is JSON");
            Outgoing::json(&data).expect("JSON is JSON")
        }
        "t" => Outgoing::text(data),
        _ => Outgoing::binary(data.as_bytes().to_vec()),
    }
}

impl Handler for Relay {
    fn opened(&mut self, connection: &mut Context<'_>) {
        self.handlers.alive.fetch_add(1, Ordering::Relaxed);
        let mut known = self.handlers.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.push(connection.connection());
    }

    fn message(&mut self, message: Message<'_>, connection: &mut Context<'_>) {
        let Message::Text(text) = message else { panic!("clients send text") };
        self.execute(text, connection);
    }

    fn answered(&mut self, command: u32, answer: Answer, connection: &mut Context<'_>) {
        let (tag, rest) = self.tags.remove(&command).expect("one answer to a command");
        if let Some((_, user)) = self.user.take_if(|(last, _)| *last == command) {
            let is_set = answer == Answer::UserSet && user != "-";
            let known = connection.user().map(|known| &**known);
            assert_eq!(known, is_set.then_some(&*user), "whose it is after {answer:?}");
        }
        let outcome = match answer {
            Answer::Failed(error) => error.code.to_string(),
            Answer::Delivered(Delivery { queued, failed }) => format!("0 {queued} {failed}"),
            _ => "0".to_owned(),
        };
        connection.send_text(&format!("#{tag} {outcome}"));
        if !rest.is_empty() {
            self.execute(&rest, connection);
        }
    }

    fn closed(&mut self, _: u16) {
        self.handlers.alive.fetch_sub(1, Ordering::Relaxed);
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
    /// The channel, and when that was asked for.
    Subscribe(usize, u64),
    Unsubscribe,
    Publish(usize, u64),
    Send(To, u64),
    User,
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
    /// What its subscriptions are promised.
    promise: Promise,
}

impl Plain {
    pub fn new(number: usize, channels: usize, features: Features) -> Self {
        Self {
            number,
            channels,
            upgrade_sent: false,
            refused: false,
            tags: 0,
            outstanding: BTreeMap::new(),
            wanted: None,
            window: None,
            promise: features.promise(),
        }
    }

    fn command(&mut self, command: Command) -> u32 {
        self.tags += 1;
        self.outstanding.insert(self.tags, command);
        self.tags
    }

    fn message(&mut self, oracle: &mut Oracle, random: &mut Random) -> String {
        let channel = random.below(self.channels);
        if random.chance(15) {
            return self.user_line(oracle, random);
        }
        match self.wanted {
            None if random.chance(60) => {
                self.wanted = Some(channel);
                oracle.letters.reads(self.number, channel);
                let tag = self.command(Command::Subscribe(channel, oracle.tick()));
                let mut lines = format!("sub {tag} {}", name(channel));
                while random.chance(40) {
                    let of = random.below(self.channels);
                    lines += &format!("\n{}", self.publication(None, of, oracle, random));
                }
                lines
            }
            Some(channel) if random.chance(20) => {
                self.wanted = None;
                let tag = self.command(Command::Unsubscribe);
                format!("unsub {tag} {}", name(channel))
            }
            _ => {
                let mut lines = self.publication(Some(self.number), channel, oracle, random);
                while random.chance(20) {
                    lines += &format!("\n{}", self.publication(None, channel, oracle, random));
                }
                lines
            }
        }
    }

    /// Without a publisher it has no order among this client's publications.
    fn publication(
        &mut self,
        publisher: Option<usize>,
        channel: usize,
        oracle: &mut Oracle,
        random: &mut Random,
    ) -> String {
        let publisher = publisher.unwrap_or_else(|| oracle.nobody());
        let kind = *random.pick(&["j", "t", "b"]);
        let except = random.chance(30).then_some(self.number);
        if random.chance(60) {
            let padding = random.below(60);
            let (id, data) = oracle.publish_except(publisher, &[channel], except, padding);
            let tag = self.command(Command::Publish(channel, id));
            let verb = if except.is_some() { "others" } else { "pub" };
            return format!("{verb} {tag} {kind} {} {data}", name(channel));
        }
        let to = To::any(channel, random);
        let most = if random.chance(10) { 2_000 } else { 60 };
        let padding = random.below(most);
        let (id, data) = oracle.send(publisher, to.clone(), except, padding);
        let verb = if except.is_some() { "spare" } else { "send" };
        let line =
            format!("{} {kind} {} {data}", self.command(Command::Send(to.clone(), id)), to.word());
        format!("{verb} {line}")
    }

    /// Another user, the same again, or nobody.
    fn user_line(&mut self, oracle: &mut Oracle, random: &mut Random) -> String {
        let user = random.pick(settings::users());
        let tag = self.command(Command::User);
        let now = oracle.tick();
        oracle.letters.asks_for_user(self.number, tag, &user.name, now);
        format!("user {tag} {}", if user.name.is_empty() { "-" } else { &user.name })
    }

    fn answered(&mut self, answer: &str, oracle: &mut Oracle) {
        let mut words = answer.split(' ');
        let tag: u32 = words.next().and_then(|tag| tag.parse().ok()).expect("a number");
        let code = words.next().expect("a code");
        let mut count = || words.next().and_then(|count| count.parse().ok()).expect("a count");
        let command = self.outstanding.remove(&tag).expect("one answer to a command");
        match (command, code) {
            (Command::Subscribe(channel, asked_at), "0") => {
                assert!(self.window.is_none(), "it is in one channel at a time");
                let promise = self.promise.clone();
                let window = oracle.open(channel, self.number, asked_at, promise);
                self.window = Some((channel, window));
            }
            (Command::Subscribe(..), "106") => {
                let again = |command: &Command| matches!(command, Command::Subscribe(..));
                if !self.outstanding.values().any(again) {
                    self.wanted = None;
                }
            }
            (Command::Unsubscribe, "0") => self.window = None,
            (Command::Publish(channel, id), "0") => oracle.acknowledged(channel, id),
            (Command::Publish(channel, id), "111") => oracle.refused(channel, id),
            (Command::Send(to, id), "0") => oracle.told(id, &to, Told::Counted(count(), count())),
            (Command::Send(to, id), "111") => oracle.told(id, &to, Told::Refused),
            (Command::User, "0" | "106") => {
                let now = oracle.tick();
                oracle.letters.user_answered(self.number, tag, code == "0", now);
            }
            (command, code) => panic!("{command:?} was answered with {code}"),
        }
    }
}

impl Peer for Plain {
    fn act(&mut self, oracle: &mut Oracle, random: &mut Random) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.upgrade_sent {
            self.upgrade_sent = true;
            let now = oracle.tick();
            oracle.letters.asks(self.number, now);
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
            Said::Response { status: 101, .. } => {
                let now = oracle.tick();
                oracle.letters.opened(self.number, now);
            }
            Said::Response { status: 408 | 503, .. } => self.refused = true,
            Said::Text(bytes) | Said::Binary(bytes) => {
                let text = std::str::from_utf8(&bytes).expect("everything here is text");
                if let Some(answer) = text.strip_prefix('#') {
                    self.answered(answer, oracle);
                } else if let Some(address) = text.strip_prefix('@') {
                    oracle.addressed(address.parse().expect("a number"), self.number);
                } else if !oracle.messaged(self.number, text) {
                    let (_, window) = self.window.as_mut().expect("a publication in a channel");
                    oracle.delivered(window, text, 0);
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
