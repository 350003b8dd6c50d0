//! What must hold, from what clients sent and saw alone.
//!
//! Channels have one order, which nobody outside the server knows. But each subscriber must see a
//! part of it without holes, so whenever anybody sees `b` right after `a`, nobody may ever see
//! anything else after `a` or before `b`. What is missing at a part's end shows when all is quiet.

use std::collections::{BTreeMap, BTreeSet};

/// What the publisher was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unknown,
    Acknowledged,
    Refused,
}

struct Publication {
    publisher: usize,
    sent_at: u64,
    fate: Fate,
    seen: bool,
}

#[derive(Default)]
struct Channel {
    publications: BTreeMap<u64, Publication>,
    after: BTreeMap<u64, u64>,
    before: BTreeMap<u64, u64>,
}

/// One subscription of one client from its grant on.
#[derive(Debug)]
pub struct Window {
    channel: usize,
    opened_at: u64,
    last: Option<u64>,
    seen: BTreeSet<u64>,
    last_of_publisher: BTreeMap<usize, u64>,
}

/// The truth of a world as its clients know it.
#[derive(Default)]
pub struct Oracle {
    /// Counts whatever happens: the order of events.
    pub clock: u64,
    channels: Vec<Channel>,
    next_id: u64,
    payload_bytes: BTreeMap<u64, usize>,
    pub deliveries: u64,
    pub acknowledged: u64,
}

impl Oracle {
    pub fn new(channels: usize) -> Self {
        let channels = (0..channels).map(|_| Channel::default()).collect();
        Self { channels, ..Self::default() }
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
        for &channel in to {
            let fate = Fate::Unknown;
            let publication = Publication { publisher, sent_at, fate, seen: false };
            self.channels[channel].publications.insert(id, publication);
        }
        self.payload_bytes.insert(id, padding);
        (id, payload(id, padding))
    }

    /// The publisher was told that the publication has its place.
    pub fn acknowledged(&mut self, channel: usize, id: u64) {
        self.acknowledged += 1;
        self.told(channel, id, Fate::Acknowledged);
    }

    /// The publisher was told that nothing was published.
    pub fn refused(&mut self, channel: usize, id: u64) {
        let seen = self.told(channel, id, Fate::Refused);
        assert!(!seen, "publication {id} was refused and delivered");
    }

    fn told(&mut self, channel: usize, id: u64, fate: Fate) -> bool {
        let publication = self.channels[channel].publications.get_mut(&id).expect("it was made");
        assert_eq!(publication.fate, Fate::Unknown, "publication {id} was answered twice");
        publication.fate = fate;
        publication.seen
    }

    /// A subscriber saw its grant.
    pub fn open(&mut self, channel: usize) -> Window {
        let opened_at = self.tick();
        Window {
            channel,
            opened_at,
            last: None,
            seen: BTreeSet::new(),
            last_of_publisher: BTreeMap::new(),
        }
    }

    /// A subscriber saw a publication.
    pub fn delivered(&mut self, window: &mut Window, text: &str) {
        self.deliveries += 1;
        let value: serde_json::Value = serde_json::from_str(text).expect("a payload is JSON");
        let id = value["id"].as_u64().expect("a payload has its number");
        let channel = &mut self.channels[window.channel];
        let Some(publication) = channel.publications.get_mut(&id) else {
            panic!("publication {id} is not of channel {}", window.channel);
        };
        assert_eq!(text, payload(id, self.payload_bytes[&id]), "the payload changed");
        assert_ne!(publication.fate, Fate::Refused, "publication {id} was refused and delivered");
        publication.seen = true;
        assert!(window.seen.insert(id), "publication {id} came twice");
        if let Some(last) = window.last.replace(id) {
            let after = *channel.after.entry(last).or_insert(id);
            assert_eq!(after, id, "two orders: what follows {last}");
            let before = *channel.before.entry(id).or_insert(last);
            assert_eq!(before, last, "two orders: what precedes {id}");
        }
        let publisher = publication.publisher;
        if let Some(last) = window.last_of_publisher.insert(publisher, id) {
            assert!(last < id, "{last} of publisher {publisher} came before {id}");
        }
    }

    /// Nothing is under way any more: a subscriber who is still there must have seen everything
    /// that was sent since its grant and was acknowledged to its publisher, or seen by anybody.
    pub fn complete(&self, window: &Window) {
        for (id, publication) in &self.channels[window.channel].publications {
            let due = publication.fate == Fate::Acknowledged || publication.seen;
            if due && publication.sent_at >= window.opened_at {
                assert!(
                    window.seen.contains(id),
                    "publication {id} never came in channel {}: {window:?}",
                    window.channel
                );
            }
        }
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
