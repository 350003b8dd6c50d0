//! One connection that speaks the Centrifuge client protocol in its JSON encoding.
//!
//! Normative: centrifugal/protocol `definitions/client.proto`; behaviour where that is silent:
//! centrifuge `client.go` and centrifugo `internal/client/handler.go`, named where it decides.

mod arrival;
mod asking;
mod command;
mod connect;
mod credentials;
mod expiry;
mod object;
mod operations;
mod reply;
mod terms;
mod unidirectional;

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use self::command::{Command, Method};
use self::credentials::Credentials;
use self::reply::Expiry;
use super::{Answer, Effect, ErrorCode, MemberInfo, Name, Now, Subscribed};
use crate::auth::Tokens;
use crate::channels::Channels;
use crate::codes::CloseReason;
use crate::proxy::routes::Routes;

pub use self::arrival::Arrival;
pub use self::asking::{About, Ask, Wishes};
pub use self::reply::{
    PublicationFields, disconnect, disconnect_push, encode_membership, encode_message,
    encode_publication, publication_push,
};
pub use self::terms::Wish;
pub use self::unidirectional::{disconnect_of, is_connect_request};
pub use crate::auth::Terms;
pub(crate) use crate::codec::json::{one_line, present};
pub use crate::codes::Unsubscribed;

/// A deadline that never comes.
const NEVER: u64 = u64::MAX;

/// What connections may do and how long they may take for it; the same for all of a listener.
pub struct Policy {
    /// Anonymous users may connect and everybody may do everything. A token that is sent is still
    /// verified; only its connection never expires.
    pub insecure: bool,
    /// Clients may connect without a token, as the anonymous user.
    pub anonymous: bool,
    /// A connection token must name a user.
    pub disallow_anonymous_tokens: bool,
    /// A header of the connection's request that names the user, where no token does.
    pub user_id_header: Option<String>,
    /// What the backend decides.
    pub proxies: Routes,
    /// Verifies connection tokens; without it every token is invalid.
    pub tokens: Option<Tokens>,
    /// Verifies subscription tokens; without it the same keys do as for connections.
    pub subscription_tokens: Option<Tokens>,
    /// Milliseconds between two pings; clients are told whole seconds. 0 sends none.
    pub ping_interval_ms: u64,
    /// Milliseconds within which a ping is answered; shorter than the interval. 0 asks for no pong.
    pub pong_timeout_ms: u64,
    /// Milliseconds within which a client must have connected. 0 waits for ever.
    pub stale_close_ms: u64,
    /// What channels may be called, and who may do what in them.
    pub channels: Arc<Channels>,
    /// Publications of one history reply.
    pub history_publications_max: usize,
    /// The namespace of the channel of each user's own, to which all its connections are
    /// subscribed; `None`: there are no such channels. Empty: without a namespace.
    pub personal_namespace: Option<String>,
    /// Seconds after its expiry during which a connection may still be refreshed: clients send the
    /// new token when the old one expires, not before.
    pub expired_close_delay_s: u64,
    /// The same for subscriptions.
    pub expired_sub_close_delay_s: u64,
    /// The server's version in the connect reply. Clients rely on its not being empty.
    pub version: String,
    /// The node's id in the connect reply; empty to leave it out.
    pub node: String,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits for the connect command; nothing else is accepted.
    Fresh,
    /// The backend was asked who it is; further commands are held.
    Asking,
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
    /// Empty for an anonymous user and before the connect command: the shared empty name.
    user: Name,
    /// What the token says beyond the user; most idle connections need none of it.
    credentials: Option<Box<Credentials>>,
    ping_ms: u64,
    /// When the peer's next duty is overdue: its connect command, afterwards its pong.
    overdue_ms: u64,
    /// The number of the connect command, to know its answer.
    connect_command: u32,
    /// The share of the ping interval, in 2^-32, after which the first ping follows.
    spread: u32,
    /// Seconds since the Unix epoch at which the connection was accepted.
    accepted_unix_s: u32,
    state: State,
    /// Its client says nothing after its connect request, and is told pushes alone.
    unidirectional: bool,
}

