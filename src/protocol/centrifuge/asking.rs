//! What a session asks the product's backend, and how it goes on with the answer.
//!
//! A command that the backend decides about leaves the connection's order: its reply stands where
//! the answer was read, for a backend that is slow must not keep pushes and pings from a client.
//! Only connect holds up what its client says next, because nobody knows yet who says it; where the
//! connect is refused, that is forgotten: its client knows by the refusal.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Policy, Session, State, after,
    connect::{Admission, Grant},
    error,
    expiry::bounded_expiry,
    reply,
    terms::Wish,
    unidirectional::disconnect_of,
};
use crate::{
    auth::Terms,
    channels::Name,
    codes::CloseReason,
    protocol::{Effect, ErrorCode, Now, Payload, PublicationExtra, Request},
    proxy::{
        BackendAnswer, BackendCall, Caller, Failure, ProxyId,
        answers::{Connected, Published, Refusal},
        routes::ChannelEvent,
    },
};

/// Bytes of commands that a client may send before the backend has said who it is.
const HELD_BYTES_MAX: usize = 64 << 10;

/// A question to the backend.
#[derive(Debug)]
pub struct Ask {
    /// Which proxy.
    pub proxy: ProxyId,
    /// What. The caller's transport is for the core to fill in.
    pub call: BackendCall,
    /// Comes back with the answer, to [`Session::backend_answered`].
    pub about: About,
}

/// What a session must remember until the backend answers.
#[derive(Debug)]
pub enum About {
    /// The connect command.
    Connect(Wishes),
    /// The connection's expiry.
    Refresh,
    /// A subscribe command.
    Subscribe {
        /// The channel.
        channel: Name,
        /// What the client wishes.
        wish: Wish,
    },
    /// A subscription's expiry.
    SubRefresh {
        /// The channel.
        channel: Name,
    },
    /// A publish command.
    Publish {
        /// The channel.
        channel: Name,
        /// The client's data, as JSON on one line.
        data: Bytes,
    },
    /// An RPC command.
    Rpc,
}

/// What a client wishes of the channels to which the server subscribes it.
pub type Wishes = BTreeMap<String, Wish>;

impl About {
    pub(super) fn asked(self, command: u32, proxy: ProxyId, call: BackendCall) -> Effect {
        Effect::Ask { command, ask: Box::new(Ask { proxy, call, about: self }) }
    }

    /// Whether it is about a subscription that is to be, to `channel` or, without one, to any.
    pub fn is_subscribe_to(&self, channel: Option<&str>) -> bool {
        let Self::Subscribe { channel: wanted, .. } = self else { return false };
        channel.is_none_or(|channel| **wanted == *channel)
    }
}

impl Policy {
    /// The proxy that decides about an event in `channel`, if the backend does.
    pub fn asked_about(&self, event: ChannelEvent, channel: &str) -> Option<ProxyId> {
        self.proxies.of_channel(event, self.channels.options(channel)?)
    }
}

impl Session {
    /// The connection, for calls; core fills in how it is connected.
    pub(super) fn caller(&self) -> Caller {
        let arrival = self.credentials.as_ref().and_then(|known| known.arrival.as_ref());
        Caller {
            client: Name::from(self.client_id()),
            transport: "",
            user: Name::clone(&self.user),
            meta: self.meta().map(Bytes::copy_from_slice),
            headers: arrival.map(|arrival| arrival.headers.clone()).unwrap_or_default(),
        }
    }

