//! Who a connection is, and until when: connect, refresh, and what expires.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Policy, Session, State, after,
    command::{ConnectRequest, SubscribeRequest, TokenRequest, one_line},
    error,
    reply::{self, ConnectResult, Expiry},
    terms::Terms,
    unidirectional::disconnect_of,
};
use crate::{
    auth::{
        ConnectionClaims, TokenError,
        permissions::{self, Access},
    },
    close::{BAD_REQUEST, CONNECTION_EXPIRED, CloseReason, INVALID_TOKEN},
    protocol::{Described, Effect, ErrorCode, Name, Now, Request, SubscribeOptions, Subscribed},
};

/// Seconds that a connection lives at most without a refresh; a longer token is cut, as in
/// centrifuge (`maxTTLSeconds`).
const TTL_S_MAX: u64 = 365 * 24 * 3600;

/// Milliseconds between two looks at the wall clock where no ping is sent more often.
const EXPIRY_CHECK_MS: u64 = 60_000;

/// What a connection has beyond a user; most idle ones have none of it.
#[derive(Debug)]
pub(super) struct Credentials {
    /// The connection's info, as JSON, for its `ClientInfo`.
    pub(super) info: Option<Box<[u8]>>,
    /// What only the backend sees of it, as JSON.
    pub(super) meta: Option<Box<[u8]>>,
    /// What the client calls itself and its version, separated by a newline.
    pub(super) agent: Box<str>,
    /// When the connection must have been refreshed; 0 is never.
    expire_at_unix_s: u64,
    /// When to look whether something has expired: the wall clock may be set in between.
    pub(super) expiry_check_ms: u64,
    /// Subscriptions that expire, and when.
    subscriptions: Vec<(Name, u64)>,
}

impl Credentials {
    fn empty() -> Box<Self> {
        Box::new(Self {
            info: None,
            meta: None,
            agent: Box::default(),
            expire_at_unix_s: 0,
            expiry_check_ms: super::NEVER,
            subscriptions: Vec::new(),
        })
    }

    fn is_empty(&self) -> bool {
        self.info.is_none()
            && self.meta.is_none()
            && self.agent.is_empty()
            && self.expire_at_unix_s == 0
            && self.subscriptions.is_empty()
    }
}

impl Session {
    pub(super) fn connect(
        &mut self,
        now: Now,
        policy: &Policy,
        id: u32,
        request: &ConnectRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let mut granted = Vec::new();
        if request.token.is_empty() {
            // centrifuge answers missing credentials as a bad request (`connectCmd`), not 3507.
            if !(policy.anonymous || policy.insecure) {
                return Err(BAD_REQUEST);
            }
        } else {
            match verify(policy, &request.token, now) {
                Ok(claims) => {
                    let expire_at_unix_s = expire_at(policy, &claims, now);
                    if expire_at_unix_s != 0 && expire_at_unix_s < now.unix_s {
                        return self.refuse(id, ErrorCode::EXPIRED, out);
                    }
                    self.take_claims(claims, expire_at_unix_s, &mut granted);
                }
                Err(TokenError::Expired) => return self.refuse(id, ErrorCode::TOKEN_EXPIRED, out),
                Err(TokenError::Invalid(_)) => return Err(INVALID_TOKEN),
                // It may be known in a moment: the client tries again by itself.
                Err(TokenError::UnknownKey) => return self.refuse(id, ErrorCode::INTERNAL, out),
            }
        }
        self.remember_agent(request);
        self.enter(now, policy, id, request, granted, out)
    }

    fn take_claims(
        &mut self,
        claims: ConnectionClaims,
        expire_at_unix_s: u64,
        granted: &mut Vec<Grant>,
    ) {
        let credentials = self.credentials.get_or_insert_with(Credentials::empty);
        credentials.info = claims.info.map(|info| one_line(&info).to_vec().into());
        credentials.meta = claims.meta.map(|meta| one_line(&meta).to_vec().into());
        credentials.expire_at_unix_s = expire_at_unix_s;
        if !claims.user.is_empty() {
            self.user = Arc::from(claims.user);
        }
        granted.extend(
            claims
                .subs
                .into_iter()
                .map(|(channel, options)| Grant { channel, terms: Terms::of_claims(options, 0) }),
        );
    }

    fn remember_agent(&mut self, request: &ConnectRequest<'_>) {
        let (name, version) = (&*request.name, &*request.version);
        if name.is_empty() && version.is_empty() {
            return;
        }
        let agent = format!("{}\n{}", bounded(name), bounded(version));
        self.credentials.get_or_insert_with(Credentials::empty).agent = agent.into();
    }

