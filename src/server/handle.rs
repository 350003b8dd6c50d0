//! The embedding program's way into a running server, from any thread of its process.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use crossbeam_channel::bounded;

use super::{Error, read_devices};
use crate::{
    api::{
        Call, ConnectionsOf, Disconnect, NodeInfo, Reply, Subscribe, Target,
        watch::{WatchAnswer, WatchCall, WatcherPage},
    },
    codes::CloseReason,
    core::{OutsideAnswer, OutsideCall, Process},
    hub::{WakeOrder, WakeStatus},
    limits::{CLOSE_TEXT_BYTES_MAX, PUBLICATION_KEY_BYTES_MAX},
    protocol::{
        Described, History, HistoryFilter, MemberInfo, Name, Payload, PublicationExtra,
        StreamPosition, centrifuge::Terms, handler::ConnectionRef,
    },
    shard::{Command, Mailbox, Refused},
};

/// The way into a running server for any thread of its process. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) process: Arc<Process>,
    pub(super) mailboxes: Arc<[Mailbox]>,
    pub(super) devices_file: Option<Arc<str>>,
}

impl Handle {
    /// Publishes and waits for the channel's home to give the publication its place, which is of zeros
    /// where the channel keeps no history. Blocks the calling thread for that long, as everything here
    /// does that has an answer: not to be called on a shard.
    ///
    /// # Errors
    /// [`Refused::Failed`] as the HTTP API has it, such as `UNKNOWN_CHANNEL`; `Invalid` for a channel's
    /// name that is empty or longer than `channel.max_length`, and for JSON that is none or not on one
    /// line; or the home is behind or has ended.
    pub fn publish(
        &self,
        channel: &str,
        payload: Payload,
        data: impl Into<Bytes>,
    ) -> Result<StreamPosition, Refused> {
        self.publish_with(channel, payload, data, PublicationExtra::default())
    }

    /// As [`Handle::publish`], with tags, an idempotency key (1 to 255 bytes), a version, or past the
    /// history.
    ///
    /// # Errors
    /// As those of [`Handle::publish`].
    pub fn publish_with(
        &self,
        channel: &str,
        payload: Payload,
        data: impl Into<Bytes>,
        extra: PublicationExtra,
    ) -> Result<StreamPosition, Refused> {
        let (home, channel, data) = (self.home(channel), self.channel(channel)?, data.into());
        let key = extra.idempotency_key.as_ref().map_or(1, |key| key.len());
        let sound = (1..=PUBLICATION_KEY_BYTES_MAX).contains(&key)
            && extra.version_epoch.len() <= PUBLICATION_KEY_BYTES_MAX
            && is_sound(payload, &data);
        if !sound {
            return Err(Refused::Invalid);
        }
        match self.call(home, Call::Publish { channel, data, payload, extra })? {
            Reply::Publish(position) => Ok(position),
            other => unreachable!("{other:?} answers no publish"),
        }
    }

    /// What was published to a channel, as encoded JSON; without a limit all that is kept.
    ///
    /// # Errors
    /// `Failed(NOT_AVAILABLE)` where the channel keeps no history, and as those of [`Handle::publish`].
    pub fn history(&self, channel: &str, filter: HistoryFilter) -> Result<History, Refused> {
        let (home, channel) = (self.home(channel), self.channel(channel)?);
        match self.call(home, Call::History { channel, filter })? {
            Reply::History(history) => Ok(history),
            other => unreachable!("{other:?} is no history"),
        }
    }

    /// Who is in a channel.
    ///
    /// # Errors
    /// `Failed(NOT_AVAILABLE)` where the channel has no presence, and as those of [`Handle::publish`].
    pub fn presence(&self, channel: &str) -> Result<Vec<Arc<MemberInfo>>, Refused> {
        let (home, channel) = (self.home(channel), self.channel(channel)?);
        match self.call(home, Call::Presence { channel })? {
            Reply::Presence(present) => Ok(present),
            other => unreachable!("{other:?} is no presence"),
        }
    }

