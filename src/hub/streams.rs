//! The histories of all channels that live on this shard: positions, and publications kept.
//!
//! A channel has a stream from its first subscribe or publication on. Offsets count from 1 without
//! a hole; the epoch says which stream they count in. What is kept of a stream is always the newest
//! publications, as many as there are: whoever recovers gets all that it missed, or nothing
//! (centrifugal.dev `docs/server/history_and_recovery.md`; the memory engine is centrifuge
//! `broker_memory.go`).
//!
//! # What goes, and when
//!
//! | what | when |
//! |---|---|
//! | the oldest entry | there are more than `history_size`, at a publication |
//! | all entries | `history_ttl` after the newest publication; [`Streams::remove`] |
//! | the position: the next use begins a new epoch | `history_meta_ttl` after the last; not while somebody subscribes |
//!
//! # When there is no room
//!
//! Entries, names and records together take at most `bytes_max`. For what is new, room is made:
//! the stream that was published to least recently loses its oldest entries, then the next one;
//! positions stay. Streams without entries and subscribers are forgotten instead, least recently
//! used first, while they take more than a quarter of `bytes_max`, or when no entries are left: so
//! names that are used once cannot displace what is kept for others, nor pile up. The records of
//! channels with subscribers cannot go: a shard whose channels need more than `bytes_max` for them
//! keeps nothing. A publication that does not fit into `bytes_max` alone is not kept, and neither
//! is what was before it.

mod epoch;
mod slots;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

pub use self::epoch::Epoch;
use self::{
    slots::{Chain, Slots},
    stream::Stream,
};
use super::{HashKey, ShardId};
use crate::{
    channels::{ChannelOptions, RecoveryMode},
    mutations::{self, Mutation},
    protocol::{ErrorCode, Name},
};

/// Streams looked at and entries dropped by one [`Streams::expire`], but for the last stream's.
const EXPIRE_WORK_MAX: usize = 1_024;

/// A place in a channel's stream: after the publication with this offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Offset of a publication; 0 before the first.
    pub offset: u64,
    /// The stream.
    pub epoch: Epoch,
}

/// The position that a peer says it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since<'a> {
    /// Offset of the last publication that it saw; 0: none.
    pub offset: u64,
    /// The text of the epoch; empty stands for any.
    pub epoch: &'a str,
}

/// What holds for the history of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryOptions {
    /// Publications kept; 0 keeps none.
    pub size: usize,
    /// Milliseconds for which they are kept after the last one.
    pub ttl_ms: u64,
    /// Milliseconds for which the position is kept after its last use.
    pub meta_ttl_ms: u64,
}

impl HistoryOptions {
    /// From a channel's options and [`Channels::history_meta_ttl`](crate::channels::Channels),
    /// which theirs, if it is not zero, overrides. A position lives as long as its entries at least.
    pub fn new(options: &ChannelOptions, history_meta_ttl: Duration) -> Self {
        let own = options.history_meta_ttl;
        let meta_ttl = if own.is_zero() { history_meta_ttl } else { own };
        let ms = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        Self {
            size: options.history_size,
            ttl_ms: ms(options.history_ttl),
            meta_ttl_ms: ms(meta_ttl.max(options.history_ttl)),
        }
    }
}

/// The publisher's own number of the state that a publication carries (centrifuge `PublishOptions`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version<'a> {
    /// Grows; 0: the publication has no version.
    pub number: u64,
    /// What the number counts in; empty stands for that of the version before.
    pub epoch: &'a str,
}

impl Version<'_> {
    /// No version: every publication is published.
    pub const NONE: Self = Self { number: 0, epoch: "" };
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// It is the newest of its channel and has this position.
    New(Position),
    /// Its version is not above the stream's: nothing is to be published, and this is where the
    /// stream stands. The publisher is answered as if it had been.
    Suppressed(Position),
}

/// A publication that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its offset.
    pub offset: u64,
    /// It, encoded.
    pub bytes: Bytes,
}

