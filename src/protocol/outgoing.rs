//! A message to many connections at once, to whom it goes, and how many got it.

use bytes::Bytes;
use serde::Serialize;

use super::{Name, Payload, handler::ConnectionRef};

/// A message of an embedder for connections of either kind. Handlers' clients get it as it is;
/// Centrifuge clients get the payload of a `message` push, where text is a JSON string and binary
/// one in base64, or of a publication, where it goes to a channel.
///
/// It is encoded once per wire format, whatever the number of receivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub(crate) payload: Payload,
    pub(crate) data: Bytes,
    pub(crate) except: Option<ConnectionRef>,
}

impl Outgoing {
    /// A text message.
    pub fn text(text: impl Into<String>) -> Self {
        Self { payload: Payload::Text, data: text.into().into(), except: None }
    }

    /// A binary message.
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self { payload: Payload::Binary, data: bytes.into(), except: None }
    }

    /// A value as JSON: a text message, and for Centrifuge clients the value itself.
    ///
    /// # Errors
    /// When it cannot be JSON, such as a map whose keys are no strings.
    pub fn json(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        let data = serde_json::to_vec(value)?.into();
        Ok(Self { payload: Payload::Json, data, except: None })
    }

    /// The same for all but one connection, such as the one that it came from.
    #[must_use]
    pub fn except(self, connection: ConnectionRef) -> Self {
        Self { except: Some(connection), ..self }
    }
}

/// To whom a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody: handlers' connections, and Centrifuge clients that are connected.
    All,
    /// Every connection of a user, on whatever device; of the empty user, nobody.
    User(Name),
    /// The subscribers of a channel, as a publication: in the channel's order, and kept where the
    /// channel has a history.
    Channel(Name),
}

/// How many connections a message reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Those for which it is queued. What the peer's computer then gets is its network's.
    pub queued: u32,
    /// Those that could not take it: too much waits for them already, they are about to be gone, or
    /// their shard is behind.
    pub failed: u32,
}

impl Delivery {
    /// Counts one connection.
    pub(crate) fn count(&mut self, queued: bool) {
        let count = if queued { &mut self.queued } else { &mut self.failed };
        *count += 1;
    }

    /// Adds what another shard counted.
    pub(crate) fn add(&mut self, other: Self) {
        self.queued += other.queued;
        self.failed += other.failed;
    }
}
