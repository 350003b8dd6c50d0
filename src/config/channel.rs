//! `channel`: what channels may be called, and what holds in them.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::proxy::Proxy;
use super::section::{section, walk};
use super::value::{
    lifetime, name, number, pattern, plain, proxy_name, recovery_mode, slow_consumer, switch,
};
use crate::channels::{ChannelOptions, Channels};

section! {
    /// `channel`: what channels may be called, and what holds in them.
    Channel {
        /// Bytes of a channel's name.
        max_length: usize = 255, |v| number(v, 1..=4096);
        /// How long the position of a stream outlives its last publication.
        history_meta_ttl: Duration = Duration::from_secs(30 * 24 * 3600), lifetime;
        /// Between namespace and the rest of a name; empty: there are no namespaces.
        namespace_boundary: String = ":".into(), plain;
        /// Before the users of a name that is limited to them; empty: there are no such names.
        user_boundary: String = "#".into(), plain;
        /// Between these users; empty: there is only one.
        user_separator: String = ",".into(), plain;
        /// First in a name that nobody may subscribe to without a token; empty: there are none.
        private_prefix: String = "$".into(), plain;
    }
    lists {
        /// What holds in channels of each namespace.
        namespaces: Namespace;
    }
    sections {
        /// What holds in channels without a namespace.
        without_namespace: ChannelOptions;
        /// The proxies named "default".
        proxy: ChannelProxies;
    }
}

impl Channel {
    /// The same in the form that sessions and homes share.
    pub fn channels(&self) -> Channels {
        let namespaces = self.namespaces.iter();
        Channels {
            without_namespace: Arc::new(self.without_namespace.clone()),
            namespaces: namespaces
                .map(|namespace| (namespace.name.clone(), Arc::new(namespace.options.clone())))
                .collect(),
            max_length: self.max_length,
            namespace_boundary: self.namespace_boundary.clone(),
            user_boundary: self.user_boundary.clone(),
            user_separator: self.user_separator.clone(),
            private_prefix: self.private_prefix.clone(),
            history_meta_ttl: self.history_meta_ttl,
        }
    }

    /// The options of every namespace, and of none, with the path at which they stand.
    pub(super) fn all_options(&self) -> impl Iterator<Item = (String, &ChannelOptions)> {
        let namespaces = self.namespaces.iter().enumerate();
        let namespaces = namespaces
            .map(|(index, namespace)| (format!("channel.namespaces[{index}]"), &namespace.options));
        [("channel.without_namespace".into(), &self.without_namespace)]
            .into_iter()
            .chain(namespaces)
    }
}

section! {
    /// An element of `channel.namespaces`.
    Namespace {
        /// What the names of its channels begin with.
        name: String = String::new(), name;
    }
    flat {
        /// What holds in them.
        options: ChannelOptions;
    }
}

section! {
    /// `channel.proxy`: what the backend decides or is told about channels.
    ChannelProxies {
    }
    sections {
        /// Who may subscribe without a token.
        subscribe: Proxy;
        /// What clients may publish.
        publish: Proxy;
        /// Whether an expired subscription goes on.
        sub_refresh: Proxy;
        /// It is told when a channel gets its first and loses its last subscriber.
        state: Proxy;
    }
}

