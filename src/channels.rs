//! What channels may be called, and what holds in each of their namespaces.
//!
//! A channel `news:sport` is in the namespace `news`; a name without a boundary is in none and
//! follows [`Channels::without_namespace`]. Options bear Centrifugo's names (centrifugal.dev
//! `docs/server/channels.md`); ours beyond them are `max_subscribers`, `slow_consumer`,
//! `conflation_tag` and `join_leave_by_user`.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use regex::Regex;

/// The name of a channel or user, shared by all that mention it.
pub type Name = Arc<str>;

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

/// A regular expression, compiled once, in Go's meaning: `\d`, `\w`, `\s` and `\b` know ASCII alone.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// Compiles `text`.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn new(text: &str) -> Result<Self, String> {
        let regex = Regex::new(&as_in_go(text)).map_err(|error| {
            let message = error.to_string();
            message.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        })?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// Whether some part of `text` matches: a pattern that means all of it has `^` and `$`.
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

/// Classes that mean all of Unicode to us, spelt out as what they mean to Go.
fn as_in_go(text: &str) -> String {
    let mut go = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            go.push(c);
            continue;
        }
        match chars.next() {
            Some('d') => go.push_str("[0-9]"),
            Some('D') => go.push_str("[^0-9]"),
            Some('w') => go.push_str("[0-9A-Za-z_]"),
            Some('W') => go.push_str("[^0-9A-Za-z_]"),
            Some('s') => go.push_str(r"[\t\n\x0c\r ]"),
            Some('S') => go.push_str(r"[^\t\n\x0c\r ]"),
            Some('b') => go.push_str(r"(?-u:\b)"),
            other => {
                go.push(c);
                go.extend(other);
            }
        }
    }
    go
}

/// The name of a proxy of the configuration; by default that of the one that needs no name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyName(pub String);

impl ProxyName {
    /// What the proxy in the section of the event itself is called.
    pub const DEFAULT: &str = "default";
}

impl Default for ProxyName {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
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
    /// What a name must match, without its namespace's prefix; without it, names are ASCII.
    pub channel_regex: Option<Pattern>,
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
    /// The backend decides who may subscribe without a token.
    pub subscribe_proxy_enabled: bool,
    /// By which proxy.
    pub subscribe_proxy_name: ProxyName,
    /// The backend decides what clients may publish.
    pub publish_proxy_enabled: bool,
    /// By which proxy.
    pub publish_proxy_name: ProxyName,
    /// The backend, rather than the client's token, prolongs subscriptions.
    pub sub_refresh_proxy_enabled: bool,
    /// By which proxy.
    pub sub_refresh_proxy_name: ProxyName,
    /// The backend is told when a channel gets its first and loses its last subscriber.
    pub state_proxy_enabled: bool,
    /// By which proxy.
    pub state_proxy_name: ProxyName,
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

/// Why a name is no channel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFault {
    /// It is empty, too long, or not what `channel_regex` asks for.
    Malformed,
    /// Its namespace does not exist.
    UnknownNamespace,
}

impl Channels {
    /// What holds in `channel`; `None` when its namespace does not exist.
    pub fn options(&self, channel: &str) -> Option<&Arc<ChannelOptions>> {
        Some(self.resolve(channel)?.0)
    }

    /// What holds in a channel that a peer names, if it may be called so.
    ///
    /// # Errors
    /// What is wrong with the name, in Centrifugo's order: length, namespace, `channel_regex`.
    pub fn named(&self, channel: &str) -> Result<&Arc<ChannelOptions>, NameFault> {
        if channel.is_empty() || channel.len() > self.max_length {
            return Err(NameFault::Malformed);
        }
        let (options, rest) = self.resolve(channel).ok_or(NameFault::UnknownNamespace)?;
        let well_formed = match &options.channel_regex {
            Some(pattern) => pattern.matches(rest),
            None => channel.is_ascii(),
        };
        if well_formed { Ok(options) } else { Err(NameFault::Malformed) }
    }

    /// What holds in a channel that a token or the backend names, of at most
    /// [`max_length`](Self::max_length) bytes: what else it may be called is theirs to say, as in
    /// Centrifugo. `None` when its namespace does not exist.
    pub fn granted(&self, channel: &str) -> Option<&Arc<ChannelOptions>> {
        if channel.len() > self.max_length {
            return None;
        }
        self.options(channel)
    }

    /// Whether nobody may subscribe to `channel` without a token.
    pub fn is_private(&self, channel: &str) -> bool {
        !self.private_prefix.is_empty() && channel.starts_with(&*self.private_prefix)
    }

    /// The users that a name such as `room#7,9` is limited to; `None` when it names none.
    pub fn limited_to<'a>(&'a self, channel: &'a str) -> Option<impl Iterator<Item = &'a str>> {
        if self.user_boundary.is_empty() {
            return None;
        }
        let (_, users) = channel.rsplit_once(&*self.user_boundary)?;
        // No user's id is empty, so an empty separator separates nothing: one user is named.
        let separator = Some(&*self.user_separator).filter(|separator| !separator.is_empty());
        let mut rest = Some(users);
        Some(std::iter::from_fn(move || {
            let users = rest?;
            let (user, others) = match separator.and_then(|separator| users.split_once(separator)) {
                Some((user, others)) => (user, Some(others)),
                None => (users, None),
            };
            rest = others;
            Some(user)
        }))
    }