/// What one recovery may bring: below what the subscriber's queue takes, or it is closed for what
/// it recovered and recovers again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryBounds {
    /// Publications.
    pub count_max: usize,
    /// Bytes of their encodings together.
    pub bytes_max: usize,
}

/// What a subscriber that was away gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// All that it missed, oldest first; with [`RecoveryMode::Cache`] the newest publication unless
    /// it has that. `None`: it cannot recover.
    pub entries: Option<Vec<Entry>>,
    /// Where the stream stands: publications behind this are not among the entries.
    pub position: Position,
}

/// Which part of a history is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryFilter<'a> {
    /// At most this many publications; 0 asks for the position alone, `None` for all.
    pub limit: Option<usize>,
    /// Only publications after this position; with `reverse`, before it.
    pub since: Option<Since<'a>>,
    /// Newest first.
    pub reverse: bool,
}

/// What there is, and what was lost for want of room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Streams.
    pub streams: usize,
    /// Publications kept.
    pub entries: usize,
    /// Bytes that all of it takes.
    pub bytes: usize,
    /// Publications that went because there was no room, since the start.
    pub entries_evicted: u64,
    /// Positions that were forgotten because there was no room, since the start.
    pub streams_evicted: u64,
}

/// The streams of one home.
#[derive(Debug)]
pub struct Streams {
    names: HashMap<Name, u32, HashKey>,
    slots: Slots,
    /// When to look at which stream: its `look_ms`.
    deadlines: BTreeSet<(u64, u32)>,
    shard: ShardId,
    prefix: Arc<str>,
    epochs: u64,
    bytes_max: usize,
    /// Bytes of the streams that are in [`Chain::Idle`].
    idle_bytes: usize,
    counts: StreamCounts,
}

impl Streams {
    /// No streams, and room for `bytes_max` bytes of them.
    ///
    /// `prefix` begins the text of every epoch: random per process, so that no epoch of an earlier
    /// one comes back; letters and digits, since it stands in JSON as it is.
    pub fn new(key: HashKey, shard: ShardId, prefix: Arc<str>, bytes_max: usize) -> Self {
        Self {
            names: HashMap::with_hasher(key),
            slots: Slots::default(),
            deadlines: BTreeSet::new(),
            shard,
            prefix,
            epochs: 0,
            bytes_max,
            idle_bytes: 0,
            counts: StreamCounts::default(),
        }
    }

    /// What begins the text of every epoch.
    pub fn prefix(&self) -> &Arc<str> {
        &self.prefix
    }

    /// Gives a publication its position and keeps what `encode` makes of it.
    ///
    /// With a version that is not above the stream's nothing happens and `encode` is not called.
    pub fn publish(
        &mut self,
        now_ms: u64,
        channel: &Name,
        options: HistoryOptions,
        version: Version<'_>,
        encode: impl FnOnce(Position) -> Bytes,
    ) -> Placement {
        let slot = self.open(now_ms, channel, options);
        if version.number > 0 && self.slots[slot].outdates(version) {
            self.change(slot, false, |stream| stream.touch(now_ms, options));
            return Placement::Suppressed(self.slots[slot].position());
        }
        let bytes_max = self.bytes_max;
        let position = self.change(slot, true, |stream| {
            if version.number > 0 {
                stream.set_version(version);
            }
            stream.publish(now_ms, options, bytes_max, encode)
        });
        self.make_room(0);
        Placement::New(position)
    }

    /// Where the stream stands; a new one stands at offset 0.
    pub fn position(&mut self, now_ms: u64, channel: &Name, options: HistoryOptions) -> Position {
        let slot = self.use_by_reader(now_ms, channel, options);
        self.slots[slot].position()
    }

    /// Somebody subscribes from now on: the position is kept until [`Streams::unpin`].
    pub fn pin(&mut self, now_ms: u64, channel: &Name, options: HistoryOptions) -> Position {
        let slot = self.use_by_reader(now_ms, channel, options);
        self.change(slot, false, |stream| stream.pinned = true);
        self.slots[slot].position()
    }

