//! Every claim of both kinds of tokens, and who may not pass.

mod algorithms;
mod key_sets;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::json;

use super::{
    super::{SubscribeOverrides, claims::TokenFacts},
    *,
};

const SECRET: &str = "secret";
const NOW: u64 = 1_700_000_000;

fn verify(claims: &Value) -> Result<ConnectionClaims, TokenError> {
    tokens().verify_connection(&super::sign(SECRET, claims), NOW)
}

fn verify_subscription(claims: &Value) -> Result<SubscriptionClaims, TokenError> {
    tokens().verify_subscription(&super::sign(SECRET, claims), NOW)
}

/// A token signed by the crate itself, with any algorithm.
fn sign_with(
    algorithm: Algorithm,
    key: &EncodingKey,
    key_id: Option<&str>,
    claims: &Value,
) -> String {
    let header = Header { kid: key_id.map(str::to_owned), ..Header::new(algorithm) };
    encode(&header, claims, key).unwrap()
}

fn sign(secret: &str, algorithm: Algorithm, claims: &Value) -> String {
    sign_with(algorithm, &EncodingKey::from_secret(secret.as_bytes()), None, claims)
}

fn options() -> TokenOptions {
    TokenOptions { hmac_secret_key: SECRET.into(), ..TokenOptions::default() }
}

fn channels(claims: &ConnectionClaims) -> Vec<&str> {
    claims.subs.iter().map(|(channel, _)| channel.as_str()).collect()
}

fn text(json: Option<&[u8]>) -> Option<&str> {
    json.map(|json| str::from_utf8(json).unwrap())
}

fn tokens() -> Tokens {
    Tokens::new(SECRET, None, None)
}

fn is_invalid<T>(result: Result<T, TokenError>) -> bool {
    matches!(result, Err(TokenError::Invalid(_)))
}

#[test]
fn a_known_token_of_another_implementation_is_valid() {
    // The token that much documentation shows.
    let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
        eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.\
        SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c";
    let tokens = Tokens::new("your-256-bit-secret", None, None);
    let claims = tokens.verify_connection(token, NOW).unwrap();
    assert_eq!(claims.user, "1234567890");
    assert_eq!(claims.expire_at_unix_s, 0);
}

