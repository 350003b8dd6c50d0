//! The fake links: one bounded FIFO for every ordered pair of shards.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use tiderace::{
    core::LinkMessage,
    hub::{Ending, FromHome, LeaseAnswer, LeaseRequest, ToHome},
    protocol::{Name, watch::LeaseId},
};

use super::{faults::Mutation, random::Random};

/// All links of a world.
pub struct Links {
    shards: usize,
    /// Messages that one link holds.
    pub capacity: usize,
    queues: Vec<VecDeque<LinkMessage>>,
    mutation: Option<Mutation>,
    /// Whose a lease is, for confirmations that nobody gave.
    devices: BTreeMap<LeaseId, Name>,
    random: Random,
}

impl Links {
    pub fn new(shards: usize, capacity: usize, mutation: Option<Mutation>, random: Random) -> Self {
        let queues = (0..shards * shards).map(|_| VecDeque::new()).collect();
        Self { shards, capacity, queues, mutation, devices: BTreeMap::new(), random }
    }

    pub fn push(
        &mut self,
        from: usize,
        to: usize,
        message: LinkMessage,
    ) -> Result<(), LinkMessage> {
        assert_ne!(from, to, "a shard has no link to itself");
        let at = from * self.shards + to;
        if self.queues[at].len() >= self.capacity {
            return Err(message);
        }
        let message = match self.mutation {
            Some(mutation) => self.mutated(mutation, from, to, message),
            None => Some(message),
        };
        self.queues[at].extend(message);
        Ok(())
    }

    /// What is pushed of a message where something is wrong.
    fn mutated(
        &mut self,
        mutation: Mutation,
        from: usize,
        to: usize,
        message: LinkMessage,
    ) -> Option<LinkMessage> {
        let now = self.random.chance(20);
        let queue = &mut self.queues[from * self.shards + to];
        match (mutation, &message) {
            (Mutation::LinkReorders, _) if now => {
                queue.push_front(message);
                return None;
            }
            (Mutation::LinkDropsLeave, LinkMessage::ToHome(ToHome::Leave { .. }))
            | (Mutation::LinkDropsPublication, LinkMessage::FromHome(FromHome::Published { .. }))
                if now =>
            {
                return None;
            }
            (
                Mutation::LinkDoublesPublication,
                LinkMessage::FromHome(FromHome::Published { local, published }),
            ) if now => {
                let (local, published) = (*local, Arc::clone(published));
                let copy = FromHome::Published { local, published };
                queue.push_back(LinkMessage::FromHome(copy));
            }
            (Mutation::LosesStreamEnd, LinkMessage::ToHome(ToHome::Lease(request)))
                if now && matches!(**request, LeaseRequest::StreamEnded { .. }) =>
            {
                return None;
            }
            (Mutation::ConfirmsUnheard, LinkMessage::FromHome(FromHome::Lease(answer))) => {
                self.confirm_unheard(from, to, answer);
            }
            _ => {}
        }
        Some(message)
    }

    /// Confirms the end of a stream in the name of the shard that is only being told to end it.
    fn confirm_unheard(&mut self, home: usize, shard: usize, answer: &LeaseAnswer) {
        match answer {
            LeaseAnswer::Granted { device, lease, .. } => {
                self.devices.insert(*lease, Name::clone(device));
            }
            LeaseAnswer::EndStream { lease, .. } => {
                let Some(device) = self.devices.get(lease) else { return };
                let (device, lease, ending) = (Name::clone(device), *lease, Ending::Other);
                let ended = LeaseRequest::StreamEnded { device, lease, ending };
                let ended = LinkMessage::ToHome(ToHome::Lease(Box::new(ended)));
                self.queues[shard * self.shards + home].push_back(ended);
            }
            _ => {}
        }
    }

    pub fn take(&mut self, from: usize, to: usize) -> Option<LinkMessage> {
        self.queues[from * self.shards + to].pop_front()
    }

    /// What is under way on a link, oldest first.
    pub fn messages(&self, from: usize, to: usize) -> impl Iterator<Item = &LinkMessage> {
        self.queues[from * self.shards + to].iter()
    }

    pub fn are_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }
}
