//! What one subscription of one client saw, from its grant on.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    expiry::{Clocks, Expiry},
    members::Members,
    positions::Position,
    stream::Stream,
};

/// What a subscription is promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Everything: its channel keeps nothing, and a link that is full refuses publications.
    Everything,
    /// Everything from behind this place of the stream on, which moves with what it sees; or to be
    /// told that something is missing.
    From(Position),
    /// What comes through; a link that is full leaves publications out, and counts them.
    WhatComes,
}

/// One subscription from its client's side.
#[derive(Debug)]
pub struct Window {
    pub channel: usize,
    pub subscriber: usize,
    /// When its client asked for it: what was over by then is not for it.
    pub asked_at: u64,
    pub opened_at: u64,
    pub promise: Promise,
    /// Who comes and goes, if it asked for that.
    pub members: Option<Members>,
    /// When it must have been refreshed, if ever.
    pub expiry: Option<Expiry>,
    /// The server made it, its client did not ask.
    pub server_side: bool,
    last: Option<u64>,
    last_offset: u64,
    seen: BTreeSet<u64>,
    last_of_publisher: BTreeMap<usize, u64>,
}

impl Window {
    pub fn new(
        channel: usize,
        subscriber: usize,
        asked_at: u64,
        opened_at: u64,
        promise: Promise,
    ) -> Self {
        Self {
            channel,
            subscriber,
            asked_at,
            opened_at,
            promise,
            members: None,
            expiry: None,
            server_side: false,
            last: None,
            last_offset: 0,
            seen: BTreeSet::new(),
            last_of_publisher: BTreeMap::new(),
        }
    }

    /// Where it is in the stream, if it knows.
    pub fn position(&self) -> Option<&Position> {
        if let Promise::From(position) = &self.promise { Some(position) } else { None }
    }

    /// Whether it was not refreshed in time.
    pub fn is_over(&self, clocks: &Clocks) -> bool {
        self.expiry.is_some_and(|expiry| clocks.is_over(expiry))
    }

    /// The subscriber saw a publication, with that offset if it has one; whether one was left out
    /// before it.
    pub fn delivered(&mut self, id: u64, offset: u64, stream: &mut Stream) -> bool {
        let last = self.last.replace(id);
        let all = self.promise == Promise::Everything && !stream.excepts(self.subscriber);
        let publication = stream.delivered(id, last.filter(|_| all));
        assert_ne!(publication.except, Some(self.subscriber), "publication {id} is for others");
        let over = publication.was_over(self.subscriber, self.asked_at);
        assert!(!over, "publication {id} was over before {self:?} was asked for");
        let last_offset = std::mem::replace(&mut self.last_offset, offset);
        match &mut self.promise {
            Promise::Everything => assert_eq!(offset, 0, "an offset in a channel without history"),
            Promise::From(position) => {
                assert_eq!(offset, position.offset + 1, "{id} came behind {position:?}");
                position.offset = offset;
                stream.positions.placed(id, position);
            }
            Promise::WhatComes => {
                assert!(offset == 0 || offset > last_offset, "{offset} behind {last_offset}");
            }
        }
        self.take(id, stream);
        last_offset != 0 && offset > last_offset + 1
    }

    /// The subscriber got what it missed, before everything else: a publication of that offset.
    pub fn recovered(&mut self, id: u64, offset: u64, stream: &mut Stream) {
        let position = self.position().expect("who recovers has a position");
        let at = Position { offset, ..position.clone() };
        stream.delivered(id, None);
        stream.positions.placed(id, &at);
        self.take(id, stream);
    }

    fn take(&mut self, id: u64, stream: &Stream) {
        assert!(self.seen.insert(id), "publication {id} came twice");
        let publisher = stream.publisher(id);
        if let Some(last) = self.last_of_publisher.insert(publisher, id) {
            assert!(last < id, "{last} of publisher {publisher} came before {id}");
        }
    }

    /// Nothing is under way any more: a subscriber who is still there must have seen everything
    /// that was sent since its grant and was acknowledged to its publisher, or seen by anybody.
    /// How many it has not, where it was not promised that.
    pub fn complete(&self, stream: &Stream) -> u64 {
        let mut missed = 0;
        for id in self.missed(stream) {
            assert_eq!(self.promise, Promise::WhatComes, "publication {id} never came: {self:?}");
            missed += 1;
        }
        missed
    }

    /// Where only newer ones of its key overtake a publication: the newest of every key came.
    pub fn has_newest(&self, stream: &Stream) {
        for id in self.missed(stream) {
            let overtaken = self.seen.iter().any(|seen| stream.may_overtake(*seen, id));
            assert!(overtaken, "nothing of its key overtook {id}, which never came: {self:?}");
        }
    }

    fn missed(&self, stream: &Stream) -> impl Iterator<Item = u64> {
        stream.due(self.subscriber, self.opened_at).filter(|id| !self.seen.contains(id))
    }
}