    /// The connections of a user; of the empty one, those without a user. At most 10,000.
    ///
    /// # Errors
    /// `Failed(LIMIT_EXCEEDED)` where there are more; a shard is behind or has ended.
    pub fn connections(&self, user: &str) -> Result<Vec<Described>, Refused> {
        let call = Call::Connections(ConnectionsOf::User(Name::from(user)));
        match self.call(self.home(user), call)? {
            Reply::Connections(connections) => Ok(connections),
            other => unreachable!("{other:?} are no connections"),
        }
    }

    /// Subscribes every connection of a user to a channel, those that are not; returns when what is
    /// published from then on reaches them.
    ///
    /// # Errors
    /// `Failed` with the first error of a connection; and as those of [`Handle::publish`].
    pub fn subscribe(&self, user: &str, channel: &str, terms: Terms) -> Result<(), Refused> {
        let (target, channel) = (Target::user(user), self.channel(channel)?);
        let subscribe = Subscribe { target, channel, terms, recover: None };
        self.call(self.home(user), Call::Subscribe(Box::new(subscribe))).map(drop)
    }

    /// Ends the subscriptions of a user's connections to a channel; `None` is to all channels.
    ///
    /// # Errors
    /// As those of [`Handle::publish`].
    pub fn unsubscribe(&self, user: &str, channel: Option<&str>) -> Result<(), Refused> {
        let channel = channel.map(|channel| self.channel(channel)).transpose()?;
        let call = Call::Unsubscribe { target: Target::user(user), channel };
        self.call(self.home(user), call).map(drop)
    }

    /// Closes every connection of a user with this reason, whose code is from 3000 to 4999.
    ///
    /// # Errors
    /// `Invalid` for another code; a shard is behind or has ended.
    pub fn disconnect(&self, user: &str, reason: CloseReason) -> Result<(), Refused> {
        let CloseReason { code, reason } = reason;
        if !(3000..=4999).contains(&code) || reason.len() > CLOSE_TEXT_BYTES_MAX {
            return Err(Refused::Invalid);
        }
        let disconnect = Some(Disconnect { code, reason: reason.into() });
        let (target, whitelist) = (Target::user(user), BTreeSet::new());
        let call = Call::Disconnect { target, whitelist, disconnect };
        self.call(self.home(user), call).map(drop)
    }

    /// Describes the node.
    ///
    /// # Errors
    /// When a shard is behind or has ended.
    pub fn info(&self) -> Result<NodeInfo, Refused> {
        match self.call(0, Call::Info)? {
            Reply::Info(info) => Ok(*info),
            other => unreachable!("{other:?} is no info"),
        }
    }

    pub(super) fn home(&self, name: &str) -> usize {
        self.process.key.home(name, self.process.shards).into()
    }

    pub(super) fn channel(&self, channel: &str) -> Result<Name, Refused> {
        let max = self.process.settings.policy.channels.max_length;
        let fits = (1..=max).contains(&channel.len());
        fits.then(|| Name::from(channel)).ok_or(Refused::Invalid)
    }

    fn call(&self, shard: usize, call: Call) -> Result<Reply, Refused> {
        match self.ask(shard, OutsideCall::Call(call))? {
            OutsideAnswer::Called(outcome) => outcome.map_err(Refused::Failed),
            answer => unreachable!("{answer:?} answers no call"),
        }
    }

    /// Wakes a device: `POST /api/wake`. An order whose session is known asks how far that wake is. Blocks
    /// the calling thread until the wake is in the queue of the device's stream, held, or neither.
    ///
    /// # Errors
    /// When watching is not enabled; the device's id or the session's does not have 1 to 255 bytes, the url
    /// or the token 1 to 8 KiB; a shard is behind or has ended.
    pub fn wake(&self, device: &str, order: WakeOrder) -> Result<WakeStatus, Refused> {
        let home = self.home(device);
        match self.ask_watch(home, WatchCall::Wake { device: device.into(), order })? {
            WatchAnswer::Woken(status) => Ok(status),
            _ => unreachable!("a wake is answered by its status"),
        }
    }

