//! Clients that say who they are and nothing else (centrifugal.dev
//! `docs/transports/uni_client_protocol.md`).

use super::{Handled, Policy, Session, State, command::ConnectRequest};
use crate::{
    codes::CloseReason,
    protocol::{Effect, ErrorCode, Now},
};

/// The number that stands for a unidirectional client's connect request.
const CONNECT: u32 = 1;

/// Whether a text is a connect request: a JSON object whose fields are of the right kind.
pub fn is_connect_request(text: &str) -> bool {
    ConnectRequest::parse(text).is_some()
}

/// What a unidirectional client is told in place of an error reply (centrifuge `client.go`,
/// `defaultUniErrorCodeToDisconnect`).
pub fn disconnect_of(error: ErrorCode) -> CloseReason {
    match error {
        ErrorCode::EXPIRED | ErrorCode::TOKEN_EXPIRED => CloseReason::CONNECTION_EXPIRED,
        ErrorCode::TOO_MANY_REQUESTS => CloseReason::TOO_MANY_REQUESTS,
        ErrorCode::PERMISSION_DENIED => CloseReason::PERMISSION_DENIED,
        // centrifuge has 3004 for it, after which its client would ask for the same again.
        ErrorCode::BAD_REQUEST => CloseReason::BAD_REQUEST,
        _ => CloseReason::INTERNAL_SERVER_ERROR,
    }
}

impl Session {
    /// The same for a client that says nothing after its connect request.
    #[must_use]
    pub fn unidirectional(self) -> Self {
        Self { unidirectional: true, ..self }
    }

    /// Whether its client says nothing after its connect request.
    pub fn is_unidirectional(&self) -> bool {
        self.unidirectional
    }

    /// Takes what the client of a unidirectional session says. The first is its connect request,
    /// what follows means nothing.
    ///
    /// Channels that it may not subscribe to are left out, as in Centrifugo.
    pub fn connect_request(
        &mut self,
        now: Now,
        policy: &Policy,
        text: &str,
        out: &mut Vec<Effect>,
    ) {
        if self.state != State::Fresh {
            return;
        }
        if let Err(reason) = self.uni_connect(now, policy, text, out) {
            out.push(Effect::Close(reason));
        }
    }

    fn uni_connect(
        &mut self,
        now: Now,
        policy: &Policy,
        text: &str,
        out: &mut Vec<Effect>,
    ) -> Handled {
        let request = ConnectRequest::parse(text).ok_or(CloseReason::BAD_REQUEST)?;
        self.connect(now, policy, CONNECT, &request, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Request;

    const NOW: Now = Now { monotonic_ms: 1_000_000, unix_s: 1_700_000_000 };

    fn session(policy: &Policy) -> Session {
        Session::new(NOW, [0; 16], 0, policy).unidirectional()
    }

    fn said(session: &mut Session, policy: &Policy, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        session.connect_request(NOW, policy, text, &mut out);
        let short = |effect: &Effect| match effect {
            Effect::Request { command, request: Request::Connect { user, subscriptions } } => {
                let channels: Vec<_> = subscriptions.iter().map(|(name, _)| &**name).collect();
                format!("{command} connect {user} to {}", channels.join(" "))
            }
            Effect::Close(reason) => format!("close {}", reason.code),
            other => panic!("{other:?}"),
        };
        out.iter().map(short).collect()
    }

    #[test]
    fn the_first_message_connects_and_the_others_mean_nothing() {
        let policy = super::super::tests::policy();
        let mut session = session(&policy);
        let request = r#"{"name":"js","subs":{"a":{"recover":true},"way too long":{},"b":null}}"#;
        assert!(is_connect_request(request));
        let wanted = ["1 connect  to a b"];
        assert_eq!(said(&mut session, &policy, request), wanted);
        assert!(said(&mut session, &policy, "nonsense").is_empty());
        let push = session.connected(NOW, &policy, 1, "s", Vec::new());
        let push = String::from_utf8(push).unwrap();
        assert!(push.starts_with(r#"{"push":{"connect":{"client":""#), "{push}");
        assert!(push.ends_with(r#","ping":25,"session":"s"}}}"#), "no pong is asked for: {push}");
    }

    #[test]
    fn a_filter_of_publications_is_refused() {
        let policy = super::super::tests::policy();
        let request = r#"{"subs":{"a":{"tf":{"op":"","key":"k","cmp":"ex"}},"b":{}}}"#;
        assert_eq!(said(&mut session(&policy), &policy, request), ["close 3501"]);
    }

    #[test]
    fn pings_are_not_answered() {
        let policy = super::super::tests::policy();
        let mut session = session(&policy);
        said(&mut session, &policy, "{}");
        session.connected(NOW, &policy, 1, "", Vec::new());
        for ping in 0..3 {
            let now = Now { monotonic_ms: NOW.monotonic_ms + ping * 25_000, ..NOW };
            assert_eq!(session.deadline_ms(), now.monotonic_ms);
            let mut out = Vec::new();
            session.due(now, &policy, &mut out);
            assert!(matches!(&out[..], [Effect::Reply(text)] if text == b"{}"));
        }
    }

    #[test]
    fn refusals_close() {
        let policy = super::super::tests::policy();
        for text in ["", "null", "[]", r#"{"token":1}"#, r#"{"subs":[]}"#] {
            assert!(!is_connect_request(text), "{text}");
            assert_eq!(said(&mut session(&policy), &policy, text), ["close 3501"]);
        }
        let refused = |request: &str| said(&mut session(&policy), &policy, request);
        assert_eq!(refused(r#"{"token":"a.b.c"}"#), ["close 3500"]);
        assert_eq!(refused(r#"{"subs":{"":{}}}"#), ["1 connect  to "]);
        let token = crate::auth::tokens::sign_connection("secret", "42", Some(1000), None);
        assert_eq!(refused(&format!(r#"{{"token":"{token}"}}"#)), ["close 3005"]);
        assert_eq!(disconnect_of(ErrorCode::PERMISSION_DENIED), CloseReason::PERMISSION_DENIED);
        assert_eq!(disconnect_of(ErrorCode::TOO_MANY_REQUESTS), CloseReason::TOO_MANY_REQUESTS);
        assert_eq!(disconnect_of(ErrorCode::INTERNAL), CloseReason::INTERNAL_SERVER_ERROR);
    }
}
