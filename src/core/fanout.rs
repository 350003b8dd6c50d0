//! From a publication to the queues of this shard's subscribers.

use std::sync::Arc;

use super::{
    Core,
    overrun::{Bounds, Overrun, Taken},
};
use crate::{
    channels::SlowConsumer,
    frame::Tag,
    hub::{ConnRef, HomeAnswer, LocalId, Published},
    protocol::{Delivery, Name},
};

impl Core {
    /// Adds a publication to what this turn brings to a channel's subscribers.
    pub(super) fn deliver(&mut self, local: LocalId, published: &Arc<Published>) {
        let handling = published.handling.as_deref();
        let mut delivery = Delivery::default();
        if let Some(channel) = self.local.channel_of(local) {
            delivery = self.deliver_to_lists(channel, published);
        }
        if let Some((shard, reply)) = handling.and_then(|handling| handling.report) {
            self.reply(shard, reply, HomeAnswer::Delivered(delivery));
        }
    }

    /// Returns who got it, where that is counted.
    fn deliver_to_lists(&mut self, channel: u32, published: &Arc<Published>) -> Delivery {
        let handling = published.handling.as_deref();
        let except = handling.and_then(|handling| handling.except);
        let except = except.filter(|(shard, _)| *shard == self.shard).map(|(_, conn)| conn);
        let mut delivery = Delivery::default();
        for list in 0..self.local.lists(channel) {
            // What is for some, or counted, is a segment of its own.
            if (handling.is_some() || self.local.is_full(channel, list, published))
                && let Some(open) = self.local.open_at(channel, list)
            {
                self.seal(open);
            }
            self.local.append(channel, list, published);
            // Of these each is a segment of its own, so that the next one of its key can replace it.
            let latest = self.local.key(channel, list).slow_consumer == SlowConsumer::Latest;
            if (latest || handling.is_some())
                && let Some(open) = self.local.open_at(channel, list)
            {
                delivery.add(self.seal_as(open, published.key.clone(), except));
            }
        }
        delivery
    }

    /// Ends a segment and queues it for all members of its list. No send happens here: the walk makes
    /// no system call, and what it queues is sent in chunks by the flush.
    pub(super) fn seal(&mut self, open: usize) {
        self.seal_as(open, None, None);
    }

    /// Returns how many members it was queued for, and how many not; `except` is none of either.
    fn seal_as(&mut self, open: usize, key: Option<Name>, except: Option<ConnRef>) -> Delivery {
        let Some(mut sealed) = self.local.seal(open) else { return Delivery::default() };
        let bounds = Bounds::of(&self.process.settings);
        let policy = self.local.key(sealed.channel, sealed.list).slow_consumer;
        if policy != SlowConsumer::Disconnect {
            let LocalId { index: channel, generation } = self.local.id_of(sealed.channel);
            let publications = sealed.publications;
            sealed.range = sealed.range.tagged(Tag { channel, generation, key, publications });
        }
        let members = self.local.members(sealed.channel, sealed.list);
        let (mut failed, mut left_out) = (0, 0);
        for member in members {
            let connection = self.slots.at(member.slot);
            debug_assert!(connection.is_open(), "closing leaves all channels first");
            let conn = ConnRef { slot: member.slot, generation: connection.generation };
            if except == Some(conn) {
                left_out = 1;
                continue;
            }
            if connection.slow {
                failed += 1;
                self.counters.slow_consumer_bytes_dropped += sealed.range.len() as u64;
                continue;
            }
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
                failed += u32::from(taken != Taken::Queue);
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
        let meant = members.len() as u32 - left_out;
        self.counters.deliveries += u64::from(meant) * u64::from(sealed.publications);
        Delivery { queued: meant - failed, failed }
    }

    /// Ends all segments of the turn.
    pub(super) fn seal_all(&mut self) {
        for open in 0..self.local.opened() {
            self.seal(open);
        }
        self.local.turn_ended();
    }
}