    /// The connection is who it says: it enters its user's home and the channels that are granted.
    fn enter(
        &mut self,
        now: Now,
        policy: &Policy,
        id: u32,
        request: &ConnectRequest<'_>,
        mut granted: Vec<Grant>,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        if let Some(namespace) = &policy.personal_namespace
            && !self.user.is_empty()
        {
            granted.push(Grant::plain(policy.channels.personal(namespace, &self.user)));
        }
        let mut subscriptions = Vec::with_capacity(granted.len());
        for grant in granted {
            let Ok(options) = policy.channels.named(&grant.channel) else {
                return self.refuse(id, ErrorCode::UNKNOWN_CHANNEL, out);
            };
            let asked = request.subs.as_ref().and_then(|subs| subs.get(&*grant.channel)?.as_ref());
            let nothing = SubscribeRequest::default();
            let asked = asked.unwrap_or(&nothing);
            let mut wanted = self.on_terms(policy, options, asked, grant.terms);
            wanted.server_side = true;
            subscriptions.push((Name::from(grant.channel), Box::new(wanted)));
        }
        if self.unidirectional {
            self.add_wanted(policy, request, &mut subscriptions);
        }
        subscriptions.sort_by(|(one, _), (other, _)| one.cmp(other));
        subscriptions.dedup_by(|(one, _), (other, _)| one == other);
        let user = Name::clone(&self.user);
        self.state = State::Connecting;
        self.connect_command = id;
        self.settle_credentials(now, policy);
        let request = Request::Connect { user, subscriptions };
        out.push(Effect::Request { command: id, request });
        Ok(())
    }

    /// The channels that a unidirectional client wants to be in: for it they are the server's doing,
    /// because it cannot subscribe again. Those that it may not be in are left out, as in Centrifugo.
    fn add_wanted(
        &self,
        policy: &Policy,
        request: &ConnectRequest<'_>,
        subscriptions: &mut Vec<(Name, Box<SubscribeOptions>)>,
    ) {
        for (channel, asked) in request.subs.iter().flatten() {
            let Ok(options) = policy.channels.named(channel) else { continue };
            let (channels, user, insecure) = (&policy.channels, &self.user, policy.insecure);
            let access =
                permissions::may_subscribe(channels, options, channel, user, false, insecure);
            if access != Access::Allowed {
                continue;
            }
            let nothing = SubscribeRequest::default();
            let asked = asked.as_ref().unwrap_or(&nothing);
            let mut wanted = self.on_terms(policy, options, asked, Terms::default());
            wanted.server_side = true;
            subscriptions.push((Name::from(&**channel), Box::new(wanted)));
        }
    }

    pub(super) fn refuse(
        &mut self,
        id: u32,
        code: ErrorCode,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        self.state = State::Refused;
        if self.unidirectional {
            return Err(disconnect_of(code));
        }
        out.push(error(id, code));
        Ok(())
    }