    /// Nobody subscribes any more, however often the channel was pinned.
    pub fn unpin(&mut self, now_ms: u64, channel: &str) {
        if let Some(&slot) = self.names.get(channel) {
            self.change(slot, false, |stream| stream.unpin(now_ms));
            self.make_room(0);
        }
    }

    /// What a subscriber missed since a position: all of it, or nothing.
    ///
    /// With [`RecoveryMode::Stream`] it cannot recover when the epoch is another one, the offset is
    /// above the stream's, something after it is not kept any more, or the bounds are exceeded.
    /// With [`RecoveryMode::Cache`] the newest publication is enough, of whatever epoch; nothing is
    /// needed by who has it.
    pub fn recover(
        &mut self,
        now_ms: u64,
        channel: &Name,
        options: HistoryOptions,
        since: Since<'_>,
        mode: RecoveryMode,
        bounds: RecoveryBounds,
    ) -> Recovered {
        let slot = self.use_by_reader(now_ms, channel, options);
        let stream = &self.slots[slot];
        let entries = stream.recover(&self.prefix, since, mode, bounds);
        Recovered { entries, position: stream.position() }
    }

    /// A part of what is kept, and where the stream stands (centrifuge `Node.History`).
    ///
    /// Unlike a recovery this is whatever there is: after a position that is too old it begins with
    /// the oldest publication kept; before one, the publication next to it must be kept.
    ///
    /// # Errors
    /// [`ErrorCode::UNRECOVERABLE_POSITION`]: the position is of another epoch.
    /// [`ErrorCode::BAD_REQUEST`]: there is nothing before offset 0.
    pub fn read(
        &mut self,
        now_ms: u64,
        channel: &Name,
        options: HistoryOptions,
        filter: HistoryFilter<'_>,
    ) -> Result<(Vec<Entry>, Position), ErrorCode> {
        let slot = self.use_by_reader(now_ms, channel, options);
        let stream = &self.slots[slot];
        Ok((stream.read(&self.prefix, filter)?, stream.position()))
    }

    /// Lets the channel's entries go. Offset, epoch and version stay, as in centrifuge.
    pub fn remove(&mut self, channel: &str) {
        if let Some(&slot) = self.names.get(channel) {
            self.change(slot, false, Stream::clear);
        }
    }

    /// Lets go what is over at `now_ms`; `true`: there is more, come back in the next turn.
    ///
    /// Nobody sees what is over, also before this was called: it frees memory.
    pub fn expire(&mut self, now_ms: u64) -> bool {
        let mut work = 0;
        while let Some(&(look_ms, slot)) = self.deadlines.first()
            && look_ms <= now_ms
        {
            if work >= EXPIRE_WORK_MAX {
                return true;
            }
            self.deadlines.pop_first();
            self.slots[slot].look_ms = u64::MAX;
            work += 1 + self.slots[slot].entries();
            if self.refresh(now_ms, slot) {
                work -= self.slots[slot].entries();
                self.schedule(slot);
            }
        }
        false
    }

