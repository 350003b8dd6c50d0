//! Who a connection is: the connect command.

use super::{
    Policy, Session, State,
    asking::{About, Wishes},
    command::ConnectRequest,
    error,
    expiry::{channels_mark, check_user, expire_at, hide_expiry, verify},
    one_line,
    reply::{self, ConnectResult},
    terms::Wish,
    unidirectional::disconnect_of,
};
use crate::{
    auth::{
        ConnectionClaims, Terms, TokenError,
        permissions::{self, Access},
    },
    codes::CloseReason,
    protocol::{Effect, ErrorCode, KeyUse, Name, Now, Request, SubscribeOptions, Subscribed},
    proxy::{BackendCall, ProxyId},
};

impl Session {
    /// By a token, else by the backend's word, else by a header of the connection's request, else
    /// as the anonymous user, as far as these are enabled (centrifugo `OnClientConnecting`).
    pub(super) fn connect(
        &mut self,
        now: Now,
        policy: &Policy,
        id: u32,
        request: &ConnectRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        self.remember_agent(request);
        if let Some(emulated) = request.headers.as_ref().filter(|given| !given.is_empty()) {
            let arrival = self.credentials_mut().arrival.get_or_insert_default();
            arrival.emulate(policy, emulated).map_err(|_| CloseReason::BAD_REQUEST)?;
        }
        let subs = request.subs.iter().flatten();
        if subs.filter_map(|(_, asked)| asked.as_ref()).any(|asked| asked.tf.is_some()) {
            return self.refuse(id, ErrorCode::BAD_REQUEST, out);
        }
        let wishes = wishes(request);
        if request.token.is_empty() {
            if let Some(proxy) = policy.proxies.connect {
                self.ask_who(id, request, wishes, proxy, out);
                return Ok(());
            }
            self.admit(policy)?;
            let admission = Admission { wishes: &wishes, granted: Vec::new(), by_backend: false };
            return self.enter(now, policy, id, admission, out);
        }
        let claims = match verify(policy, &request.token, now) {
            Ok(claims) => claims,
            Err(TokenError::Expired) => return self.refuse(id, ErrorCode::TOKEN_EXPIRED, out),
            Err(TokenError::Invalid(_)) => return Err(CloseReason::INVALID_TOKEN),
            // It may be known in a moment: the client tries again by itself.
            Err(TokenError::UnknownKey) => {
                out.push(Effect::KeysWanted(KeyUse::Connections));
                return self.refuse(id, ErrorCode::INTERNAL, out);
            }
        };
        check_user(policy, &claims)?;
        let expire_at_unix_s = expire_at(policy, &claims, now);
        if expire_at_unix_s != 0 && expire_at_unix_s < now.unix_s {
            return self.refuse(id, ErrorCode::EXPIRED, out);
        }
        let granted = self.take_claims(claims, expire_at_unix_s);
        let admission = Admission { wishes: &wishes, granted, by_backend: false };
        self.enter(now, policy, id, admission, out)
    }

    /// Whoever nobody vouches for: the user that a header names, or the anonymous one.
    pub(super) fn admit(&mut self, policy: &Policy) -> Result<(), CloseReason> {
        let arrival = self.credentials.as_ref().and_then(|known| known.arrival.as_ref());
        match arrival.map(|arrival| &arrival.user).filter(|user| !user.is_empty()) {
            Some(user) => self.user = Name::clone(user),
            None if policy.anonymous || policy.insecure => {}
            // centrifuge answers missing credentials as a bad request (`connectCmd`), not 3507.
            None => return Err(CloseReason::BAD_REQUEST),
        }
        Ok(())
    }

    fn ask_who(
        &mut self,
        id: u32,
        request: &ConnectRequest<'_>,
        wishes: Wishes,
        proxy: ProxyId,
        out: &mut Vec<Effect>,
    ) {
        let (name, version) = self.agent();
        let call = BackendCall::Connect {
            name: Name::from(name),
            version: Name::from(version),
            caller: self.caller(),
            data: request.data.map(one_line),
            channels: wishes.keys().map(|channel| Name::from(channel.as_str())).collect(),
        };
        self.state = State::Asking;
        // It has done its duty; the call has a timeout of its own.
        self.overdue_ms = super::NEVER;
        self.connect_command = id;
        out.push(About::Connect(wishes).asked(id, proxy, call));
    }

