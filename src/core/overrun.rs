//! What happens to a receiver that reads more slowly than its channels are published to.
//!
//! By the channel's policy it is closed, loses the oldest publications that wait for it, or keeps
//! the newest per key. A subscription with a position loses all that waits of its channel and is
//! told to recover instead: nothing from behind the gap may reach its client, which would take the
//! newest offset that it saw for its position.

use std::collections::VecDeque;

use super::{Core, settings::Settings, writer::Writer};
use crate::{
    channels::SlowConsumer,
    frame::{Range, Tag},
    hub::{ConnRef, LocalId},
    metrics::Counters,
    mutations::{self, Mutation},
};

/// From which part of a queue's bound on the newest publication per key is enough.
const LATEST_SHARE: usize = 16;

/// How much may wait for a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    queue_bytes_max: usize,
}

impl Bounds {
    pub(super) fn of(settings: &Settings) -> Self {
        Self { queue_bytes_max: settings.queue_bytes_max }
    }

    /// Bytes beyond which a receiver is slow.
    pub(super) fn of_policy(self, policy: SlowConsumer) -> usize {
        match policy {
            SlowConsumer::Disconnect | SlowConsumer::DropOldest => self.queue_bytes_max,
            SlowConsumer::Latest => self.queue_bytes_max / LATEST_SHARE,
        }
    }
}

/// A publication comes for a receiver for which too much waits already, or did before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overrun {
    pub(super) conn: ConnRef,
    pub(super) sub: u32,
    pub(super) policy: SlowConsumer,
    pub(super) bounds: Bounds,
    /// Too much waits now.
    pub(super) over: bool,
    /// Some subscription of the connection has lost its position already.
    pub(super) waits: bool,
}

/// What becomes of the publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is queued: room was made.
    Queue,
    /// The subscription has lost its position before; its client recovers this too.
    Not,
    /// The subscription loses its position now.
    Lost,
    /// There is no other way than to close.
    Close,
}

/// A subscription whose client must recover: connection and channel.
pub(super) type Lost = VecDeque<(ConnRef, LocalId)>;

/// The channel that something waits of.
pub(super) fn tagged(tag: &Tag) -> LocalId {
    LocalId { index: tag.channel, generation: tag.generation }
}

impl Overrun {
    /// Makes room in the queue, as far as the channel's policy allows. `has_position` says whether
    /// the client of a subscription recovers what it misses.
    pub(super) fn make_room(
        self,
        writer: &mut Writer,
        coming: &Range,
        counters: &mut Counters,
        lost: &mut Lost,
        has_position: impl Fn(u32) -> bool,
    ) -> Taken {
        let Some(tag) = coming.segment.tag() else {
            return if self.over { Taken::Close } else { Taken::Queue };
        };
        let channel = tagged(tag);
        if self.waits && lost.contains(&(self.conn, channel)) {
            counters.slow_consumer_bytes_dropped += coming.len() as u64;
            return Taken::Not;
        }
        if !self.over {
            return Taken::Queue;
        }
        let of_channel = |waiting: &Tag| tagged(waiting) == channel;
        if has_position(self.sub) {
            counters.slow_consumer_bytes_dropped +=
                (writer.drop_tagged(usize::MAX, of_channel).bytes + coming.len()) as u64;
            lost.push_back((self.conn, channel));
            return Taken::Lost;
        }
        let dropped = match self.policy {
            SlowConsumer::Disconnect => return Taken::Close,
            SlowConsumer::DropOldest => {
                let excess = writer.queued_bytes() - self.bounds.queue_bytes_max * 3 / 4;
                // What waits of other channels with a position is theirs to lose, by their own overrun.
                writer.drop_tagged(excess, of_channel)
            }
            SlowConsumer::Latest => writer.drop_tagged(usize::MAX, |waiting| {
                let every = mutations::is_on(Mutation::OvertakesEveryKey);
                of_channel(waiting) && (every || waiting.key == tag.key)
            }),
        };
        if counters.publications_overtaken == 0 || !mutations::is_on(Mutation::FreezesOvertaken) {
            counters.publications_overtaken += u64::from(dropped.publications);
        }
        counters.slow_consumer_bytes_dropped += dropped.bytes as u64;
        if writer.queued_bytes() > self.bounds.queue_bytes_max {
            Taken::Close
        } else {
            Taken::Queue
        }
    }
}

impl Core {
    /// Takes one out of its channel that has lost its position there; false when there is none.
    pub(super) fn lose_overrun(&mut self) -> bool {
        let Some(&(conn, channel)) = self.overruns.front() else { return false };
        if let Some(connection) = self.slots.get(conn).filter(|c| c.is_open()) {
            let first = connection.first_subscription;
            let known = self.local.channel_of(channel);
            let sub = known.and_then(|channel| self.local.find_in(first, channel));
            // One that is not active yet is the next attempt: its grant says where it begins.
            if let Some(sub) = sub.filter(|sub| self.local.is_active(*sub)) {
                self.lose(conn, sub);
            }
            self.slots.at(conn.slot).overruns -= 1;
        }
        // Not before: leaving ends the channel's segment, which must not be queued for it either.
        self.overruns.pop_front();
        true
    }
}
