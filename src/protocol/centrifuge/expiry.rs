//! Until when a connection and its subscriptions live: refresh, and what expires.
//!
//! A connection is refreshed by its client, who sends a token, or by the backend alone where there
//! is a proxy for that: then the client is told of no expiry, and may not refresh (centrifuge
//! `ClientSideRefresh`). So is a subscription, by its namespace.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;

use super::{
    NEVER, Policy, Session, State, after,
    asking::About,
    command::TokenRequest,
    credentials::Remembered,
    error,
    reply::{self, Expiry},
};
use crate::{
    auth::{ConnectionClaims, TokenError},
    codes::CloseReason,
    protocol::{Effect, ErrorCode, KeyUse, Name, Now, Subscribed},
    proxy::{
        BackendAnswer, BackendCall, EXTENSION_S, ProxyId, answers::Refreshed, routes::ChannelEvent,
    },
};

/// Seconds that a connection lives at most without a refresh; a longer token is cut, as in
/// centrifuge (`maxTTLSeconds`).
const TTL_S_MAX: u64 = 365 * 24 * 3600;

/// Milliseconds between two looks at the wall clock where no ping is sent more often.
const EXPIRY_CHECK_MS: u64 = 60_000;

impl Session {
    /// centrifugo `OnRefresh` and centrifuge `handleRefresh`, but for one thing: a token without an
    /// expiry ends the connection's, which centrifuge would let run on.
    pub(super) fn refresh(
        &mut self,
        now: Now,
        policy: &Policy,
        id: u32,
        request: &TokenRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        if request.token.is_empty() || policy.proxies.refresh.is_some() {
            return Err(CloseReason::BAD_REQUEST);
        }
        let claims = match verify(policy, &request.token, now) {
            Ok(claims) => claims,
            Err(TokenError::Expired) => return Err(CloseReason::CONNECTION_EXPIRED),
            Err(TokenError::Invalid(_)) => return Err(CloseReason::INVALID_TOKEN),
            Err(TokenError::UnknownKey) => {
                out.push(Effect::KeysWanted(KeyUse::Connections));
                out.push(error(id, ErrorCode::INTERNAL));
                return Ok(());
            }
        };
        if claims.user != *self.user {
            return Err(CloseReason::INVALID_TOKEN);
        }
        // It comes back with this token, and is in the channels that this one names (centrifugo
        // `tokenChannelsChanged`).
        let known = self.credentials.as_ref().map_or(0, |known| known.token_channels);
        if channels_mark(&claims) != known {
            return Err(CloseReason::INSUFFICIENT_STATE);
        }
        let expire_at_unix_s = expire_at(policy, &claims, now);
        if now.is_past(expire_at_unix_s) {
            out.push(error(id, ErrorCode::EXPIRED));
            return Ok(());
        }
        out.extend(self.prolong(now, policy, expire_at_unix_s, claims.info, claims.meta));
        let expiry = self.expiry(now, policy);
        out.push(Effect::Reply(reply::result(id, "refresh", |object| expiry.write(object))));
        Ok(())
    }

    /// The backend moved the connection's expiry: the push that tells the client.
    pub fn refreshed(
        &mut self,
        now: Now,
        policy: &Policy,
        expire_at_unix_s: u64,
        info: Option<Bytes>,
    ) -> Vec<u8> {
        self.prolong(now, policy, bounded_expiry(now, expire_at_unix_s), info, None);
        reply::refresh_push(self.expiry(now, policy))
    }

    /// What follows of it, if others see something else now.
    fn prolong(
        &mut self,
        now: Now,
        policy: &Policy,
        expire_at_unix_s: u64,
        info: Option<Bytes>,
        meta: Option<Bytes>,
    ) -> Option<Effect> {
        let credentials = self.credentials_mut();
        credentials.expire_at_unix_s = expire_at_unix_s;
        credentials.refreshing = false;
        let renewed = info.is_some() && info.as_deref() != credentials.info.as_deref();
        if info.is_some() {
            credentials.set_info(info);
        }
        if meta.is_some() {
            credentials.set_meta(meta);
        }
        self.settle_credentials(now, policy);
        renewed.then_some(Effect::Renewed { channel: None })
    }