    /// When [`Streams::expire`] may find something to do; early by design, never late.
    pub fn next_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(look_ms, _)| *look_ms)
    }

    /// Where a channel's stream stands and how many publications are kept, to be checked by tests.
    pub fn kept(&self, channel: &str) -> Option<(Position, usize)> {
        let stream = &self.slots[*self.names.get(channel)?];
        Some((stream.position(), stream.entries()))
    }

    /// What there is, and what was lost for want of room.
    pub fn counts(&self) -> StreamCounts {
        self.counts
    }

    /// The channel's stream, a new one if there is none; somebody asked for its position.
    fn use_by_reader(&mut self, now_ms: u64, channel: &Name, options: HistoryOptions) -> u32 {
        let slot = self.open(now_ms, channel, options);
        self.change(slot, false, |stream| stream.touch(now_ms, options));
        slot
    }

    /// The channel's stream as of `now_ms`, a new one if there is none.
    fn open(&mut self, now_ms: u64, channel: &Name, options: HistoryOptions) -> u32 {
        if let Some(&slot) = self.names.get(channel)
            && self.refresh(now_ms, slot)
        {
            return slot;
        }
        let bytes = Stream::record_bytes_of(channel);
        self.make_room(bytes);
        let epoch = Epoch::new(self.shard, self.epochs);
        self.epochs += u64::from(!mutations::is_on(Mutation::RepeatsEpoch));
        let slot = self.slots.insert(Stream::new(Arc::clone(channel), epoch));
        self.names.insert(Arc::clone(channel), slot);
        self.counts.bytes += bytes;
        self.counts.streams = self.slots.len();
        self.change(slot, false, |stream| stream.touch(now_ms, options));
        slot
    }

    /// Lets go what of a stream is over; `false`: all of it.
    fn refresh(&mut self, now_ms: u64, slot: u32) -> bool {
        if self.slots[slot].is_to_forget(now_ms) {
            self.forget(slot);
            return false;
        }
        if self.slots[slot].has_expired(now_ms) {
            self.change(slot, false, Stream::clear);
        }
        true
    }

    /// Changes a stream, and all that is known about it elsewhere accordingly.
    fn change<T>(
        &mut self,
        slot: u32,
        published: bool,
        change: impl FnOnce(&mut Stream) -> T,
    ) -> T {
        let chain_before = self.slots.chain(slot);
        let stream = &mut self.slots[slot];
        self.counts.bytes -= stream.cost_bytes();
        self.counts.entries -= stream.entries();
        if chain_before == Some(Chain::Idle) {
            self.idle_bytes -= stream.record_bytes();
        }
        let result = change(stream);
        self.counts.bytes += stream.cost_bytes();
        self.counts.entries += stream.entries();
        let chain = stream.chain();
        if chain == Some(Chain::Idle) {
            self.idle_bytes += stream.record_bytes();
        }
        if published || chain != chain_before || chain == Some(Chain::Idle) {
            self.slots.move_to(slot, chain);
        }
        self.schedule(slot);
        result
    }

    /// Sees to it that the stream is looked at when it is due.
    fn schedule(&mut self, slot: u32) {
        let stream = &mut self.slots[slot];
        let due_ms = stream.due_ms();
        if due_ms < stream.look_ms {
            self.deadlines.remove(&(stream.look_ms, slot));
            self.deadlines.insert((due_ms, slot));
            stream.look_ms = due_ms;
        }
    }

    /// Makes room for `bytes` more, as far as there is something to let go.
    fn make_room(&mut self, bytes: usize) {
        while self.counts.bytes + bytes > self.bytes_max
            && !mutations::is_on(Mutation::KeepsBeyondBytes)
        {
            let kept = self.slots.first(Chain::Kept);
            let crowded = kept.is_none() || self.idle_bytes > self.bytes_max / 4;
            if let Some(slot) = self.slots.first(Chain::Idle).filter(|_| crowded) {
                self.forget(slot);
                self.counts.streams_evicted += 1;
            } else if let Some(slot) = kept {
                self.change(slot, false, Stream::drop_oldest);
                self.counts.entries_evicted += 1;
            } else {
                break;
            }
        }
    }

    /// Lets a stream go: its channel's next one has another epoch.
    fn forget(&mut self, slot: u32) {
        let idle = self.slots.chain(slot) == Some(Chain::Idle);
        let stream = self.slots.remove(slot);
        self.names.remove(&stream.channel);
        self.deadlines.remove(&(stream.look_ms, slot));
        self.counts.bytes -= stream.cost_bytes();
        self.counts.entries -= stream.entries();
        self.counts.streams = self.slots.len();
        if idle {
            self.idle_bytes -= stream.record_bytes();
        }
    }
}
