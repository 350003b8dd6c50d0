//! One channel as its home knows it: what holds in it, which shards are interested, who is there.

use std::sync::Arc;

use super::{Format, LocalId, ShardId, encode::WantedFormats, roster::Roster};
use crate::{
    channels::ChannelOptions,
    mutations::{self, Mutation},
    protocol::Name,
};

/// A channel with at least one subscription, granted or not.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: Name,
    pub(super) options: Arc<ChannelOptions>,
    /// Publications since it has subscribers; those that are kept have offsets of their own.
    pub(super) sequence: u64,
    pub(super) interest: Vec<Interest>,
    /// Only where somebody wants to be seen.
    pub(super) roster: Option<Box<Roster>>,
}

/// One shard's subscribers of a channel: joins minus leaves.
#[derive(Debug)]
pub(super) struct Interest {
    pub(super) shard: ShardId,
    pub(super) local: LocalId,
    joined: [u32; Format::ALL.len()],
    /// The shard was told of a gap and has had no publication since, nor a subscriber to whom the
    /// gap would be news.
    pub(super) gap: bool,
}

impl Interest {
    /// Subscribers by the home's account.
    pub(super) fn subscribers(&self) -> u32 {
        self.joined.iter().sum()
    }
}

impl Channel {
    pub(super) fn new(name: Name, options: Arc<ChannelOptions>) -> Self {
        Self { name, options, sequence: 0, interest: Vec::new(), roster: None }
    }

    /// Counts a join.
    pub(super) fn join(&mut self, shard: ShardId, local: LocalId, format: Format) {
        let interest = match self.interest.iter_mut().find(|known| known.shard == shard) {
            Some(known) => known,
            None => {
                let joined = Default::default();
                // Most channels interest one shard: four places at once would be most of their memory.
                self.interest.reserve_exact(1);
                self.interest.push(Interest { shard, local, joined, gap: false });
                self.interest.last_mut().expect("just pushed")
            }
        };
        interest.local = local;
        interest.gap &= mutations::is_on(Mutation::TellsGapOnce);
        interest.joined[format as usize] += 1;
    }

    /// Counts a leave; unknown ones change nothing.
    pub(super) fn leave(&mut self, shard: ShardId, format: Format) {
        let known = |interest: &Interest| interest.shard == shard;
        let Some(at) = self.interest.iter().position(known) else { return };
        let joined = &mut self.interest[at].joined;
        joined[format as usize] = joined[format as usize].saturating_sub(1);
        if joined.iter().all(|&count| count == 0) {
            self.interest.swap_remove(at);
        }
    }

    /// Subscribers by the home's account.
    pub(super) fn subscribers(&self) -> u32 {
        self.interest.iter().flat_map(|interest| interest.joined).sum()
    }

    /// Subscribers of one shard by the home's account.
    pub(super) fn subscribers_on(&self, shard: ShardId) -> u32 {
        let of_shard = self.interest.iter().filter(|interest| interest.shard == shard);
        of_shard.flat_map(|interest| interest.joined).sum()
    }

    /// The formats that somebody wants.
    pub(super) fn wanted(&self) -> WantedFormats {
        Format::ALL
            .map(|format| self.interest.iter().any(|interest| interest.joined[format as usize] > 0))
    }
}