    /// Goes on with what the backend was asked about. `command` is the number of the command that
    /// led to it, if one did.
    pub fn backend_answered(
        &mut self,
        now: Now,
        policy: &Policy,
        command: u32,
        about: About,
        answer: BackendAnswer,
        out: &mut Vec<Effect>,
    ) {
        let handled = match about {
            About::Connect(wishes) => {
                self.connect_answered(now, policy, command, &wishes, answer, out)
            }
            About::Refresh => self.refresh_answered(now, policy, answer),
            About::SubRefresh { channel } => {
                self.sub_refresh_answered(now, policy, channel, &answer, out);
                Ok(())
            }
            About::Subscribe { channel, wish } => {
                out.push(match answer {
                    BackendAnswer::Subscribe(terms) => {
                        self.subscription(now, policy, command, channel, &wish, *terms)
                    }
                    answer => refused(command, answer),
                });
                Ok(())
            }
            About::Publish { channel, data } => {
                out.push(match answer {
                    BackendAnswer::Publish(published) => {
                        let request = self.allowed_publication(channel, data, *published);
                        Effect::Request { command, request }
                    }
                    answer => refused(command, answer),
                });
                Ok(())
            }
            About::Rpc => {
                out.push(match answer {
                    BackendAnswer::Rpc(data) => Effect::Reply(reply::rpc(command, data.as_deref())),
                    answer => refused(command, answer),
                });
                Ok(())
            }
        };
        if let Err(reason) = handled {
            out.push(Effect::Close(reason));
        }
    }

    fn connect_answered(
        &mut self,
        now: Now,
        policy: &Policy,
        command: u32,
        wishes: &Wishes,
        answer: BackendAnswer,
        out: &mut Vec<Effect>,
    ) -> Result<(), CloseReason> {
        self.overdue_ms = after(now, policy.stale_close_ms);
        let held = self.credentials_mut().entry.take().map(|entry| entry.held).unwrap_or_default();
        let by_backend = matches!(answer, BackendAnswer::Connect(Some(_)));
        let granted = match answer {
            BackendAnswer::Connect(None) => {
                self.admit(policy)?;
                Vec::new()
            }
            BackendAnswer::Connect(Some(connected)) => {
                let expire_at_unix_s = bounded_expiry(now, connected.expire_at_unix_s);
                if now.is_past(expire_at_unix_s) {
                    return self.refuse(command, ErrorCode::EXPIRED, out);
                }
                self.take_connected(*connected, expire_at_unix_s)
            }
            answer => {
                self.state = State::Refused;
                if self.unidirectional
                    && let Some(reason) = disconnect_instead(&answer)
                {
                    return Err(reason);
                }
                out.push(refused(command, answer));
                return Ok(());
            }
        };
        let admission = Admission { wishes, granted, by_backend };
        self.enter(now, policy, command, admission, out)?;
        if !held.is_empty() && self.state == State::Connecting {
            self.received(now, policy, &held, out);
        }
        Ok(())
    }

    fn take_connected(&mut self, connected: Connected, expire_at_unix_s: u64) -> Vec<Grant> {
        let Connected { user, info, data, meta, channels, subs, .. } = connected;
        if !user.is_empty() {
            self.user = Name::from(user);
        }
        let credentials = self.credentials_mut();
        credentials.set_info(info);
        credentials.set_meta(meta);
        credentials.expire_at_unix_s = expire_at_unix_s;
        if data.is_some() {
            credentials.entry.get_or_insert_default().data = data;
        }
        // Of two grants of one channel the first counts.
        let subs = subs.into_iter().map(|(channel, terms)| Grant { channel, terms });
        subs.chain(channels.into_iter().map(Grant::plain)).collect()
    }

    /// A subscribe command that may be: by a token, by a backend's word, or by the namespace.
    pub(super) fn subscription(
        &self,
        now: Now,
        policy: &Policy,
        command: u32,
        channel: Name,
        wish: &Wish,
        terms: Terms,
    ) -> Effect {
        let Some(options) = policy.channels.options(&channel) else {
            return error(command, ErrorCode::UNKNOWN_CHANNEL);
        };
        if now.is_past(terms.expire_at_unix_s) {
            return error(command, ErrorCode::EXPIRED);
        }
        let options = Box::new(self.on_terms(policy, options, wish, terms));
        Effect::Request { command, request: Request::Subscribe { channel, options } }
    }

