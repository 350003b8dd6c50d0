//! What a connection has beyond a user, boxed because most idle ones have none of it.

use bytes::Bytes;

use super::{NEVER, Session, arrival::Arrival, command::ConnectRequest};
use crate::protocol::{Described, Name};

#[derive(Debug)]
pub(super) struct Credentials {
    /// The connection's info, as JSON, for its `ClientInfo`.
    pub(super) info: Option<Box<[u8]>>,
    /// What only the backend sees of it, as JSON.
    pub(super) meta: Option<Box<[u8]>>,
    /// What the client calls itself and its version, separated by a newline.
    pub(super) agent: Box<str>,
    /// What is kept of the connection's request.
    pub(super) arrival: Option<Box<Arrival>>,
    /// When the connection must have been refreshed; 0 is never.
    pub(super) expire_at_unix_s: u64,
    /// Stands for the channels that the connection's token named; 0 is none.
    pub(super) token_channels: u64,
    /// The backend is being asked whether it goes on.
    pub(super) refreshing: bool,
    /// When to look whether something has expired: the wall clock may be set in between.
    pub(super) expiry_check_ms: u64,
    /// Subscriptions that expire, or of which others see something.
    pub(super) subscriptions: Vec<Remembered>,
    /// What there is only between the connect command and its reply.
    pub(super) entry: Option<Box<Entry>>,
}

/// What is remembered of a subscription.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) channel: Name,
    /// When it must have been refreshed; 0 is never.
    pub(super) at_unix_s: u64,
    /// The backend is being asked whether it goes on.
    pub(super) refreshing: bool,
    /// What others in the channel see of the connection there alone, as JSON.
    pub(super) info: Option<Box<[u8]>>,
}

/// What waits for a connect to be done.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// Commands that the client sent before the backend said who it is, a line each.
    pub(super) held: String,
    /// What the backend wants the client to know, as JSON.
    pub(super) data: Option<Bytes>,
}

impl Credentials {
    fn empty() -> Box<Self> {
        Box::new(Self {
            info: None,
            meta: None,
            agent: Box::default(),
            arrival: None,
            expire_at_unix_s: 0,
            token_channels: 0,
            refreshing: false,
            expiry_check_ms: NEVER,
            subscriptions: Vec::new(),
            entry: None,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.info.is_none()
            && self.meta.is_none()
            && self.agent.is_empty()
            && self.arrival.is_none()
            && self.expire_at_unix_s == 0
            && self.token_channels == 0
            && self.subscriptions.is_empty()
            && self.entry.is_none()
    }

    pub(super) fn set_info(&mut self, info: Option<Bytes>) {
        self.info = info.map(|info| info.to_vec().into());
    }

    pub(super) fn set_meta(&mut self, meta: Option<Bytes>) {
        self.meta = meta.map(|meta| meta.to_vec().into());
    }
}

impl Session {
    /// The same with what is kept of the connection's request.
    #[must_use]
    pub fn arrived(mut self, arrival: Option<Box<Arrival>>) -> Self {
        if arrival.is_some() {
            self.credentials_mut().arrival = arrival;
        }
        self
    }

    pub(super) fn credentials_mut(&mut self) -> &mut Credentials {
        self.credentials.get_or_insert_with(Credentials::empty)
    }

    pub(super) fn remember_agent(&mut self, request: &ConnectRequest<'_>) {
        let (name, version) = (&*request.name, &*request.version);
        if !name.is_empty() || !version.is_empty() {
            let agent = format!("{}\n{}", bounded(name), bounded(version));
            self.credentials_mut().agent = agent.into();
        }
    }

    /// What the client calls itself, and its version.
    pub(super) fn agent(&self) -> (&str, &str) {
        let agent = self.credentials.as_ref().map_or("", |credentials| &credentials.agent);
        agent.split_once('\n').unwrap_or_default()
    }

    pub(super) fn info(&self) -> Option<&[u8]> {
        self.credentials.as_ref()?.info.as_deref()
    }

    /// What only the backend sees of the connection, as JSON.
    pub fn meta(&self) -> Option<&[u8]> {
        self.credentials.as_ref()?.meta.as_deref()
    }

    /// The connection for a backend; its channels are the hub's to know.
    pub fn described(&self, transport: &'static str) -> Described {
        let (name, version) = self.agent();
        Described {
            client: self.client_id(),
            user: Name::clone(&self.user),
            name: name.to_owned(),
            version: version.to_owned(),
            transport,
            connected_at_unix_s: u64::from(self.accepted_unix_s),
            meta: self.meta().map(Bytes::copy_from_slice),
            channels: Vec::new(),
        }
    }
}

/// As much of a client's own text as is worth keeping.
fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}
