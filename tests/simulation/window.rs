//! What one subscription of one client saw, from its grant on.

use std::collections::{BTreeMap, BTreeSet};

use super::stream::Stream;

/// One subscription from its client's side.
#[derive(Debug)]
pub struct Window {
    pub channel: usize,
    subscriber: usize,
    /// When its client asked for it: what was over by then is not for it.
    asked_at: u64,
    opened_at: u64,
    last: Option<u64>,
    seen: BTreeSet<u64>,
    last_of_publisher: BTreeMap<usize, u64>,
}

impl Window {
    pub fn new(channel: usize, subscriber: usize, asked_at: u64, opened_at: u64) -> Self {
        Self {
            channel,
            subscriber,
            asked_at,
            opened_at,
            last: None,
            seen: BTreeSet::new(),
            last_of_publisher: BTreeMap::new(),
        }
    }

    /// The subscriber saw a publication.
    pub fn delivered(&mut self, id: u64, stream: &mut Stream) {
        assert!(self.seen.insert(id), "publication {id} came twice");
        let publication = stream.delivered(id, self.last.replace(id));
        let over = publication.was_over(self.subscriber, self.asked_at);
        assert!(!over, "publication {id} was over before {self:?} was asked for");
        let publisher = publication.publisher;
        if let Some(last) = self.last_of_publisher.insert(publisher, id) {
            assert!(last < id, "{last} of publisher {publisher} came before {id}");
        }
    }

    /// Nothing is under way any more: a subscriber who is still there must have seen everything
    /// that was sent since its grant and was acknowledged to its publisher, or seen by anybody.
    pub fn complete(&self, stream: &Stream) {
        for id in stream.due(self.opened_at) {
            assert!(self.seen.contains(&id), "publication {id} never came: {self:?}");
        }
    }
}
