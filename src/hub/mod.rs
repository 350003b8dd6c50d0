//! Publish and subscribe, and leases. PURE: `home` is the truth of channels and users, `leases` of
//! devices, `local` is who of mine gets it.

mod home;
mod leases;
mod local;
mod messages;
mod segment;

pub use home::{Congestion, Home};
pub use leases::{
    Beat, Ending, HttpReply, LeaseAnswer, LeaseRequest, Leases, WakeOrder, WakeStatus, Watcher,
};
pub use local::{Active, ListKey, Local, Member, NO_SUBSCRIPTIONS, Pending, Sealed};
pub use messages::{
    Broadcast, ConnRef, Format, FromHome, HomeAnswer, LocalId, Publication, Published, ReplyTo,
    ShardId, SubRef, ToHome,
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
