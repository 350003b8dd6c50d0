//! One connection that speaks the Centrifuge client protocol in its JSON encoding.
//!
//! Normative: centrifugal/protocol `definitions/client.proto`; behaviour where that is silent:
//! centrifuge `client.go` and centrifugo `internal/client/handler.go`, named where it decides.

mod command;
mod errors;
mod reply;

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use self::command::{ChannelRequest, Command, Method, PublishRequest, TokenRequest};
use self::reply::{ConnectResult, Expiry};
use super::{Answer, Effect, ErrorCode, Name, Now, Request};
use crate::auth::{ConnectionClaims, TokenError, Tokens};
use crate::close::{BAD_REQUEST, CONNECTION_EXPIRED, CloseReason, INVALID_TOKEN, NO_PONG, STALE};

pub(crate) use self::command::{one_line, present};
pub use self::reply::encode_publication;

/// A deadline that never comes.
const NEVER: u64 = u64::MAX;

/// Seconds after its expiry during which a connection may still be refreshed, as in Centrifugo
/// (`client.expired_close_delay`): clients send the new token when the old one expires, not before.
const EXPIRED_CLOSE_DELAY_S: u64 = 25;

/// Seconds that a connection lives at most without a refresh; a longer token is cut, as in
/// centrifuge (`maxTTLSeconds`).
const TTL_S_MAX: u64 = 365 * 24 * 3600;

/// Milliseconds between two looks at the wall clock where no ping is sent more often.
const EXPIRY_CHECK_MS: u64 = 60_000;

/// What connections may do and how long they may take for it; the same for all of a listener.
pub struct Policy {
    /// Anonymous users may connect and everybody may do everything. A token that is sent is still
    /// verified; only its connection never expires.
    pub insecure: bool,
    /// Clients may connect without a token, as the anonymous user.
    pub anonymous: bool,
    /// Verifies connection tokens; without it every token is invalid.
    pub tokens: Option<Tokens>,
    /// Milliseconds between two pings; clients are told whole seconds. 0 sends none.
    pub ping_interval_ms: u64,
    /// Milliseconds within which a ping is answered; shorter than the interval. 0 asks for no pong.
    pub pong_timeout_ms: u64,
    /// Milliseconds within which a client must have connected. 0 waits for ever.
    pub stale_close_ms: u64,
    /// Bytes of a channel's name; longer ones are refused with error 107.
    pub channel_bytes_max: usize,
    /// Who may do what in channels.
    pub channels: ChannelRules,
    /// The server's version in the connect reply. Clients rely on its not being empty.
    pub version: String,
    /// The node's id in the connect reply; empty to leave it out.
    pub node: String,
}

/// Centrifugo's permissions of a channel namespace, by the names that they have there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ChannelRules {
    /// Users may subscribe.
    pub allow_subscribe_for_client: bool,
    /// So may the anonymous user, if users may.
    pub allow_subscribe_for_anonymous: bool,
    /// Users may publish.
    pub allow_publish_for_client: bool,
    /// Users may publish to channels that they are subscribed to.
    pub allow_publish_for_subscriber: bool,
    /// So may the anonymous user, where users may.
    pub allow_publish_for_anonymous: bool,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits for the connect command; nothing else is accepted.
    Fresh,
    /// The connect command was good. Its answer is outstanding, further commands are accepted.
    Connecting,
    /// The connect reply was made.
    Connected,
    /// The connect command got an error reply. Any further command closes.
    Refused,
}

/// The protocol state of one connection.
#[derive(Debug)]
pub struct Session {
    client: [u8; 16],
    user: Option<Name>,
    /// The connection's info from its token, as JSON, for the publisher's `ClientInfo`.
    info: Option<Box<[u8]>>,
    /// When the connection must have been refreshed; 0 is never.
    expire_at_unix_s: u64,
    /// When to look whether that has come: the wall clock may be set in between.
    expiry_check_ms: u64,
    ping_ms: u64,
    /// When the peer's next duty is overdue: its connect command, afterwards its pong.
    overdue_ms: u64,
    /// The number of the connect command, to know its answer.
    connect_command: u32,
    /// The share of the ping interval, in 2^-32, after which the first ping follows.
    spread: u32,
    state: State,
}