#[test]
fn every_hmac_length_is_accepted_and_every_claim_arrives() {
    let claims = json!({
        "sub": "42", "exp": NOW + 60, "iat": NOW, "jti": "x", "info": {"name": "a"},
        "meta": [1], "channels": ["b", "a", "b"]
    });
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token = sign(SECRET, algorithm, &claims);
        let claims = tokens().verify_connection(&token, NOW).unwrap();
        assert_eq!(claims.user, "42");
        assert_eq!(claims.expire_at_unix_s, NOW + 60);
        assert_eq!(text(claims.info.as_deref()), Some(r#"{"name":"a"}"#));
        assert_eq!(text(claims.meta.as_deref()), Some("[1]"));
        assert_eq!(channels(&claims), ["b", "a"]);
        assert_eq!(claims.token, TokenFacts { id: "x".into(), issued_at_unix_s: Some(NOW) });
    }
}

#[test]
fn times_are_checked_against_the_argument() {
    for (claims, valid) in [
        (json!({"exp": NOW + 1}), true),
        (json!({"exp": NOW}), false),
        (json!({"exp": NOW as f64 + 0.5}), true),
        (json!({"exp": -1}), false),
        (json!({"exp": null}), true),
        (json!({"nbf": NOW}), true),
        (json!({"nbf": NOW + 1}), false),
        (json!({}), true),
    ] {
        match verify(&claims) {
            Ok(_) => assert!(valid, "{claims}"),
            Err(error) => {
                assert_eq!(error, TokenError::Expired, "{claims}");
                assert!(!valid, "{claims}");
            }
        }
    }
    assert!(is_invalid(verify(&json!({"exp": "tomorrow"}))));
}

#[test]
fn expire_at_replaces_exp_and_zero_never_expires() {
    for (claims, expire_at) in [
        (json!({"exp": NOW + 5}), NOW + 5),
        (json!({"exp": NOW + 5, "expire_at": NOW + 50}), NOW + 50),
        (json!({"exp": NOW + 5, "expire_at": 0}), 0),
        (json!({"exp": NOW + 5, "expire_at": -7}), 0),
        (json!({"expire_at": NOW - 50}), NOW - 50),
        (json!({"expire_at": 1e300}), u64::MAX),
    ] {
        assert_eq!(verify(&claims).unwrap().expire_at_unix_s, expire_at, "{claims}");
    }
}

#[test]
fn other_keys_and_changed_tokens_are_invalid() {
    let token = sign_connection(SECRET, "42", None, None);
    assert!(tokens().verify_connection(&token, NOW).is_ok());
    assert!(is_invalid(Tokens::new("other", None, None).verify_connection(&token, NOW)));
    // Expired and wrongly signed is wrongly signed.
    let expired = sign_connection("other", "42", Some(NOW - 1), None);
    assert!(is_invalid(tokens().verify_connection(&expired, NOW)));
    let forged = sign("", Algorithm::HS256, &json!({"sub": "root"}));
    assert!(is_invalid(Tokens::new("", None, None).verify_connection(&forged, NOW)));
    for at in 0..token.len() {
        let changed = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
        let mut other = token.clone();
        other.replace_range(at..=at, changed);
        // The last digit of 32 bytes in base64 has two bits that are not used.
        if at + 1 < token.len() {
            assert!(is_invalid(tokens().verify_connection(&other, NOW)), "digit {at}");
        }
        assert!(is_invalid(tokens().verify_connection(&token[..at], NOW)));
    }
    for text in ["", ".", "..", "...", "a.b.c", "\u{1f600}.x.y"] {
        assert!(is_invalid(tokens().verify_connection(text, NOW)), "{text}");
    }
}

#[test]
fn no_algorithm_and_algorithms_with_public_keys_are_refused() {
    let token = sign_connection(SECRET, "42", None, None);
    let (_, rest) = token.split_once('.').unwrap();
    // {"alg":"none"}, {"alg":"RS256"}, {"alg":"ES256"}, {"alg":"HS384"}: with the same signature.
    for header in [
        "eyJhbGciOiJub25lIn0",
        "eyJhbGciOiJSUzI1NiJ9",
        "eyJhbGciOiJFUzI1NiJ9",
        "eyJhbGciOiJIUzM4NCJ9",
    ] {
        assert!(is_invalid(tokens().verify_connection(&format!("{header}.{rest}"), NOW)));
        let unsigned = format!("{header}.{}.", rest.split_once('.').unwrap().0);
        assert!(is_invalid(tokens().verify_connection(&unsigned, NOW)));
    }
    // The same header spelled by hand is accepted: the cases above fail for their algorithm.
    let by_hand = sign(SECRET, Algorithm::HS384, &json!({"sub": "42"}));
    assert!(tokens().verify_connection(&by_hand, NOW).is_ok());
}

#[test]
fn audience_and_issuer_are_checked_where_configured() {
    let tokens = Tokens::new(SECRET, Some("here".into()), Some("us".into()));
    for (claims, valid) in [
        (json!({"aud": "here", "iss": "us"}), true),
        (json!({"aud": ["there", "here"], "iss": "us"}), true),
        (json!({"aud": ["there"], "iss": "us"}), false),
        (json!({"aud": "there", "iss": "us"}), false),
        (json!({"aud": "here", "iss": "them"}), false),
        (json!({"aud": "here"}), false),
        (json!({"iss": "us"}), false),
    ] {
        let token = sign(SECRET, Algorithm::HS256, &claims);
        assert_eq!(tokens.verify_connection(&token, NOW).is_ok(), valid, "{claims}");
    }
    assert!(verify(&json!({"aud": "there", "iss": "them"})).is_ok());
}

#[test]
fn a_subscription_token_is_no_connection_token() {
    assert!(is_invalid(verify(&json!({"sub": "42", "channel": "news"}))));
    assert!(is_invalid(verify(&json!({"sub": 42}))));
    assert!(is_invalid(verify(&json!([1]))));
}

#[test]
fn subs_come_with_their_options_and_before_channels() {
    let claims = json!({"channels": ["a"], "subs": {
        "c": null,
        "b": {
            "info": {"n": 1}, "data": [2],
            "override": {"presence": {"value": true}, "join_leave": {"value": false},
                "force_recovery": {}, "force_positioning": null}
        },
        "d": {"info": 1, "b64info": "eyJhIjogMX0=", "b64data": "WzFd"}
    }});
    let claims = verify(&claims).unwrap();
    assert_eq!(channels(&claims), ["b", "c", "d"]);
    let [b, c, d] = [0, 1, 2].map(|index| &claims.subs[index].1);
    assert_eq!(
        (text(b.info.as_deref()), text(b.data.as_deref())),
        (Some(r#"{"n":1}"#), Some("[2]"))
    );
    assert_eq!(
        b.overrides,
        SubscribeOverrides {
            presence: Some(true),
            join_leave: Some(false),
            force_push_join_leave: None,
            force_recovery: Some(false),
            force_positioning: None,
        }
    );
    assert!(c.info.is_none() && c.data.is_none());
    assert_eq!(c.overrides, SubscribeOverrides::default());
    assert_eq!(
        (text(d.info.as_deref()), text(d.data.as_deref())),
        (Some(r#"{"a": 1}"#), Some("[1]"))
    );
    let empty = verify(&json!({"channels": ["a"], "subs": {}})).unwrap();
    assert_eq!(channels(&empty), ["a"]);
}

#[test]
fn base64_must_hold_json() {
    let info = |claims| {
        verify(&claims)
            .map(|claims| claims.info.map(|info| String::from_utf8(info.to_vec()).unwrap()))
    };
    assert_eq!(info(json!({"b64info": "MQ=="})), Ok(Some("1".into())));
    assert_eq!(info(json!({"info": 2, "b64info": ""})), Ok(Some("2".into())));
    assert_eq!(info(json!({"info": null, "b64info": null})), Ok(None));
    for wrong in ["!", "MQ", "/w==", "YQ=="] {
        assert!(is_invalid(verify(&json!({"b64info": wrong}))), "{wrong}");
        assert!(is_invalid(verify(&json!({"subs": {"a": {"b64data": wrong}}}))), "{wrong}");
        assert!(is_invalid(verify_subscription(&json!({"channel": "a", "b64data": wrong}))));
    }
}

#[test]
fn every_claim_of_a_subscription_token_arrives() {
    let claims = verify_subscription(&json!({
        "sub": "42", "channel": "news", "client": "c1", "exp": NOW + 60, "expire_at": NOW + 90,
        "info": {"a": 1}, "data": "d", "override": {"force_push_join_leave": {"value": true}},
        "iat": NOW - 1, "jti": "j"
    }))
    .unwrap();
    assert_eq!((claims.user.as_str(), claims.channel.as_str()), ("42", "news"));
    assert_eq!((claims.client.as_str(), claims.terms.expire_at_unix_s), ("c1", NOW + 90));
    let options = &claims.terms;
    assert_eq!(text(options.info.as_deref()), Some(r#"{"a":1}"#));
    assert_eq!(text(options.data.as_deref()), Some(r#""d""#));
    assert_eq!(options.overrides.force_push_join_leave, Some(true));
    assert_eq!(claims.token, TokenFacts { id: "j".into(), issued_at_unix_s: Some(NOW - 1) });
    let bare = verify_subscription(&json!({"channel": "news"})).unwrap();
    assert_eq!(
        (bare.user.as_str(), bare.client.as_str(), bare.terms.expire_at_unix_s),
        ("", "", 0)
    );
}

#[test]
fn a_connection_token_is_no_subscription_token() {
    for claims in [json!({"sub": "42"}), json!({"channel": ""}), json!({"channel": null})] {
        assert!(is_invalid(verify_subscription(&claims)), "{claims}");
        assert!(verify(&claims).is_ok(), "{claims}");
    }
    let expired = json!({"channel": "a", "exp": NOW});
    assert_eq!(verify_subscription(&expired).unwrap_err(), TokenError::Expired);
    let early = json!({"channel": "a", "nbf": NOW + 1});
    assert_eq!(verify_subscription(&early).unwrap_err(), TokenError::Expired);
}

#[test]
fn claims_of_the_wrong_kind_are_invalid() {
    for (name, value) in [
        ("iat", json!("now")),
        ("jti", json!(1)),
        ("aud", json!({})),
        ("iss", json!([])),
        ("channels", json!("a")),
        ("channels", json!([1])),
        ("subs", json!(["a"])),
        ("subs", json!({"a": {"override": {"presence": true}}})),
        ("channel", json!(1)),
        ("expire_at", json!("never")),
    ] {
        assert!(is_invalid(verify(&json!({name: value}))), "{name}: {value}");
    }
}

#[test]
fn the_previous_secret_holds_until_its_moment() {
    let old = super::sign("old", &json!({"sub": "42"}));
    let new = super::sign(SECRET, &json!({"sub": "42"}));
    for (valid_until, at_now, later) in
        [(0, true, true), (NOW + 1, true, false), (NOW, false, false)]
    {
        let tokens = Tokens::with(TokenOptions {
            hmac_previous_secret_key: "old".into(),
            hmac_previous_secret_key_valid_until_unix_s: valid_until,
            ..options()
        })
        .unwrap();
        for (now, valid) in [(NOW, at_now), (NOW + 1, later)] {
            assert_eq!(tokens.verify_connection(&old, now).is_ok(), valid, "{valid_until} {now}");
            assert!(tokens.verify_connection(&new, now).is_ok());
        }
    }
    assert!(is_invalid(tokens().verify_connection(&old, NOW)));
}

#[test]
fn patterns_match_audience_and_issuer() {
    let tokens = Tokens::with(TokenOptions {
        audience_regex: Some("^app-[0-9]+$".into()),
        issuer_regex: Some("https://(?P<realm>one|two)[.]example".into()),
        ..options()
    })
    .unwrap();
    for (claims, valid) in [
        (json!({"aud": "app-1", "iss": "https://one.example"}), true),
        (json!({"aud": ["x", "app-22"], "iss": "https://two.example/"}), true),
        (json!({"aud": "app-", "iss": "https://one.example"}), false),
        (json!({"aud": "app-1", "iss": "https://three.example"}), false),
        (json!({"aud": "app-1"}), false),
        (json!({"aud": [], "iss": "https://one.example"}), false),
        (json!({"iss": "https://one.example"}), false),
    ] {
        let token = super::sign(SECRET, &claims);
        assert_eq!(tokens.verify_connection(&token, NOW).is_ok(), valid, "{claims}");
        let mut claims = claims;
        claims["channel"] = json!("a");
        let token = super::sign(SECRET, &claims);
        assert_eq!(tokens.verify_subscription(&token, NOW).is_ok(), valid, "{claims}");
    }
}

#[test]
fn options_that_contradict_are_named() {
    let text = || Some(String::from("x"));
    let broken = || Some(String::from("("));
    for (options, said) in [
        (TokenOptions { audience: text(), audience_regex: text(), ..options() }, "audience"),
        (TokenOptions { issuer: text(), issuer_regex: text(), ..options() }, "issuer"),
        (TokenOptions { audience_regex: broken(), ..options() }, "audience_regex"),
        (TokenOptions { issuer_regex: broken(), ..options() }, "issuer_regex"),
    ] {
        let error = Tokens::with(options).err().unwrap();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn another_claim_may_name_the_user() {
    let options = || TokenOptions { user_id_claim: Some("user_id".into()), ..options() };
    let tokens = Tokens::with(options()).unwrap();
    for (claims, user) in [
        (json!({"sub": "s", "user_id": "u"}), Some("u")),
        (json!({"sub": "s", "user_id": 42}), Some("42")),
        (json!({"sub": "s"}), Some("")),
        (json!({"sub": "s", "user_id": null}), Some("")),
        (json!({"user_id": true}), None),
        (json!({"user_id": {"id": 1}}), None),
    ] {
        let found = tokens.verify_connection(&super::sign(SECRET, &claims), NOW);
        assert_eq!(found.map(|claims| claims.user).ok().as_deref(), user, "{claims}");
        let mut claims = claims;
        claims["channel"] = json!("a");
        let found = tokens.verify_subscription(&super::sign(SECRET, &claims), NOW);
        assert_eq!(found.map(|claims| claims.user).ok().as_deref(), user, "{claims}");
    }
}

#[test]
fn without_signatures_all_else_is_still_checked() {
    let tokens = Tokens::with(TokenOptions {
        insecure_skip_signature: true,
        issuer: Some("us".into()),
        ..TokenOptions::default()
    })
    .unwrap();
    let verify = |claims| tokens.verify_connection(&super::sign("any", &claims), NOW);
    assert_eq!(verify(json!({"sub": "42", "iss": "us"})).unwrap().user, "42");
    assert!(is_invalid(verify(json!({"sub": "42", "iss": "them"}))));
    assert_eq!(verify(json!({"iss": "us", "exp": NOW})).unwrap_err(), TokenError::Expired);
}

#[test]
fn headers_that_want_more_than_we_understand_are_refused() {
    let token = super::sign(SECRET, &json!({"sub": "42"}));
    let (_, payload) = token.split_once('.').unwrap();
    let payload = payload.split_once('.').unwrap().0;
    for (header, valid) in [
        (r#"{"alg":"HS256"}"#, true),
        (r#"{"typ":"JWT","alg":"HS256","kid":null,"x":[1]}"#, true),
        (r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, false),
        (r#"{"alg":"HS256","alg":"HS256"}"#, false),
        (r#"{"alg":"hs256"}"#, false),
        (r#"{"alg":1}"#, false),
        (r#"{"typ":"JWT"}"#, false),
        ("[]", false),
    ] {
        let message =
            format!("{}.{payload}", data_encoding::BASE64URL_NOPAD.encode(header.as_bytes()));
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        let result = tokens().verify_connection(&format!("{message}.{signature}"), NOW);
        assert_eq!(result.is_ok(), valid, "{header}");
    }
}

/// JSON of every kind, three levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("value|presence|override|b64info|[a-z]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn random_texts_are_refused(text in ".{0,200}", a in "[A-Za-z0-9_=-]{0,40}", b in "[A-Za-z0-9_-]{0,40}") {
        let mut options = options();
        options.user_id_claim = Some("id".into());
        let tokens = Tokens::with(options).unwrap();
        for token in [text, format!("{a}.{b}.{a}"), format!("eyJhbGciOiJIUzI1NiJ9.{a}.{b}")] {
            prop_assert!(is_invalid(tokens.verify_connection(&token, NOW)));
            prop_assert!(is_invalid(tokens.verify_subscription(&token, NOW)));
        }
    }

    #[test]
    fn random_claims_never_panic(
        claims in prop::collection::btree_map(
            "sub|exp|nbf|iat|jti|iss|aud|expire_at|info|b64info|meta|channels|subs|channel|client\
             |data|b64data|override|id",
            any_json(),
            0..8,
        ),
        now in any::<u64>(),
    ) {
        let token = super::sign(SECRET, &claims);
        let mut options = options();
        options.user_id_claim = Some("id".into());
        let tokens = Tokens::with(options).unwrap();
        if let Ok(claims) = tokens.verify_subscription(&token, now) {
            prop_assert!(!claims.channel.is_empty());
            prop_assert!(tokens.verify_connection(&token, now).is_err());
        }
        prop_assert_ne!(tokens.verify_connection(&token, now).err(), Some(TokenError::UnknownKey));
    }
}