    /// Encodes the reply to the connect command, or the connect push of a unidirectional session.
    /// `session` names the connection to requests beside it; empty where there are none.
    pub fn connected(
        &mut self,
        now: Now,
        policy: &Policy,
        command: u32,
        session: &str,
        subscriptions: &[Subscribed],
    ) -> Vec<u8> {
        self.state = State::Connected;
        self.overdue_ms = super::NEVER;
        if policy.ping_interval_ms != 0 {
            let share = (u128::from(policy.ping_interval_ms) * u128::from(self.spread)) >> 32;
            let first_ms = u64::try_from(share).expect("a share of a u64 is one");
            self.ping_ms = now.monotonic_ms.saturating_add(first_ms);
        }
        for subscribed in subscriptions {
            self.expires(now, policy, &subscribed.channel, subscribed.options.expire_at_unix_s);
        }
        self.settle_credentials(now, policy);
        let result = ConnectResult {
            client: &self.client_id(),
            version: &policy.version,
            expiry: self.expiry(now),
            data: None,
            subscriptions,
            ping: policy.ping_interval_ms / 1000,
            pong: policy.ping_interval_ms != 0
                && policy.pong_timeout_ms != 0
                && !self.unidirectional,
            session,
            node: if self.unidirectional { "" } else { &policy.node },
            now_unix_s: now.unix_s,
        };
        if self.unidirectional {
            return reply::connect_push(&result);
        }
        reply::result(command, "connect", |object| result.write(object))
    }

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
        if request.token.is_empty() {
            return Err(BAD_REQUEST);
        }
        let claims = match verify(policy, &request.token, now) {
            Ok(claims) => claims,
            Err(TokenError::Expired) => return Err(CONNECTION_EXPIRED),
            Err(TokenError::Invalid(_)) => return Err(INVALID_TOKEN),
            Err(TokenError::UnknownKey) => {
                out.push(error(id, ErrorCode::INTERNAL));
                return Ok(());
            }
        };
        if claims.user != *self.user {
            return Err(INVALID_TOKEN);
        }
        let expire_at_unix_s = expire_at(policy, &claims, now);
        if expire_at_unix_s != 0 && expire_at_unix_s <= now.unix_s {
            out.push(error(id, ErrorCode::EXPIRED));
            return Ok(());
        }
        let info = claims.info.map(|info| one_line(&info));
        self.prolong(now, policy, expire_at_unix_s, info);
        let expiry = self.expiry(now);
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
        let expire_at_unix_s = expire_at_unix_s.min(now.unix_s.saturating_add(TTL_S_MAX));
        self.prolong(now, policy, expire_at_unix_s, info);
        reply::refresh_push(self.expiry(now))
    }

    fn prolong(&mut self, now: Now, policy: &Policy, expire_at_unix_s: u64, info: Option<Bytes>) {
        let credentials = self.credentials.get_or_insert_with(Credentials::empty);
        credentials.expire_at_unix_s = expire_at_unix_s;
        if let Some(info) = info {
            credentials.info = Some(info.to_vec().into());
        }
        self.settle_credentials(now, policy);
    }

    /// Takes note of when a subscription must have been refreshed; 0 is never.
    pub(super) fn expires(&mut self, now: Now, policy: &Policy, channel: &Name, at_unix_s: u64) {
        if at_unix_s == 0 && self.credentials.is_none() {
            return;
        }
        let credentials = self.credentials.get_or_insert_with(Credentials::empty);
        credentials.subscriptions.retain(|(known, _)| known != channel);
        if at_unix_s != 0 {
            credentials.subscriptions.push((Name::clone(channel), at_unix_s));
        }
        self.settle_credentials(now, policy);
    }

    /// The subscription is over: it does not expire any more.
    pub(super) fn forget(&mut self, channel: &str) {
        if let Some(credentials) = &mut self.credentials {
            credentials.subscriptions.retain(|(known, _)| **known != *channel);
        }
    }

    /// Subscriptions that were not refreshed in time; they are forgotten here.
    pub(super) fn take_expired(&mut self, now: Now, policy: &Policy) -> Vec<Name> {
        let Some(credentials) = &mut self.credentials else { return Vec::new() };
        let late = |at: u64| now.unix_s >= at.saturating_add(policy.expired_sub_close_delay_s);
        let expired = credentials.subscriptions.extract_if(.., |(_, at)| late(*at));
        expired.map(|(channel, _)| channel).collect()
    }

    pub(super) fn info(&self) -> Option<&[u8]> {
        self.credentials.as_ref()?.info.as_deref()
    }

    /// What only the backend sees of the connection, as JSON.
    pub fn meta(&self) -> Option<&[u8]> {
        self.credentials.as_ref()?.meta.as_deref()
    }

    /// The connection for a backend; its channels are the hub's to know.
    pub fn described(&self, transport: &'static str) -> Described {
        let agent = self.credentials.as_ref().map_or("", |credentials| &credentials.agent);
        let (name, version) = agent.split_once('\n').unwrap_or_default();
        Described {
            client: self.client_id(),
            user: Name::clone(&self.user),
            name: name.to_owned(),
            version: version.to_owned(),
            transport,
            connected_at_unix_s: u64::from(self.accepted_unix_s),
            meta: self.meta().map(Bytes::copy_from_slice),
            channels: Vec::new(),
        }
    }

    /// 0 is never.
    pub(super) fn expire_at_unix_s(&self) -> u64 {
        self.credentials.as_ref().map_or(0, |credentials| credentials.expire_at_unix_s)
    }

    fn expiry(&self, now: Now) -> Expiry {
        Expiry::at(self.expire_at_unix_s(), now.unix_s)
    }

    /// Lets go of what is not needed, and plans the next look at what expires.
    pub(super) fn settle_credentials(&mut self, now: Now, policy: &Policy) {
        if self.credentials.as_ref().is_some_and(|credentials| credentials.is_empty()) {
            self.credentials = None;
        }
        let Some(credentials) = &mut self.credentials else { return };
        let close_at = |at: u64, delay_s: u64| (at != 0).then(|| at.saturating_add(delay_s));
        let own = close_at(credentials.expire_at_unix_s, policy.expired_close_delay_s);
        let subscriptions = credentials.subscriptions.iter();
        let first = subscriptions
            .filter_map(|&(_, at)| close_at(at, policy.expired_sub_close_delay_s))
            .chain(own)
            .min()
            .filter(|_| self.state == State::Connected);
        credentials.expiry_check_ms = first.map_or(super::NEVER, |at| {
            let left_ms = at.saturating_sub(now.unix_s).saturating_mul(1000);
            after(now, left_ms.clamp(1, EXPIRY_CHECK_MS))
        });
    }
}

/// A channel to which the server subscribes a connection.
struct Grant {
    channel: String,
    terms: Terms,
}

impl Grant {
    fn plain(channel: String) -> Self {
        Self { channel, terms: Terms::default() }
    }
}

/// As much of a client's own text as is worth keeping.
fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}

fn verify(policy: &Policy, token: &str, now: Now) -> Result<ConnectionClaims, TokenError> {
    match &policy.tokens {
        Some(tokens) => tokens.verify_connection(token, now.unix_s),
        None => Err(TokenError::Invalid("no key is configured to verify it".to_owned())),
    }
}

fn expire_at(policy: &Policy, claims: &ConnectionClaims, now: Now) -> u64 {
    if policy.insecure {
        return 0;
    }
    claims.expire_at_unix_s.min(now.unix_s.saturating_add(TTL_S_MAX))
}
