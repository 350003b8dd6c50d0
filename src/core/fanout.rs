//! From a publication to the queues of this shard's subscribers.

use std::sync::Arc;

use super::Core;
use crate::hub::{ConnRef, LocalId, Published};

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
        }
    }

    /// Ends a segment and queues it for all members of its list. No send happens here: the walk makes
    /// no system call, and what it queues is sent in chunks by the flush.
    pub(super) fn seal(&mut self, open: usize) {
        let Some(sealed) = self.local.seal(open) else { return };
        let queue_bytes_max = self.process.settings.queue_bytes_max;
        let members = self.local.members(sealed.channel, sealed.list);
        self.counters.deliveries += members.len() as u64 * u64::from(sealed.publications);
        for member in members {
            let connection = self.slots.at(member.slot);
            debug_assert!(connection.is_open(), "closing leaves all channels first");
            if connection.slow {
                self.counters.slow_consumer_bytes_dropped += sealed.range.len() as u64;
                continue;
            }
            if connection.writer.queued_bytes() > queue_bytes_max {
                connection.slow = true;
                let generation = connection.generation;
                self.slow.push(ConnRef { slot: member.slot, generation });
                self.counters.slow_consumer_bytes_dropped += sealed.range.len() as u64;
                continue;
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
