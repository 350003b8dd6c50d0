//! What a subscription has beyond the publications of its channel, and what its grant brings.

use std::sync::Arc;

use bytes::Bytes;

use super::{Name, StreamPosition};

/// Who a subscriber is, as others in the channel see it.
#[derive(Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// The connection's client id.
    pub client: String,
    /// The user, empty for an anonymous one.
    pub user: Name,
    /// The `ClientInfo` as encoded JSON.
    pub json: Bytes,
}

/// What a subscription asks of its channel's home. Decided by the session, from the namespace, the
/// token and the client's wish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// It appears in the channel's presence.
    pub presence: bool,
    /// Others are told that it came and went.
    pub join_leave: bool,
    /// It is told where in the stream it begins, and of gaps.
    pub position: bool,
    /// It may recover what it missed; has a position too.
    pub recovery: bool,
    /// Of what it missed, the newest publication is enough.
    pub cache: bool,
}

/// A subscription that is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// What it asks of the home.
    pub wants: Wants,
    /// It is told who comes and goes.
    pub push_join_leave: bool,
    /// Where it was, to get what it missed since.
    pub recover: Option<StreamPosition>,
    /// When it cannot recover, it is not to be: error 112.
    pub reject_unrecovered: bool,
    /// Who it is; needed with presence or join and leave.
    pub member: Option<Arc<MemberInfo>>,
    /// What others in the channel see of it beyond the connection's own info, as JSON.
    pub info: Option<Bytes>,
    /// The server subscribes the connection; its client did not ask.
    pub server_side: bool,
    /// When it must have been refreshed, in seconds since the Unix epoch; 0: never.
    pub expire_at_unix_s: u64,
    /// What the client is told with the grant, as JSON.
    pub data: Option<Bytes>,
}

impl SubscribeOptions {
    /// The same for a subscription that the server makes: it is, whether it recovers or not, as in
    /// centrifuge, for there is no command of the client that could be refused.
    #[must_use]
    pub fn by_server(self) -> Self {
        Self { server_side: true, reject_unrecovered: false, ..self }
    }

    /// Whether nothing of it must be remembered once the home was asked.
    pub fn is_plain(&self) -> bool {
        let Self { wants, recover, server_side, expire_at_unix_s, data, info, member, .. } = self;
        let told = wants.position || wants.recovery || recover.is_some();
        let said = data.is_some() || info.is_some() || member.is_some();
        !told && !said && !server_side && *expire_at_unix_s == 0
    }
}

/// What became of a wish to recover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// There was no such wish.
    NotAsked,
    /// All publications since the position, as encoded JSON, ascending.
    All(Vec<Bytes>),
    /// They are not all there any more.
    Not,
}

/// Where a subscription begins in its channel's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The stream's position at the grant.
    pub position: StreamPosition,
    /// What it missed before.
    pub recovered: Recovered,
}

/// A subscription that is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// To which channel.
    pub channel: Name,
    /// As it was asked for.
    pub options: SubscribeOptions,
    /// Where it begins; `None` in a channel without a stream, and where nobody asked.
    pub begin: Option<Begin>,
}
