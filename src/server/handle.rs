//! The way into a running server for any thread of its process.

use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::bounded;

use super::{Error, read_devices};
use crate::{
    api::{
        NodeInfo,
        watch::{WatchAnswer, WatchCall, WatcherPage},
    },
    close::CloseReason,
    core::{Outcome, OutsideAnswer, OutsideCall, Process},
    hub::{WakeOrder, WakeStatus},
    protocol::{Name, Payload, handler::ConnectionRef},
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
    /// Publishes and waits for the channel's home to give the publication its place. Blocks the
    /// calling thread for that long: not to be called on a shard.
    ///
    /// # Errors
    /// When the home is behind or has ended.
    pub fn publish(
        &self,
        channel: &str,
        payload: Payload,
        data: impl Into<Bytes>,
    ) -> Result<Outcome, Refused> {
        let home = self.process.key.home(channel, self.process.shards);
        let call =
            OutsideCall::Publish { channel: Name::from(channel), data: data.into(), payload };
        match self.ask(usize::from(home), call)? {
            OutsideAnswer::Published(outcome) => Ok(outcome),
            _ => unreachable!("a publish is answered by its outcome"),
        }
    }

    /// Describes the node. Blocks the calling thread until all shards have answered.
    ///
    /// # Errors
    /// When a shard is behind or has ended.
    pub fn info(&self) -> Result<NodeInfo, Refused> {
        match self.ask(0, OutsideCall::Info)? {
            OutsideAnswer::Info(info) => Ok(*info),
            _ => unreachable!("info is answered by info"),
        }
    }

    /// Wakes a device: `POST /api/wake`. An order whose session is known asks how far that wake is. Blocks
    /// the calling thread until the wake is in the queue of the device's stream, held, or neither.
    ///
    /// # Errors
    /// When watching is not enabled; the device's id or the session's does not have 1 to 255 bytes, the url
    /// or the token 1 to 8 KiB; a shard is behind or has ended.
    pub fn wake(&self, device: &str, order: WakeOrder) -> Result<WakeStatus, Refused> {
        let home = self.process.key.home(device, self.process.shards);
        match self.ask_watch(home.into(), WatchCall::Wake { device: device.into(), order })? {
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
        let home = self.process.key.home(device, self.process.shards);
        match self.ask_watch(home.into(), WatchCall::Release { device: device.into() })? {
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
        let devices = Arc::new(read_devices(file)?);
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

    fn ask(&self, shard: usize, call: OutsideCall) -> Result<OutsideAnswer, Refused> {
        let (reply, answer) = bounded(1);
        self.mailboxes[shard].send(Command::Call { call, reply: Some(reply) })?;
        answer.recv().map_err(|_| Refused::Ended)
    }
}
