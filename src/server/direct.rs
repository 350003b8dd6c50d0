//! Messages from any thread of the embedding program to many connections, and how many got them.

use super::Handle;
use crate::{
    core::{OutsideAnswer, OutsideCall},
    protocol::{Audience, Delivery, Name, Outgoing},
    shard::Refused,
};

/// Each of these blocks the calling thread until all shards have said for how many connections the
/// message is queued: not to be called on a shard, where
/// [`Context::send_to`](crate::protocol::handler::Context::send_to) does the same without waiting.
impl Handle {
    /// Sends a message to every connection: handlers' and Centrifuge clients that are connected. Event
    /// streams of one channel have no place for it and are not counted.
    ///
    /// # Errors
    /// `Failed(TOO_MANY_REQUESTS)` when a shard is behind; `Busy` when this one is; `Ended` when the
    /// server has ended.
    pub fn send_to_all(&self, outgoing: Outgoing) -> Result<Delivery, Refused> {
        self.deliver(0, Audience::All, outgoing)
    }

    /// Sends a message to every connection of a user, on whatever device. Of nobody, and of the empty
    /// user, there is none. An event stream of one channel has no place for it and counts as failed.
    ///
    /// # Errors
    /// As those of [`Handle::send_to_all`].
    pub fn send_to_user(&self, user: &str, outgoing: Outgoing) -> Result<Delivery, Refused> {
        self.deliver(self.home(user), Audience::User(Name::from(user)), outgoing)
    }

    /// Publishes to a channel and counts: the message has its place in the channel's order and in its
    /// history. Costs every interested shard an answer more than [`Handle::publish`] does.
    ///
    /// # Errors
    /// `Invalid` for a channel's name that is empty or longer than `channel.max_length`;
    /// `Failed(UNKNOWN_CHANNEL)` when its namespace does not exist; `Failed(TOO_MANY_REQUESTS)` when a
    /// shard is behind or the server is about to end; and as those of [`Handle::send_to_all`].
    pub fn send_to_channel(&self, channel: &str, outgoing: Outgoing) -> Result<Delivery, Refused> {
        let name = self.channel(channel)?;
        self.deliver(self.home(channel), Audience::Channel(name), outgoing)
    }

    fn deliver(
        &self,
        shard: usize,
        audience: Audience,
        outgoing: Outgoing,
    ) -> Result<Delivery, Refused> {
        match self.ask(shard, OutsideCall::SendTo { audience, outgoing })? {
            OutsideAnswer::Delivered(outcome) => outcome.map_err(Refused::Failed),
            answer => unreachable!("{answer:?} says nothing of a message"),
        }
    }
}