const _: () = assert!(size_of::<Session>() <= 96, "a session is part of every idle connection");

/// What stops the handling of a message: the rest of it is not looked at.
type Handled = Result<(), CloseReason>;

impl Session {
    /// A session that waits for its connect command.
    ///
    /// `client` is random; it becomes the client's id as a version 4 UUID. The first ping follows
    /// the connect reply by `spread` / 2^32 of the interval, so that connections that came together
    /// are not pinged together.
    pub fn new(now: Now, client: [u8; 16], spread: u32, policy: &Policy) -> Self {
        Self {
            client: uuid::Builder::from_random_bytes(client).into_uuid().into_bytes(),
            user: None,
            info: None,
            expire_at_unix_s: 0,
            expiry_check_ms: NEVER,
            ping_ms: NEVER,
            overdue_ms: after(now, policy.stale_close_ms),
            connect_command: 0,
            spread,
            state: State::Fresh,
        }
    }

    /// Takes one WebSocket text message: commands separated by newlines.
    ///
    /// What they ask for is appended to `out` in their order, and ends with a close where one of
    /// them breaks the protocol.
    pub fn received(&mut self, now: Now, policy: &Policy, text: &str, out: &mut Vec<Effect>) {
        let mut empty = true;
        for line in text.split('\n') {
            if line.trim_ascii().is_empty() {
                continue;
            }
            empty = false;
            if let Err(reason) = self.command(now, policy, line, out) {
                out.push(Effect::Close(reason));
                return;
            }
        }
        if empty {
            out.push(Effect::Close(BAD_REQUEST));
        }
    }

    /// Encodes the reply to `command`, whose request was answered; without a newline at its end.
    pub fn answered(&mut self, now: Now, policy: &Policy, command: u32, answer: Answer) -> Vec<u8> {
        match answer {
            Answer::Connected => self.connected(now, policy, command),
            Answer::Subscribed => reply::empty(command, "subscribe"),
            Answer::Unsubscribed => reply::empty(command, "unsubscribe"),
            Answer::Published => reply::empty(command, "publish"),
            Answer::Failed(code) => {
                if self.state == State::Connecting && command == self.connect_command {
                    self.state = State::Refused;
                }
                reply::error(command, code)
            }
        }
    }

    /// When [`due`](Self::due) is to be called next, in milliseconds of the monotonic clock;
    /// `u64::MAX` is never.
    pub fn deadline_ms(&self) -> u64 {
        self.ping_ms.min(self.overdue_ms).min(self.expiry_check_ms)
    }

    /// Does what time demands: pings, and closes who is stale, silent or expired.
    ///
    /// May be called at any time, and must be at [`deadline_ms`](Self::deadline_ms).
    pub fn due(&mut self, now: Now, policy: &Policy, out: &mut Vec<Effect>) {
        if now.monotonic_ms >= self.overdue_ms {
            let reason = if self.state == State::Connected { NO_PONG } else { STALE };
            out.push(Effect::Close(reason));
            return;
        }
        if self.state != State::Connected {
            return;
        }
        if self.expire_at_unix_s != 0 {
            let close_at_unix_s = self.expire_at_unix_s.saturating_add(EXPIRED_CLOSE_DELAY_S);
            if now.unix_s >= close_at_unix_s {
                out.push(Effect::Close(CONNECTION_EXPIRED));
                return;
            }
        }
        self.schedule_expiry_check(now);
        if now.monotonic_ms >= self.ping_ms {
            out.push(Effect::Reply(reply::PING.to_vec()));
            self.ping_ms = after(now, policy.ping_interval_ms);
            if self.overdue_ms == NEVER {
                self.overdue_ms = after(now, policy.pong_timeout_ms);
            }
        }
    }

    /// The client's id, as its peers see it.
    pub fn client_id(&self) -> String {
        Uuid::from_bytes(self.client).hyphenated().to_string()
    }

    /// The user: empty for an anonymous one and before the connect command.
    pub fn user(&self) -> &str {
        self.user.as_deref().unwrap_or_default()
    }

