//! One channel's stream: its position and the publications before it, without a hole.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    Entry, Epoch, HistoryFilter, HistoryOptions, Position, RecoveryBounds, Since, Version,
    slots::{Chain, SLOT_BYTES},
};
use crate::{
    channels::RecoveryMode,
    mutations::{self, Mutation},
    protocol::{ErrorCode, Name},
};

/// What a stream costs beside its place, its name and its entries: the name's entry in the table
/// of names with the slack of that table, the name's count, a deadline, what the allocator adds.
const RECORD_BYTES: usize = SLOT_BYTES + 128;

/// What an entry costs beside its bytes: its handle with the slack of the queue (2 x 32), its
/// count and what the allocator adds (48), and, since its bytes are a part of an encoded push, the
/// rest of that push but for the channel's name (48).
const ENTRY_BYTES: usize = 160;

/// What the queue of a stream that keeps anything costs beside that: it begins with four handles.
const QUEUE_BYTES: usize = 64;

/// What a version costs beside the text of its epoch.
const VERSION_BYTES: usize = 64;

/// The truth about the past of one channel.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) channel: Name,
    epoch: Epoch,
    /// Offset of the newest publication; 0 before the first.
    top: u64,
    /// The newest publications, oldest first: the last one's offset is `top`.
    entries: VecDeque<Bytes>,
    entries_bytes: usize,
    version: Option<Box<StoredVersion>>,
    /// Somebody subscribes: the position stays.
    pub(super) pinned: bool,
    /// When the entries go.
    expires_ms: u64,
    /// When all goes, unless it is pinned.
    forget_ms: u64,
    meta_ttl_ms: u64,
    /// When the stream's entry in the table of deadlines is due, never later than the stream is:
    /// being used moves what is due and not the entry. `u64::MAX`: it has none.
    pub(super) look_ms: u64,
}

#[derive(Debug)]
struct StoredVersion {
    number: u64,
    epoch: Box<str>,
}

impl Stream {
    pub(super) fn new(channel: Name, epoch: Epoch) -> Self {
        Self {
            channel,
            epoch,
            top: 0,
            entries: VecDeque::new(),
            entries_bytes: 0,
            version: None,
            pinned: false,
            expires_ms: 0,
            forget_ms: u64::MAX,
            meta_ttl_ms: 0,
            look_ms: u64::MAX,
        }
    }

    pub(super) fn position(&self) -> Position {
        Position { offset: self.top, epoch: self.epoch }
    }

    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the record alone.
    pub(super) fn record_bytes(&self) -> usize {
        let version = self.version.as_ref().map_or(0, |it| VERSION_BYTES + it.epoch.len());
        Self::record_bytes_of(&self.channel) + version
    }

    /// Bytes of the record of a stream that is new.
    pub(super) fn record_bytes_of(channel: &str) -> usize {
        RECORD_BYTES + channel.len()
    }

    /// Bytes of the record and the entries.
    pub(super) fn cost_bytes(&self) -> usize {
        let queue = if self.entries.is_empty() { 0 } else { QUEUE_BYTES };
        self.record_bytes() + queue + self.entries_bytes
    }

    fn entry_bytes(&self, entry: &Bytes) -> usize {
        ENTRY_BYTES + self.channel.len() + entry.len()
    }

    /// What the stream can give up when there is no room.
    pub(super) fn chain(&self) -> Option<Chain> {
        match (self.entries.is_empty(), self.pinned) {
            (false, _) => Some(Chain::Kept),
            (true, false) => Some(Chain::Idle),
            (true, true) => None,
        }
    }

    /// When something of this goes by itself; `u64::MAX`: never.
    pub(super) fn due_ms(&self) -> u64 {
        let expires_ms = if self.entries.is_empty() { u64::MAX } else { self.expires_ms };
        if self.pinned { expires_ms } else { expires_ms.min(self.forget_ms) }
    }

    pub(super) fn is_to_forget(&self, now_ms: u64) -> bool {
        !self.pinned && self.forget_ms <= now_ms
    }

    pub(super) fn has_expired(&self, now_ms: u64) -> bool {
        !self.entries.is_empty() && self.expires_ms <= now_ms
    }

    /// The position was asked for: it stays for another while.
    pub(super) fn touch(&mut self, now_ms: u64, options: HistoryOptions) {
        self.meta_ttl_ms = options.meta_ttl_ms;
        self.forget_ms = now_ms.saturating_add(self.meta_ttl_ms);
    }

    /// Nobody subscribes any more: the position stays for another while.
    pub(super) fn unpin(&mut self, now_ms: u64) {
        self.pinned = false;
        self.forget_ms = now_ms.saturating_add(self.meta_ttl_ms);
    }

    /// Whether a publication of `version` comes too late.
    pub(super) fn outdates(&self, version: Version<'_>) -> bool {
        self.version.as_ref().is_some_and(|known| {
            (version.epoch.is_empty() || version.epoch == &*known.epoch)
                && version.number <= known.number
        })
    }

