//! On what terms a subscription is: what its namespace has, what a token or a backend granted
//! beyond it, and what the client wishes, as far as it may.

use bytes::Bytes;

use super::{Policy, Session, command::SubscribeRequest, one_line};
use crate::{
    auth::{
        claims,
        permissions::{may_history, may_presence},
    },
    channels::{ChannelOptions, RecoveryMode},
    protocol::{Name, StreamPosition, SubscribeOptions, Wants},
};

/// A subscribe's `flag` by which a failed recovery is error 112.
const REJECT_UNRECOVERED: i64 = 2;

/// What a token or a backend granted to one subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What others in the channel see of it beyond the connection's own info, as JSON.
    pub info: Option<Bytes>,
    /// What the client is told with the grant, as JSON.
    pub data: Option<Bytes>,
    /// Options of the channel that it has otherwise.
    pub overrides: claims::SubscribeOverrides,
    /// When it must have been refreshed, in seconds since the Unix epoch; 0: never.
    pub expire_at_unix_s: u64,
}

impl Terms {
    /// What a token's claims say of a subscription.
    pub(super) fn of_claims(options: claims::SubscribeOptions, expire_at_unix_s: u64) -> Self {
        Self {
            info: options.info.map(|info| one_line(&info)),
            data: options.data.map(|data| one_line(&data)),
            overrides: options.overrides,
            expire_at_unix_s,
        }
    }
}

impl Session {
    /// What a subscription is to have.
    pub(super) fn on_terms(
        &self,
        policy: &Policy,
        options: &ChannelOptions,
        request: &SubscribeRequest<'_>,
        terms: Terms,
    ) -> SubscribeOptions {
        let history = options.has_history();
        let reads = may_history(options, &self.user, policy.insecure).of_subscriber();
        let sees = may_presence(options, &self.user, policy.insecure).of_subscriber();
        let Terms { info, data, overrides, expire_at_unix_s } = terms;
        let force_recovery = overrides.force_recovery.unwrap_or(options.force_recovery);
        let force_position = overrides.force_positioning.unwrap_or(options.force_positioning);
        let recovery = history
            && (force_recovery
                || (request.recoverable || request.recover) && (options.allow_recovery || reads));
        let position = history
            && (recovery
                || force_position
                || request.positioned && (options.allow_positioning || reads));
        let wants = Wants {
            presence: overrides.presence.unwrap_or(options.presence),
            join_leave: overrides.join_leave.unwrap_or(options.join_leave),
            position,
            recovery,
            cache: options.force_recovery_mode == RecoveryMode::Cache,
        };
        let force_push = overrides.force_push_join_leave.unwrap_or(options.force_push_join_leave);
        let seen = wants.presence || wants.join_leave;
        SubscribeOptions {
            wants,
            push_join_leave: force_push || options.join_leave && request.join_leave && sees,
            recover: (recovery && request.recover).then(|| StreamPosition {
                offset: request.offset,
                epoch: Name::from(&*request.epoch),
            }),
            reject_unrecovered: request.flag & REJECT_UNRECOVERED != 0,
            member: seen.then(|| self.member(info.as_deref())),
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
        let mut wanted = self.on_terms(policy, options, &SubscribeRequest::default(), terms);
        wanted.server_side = true;
        if recover.is_some() && options.has_history() {
            wanted.wants.recovery = true;
            wanted.wants.position = true;
            wanted.recover = recover;
        }
        Some(wanted)
    }
}
