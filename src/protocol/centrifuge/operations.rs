//! What a connected client does with channels: subscribe, publish, ask who is there and what was.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Policy, Session,
    command::{
        ChannelRequest, HistoryRequest, PublishRequest, RpcRequest, SubscribeRequest, one_line,
    },
    error,
};
use crate::{
    auth::permissions::{self, Access},
    channels::{ChannelOptions, NameFault, RecoveryMode},
    close::{BAD_REQUEST, CloseReason},
    protocol::{
        Effect, ErrorCode, HistoryFilter, Name, Now, Payload, Query, Request, StreamPosition,
        SubscribeOptions, Wants,
    },
};

/// What stops the handling of a message: the rest of it is not looked at.
type Handled = Result<(), CloseReason>;

/// A subscribe's `flag` by which a failed recovery is error 112.
const REJECT_UNRECOVERED: i64 = 2;

impl Session {
    pub(super) fn subscribe(
        &self,
        _now: Now,
        policy: &Policy,
        id: u32,
        request: &SubscribeRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Handled {
        let effect = match self.named(policy, &request.channel)? {
            Err(code) => error(id, code),
            // A subscription token is invalid where there is no key for one, and an invalid one is
            // answered so (centrifugo `OnSubscribe`), whatever else would allow the subscription.
            Ok(_) if !request.token.is_empty() => error(id, ErrorCode::PERMISSION_DENIED),
            Ok((channel, options)) => {
                let (channels, user) = (&policy.channels, self.user());
                let insecure = policy.insecure;
                match permissions::may_subscribe(channels, options, &channel, user, false, insecure)
                {
                    Access::Allowed => {
                        let options = Box::new(self.options(policy, options, request, None));
                        let request = Request::Subscribe { channel, options };
                        Effect::Request { command: id, request }
                    }
                    Access::AskBackend => error(id, ErrorCode::NOT_AVAILABLE),
                    Access::IfSubscribed | Access::Denied => {
                        error(id, ErrorCode::PERMISSION_DENIED)
                    }
                }
            }
        };
        out.push(effect);
        Ok(())
    }

    /// What a subscription has, by its namespace and by the client's wish as far as that is allowed.
    pub(super) fn options(
        &self,
        policy: &Policy,
        options: &ChannelOptions,
        request: &SubscribeRequest<'_>,
        chan_info: Option<&[u8]>,
    ) -> SubscribeOptions {
        let history = options.has_history();
        let reads = permissions::may_history(options, &self.user, policy.insecure).of_subscriber();
        let sees = permissions::may_presence(options, &self.user, policy.insecure).of_subscriber();
        let recovery = history
            && (options.force_recovery
                || (request.recoverable || request.recover) && (options.allow_recovery || reads));
        let position = history
            && (recovery
                || options.force_positioning
                || request.positioned && (options.allow_positioning || reads));
        let wants = Wants {
            presence: options.presence,
            join_leave: options.join_leave,
            position,
            recovery,
            cache: options.force_recovery_mode == RecoveryMode::Cache,
        };
        let seen = wants.presence || wants.join_leave;
        SubscribeOptions {
            wants,
            push_join_leave: options.join_leave
                && (options.force_push_join_leave || request.join_leave && sees),
            recover: (recovery && request.recover).then(|| StreamPosition {
                offset: request.offset,
                epoch: Name::from(&*request.epoch),
            }),
            reject_unrecovered: request.flag & REJECT_UNRECOVERED != 0,
            member: seen.then(|| self.member(chan_info)),
            ..SubscribeOptions::default()
        }
    }

    pub(super) fn unsubscribe(
        &mut self,
        policy: &Policy,
        id: u32,
        request: &ChannelRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Handled {
        out.push(match self.channel(policy, &request.channel)? {
            Err(code) => error(id, code),
            Ok(channel) => {
                self.forget(&channel);
                Effect::Request { command: id, request: Request::Unsubscribe { channel } }
            }
        });
        Ok(())
    }

    pub(super) fn publish(
        &self,
        policy: &Policy,
        id: u32,
        request: &PublishRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Handled {
        out.push(match self.publication(policy, request)? {
            Err(code) => error(id, code),
            Ok(request) => Effect::Request { command: id, request },
        });
        Ok(())
    }

    fn publication(
        &self,
        policy: &Policy,
        request: &PublishRequest<'_>,
    ) -> Result<Result<Request, ErrorCode>, CloseReason> {
        let (channel, options) = match self.named(policy, &request.channel)? {
            Ok(named) => named,
            Err(code) => return Ok(Err(code)),
        };
        let subscribers_only = match permissions::may_publish(options, self.user(), policy.insecure)
        {
            Access::Allowed => false,
            Access::IfSubscribed => true,
            Access::AskBackend => return Ok(Err(ErrorCode::NOT_AVAILABLE)),
            Access::Denied => return Ok(Err(ErrorCode::PERMISSION_DENIED)),
        };
        let Some(data) = request.data else { return Ok(Err(ErrorCode::BAD_REQUEST)) };
        let info = Some(Bytes::clone(&self.member(None).json));
        let (data, payload) = (one_line(data), Payload::Json);
        Ok(Ok(Request::Publish { channel, data, payload, info, subscribers_only }))
    }

    /// Who is there, or how many (centrifugo `OnPresence`, `OnPresenceStats`).
    pub(super) fn presence(
        &self,
        policy: &Policy,
        id: u32,
        request: &ChannelRequest<'_>,
        stats: bool,
        out: &mut Vec<Effect>,
    ) -> Handled {
        let query = if stats { Query::PresenceStats } else { Query::Presence };
        self.read(policy, id, &request.channel, query, out, |options| {
            let access = permissions::may_presence(options, &self.user, policy.insecure);
            (options.presence, access)
        })
    }

    /// What was published (centrifugo `OnHistory`).
    pub(super) fn history(
        &self,
        policy: &Policy,
        id: u32,
        request: &HistoryRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Handled {
        let max = policy.history_publications_max;
        let limit = usize::try_from(request.limit).map_or(max, |limit| limit.min(max));
        let since = request
            .since
            .as_ref()
            .map(|since| StreamPosition { offset: since.offset, epoch: Name::from(&*since.epoch) });
        let filter = HistoryFilter { limit: Some(limit), since, reverse: request.reverse };
        self.read(policy, id, &request.channel, Query::History(filter), out, |options| {
            let access = permissions::may_history(options, &self.user, policy.insecure);
            (options.has_history(), access)
        })
    }

    /// `judge` says whether the namespace has what is asked for, and who may ask.
    fn read(
        &self,
        policy: &Policy,
        id: u32,
        channel: &str,
        query: Query,
        out: &mut Vec<Effect>,
        judge: impl FnOnce(&ChannelOptions) -> (bool, Access),
    ) -> Handled {
        let effect = match self.named(policy, channel)? {
            Err(code) => error(id, code),
            Ok((channel, options)) => match judge(options) {
                (false, _) => error(id, ErrorCode::NOT_AVAILABLE),
                (true, access) if access.of_subscriber() => {
                    let subscribers_only = access == Access::IfSubscribed;
                    let request = Request::Read { channel, query, subscribers_only };
                    Effect::Request { command: id, request }
                }
                (true, _) => error(id, ErrorCode::PERMISSION_DENIED),
            },
        };
        out.push(effect);
        Ok(())
    }

    pub(super) fn rpc(&self, id: u32, _request: &RpcRequest<'_>, out: &mut Vec<Effect>) -> Handled {
        out.push(error(id, ErrorCode::NOT_AVAILABLE));
        Ok(())
    }

    pub(super) fn sub_refresh(
        &self,
        _now: Now,
        _policy: &Policy,
        id: u32,
        request: &ChannelRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Handled {
        if request.channel.is_empty() {
            return Err(BAD_REQUEST);
        }
        out.push(error(id, ErrorCode::NOT_AVAILABLE));
        Ok(())
    }

    /// The channel that a request names. None at all is a broken client, and closed; one that is
    /// too long is an error (centrifuge `validateSubscribeRequest`).
    fn channel(
        &self,
        policy: &Policy,
        channel: &str,
    ) -> Result<Result<Name, ErrorCode>, CloseReason> {
        if channel.is_empty() {
            return Err(BAD_REQUEST);
        }
        if channel.len() > policy.channels.max_length {
            return Ok(Err(ErrorCode::BAD_REQUEST));
        }
        Ok(Ok(Arc::from(channel)))
    }

    /// The channel that a request names, and what holds in it (centrifugo `validateChannelName`).
    fn named<'a>(
        &self,
        policy: &'a Policy,
        channel: &str,
    ) -> Result<Result<(Name, &'a ChannelOptions), ErrorCode>, CloseReason> {
        if channel.is_empty() {
            return Err(BAD_REQUEST);
        }
        Ok(match policy.channels.named(channel) {
            Ok(options) => Ok((Arc::from(channel), options)),
            Err(NameFault::Malformed) => Err(ErrorCode::BAD_REQUEST),
            Err(NameFault::UnknownNamespace) => Err(ErrorCode::UNKNOWN_CHANNEL),
        })
    }
}