    pub(super) fn set_version(&mut self, version: Version<'_>) {
        let stored = StoredVersion { number: version.number, epoch: version.epoch.into() };
        self.version = Some(Box::new(stored));
    }

    /// Adds a publication that `encode` makes. One that does not fit into `bytes_max` with the
    /// record is not kept, and what was before it goes, so that there is no hole.
    pub(super) fn publish(
        &mut self,
        now_ms: u64,
        options: HistoryOptions,
        bytes_max: usize,
        encode: impl FnOnce(Position) -> Bytes,
    ) -> Position {
        self.touch(now_ms, options);
        let times = if mutations::is_on(Mutation::KeepsBeyondTtl) { 1_000 } else { 1 };
        self.expires_ms = now_ms.saturating_add(options.ttl_ms.saturating_mul(times));
        self.top += 1;
        let position = self.position();
        let entry = encode(position);
        let bytes = self.entry_bytes(&entry);
        if options.size == 0 || self.record_bytes() + QUEUE_BYTES + bytes > bytes_max {
            self.clear();
            return position;
        }
        self.entries.push_back(entry);
        self.entries_bytes += bytes;
        while self.entries.len() > options.size && !mutations::is_on(Mutation::KeepsBeyondSize) {
            self.drop_oldest();
        }
        position
    }

    /// Lets the oldest entry go.
    pub(super) fn drop_oldest(&mut self) {
        let newest = mutations::is_on(Mutation::EvictsNewest);
        let entry = if newest { self.entries.pop_back() } else { self.entries.pop_front() };
        if let Some(entry) = entry {
            self.entries_bytes -= self.entry_bytes(&entry);
        }
        if self.entries.is_empty() {
            self.clear();
        }
    }

    /// Lets all entries go, and the memory of their queue.
    pub(super) fn clear(&mut self) {
        self.entries = VecDeque::new();
        self.entries_bytes = 0;
    }

    /// See [`super::Streams::recover`].
    pub(super) fn recover(
        &self,
        prefix: &str,
        since: Since<'_>,
        mode: RecoveryMode,
        bounds: RecoveryBounds,
    ) -> Option<Vec<Entry>> {
        let same_epoch = self.epoch.is(prefix, since.epoch);
        let missed = match mode {
            RecoveryMode::Stream if same_epoch || since.epoch.is_empty() => {
                self.top.checked_sub(since.offset)?
            }
            RecoveryMode::Stream => return None,
            RecoveryMode::Cache => {
                let in_step = same_epoch && since.offset > 0 && since.offset == self.top;
                u64::from(!in_step)
            }
        };
        let missed = usize::try_from(missed).ok()?;
        if missed > self.entries.len() || missed > bounds.count_max {
            return None;
        }
        let first = self.entries.len() - missed;
        let bytes: usize = self.entries.range(first..).map(Bytes::len).sum();
        (bytes <= bounds.bytes_max).then(|| self.entry_range(first..self.entries.len()).collect())
    }

    /// See [`super::Streams::read`].
    pub(super) fn read(
        &self,
        prefix: &str,
        filter: HistoryFilter<'_>,
    ) -> Result<Vec<Entry>, ErrorCode> {
        let limit = filter.limit.unwrap_or(usize::MAX);
        let kept = self.entries.len();
        let Some(since) = filter.since else {
            return Ok(if filter.reverse {
                self.entry_range(0..kept).rev().take(limit).collect()
            } else {
                self.entry_range(0..kept).take(limit).collect()
            });
        };
        if filter.reverse && since.offset == 0 {
            return Err(ErrorCode::BAD_REQUEST);
        }
        if !since.epoch.is_empty() && !self.epoch.is(prefix, since.epoch) {
            return Err(ErrorCode::UNRECOVERABLE_POSITION);
        }
        if filter.reverse {
            let before = self.index(since.offset - 1).map_or(0, |index| index + 1);
            return Ok(self.entry_range(0..before).rev().take(limit).collect());
        }
        let missed = self.top.saturating_sub(since.offset);
        let first = kept - usize::try_from(missed).unwrap_or(usize::MAX).min(kept);
        Ok(self.entry_range(first..kept).take(limit).collect())
    }

    /// Where the entry with this offset is.
    fn index(&self, offset: u64) -> Option<usize> {
        let from_end = usize::try_from(self.top.checked_sub(offset)?).ok()?;
        (self.entries.len().checked_sub(1)?).checked_sub(from_end)
    }

    fn entry_range(
        &self,
        range: std::ops::Range<usize>,
    ) -> impl DoubleEndedIterator<Item = Entry> + '_ {
        let first = self.top - self.entries.len() as u64 + 1 + range.start as u64;
        let entries = self.entries.range(range).enumerate();
        entries
            .map(move |(place, bytes)| Entry { offset: first + place as u64, bytes: bytes.clone() })
    }
}