walk! {
    ChannelOptions {
        /// Users may subscribe without a subscription token.
        allow_subscribe_for_client, switch;
        /// With the above: the anonymous user too.
        allow_subscribe_for_anonymous, switch;
        /// Users may publish.
        allow_publish_for_client, switch;
        /// Users may publish while subscribed.
        allow_publish_for_subscriber, switch;
        /// With one of the two above: the anonymous user too.
        allow_publish_for_anonymous, switch;
        /// Users may ask who is there.
        allow_presence_for_client, switch;
        /// Users may ask who is there while subscribed.
        allow_presence_for_subscriber, switch;
        /// With one of the two above: the anonymous user too.
        allow_presence_for_anonymous, switch;
        /// Users may read the history.
        allow_history_for_client, switch;
        /// Users may read the history while subscribed.
        allow_history_for_subscriber, switch;
        /// With one of the two above: the anonymous user too.
        allow_history_for_anonymous, switch;
        /// A name that ends in #user1,user2 admits these users without a token, and nobody else.
        allow_user_limited_channels, switch;
        /// What a name must match behind its namespace; without it, names are ASCII.
        channel_regex, pattern;
        /// Who is there is known.
        presence, switch;
        /// Who comes and goes is published to subscribers that ask for it.
        join_leave, switch;
        /// With the above: subscribers need not ask.
        force_push_join_leave, switch;
        /// Only a user's first join and last leave are published. tiderace's own.
        join_leave_by_user, switch;
        /// Publications kept; 0 keeps none.
        history_size, |v| number(v, 0..=1 << 24);
        /// How long publications are kept after the last one.
        history_ttl, lifetime;
        /// How long the position outlives the last publication; 0s is channel.history_meta_ttl.
        history_meta_ttl, lifetime;
        /// Subscribers may ask to be told of gaps.
        allow_positioning, switch;
        /// All subscribers are told of gaps.
        force_positioning, switch;
        /// Subscribers may ask to recover what they missed.
        allow_recovery, switch;
        /// All subscribers recover what they missed.
        force_recovery, switch;
        /// "stream" recovers all that was missed or nothing, "cache" the newest publication.
        force_recovery_mode, recovery_mode;
        /// Subscriptions of one channel; 0 is without a limit. tiderace's own.
        max_subscribers, |v| number(v, 0..=1 << 32).map(NonZeroUsize::new);
        /// What happens to a subscriber that is slow: "disconnect", "drop_oldest", or "latest",
        /// which keeps the newest publication per key. tiderace's own.
        slow_consumer, slow_consumer;
        /// The tag that is the key of a publication for "latest"; empty: all have the same.
        /// tiderace's own.
        conflation_tag, plain;
        /// The backend decides who may subscribe without a token.
        subscribe_proxy_enabled, switch;
        /// By which proxy.
        subscribe_proxy_name, proxy_name;
        /// The backend decides what clients may publish.
        publish_proxy_enabled, switch;
        /// By which proxy.
        publish_proxy_name, proxy_name;
        /// The backend decides whether an expired subscription goes on.
        sub_refresh_proxy_enabled, switch;
        /// By which proxy.
        sub_refresh_proxy_name, proxy_name;
        /// The backend is told when a channel gets its first and loses its last subscriber.
        state_proxy_enabled, switch;
        /// By which proxy.
        state_proxy_name, proxy_name;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::section::Section as _;

    #[test]
    fn the_table_has_every_field_of_the_options() {
        let debug = format!("{:#?}", ChannelOptions::default());
        let fields = debug.lines().filter(|line| line.starts_with("    ") && &line[4..5] != " ");
        let fields: BTreeSet<_> =
            fields.filter_map(|line| Some(line.trim().split_once(':')?.0)).collect();
        let entries = ChannelOptions::default().entries();
        let entries: BTreeSet<_> = entries.iter().map(|entry| entry.name).collect();
        assert_eq!(fields, entries);
    }

    #[test]
    fn sessions_get_what_was_configured() {
        let mut channel = Channel { max_length: 9, ..Channel::default() };
        assert_eq!(Channel::default().channels(), Channels::default());
        channel.without_namespace.presence = true;
        let options = ChannelOptions { history_size: 3, ..ChannelOptions::default() };
        channel.namespaces.push(Namespace { name: "ns".into(), options: options.clone() });
        let channels = channel.channels();
        assert_eq!(channels.max_length, 9);
        assert!(channels.without_namespace.presence);
        assert_eq!(*channels.namespaces["ns"], options);
    }
}
