//! What must hold, from what clients sent and saw alone: a model of each channel, and one of each
//! subscription.

use std::collections::BTreeMap;

use super::{stream::Stream, window::Window};

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
        let id = self.next_id;
        self.next_id += 1;
        let sent_at = self.tick();
        to.iter().for_each(|channel| self.streams[*channel].sent(id, publisher, sent_at));
        self.payload_bytes.insert(id, padding);
        (id, payload(id, padding))
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
    pub fn open(&mut self, channel: usize, subscriber: usize, asked_at: u64) -> Window {
        Window::new(channel, subscriber, asked_at, self.tick())
    }

    /// A subscriber saw a publication.
    pub fn delivered(&mut self, window: &mut Window, text: &str) {
        self.deliveries += 1;
        let value: serde_json::Value = serde_json::from_str(text).expect("a payload is JSON");
        let id = value["id"].as_u64().expect("a payload has its number");
        let padding = self.payload_bytes.get(&id).expect("it was made");
        assert_eq!(text, payload(id, *padding), "the payload changed");
        window.delivered(id, &mut self.streams[window.channel]);
    }

    /// Nothing is under way any more: the subscriber, who is still there, has seen everything.
    pub fn complete(&self, window: &Window) {
        window.complete(&self.streams[window.channel]);
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
