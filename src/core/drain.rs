//! The end of a shard: publishes refused, what was acknowledged delivered, then everybody closed.
//!
//! A publication makes two hops (publisher to home, home to subscribers), so two rounds of markers
//! behind everything on all links prove that none is under way.

use super::{Core, LinkMessage};
use crate::{
    codes::CloseReason,
    hub::{ConnRef, ShardId, ToHome},
    limits::bound,
    mutations::{self, Mutation},
    protocol::Now,
};

/// Connections closed in one flush.
const CLOSES_PER_FLUSH: u32 = bound(256, 8) as u32;

/// How far the drain of this shard is.
#[derive(Debug, Default)]
pub(super) struct Drain {
    begun: bool,
    /// The first round is due as soon as nothing waits for its turn in front of it.
    marks: bool,
    /// Markers of each round that came from other shards.
    markers: [usize; 2],
    sent: [bool; 2],
    /// The next slot to close, once closing began.
    closing: Option<u32>,
}

impl Drain {
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether all first markers of the `others` are here and the second round is to be sent.
    fn owes_second_round(&self, others: usize) -> bool {
        let all = self.markers[0] == others || mutations::is_on(Mutation::MarksOnce);
        self.sent[0] && all && !self.sent[1]
    }

    fn is_quiet(&self, others: usize) -> bool {
        self.markers[1] == others && self.sent[1]
    }
}

impl Core {
    /// Refuses publishes and new connections from here on.
    pub fn drain_begin(&mut self) {
        self.drain.begun = true;
    }

    /// Sends the first round of markers, behind what backends publish that waits for its turn;
    /// all shards refuse publishes by now.
    pub fn drain_mark(&mut self) {
        self.drain.marks = true;
        self.mark_behind_publications();
    }

    /// Sends the first round of markers when it is due.
    pub(super) fn mark_behind_publications(&mut self) {
        if self.drain.marks && self.later.is_empty() {
            self.drain.marks = false;
            self.send_markers(0);
            self.markers_progress();
        }
    }

    /// Whether nothing that was acknowledged is still between the shards.
    pub fn drain_is_quiet(&self) -> bool {
        self.drain.is_quiet(self.process.shards - 1)
    }

    /// Begins to close every connection with 3001, a bounded number per flush; watch streams each
    /// at a time of its own.
    pub fn drain_close(&mut self) {
        self.drain.closing = Some(0);
    }

    pub(super) fn marker(&mut self, round: u8) {
        self.drain.markers[usize::from(round)] += 1;
        self.markers_progress();
    }

    fn markers_progress(&mut self) {
        if self.drain.owes_second_round(self.process.shards - 1) {
            self.send_markers(1);
        }
    }

    fn send_markers(&mut self, round: u8) {
        self.drain.sent[usize::from(round)] = true;
        let own = self.shard;
        for shard in (0..self.process.shards as ShardId).filter(|&shard| shard != own) {
            self.push(shard, LinkMessage::ToHome(ToHome::Marker(round)));
        }
    }

    pub(super) fn is_closing_all(&self) -> bool {
        self.drain.closing.is_some()
    }

    pub(super) fn close_some(&mut self, now: Now) {
        let Some(from) = self.drain.closing else { return };
        let to = self.slots.end().min(from + CLOSES_PER_FLUSH);
        for slot in from..to {
            let conn = ConnRef { slot, generation: self.slots.at(slot).generation };
            if !self.leaves_later(now, conn) {
                self.close(now, conn, CloseReason::SHUTDOWN);
            }
        }
        self.drain.closing = (to < self.slots.end()).then_some(to);
        self.settle(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain() -> Drain {
        Drain { begun: true, ..Drain::default() }
    }

    #[test]
    fn the_second_round_follows_all_markers_of_the_first() {
        let mut drain = drain();
        drain.markers[0] = 2;
        assert!(!drain.owes_second_round(2), "its own first round comes first");
        drain.sent[0] = true;
        drain.markers[0] = 1;
        assert!(!drain.owes_second_round(2));
        drain.markers[0] = 2;
        assert!(drain.owes_second_round(2));
        drain.sent[1] = true;
        assert!(!drain.owes_second_round(2), "once");
        assert!(!drain.is_quiet(2));
        drain.markers[1] = 2;
        assert!(drain.is_quiet(2));
    }

    #[test]
    fn a_lone_shard_is_quiet_as_soon_as_it_marks() {
        let mut drain = drain();
        drain.sent[0] = true;
        assert!(drain.owes_second_round(0) && !drain.is_quiet(0));
        drain.sent[1] = true;
        assert!(drain.is_quiet(0));
    }
}
