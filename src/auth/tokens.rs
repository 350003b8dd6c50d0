//! Verifies the tokens of connections and subscriptions: JSON Web Tokens (RFC 7519) with
//! Centrifugo's claims.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use regex::Regex;
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use super::{
    claims::{Claims, ConnectionClaims, SubscriptionClaims},
    key_set::KeySet,
    keys::Key,
    signed::{SignedToken, sign},
};
use crate::limits::KEY_SET_FETCH_PAUSE_S;

/// With what tokens are verified; the names are those of Centrifugo's `client.token`. Empty and
/// `None` is without. Not `Debug`: it holds secrets.
#[derive(Clone, Default)]
pub struct TokenOptions {
    /// The secret of HS256, HS384 and HS512 tokens.
    pub hmac_secret_key: String,
    /// The secret before it, while tokens signed with it are about.
    pub hmac_previous_secret_key: String,
    /// Until when the previous secret holds, in seconds since the Unix epoch; 0: without a limit.
    pub hmac_previous_secret_key_valid_until_unix_s: u64,
    /// Keys of RS256, RS384, RS512, PS256, PS384 and PS512 tokens, each in PEM.
    pub rsa_public_keys: Vec<String>,
    /// Keys of ES256 (P-256) and ES384 (P-384) tokens, each in PEM.
    pub ecdsa_public_keys: Vec<String>,
    /// Keys of EdDSA tokens, each in PEM.
    pub ed25519_public_keys: Vec<String>,
    /// The keys are those of a [`KeySet`], given with [`Tokens::set_keys`], and none of the above,
    /// as in Centrifugo.
    pub key_set: bool,
    /// Tokens must name it in `aud`.
    pub audience: Option<String>,
    /// Tokens must name something in `aud` that it matches anywhere.
    pub audience_regex: Option<String>,
    /// Tokens must name it in `iss`.
    pub issuer: Option<String>,
    /// It must match somewhere in `iss`.
    pub issuer_regex: Option<String>,
    /// The claim that names the user, instead of `sub`.
    pub user_id_claim: Option<String>,
    /// Signatures are not looked at: whoever connects is whoever it says. For development.
    pub insecure_skip_signature: bool,
}

/// Verifies tokens.
///
/// Which algorithms a token may have follows from the keys: never `none`, and never HMAC with a
/// public key as its secret.
pub struct Tokens {
    keys: Keys,
    audience: Option<Expected>,
    issuer: Option<Expected>,
    user_id_claim: Option<String>,
}

enum Keys {
    /// Those of the configuration; the last one, if so said, until a moment in seconds since the
    /// Unix epoch.
    Own { keys: Vec<Key>, previous: Option<(Key, Option<u64>)> },
    /// Those that were fetched last. Locked for the time of one pointer's copy, and for tokens
    /// only: what a shard may wait for is that the other side is done copying.
    Fetched(RwLock<Fetched>),
    /// Whatever is said holds.
    Skipped,
}

#[derive(Clone, Default)]
struct Fetched {
    keys: Option<Arc<KeySet>>,
    at_unix_s: u64,
}

/// What `aud` or `iss` must be.
enum Expected {
    Text(String),
    Pattern(Regex),
}

impl Expected {
    fn new(
        name: &str,
        text: Option<String>,
        pattern: Option<String>,
    ) -> Result<Option<Self>, String> {
        Ok(match (text, pattern) {
            (None, None) => None,
            (Some(text), None) => Some(Self::Text(text)),
            (None, Some(pattern)) => {
                let regex =
                    Regex::new(&pattern).map_err(|error| format!("{name}_regex: {error}"))?;
                Some(Self::Pattern(regex))
            }
            (Some(_), Some(_)) => {
                return Err(format!(
                    "{name}_regex: stands beside {name}: set one of them, not both"
                ));
            }
        })
    }

    fn is(&self, given: &str) -> bool {
        match self {
            Self::Text(text) => text == given,
            Self::Pattern(regex) => regex.is_match(given),
        }
    }
}

