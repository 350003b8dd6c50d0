//! From a publication to the queues of this shard's subscribers.

use std::sync::Arc;

use super::{
    Core,
    overrun::{Bounds, Overrun, Taken},
};
use crate::{
    channels::SlowConsumer,
    frame::Tag,
    hub::{ConnRef, LocalId, Published},
    protocol::Name,
};

impl Core {
    /// Adds a publication to what this turn brings to a channel's subscribers.
    pub(super) fn deliver(&mut self, local: LocalId, published: &Arc<Published>) {
        let Some(channel) = self.local.channel_of(local) else { return };
        for list in 0..self.local.lists(channel) {
            if self.local.is_full(channel, list, published)
                && let Some(open) = self.local.open_at(channel, list)
            {
                self.seal(open);
            }
            self.local.append(channel, list, published);
            // Of these each is a segment of its own, so that the next one of its key can replace it.
            if self.local.key(channel, list).slow_consumer == SlowConsumer::Latest
                && let Some(open) = self.local.open_at(channel, list)
            {
                self.seal_as(open, published.key.clone());
            }
        }
    }

    /// Ends a segment and queues it for all members of its list. No send happens here: the walk makes
    /// no system call, and what it queues is sent in chunks by the flush.
    pub(super) fn seal(&mut self, open: usize) {
        self.seal_as(open, None);
    }

    fn seal_as(&mut self, open: usize, key: Option<Name>) {
        let Some(mut sealed) = self.local.seal(open) else { return };
        let bounds = Bounds::of(&self.process.settings);
        let policy = self.local.key(sealed.channel, sealed.list).slow_consumer;
        if policy != SlowConsumer::Disconnect {
            let LocalId { index: channel, generation } = self.local.id_of(sealed.channel);
            let publications = sealed.publications;
            sealed.range = sealed.range.tagged(Tag { channel, generation, key, publications });
        }
        let members = self.local.members(sealed.channel, sealed.list);
        self.counters.deliveries += members.len() as u64 * u64::from(sealed.publications);
        for member in members {
            let connection = self.slots.at(member.slot);
            debug_assert!(connection.is_open(), "closing leaves all channels first");
            if connection.slow {
                self.counters.slow_consumer_bytes_dropped += sealed.range.len() as u64;
                continue;
            }
            let conn = ConnRef { slot: member.slot, generation: connection.generation };
            let over = connection.writer.queued_bytes() > bounds.of_policy(policy);
            let waits = connection.overruns > 0;
            // Who lost its position has room again, and must get nothing from behind the gap.
            if over || waits {
                let overrun = Overrun { conn, sub: member.sub(), policy, bounds, over, waits };
                let state = &self.subscriptions;
                let taken = overrun.make_room(
                    &mut connection.writer,
                    &sealed.range,
                    &mut self.counters,
                    &mut self.overruns,
                    |sub| state.has_position(sub),
                );
                match taken {
                    Taken::Queue => {}
                    Taken::Not => continue,
                    Taken::Lost => {
                        connection.overruns += 1;
                        continue;
                    }
                    Taken::Close => {
                        connection.slow = true;
                        self.slow.push(conn);
                        self.counters.slow_consumer_bytes_dropped += sealed.range.len() as u64;
                        continue;
                    }
                }
            }
            connection.writer.push_shared(sealed.range.clone());
            if !connection.dirty {
                connection.dirty = true;
                self.dirty.push_back(member.slot);
            }
        }
    }

    /// Ends all segments of the turn.
    pub(super) fn seal_all(&mut self) {
        for open in 0..self.local.opened() {
            self.seal(open);
        }
        self.local.turn_ended();
    }
}
