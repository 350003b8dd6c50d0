//! Who may do what in a channel: Centrifugo's decisions (`internal/client/handler.go`) as functions.
//!
//! They look at a name that [`Channels::named`] accepted, and at the user's id, which is empty for
//! the anonymous user. `insecure` is `client.insecure`: everybody may do everything, but for
//! subscribing to a private channel without a token.

use crate::channels::{ChannelOptions, Channels};

/// What the permissions of a namespace say to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may be done.
    Allowed,
    /// It may be done by who is subscribed to the channel.
    IfSubscribed,
    /// The backend decides, through the proxy that the options name.
    AskBackend,
    /// It may not be done.
    Denied,
}

impl Access {
    /// Whether somebody who is, or is about to be, subscribed may do it without asking the backend.
    ///
    /// So centrifugo decides on what a subscribe request asks for: positioning and recovery follow
    /// from [`may_history`], join and leave messages from [`may_presence`].
    pub fn of_subscriber(self) -> bool {
        matches!(self, Self::Allowed | Self::IfSubscribed)
    }
}

/// Whether `user` may subscribe to `channel`, by a token for this subscription that was found
/// valid, or without one. Never [`Access::IfSubscribed`].
pub fn may_subscribe(
    channels: &Channels,
    options: &ChannelOptions,
    channel: &str,
    user: &str,
    has_valid_token: bool,
    insecure: bool,
) -> Access {
    if has_valid_token {
        return Access::Allowed;
    }
    if channels.is_private(channel) {
        return Access::Denied;
    }
    let limited =
        options.allow_user_limited_channels.then(|| channels.limited_to(channel)).flatten();
    match limited {
        // Centrifugo admits the anonymous user to `room#`, a list without anybody. We do not.
        Some(mut users) => {
            if insecure || !user.is_empty() && users.any(|named| named == user) {
                return Access::Allowed;
            }
        }
        None => {
            if options.subscribe_proxy_enabled {
                return Access::AskBackend;
            }
            let known = !user.is_empty() || options.allow_subscribe_for_anonymous;
            if insecure || options.allow_subscribe_for_client && known {
                return Access::Allowed;
            }
        }
    }
    Access::Denied
}

/// Whether `user` may publish. The backend, where it is to be asked, is asked first.
pub fn may_publish(options: &ChannelOptions, user: &str, insecure: bool) -> Access {
    if options.publish_proxy_enabled {
        return Access::AskBackend;
    }
    of_three(
        options.allow_publish_for_client,
        options.allow_publish_for_subscriber,
        !user.is_empty() || options.allow_publish_for_anonymous,
        insecure,
    )
}

/// Whether `user` may ask who is there. That presence is on is the caller's to check, before.
pub fn may_presence(options: &ChannelOptions, user: &str, insecure: bool) -> Access {
    of_three(
        options.allow_presence_for_client,
        options.allow_presence_for_subscriber,
        !user.is_empty() || options.allow_presence_for_anonymous,
        insecure,
    )
}

/// Whether `user` may read the history. That there is one is the caller's to check, before.
pub fn may_history(options: &ChannelOptions, user: &str, insecure: bool) -> Access {
    of_three(
        options.allow_history_for_client,
        options.allow_history_for_subscriber,
        !user.is_empty() || options.allow_history_for_anonymous,
        insecure,
    )
}

fn of_three(client: bool, subscriber: bool, known: bool, insecure: bool) -> Access {
    if insecure || client && known {
        Access::Allowed
    } else if subscriber && known {
        Access::IfSubscribed
    } else {
        Access::Denied
    }
}

#[cfg(test)]
mod tests {
    use super::Access::{Allowed, AskBackend, Denied, IfSubscribed};
    use super::*;

    fn subscribe(options: &ChannelOptions, channel: &str, user: &str) -> Access {
        may_subscribe(&Channels::default(), options, channel, user, false, false)
    }

