//! What channels may be called, and what holds in each of their namespaces.
//!
//! A channel `news:sport` is in the namespace `news`; a name without a boundary is in none and
//! follows [`Channels::without_namespace`]. Options bear Centrifugo's names (centrifugal.dev
//! `docs/server/channels.md`); ours beyond them are `max_subscribers`, `slow_consumer`,
//! `conflation_tag` and `join_leave_by_user`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How a subscriber that was away gets back in step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecoveryMode {
    /// All that was published since its position, or nothing.
    #[default]
    Stream,
    /// The newest publication alone.
    Cache,
}

/// What happens to a subscriber that reads more slowly than its channel is published to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlowConsumer {
    /// It is closed with 3008 and may come back.
    #[default]
    Disconnect,
    /// The oldest publications that wait for it are dropped.
    DropOldest,
    /// Of the publications that wait for it, the newest per key is kept.
    Latest,
}

/// What holds in a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelOptions {
    /// Users may subscribe without a subscription token.
    pub allow_subscribe_for_client: bool,
    /// With the above: anonymous users too.
    pub allow_subscribe_for_anonymous: bool,
    /// Users may publish.
    pub allow_publish_for_client: bool,
    /// Users may publish while subscribed.
    pub allow_publish_for_subscriber: bool,
    /// With one of the two above: anonymous users too.
    pub allow_publish_for_anonymous: bool,
    /// Users may ask who is there.
    pub allow_presence_for_client: bool,
    /// Users may ask who is there while subscribed.
    pub allow_presence_for_subscriber: bool,
    /// With one of the two above: anonymous users too.
    pub allow_presence_for_anonymous: bool,
    /// Users may read the history.
    pub allow_history_for_client: bool,
    /// Users may read the history while subscribed.
    pub allow_history_for_subscriber: bool,
    /// With one of the two above: anonymous users too.
    pub allow_history_for_anonymous: bool,
    /// A name that ends in `#user1,user2` admits these users without a token, and nobody else.
    pub allow_user_limited_channels: bool,
    /// What a name must match, without its namespace's prefix.
    pub channel_regex: Option<String>,
    /// Who is there is known.
    pub presence: bool,
    /// Who comes and goes is published to subscribers that ask for it.
    pub join_leave: bool,
    /// With the above: subscribers need not ask.
    pub force_push_join_leave: bool,
    /// Only a user's first join and last leave are published.
    pub join_leave_by_user: bool,
    /// Publications kept; 0 keeps none.
    pub history_size: usize,
    /// How long publications are kept after the last one; zero keeps none.
    pub history_ttl: Duration,
    /// How long offset and epoch outlive the last publication; zero: [`Channels::history_meta_ttl`].
    pub history_meta_ttl: Duration,
    /// Subscribers may ask to be told of gaps.
    pub allow_positioning: bool,
    /// All subscribers are told of gaps.
    pub force_positioning: bool,
    /// Subscribers may ask to recover.
    pub allow_recovery: bool,
    /// All subscribers recover.
    pub force_recovery: bool,
    /// How they recover.
    pub force_recovery_mode: RecoveryMode,
    /// Subscriptions of one channel; `None` is without a bound.
    pub max_subscribers: Option<std::num::NonZeroUsize>,
    /// What happens to slow subscribers.
    pub slow_consumer: SlowConsumer,
    /// With [`SlowConsumer::Latest`]: the tag that names a publication's key; empty: all
    /// publications of the channel have the same key.
    pub conflation_tag: String,
}

impl ChannelOptions {
    /// Whether publications are kept, and so have offsets.
    pub fn has_history(&self) -> bool {
        self.history_size > 0 && !self.history_ttl.is_zero()
    }
}

/// All namespaces, and what names look like.
#[derive(Clone, Debug, PartialEq)]
pub struct Channels {
    /// What holds for names without a namespace.
    pub without_namespace: Arc<ChannelOptions>,
    /// What holds in each namespace.
    pub namespaces: BTreeMap<String, Arc<ChannelOptions>>,
    /// Bytes of a name.
    pub max_length: usize,
    /// Between namespace and the rest of a name. Default `:`.
    pub namespace_boundary: String,
    /// Before the users of a user-limited name. Default `#`.
    pub user_boundary: String,
    /// Between these users. Default `,`.
    pub user_separator: String,
    /// First in a name that nobody may subscribe to without a token. Default `$`.
    pub private_prefix: String,
    /// How long offset and epoch outlive the last publication. Default 30 days.
    pub history_meta_ttl: Duration,
}

impl Default for Channels {
    fn default() -> Self {
        Self {
            without_namespace: Arc::default(),
            namespaces: BTreeMap::new(),
            max_length: 255,
            namespace_boundary: ":".into(),
            user_boundary: "#".into(),
            user_separator: ",".into(),
            private_prefix: "$".into(),
            history_meta_ttl: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

impl Channels {
    /// What holds in `channel`; `None` when its namespace does not exist.
    pub fn options(&self, channel: &str) -> Option<&Arc<ChannelOptions>> {
        let name = channel.strip_prefix(&*self.private_prefix).unwrap_or(channel);
        match name.split_once(&*self.namespace_boundary) {
            Some((namespace, _)) if !self.namespace_boundary.is_empty() => {
                self.namespaces.get(namespace)
            }
            _ => Some(&self.without_namespace),
        }
    }
}