    fn take_claims(&mut self, claims: ConnectionClaims, expire_at_unix_s: u64) -> Vec<Grant> {
        let credentials = self.credentials_mut();
        credentials.token_channels = channels_mark(&claims);
        credentials.set_info(claims.info);
        credentials.set_meta(claims.meta);
        credentials.expire_at_unix_s = expire_at_unix_s;
        if !claims.user.is_empty() {
            self.user = Name::from(claims.user);
        }
        let subs = claims.subs.into_iter();
        subs.map(|(channel, terms)| Grant { channel, terms }).collect()
    }

    /// The connection is who it says: it enters its user's home and the channels that are granted.
    pub(super) fn enter(
        &mut self,
        now: Now,
        policy: &Policy,
        id: u32,
        admission: Admission<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        let Admission { wishes, mut granted, by_backend } = admission;
        if let Some(namespace) = &policy.personal_namespace
            && !self.user.is_empty()
        {
            granted.push(Grant::plain(policy.channels.personal(namespace, &self.user)));
        }
        granted.retain(|grant| !grant.channel.is_empty());
        let mut subscriptions = Vec::with_capacity(granted.len());
        for grant in granted {
            let Some(options) = policy.channels.granted(&grant.channel) else {
                return self.refuse(id, ErrorCode::UNKNOWN_CHANNEL, out);
            };
            // As a subscribe that is over already (centrifuge `connectCmd`).
            if now.is_past(grant.terms.expire_at_unix_s) {
                return self.refuse(id, ErrorCode::EXPIRED, out);
            }
            let nothing = Wish::default();
            let wish = wishes.get(&grant.channel).unwrap_or(&nothing);
            let wanted = self.on_terms(policy, options, wish, grant.terms).by_server();
            subscriptions.push((Name::from(grant.channel), Box::new(wanted)));
        }
        if !by_backend {
            self.add_wanted(policy, wishes, &mut subscriptions);
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

    /// The channels that the client wants the server to have it in: a unidirectional client, because
    /// it cannot subscribe, and others when they come back to what the server had them in. Those that
    /// it may not subscribe to by itself are left out (centrifugo `OnClientConnecting`).
    fn add_wanted(
        &self,
        policy: &Policy,
        wishes: &Wishes,
        subscriptions: &mut Vec<(Name, Box<SubscribeOptions>)>,
    ) {
        for (channel, wish) in wishes {
            let Ok(options) = policy.channels.named(channel) else { continue };
            let (channels, user, insecure) = (&policy.channels, &self.user, policy.insecure);
            let access =
                permissions::may_subscribe(channels, options, channel, user, false, insecure);
            if access != Access::Allowed {
                continue;
            }
            let wanted = self.on_terms(policy, options, wish, Terms::default()).by_server();
            subscriptions.push((Name::from(channel.as_str()), Box::new(wanted)));
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
        mut subscriptions: Vec<Subscribed>,
    ) -> Vec<u8> {
        self.state = State::Connected;
        self.overdue_ms = super::NEVER;
        if policy.ping_interval_ms != 0 {
            let share = (u128::from(policy.ping_interval_ms) * u128::from(self.spread)) >> 32;
            let first_ms = u64::try_from(share).expect("a share of a u64 is one");
            self.ping_ms = now.monotonic_ms.saturating_add(first_ms);
        }
        for subscribed in &mut subscriptions {
            hide_expiry(policy, subscribed);
        }
        let entry = self.credentials.as_mut().and_then(|known| known.entry.take());
        let data = entry.and_then(|entry| entry.data);
        self.settle_credentials(now, policy);
        let result = ConnectResult {
            client: &self.client_id(),
            version: &policy.version,
            expiry: self.expiry(now, policy),
            data: data.as_deref(),
            subscriptions: &subscriptions,
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
}

/// What is known of channels when a connection enters.
pub(super) struct Admission<'a> {
    /// What the client wishes of channels to which the server may subscribe it.
    pub(super) wishes: &'a Wishes,
    /// Those to which it does.
    pub(super) granted: Vec<Grant>,
    /// The backend was told the wishes, and grants what it likes of them.
    pub(super) by_backend: bool,
}

/// A channel to which the server subscribes a connection.
pub(super) struct Grant {
    pub(super) channel: String,
    pub(super) terms: Terms,
}

impl Grant {
    pub(super) fn plain(channel: String) -> Self {
        Self { channel, terms: Terms::default() }
    }
}

/// What the client wishes of channels to which the server may subscribe it.
fn wishes(request: &ConnectRequest<'_>) -> Wishes {
    let subs = request.subs.iter().flatten();
    let wish = |asked: &Option<_>| asked.as_ref().map_or_else(Wish::default, Wish::of);
    subs.map(|(channel, asked)| (channel.to_string(), wish(asked))).collect()
}
