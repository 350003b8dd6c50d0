//! Connection tokens: JSON Web Tokens (RFC 7519) signed with HMAC, with Centrifugo's claims.

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
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
    /// Channels to which the server subscribes the connection.
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
            channels: claims.channels.unwrap_or_default(),
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
