//! What must hold, from what clients sent and saw alone: a model of each channel, and one of each
//! subscription.

use std::collections::BTreeMap;

use super::{
    expiry::Clocks,
    features::KEY,
    letters::{Letters, To, Told},
    positions::Position,
    stream::Stream,
    window::{Promise, Window},
};

/// The truth of a world as its clients know it.
#[derive(Default)]
pub struct Oracle {
    /// Counts whatever happens: the order of events.
    pub clock: u64,
    streams: Vec<Stream>,
    next_id: u64,
    payload_bytes: BTreeMap<u64, usize>,
    nobodies: usize,
    /// Who got what was sent to the nth connection with a handler.
    pub addresses: BTreeMap<usize, usize>,
    pub deliveries: u64,
    pub acknowledged: u64,
    /// Publications that a subscriber may recover whatever their size; 0 where that is not known.
    pub recovered_max: u64,
    /// Subscriptions that got what they missed, and those that could not.
    pub recovered: u64,
    pub unrecovered: u64,
    /// Subscriptions that were told of a gap.
    pub gaps: u64,
    /// Publications that were left out for somebody without a position.
    pub left_out: u64,
    /// Holes in what somebody without a position saw.
    pub holes: u64,
    /// Subscriptions that saw somebody come or go twice.
    pub skipped: u64,
    /// Joins and leaves that somebody was told.
    pub memberships: u64,
    /// What backends wanted of users, in order.
    pub orders: Vec<Order>,
    /// What the clocks say.
    pub clocks: Clocks,
    /// Subscriptions that ended because they were not refreshed, and those that were.
    pub subs_expired: u64,
    pub subs_refreshed: u64,
    /// Messages to many.
    pub letters: Letters,
}

/// What a backend wants of all connections of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Will {
    Disconnect,
    Unsubscribe(usize),
    Subscribe(usize),
    Refresh,
}

/// One of these, and when.
#[derive(Clone, Debug)]
pub struct Order {
    pub user: String,
    pub will: Will,
    pub at: u64,
}

impl Oracle {
    pub fn new(channels: usize) -> Self {
        let streams = (0..channels).map(|_| Stream::default()).collect();
        Self { streams, ..Self::default() }
    }

    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Makes a publication for these channels; returns its number and payload.
    pub fn publish(&mut self, publisher: usize, to: &[usize], padding: usize) -> (u64, String) {
        self.publish_except(publisher, to, None, padding)
    }

    /// The same, not for this subscriber.
    pub fn publish_except(
        &mut self,
        publisher: usize,
        to: &[usize],
        except: Option<usize>,
        padding: usize,
    ) -> (u64, String) {
        let id = self.next_id;
        self.next_id += 1;
        let sent_at = self.tick();
        to.iter().for_each(|channel| self.streams[*channel].sent(id, publisher, except, sent_at));
        self.payload_bytes.insert(id, padding);
        (id, payload(id, padding))
    }

    /// Gives a publication a key; returns the tags that say so.
    pub fn keyed(&mut self, id: u64, to: &[usize], key: &'static str) -> BTreeMap<String, String> {
        to.iter().for_each(|channel| self.streams[*channel].keyed(id, key));
        let tag = (!key.is_empty()).then(|| (KEY.to_owned(), key.to_owned()));
        tag.into_iter().collect()
    }

    /// Makes a message to many, of which its sender is told how many it reached.
    pub fn send(
        &mut self,
        sender: usize,
        to: To,
        except: Option<usize>,
        padding: usize,
    ) -> (u64, String) {
        let channels = if let To::Channel(channel) = to { vec![channel] } else { Vec::new() };
        let (id, data) = self.publish_except(sender, &channels, except, padding);
        self.letters.sent(id, sender, to, except, self.clock);
        (id, data)
    }

    /// The sender of a message to many was told what became of it.
    pub fn told(&mut self, id: u64, to: &To, told: Told) {
        let now = self.tick();
        self.letters.told(id, told, now);
        match (to, told) {
            (To::Channel(channel), Told::Counted(..)) => self.acknowledged(*channel, id),
            (To::Channel(channel), Told::Refused) => self.refused(*channel, id),
            _ => {}
        }
    }

    /// A client got a message that is no publication; false when it is one.
    pub fn messaged(&mut self, client: usize, text: &str) -> bool {
        let id = self.known(text);
        let is_direct = self.letters.is_direct(id);
        if is_direct {
            self.letters.got(id, client);
        }
        is_direct
    }

