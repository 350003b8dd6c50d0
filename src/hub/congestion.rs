//! Which links are full of publications.

use super::ShardId;
use crate::limits::SHARDS_MAX;

/// Which shards' links are full of publications: who homes a channel refuses what would go there.
#[derive(Clone, Debug)]
pub struct Congestion([u64; SHARDS_MAX / 64]);

impl Congestion {
    /// No link is full.
    pub const NONE: Self = Self([0; SHARDS_MAX / 64]);

    /// Says whether the link to `shard` is full.
    pub fn set(&mut self, shard: ShardId, full: bool) {
        let (word, bit) = (usize::from(shard) / 64, shard % 64);
        self.0[word] = self.0[word] & !(1 << bit) | u64::from(full) << bit;
    }

    /// Whether the link to `shard` is full.
    pub fn is_full(&self, shard: ShardId) -> bool {
        self.0[usize::from(shard) / 64] >> (shard % 64) & 1 == 1
    }
}
