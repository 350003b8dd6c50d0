//! What is known of one channel: its publications, what became of them, and their one order.
//!
//! Nobody outside the server knows the order. But each subscriber must see a part of it without
//! holes, so whenever anybody sees `b` right after `a`, nobody may ever see anything else after `a`
//! or before `b`.

use std::collections::{BTreeMap, BTreeSet};

use super::positions::Positions;

/// What the publisher was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Unknown,
    Acknowledged,
    Refused,
}

/// One publication of one channel.
#[derive(Debug)]
pub struct Publication {
    pub publisher: usize,
    pub sent_at: u64,
    /// What it stands for, where the newest is enough.
    key: &'static str,
    /// The subscriber that it is not for.
    pub except: Option<usize>,
    /// When its publisher was told that it has its place.
    acknowledged_at: Option<u64>,
    fate: Fate,
    seen: bool,
}

/// One channel from the outside.
#[derive(Default)]
pub struct Stream {
    publications: BTreeMap<u64, Publication>,
    after: BTreeMap<u64, u64>,
    before: BTreeMap<u64, u64>,
    /// Subscribers that do not get everything.
    excepted: BTreeSet<usize>,
    /// Where the channel has a history.
    pub positions: Positions,
}

impl Stream {
    /// Somebody published.
    pub fn sent(&mut self, id: u64, publisher: usize, except: Option<usize>, sent_at: u64) {
        let (key, acknowledged_at, fate, seen) = ("", None, Fate::Unknown, false);
        let publication =
            Publication { publisher, sent_at, key, except, acknowledged_at, fate, seen };
        self.excepted.extend(except);
        self.publications.insert(id, publication);
    }

    /// It has a key.
    pub fn keyed(&mut self, id: u64, key: &'static str) {
        self.publications.get_mut(&id).expect("it was made").key = key;
    }

    /// Whether one publication may have come in the place of another one of its key: nothing that
    /// is known says that it was before it.
    pub fn may_overtake(&self, newer: u64, older: u64) -> bool {
        let (new, old) = (&self.publications[&newer], &self.publications[&older]);
        new.key == old.key
            && (new.publisher != old.publisher || newer > older)
            && new.acknowledged_at.is_none_or(|at| at >= old.sent_at)
    }

    /// The publisher was told that the publication has its place.
    pub fn acknowledged(&mut self, id: u64, now: u64) {
        self.told(id, Fate::Acknowledged).acknowledged_at = Some(now);
    }

    /// The publisher was told that nothing was published.
    pub fn refused(&mut self, id: u64) {
        let seen = self.told(id, Fate::Refused).seen;
        assert!(!seen, "publication {id} was refused and delivered");
    }

    fn told(&mut self, id: u64, fate: Fate) -> &mut Publication {
        let publication = self.publications.get_mut(&id).expect("it was made");
        assert_eq!(publication.fate, Fate::Unknown, "publication {id} was answered twice");
        publication.fate = fate;
        publication
    }

    /// Somebody saw a publication, and right before it `last`.
    pub fn delivered(&mut self, id: u64, last: Option<u64>) -> &Publication {
        if let Some(last) = last {
            let after = *self.after.entry(last).or_insert(id);
            assert_eq!(after, id, "two orders: what follows {last}");
            let before = *self.before.entry(id).or_insert(last);
            assert_eq!(before, last, "two orders: what precedes {id}");
        }
        let Some(publication) = self.publications.get_mut(&id) else {
            panic!("publication {id} is not of this channel");
        };
        assert_ne!(publication.fate, Fate::Refused, "publication {id} was refused and delivered");
        publication.seen = true;
        publication
    }

    pub fn publisher(&self, id: u64) -> usize {
        self.publications[&id].publisher
    }

    /// Whether there is something that is not for a subscriber: what it sees has holes.
    pub fn excepts(&self, subscriber: usize) -> bool {
        self.excepted.contains(&subscriber)
    }

    /// Publications that a subscriber must get that subscribed before `since`, and has.
    pub fn due(&self, subscriber: usize, since: u64) -> impl Iterator<Item = u64> {
        let due = move |publication: &Publication| {
            let published = publication.fate == Fate::Acknowledged || publication.seen;
            published && publication.sent_at >= since && publication.except != Some(subscriber)
        };
        self.publications.iter().filter(move |(_, known)| due(known)).map(|(id, _)| *id)
    }
}

impl Publication {
    /// Whether it had its place before `asker` asked for its subscription: by what its publisher
    /// was told, or because the asker published it itself, on the same connection.
    pub fn was_over(&self, asker: usize, asked_at: u64) -> bool {
        self.acknowledged_at.is_some_and(|at| at < asked_at)
            || self.publisher == asker && self.sent_at < asked_at
    }
}