    /// Ends, or asks about, what has expired; `Err` ends the connection.
    pub(super) fn expire(
        &mut self,
        now: Now,
        policy: &Policy,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let Some(credentials) = &mut self.credentials else { return Ok(()) };
        let at_unix_s = credentials.expire_at_unix_s;
        let mut asked = None;
        match policy.proxies.refresh {
            _ if at_unix_s == 0 => {}
            Some(proxy) if now.unix_s >= at_unix_s && !credentials.refreshing => {
                credentials.refreshing = true;
                asked = Some(proxy);
            }
            Some(_) => {}
            None if now.unix_s >= at_unix_s.saturating_add(policy.expired_close_delay_s) => {
                return Err(CloseReason::CONNECTION_EXPIRED);
            }
            None => {}
        }
        let mut asked_about: Vec<(ProxyId, Name)> = Vec::new();
        credentials.subscriptions.retain_mut(|subscription| {
            let Remembered { channel, at_unix_s, refreshing, .. } = subscription;
            match policy.asked_about(ChannelEvent::SubRefresh, channel) {
                _ if *refreshing || *at_unix_s == 0 => true,
                Some(proxy) => {
                    if now.unix_s >= *at_unix_s {
                        *refreshing = true;
                        asked_about.push((proxy, Name::clone(channel)));
                    }
                    true
                }
                None => {
                    let delay_s = policy.expired_sub_close_delay_s;
                    let late = now.unix_s >= at_unix_s.saturating_add(delay_s);
                    if late {
                        out.push(Effect::Expire { channel: Name::clone(channel) });
                    }
                    !late
                }
            }
        });
        if let Some(proxy) = asked {
            let call = BackendCall::Refresh { caller: self.caller() };
            out.push(About::Refresh.asked(0, proxy, call));
        }
        for (proxy, channel) in asked_about {
            let caller = self.caller();
            let call = BackendCall::SubRefresh { caller, channel: Name::clone(&channel) };
            out.push(About::SubRefresh { channel }.asked(0, proxy, call));
        }
        self.settle_credentials(now, policy);
        Ok(())
    }

    /// The backend says whether the connection goes on.
    pub(super) fn refresh_answered(
        &mut self,
        now: Now,
        policy: &Policy,
        answer: BackendAnswer,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let (at_unix_s, info, meta) = match answer {
            BackendAnswer::Refresh(Refreshed::Until { expire_at_unix_s, info, meta }) => {
                (bounded_expiry(now, expire_at_unix_s), info, meta)
            }
            BackendAnswer::Failed(_) => (now.unix_s + EXTENSION_S, None, None),
            _ => return Err(CloseReason::CONNECTION_EXPIRED),
        };
        if now.is_past(at_unix_s) {
            return Err(CloseReason::CONNECTION_EXPIRED);
        }
        out.extend(self.prolong(now, policy, at_unix_s, info, meta));
        Ok(())
    }

    /// The backend says whether a subscription goes on; if it is still the one that was asked about.
    pub(super) fn sub_refresh_answered(
        &mut self,
        now: Now,
        policy: &Policy,
        channel: Name,
        answer: &BackendAnswer,
        out: &mut Vec<Effect>,
    ) {
        let subscriptions = self.credentials.iter().flat_map(|known| &known.subscriptions);
        if !subscriptions.into_iter().any(|known| known.channel == channel && known.refreshing) {
            return;
        }
        let until = match answer {
            BackendAnswer::SubRefresh(Refreshed::Until { expire_at_unix_s, info, .. }) => {
                Some((*expire_at_unix_s, info.as_deref())).filter(|(at, _)| !now.is_past(*at))
            }
            BackendAnswer::Failed(_) => Some((now.unix_s + EXTENSION_S, None)),
            _ => None,
        };
        match until {
            Some((at_unix_s, info)) => {
                self.expires(now, policy, &channel, at_unix_s, info);
                if info.is_some() {
                    out.push(Effect::Renewed { channel: Some(channel) });
                }
            }
            None => {
                self.forget(&channel);
                self.settle_credentials(now, policy);
                out.push(Effect::Expire { channel });
            }
        }
    }

    /// Takes note of when a subscription must have been refreshed, 0 is never, and of what others see
    /// of it, which is JSON; `None` is what they saw before.
    pub(super) fn expires(
        &mut self,
        now: Now,
        policy: &Policy,
        channel: &Name,
        at_unix_s: u64,
        info: Option<&[u8]>,
    ) {
        if at_unix_s == 0 && info.is_none() && self.credentials.is_none() {
            return;
        }
        let subscriptions = &mut self.credentials_mut().subscriptions;
        let place = subscriptions.iter().position(|known| known.channel == *channel);
        let before = place.and_then(|place| subscriptions.remove(place).info);
        let info = info.map(Box::from).or(before);
        if at_unix_s != 0 || info.is_some() {
            let channel = Name::clone(channel);
            subscriptions.push(Remembered { channel, at_unix_s, refreshing: false, info });
        }
        self.settle_credentials(now, policy);
    }

