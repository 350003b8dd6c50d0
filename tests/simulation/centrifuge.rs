//! A client of the Centrifuge protocol that asks for everything in any order.

use std::collections::{BTreeMap, VecDeque};

use data_encoding::BASE64;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    client::Peer,
    oracle::{Oracle, name, number},
    random::Random,
    window::Window,
    wire::{self, Said},
};

#[derive(Debug)]
enum Command {
    Connect,
    /// The channel, and when that was asked for.
    Subscribe(usize, u64),
    Unsubscribe(usize),
    Publish(usize, u64),
}

/// One line of the server.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    push: Option<Push<'a>>,
    error: Option<Failure>,
    connect: Option<IgnoredAny>,
    subscribe: Option<IgnoredAny>,
    unsubscribe: Option<IgnoredAny>,
    publish: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Push<'a> {
    channel: String,
    #[serde(borrow, rename = "pub")]
    publication: Publication<'a>,
}

#[derive(Deserialize)]
struct Publication<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Failure {
    code: u16,
}

/// The client.
pub struct Centrifuge {
    number: usize,
    channels: usize,
    user: String,
    token: String,
    upgrade_sent: bool,
    connect_sent: bool,
    connected: bool,
    refused: bool,
    commands: u32,
    outstanding: VecDeque<(u32, Command)>,
    /// Passed over by later replies: only a connection that is being closed does that.
    unanswered: Vec<Command>,
    windows: BTreeMap<usize, Window>,
}

impl Centrifuge {
    pub fn new(number: usize, channels: usize, user: &str, token: &str) -> Self {
        Self {
            number,
            channels,
            user: user.to_owned(),
            token: token.to_owned(),
            upgrade_sent: false,
            connect_sent: false,
            connected: false,
            refused: false,
            commands: 0,
            outstanding: VecDeque::new(),
            unanswered: Vec::new(),
            windows: BTreeMap::new(),
        }
    }

