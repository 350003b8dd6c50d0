//! Connection tokens: JSON Web Tokens (RFC 7519) signed with HMAC, with Centrifugo's claims.

use std::collections::BTreeMap;
use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Verifies connection tokens.
///
/// Accepts HS256, HS384 and HS512 and nothing else: no `none`, no public-key algorithm whose public
/// key could be taken for our secret.
pub struct Tokens {
    key: DecodingKey,
    /// Without a secret nothing is valid; an empty key would verify what anybody can sign.
    keyless: bool,
    validation: Validation,
    audience: Option<String>,
    issuer: Option<String>,
}

/// What a valid connection token grants.
#[derive(Debug)]
pub struct ConnectionClaims {
    /// The user (`sub`), empty for an anonymous one.
    pub user: String,
    /// When the connection must have been refreshed, in seconds since the Unix epoch; 0 is never.
    pub expire_at_unix_s: u64,
    /// What others see of the connection (`info`), as JSON.
    pub info: Option<Box<RawValue>>,
    /// What only the backend sees of the connection (`meta`), as JSON.
    pub meta: Option<Box<RawValue>>,
    /// Channels to which the server subscribes the connection: the keys of `subs` where that is
    /// not empty, else `channels`.
    pub channels: Vec<String>,
}

/// Why a token was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenError {
    /// Correctly signed, but past its `exp` or before its `nbf`. Centrifugo treats both the same:
    /// the client gets a new token and tries again.
    Expired,
    /// Malformed, wrongly signed, or not for this server; says why, without the token.
    Invalid(String),
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("token expired"),
            Self::Invalid(why) => write!(f, "invalid token: {why}"),
        }
    }
}

impl std::error::Error for TokenError {}

/// The claims on the wire. Times are numbers that may have a fraction (RFC 7519 section 2).
#[derive(Default, Deserialize, Serialize)]
struct Claims {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<Audience>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_at: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<Vec<String>>,
    #[serde(skip_serializing)]
    subs: Option<BTreeMap<String, IgnoredAny>>,
    /// Only a subscription token has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn holds(&self, wanted: &str) -> bool {
        match self {
            Self::One(one) => one == wanted,
            Self::Many(many) => many.iter().any(|one| one == wanted),
        }
    }
}

impl Tokens {
    /// `audience` and `issuer`, where given, must be in the token.
    pub fn new(hmac_secret_key: &str, audience: Option<String>, issuer: Option<String>) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
        // The crate would ask the system's clock; times, audience and issuer are checked here.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Self {
            key: DecodingKey::from_secret(hmac_secret_key.as_bytes()),
            keyless: hmac_secret_key.is_empty(),
            validation,
            audience,
            issuer,
        }
    }

    /// Verifies a connection token at `now_unix_s`, seconds since the Unix epoch.
    ///
    /// The signature is checked before the times, so that "expired" is only said to whom we issued
    /// the token.
    pub fn verify_connection(
        &self,
        token: &str,
        now_unix_s: u64,
    ) -> Result<ConnectionClaims, TokenError> {
        let invalid = |why: &str| Err(TokenError::Invalid(why.to_owned()));
        if self.keyless {
            return invalid("no key is configured to verify it");
        }
        let claims: Claims = decode(token, &self.key, &self.validation)
            .map_err(|error| TokenError::Invalid(error.to_string()))?
            .claims;
        if let Some(wanted) = &self.audience
            && !claims.aud.as_ref().is_some_and(|aud| aud.holds(wanted))
        {
            return invalid("not for this audience");
        }
        if self.issuer.is_some() && claims.iss != self.issuer {
            return invalid("not from this issuer");
        }
        if claims.channel.is_some_and(|channel| !channel.is_empty()) {
            return invalid("a connection token cannot have a channel claim");
        }
        let now = now_unix_s as f64;
        if claims.exp.is_some_and(|exp| exp <= now) || claims.nbf.is_some_and(|nbf| nbf > now) {
            return Err(TokenError::Expired);
        }
        Ok(ConnectionClaims {
            user: claims.sub,
            // The cast saturates: what is negative becomes 0, which is never.
            expire_at_unix_s: claims.expire_at.or(claims.exp).unwrap_or(0.0) as u64,
            info: claims.info,
            meta: claims.meta,
            channels: match claims.subs {
                Some(subs) if !subs.is_empty() => subs.into_keys().collect(),
                _ => claims.channels.unwrap_or_default(),
            },
        })
    }
}

/// Signs a connection token with HS256, for tests and development.
///
/// `exp_unix_s` is in seconds since the Unix epoch; `None` never expires. `info` is JSON.
///
/// # Panics
/// When `info` is not valid JSON.
pub fn sign_connection(
    hmac_secret_key: &str,
    user: &str,
    exp_unix_s: Option<u64>,
    info: Option<&str>,
) -> String {
    let claims = Claims {
        sub: user.to_owned(),
        exp: exp_unix_s.map(|exp| exp as f64),
        info: info.map(|info| RawValue::from_string(info.to_owned()).expect("info is JSON")),
        ..Claims::default()
    };
    sign(hmac_secret_key, Algorithm::HS256, &claims)
}

fn sign(hmac_secret_key: &str, algorithm: Algorithm, claims: &impl Serialize) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(hmac_secret_key.as_bytes()))
        .expect("HMAC signs any bytes, and claims have string keys")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &str = "secret";
    const NOW: u64 = 1_700_000_000;

    fn verify(claims: &Value) -> Result<ConnectionClaims, TokenError> {
        tokens().verify_connection(&sign(SECRET, Algorithm::HS256, claims), NOW)
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
            "meta": [1], "channels": ["a", "b"]
        });
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let token = sign(SECRET, algorithm, &claims);
            let claims = tokens().verify_connection(&token, NOW).unwrap();
            assert_eq!(claims.user, "42");
            assert_eq!(claims.expire_at_unix_s, NOW + 60);
            assert_eq!(claims.info.unwrap().get(), r#"{"name":"a"}"#);
            assert_eq!(claims.meta.unwrap().get(), "[1]");
            assert_eq!(claims.channels, ["a", "b"]);
        }
        let subs = verify(&json!({"channels": ["a"], "subs": {"b": {"info": 1}}})).unwrap();
        assert_eq!(subs.channels, ["b"]);
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
}