    fn command(&mut self, now: Now, policy: &Policy, line: &str, out: &mut Vec<Effect>) -> Handled {
        let command = Command::parse(line).map_err(|_| BAD_REQUEST)?;
        let id = command.id;
        let is_pong = command.is_pong();
        let method = command.method();
        if matches!(self.state, State::Fresh | State::Refused) {
            // A refused connection cannot try again: centrifuge calls it unusable.
            return match method {
                Some(Method::Connect(request)) if id != 0 && self.state == State::Fresh => {
                    self.connect(now, policy, id, &request, out)
                }
                _ => Err(BAD_REQUEST),
            };
        }
        if is_pong {
            return self.pong();
        }
        match method.ok_or(BAD_REQUEST)? {
            Method::Connect(_) => Err(BAD_REQUEST),
            Method::Subscribe(request) => self.subscribe(policy, id, &request, out),
            Method::Unsubscribe(request) => self.unsubscribe(policy, id, &request, out),
            Method::Publish(request) => self.publish(policy, id, &request, out),
            Method::Refresh(request) => self.refresh(now, policy, id, &request, out),
            Method::SubRefresh(request) if request.channel.is_empty() => Err(BAD_REQUEST),
            // No subscription here has a token, so none can be refreshed.
            Method::SubRefresh(_) | Method::Unavailable => {
                out.push(error(id, ErrorCode::NOT_AVAILABLE));
                Ok(())
            }
            // One-way, and nobody is there to take it. (centrifuge closes with 3508 here.)
            Method::Send => Ok(()),
        }
    }