    fn allowed_publication(&self, channel: Name, data: Bytes, published: Published) -> Request {
        let Published { data: other, skip_history, tags, idempotency_key, version, version_epoch } =
            published;
        let idempotency_key = Some(idempotency_key).filter(|key| !key.is_empty()).map(Name::from);
        let extra =
            PublicationExtra { tags, idempotency_key, version, version_epoch, skip_history };
        let info = Some(self.publisher(&channel));
        Request::Publish {
            channel,
            data: other.unwrap_or(data),
            payload: Payload::Json,
            info,
            subscribers_only: false,
            extra: (extra != PublicationExtra::default()).then(|| Box::new(extra)),
        }
    }

    /// Keeps a command until the backend has said whose it is.
    pub(super) fn hold(&mut self, line: &str) -> Result<(), CloseReason> {
        let held = &mut self.credentials_mut().entry.get_or_insert_default().held;
        if held.len() + line.len() >= HELD_BYTES_MAX {
            return Err(CloseReason::TOO_MANY_REQUESTS);
        }
        held.push_str(line);
        held.push('\n');
        Ok(())
    }
}

/// A command that the backend refused, or said nothing usable about ([`crate::proxy`]).
fn refused(command: u32, answer: BackendAnswer) -> Effect {
    match answer {
        BackendAnswer::Refused(Refusal::Error { code, message, temporary }) => {
            Effect::Reply(reply::error_saying(command, code, &message, temporary))
        }
        BackendAnswer::Refused(Refusal::Disconnect { code, reason }) => {
            Effect::Disconnect { code, reason }
        }
        BackendAnswer::Failed(Failure::Busy) => error(command, ErrorCode::TOO_MANY_REQUESTS),
        _ => error(command, ErrorCode::INTERNAL),
    }
}