    fn command(&mut self, command: Command, body: &str) -> String {
        self.commands += 1;
        self.outstanding.push_back((self.commands, command));
        format!(r#"{{"id":{},{body}}}"#, self.commands)
    }

    fn subscribe(&mut self, channel: usize, oracle: &mut Oracle) -> String {
        let body = format!(r#""subscribe":{{"channel":"{}"}}"#, name(channel));
        self.command(Command::Subscribe(channel, oracle.tick()), &body)
    }

    fn unsubscribe(&mut self, channel: usize) -> String {
        let body = format!(r#""unsubscribe":{{"channel":"{}"}}"#, name(channel));
        self.command(Command::Unsubscribe(channel), &body)
    }

    fn publish(&mut self, channel: usize, oracle: &mut Oracle, random: &mut Random) -> String {
        let most = if random.chance(3) { 2_000 } else { 60 };
        let padding = random.below(most);
        let (id, data) = oracle.publish(self.number, &[channel], padding);
        let body = format!(r#""publish":{{"channel":"{}","data":{data}}}"#, name(channel));
        self.command(Command::Publish(channel, id), &body)
    }

    fn lines(&mut self, oracle: &mut Oracle, random: &mut Random) -> Vec<String> {
        let channel = random.below(self.channels);
        match random.below(20) {
            0..=4 => vec![self.subscribe(channel, oracle)],
            5..=6 => vec![self.unsubscribe(channel)],
            7 => vec![self.unsubscribe(channel), self.subscribe(channel, oracle)],
            8 => vec![self.subscribe(channel, oracle), self.unsubscribe(channel)],
            9 => vec![
                self.subscribe(channel, oracle),
                self.publish(channel, oracle, random),
                self.unsubscribe(channel),
            ],
            10 => {
                (0..random.between(2, 40)).map(|_| self.publish(channel, oracle, random)).collect()
            }
            _ => vec![self.publish(channel, oracle, random)],
        }
    }

    fn line(&mut self, line: &str, oracle: &mut Oracle) -> bool {
        let line: Line<'_> = serde_json::from_str(line).expect("a line is JSON");
        if let Some(Push { channel, publication }) = line.push {
            assert!(self.connected, "a push before the connect reply");
            let Some(window) = self.windows.get_mut(&number(&channel)) else {
                panic!("a push of {channel} outside a subscription");
            };
            oracle.delivered(window, &payload_of(publication.data.get()));
            return false;
        }
        if line.id == 0 {
            return true;
        }
        let command = loop {
            let (id, command) = self.outstanding.pop_front().expect("one reply, in order");
            if id == line.id {
                break command;
            }
            self.unanswered.push(command);
        };
        let error = line.error.map(|error| error.code);
        match (command, error) {
            (Command::Connect, None) if line.connect.is_some() => self.connected = true,
            // Its token expired before it came.
            (Command::Connect, Some(109)) => self.refused = true,
            (Command::Subscribe(channel, asked_at), None) if line.subscribe.is_some() => {
                let window = oracle.open(channel, self.number, asked_at);
                let before = self.windows.insert(channel, window);
                assert!(before.is_none(), "two subscriptions to one channel");
            }
            (Command::Subscribe(channel, _), Some(105)) => {
                let of_it = |c: &Command| matches!(c, Command::Subscribe(c, _) if *c == channel);
                let is_in = self.windows.contains_key(&channel);
                assert!(is_in || self.unanswered.iter().any(of_it), "105 without a subscription");
            }
            (Command::Unsubscribe(channel), None) if line.unsubscribe.is_some() => {
                self.windows.remove(&channel);
            }
            (Command::Publish(channel, id), None) if line.publish.is_some() => {
                oracle.acknowledged(channel, id);
            }
            (Command::Publish(channel, id), Some(111)) => oracle.refused(channel, id),
            (Command::Subscribe(..), Some(106 | 111)) | (Command::Unsubscribe(_), Some(111)) => {}
            (command, error) => panic!("{command:?} was answered with {error:?}"),
        }
        false
    }
}

/// Handlers publish text and bytes too, which Centrifuge clients get as JSON strings.
fn payload_of(data: &str) -> String {
    if !data.starts_with('"') {
        return data.to_owned();
    }
    let text: String = serde_json::from_str(data).expect("a JSON string");
    if text.starts_with('{') {
        return text;
    }
    String::from_utf8(BASE64.decode(text.as_bytes()).expect("base64")).expect("UTF-8")
}

impl Peer for Centrifuge {
    fn act(&mut self, oracle: &mut Oracle, random: &mut Random) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.upgrade_sent {
            self.upgrade_sent = true;
            out = wire::upgrade("/connection/websocket");
            if !random.chance(30) {
                return out;
            }
        }
        if self.refused {
            return Vec::new();
        }
        let mut lines = Vec::new();
        if !self.connect_sent {
            self.connect_sent = true;
            let body = format!(r#""connect":{{"token":"{}"}}"#, self.token);
            lines.push(self.command(Command::Connect, &body));
            if !random.chance(30) {
                out.extend(wire::text(&lines[0], random));
                return out;
            }
        }
        if random.chance(5) {
            out.extend(wire::ping(random));
        }
        for _ in 0..random.between(1, 3) {
            lines.extend(self.lines(oracle, random));
        }
        while !lines.is_empty() {
            let some = random.between(1, lines.len());
            let message: Vec<String> = lines.drain(..some).collect();
            out.extend(wire::text(&message.join("\n"), random));
        }
        out
    }

    fn heard(&mut self, said: Said, oracle: &mut Oracle, random: &mut Random) -> Vec<u8> {
        let mut out = Vec::new();
        match said {
            Said::Response { status: 101, .. } | Said::Pong => {}
            Said::Response { status: 408 | 503, .. } => self.refused = true,
            Said::Text(text) => {
                let text = std::str::from_utf8(&text).expect("text is UTF-8");
                for line in text.split('\n') {
                    if self.line(line, oracle) {
                        out.extend(wire::text("{}", random));
                    }
                }
            }
            other => panic!("not for a Centrifuge client: {other:?}"),
        }
        out
    }

    fn goodbye(&mut self, random: &mut Random) -> Vec<u8> {
        if self.connected { wire::close(random) } else { Vec::new() }
    }

    fn settled(&self) {
        assert!(self.unanswered.is_empty(), "passed over: {:?}", self.unanswered);
        assert!(self.outstanding.is_empty(), "never answered: {:?}", self.outstanding);
    }

    fn windows(&self) -> Vec<(usize, &Window)> {
        self.windows.iter().map(|(channel, window)| (*channel, window)).collect()
    }

    fn wanted_windows(&self) -> Vec<&Window> {
        let ends = |channel: usize| {
            let mut commands = self.outstanding.iter();
            commands.any(|(_, command)| matches!(command, Command::Unsubscribe(c) if *c == channel))
        };
        self.windows.iter().filter(|(c, _)| !ends(**c)).map(|(_, window)| window).collect()
    }

    fn user(&self) -> Option<&str> {
        self.connected.then_some(&self.user)
    }

    fn may_be_ended(&self) -> bool {
        self.refused
    }

    fn is_http(&self) -> bool {
        false
    }
}
