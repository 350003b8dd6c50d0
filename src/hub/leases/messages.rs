//! What shards say to each other about leases: as boxes inside the messages of the hub.
//!
//! Every `Granted` is followed by exactly one `StreamEnded` on the way back, whatever became of
//! the connection; behind it the shard writes nothing more for that lease.

use std::sync::Arc;

use crate::{
    hub::ConnRef,
    protocol::{
        Name,
        watch::{LeaseId, WakeEvent},
    },
};

/// An HTTP request that waits for its answer, on the shard that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpReply {
    /// Its connection.
    pub conn: ConnRef,
    /// The answer's place in the connection's queue.
    pub place: u32,
    /// Whether the connection goes on after it.
    pub keep_alive: bool,
}

/// Who waits for the answer to a backend's call, on the shard that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A request of the HTTP API.
    Http(HttpReply),
    /// A thread that is no shard, by the number of its call.
    Outside(u64),
}

/// How a granted stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The asker was gone when the grant came: nobody was told the lease.
    NotStarted,
    /// The device ended it behind a wake, and had taken all that was queued for it.
    ByDevice,
    /// Any other way.
    Other,
}

/// What a backend wants a device to be told.
#[derive(Debug)]
pub struct WakeOrder {
    /// What the device is told.
    pub event: WakeEvent,
    /// Milliseconds for which the wake is worth sending; 0 is now or never.
    pub ttl_ms: u64,
}

/// From a shard to the home of a device.
#[derive(Debug)]
pub enum LeaseRequest {
    /// A device wants a stream. Answer: `Granted` or `Conflict`.
    Acquire {
        /// The device.
        device: Name,
        /// The connection that would carry the stream.
        conn: ConnRef,
        /// The id that the lease gets if it is granted, new and random.
        lease: LeaseId,
        /// The lease that the device held last.
        previous: Option<LeaseId>,
    },
    /// A device lives. Answer: `Heartbeat`.
    Heartbeat {
        /// The device.
        device: Name,
        /// The lease that it believes to hold.
        lease: Option<LeaseId>,
        /// Who waits.
        reply: HttpReply,
    },
    /// The end of a `Granted`.
    StreamEnded {
        /// The device.
        device: Name,
        /// As granted.
        lease: LeaseId,
        /// How.
        ending: Ending,
    },
    /// A `Wake` is in the queue of its stream.
    WakeQueued {
        /// The device.
        device: Name,
        /// As in the `Wake`.
        lease: LeaseId,
    },
    /// Wake a device. Answer: `Woken`.
    Wake {
        /// The device.
        device: Name,
        /// With what.
        order: WakeOrder,
        /// Who waits.
        caller: Caller,
    },
    /// Take a device's lease away. Answer: `Released`.
    Release {
        /// The device.
        device: Name,
        /// Who waits.
        caller: Caller,
    },
    /// Which devices hold a lease? Answer: `Listed`.
    List {
        /// Only those behind this name.
        after: Option<Name>,
        /// At most so many.
        limit: usize,
        /// The number of the list on the asking shard.
        list: u64,
    },
}

/// What became of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The lease is extended.
    Extended,
    /// Another lease is active.
    Conflict,
    /// No lease is active.
    Gone,
}

/// How far a wake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeStatus {
    /// In the queue of the device's stream.
    Sent,
    /// The device ended its stream on it.
    Confirmed,
    /// Held for the device's next watch.
    Pending,
    /// The device does not watch, and the wake is not to be held.
    NoWatcher,
    /// Not taken: too many wakes are held.
    Refused,
}

/// A device that holds a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watcher {
    /// The device.
    pub device: Name,
    /// Milliseconds since the lease was granted.
    pub lease_age_ms: u64,
    /// Milliseconds since the last heartbeat, or since the grant.
    pub heartbeat_age_ms: u64,
    /// Whether its stream is open.
    pub connected: bool,
}

/// From the home of a device to a shard.
#[derive(Debug)]
pub enum LeaseAnswer {
    /// The connection's stream may begin.
    Granted {
        /// The connection.
        conn: ConnRef,
        /// The device, for the end that must follow.
        device: Name,
        /// The lease.
        lease: LeaseId,
    },
    /// Another lease is active.
    Conflict {
        /// The connection.
        conn: ConnRef,
        /// The id that was asked for.
        lease: LeaseId,
    },
    /// End the stream of this lease, if that has not happened.
    EndStream {
        /// The connection.
        conn: ConnRef,
        /// The lease.
        lease: LeaseId,
    },
    /// Wake the device, if its stream is still open.
    Wake {
        /// The connection.
        conn: ConnRef,
        /// The lease.
        lease: LeaseId,
        /// What to say.
        event: Arc<WakeEvent>,
    },
    /// To a `Heartbeat`.
    Heartbeat {
        /// Who waits.
        reply: HttpReply,
        /// What became of it.
        beat: Beat,
    },
    /// To a `Wake` of the backend.
    Woken {
        /// Who waits.
        caller: Caller,
        /// How far it is.
        status: WakeStatus,
    },
    /// To a `Release`.
    Released {
        /// Who waits.
        caller: Caller,
        /// Whether there was a lease.
        released: bool,
    },
    /// To a `List`: in the order of names.
    Listed {
        /// The number of the list.
        list: u64,
        /// Devices, at most as many as asked for.
        watchers: Vec<Watcher>,
        /// Leases of this home.
        total: u64,
    },
}