/// What a unidirectional client is closed with where others get an error reply.
fn disconnect_instead(answer: &BackendAnswer) -> Option<CloseReason> {
    match answer {
        BackendAnswer::Refused(Refusal::Disconnect { .. }) => None,
        BackendAnswer::Failed(Failure::Busy) => Some(disconnect_of(ErrorCode::TOO_MANY_REQUESTS)),
        _ => Some(disconnect_of(ErrorCode::INTERNAL)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        channels::{ChannelOptions, Channels},
        proxy::{HeaderRules, Routes, answers::Refreshed, routes::RpcRoutes},
    };

    const NOW: Now = Now { monotonic_ms: 1_000_000, unix_s: 1_700_000_000 };

    /// The backend is asked about everything.
    fn policy() -> Policy {
        let options = ChannelOptions {
            subscribe_proxy_enabled: true,
            publish_proxy_enabled: true,
            sub_refresh_proxy_enabled: true,
            ..ChannelOptions::default()
        };
        Policy {
            channels: Arc::new(Channels {
                without_namespace: Arc::new(options),
                ..Channels::default()
            }),
            proxies: Routes {
                connect: Some(ProxyId(0)),
                refresh: Some(ProxyId(1)),
                subscribe: Some(ProxyId(2)),
                publish: Some(ProxyId(3)),
                sub_refresh: Some(ProxyId(4)),
                rpc: RpcRoutes { without_namespace: Some(ProxyId(5)), ..RpcRoutes::default() },
                headers: HeaderRules::new(&[], &["cookie"]).unwrap(),
                ..Routes::default()
            },
            ping_interval_ms: 0,
            anonymous: false,
            ..super::super::tests::policy()
        }
    }

    fn later(seconds: u64) -> Now {
        Now { monotonic_ms: NOW.monotonic_ms + seconds * 1000, unix_s: NOW.unix_s + seconds }
    }

    fn heard(session: &mut Session, policy: &Policy, text: &str) -> Vec<Effect> {
        let mut out = Vec::new();
        session.received(NOW, policy, text, &mut out);
        out
    }

    /// The only effect, which is a question.
    fn asked(out: Vec<Effect>) -> Ask {
        match <[Effect; 1]>::try_from(out) {
            Ok([Effect::Ask { ask, .. }]) => *ask,
            other => panic!("{other:?}"),
        }
    }

    fn answered(
        session: &mut Session,
        now: Now,
        policy: &Policy,
        about: About,
        answer: BackendAnswer,
    ) -> Vec<Effect> {
        let mut out = Vec::new();
        session.backend_answered(now, policy, 9, about, answer, &mut out);
        out
    }

    /// A session that was told who it is: user 7, who expires after so many seconds.
    fn connected(policy: &Policy, expires_s: u64) -> Session {
        let mut session = Session::new(NOW, [7; 16], 0, policy);
        let about = asked(heard(&mut session, policy, r#"{"id":1,"connect":{}}"#)).about;
        let expire_at_unix_s = if expires_s == 0 { 0 } else { NOW.unix_s + expires_s };
        let told = Connected { user: "7".into(), expire_at_unix_s, ..Connected::default() };
        let answer = BackendAnswer::Connect(Some(Box::new(told)));
        let out = answered(&mut session, NOW, policy, about, answer);
        assert!(matches!(&out[..], [Effect::Request { request: Request::Connect { .. }, .. }]));
        session.connected(NOW, policy, 1, "", Vec::new());
        session
    }

    fn until(seconds: u64) -> BackendAnswer {
        BackendAnswer::Refresh(refreshed(seconds, None))
    }

    /// For so many seconds; 0 is for ever.
    fn refreshed(seconds: u64, info: Option<&'static str>) -> Refreshed {
        let expire_at_unix_s = if seconds == 0 { 0 } else { NOW.unix_s + seconds };
        Refreshed::Until { expire_at_unix_s, info: info.map(Bytes::from), meta: None }
    }

    fn due(session: &mut Session, now: Now, policy: &Policy) -> Vec<Effect> {
        let mut out = Vec::new();
        session.due(now, policy, &mut out);
        out
    }

    #[test]
    fn what_a_client_says_before_it_is_known_is_held_in_order_and_within_bounds() {
        let policy = policy();
        let mut session = Session::new(NOW, [7; 16], 0, &policy);
        let text = "{\"id\":1,\"connect\":{\"headers\":{\"Cookie\":\"a\"}}}\n{\"id\":2,\"rpc\":{}}";
        let ask = asked(heard(&mut session, &policy, text));
        assert!(due(&mut session, later(1_000), &policy).is_empty(), "it waits for us");
        let caller = ask.call.caller().unwrap();
        assert_eq!(caller.headers.forwarded(&policy.proxies.headers).count(), 1);
        assert!(heard(&mut session, &policy, r#"{"id":3,"ping":{}}"#).is_empty());
        let told = BackendAnswer::Connect(Some(Box::default()));
        let out = answered(&mut session, NOW, &policy, ask.about, told);
        let [Effect::Request { .. }, Effect::Ask { command: 2, .. }, Effect::Reply(pong)] =
            &out[..]
        else {
            panic!("{out:?}")
        };
        assert_eq!(pong, br#"{"id":3,"ping":{}}"#);
        let mut session = Session::new(NOW, [7; 16], 0, &policy);
        asked(heard(&mut session, &policy, r#"{"id":1,"connect":{}}"#));
        let half = format!(r#"{{"id":2,"rpc":{{"data":"{}"}}}}"#, "x".repeat(HELD_BYTES_MAX / 2));
        assert!(heard(&mut session, &policy, &half).is_empty());
        let out = heard(&mut session, &policy, &half);
        assert!(matches!(&out[..], [Effect::Close(CloseReason::TOO_MANY_REQUESTS)]), "{out:?}");
    }

    #[test]
    fn who_is_refused_is_told_once_and_what_it_said_meanwhile_is_forgotten() {
        let policy = policy();
        for (answer, told) in [
            (BackendAnswer::Failed(Failure::Timeout), "100"),
            (BackendAnswer::Failed(Failure::Busy), "111"),
            (BackendAnswer::Refused(Refusal::error(499, "no", false).unwrap()), "499"),
        ] {
            let mut session = Session::new(NOW, [7; 16], 0, &policy);
            let text = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"rpc\":{}}";
            let about = asked(heard(&mut session, &policy, text)).about;
            let out = answered(&mut session, NOW, &policy, about, answer);
            let [Effect::Reply(reply)] = &out[..] else { panic!("{out:?}") };
            let code = format!(r#"{{"id":9,"error":{{"code":{told},"#);
            assert!(reply.starts_with(code.as_bytes()), "{out:?}");
            let stale = due(&mut session, later(10), &policy);
            assert!(matches!(&stale[..], [Effect::Close(reason)] if reason.code == 3502));
        }
    }

    #[test]
    fn wished_channels_are_the_backends_to_grant_where_it_says_who_connects() {
        let users =
            ChannelOptions { allow_subscribe_for_client: true, ..ChannelOptions::default() };
        let all = ChannelOptions { allow_subscribe_for_anonymous: true, ..users };
        let (without_namespace, channels) = (Arc::new(all), Channels::default());
        let channels = Arc::new(Channels { without_namespace, ..channels });
        let policy = Policy { channels, anonymous: true, ..policy() };
        let text = r#"{"id":1,"connect":{"subs":{"a":{},"$b":{}}}}"#;
        let entered = |answer| {
            let mut session = Session::new(NOW, [7; 16], 0, &policy);
            let about = asked(heard(&mut session, &policy, text)).about;
            let out = answered(&mut session, NOW, &policy, about, BackendAnswer::Connect(answer));
            let [Effect::Request { request: Request::Connect { subscriptions, .. }, .. }] =
                &out[..]
            else {
                panic!("{out:?}")
            };
            subscriptions.iter().map(|(channel, _)| channel.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(entered(None), ["a"], "as far as it may by itself");
        assert!(entered(Some(Box::default())).is_empty());
        let channels = vec!["c".to_owned()];
        assert_eq!(entered(Some(Box::new(Connected { channels, ..Connected::default() }))), ["c"]);
    }

    #[test]
    fn a_connection_is_asked_about_once_per_expiry_and_lives_until_the_answer() {
        let policy = policy();
        let mut session = connected(&policy, 10);
        assert_eq!(session.deadline_ms(), later(10).monotonic_ms);
        assert!(due(&mut session, later(9), &policy).is_empty());
        let about = asked(due(&mut session, later(10), &policy)).about;
        assert!(due(&mut session, later(1_000), &policy).is_empty(), "it is asked about");
        assert_eq!(session.deadline_ms(), u64::MAX);
        let failed = BackendAnswer::Failed(Failure::Unreachable);
        assert!(answered(&mut session, later(11), &policy, about, failed).is_empty());
        assert_eq!(session.deadline_ms(), later(71).monotonic_ms, "a minute longer");
        let about = asked(due(&mut session, later(71), &policy)).about;
        assert!(answered(&mut session, later(72), &policy, about, until(100)).is_empty());
        let about = asked(due(&mut session, later(100), &policy)).about;
        let out = answered(&mut session, later(101), &policy, about, until(99));
        assert!(matches!(&out[..], [Effect::Close(reason)] if reason.code == 3005), "{out:?}");
    }

    #[test]
    fn a_subscription_that_is_not_there_any_more_is_not_prolonged() {
        let policy = policy();
        let mut session = connected(&policy, 0);
        let channel = Name::from("a");
        session.expires(NOW, &policy, &channel, NOW.unix_s + 5, None);
        let about = asked(due(&mut session, later(5), &policy)).about;
        session.forget("a");
        let expired = BackendAnswer::SubRefresh(Refreshed::Expired);
        assert!(answered(&mut session, later(6), &policy, about, expired.clone()).is_empty());
        session.expires(NOW, &policy, &channel, NOW.unix_s + 5, None);
        let about = asked(due(&mut session, later(5), &policy)).about;
        let out = answered(&mut session, later(6), &policy, about, expired);
        assert!(matches!(&out[..], [Effect::Expire { channel }] if **channel == *"a"), "{out:?}");
        assert!(session.credentials.is_none(), "nothing of it is left");
    }

    #[test]
    fn what_others_see_of_a_subscription_is_what_the_backend_said_last() {
        let policy = policy();
        let mut session = connected(&policy, 0);
        let channel = Name::from("a");
        session.expires(NOW, &policy, &channel, NOW.unix_s + 5, Some(b"1"));
        for (answer, seen) in [
            (BackendAnswer::Failed(Failure::Unreachable), "1"),
            (BackendAnswer::SubRefresh(refreshed(200, None)), "1"),
            (BackendAnswer::SubRefresh(refreshed(0, Some("2"))), "2"),
        ] {
            let about = asked(due(&mut session, later(100), &policy)).about;
            assert!(answered(&mut session, later(100), &policy, about, answer).is_empty());
            assert_eq!(session.channel_info("a"), Some(seen.as_bytes()));
            session.expires(NOW, &policy, &channel, NOW.unix_s + 5, None);
        }
        let published = Published { skip_history: true, ..Published::default() };
        let request = session.allowed_publication(channel, Bytes::from_static(b"1"), published);
        let Request::Publish { info: Some(info), .. } = request else { panic!("{request:?}") };
        assert!(info.ends_with(br#""chan_info":2}"#), "{info:?}");
        session.forget("a");
        assert_eq!(session.channel_info("a"), None);
    }

    #[test]
    fn commands_go_on_as_the_backend_says() {
        let policy = policy();
        let mut session = connected(&policy, 0);
        let text = r#"{"id":9,"subscribe":{"channel":"a","flag":2}}"#;
        let about = asked(heard(&mut session, &policy, text)).about;
        assert!(about.is_subscribe_to(Some("a")) && !about.is_subscribe_to(Some("b")));
        assert!(about.is_subscribe_to(None) && !About::Rpc.is_subscribe_to(None));
        let terms = Terms { expire_at_unix_s: NOW.unix_s + 9, ..Terms::default() };
        let answer = BackendAnswer::Subscribe(Box::new(terms));
        let out = answered(&mut session, NOW, &policy, about, answer);
        let [Effect::Request { command: 9, request: Request::Subscribe { options, .. } }] =
            &out[..]
        else {
            panic!("{out:?}")
        };
        assert!(options.reject_unrecovered && options.expire_at_unix_s == NOW.unix_s + 9);
        let text = r#"{"id":9,"publish":{"channel":"a","data":1}}"#;
        let about = asked(heard(&mut session, &policy, text)).about;
        let published = Published { data: Some(Bytes::from_static(b"2")), ..Published::default() };
        let answer = BackendAnswer::Publish(Box::new(published));
        let out = answered(&mut session, NOW, &policy, about, answer);
        let [Effect::Request { request: Request::Publish { data, extra: None, .. }, .. }] =
            &out[..]
        else {
            panic!("{out:?}")
        };
        assert_eq!(&data[..], b"2");
        let about = asked(heard(&mut session, &policy, r#"{"id":9,"rpc":{}}"#)).about;
        let refusal = Refusal::disconnect(4500, "gone").unwrap();
        let out = answered(&mut session, NOW, &policy, about, BackendAnswer::Refused(refusal));
        assert!(matches!(&out[..], [Effect::Disconnect { code: 4500, .. }]), "{out:?}");
    }
}