/// Why a token was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenError {
    /// Correctly signed, but past its `exp` or before its `nbf`. Centrifugo treats both the same:
    /// the client gets a new token and tries again.
    Expired,
    /// Malformed, wrongly signed, or not for this server; says why, without the token.
    Invalid(String),
    /// The key set has not been fetched yet, or has no key with the token's `kid` and is older than
    /// [`KEY_SET_FETCH_PAUSE_S`]: with a newer one the same token may be valid.
    UnknownKey,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("token expired"),
            Self::Invalid(why) => write!(f, "invalid token: {why}"),
            Self::UnknownKey => f.write_str("the token's key is not known yet"),
        }
    }
}

impl std::error::Error for TokenError {}

impl Tokens {
    /// Of tokens with HS256, HS384 and HS512 alone; `audience` and `issuer`, where given, must be in
    /// them.
    pub fn new(hmac_secret_key: &str, audience: Option<String>, issuer: Option<String>) -> Self {
        let hmac_secret_key = hmac_secret_key.to_owned();
        Self::with(TokenOptions { hmac_secret_key, audience, issuer, ..TokenOptions::default() })
            .expect("any text is a secret, an audience and an issuer")
    }

    /// Of tokens as the options want them. Without any key no token is valid.
    ///
    /// # Errors
    /// Which option is wrong, and how, without a secret.
    pub fn with(options: TokenOptions) -> Result<Self, String> {
        let audience = Expected::new("audience", options.audience, options.audience_regex)?;
        let issuer = Expected::new("issuer", options.issuer, options.issuer_regex)?;
        let mut keys: Vec<Key> = Key::hmac(&options.hmac_secret_key).into_iter().collect();
        let mut read = |name: &str, texts: &[String], parse: fn(&str) -> Result<Key, String>| {
            for text in texts {
                keys.push(parse(text).map_err(|error| format!("{name}: {error}"))?);
            }
            Ok::<_, String>(())
        };
        read("rsa_public_key", &options.rsa_public_keys, Key::rsa_pem)?;
        read("ecdsa_public_key", &options.ecdsa_public_keys, Key::ecdsa_pem)?;
        read("ed25519_public_key", &options.ed25519_public_keys, Key::ed25519_pem)?;
        let valid_until_unix_s = options.hmac_previous_secret_key_valid_until_unix_s;
        let valid_until_unix_s = Some(valid_until_unix_s).filter(|until| *until != 0);
        let previous = Key::hmac(&options.hmac_previous_secret_key);
        let keys = match (options.insecure_skip_signature, options.key_set) {
            (true, _) => Keys::Skipped,
            (false, true) => Keys::Fetched(RwLock::default()),
            (false, false) => {
                Keys::Own { keys, previous: previous.map(|key| (key, valid_until_unix_s)) }
            }
        };
        Ok(Self { keys, audience, issuer, user_id_claim: options.user_id_claim })
    }

    /// Verifies with these keys from now on, where [`TokenOptions::key_set`] says so; fetched at
    /// `now_unix_s`, seconds since the Unix epoch. Any thread may call it.
    pub fn set_keys(&self, keys: Arc<KeySet>, now_unix_s: u64) {
        if let Keys::Fetched(fetched) = &self.keys {
            let newer = Fetched { keys: Some(keys), at_unix_s: now_unix_s };
            // What was there before is dropped outside of the lock.
            let before = {
                let mut fetched = fetched.write().unwrap_or_else(PoisonError::into_inner);
                std::mem::replace(&mut *fetched, newer)
            };
            drop(before);
        }
    }