    /// A publisher of one publication, which has no order among those of others.
    pub fn nobody(&mut self) -> usize {
        self.nobodies += 1;
        usize::MAX / 2 + self.nobodies
    }

    /// The publisher was told that the publication has its place.
    pub fn acknowledged(&mut self, channel: usize, id: u64) {
        self.acknowledged += 1;
        let now = self.tick();
        self.streams[channel].acknowledged(id, now);
    }

    /// The publisher was told that nothing was published.
    pub fn refused(&mut self, channel: usize, id: u64) {
        self.streams[channel].refused(id);
    }

    /// A subscriber saw the grant of what it asked for at a time.
    pub fn open(
        &mut self,
        channel: usize,
        subscriber: usize,
        asked_at: u64,
        promise: Promise,
    ) -> Window {
        let now = self.tick();
        if let Promise::From(position) = &promise {
            self.streams[channel].positions.top(position, asked_at, now);
        }
        Window::new(channel, subscriber, asked_at, now, promise)
    }

    /// Who asked at a time is told where a channel's stream stands.
    pub fn top(&mut self, channel: usize, at: &Position, asked_at: u64) {
        let now = self.tick();
        self.streams[channel].positions.top(at, asked_at, now);
    }

    /// A subscriber saw a publication, which may have an offset.
    pub fn delivered(&mut self, window: &mut Window, text: &str, offset: u64) {
        self.deliveries += 1;
        let id = self.known(text);
        self.letters.got(id, window.subscriber);
        let left_out = window.delivered(id, offset, &mut self.streams[window.channel]);
        self.holes += u64::from(left_out);
        self.left_out += u64::from(left_out);
    }

    /// A subscriber got a publication that it had missed.
    pub fn recovered(&mut self, window: &mut Window, text: &str, offset: u64) {
        let id = self.known(text);
        window.recovered(id, offset, &mut self.streams[window.channel]);
    }

    /// Somebody saw a publication in a history.
    pub fn kept(&mut self, channel: usize, text: &str, at: &Position) {
        let id = self.known(text);
        self.streams[channel].delivered(id, None);
        self.streams[channel].positions.placed(id, at);
    }

    fn known(&self, text: &str) -> u64 {
        let value: serde_json::Value = serde_json::from_str(text).expect("a payload is JSON");
        let id = value["id"].as_u64().expect("a payload has its number");
        let padding = self.payload_bytes.get(&id).expect("it was made");
        assert_eq!(text, payload(id, *padding), "the payload changed");
        id
    }

    /// Nothing is under way any more: the subscriber, who is still there, has seen everything; or
    /// what was left out is counted. Returns how much that is.
    pub fn complete(&mut self, window: &Window) -> u64 {
        let missed = window.complete(&self.streams[window.channel]);
        self.left_out += missed;
        missed
    }

    /// Nothing is under way any more, and nothing but newer ones of its key overtook a publication.
    pub fn has_newest(&self, window: &Window) {
        window.has_newest(&self.streams[window.channel]);
    }

    /// Whether a backend wanted something of a user.
    pub fn was_ordered(&self, user: &str, is: impl Fn(Will) -> bool) -> bool {
        self.orders.iter().any(|order| order.user == user && is(order.will))
    }

    /// Whether a backend wanted something of a user that this client wanted to be.
    pub fn was_ordered_of(&self, client: usize, is: impl Fn(Will) -> bool) -> bool {
        let orders = self.orders.iter().filter(|order| is(order.will));
        orders.into_iter().any(|order| self.letters.wanted_user(client, &order.user))
    }

    /// A client got what was sent to the connection with this number.
    pub fn addressed(&mut self, number: usize, client: usize) {
        let first = *self.addresses.entry(number).or_insert(client);
        assert_eq!(first, client, "connection {number} is another client's");
        let others = self.addresses.iter().filter(|(_, known)| **known == client).count();
        assert_eq!(others, 1, "client {client} is several connections");
    }
}

fn payload(id: u64, padding: usize) -> String {
    let letter = char::from(b'a' + (id % 26) as u8).to_string();
    let padding = letter.repeat(padding);
    format!(r#"{{"id":{id},"x":"{padding}"}}"#)
}

/// The name of a channel.
pub fn name(channel: usize) -> String {
    format!("c{channel}")
}

/// The channel of a name.
pub fn number(name: &str) -> usize {
    name.strip_prefix('c').and_then(|number| number.parse().ok()).expect("a channel of the world")
}