    fn connect(
        &mut self,
        now: Now,
        policy: &Policy,
        id: u32,
        request: &TokenRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Handled {
        if request.token.is_empty() {
            // centrifuge answers missing credentials as a bad request (`connectCmd`), not 3507.
            if !(policy.anonymous || policy.insecure) {
                return Err(BAD_REQUEST);
            }
        } else {
            match verify(policy, &request.token, now) {
                Ok(claims) => {
                    let expire_at_unix_s = expire_at(policy, &claims, now);
                    let refusal = if expire_at_unix_s != 0 && expire_at_unix_s < now.unix_s {
                        Some(ErrorCode::EXPIRED)
                    } else if claims.channels.is_empty() {
                        None
                    } else {
                        // Subscriptions by the server: said, rather than connected without them.
                        Some(ErrorCode::NOT_AVAILABLE)
                    };
                    if let Some(code) = refusal {
                        return self.refuse(id, code, out);
                    }
                    self.expire_at_unix_s = expire_at_unix_s;
                    self.info = claims.info.map(|info| one_line(&info).to_vec().into());
                    self.user = Some(Arc::from(claims.user));
                }
                Err(TokenError::Expired) => return self.refuse(id, ErrorCode::TOKEN_EXPIRED, out),
                Err(TokenError::Invalid(_)) => return Err(INVALID_TOKEN),
            }
        }
        let user = self.user.get_or_insert_with(|| Arc::from("")).clone();
        self.state = State::Connecting;
        self.connect_command = id;
        out.push(Effect::Request { command: id, request: Request::Connect { user } });
        Ok(())
    }

    fn refuse(&mut self, id: u32, code: ErrorCode, out: &mut Vec<Effect>) -> Handled {
        self.state = State::Refused;
        out.push(error(id, code));
        Ok(())
    }

    fn connected(&mut self, now: Now, policy: &Policy, command: u32) -> Vec<u8> {
        self.state = State::Connected;
        self.overdue_ms = NEVER;
        if policy.ping_interval_ms != 0 {
            let share = u128::from(policy.ping_interval_ms) * u128::from(self.spread) >> 32;
            let first_ms = u64::try_from(share).expect("a share of a u64 is one");
            self.ping_ms = now.monotonic_ms.saturating_add(first_ms);
        }
        self.schedule_expiry_check(now);
        let result = ConnectResult {
            client: &self.client_id(),
            version: &policy.version,
            expiry: self.expiry(now),
            ping: policy.ping_interval_ms / 1000,
            pong: policy.ping_interval_ms != 0 && policy.pong_timeout_ms != 0,
            node: &policy.node,
        };
        reply::result(command, "connect", &result)
    }

    fn pong(&mut self) -> Handled {
        if self.state != State::Connected || self.overdue_ms == NEVER {
            return Err(BAD_REQUEST);
        }
        self.overdue_ms = NEVER;
        Ok(())
    }

    fn subscribe(
        &self,
        policy: &Policy,
        id: u32,
        request: &ChannelRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Handled {
        let rules = policy.channels;
        let allowed = policy.insecure
            || rules.allow_subscribe_for_client
                && (!self.user().is_empty() || rules.allow_subscribe_for_anonymous);
        let effect = match self.channel(policy, &request.channel)? {
            Err(code) => error(id, code),
            // A subscription token is invalid where there is no key for one, and an invalid one is
            // answered so (centrifugo `OnSubscribe`), whatever else would allow the subscription.
            Ok(_) if !allowed || !request.token.is_empty() => {
                error(id, ErrorCode::PERMISSION_DENIED)
            }
            Ok(channel) => Effect::Request { command: id, request: Request::Subscribe { channel } },
        };
        out.push(effect);
        Ok(())
    }

    fn unsubscribe(
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

    fn publish(
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
        let channel = match self.channel(policy, &request.channel)? {
            Ok(channel) => channel,
            Err(code) => return Ok(Err(code)),
        };
        let rules = policy.channels;
        let known = !self.user().is_empty() || rules.allow_publish_for_anonymous;
        let subscribers_only = if policy.insecure || known && rules.allow_publish_for_client {
            false
        } else if known && rules.allow_publish_for_subscriber {
            true
        } else {
            return Ok(Err(ErrorCode::PERMISSION_DENIED));
        };
        let Some(data) = request.data else { return Ok(Err(ErrorCode::BAD_REQUEST)) };
        let info = reply::client_info(self.user(), &self.client_id(), self.info.as_deref());
        let info = Some(Bytes::from(info));
        Ok(Ok(Request::Publish { channel, data: one_line(data), info, subscribers_only }))
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
        if channel.len() > policy.channel_bytes_max {
            return Ok(Err(ErrorCode::BAD_REQUEST));
        }
        Ok(Ok(Arc::from(channel)))
    }

    /// centrifugo `OnRefresh` and centrifuge `handleRefresh`, but for one thing: a token without an
    /// expiry ends the connection's, which centrifuge would let run on.
    fn refresh(
        &mut self,
        now: Now,
        policy: &Policy,
        id: u32,
        request: &TokenRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> Handled {
        if request.token.is_empty() {
            return Err(BAD_REQUEST);
        }
        let claims = verify(policy, &request.token, now).map_err(|error| match error {
            TokenError::Expired => CONNECTION_EXPIRED,
            TokenError::Invalid(_) => INVALID_TOKEN,
        })?;
        if claims.user != self.user() {
            return Err(INVALID_TOKEN);
        }
        let expire_at_unix_s = expire_at(policy, &claims, now);
        if expire_at_unix_s != 0 && expire_at_unix_s <= now.unix_s {
            out.push(error(id, ErrorCode::EXPIRED));
            return Ok(());
        }
        self.expire_at_unix_s = expire_at_unix_s;
        if let Some(info) = claims.info {
            self.info = Some(one_line(&info).to_vec().into());
        }
        if self.state == State::Connected {
            self.schedule_expiry_check(now);
        }
        out.push(Effect::Reply(reply::result(id, "refresh", &self.expiry(now))));
        Ok(())
    }

    fn expiry(&self, now: Now) -> Expiry {
        Expiry {
            expires: self.expire_at_unix_s != 0,
            ttl_s: self.expire_at_unix_s.saturating_sub(now.unix_s),
        }
    }

    fn schedule_expiry_check(&mut self, now: Now) {
        self.expiry_check_ms = if self.expire_at_unix_s == 0 {
            NEVER
        } else {
            let left_s = self.expiry(now).ttl_s.saturating_add(EXPIRED_CLOSE_DELAY_S);
            after(now, left_s.saturating_mul(1000).min(EXPIRY_CHECK_MS))
        };
    }
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

fn error(id: u32, code: ErrorCode) -> Effect {
    Effect::Reply(reply::error(id, code))
}

/// The moment `delay_ms` from now; 0 is never.
fn after(now: Now, delay_ms: u64) -> u64 {
    if delay_ms == 0 { NEVER } else { now.monotonic_ms.saturating_add(delay_ms) }
}
