//! What waits for one link: first in, first out, never dropped; publications in it are bounded.

use std::collections::VecDeque;

use super::Emulated;
use crate::{
    hub::{FromHome, ShardId, ToHome},
    limits::LINK_BACKLOG_BYTES_MAX,
    mutations::{self, Mutation},
};

/// One message over a link.
#[derive(Debug)]
pub enum LinkMessage {
    /// A shard asks a home.
    ToHome(ToHome),
    /// A home tells a shard.
    FromHome(FromHome),
    /// A client of a stream said something to another shard than its own. Boxed: it is rare.
    Emulated(Box<Emulated>),
}

const _: () = assert!(size_of::<LinkMessage>() <= 64, "a link's entry is one cache line");

impl LinkMessage {
    fn is_published(&self) -> bool {
        matches!(self, Self::FromHome(FromHome::Published { .. }))
    }

    /// Bytes of publications, and of what clients said, that the message pins.
    pub fn publication_bytes(&self) -> usize {
        match self {
            Self::ToHome(ToHome::Publish { publication, .. }) => publication.cost_bytes(),
            Self::ToHome(ToHome::PublishHandled { handled, .. }) => {
                handled.publication.cost_bytes()
            }
            Self::ToHome(ToHome::Direct(direct)) => direct.parcel.cost_bytes(),
            Self::ToHome(ToHome::Broadcast { broadcast, .. }) => {
                broadcast.data.len()
                    + broadcast.channels.iter().map(|(_, name)| name.len()).sum::<usize>()
            }
            Self::FromHome(FromHome::Published { published, .. }) => published.cost_bytes(),
            Self::Emulated(emulated) => emulated.cost_bytes(),
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
    /// Puts a message at the end. State messages are bounded by what exists: of one subscription
    /// only the newest renewal waits, in the place of the one before. Publications are refused by
    /// whoever asks [`Backlog::is_full`] before.
    pub(super) fn push(&mut self, message: LinkMessage) {
        if let Some(former) = self.former_renewal(&message) {
            *former = message;
            return;
        }
        self.publication_bytes += message.publication_bytes();
        let mut at = self.messages.len();
        if mutations::is_on(Mutation::HomeJoins) && !message.is_published() {
            while at > 0 && self.messages[at - 1].is_published() {
                at -= 1;
            }
        }
        self.messages.insert(at, message);
    }

    /// What waits of a subscription and is renewed once more by the message.
    fn former_renewal(&mut self, message: &LinkMessage) -> Option<&mut LinkMessage> {
        let LinkMessage::ToHome(ToHome::Renew { sub, .. }) = message else { return None };
        self.messages.iter_mut().rev().find(|waiting| match waiting {
            LinkMessage::ToHome(ToHome::Renew { sub: of, .. }) => of == sub,
            _ => false,
        })
    }

    /// Whether publications wait in it up to the bound.
    pub(super) fn is_full(&self) -> bool {
        self.publication_bytes >= LINK_BACKLOG_BYTES_MAX
            && !mutations::is_on(Mutation::FillsFullLink)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// What waits, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &LinkMessage> {
        self.messages.iter()
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
                let leave = matches!(message, LinkMessage::ToHome(ToHome::Leave { .. }));
                if leave && mutations::is_on(Mutation::DropsLeaveOnFullLink) {
                    continue;
                }
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        hub::{Format, Publication, ReplyTo, SubRef},
        protocol::{MemberInfo, Name, Payload},
    };

    const HALF: usize = LINK_BACKLOG_BYTES_MAX / 2;

    fn leave(channel: &str) -> LinkMessage {
        let channel = Name::from(channel);
        LinkMessage::ToHome(ToHome::Leave {
            channel,
            sub: SubRef { index: 0, generation: 0 },
            format: Format::Plain,
        })
    }

    fn publish(data: &Bytes) -> LinkMessage {
        let (data, payload) = (data.clone(), Payload::Binary);
        let publication =
            Publication { channel: Name::from(""), data, payload, info: None, extra: None };
        let publication = Box::new(publication);
        LinkMessage::ToHome(ToHome::Publish { publication, reply: ReplyTo::Nobody })
    }

    fn renewal(index: u32, json: &str) -> LinkMessage {
        let json = Bytes::copy_from_slice(json.as_bytes());
        let member = MemberInfo { client: String::new(), user: Name::from(""), json };
        let (channel, sub) = (Name::from(""), SubRef { index, generation: 0 });
        LinkMessage::ToHome(ToHome::Renew { channel, sub, member: member.into() })
    }

    #[test]
    fn it_is_full_of_publications_and_never_of_state() {
        let mut backlog = Backlog::default();
        let data = Bytes::from(vec![0; HALF]);
        (0..10_000).for_each(|_| backlog.push(leave("c")));
        backlog.push(publish(&data));
        assert!(!backlog.is_full());
        backlog.push(publish(&data));
        assert!(backlog.is_full());
        let mut taken = 0;
        let all = backlog.drain(0, |_, message| {
            taken += 1;
            if taken > 10_001 { Err(message) } else { Ok(()) }
        });
        assert!(!all && !backlog.is_full() && !backlog.is_empty());
        assert!(backlog.drain(0, |_, _| Ok(())) && backlog.is_empty());
        assert_eq!(backlog.publication_bytes, 0);
    }

    #[test]
    fn of_a_subscriptions_renewals_the_newest_waits() {
        let mut backlog = Backlog::default();
        backlog.push(leave("a"));
        [(1, "first"), (2, "other"), (1, "second"), (1, "third")]
            .into_iter()
            .for_each(|(index, json)| backlog.push(renewal(index, json)));
        let mut waited = Vec::new();
        backlog.drain(0, |_, message| {
            if let LinkMessage::ToHome(ToHome::Renew { sub, member, .. }) = message {
                waited.push((sub.index, member.json.clone()));
            }
            Ok(())
        });
        assert_eq!(waited, [(1, Bytes::from("third")), (2, Bytes::from("other"))]);
    }

    #[test]
    fn a_refused_message_stays_first() {
        let mut backlog = Backlog::default();
        ["a", "b", "c"].into_iter().for_each(|name| backlog.push(leave(name)));
        let mut names = Vec::new();
        for room in [1, 0, 5] {
            let mut left = room;
            backlog.drain(3, |to, message| {
                if left == 0 {
                    return Err(message);
                }
                left -= 1;
                let LinkMessage::ToHome(ToHome::Leave { channel, .. }) = message else { panic!() };
                names.push((to, channel.to_string()));
                Ok(())
            });
        }
        assert_eq!(names, ["a", "b", "c"].map(|name| (3, name.to_owned())));
    }
}