    #[test]
    fn subscribing_follows_the_order_of_centrifugo() {
        let none = ChannelOptions::default();
        let users = ChannelOptions { allow_subscribe_for_client: true, ..none.clone() };
        let all = ChannelOptions { allow_subscribe_for_anonymous: true, ..users.clone() };
        let anonymous_alone =
            ChannelOptions { allow_subscribe_for_anonymous: true, ..none.clone() };
        let limited = ChannelOptions { allow_user_limited_channels: true, ..all.clone() };
        let proxied = ChannelOptions { subscribe_proxy_enabled: true, ..limited.clone() };
        for (options, channel, user, access) in [
            (&none, "a", "7", Denied),
            (&users, "a", "7", Allowed),
            (&users, "a", "", Denied),
            (&all, "a", "", Allowed),
            (&anonymous_alone, "a", "", Denied),
            (&all, "$a", "7", Denied),
            // Without the option a boundary means nothing.
            (&all, "a#8", "7", Allowed),
            (&limited, "a#8", "7", Denied),
            (&limited, "a#8,7", "7", Allowed),
            (&limited, "a#77", "7", Denied),
            (&limited, "a#", "", Denied),
            (&limited, "a", "7", Allowed),
            (&limited, "$a#7", "7", Denied),
            (&proxied, "a", "7", AskBackend),
            (&proxied, "a#7", "7", Allowed),
            (&proxied, "a#8", "7", Denied),
            (&proxied, "$a", "7", Denied),
        ] {
            assert_eq!(subscribe(options, channel, user), access, "{channel} {user} {options:?}");
        }
    }

    #[test]
    fn tokens_open_every_channel_and_insecure_all_but_private_ones() {
        let channels = Channels::default();
        let limited =
            ChannelOptions { allow_user_limited_channels: true, ..ChannelOptions::default() };
        let proxied = ChannelOptions { subscribe_proxy_enabled: true, ..limited.clone() };
        for (options, channel, with_token, insecure) in [
            (&limited, "a", Allowed, Allowed),
            (&limited, "a#8", Allowed, Allowed),
            (&limited, "$a", Allowed, Denied),
            (&proxied, "a", Allowed, AskBackend),
        ] {
            let may =
                |token, insecure| may_subscribe(&channels, options, channel, "7", token, insecure);
            assert_eq!(may(true, false), with_token, "{channel}");
            assert_eq!(may(false, true), insecure, "{channel}");
        }
    }

    #[test]
    fn three_permissions_decide_the_rest() {
        type May = fn(&ChannelOptions, &str, bool) -> Access;
        type Set = fn(&mut ChannelOptions, bool, bool, bool);
        let operations: [(May, Set); 3] = [
            (may_publish, |options, client, subscriber, anonymous| {
                options.allow_publish_for_client = client;
                options.allow_publish_for_subscriber = subscriber;
                options.allow_publish_for_anonymous = anonymous;
            }),
            (may_presence, |options, client, subscriber, anonymous| {
                options.allow_presence_for_client = client;
                options.allow_presence_for_subscriber = subscriber;
                options.allow_presence_for_anonymous = anonymous;
            }),
            (may_history, |options, client, subscriber, anonymous| {
                options.allow_history_for_client = client;
                options.allow_history_for_subscriber = subscriber;
                options.allow_history_for_anonymous = anonymous;
            }),
        ];
        for (may, set) in operations {
            // For client, subscriber, anonymous; what a user and an anonymous get.
            for (client, subscriber, anonymous, for_user, for_anonymous) in [
                (false, false, false, Denied, Denied),
                (true, false, false, Allowed, Denied),
                (false, true, false, IfSubscribed, Denied),
                (true, true, false, Allowed, Denied),
                (false, false, true, Denied, Denied),
                (true, false, true, Allowed, Allowed),
                (false, true, true, IfSubscribed, IfSubscribed),
                (true, true, true, Allowed, Allowed),
            ] {
                let mut options = ChannelOptions::default();
                set(&mut options, client, subscriber, anonymous);
                assert_eq!(may(&options, "7", false), for_user, "{options:?}");
                assert_eq!(may(&options, "", false), for_anonymous, "{options:?}");
                assert_eq!(may(&options, "", true), Allowed, "{options:?}");
            }
        }
        let proxied = ChannelOptions {
            allow_publish_for_client: true,
            publish_proxy_enabled: true,
            ..ChannelOptions::default()
        };
        assert_eq!(may_publish(&proxied, "7", true), AskBackend, "also where all else is open");
        assert!(Allowed.of_subscriber() && IfSubscribed.of_subscriber());
        assert!(!AskBackend.of_subscriber() && !Denied.of_subscriber());
    }
}
