//! A client of the Centrifuge protocol that asks for everything in any order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    client::Peer,
    expiry,
    features::Features,
    lines::{Connected, Failure, History, Line, Presence, Push, Subscribed},
    node::DENIED,
    oracle::{Oracle, Will, name, number},
    positions::Position,
    random::Random,
    settings::User,
    window::Window,
    wire::{self, Said},
    wishes::{Memory, Wish},
};

#[derive(Debug)]
enum Command {
    /// Its subscriptions by token.
    Connect(Vec<Wish>),
    Subscribe(Wish),
    Unsubscribe(usize),
    Publish(usize, u64),
    SubRefresh(Refresh),
    /// The channel.
    Presence(usize),
    /// The channel, the most publications, newest first, and when that was asked for.
    History(usize, u64, bool, u64),
}

/// One wish to stay in a channel.
#[derive(Debug)]
struct Refresh {
    channel: usize,
    until: u64,
    asked_unix_s: u64,
    /// Since when it was in the channel, if it was there and wanted to stay.
    is_in: Option<u64>,
}

/// The client.
pub struct Centrifuge {
    number: usize,
    channels: usize,
    features: Features,
    user: &'static User,
    upgrade_sent: bool,
    connect_sent: bool,
    /// Since when it is connected, and as whom.
    connected: Option<(u64, String)>,
    refused: bool,
    commands: u32,
    outstanding: VecDeque<(u32, Command)>,
    /// Passed over by later replies: only a connection that is being closed does that.
    unanswered: Vec<Command>,
    /// Calls of procedures, which are answered in any order with their own number.
    calls: BTreeSet<u32>,
    /// Channels that it did not want to be in without what it missed.
    rejected: BTreeSet<usize>,
    /// What the backend is asked about, which is answered in any order.
    asked: BTreeMap<u32, Command>,
    windows: BTreeMap<usize, Window>,
    memory: Memory,
}

impl Centrifuge {
    /// Somebody who was in the places of `memory` when its last connection ended.
    pub fn new(
        number: usize,
        channels: usize,
        features: Features,
        user: &'static User,
        memory: Memory,
    ) -> Self {
        Self {
            number,
            channels,
            features,
            user,
            upgrade_sent: false,
            connect_sent: false,
            connected: None,
            refused: false,
            commands: 0,
            outstanding: VecDeque::new(),
            unanswered: Vec::new(),
            calls: BTreeSet::new(),
            rejected: BTreeSet::new(),
            asked: BTreeMap::new(),
            windows: BTreeMap::new(),
            memory,
        }
    }