    /// Lists devices that hold a lease, by name: those behind `after`, 1 to 1,000. Blocks the calling thread
    /// until all shards have answered.
    ///
    /// # Errors
    /// When watching is not enabled; the limit is out of bounds; a shard is behind or has ended.
    pub fn watchers(&self, after: Option<&str>, limit: usize) -> Result<WatcherPage, Refused> {
        let after = after.map(Name::from);
        match self.ask_watch(0, WatchCall::Watchers { after, limit })? {
            WatchAnswer::Watchers(page) => Ok(page),
            WatchAnswer::Busy => Err(Refused::Busy),
            _ => unreachable!("a list is answered by a page"),
        }
    }

    /// Takes a device's lease away and ends its stream; returns whether there was a lease. Its agent may
    /// watch again at once. Blocks the calling thread until the device's home has answered.
    ///
    /// # Errors
    /// When watching is not enabled; the device's id does not have 1 to 255 bytes; a shard is behind or
    /// has ended.
    pub fn release(&self, device: &str) -> Result<bool, Refused> {
        let home = self.home(device);
        match self.ask_watch(home, WatchCall::Release { device: device.into() })? {
            WatchAnswer::Released(released) => Ok(released),
            _ => unreachable!("a release is answered by whether there was a lease"),
        }
    }

    /// Reads `watch.token.table_file` anew; without one nothing happens. A device whose token is gone
    /// learns it from the answer to its next heartbeat (401), and stops for good.
    ///
    /// # Errors
    /// What is wrong with the file, without any token. What was read before stays valid.
    pub fn reload_devices(&self) -> Result<(), Error> {
        let Some(file) = &self.devices_file else { return Ok(()) };
        let read = read_devices(file).map_err(|fault| Error::Devices(fault.to_string()))?;
        let devices = Arc::new(read);
        for mailbox in self.mailboxes.iter() {
            let call = OutsideCall::Devices(Arc::clone(&devices));
            mailbox.send_waiting(Command::Call { call, reply: None });
        }
        Ok(())
    }

    fn ask_watch(&self, shard: usize, call: WatchCall) -> Result<WatchAnswer, Refused> {
        if self.process.settings.watch.is_none() {
            return Err(Refused::Disabled);
        }
        let call = OutsideCall::Watch(call.checked().ok_or(Refused::Invalid)?);
        match self.ask(shard, call)? {
            OutsideAnswer::Watch(answer) => Ok(answer),
            _ => unreachable!("a call about devices is answered as such"),
        }
    }

    /// Sends a message to one connection of a handler; lost without a word if it is gone.
    ///
    /// # Errors
    /// When its shard is behind or has ended.
    pub fn send(
        &self,
        connection: ConnectionRef,
        data: impl Into<Bytes>,
        text: bool,
    ) -> Result<(), Refused> {
        let call = OutsideCall::Send { connection, data: data.into(), text };
        self.tell(connection, call)
    }

    /// Closes one connection.
    ///
    /// # Errors
    /// When its shard is behind or has ended.
    pub fn close(&self, connection: ConnectionRef, reason: CloseReason) -> Result<(), Refused> {
        self.tell(connection, OutsideCall::Close { connection, reason })
    }

    fn tell(&self, connection: ConnectionRef, call: OutsideCall) -> Result<(), Refused> {
        let mailbox = &self.mailboxes[usize::from(connection.shard)];
        mailbox.send(Command::Call { call, reply: None })
    }

    pub(super) fn ask(&self, shard: usize, call: OutsideCall) -> Result<OutsideAnswer, Refused> {
        let (reply, answer) = bounded(1);
        self.mailboxes[shard].send(Command::Call { call, reply: Some(reply) })?;
        answer.recv().map_err(|_| Refused::Ended)
    }
}

/// Whether JSON is one value on one line, as the lines of the protocol need it.
fn is_sound(payload: Payload, data: &[u8]) -> bool {
    match payload {
        Payload::Json => {
            !data.contains(&b'\n') && serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok()
        }
        Payload::Text => std::str::from_utf8(data).is_ok(),
        Payload::Binary => true,
    }
}
