//! Publish and subscribe, and leases. PURE: `home` is the truth of channels and users, `leases` of
//! devices, `streams` of what was published, `local` is who of mine gets it.

mod channel;
mod congestion;
mod direct;
mod directory;
mod encode;
mod few;
mod home;
mod idempotency;
mod leases;
mod local;
mod messages;
mod pattern;
mod roster;
mod segment;
mod streams;
mod users;

pub use congestion::Congestion;
pub use direct::{Direct, Handled, Handling, Parcel, Reach};
pub use home::{Home, HomeSettings, Notice};
pub use idempotency::{IDEMPOTENT_ANSWER_TTL_MS, Idempotency};
pub use leases::{
    Beat, Caller, Ending, HttpReply, LeaseAnswer, LeaseRequest, Leases, WakeOrder, WakeStatus,
    Watcher,
};
pub use local::{Active, ListKey, Local, Member, NO_SUBSCRIPTIONS, Pending, Sealed};
pub use messages::{
    Broadcast, ConnRef, Format, FromHome, Group, HomeAnswer, Join, Kind, LocalId, Publication,
    Published, Read, ReplyTo, ShardId, SubRef, ToHome,
};
pub use pattern::ChannelPattern;
pub use streams::{
    Entry, Epoch, HistoryOptions, Placement, Position, RecoveryBounds, Since, StreamCounts,
    Streams, Version,
};

use std::hash::{BuildHasher, Hasher};

use siphasher::sip::SipHasher13;

/// The process-wide hash key: where channels and users live, and the seed of every map.
///
/// An argument and no global, so that a simulated world is the same for the same seed.
#[derive(Clone, Copy, Debug)]
pub struct HashKey(pub u64, pub u64);

impl HashKey {
    /// The shard that owns the truth about `name`.
    pub fn home(self, name: &str, shards: usize) -> ShardId {
        let mut hasher = self.build_hasher();
        hasher.write(name.as_bytes());
        (hasher.finish() % shards as u64) as ShardId
    }
}

impl BuildHasher for HashKey {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}
