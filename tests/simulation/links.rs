//! The fake links: one bounded FIFO for every ordered pair of shards.

use std::{collections::VecDeque, sync::Arc};

use tiderace::{
    core::LinkMessage,
    hub::{FromHome, ToHome},
};

use super::{faults::Mutation, random::Random};

/// All links of a world.
pub struct Links {
    shards: usize,
    /// Messages that one link holds.
    pub capacity: usize,
    queues: Vec<VecDeque<LinkMessage>>,
    mutation: Option<Mutation>,
    random: Random,
}

impl Links {
    pub fn new(shards: usize, capacity: usize, mutation: Option<Mutation>, random: Random) -> Self {
        let queues = (0..shards * shards).map(|_| VecDeque::new()).collect();
        Self { shards, capacity, queues, mutation, random }
    }

    pub fn push(
        &mut self,
        from: usize,
        to: usize,
        message: LinkMessage,
    ) -> Result<(), LinkMessage> {
        assert_ne!(from, to, "a shard has no link to itself");
        let queue = &mut self.queues[from * self.shards + to];
        if queue.len() >= self.capacity {
            return Err(message);
        }
        if let Some(mutation) = self.mutation
            && self.random.chance(10)
        {
            match (mutation, &message) {
                (Mutation::LinkReorders, _) if !queue.is_empty() => {
                    queue.insert(queue.len() - 1, message);
                    return Ok(());
                }
                (Mutation::LinkDropsLeave, LinkMessage::ToHome(ToHome::Leave { .. }))
                | (
                    Mutation::LinkDropsPublication,
                    LinkMessage::FromHome(FromHome::Published { .. }),
                ) => return Ok(()),
                (
                    Mutation::LinkDoublesPublication,
                    LinkMessage::FromHome(FromHome::Published { local, published }),
                ) => {
                    let (local, published) = (*local, Arc::clone(published));
                    let copy = FromHome::Published { local, published };
                    queue.push_back(LinkMessage::FromHome(copy));
                }
                _ => {}
            }
        }
        queue.push_back(message);
        Ok(())
    }

    pub fn take(&mut self, from: usize, to: usize) -> Option<LinkMessage> {
        self.queues[from * self.shards + to].pop_front()
    }

    pub fn are_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }
}
