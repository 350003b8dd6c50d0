//! What a backend wants done with one connection, and how it is described to a backend.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Name, StreamPosition, centrifuge::Terms};

/// What a backend wants of a user's connections; each looks for itself whether it is meant.
#[derive(Debug)]
pub struct Order {
    /// Only the connection with this client id; `None`: all.
    pub client: Option<Name>,
    /// Only the connection with this session id; `None`: all.
    pub session: Option<Name>,
    /// Not the connections with these client ids.
    pub except: BTreeSet<Name>,
    /// What is to be done.
    pub act: Act,
}

impl Order {
    /// What all are to do.
    pub fn to_all(act: Act) -> Self {
        Self { client: None, session: None, except: BTreeSet::new(), act }
    }
}

/// What can be done with a connection.
#[derive(Debug)]
pub enum Act {
    /// Close it.
    Disconnect {
        /// The close code.
        code: u16,
        /// The reason on the wire, below 124 bytes.
        reason: Name,
    },
    /// End its subscription to a channel, to all where that is empty.
    Unsubscribe {
        /// The channel.
        channel: Name,
    },
    /// Subscribe it.
    Subscribe {
        /// The channel.
        channel: Name,
        /// On what terms.
        terms: Box<Terms>,
        /// Where its client was.
        recover: Option<StreamPosition>,
    },
    /// Move its expiry.
    Refresh {
        /// It has expired, and ends.
        expired: bool,
        /// When it must have been refreshed again, in seconds since the Unix epoch; 0: never.
        expire_at_unix_s: u64,
        /// What others see of it from now on, as JSON; `None`: as before.
        info: Option<Bytes>,
    },
    /// Describe it.
    Describe,
}

/// A connection, for a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The client id.
    pub client: String,
    /// The user, empty for an anonymous one.
    pub user: Name,
    /// What the client calls itself (`name` of its connect command).
    pub name: String,
    /// The client's version, as it says.
    pub version: String,
    /// Such as `websocket`.
    pub transport: &'static str,
    /// Seconds since the Unix epoch at which it connected.
    pub connected_at_unix_s: u64,
    /// What only the backend sees of it, as JSON.
    pub meta: Option<Bytes>,
    /// Its channels.
    pub channels: Vec<Name>,
}