const _: () = assert!(size_of::<Session>() <= 72, "a session is part of every idle connection");

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
            user: Name::default(),
            credentials: None,
            ping_ms: NEVER,
            overdue_ms: after(now, policy.stale_close_ms),
            connect_command: 0,
            spread,
            accepted_unix_s: u32::try_from(now.unix_s).unwrap_or(u32::MAX),
            state: State::Fresh,
            unidirectional: false,
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
            out.push(Effect::Close(CloseReason::BAD_REQUEST));
        }
    }

    /// Encodes the reply to `command`, whose request was answered; without a newline at its end.
    /// Empty where there is nothing to say.
    pub fn answered(&mut self, now: Now, policy: &Policy, command: u32, answer: Answer) -> Vec<u8> {
        match answer {
            Answer::Connected(subscriptions) => {
                self.connected(now, policy, command, "", subscriptions)
            }
            Answer::Subscribed(None) => reply::empty(command, "subscribe"),
            Answer::Subscribed(Some(mut subscribed)) => {
                self.entered(now, policy, &subscribed);
                expiry::hide_expiry(policy, &mut subscribed);
                reply::result(command, "subscribe", |object| {
                    reply::write_subscribed(object, &subscribed, now.unix_s);
                })
            }
            Answer::Prolonged { channel, expire_at_unix_s, info } => {
                self.expires(now, policy, &channel, expire_at_unix_s, info.as_deref());
                let expiry = Expiry::at(expire_at_unix_s, now.unix_s);
                reply::result(command, "sub_refresh", |object| expiry.write(object))
            }
            Answer::Unsubscribed => reply::empty(command, "unsubscribe"),
            Answer::Published => reply::empty(command, "publish"),
            Answer::UserSet | Answer::Delivered(_) => unreachable!("handlers ask for these"),
            Answer::Presence(present) => reply::presence(command, &present),
            Answer::PresenceStats { clients, users } => {
                reply::presence_stats(command, clients, users)
            }
            Answer::History(history) => reply::history(command, &history),
            Answer::Failed(code) => {
                if self.state == State::Connecting && command == self.connect_command {
                    self.state = State::Refused;
                }
                reply::error(command, code)
            }
        }
    }

    /// The push that tells the client of a subscription that it did not ask for.
    pub fn subscribed(&mut self, now: Now, policy: &Policy, subscribed: &Subscribed) -> Vec<u8> {
        self.entered(now, policy, subscribed);
        reply::subscribe_push(subscribed)
    }

    /// The push that tells the client of the end of a subscription.
    pub fn unsubscribed(&mut self, channel: &str, reason: Unsubscribed) -> Vec<u8> {
        self.forget(channel);
        reply::unsubscribe_push(channel, reason)
    }

    /// Who the connection is in a channel. `chan_info` is JSON.
    pub fn member(&self, chan_info: Option<&[u8]>) -> Arc<MemberInfo> {
        let client = self.client_id();
        let json = reply::client_info(&self.user, &client, self.info(), chan_info);
        // As long as the membership: without the room for more that it was written into.
        let json = Bytes::from(json.into_boxed_slice());
        Arc::new(MemberInfo { client, user: Name::clone(&self.user), json })
    }

    /// Who the connection is in a channel, by what is known of its subscription there.
    pub fn member_of(&self, channel: &str) -> Arc<MemberInfo> {
        self.member(self.channel_info(channel))
    }

    /// Who the connection is to those who get what it publishes to `channel`, as JSON.
    fn publisher(&self, channel: &str) -> Bytes {
        Bytes::clone(&self.member_of(channel).json)
    }

    /// When [`due`](Self::due) is to be called next, in milliseconds of the monotonic clock;
    /// `u64::MAX` is never.
    pub fn deadline_ms(&self) -> u64 {
        let expiry_check_ms = self.credentials.as_ref().map_or(NEVER, |c| c.expiry_check_ms);
        self.ping_ms.min(self.overdue_ms).min(expiry_check_ms)
    }

    /// Does what time demands: pings, and closes who is stale, silent or expired.
    ///
    /// May be called at any time, and must be at [`deadline_ms`](Self::deadline_ms).
    pub fn due(&mut self, now: Now, policy: &Policy, out: &mut Vec<Effect>) {
        if now.monotonic_ms >= self.overdue_ms {
            let reason = if self.state == State::Connected {
                CloseReason::NO_PONG
            } else {
                CloseReason::STALE
            };
            out.push(Effect::Close(reason));
            return;
        }
        if self.state != State::Connected {
            return;
        }
        if let Err(reason) = self.expire(now, policy, out) {
            out.push(Effect::Close(reason));
            return;
        }
        if now.monotonic_ms >= self.ping_ms {
            out.push(Effect::Reply(reply::PING.to_vec()));
            self.ping_ms = after(now, policy.ping_interval_ms);
            if self.overdue_ms == NEVER && !self.unidirectional {
                self.overdue_ms = after(now, policy.pong_timeout_ms);
            }
        }
    }

    /// The client's id, as its peers see it.
    pub fn client_id(&self) -> String {
        Uuid::from_bytes(self.client).hyphenated().to_string()
    }

    /// The user: empty for an anonymous one and before the connect command.
    pub fn user(&self) -> &Name {
        &self.user
    }

    fn command(&mut self, now: Now, policy: &Policy, line: &str, out: &mut Vec<Effect>) -> Handled {
        if self.state == State::Asking {
            return self.hold(line);
        }
        let command = Command::parse(line).ok_or(CloseReason::BAD_REQUEST)?;
        let id = command.id;
        let is_pong = command.is_pong();
        let method = command.method();
        if matches!(self.state, State::Fresh | State::Refused) {
            // A refused connection cannot try again: centrifuge calls it unusable.
            return match method {
                Some(Method::Connect(request)) if id != 0 && self.state == State::Fresh => {
                    self.connect(now, policy, id, &request, out)
                }
                _ => Err(CloseReason::BAD_REQUEST),
            };
        }
        if is_pong {
            return self.pong();
        }
        match method.ok_or(CloseReason::BAD_REQUEST)? {
            Method::Connect(_) => Err(CloseReason::BAD_REQUEST),
            Method::Subscribe(request) => self.subscribe(now, policy, id, &request, out),
            Method::Unsubscribe(request) => self.unsubscribe(policy, id, &request, out),
            Method::Publish(request) => self.publish(policy, id, &request, out),
            Method::Presence(request) => self.presence(policy, id, &request, false, out),
            Method::PresenceStats(request) => self.presence(policy, id, &request, true, out),
            Method::History(request) => self.history(policy, id, &request, out),
            Method::Ping => {
                out.push(Effect::Reply(reply::empty(id, "ping")));
                Ok(())
            }
            Method::Rpc(request) => self.rpc(policy, id, &request, out),
            Method::Refresh(request) => self.refresh(now, policy, id, &request, out),
            Method::SubRefresh(request) => self.sub_refresh(now, policy, id, &request, out),
            // One-way, and nobody is there to take it. (centrifuge closes with 3508 here.)
            Method::Send => Ok(()),
        }
    }

    fn pong(&mut self) -> Handled {
        if self.state != State::Connected || self.overdue_ms == NEVER {
            return Err(CloseReason::BAD_REQUEST);
        }
        self.overdue_ms = NEVER;
        Ok(())
    }
}