    /// Verifies a connection token at `now_unix_s`, seconds since the Unix epoch.
    ///
    /// The signature is checked before the times, so that "expired" is only said to whom we issued
    /// the token.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify_connection(
        &self,
        token: &str,
        now_unix_s: u64,
    ) -> Result<ConnectionClaims, TokenError> {
        let (claims, user) = self.signed_claims(token, now_unix_s)?;
        if claims.channel().is_some() {
            return Err(invalid("a connection token cannot have a channel claim"));
        }
        if !claims.is_in_time(now_unix_s) {
            return Err(TokenError::Expired);
        }
        claims.connection(user).map_err(TokenError::Invalid)
    }

    /// Verifies a subscription token at `now_unix_s`, likewise. Whether user, channel and client
    /// are those of the request is the caller's to check.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify_subscription(
        &self,
        token: &str,
        now_unix_s: u64,
    ) -> Result<SubscriptionClaims, TokenError> {
        let (claims, user) = self.signed_claims(token, now_unix_s)?;
        if !claims.is_in_time(now_unix_s) {
            return Err(TokenError::Expired);
        }
        if claims.channel().is_none() {
            return Err(invalid("a subscription token must have a channel claim"));
        }
        claims.subscription(user).map_err(TokenError::Invalid)
    }

    /// The claims that were signed for this server, and the user if it is not `sub`.
    fn signed_claims(
        &self,
        token: &str,
        now_unix_s: u64,
    ) -> Result<(Claims, Option<String>), TokenError> {
        let token = SignedToken::parse(token).map_err(TokenError::Invalid)?;
        let json = match &self.keys {
            Keys::Own { keys, previous } => {
                let previous = previous.iter().filter(|(_, valid_until_unix_s)| {
                    valid_until_unix_s.is_none_or(|until| now_unix_s < until)
                });
                token.claims(keys.iter().chain(previous.map(|(key, _)| key)))
            }
            Keys::Fetched(fetched) => {
                let fetched = fetched.read().unwrap_or_else(PoisonError::into_inner).clone();
                let keys = fetched.keys_of(&token, now_unix_s)?;
                token.claims(keys.with_id(&token.key_id))
            }
            Keys::Skipped => token.unverified_claims(),
        };
        let json = json.map_err(TokenError::Invalid)?;
        let wrong = |error| TokenError::Invalid(format!("its claims are wrong: {error}"));
        let claims: Claims = serde_json::from_slice(&json).map_err(wrong)?;
        if self.audience.as_ref().is_some_and(|wanted| !claims.is_for(|given| wanted.is(given))) {
            return Err(invalid("not for this audience"));
        }
        if self.issuer.as_ref().is_some_and(|wanted| !wanted.is(claims.issuer())) {
            return Err(invalid("not from this issuer"));
        }
        let user = self.user_id_claim.as_ref().map(|name| user_of(&json, name)).transpose()?;
        Ok((claims, user))
    }
}

impl Fetched {
    /// The set, which has keys with the token's id.
    fn keys_of(&self, token: &SignedToken<'_>, now_unix_s: u64) -> Result<&KeySet, TokenError> {
        if token.key_id.is_empty() {
            return Err(invalid("its header names no key (kid)"));
        }
        let keys = self.keys.as_deref().ok_or(TokenError::UnknownKey)?;
        if keys.with_id(&token.key_id).next().is_some() {
            return Ok(keys);
        }
        if now_unix_s.saturating_sub(self.at_unix_s) < KEY_SET_FETCH_PAUSE_S {
            return Err(invalid("the key set has no such key (kid)"));
        }
        Err(TokenError::UnknownKey)
    }
}

fn invalid(why: &str) -> TokenError {
    TokenError::Invalid(why.to_owned())
}

/// The user by another claim than `sub`: a text, or a number, whose digits are the user.
fn user_of(json: &[u8], claim: &str) -> Result<String, TokenError> {
    let claims: BTreeMap<String, &RawValue> =
        serde_json::from_slice(json).map_err(|error| TokenError::Invalid(error.to_string()))?;
    let Some(value) = claims.get(claim) else { return Ok(String::new()) };
    match serde_json::from_str(value.get()) {
        Ok(Value::Null) => Ok(String::new()),
        Ok(Value::String(user)) => Ok(user),
        Ok(Value::Number(_)) => Ok(value.get().to_owned()),
        _ => Err(TokenError::Invalid(format!("its claim {claim} is neither text nor number"))),
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
    #[derive(Serialize)]
    struct Claims<'a> {
        sub: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        exp: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        info: Option<&'a RawValue>,
    }
    let info = info.map(|info| serde_json::from_str(info).expect("info is JSON"));
    sign(hmac_secret_key, &Claims { sub: user, exp: exp_unix_s, info })
}

#[cfg(test)]
mod tests;