    /// The channel of `user` alone; `namespace` is empty for none.
    pub fn personal(&self, namespace: &str, user: &str) -> String {
        let boundary = if namespace.is_empty() { "" } else { &self.namespace_boundary };
        [namespace, boundary, &self.user_boundary, user].concat()
    }

    /// What holds in `channel`, and what `channel_regex` looks at.
    fn resolve<'a>(&self, channel: &'a str) -> Option<(&Arc<ChannelOptions>, &'a str)> {
        if self.namespace_boundary.is_empty() {
            return Some((&self.without_namespace, channel));
        }
        let name = channel.strip_prefix(&*self.private_prefix).unwrap_or(channel);
        match name.split_once(&*self.namespace_boundary) {
            Some(("", rest)) => Some((&self.without_namespace, rest)),
            Some((namespace, rest)) => Some((self.namespaces.get(namespace)?, rest)),
            None => Some((&self.without_namespace, channel)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels() -> Channels {
        let regex = Pattern::new("^[a-z]+$").unwrap();
        let news = ChannelOptions { channel_regex: Some(regex), ..ChannelOptions::default() };
        let chat = ChannelOptions { presence: true, ..ChannelOptions::default() };
        Channels {
            namespaces: BTreeMap::from([
                ("news".into(), Arc::new(news)),
                ("chat".into(), Arc::new(chat)),
            ]),
            max_length: 12,
            ..Channels::default()
        }
    }

    #[test]
    fn names_find_their_namespace() {
        let channels = channels();
        let chat = &channels.namespaces["chat"];
        let none = &channels.without_namespace;
        for (name, options) in [
            ("chat:a", Some(chat)),
            ("$chat:a", Some(chat)),
            ("chat:a:b", Some(chat)),
            ("chat", Some(none)),
            ("$chat", Some(none)),
            (":chat", Some(none)),
            ("x:a", None),
            ("cha:a", None),
            ("$$chat:a", None),
        ] {
            let found = channels.options(name);
            assert_eq!(found.map(Arc::as_ptr), options.map(Arc::as_ptr), "{name}");
        }
        let flat = Channels { namespace_boundary: String::new(), ..channels.clone() };
        assert!(flat.options("x:a").is_some());
        let wide = Channels { namespace_boundary: "::".into(), ..channels };
        assert!(wide.options("chat::a").unwrap().presence);
        assert!(!wide.options("chat:a").unwrap().presence);
    }

    #[test]
    fn names_are_checked_in_order() {
        use NameFault::{Malformed, UnknownNamespace};
        let channels = channels();
        for (name, fault) in [
            ("chat:a", None),
            ("123456789012", None),
            ("1234567890123", Some(Malformed)),
            ("x:3456789012", Some(UnknownNamespace)),
            ("x:34567890123", Some(Malformed)),
            ("", Some(Malformed)),
            ("chat:\u{e9}", Some(Malformed)),
            ("news:sport", None),
            ("$news:sport", None),
            ("news:Sport", Some(Malformed)),
            ("news:", Some(Malformed)),
        ] {
            assert_eq!(channels.named(name).err(), fault, "{name}");
        }
    }

    #[test]
    fn users_behind_the_last_boundary_are_named() {
        let channels = channels();
        let users = |name| channels.limited_to(name).map(Iterator::collect::<Vec<_>>);
        assert_eq!(users("chat:a"), None);
        assert_eq!(users("chat:a#1"), Some(vec!["1"]));
        assert_eq!(users("a#b#1,22"), Some(vec!["1", "22"]));
        assert_eq!(users("#"), Some(vec![""]));
        let single = Channels { user_separator: String::new(), ..channels.clone() };
        assert_eq!(single.limited_to("a#1,2").unwrap().collect::<Vec<_>>(), ["1,2"]);
        let off = Channels { user_boundary: String::new(), ..channels.clone() };
        assert!(off.limited_to("a#1").is_none());
        assert_eq!(channels.personal("", "7"), "#7");
        assert_eq!(channels.personal("chat", "7"), "chat:#7");
    }

    #[test]
    fn the_private_prefix_may_be_none() {
        let channels = channels();
        assert!(channels.is_private("$a") && !channels.is_private("a$"));
        let open = Channels { private_prefix: String::new(), ..channels };
        assert!(!open.is_private("$a") && !open.is_private(""));
    }

    #[test]
    fn patterns_mean_what_they_mean_to_go() {
        let thai_seven = "\u{e57}";
        for (pattern, text, matches) in [
            (r"^\d+$", "07", true),
            (r"^\d+$", thai_seven, false),
            (r"^[\w-]+$", "a-b_0", true),
            (r"^\w$", "\u{e9}", false),
            (r"^\W$", "\u{e9}", true),
            (r"^[^\s]+$", "a\u{a0}", true),
            (r"^\S+$", "a b", false),
            (r"\bb\b", "a b c", true),
            (r"^\\d$", r"\d", true),
            (r"^\.$", "x", false),
            (r"(?i)^a$", "A", true),
            ("b", "abc", true),
        ] {
            let compiled = Pattern::new(pattern).unwrap();
            assert_eq!(compiled.matches(text), matches, "{pattern} {text}");
            assert_eq!(compiled.as_str(), pattern);
        }
        assert_eq!(Pattern::new("a(").unwrap_err(), "unclosed group");
    }
}
