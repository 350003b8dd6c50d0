//! What sessions and homes say to each other about a channel's stream: positions, and what was published.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Name;

/// A place in a channel's stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamPosition {
    /// Of the last publication before it; 0 before the first.
    pub offset: u64,
    /// The stream's epoch: offsets of different epochs are not compared. Empty: any.
    pub epoch: Name,
}

/// What few publications have beyond channel and payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicationExtra {
    /// Texts for filters, and the key of conflation; delivered with the publication.
    pub tags: BTreeMap<String, String>,
    /// A second publication to the channel with the same key is answered like the first, and is
    /// not delivered.
    pub idempotency_key: Option<Name>,
    /// The payload's version; one that is not above the channel's last is not delivered. 0: none.
    pub version: u64,
    /// Versions of different epochs are not compared.
    pub version_epoch: String,
    /// The publication is delivered and not kept.
    pub skip_history: bool,
}

/// Which part of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryFilter {
    /// Publications at most; `None`: all; 0: the position alone.
    pub limit: Option<usize>,
    /// What follows this position (or precedes it in reverse); `None`: from the start.
    pub since: Option<StreamPosition>,
    /// The newest first.
    pub reverse: bool,
}

/// Publications, and where their stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Publications as encoded JSON, in the order that was asked for.
    pub publications: Vec<Bytes>,
    /// The stream's top.
    pub position: StreamPosition,
}

/// What can be asked about a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Who is there.
    Presence,
    /// How many are there.
    PresenceStats,
    /// What was published.
    History(HistoryFilter),
    /// Forget what was published.
    RemoveHistory,
}