fn error(id: u32, code: ErrorCode) -> Effect {
    Effect::Reply(reply::error(id, code))
}

/// The moment `delay_ms` from now; 0 is never.
fn after(now: Now, delay_ms: u64) -> u64 {
    if delay_ms == 0 { NEVER } else { now.monotonic_ms.saturating_add(delay_ms) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::tokens::sign_connection;
    use crate::channels::ChannelOptions;
    use crate::protocol::{Query, Request};
    use crate::proxy::calls::Encoding;

    const SECRET: &str = "secret";
    const NOW: Now = Now { monotonic_ms: 1_000_000, unix_s: 1_700_000_000 };
    const CLIENT: &str = "00010203-0405-4607-8809-0a0b0c0d0e0f";

    pub(super) fn policy() -> Policy {
        Policy {
            insecure: false,
            anonymous: true,
            disallow_anonymous_tokens: false,
            user_id_header: None,
            proxies: Routes::default(),
            tokens: Some(Tokens::new(SECRET, None, None)),
            subscription_tokens: None,
            ping_interval_ms: 25_000,
            pong_timeout_ms: 8_000,
            stale_close_ms: 10_000,
            channels: channels(ChannelOptions {
                allow_subscribe_for_client: true,
                allow_subscribe_for_anonymous: true,
                allow_publish_for_client: true,
                allow_publish_for_anonymous: true,
                ..ChannelOptions::default()
            }),
            history_publications_max: 300,
            personal_namespace: None,
            expired_close_delay_s: 25,
            expired_sub_close_delay_s: 25,
            version: "1.0".to_owned(),
            node: String::new(),
        }
    }

    /// Names of at most 10 bytes, with these options where no namespace is named.
    fn channels(options: ChannelOptions) -> Arc<Channels> {
        let (without_namespace, max_length) = (Arc::new(options), 10);
        Arc::new(Channels { without_namespace, max_length, ..Channels::default() })
    }

    fn fresh(policy: &Policy) -> Session {
        Session::new(NOW, std::array::from_fn(|i| i as u8), 0, policy)
    }

    /// A session whose connect command, with this token, was answered.
    fn connected(policy: &Policy, token: &str) -> Session {
        let mut session = fresh(policy);
        let line = format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#);
        let said = said(&mut session, policy, &line);
        assert!(matches!(&said[..], [s] if s.starts_with("1 connect")), "{said:?}");
        session.answered(NOW, policy, 1, Answer::Connected(Vec::new()));
        session
    }

    fn later(ms: u64) -> Now {
        Now { monotonic_ms: NOW.monotonic_ms + ms, unix_s: NOW.unix_s + ms / 1000 }
    }

    /// The effects of a message, each as a short text.
    fn said(session: &mut Session, policy: &Policy, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        session.received(NOW, policy, text, &mut out);
        out.iter().map(short).collect()
    }

    fn due(session: &mut Session, policy: &Policy, now: Now) -> Vec<String> {
        let mut out = Vec::new();
        session.due(now, policy, &mut out);
        out.iter().map(short).collect()
    }

    fn short(effect: &Effect) -> String {
        match effect {
            Effect::Reply(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            Effect::Binary(_) => panic!("JSON sessions send text"),
            Effect::Close(reason) => format!("close {}", reason.code),
            Effect::Disconnect { code, reason } => format!("disconnect {code} {reason}"),
            Effect::KeysWanted(of) => format!("keys of {of:?}"),
            Effect::Ask { command, ask } => {
                let call = String::from_utf8(ask.call.to_json(true, Encoding::Json)).unwrap();
                format!("{command} ask {} {:?} {call}", ask.proxy.0, ask.call.method())
            }
            Effect::Expire { channel } => format!("expire {channel}"),
            Effect::Renewed { channel } => format!("renewed {channel:?}"),
            Effect::Request { command, request } => match request {
                Request::Connect { user, .. } => format!("{command} connect {user}"),
                Request::Subscribe { channel, .. } => format!("{command} subscribe {channel}"),
                Request::Prolong { channel, expire_at_unix_s, .. } => {
                    format!("{command} prolong {channel} {expire_at_unix_s}")
                }
                Request::Unsubscribe { channel } => format!("{command} unsubscribe {channel}"),
                Request::Publish { channel, data, info, subscribers_only, .. } => format!(
                    "{command} publish {channel} {} {} {subscribers_only}",
                    str::from_utf8(data).unwrap(),
                    str::from_utf8(info.as_ref().unwrap()).unwrap(),
                ),
                Request::Read { channel, query, subscribers_only } => {
                    let query = match query {
                        Query::History(filter) => format!("history {:?}", filter.limit),
                        other => format!("{other:?}"),
                    };
                    format!("{command} {query} of {channel} {subscribers_only}")
                }
                other => panic!("handlers ask for this: {other:?}"),
            },
        }
    }

    fn error_text(id: u32, code: ErrorCode) -> String {
        String::from_utf8(reply::error(id, code)).unwrap()
    }

    #[test]
    fn connect_without_a_token_is_for_anonymous_or_insecure_listeners() {
        let line = r#"{"id":1,"connect":{}}"#;
        for (anonymous, insecure, expected) in
            [(true, false, "1 connect "), (false, true, "1 connect "), (false, false, "close 3501")]
        {
            let policy = Policy { anonymous, insecure, ..policy() };
            assert_eq!(said(&mut fresh(&policy), &policy, line), [expected]);
        }
    }

    #[test]
    fn tokens_decide_who_connects() {
        let policy = Policy { anonymous: false, ..policy() };
        let past = Some(NOW.unix_s - 1);
        for (token, expected) in [
            (sign_connection(SECRET, "42", None, None), "1 connect 42".to_owned()),
            (sign_connection(SECRET, "", None, None), "1 connect ".to_owned()),
            (sign_connection("other", "42", None, None), "close 3500".to_owned()),
            ("nonsense".to_owned(), "close 3500".to_owned()),
            (sign_connection(SECRET, "42", past, None), error_text(1, ErrorCode::TOKEN_EXPIRED)),
        ] {
            for (insecure, tokens) in [(false, true), (true, true), (true, false)] {
                // Even an insecure listener verifies what is sent; without a key nothing is valid.
                let tokens = tokens.then(|| Tokens::new(SECRET, None, None));
                let expected = if tokens.is_some() { &expected[..] } else { "close 3500" };
                let policy = Policy { insecure, tokens, ..super::tests::policy() };
                let line = format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#);
                assert_eq!(said(&mut fresh(&policy), &policy, &line), [expected]);
            }
        }
        let session = connected(&policy, &sign_connection(SECRET, "42", None, None));
        assert_eq!(&**session.user(), "42");
    }

    #[test]
    fn the_connect_reply_tells_what_the_client_needs() {
        let policy = Policy { node: "n1".to_owned(), ..policy() };
        let mut session = fresh(&policy);
        assert_eq!(session.client_id(), CLIENT);
        assert_eq!(&**session.user(), "");
        said(&mut session, &policy, r#"{"id":5,"connect":{}}"#);
        let reply = session.answered(NOW, &policy, 5, Answer::Connected(Vec::new()));
        assert_eq!(
            String::from_utf8(reply).unwrap(),
            [
                r#"{"id":5,"connect":{"client":""#,
                CLIENT,
                r#"","version":"1.0","ping":25,"pong":true,"node":"n1"}}"#,
            ]
            .concat()
        );

        let policy = Policy { ping_interval_ms: 0, node: String::new(), ..policy };
        let mut session = fresh(&policy);
        let token = sign_connection(SECRET, "42", Some(NOW.unix_s + 60), None);
        let line = format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#);
        said(&mut session, &policy, &line);
        let reply = session.answered(NOW, &policy, 1, Answer::Connected(Vec::new()));
        assert_eq!(
            String::from_utf8(reply).unwrap(),
            format!(
                r#"{{"id":1,"connect":{{"client":"{CLIENT}","version":"1.0","expires":true,"ttl":60}}}}"#
            )
        );
    }

    #[test]
    fn commands_may_follow_connect_in_the_same_message() {
        let policy = policy();
        let text = concat!(
            "{\"id\":1,\"connect\":{}}\n",
            "{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}\n",
            "{\"id\":3,\"rpc\":{}}\n\n",
            "{\"id\":4,\"subscribe\":{\"channel\":\"b\"}}\n",
        );
        assert_eq!(
            said(&mut fresh(&policy), &policy, text),
            [
                "1 connect ",
                "2 subscribe a",
                &error_text(3, ErrorCode::NOT_AVAILABLE),
                "4 subscribe b"
            ]
        );
    }

    #[test]
    fn what_breaks_the_protocol_closes_and_ends_the_message() {
        let policy = policy();
        let more = "\n{\"id\":9,\"subscribe\":{\"channel\":\"a\"}}";
        for line in ["", "\n \n", "{", "[]", "{}", r#"{"id":2}"#, r#"{"id":2,"x":{}}"#] {
            let expected = ["close 3501"];
            let text =
                if line.trim_ascii().is_empty() { line.into() } else { format!("{line}{more}") };
            assert_eq!(said(&mut fresh(&policy), &policy, &text), expected, "{line}");
            assert_eq!(said(&mut connected(&policy, ""), &policy, &text), expected, "{line}");
        }
        for before_connect in [
            r#"{"id":1,"subscribe":{"channel":"a"}}"#,
            r#"{"id":1,"refresh":{"token":"t"}}"#,
            r#"{"send":{}}"#,
            r#"{"connect":{}}"#,
        ] {
            let text = format!("{before_connect}{more}");
            assert_eq!(said(&mut fresh(&policy), &policy, &text), ["close 3501"]);
        }
        for afterwards in [
            r#"{"id":2,"connect":{}}"#,
            r#"{"subscribe":{"channel":"a"}}"#,
            r#"{"id":2,"subscribe":{}}"#,
            r#"{"id":2,"unsubscribe":{"channel":""}}"#,
            r#"{"id":2,"publish":{"data":1}}"#,
            r#"{"id":2,"sub_refresh":{"token":"t"}}"#,
            r#"{"id":2,"refresh":{}}"#,
        ] {
            let text = format!("{afterwards}{more}");
            assert_eq!(said(&mut connected(&policy, ""), &policy, &text), ["close 3501"]);
        }
        let twice = "{\"id\":1,\"connect\":{}}\n{\"id\":1,\"connect\":{}}";
        assert_eq!(said(&mut fresh(&policy), &policy, twice), ["1 connect ", "close 3501"]);
    }

    #[test]
    fn after_an_error_reply_to_connect_any_command_closes() {
        let policy = policy();
        let expired = sign_connection(SECRET, "42", Some(NOW.unix_s), None);
        let line = format!(r#"{{"id":1,"connect":{{"token":"{expired}"}}}}"#);
        for next in [r#"{"id":2,"connect":{}}"#, r#"{"id":2,"rpc":{}}"#, "{}", r#"{"send":{}}"#] {
            let mut session = fresh(&policy);
            said(&mut session, &policy, &line);
            assert_eq!(said(&mut session, &policy, next), ["close 3501"]);

            let mut session = fresh(&policy);
            said(&mut session, &policy, r#"{"id":1,"connect":{}}"#);
            let reply = session.answered(NOW, &policy, 1, Answer::Failed(ErrorCode::INTERNAL));
            assert_eq!(reply, reply::error(1, ErrorCode::INTERNAL));
            assert_eq!(said(&mut session, &policy, next), ["close 3501"]);
        }
        let mut session = fresh(&policy);
        said(&mut session, &policy, &line);
        assert_eq!(due(&mut session, &policy, later(10_000)), ["close 3502"]);
    }

    #[test]
    fn a_failed_command_beside_connect_is_not_the_connect() {
        let policy = policy();
        let mut session = fresh(&policy);
        let text = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}";
        said(&mut session, &policy, text);
        session.answered(NOW, &policy, 2, Answer::Failed(ErrorCode::LIMIT_EXCEEDED));
        session.answered(NOW, &policy, 1, Answer::Connected(Vec::new()));
        assert_eq!(
            said(&mut session, &policy, r#"{"id":3,"subscribe":{"channel":"a"}}"#),
            ["3 subscribe a"]
        );
    }

    #[test]
    fn channels_of_a_token_are_subscribed_and_unknown_ones_and_past_expiries_refused() {
        use jsonwebtoken::{EncodingKey, Header, encode};
        let policy = policy();
        for (claims, code) in [
            (serde_json::json!({"channels": ["b", "a", "b"]}), Err(["a", "b"].as_slice())),
            (serde_json::json!({"subs": {"a": {}}}), Err(["a"].as_slice())),
            (serde_json::json!({"channels": ["x:a"]}), Ok(ErrorCode::UNKNOWN_CHANNEL)),
            (serde_json::json!({"expire_at": NOW.unix_s - 1}), Ok(ErrorCode::EXPIRED)),
        ] {
            let key = EncodingKey::from_secret(SECRET.as_bytes());
            let token = encode(&Header::default(), &claims, &key).unwrap();
            let line = format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#);
            let mut out = Vec::new();
            fresh(&policy).received(NOW, &policy, &line, &mut out);
            match (code, &out[..]) {
                (Ok(code), [effect]) => assert_eq!(short(effect), error_text(1, code)),
                (
                    Err(channels),
                    [Effect::Request { request: Request::Connect { subscriptions, .. }, .. }],
                ) => {
                    let named: Vec<_> = subscriptions.iter().map(|(name, _)| &**name).collect();
                    assert_eq!(named, channels);
                    assert!(subscriptions.iter().all(|(_, options)| options.server_side));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_filter_of_what_the_server_subscribes_to_is_refused() {
        let policy = policy();
        let line =
            r#"{"id":1,"connect":{"subs":{"a":null,"b":{"tf":{"op":"","key":"k","cmp":"ex"}}}}}"#;
        let refused = error_text(1, ErrorCode::BAD_REQUEST);
        assert_eq!(said(&mut fresh(&policy), &policy, line), [refused]);
    }

    #[test]
    fn methods_become_requests_or_errors() {
        let policy = policy();
        let info = format!(r#"{{"user":"42","client":"{CLIENT}","conn_info":{{"n": 1}}}}"#);
        let token = sign_connection(SECRET, "42", None, Some("{\"n\":\n1}"));
        for (line, expected) in [
            (r#"{"id":2,"subscribe":{"channel":"a"}}"#, "2 subscribe a".to_owned()),
            (r#"{"id":2,"unsubscribe":{"channel":"a"}}"#, "2 unsubscribe a".to_owned()),
            (
                r#"{"id":2,"publish":{"channel":"a","data":{"b":[ 1]}}}"#,
                format!("2 publish a {{\"b\":[ 1]}} {info} false"),
            ),
            (
                r#"{"id":2,"publish":{"channel":"a","data":null}}"#,
                format!("2 publish a null {info} false"),
            ),
            (r#"{"id":2,"publish":{"channel":"a"}}"#, error_text(2, ErrorCode::BAD_REQUEST)),
            (
                r#"{"id":2,"publish":{"channel":"12345678901","data":1}}"#,
                error_text(2, ErrorCode::BAD_REQUEST),
            ),
            (
                r#"{"id":2,"subscribe":{"channel":"12345678901"}}"#,
                error_text(2, ErrorCode::BAD_REQUEST),
            ),
            (
                r#"{"id":2,"unsubscribe":{"channel":"12345678901"}}"#,
                error_text(2, ErrorCode::BAD_REQUEST),
            ),
            (r#"{"id":2,"subscribe":{"channel":"1234567890"}}"#, "2 subscribe 1234567890".into()),
            (
                r#"{"id":2,"subscribe":{"channel":"a","token":"t"}}"#,
                error_text(2, ErrorCode::PERMISSION_DENIED),
            ),
            (
                r#"{"id":2,"subscribe":{"channel":"a","tf":{"op":"","key":"k","cmp":"eq"}}}"#,
                error_text(2, ErrorCode::BAD_REQUEST),
            ),
            (r#"{"id":2,"subscribe":{"channel":"a","tf":null}}"#, "2 subscribe a".into()),
            (r#"{"id":2,"rpc":{"method":"m"}}"#, error_text(2, ErrorCode::NOT_AVAILABLE)),
            (r#"{"id":2,"presence":{}}"#, "close 3501".into()),
            (r#"{"id":2,"ping":{}}"#, r#"{"id":2,"ping":{}}"#.into()),
            (r#"{"id":2,"presence":{"channel":"a"}}"#, error_text(2, ErrorCode::NOT_AVAILABLE)),
            (
                r#"{"id":2,"presence_stats":{"channel":"a"}}"#,
                error_text(2, ErrorCode::NOT_AVAILABLE),
            ),
            (r#"{"id":2,"history":{"channel":"a"}}"#, error_text(2, ErrorCode::NOT_AVAILABLE)),
            (r#"{"id":2,"sub_refresh":{"channel":"a"}}"#, error_text(2, ErrorCode::BAD_REQUEST)),
            (r#"{"id":2,"sub_refresh":{"channel":"a","token":"t"}}"#, "close 3500".into()),
        ] {
            assert_eq!(said(&mut connected(&policy, &token), &policy, line), [expected], "{line}");
        }
        for line in [r#"{"send":{"data":1}}"#, r#"{"id":2,"send":{}}"#] {
            assert!(said(&mut connected(&policy, &token), &policy, line).is_empty());
        }
    }

    #[test]
    fn replies_follow_the_answer() {
        let policy = policy();
        let mut session = connected(&policy, "");
        for (answer, expected) in [
            (Answer::Subscribed(None), r#"{"id":7,"subscribe":{}}"#.to_owned()),
            (Answer::Unsubscribed, r#"{"id":7,"unsubscribe":{}}"#.to_owned()),
            (Answer::Published, r#"{"id":7,"publish":{}}"#.to_owned()),
            (
                Answer::Failed(ErrorCode::TOO_MANY_REQUESTS),
                r#"{"id":7,"error":{"code":111,"message":"too many requests","temporary":true}}"#
                    .to_owned(),
            ),
        ] {
            assert_eq!(session.answered(NOW, &policy, 7, answer), expected.as_bytes());
        }
    }

    #[test]
    fn permissions_follow_the_rules_of_the_channel() {
        let none = ChannelOptions::default();
        let all = ChannelOptions {
            allow_subscribe_for_client: true,
            allow_subscribe_for_anonymous: true,
            allow_publish_for_client: true,
            allow_publish_for_subscriber: true,
            allow_publish_for_anonymous: true,
            ..ChannelOptions::default()
        };
        let no_anonymous = ChannelOptions {
            allow_subscribe_for_anonymous: false,
            allow_publish_for_anonymous: false,
            ..all.clone()
        };
        let only_anonymous = ChannelOptions {
            allow_subscribe_for_anonymous: true,
            allow_publish_for_anonymous: true,
            ..none.clone()
        };
        let subscribers = ChannelOptions { allow_publish_for_client: false, ..all.clone() };
        let subscribers_with_a_name =
            ChannelOptions { allow_publish_for_client: false, ..no_anonymous.clone() };
        // Whether a user and an anonymous may subscribe; how each may publish.
        for (rules, insecure, user, anonymous) in [
            (&none, false, (false, None), (false, None)),
            (&none, true, (true, Some(false)), (true, Some(false))),
            (&all, false, (true, Some(false)), (true, Some(false))),
            (&no_anonymous, false, (true, Some(false)), (false, None)),
            (&no_anonymous, true, (true, Some(false)), (true, Some(false))),
            (&only_anonymous, false, (false, None), (false, None)),
            (&subscribers, false, (true, Some(true)), (true, Some(true))),
            (&subscribers, true, (true, Some(false)), (true, Some(false))),
            (&subscribers_with_a_name, false, (true, Some(true)), (false, None)),
        ] {
            let channels = channels(rules.clone());
            let policy = Policy { channels, insecure, ..policy() };
            let token = sign_connection(SECRET, "42", None, None);
            for (token, (subscribes, publishes)) in [(&token[..], user), ("", anonymous)] {
                let mut session = connected(&policy, token);
                let denied = error_text(2, ErrorCode::PERMISSION_DENIED);
                let subscribe = r#"{"id":2,"subscribe":{"channel":"a"}}"#;
                let expected = if subscribes { "2 subscribe a" } else { &denied };
                assert_eq!(said(&mut session, &policy, subscribe), [expected], "{rules:?}");
                let publish = r#"{"id":2,"publish":{"channel":"a","data":1}}"#;
                let said = said(&mut session, &policy, publish);
                match publishes {
                    None => assert_eq!(said, [denied], "{rules:?}"),
                    Some(only) => {
                        assert!(said[0].starts_with("2 publish a 1 "), "{rules:?}");
                        assert!(said[0].ends_with(&only.to_string()), "{rules:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn names_and_backends_decide_before_permissions() {
        let open = ChannelOptions {
            allow_subscribe_for_client: true,
            allow_publish_for_client: true,
            ..ChannelOptions::default()
        };
        let asked = ChannelOptions {
            subscribe_proxy_enabled: true,
            publish_proxy_enabled: true,
            ..open.clone()
        };
        let namespaces = [("ns".into(), Arc::new(asked))].into();
        let without_namespace = Arc::new(open);
        let channels = Arc::new(Channels { without_namespace, namespaces, ..Channels::default() });
        let policy = Policy { channels, ..policy() };
        let mut session = connected(&policy, &sign_connection(SECRET, "42", None, None));
        for (channel, code) in [
            ("x:a", ErrorCode::UNKNOWN_CHANNEL),
            ("\u{e9}", ErrorCode::BAD_REQUEST),
            ("ns:a", ErrorCode::NOT_AVAILABLE),
        ] {
            let subscribe = format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#);
            assert_eq!(said(&mut session, &policy, &subscribe), [error_text(2, code)]);
            let publish = format!(r#"{{"id":3,"publish":{{"channel":"{channel}","data":1}}}}"#);
            assert_eq!(said(&mut session, &policy, &publish), [error_text(3, code)]);
        }
        let subscribe = r#"{"id":2,"subscribe":{"channel":"$a"}}"#;
        let denied = error_text(2, ErrorCode::PERMISSION_DENIED);
        assert_eq!(said(&mut session, &policy, subscribe), [denied]);
        // What is left need not exist.
        let unsubscribe = r#"{"id":2,"unsubscribe":{"channel":"x:a"}}"#;
        assert_eq!(said(&mut session, &policy, unsubscribe), ["2 unsubscribe x:a"]);
    }

    #[test]
    fn pings_are_spread_answered_and_missed() {
        let policy = policy();
        let mut session = Session::new(NOW, [0; 16], 1 << 31, &policy);
        said(&mut session, &policy, r#"{"id":1,"connect":{}}"#);
        session.answered(later(100), &policy, 1, Answer::Connected(Vec::new()));
        // Half the interval after the connect reply.
        assert_eq!(session.deadline_ms(), later(12_600).monotonic_ms);
        assert!(due(&mut session, &policy, later(12_599)).is_empty());
        assert_eq!(said(&mut session, &policy, "{}"), ["close 3501"], "nothing was asked");

        assert_eq!(due(&mut session, &policy, later(12_600)), ["{}"]);
        assert_eq!(session.deadline_ms(), later(20_600).monotonic_ms);
        assert!(said(&mut session, &policy, "{}").is_empty());
        assert_eq!(session.deadline_ms(), later(37_600).monotonic_ms);
        assert_eq!(said(&mut session, &policy, "{}"), ["close 3501"], "it was answered");

        assert_eq!(due(&mut session, &policy, later(37_600)), ["{}"]);
        assert!(due(&mut session, &policy, later(45_599)).is_empty());
        assert_eq!(due(&mut session, &policy, later(45_600)), ["close 3012"]);
    }

    #[test]
    fn a_numberless_command_is_a_pong_too() {
        let policy = policy();
        let mut session = connected(&policy, "");
        assert_eq!(due(&mut session, &policy, NOW), ["{}"]);
        assert!(said(&mut session, &policy, r#"{"subscribe":{"channel":"a"}}"#).is_empty());
        assert_eq!(said(&mut session, &policy, r#"{"id":0}"#), ["close 3501"]);
    }

    #[test]
    fn there_is_no_ping_and_no_pong_where_none_is_configured() {
        let silent = Policy { ping_interval_ms: 0, ..policy() };
        assert_eq!(connected(&silent, "").deadline_ms(), NEVER);

        let one_way = Policy { pong_timeout_ms: 0, ..policy() };
        let mut session = connected(&one_way, "");
        assert_eq!(due(&mut session, &one_way, NOW), ["{}"]);
        assert_eq!(session.deadline_ms(), later(25_000).monotonic_ms);
        assert_eq!(due(&mut session, &one_way, later(25_000)), ["{}"]);
    }

    #[test]
    fn who_does_not_connect_in_time_is_stale() {
        let policy = policy();
        let mut session = fresh(&policy);
        assert_eq!(session.deadline_ms(), later(10_000).monotonic_ms);
        assert!(due(&mut session, &policy, later(9_999)).is_empty());
        assert_eq!(due(&mut session, &policy, later(10_000)), ["close 3502"]);

        let patient = Policy { stale_close_ms: 0, ..super::tests::policy() };
        assert_eq!(fresh(&patient).deadline_ms(), NEVER);
        // A pong before the connect reply is none, whatever is overdue.
        let mut session = fresh(&policy);
        let text = "{\"id\":1,\"connect\":{}}\n{}";
        assert_eq!(said(&mut session, &policy, text), ["1 connect ", "close 3501"]);
    }

    #[test]
    fn an_expired_connection_is_closed_unless_it_refreshes() {
        let policy = Policy { ping_interval_ms: 0, ..policy() };
        let token = sign_connection(SECRET, "42", Some(NOW.unix_s + 10), None);
        let mut session = connected(&policy, &token);
        assert_eq!(session.deadline_ms(), later(35_000).monotonic_ms);
        assert!(due(&mut session, &policy, later(34_000)).is_empty());

        let token = sign_connection(SECRET, "42", Some(NOW.unix_s + 100), None);
        let refresh = format!(r#"{{"id":2,"refresh":{{"token":"{token}"}}}}"#);
        let reply = r#"{"id":2,"refresh":{"expires":true,"ttl":100}}"#;
        assert_eq!(said(&mut session, &policy, &refresh), [reply]);
        assert!(due(&mut session, &policy, later(35_000)).is_empty());
        assert_eq!(due(&mut session, &policy, later(125_000)), ["close 3005"]);

        let token = sign_connection(SECRET, "42", None, None);
        let refresh = format!(r#"{{"id":3,"refresh":{{"token":"{token}"}}}}"#);
        assert_eq!(said(&mut session, &policy, &refresh), [r#"{"id":3,"refresh":{}}"#]);
        assert_eq!(session.deadline_ms(), NEVER);
    }

    #[test]
    fn expiry_follows_the_wall_clock_when_it_is_set() {
        let policy = Policy { ping_interval_ms: 0, ..policy() };
        let token = sign_connection(SECRET, "42", Some(NOW.unix_s + 3600), None);
        let mut session = connected(&policy, &token);
        // An hour away, but looked at within a minute.
        assert_eq!(session.deadline_ms(), later(60_000).monotonic_ms);
        assert!(due(&mut session, &policy, later(60_000)).is_empty());
        let set_forward = Now { unix_s: NOW.unix_s + 4000, ..later(120_000) };
        assert_eq!(due(&mut session, &policy, set_forward), ["close 3005"]);
    }

    #[test]
    fn a_refresh_that_names_other_channels_has_the_client_come_back() {
        let policy = policy();
        let token = |channels: &[&str]| {
            let exp = NOW.unix_s + 60;
            let claims = serde_json::json!({"sub": "42", "exp": exp, "channels": channels});
            crate::auth::sign(SECRET, &claims)
        };
        for (first, second, expected) in [
            (&[][..], &[][..], r#"{"id":2,"refresh":{"expires":true,"ttl":60}}"#),
            (&["a", "b"], &["b", "a"], r#"{"id":2,"refresh":{"expires":true,"ttl":60}}"#),
            (&["a"], &["a", "b"], "close 3010"),
            (&["a"], &[], "close 3010"),
            (&[], &["a"], "close 3010"),
        ] {
            let mut session = fresh(&policy);
            let line = format!(r#"{{"id":1,"connect":{{"token":"{}"}}}}"#, token(first));
            said(&mut session, &policy, &line);
            session.answered(NOW, &policy, 1, Answer::Connected(Vec::new()));
            let refresh = format!(r#"{{"id":2,"refresh":{{"token":"{}"}}}}"#, token(second));
            assert_eq!(said(&mut session, &policy, &refresh), [expected], "{first:?} {second:?}");
        }
    }

    #[test]
    fn a_refresh_of_somebody_else_or_without_a_good_token_closes() {
        let policy = policy();
        for (token, expected) in [
            (sign_connection(SECRET, "43", None, None), "close 3500"),
            (sign_connection("other", "42", None, None), "close 3500"),
            (sign_connection(SECRET, "42", Some(NOW.unix_s - 1), None), "close 3005"),
        ] {
            let mut session = connected(&policy, &sign_connection(SECRET, "42", None, None));
            let refresh = format!(r#"{{"id":2,"refresh":{{"token":"{token}"}}}}"#);
            assert_eq!(said(&mut session, &policy, &refresh), [expected]);
        }
    }

    #[test]
    fn an_insecure_connection_never_expires() {
        let policy = Policy { insecure: true, ping_interval_ms: 0, ..policy() };
        let token = sign_connection(SECRET, "42", Some(NOW.unix_s + 10), None);
        let mut session = connected(&policy, &token);
        assert_eq!(session.deadline_ms(), NEVER);
        assert!(due(&mut session, &policy, later(1_000_000)).is_empty());
    }

    const LINES: &[&str] = &[
        r#"{"id":1,"connect":{"token":"","name":"js","subs":{"a":{"recover":true}}}}"#,
        r#"{"id":2,"subscribe":{"channel":"a","recover":true,"epoch":"x","offset":7}}"#,
        r#"{"id":3,"publish":{"channel":"a","data":{"text":"\u00e9\n","n":[1.5e3,null]}}}"#,
        r#"{"id":4,"unsubscribe":{"channel":"a"}}"#,
        r#"{"id":5,"history":{"channel":"a","limit":-1}}"#,
        r#"{"id":6,"refresh":{"token":"a.b.c"}}"#,
        r#"{"id":7,"sub_refresh":{"channel":"a","token":"t"}}"#,
        r#"{"send":{"data":{}}}"#,
        "{}",
    ];

    /// Whatever is received: at most one close, and it is last; replies stay on one line.
    fn check_effects(policy: &Policy, mut session: Session, text: &str) {
        let mut out = Vec::new();
        session.received(NOW, policy, text, &mut out);
        for (place, effect) in out.iter().enumerate() {
            match effect {
                Effect::Close(_) => assert_eq!(place + 1, out.len()),
                Effect::Reply(bytes) => assert!(!bytes.contains(&b'\n')),
                Effect::Binary(_) => panic!("JSON sessions send text"),
                Effect::Expire { .. }
                | Effect::Renewed { .. }
                | Effect::Ask { .. }
                | Effect::KeysWanted(_)
                | Effect::Disconnect { .. } => panic!("nothing here leads to it"),
                Effect::Request { request, .. } => {
                    if let Request::Publish { data, .. } = request {
                        assert!(!data.contains(&b'\n'));
                    }
                }
            }
        }
        session.due(later(1_000_000), policy, &mut out);
    }

    proptest! {
        #[test]
        fn random_text_is_survived(text in "\\PC*|[{}\\[\\]\",:a-z0-9\\\\\n ]*") {
            let policy = policy();
            check_effects(&policy, fresh(&policy), &text);
            check_effects(&policy, connected(&policy, ""), &text);
        }

        #[test]
        fn mutated_commands_are_survived(
            lines in proptest::collection::vec(0..LINES.len(), 1..5),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let text: Vec<&str> = lines.iter().map(|&line| LINES[line]).collect();
            let mut bytes = text.join("\n").into_bytes();
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let text = String::from_utf8_lossy(&bytes);
            let policy = policy();
            check_effects(&policy, fresh(&policy), &text);
            check_effects(&policy, connected(&policy, ""), &text);
        }
    }
}
