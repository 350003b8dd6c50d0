//! What a connected client does with channels: subscribe, publish, ask who is there and what was.

use std::sync::Arc;

use super::{
    Policy, Session,
    asking::About,
    command::{ChannelRequest, HistoryRequest, PublishRequest, RpcRequest, SubscribeRequest},
    error, one_line, reply,
    terms::Wish,
};
use crate::{
    auth::{
        Terms, TokenError,
        permissions::{self, Access},
    },
    channels::{ChannelOptions, NameFault},
    codes::CloseReason,
    protocol::{
        Effect, ErrorCode, HistoryFilter, KeyUse, Name, Now, Payload, Query, Request,
        StreamPosition,
    },
    proxy::{
        BackendCall,
        routes::{ChannelEvent, RpcRoute},
    },
};

/// What stops the handling of a message: the rest of it is not looked at.
type Handled = Result<(), CloseReason>;

impl Session {
    pub(super) fn subscribe(
        &mut self,
        now: Now,
        policy: &Policy,
        id: u32,
        request: &SubscribeRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Handled {
        let effect = match self.named(policy, &request.channel)? {
            Err(code) => error(id, code),
            Ok((channel, options)) => {
                // An invalid token is answered so, whatever else would allow the subscription
                // (centrifugo `OnSubscribe`).
                let terms = match self.token_terms(now, policy, &channel, &request.token, out)? {
                    Err(code) => {
                        out.push(error(id, code));
                        return Ok(());
                    }
                    Ok(terms) => terms,
                };
                let (channels, user, insecure) = (&policy.channels, &self.user, policy.insecure);
                let token = terms.is_some();
                match permissions::may_subscribe(channels, options, &channel, user, token, insecure)
                {
                    // As where a filter by tags is not allowed (centrifuge `AllowTagsFilter`).
                    Access::Allowed | Access::AskBackend if request.tf.is_some() => {
                        error(id, ErrorCode::BAD_REQUEST)
                    }
                    Access::Allowed => {
                        let (wish, terms) = (Wish::of(request), terms.unwrap_or_default());
                        self.subscription(now, policy, id, channel, &wish, terms)
                    }
                    Access::AskBackend => self.ask_subscribe(policy, id, channel, options, request),
                    Access::IfSubscribed | Access::Denied => {
                        error(id, ErrorCode::PERMISSION_DENIED)
                    }
                }
            }
        };
        out.push(effect);
        Ok(())
    }

    /// What a subscription token grants; `None` without one. One for another channel or user, or
    /// another connection, closes (centrifugo `OnSubscribe`).
    fn token_terms(
        &self,
        now: Now,
        policy: &Policy,
        channel: &str,
        token: &str,
        out: &mut Vec<Effect>,
    ) -> Result<Result<Option<Terms>, ErrorCode>, CloseReason> {
        if token.is_empty() {
            return Ok(Ok(None));
        }
        let Some(tokens) = policy.subscription_tokens.as_ref().or(policy.tokens.as_ref()) else {
            return Ok(Err(ErrorCode::PERMISSION_DENIED));
        };
        let claims = match tokens.verify_subscription(token, now.unix_s) {
            Ok(claims) => claims,
            Err(TokenError::Expired) => return Ok(Err(ErrorCode::TOKEN_EXPIRED)),
            Err(TokenError::Invalid(_)) => return Ok(Err(ErrorCode::PERMISSION_DENIED)),
            Err(TokenError::UnknownKey) => {
                out.push(Effect::KeysWanted(match policy.subscription_tokens {
                    Some(_) => KeyUse::Subscriptions,
                    None => KeyUse::Connections,
                }));
                return Ok(Err(ErrorCode::INTERNAL));
            }
        };
        let of_other = !claims.client.is_empty() && claims.client != self.client_id();
        if claims.channel != channel || claims.user != *self.user || of_other {
            return Err(CloseReason::INVALID_TOKEN);
        }
        if now.is_past(claims.terms.expire_at_unix_s) {
            return Ok(Err(ErrorCode::EXPIRED));
        }
        Ok(Ok(Some(claims.terms)))
    }

    fn ask_subscribe(
        &self,
        policy: &Policy,
        id: u32,
        channel: Name,
        options: &ChannelOptions,
        request: &SubscribeRequest<'_>,
    ) -> Effect {
        let Some(proxy) = policy.proxies.of_channel(ChannelEvent::Subscribe, options) else {
            return error(id, ErrorCode::NOT_AVAILABLE);
        };
        let call = BackendCall::Subscribe {
            caller: self.caller(),
            channel: Name::clone(&channel),
            token: Name::from(&*request.token),
            data: request.data.map(one_line),
        };
        About::Subscribe { channel, wish: Wish::of(request) }.asked(id, proxy, call)
    }

    pub(super) fn unsubscribe(
        &self,
        policy: &Policy,
        id: u32,
        request: &ChannelRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Handled {
        out.push(match self.channel(policy, &request.channel)? {
            Err(code) => error(id, code),
            Ok(channel) => {
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
        let effect = match self.named(policy, &request.channel)? {
            Err(code) => error(id, code),
            Ok((channel, options)) => self.publication(policy, id, channel, options, request),
        };
        out.push(effect);
        Ok(())
    }

    fn publication(
        &self,
        policy: &Policy,
        id: u32,
        channel: Name,
        options: &ChannelOptions,
        request: &PublishRequest<'_>,
    ) -> Effect {
        let access = permissions::may_publish(options, self.user(), policy.insecure);
        let proxy = policy.proxies.of_channel(ChannelEvent::Publish, options);
        let refusal = match access {
            Access::AskBackend if proxy.is_none() => Some(ErrorCode::NOT_AVAILABLE),
            Access::Denied => Some(ErrorCode::PERMISSION_DENIED),
            _ => None,
        };
        if let Some(code) = refusal {
            return error(id, code);
        }
        let Some(data) = request.data.map(one_line) else {
            return error(id, ErrorCode::BAD_REQUEST);
        };
        if access == Access::AskBackend
            && let Some(proxy) = proxy
        {
            let (caller, published) = (self.caller(), data.clone());
            let to = Name::clone(&channel);
            let call = BackendCall::Publish { caller, channel: to, data: published };
            return About::Publish { channel, data }.asked(id, proxy, call);
        }
        let info = Some(self.publisher(&channel));
        let (payload, subscribers_only) = (Payload::Json, access == Access::IfSubscribed);
        let request =
            Request::Publish { channel, data, payload, info, subscribers_only, extra: None };
        Effect::Request { command: id, request }
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

    pub(super) fn rpc(
        &self,
        policy: &Policy,
        id: u32,
        request: &RpcRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Handled {
        out.push(match policy.proxies.rpc.of_method(&request.method) {
            RpcRoute::Ping => Effect::Reply(reply::rpc(id, None)),
            RpcRoute::Unavailable => error(id, ErrorCode::NOT_AVAILABLE),
            RpcRoute::Unknown => error(id, ErrorCode::METHOD_NOT_FOUND),
            RpcRoute::Backend(proxy) => {
                let call = BackendCall::Rpc {
                    caller: self.caller(),
                    method: Name::from(&*request.method),
                    data: request.data.map(one_line),
                };
                About::Rpc.asked(id, proxy, call)
            }
        });
        Ok(())
    }

    /// A subscription lives on (centrifugo `OnSubRefresh`, centrifuge `handleSubRefresh`).
    pub(super) fn sub_refresh(
        &mut self,
        now: Now,
        policy: &Policy,
        id: u32,
        request: &ChannelRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Handled {
        let (channel, options) = match self.named(policy, &request.channel)? {
            Ok(named) => named,
            Err(code) => {
                out.push(error(id, code));
                return Ok(());
            }
        };
        let of_backend = policy.proxies.of_channel(ChannelEvent::SubRefresh, options).is_some();
        if of_backend {
            return Err(CloseReason::BAD_REQUEST);
        }
        if request.token.is_empty() {
            out.push(error(id, ErrorCode::BAD_REQUEST));
            return Ok(());
        }
        match self.token_terms(now, policy, &channel, &request.token, out)? {
            // Who has a subscription already is closed where others are refused.
            Err(ErrorCode::PERMISSION_DENIED) => return Err(CloseReason::INVALID_TOKEN),
            Err(code) => out.push(error(id, code)),
            Ok(terms) => {
                let Terms { expire_at_unix_s, info, .. } = terms.unwrap_or_default();
                let request = Request::Prolong { channel, expire_at_unix_s, info };
                out.push(Effect::Request { command: id, request });
            }
        }
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
            return Err(CloseReason::BAD_REQUEST);
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
            return Err(CloseReason::BAD_REQUEST);
        }
        Ok(match policy.channels.named(channel) {
            Ok(options) => Ok((Arc::from(channel), options)),
            Err(NameFault::Malformed) => Err(ErrorCode::BAD_REQUEST),
            Err(NameFault::UnknownNamespace) => Err(ErrorCode::UNKNOWN_CHANNEL),
        })
    }
}
