//! On what terms a subscription is: what its namespace has, what a token or a backend granted
//! beyond it, and what the client wishes, as far as it may.

use super::{Policy, Session, command::SubscribeRequest};
use crate::{
    auth::{
        Terms,
        permissions::{may_history, may_presence},
    },
    channels::{ChannelOptions, RecoveryMode},
    protocol::{Name, StreamPosition, SubscribeOptions, Wants},
};

/// A subscribe's `flag` by which a failed recovery is error 112.
const REJECT_UNRECOVERED: i64 = 2;

/// What a client wishes of a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Where it was, to get what it missed since.
    recover: Option<StreamPosition>,
    /// To be able to recover later.
    recoverable: bool,
    /// To be told of gaps.
    positioned: bool,
    /// To be told who comes and goes.
    join_leave: bool,
    /// Not to be subscribed, where it cannot recover.
    reject_unrecovered: bool,
}

impl Wish {
    pub(super) fn of(request: &SubscribeRequest<'_>) -> Self {
        Self {
            recover: request.recover.then(|| StreamPosition {
                offset: request.offset,
                epoch: Name::from(&*request.epoch),
            }),
            recoverable: request.recoverable,
            positioned: request.positioned,
            join_leave: request.join_leave,
            reject_unrecovered: request.flag & REJECT_UNRECOVERED != 0,
        }
    }
}

impl Session {
    /// What a subscription is to have.
    pub(super) fn on_terms(
        &self,
        policy: &Policy,
        options: &ChannelOptions,
        wish: &Wish,
        terms: Terms,
    ) -> SubscribeOptions {
        let history = options.has_history();
        let reads = may_history(options, &self.user, policy.insecure).of_subscriber();
        let sees = may_presence(options, &self.user, policy.insecure).of_subscriber();
        let Terms { info, data, overrides, expire_at_unix_s, cache_recover } = terms;
        let force_recovery = overrides.force_recovery.unwrap_or(options.force_recovery);
        let force_position = overrides.force_positioning.unwrap_or(options.force_positioning);
        let recovery = history
            && (force_recovery
                || (wish.recoverable || wish.recover.is_some())
                    && (options.allow_recovery || reads));
        let position = history
            && (recovery
                || force_position
                || wish.positioned && (options.allow_positioning || reads));
        let wants = Wants {
            presence: overrides.presence.unwrap_or(options.presence),
            join_leave: overrides.join_leave.unwrap_or(options.join_leave),
            position,
            recovery,
            cache: options.force_recovery_mode == RecoveryMode::Cache,
        };
        let force_push = overrides.force_push_join_leave.unwrap_or(options.force_push_join_leave);
        let seen = wants.presence || wants.join_leave;
        // In cache mode a position before everything gets the newest publication.
        let newest = (cache_recover && wants.cache).then(StreamPosition::default);
        SubscribeOptions {
            wants,
            push_join_leave: force_push || options.join_leave && wish.join_leave && sees,
            recover: wish.recover.clone().or(newest).filter(|_| recovery),
            reject_unrecovered: wish.reject_unrecovered,
            member: seen.then(|| self.member(info.as_deref())),
            info,
            server_side: false,
            expire_at_unix_s,
            data,
        }
    }

    /// What a subscription is to have that a backend makes, or `None` where the channel's namespace
    /// does not exist.
    pub fn server_terms(
        &self,
        policy: &Policy,
        channel: &str,
        recover: Option<StreamPosition>,
        terms: Terms,
    ) -> Option<SubscribeOptions> {
        let options = policy.channels.options(channel)?;
        let mut wanted = self.on_terms(policy, options, &Wish::default(), terms).by_server();
        if recover.is_some() && options.has_history() {
            wanted.wants.recovery = true;
            wanted.wants.position = true;
            wanted.recover = recover;
        }
        Some(wanted)
    }
}
