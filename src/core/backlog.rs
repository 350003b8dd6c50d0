//! What waits for one link: first in, first out, never dropped; publications in it are bounded.

use std::collections::VecDeque;

use crate::{
    hub::{FromHome, ShardId, ToHome},
    limits::LINK_BACKLOG_BYTES_MAX,
};

/// One message over a link.
#[derive(Debug)]
pub enum LinkMessage {
    /// A shard asks a home.
    ToHome(ToHome),
    /// A home tells a shard.
    FromHome(FromHome),
}

const _: () = assert!(size_of::<LinkMessage>() <= 64, "a link's entry is one cache line");

impl LinkMessage {
    /// Bytes of publications that the message pins.
    fn publication_bytes(&self) -> usize {
        match self {
            Self::ToHome(ToHome::Publish { publication, .. }) => publication.cost_bytes(),
            Self::ToHome(ToHome::Broadcast { broadcast, .. }) => {
                broadcast.data.len()
                    + broadcast.channels.iter().map(|(_, name)| name.len()).sum::<usize>()
            }
            Self::FromHome(FromHome::Published { published, .. }) => published.cost_bytes(),
            _ => 0,
        }
    }
}

/// The queue in front of the link to one shard.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    messages: VecDeque<LinkMessage>,
    publication_bytes: usize,
}

impl Backlog {
    /// Puts a message at the end. State messages are bounded by what exists; publications are
    /// refused by whoever asks [`Backlog::is_full`] before.
    pub(super) fn push(&mut self, message: LinkMessage) {
        self.publication_bytes += message.publication_bytes();
        self.messages.push_back(message);
    }

    /// Whether publications wait in it up to the bound.
    pub(super) fn is_full(&self) -> bool {
        self.publication_bytes >= LINK_BACKLOG_BYTES_MAX
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Hands messages to `push` until it gives one back; returns whether all went.
    pub(super) fn drain(
        &mut self,
        to: ShardId,
        mut push: impl FnMut(ShardId, LinkMessage) -> Result<(), LinkMessage>,
    ) -> bool {
        while let Some(message) = self.messages.pop_front() {
            let bytes = message.publication_bytes();
            if let Err(message) = push(to, message) {
                self.messages.push_front(message);
                return false;
            }
            self.publication_bytes -= bytes;
        }
        if self.messages.capacity() > 1024 {
            self.messages = VecDeque::new();
        }
        true
    }
}