    fn command(&mut self, command: Command, body: &str) -> String {
        self.commands += 1;
        if self.is_asked(&command) {
            self.asked.insert(self.commands, command);
        } else {
            self.outstanding.push_back((self.commands, command));
        }
        format!(r#"{{"id":{},{body}}}"#, self.commands)
    }

    /// Whether the backend decides about a command.
    fn is_asked(&self, command: &Command) -> bool {
        self.features.proxied && matches!(command, Command::Subscribe(_) | Command::Publish(..))
    }

    fn wish(&self, channel: usize, oracle: &mut Oracle, random: &mut Random) -> Wish {
        oracle.letters.reads(self.number, channel);
        Wish::any(channel, &self.memory, self.features, oracle, random)
    }

    fn connect(&mut self, oracle: &mut Oracle, random: &mut Random) -> String {
        let channels = self.user.channels.iter();
        let wishes: Vec<Wish> =
            channels.map(|channel| self.wish(*channel, oracle, random)).collect();
        let token = &self.user.token;
        let subs = wishes
            .iter()
            .map(|wish| format!(r#""{}":{{{}}}"#, name(wish.channel), wish.fields().join(",")));
        let subs: Vec<String> = subs.collect();
        let body = format!(r#""connect":{{"token":"{token}","subs":{{{}}}}}"#, subs.join(","));
        self.command(Command::Connect(wishes), &body)
    }

    fn subscribe(&mut self, channel: usize, oracle: &mut Oracle, random: &mut Random) -> String {
        let mut wish = self.wish(channel, oracle, random);
        if self.features.expiring && random.chance(60) {
            wish.allowed(&self.user.name, random);
        }
        let body = format!(r#""subscribe":{}"#, wish.request());
        self.command(Command::Subscribe(wish), &body)
    }

    fn unsubscribe(&mut self, channel: usize) -> String {
        let body = format!(r#""unsubscribe":{{"channel":"{}"}}"#, name(channel));
        self.command(Command::Unsubscribe(channel), &body)
    }

    fn publish(&mut self, channel: usize, oracle: &mut Oracle, random: &mut Random) -> String {
        let most = if random.chance(3) { 2_000 } else { 60 };
        let padding = random.below(most);
        let publisher = if self.features.proxied { oracle.nobody() } else { self.number };
        let (id, data) = oracle.publish(publisher, &[channel], padding);
        let body = format!(r#""publish":{{"channel":"{}","data":{data}}}"#, name(channel));
        self.command(Command::Publish(channel, id), &body)
    }

    fn sub_refresh(&mut self, oracle: &mut Oracle, random: &mut Random) -> String {
        let channels: Vec<usize> = self.windows.keys().copied().collect();
        let channel =
            if channels.is_empty() { random.below(self.channels) } else { *random.pick(&channels) };
        let asked_unix_s = oracle.clocks.unix_s();
        let until = expiry::any(asked_unix_s, random);
        let token = expiry::token(&self.user.name, channel, until, random);
        let known = self.windows.get(&channel).filter(|_| !self.has_asked_to_end(channel));
        let is_in = known.map(|known| known.opened_at);
        let body = format!(r#""sub_refresh":{{"channel":"{}","token":"{token}"}}"#, name(channel));
        let refresh = Refresh { channel, until, asked_unix_s, is_in };
        self.command(Command::SubRefresh(refresh), &body)
    }

    fn call(&mut self) -> String {
        self.commands += 1;
        self.calls.insert(self.commands);
        format!(r#"{{"id":{0},"rpc":{{"data":{0}}}}}"#, self.commands)
    }

    fn history(&mut self, channel: usize, oracle: &mut Oracle, random: &mut Random) -> String {
        let (limit, reverse) = (random.below(4) as u64, random.chance(30));
        let since = self.memory.get(&channel).filter(|_| random.chance(50) && !reverse);
        let since = since.map_or_else(String::new, |Position { epoch, offset }| {
            format!(r#","since":{{"offset":{offset},"epoch":"{epoch}"}}"#)
        });
        let channel_name = name(channel);
        let body = format!(
            r#""history":{{"channel":"{channel_name}","limit":{limit},"reverse":{reverse}{since}}}"#
        );
        self.command(Command::History(channel, limit, reverse, oracle.tick()), &body)
    }

    fn lines(&mut self, oracle: &mut Oracle, random: &mut Random) -> Vec<String> {
        let channel = random.below(self.channels);
        match random.below(22) {
            0..=4 => vec![self.subscribe(channel, oracle, random)],
            5..=6 => vec![self.unsubscribe(channel)],
            7 => vec![self.unsubscribe(channel), self.subscribe(channel, oracle, random)],
            8 => vec![self.subscribe(channel, oracle, random), self.unsubscribe(channel)],
            9 => vec![
                self.subscribe(channel, oracle, random),
                self.publish(channel, oracle, random),
                self.unsubscribe(channel),
            ],
            10 => {
                (0..random.between(2, 40)).map(|_| self.publish(channel, oracle, random)).collect()
            }
            11 if self.features.presence => {
                let body = format!(r#""presence":{{"channel":"{}"}}"#, name(channel));
                vec![self.command(Command::Presence(channel), &body)]
            }
            12 if self.features.history.is_some() => vec![self.history(channel, oracle, random)],
            13..=14 => vec![self.call()],
            15..=16 if self.features.expiring => vec![self.sub_refresh(oracle, random)],
            _ => vec![self.publish(channel, oracle, random)],
        }
    }

    fn open(
        &mut self,
        wish: &Wish,
        grant: &Subscribed<'_>,
        server_side: bool,
        oracle: &mut Oracle,
    ) {
        let ending = self.has_asked_to_end(wish.channel);
        let mut window = wish.granted(self.number, grant, self.features, ending, oracle);
        window.server_side = server_side;
        self.memory.extend(window.position().map(|at| (wish.channel, at.clone())));
        if let Some(before) = self.windows.insert(wish.channel, window) {
            // Who has lost its position and comes back before it is told is not told.
            assert!(before.position().is_some(), "two subscriptions to one channel");
            self.forget(&before, oracle);
        }
    }

    fn has_asked_to_end(&self, channel: usize) -> bool {
        let mut commands = self.outstanding.iter();
        commands.any(|(_, command)| matches!(command, Command::Unsubscribe(c) if *c == channel))
    }

    fn forget(&self, window: &Window, oracle: &mut Oracle) {
        oracle.skipped += u64::from(window.members.as_ref().is_some_and(|told| told.skipped));
    }

    fn close(&mut self, channel: usize, oracle: &mut Oracle) -> Option<Window> {
        let window = self.windows.remove(&channel)?;
        self.forget(&window, oracle);
        Some(window)
    }

    fn push(&mut self, push: &Push<'_>, oracle: &mut Oracle) {
        assert!(self.connected.is_some(), "a push before the connect reply");
        if push.refresh.is_some() {
            assert!(oracle.was_ordered(&self.user.name, |will| will == Will::Refresh));
            return;
        }
        if let Some(message) = &push.message {
            assert!(oracle.messaged(self.number, &message.payload()), "a publication as a message");
            return;
        }
        let channel = number(&push.channel);
        if let Some(grant) = &push.subscribe {
            assert!(oracle.was_ordered(&self.user.name, |will| will == Will::Subscribe(channel)));
            self.open(&Wish::none(channel), grant, true, oracle);
            return;
        }
        if let Some(end) = &push.unsubscribe {
            let window = self.close(channel, oracle);
            let window = window.unwrap_or_else(|| panic!("{} of {}", end.code, push.channel));
            match end.code {
                2000 => {
                    assert!(oracle.was_ordered(&self.user.name, |will| {
                        will == Will::Unsubscribe(channel)
                    }))
                }
                2500 => {
                    assert!(window.position().is_some(), "it had no position to lose");
                    oracle.gaps += 1;
                }
                2501 => {
                    let is_over = window.is_over(&oracle.clocks) && !window.server_side;
                    assert!(is_over, "ended before its time: {:?}", window.expiry);
                    oracle.subs_expired += 1;
                }
                code => panic!("unsubscribed with {code}"),
            }
            return;
        }
        let Some(window) = self.windows.get_mut(&channel) else {
            panic!("a push of {} outside a subscription", push.channel);
        };
        if let Some(publication) = &push.publication {
            if let Some((epoch, at)) = publication.epoch.as_ref().zip(window.position()) {
                assert_eq!(*epoch, at.epoch, "a subscriber's stream became another one");
            }
            oracle.delivered(window, &publication.payload(), publication.offset);
            self.memory.extend(window.position().map(|at| (channel, at.clone())));
            return;
        }
        let (info, came) = match (&push.join, &push.leave) {
            (Some(join), None) => (&join.info, true),
            (None, Some(leave)) => (&leave.info, false),
            _ => panic!("an unknown push"),
        };
        let members = window.members.as_mut().expect("it did not ask who comes and goes");
        oracle.memberships += 1;
        members.told(if self.features.by_user { &info.user } else { &info.client }, came);
    }

    fn line(&mut self, text: &str, oracle: &mut Oracle) -> bool {
        let line: Line<'_> = serde_json::from_str(text).expect("a line is JSON");
        if let Some(push) = &line.push {
            self.push(push, oracle);
            return false;
        }
        if line.id == 0 {
            return true;
        }
        if self.calls.remove(&line.id) {
            match (line.rpc, line.error) {
                (Some(said), None) => assert_eq!(said.data.get(), line.id.to_string()),
                (None, Some(Failure { code: 100 | 111 })) => {}
                _ => panic!("neither an answer nor a failure"),
            }
            return false;
        }
        let command = self.asked.remove(&line.id).unwrap_or_else(|| self.next_until(line.id));
        match line.error {
            Some(failure) => self.failed(&command, failure.code, oracle),
            None => self.succeeded(command, &line, oracle),
        }
        false
    }

    /// The command with this number, the first that is not answered.
    fn next_until(&mut self, number: u32) -> Command {
        loop {
            let (id, command) = self.outstanding.pop_front().expect("one reply, in order");
            if id == number {
                return command;
            }
            self.unanswered.push(command);
        }
    }

    fn failed(&mut self, command: &Command, code: u16, oracle: &mut Oracle) {
        match (command, code) {
            // Its token expired before it came; or a backend would not have it in its channel.
            (Command::Connect(_), 109) => self.refused = true,
            // The backend could not be asked who it is: what it said meanwhile is not answered.
            (Command::Connect(_), 100 | 111) if self.features.asks => {
                self.refused = true;
                self.outstanding.clear();
                self.calls.clear();
                self.asked.clear();
            }
            // The backend refused it or could not be asked; it was withdrawn; another came first.
            (Command::Subscribe(_), 100 | 103 | 105 | DENIED) if self.features.proxied => {}
            (Command::Publish(channel, id), 100 | DENIED) if self.features.proxied => {
                oracle.refused(*channel, *id);
            }
            (Command::Subscribe(wish), 109 | 110) => {
                assert!(wish.is_late(oracle.clocks.unix_s()), "{wish:?} was in time");
            }
            (Command::SubRefresh(Refresh { until, .. }), 109 | 110) => {
                let is_late = *until != 0 && *until <= oracle.clocks.unix_s();
                assert!(is_late, "{command:?} was in time");
            }
            (Command::SubRefresh(Refresh { channel, is_in, .. }), 103) => {
                // Who has lost its position is out before it is told.
                let known = self.windows.get(channel).filter(|known| known.position().is_none());
                let stayed = known.is_some_and(|known| *is_in == Some(known.opened_at));
                assert!(!stayed, "{channel} was not refreshed");
            }
            (Command::Subscribe(wish), 112) => {
                wish.rejected(oracle);
                self.rejected.insert(wish.channel);
            }
            (Command::Subscribe(Wish { channel, .. }), 105) => {
                let of_it =
                    |c: &Command| matches!(c, Command::Subscribe(wish) if wish.channel == *channel);
                // It was in it by its token, a backend's will, or an attempt that ended since.
                let of_server =
                    self.user.channels.contains(channel) && self.has_asked_to_end(*channel);
                let ordered =
                    |will| [Will::Subscribe(*channel), Will::Unsubscribe(*channel)].contains(&will);
                let is_in = self.windows.contains_key(channel)
                    || of_server
                    || self.rejected.contains(channel)
                    || self.features.max_subscribers.is_some()
                    || oracle.was_ordered(&self.user.name, ordered);
                assert!(is_in || self.unanswered.iter().any(of_it), "105 without a subscription");
            }
            (Command::Subscribe(Wish { channel, .. }), 103) => {
                let ended = |will| will == Will::Unsubscribe(*channel);
                assert!(oracle.was_ordered(&self.user.name, ended), "nobody wanted its end");
            }
            (Command::Publish(channel, id), 111) => oracle.refused(*channel, *id),
            // What it remembers is of another stream.
            (Command::History(..), 111 | 112) => {}
            (Command::Subscribe(_), 106 | 111)
            | (Command::Unsubscribe(_) | Command::Presence(_) | Command::SubRefresh(_), 111) => {}
            (command, code) => panic!("{command:?} was answered with {code}"),
        }
    }

    fn succeeded(&mut self, command: Command, line: &Line<'_>, oracle: &mut Oracle) {
        match command {
            Command::Connect(wishes) => {
                let Connected { client, subs } = line.connect.as_ref().expect("a connect reply");
                self.connected = Some((oracle.tick(), client.clone()));
                let (now, letters) = (oracle.clock, &mut oracle.letters);
                letters.opened(self.number, now);
                letters.user_answered(self.number, 0, true, now);
                for wish in wishes {
                    let unsubscribe = |will| will == Will::Unsubscribe(wish.channel);
                    match subs.get(&name(wish.channel)) {
                        Some(grant) => self.open(&wish, grant, true, oracle),
                        None => assert!(
                            self.has_asked_to_end(wish.channel)
                                || oracle.was_ordered(&self.user.name, unsubscribe),
                            "connected without {wish:?}"
                        ),
                    }
                }
            }
            Command::Subscribe(wish) => {
                let grant = line.subscribe.as_ref().expect("a subscribe reply");
                self.open(&wish, grant, false, oracle);
            }
            Command::Unsubscribe(channel) => {
                assert!(line.unsubscribe.is_some());
                self.close(channel, oracle);
            }
            Command::Publish(channel, id) => {
                assert!(line.publish.is_some());
                oracle.acknowledged(channel, id);
            }
            Command::SubRefresh(Refresh { channel, until, asked_unix_s, .. }) => {
                let told = line.sub_refresh.as_ref().expect("a sub_refresh reply");
                let clocks = &oracle.clocks;
                let is_told =
                    told.expires == (until != 0) && clocks.is_true(until, told.ttl, asked_unix_s);
                assert!(is_told, "{} s until {until}", told.ttl);
                let expiry = (until != 0).then(|| clocks.expiry(until));
                self.windows.get_mut(&channel).into_iter().for_each(|known| known.expiry = expiry);
                oracle.subs_refreshed += 1;
            }
            Command::Presence(channel) => {
                let Presence { presence } = line.presence.as_ref().expect("a presence reply");
                assert!(presence.iter().all(|(client, info)| *client == info.client));
                let own = self.connected.as_ref().and_then(|(_, own)| presence.get(own));
                assert!(own.is_none_or(|info| info.user == self.user.name), "{channel}");
            }
            Command::History(channel, limit, reverse, asked_at) => {
                let history = line.history.as_ref().expect("a history reply");
                read(channel, limit, reverse, asked_at, history, oracle);
            }
        }
    }
}

/// A part of a channel's history: without holes, and each publication at its place.
fn read(
    channel: usize,
    limit: u64,
    reverse: bool,
    asked_at: u64,
    history: &History<'_>,
    oracle: &mut Oracle,
) {
    let History { publications, epoch, offset } = history;
    let top = Position { epoch: epoch.clone(), offset: *offset };
    oracle.top(channel, &top, asked_at);
    assert!(publications.len() as u64 <= limit, "more than {limit} publications");
    let mut offsets: Vec<u64> = publications.iter().map(|known| known.offset).collect();
    if reverse {
        assert!(
            offsets.first().is_none_or(|newest| *newest == top.offset),
            "{offsets:?} of {top:?}"
        );
        offsets.reverse();
    }
    assert!(offsets.windows(2).all(|two| two[0] + 1 == two[1]), "a hole in {offsets:?}");
    assert!(offsets.last().is_none_or(|last| *last <= top.offset), "{offsets:?} of {top:?}");
    for publication in publications {
        let at = Position { offset: publication.offset, ..top.clone() };
        oracle.kept(channel, &publication.payload(), &at);
    }
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
            let now = oracle.tick();
            oracle.letters.asks(self.number, now);
            oracle.letters.asks_for_user(self.number, 0, &self.user.name, now);
            lines.push(self.connect(oracle, random));
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
        if self.connected.is_some() { wire::close(random) } else { Vec::new() }
    }

    fn settled(&self) {
        assert!(self.unanswered.is_empty(), "passed over: {:?}", self.unanswered);
        assert!(self.outstanding.is_empty(), "never answered: {:?}", self.outstanding);
        assert!(self.calls.is_empty(), "calls without an answer: {:?}", self.calls);
        assert!(self.asked.is_empty(), "nobody decided: {:?}", self.asked);
    }

    fn windows(&self) -> Vec<(usize, &Window)> {
        self.windows.iter().map(|(channel, window)| (*channel, window)).collect()
    }

    fn wanted_windows(&self) -> Vec<&Window> {
        self.windows
            .iter()
            .filter(|(c, _)| !self.has_asked_to_end(**c))
            .map(|(_, window)| window)
            .collect()
    }

    fn user(&self) -> Option<&str> {
        self.connected.is_some().then_some(&*self.user.name)
    }

    fn connected(&self) -> Option<&(u64, String)> {
        self.connected.as_ref()
    }

    fn memory(&mut self) -> Memory {
        std::mem::take(&mut self.memory)
    }

    fn may_be_ended(&self) -> bool {
        self.refused
    }

    fn is_http(&self) -> bool {
        false
    }
}