    /// A subscription is granted: takes note of its expiry, and of what others see of it.
    pub fn entered(&mut self, now: Now, policy: &Policy, subscribed: &Subscribed) {
        let options = &subscribed.options;
        let (at_unix_s, info) = (options.expire_at_unix_s, options.info.as_deref());
        self.expires(now, policy, &subscribed.channel, at_unix_s, info);
    }

    /// What others see of the connection in `channel` alone, as JSON.
    pub(super) fn channel_info(&self, channel: &str) -> Option<&[u8]> {
        let mut subscriptions = self.credentials.iter().flat_map(|known| &known.subscriptions);
        subscriptions.find(|known| *known.channel == *channel)?.info.as_deref()
    }

    /// The subscription is over: nothing of it is remembered.
    pub fn forget(&mut self, channel: &str) {
        if let Some(credentials) = &mut self.credentials {
            credentials.subscriptions.retain(|known| *known.channel != *channel);
        }
    }

    /// What the client is told of the connection's expiry.
    pub(super) fn expiry(&self, now: Now, policy: &Policy) -> Expiry {
        let at_unix_s = self.credentials.as_ref().map_or(0, |known| known.expire_at_unix_s);
        let of_client = if policy.proxies.refresh.is_none() { at_unix_s } else { 0 };
        Expiry::at(of_client, now.unix_s)
    }

    /// Lets go of what is not needed, and plans the next look at what expires.
    pub(super) fn settle_credentials(&mut self, now: Now, policy: &Policy) {
        if self.credentials.as_ref().is_some_and(|credentials| credentials.is_empty()) {
            self.credentials = None;
        }
        let Some(credentials) = &mut self.credentials else { return };
        let own_delay_s = match policy.proxies.refresh {
            Some(_) => 0,
            None => policy.expired_close_delay_s,
        };
        let own = Some(credentials.expire_at_unix_s)
            .filter(|at| *at != 0 && !credentials.refreshing)
            .map(|at| at.saturating_add(own_delay_s));
        let subscriptions = credentials.subscriptions.iter();
        let first = subscriptions
            .filter(|known| known.at_unix_s != 0 && !known.refreshing)
            .map(|known| match policy.asked_about(ChannelEvent::SubRefresh, &known.channel) {
                Some(_) => known.at_unix_s,
                None => known.at_unix_s.saturating_add(policy.expired_sub_close_delay_s),
            })
            .chain(own)
            .min()
            .filter(|_| self.state == State::Connected);
        credentials.expiry_check_ms = first.map_or(NEVER, |at| {
            let left_ms = at.saturating_sub(now.unix_s).saturating_mul(1000);
            after(now, left_ms.clamp(1, EXPIRY_CHECK_MS))
        });
    }
}

/// Verifies a connection token.
pub(super) fn verify(
    policy: &Policy,
    token: &str,
    now: Now,
) -> Result<ConnectionClaims, TokenError> {
    match &policy.tokens {
        Some(tokens) => tokens.verify_connection(token, now.unix_s),
        None => Err(TokenError::Invalid("no key is configured to verify it".to_owned())),
    }
}

/// A number that stands for the channels that a connection's token names; 0 is none. Who signs tokens
/// decides on them, so that nobody gains by two that have the same.
pub(super) fn channels_mark(claims: &ConnectionClaims) -> u64 {
    if claims.subs.is_empty() {
        return 0;
    }
    let mut channels: Vec<&str> = claims.subs.iter().map(|(channel, _)| channel.as_str()).collect();
    channels.sort_unstable();
    let mut hasher = DefaultHasher::new();
    channels.hash(&mut hasher);
    hasher.finish()
}

/// Refuses a valid token that names nobody, where every token must name somebody.
pub(super) fn check_user(policy: &Policy, claims: &ConnectionClaims) -> Result<(), CloseReason> {
    if claims.user.is_empty() && policy.disallow_anonymous_tokens {
        return Err(CloseReason::PERMISSION_DENIED);
    }
    Ok(())
}

/// Takes a subscription's expiry out of what the client is told, where the client is not who
/// refreshes it.
pub(super) fn hide_expiry(policy: &Policy, subscribed: &mut Subscribed) {
    if policy.asked_about(ChannelEvent::SubRefresh, &subscribed.channel).is_some() {
        subscribed.options.expire_at_unix_s = 0;
    }
}

/// When a connection with these claims must have been refreshed; 0 is never.
pub(super) fn expire_at(policy: &Policy, claims: &ConnectionClaims, now: Now) -> u64 {
    if policy.insecure { 0 } else { bounded_expiry(now, claims.expire_at_unix_s) }
}

/// A moment, but not one that is too far away; 0 is never.
pub(super) fn bounded_expiry(now: Now, expire_at_unix_s: u64) -> u64 {
    expire_at_unix_s.min(now.unix_s.saturating_add(TTL_S_MAX))
}
