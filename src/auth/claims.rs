//! What tokens say: Centrifugo's claims on the wire, and what they grant once they are checked.

use std::collections::BTreeMap;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::terms::{SubscribeOverrides, Terms};
use crate::codec::json::one_line;

/// What a valid connection token grants (centrifugal.dev `docs/server/authentication.md`).
#[derive(Debug)]
pub struct ConnectionClaims {
    /// The user (`sub`, or the claim that the configuration names), empty for an anonymous one.
    pub user: String,
    /// When the connection must have been refreshed, in seconds since the Unix epoch; 0 is never.
    pub expire_at_unix_s: u64,
    /// What others see of the connection (`info` or `b64info`), as JSON on
    /// one line.
    pub info: Option<Bytes>,
    /// What only the backend sees of the connection (`meta`), as JSON on one line.
    pub meta: Option<Bytes>,
    /// Channels to which the server subscribes the connection, each once: those of `subs` in the
    /// order of their names where that is not empty, else those of `channels` as they stand there.
    pub subs: Vec<(String, Terms)>,
    /// The token itself.
    pub token: TokenFacts,
}

/// What a valid subscription token grants (centrifugal.dev `docs/server/channel_token_auth.md`).
#[derive(Debug)]
pub struct SubscriptionClaims {
    /// The user, who must be the connection's.
    pub user: String,
    /// The channel, which must be the one asked for; not empty.
    pub channel: String,
    /// The id of the connection that alone may use it; empty: any of the user's.
    pub client: String,
    /// What holds for this subscription.
    pub terms: Terms,
    /// The token itself.
    pub token: TokenFacts,
}

/// By what a backend may call a token back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenFacts {
    /// Its id (`jti`), empty if it has none.
    pub id: String,
    /// When it was issued (`iat`), in seconds since the Unix epoch, if it says so.
    pub issued_at_unix_s: Option<u64>,
}

/// Terms on the wire: a value of `subs`, or the same fields of a subscription token.
#[derive(Deserialize)]
struct TermsFields {
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<SubscribeOverrides>,
}

impl TermsFields {
    fn until(self, expire_at_unix_s: u64) -> Result<Terms, String> {
        Ok(Terms {
            info: json_of("b64info", self.info, self.b64info)?,
            data: json_of("b64data", self.data, self.b64data)?,
            overrides: self.overrides.unwrap_or_default(),
            expire_at_unix_s,
            ..Terms::default()
        })
    }
}

/// The claims of both kinds of tokens on the wire. Times are numbers that may have a fraction
/// (RFC 7519 section 2).
#[derive(Deserialize)]
pub(super) struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    jti: Option<String>,
    iss: Option<String>,
    aud: Option<Audience>,
    expire_at: Option<f64>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    // Of connection tokens.
    meta: Option<Box<RawValue>>,
    channels: Option<Vec<String>>,
    subs: Option<BTreeMap<String, Option<TermsFields>>>,
    // Of subscription tokens.
    channel: Option<String>,
    client: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<SubscribeOverrides>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Claims {
    /// Whether any of the audiences is `wanted`.
    pub(super) fn is_for(&self, wanted: impl Fn(&str) -> bool) -> bool {
        match &self.aud {
            Some(Audience::One(one)) => wanted(one),
            Some(Audience::Many(many)) => many.iter().any(|one| wanted(one)),
            None => false,
        }
    }

    /// Who issued it, empty if it does not say so.
    pub(super) fn issuer(&self) -> &str {
        self.iss.as_deref().unwrap_or_default()
    }

    /// Whether the moment is within the token's times.
    pub(super) fn is_in_time(&self, now_unix_s: u64) -> bool {
        let now = now_unix_s as f64;
        self.exp.is_none_or(|exp| exp > now) && self.nbf.is_none_or(|nbf| nbf <= now)
    }

    /// The channel that makes it a subscription token.
    pub(super) fn channel(&self) -> Option<&str> {
        self.channel.as_deref().filter(|channel| !channel.is_empty())
    }

    /// The claims of a connection token, of this user if another claim than `sub` names it.
    pub(super) fn connection(self, user: Option<String>) -> Result<ConnectionClaims, String> {
        let (expire_at_unix_s, token) = (self.expire_at_unix_s(), self.facts());
        let subs = match self.subs {
            Some(subs) if !subs.is_empty() => {
                let terms = |fields: Option<TermsFields>| match fields {
                    Some(fields) => fields.until(0),
                    None => Ok(Terms::default()),
                };
                let subs = subs.into_iter().map(|(name, fields)| Ok((name, terms(fields)?)));
                subs.collect::<Result<_, String>>()?
            }
            _ => once_each(self.channels.unwrap_or_default()),
        };
        Ok(ConnectionClaims {
            user: user.or(self.sub).unwrap_or_default(),
            expire_at_unix_s,
            info: json_of("b64info", self.info, self.b64info)?,
            meta: self.meta.as_deref().map(one_line),
            subs,
            token,
        })
    }

    /// The claims of a subscription token, likewise.
    pub(super) fn subscription(self, user: Option<String>) -> Result<SubscriptionClaims, String> {
        let (expire_at_unix_s, token) = (self.expire_at_unix_s(), self.facts());
        let fields = TermsFields {
            info: self.info,
            b64info: self.b64info,
            data: self.data,
            b64data: self.b64data,
            overrides: self.overrides,
        };
        let terms = fields.until(expire_at_unix_s)?;
        Ok(SubscriptionClaims {
            user: user.or(self.sub).unwrap_or_default(),
            channel: self.channel.unwrap_or_default(),
            client: self.client.unwrap_or_default(),
            terms,
            token,
        })
    }

    fn expire_at_unix_s(&self) -> u64 {
        // The cast saturates: what is negative becomes 0, which is never.
        self.expire_at.or(self.exp).unwrap_or(0.0) as u64
    }

    fn facts(&self) -> TokenFacts {
        TokenFacts {
            id: self.jti.clone().unwrap_or_default(),
            issued_at_unix_s: self.iat.map(|iat| iat as u64),
        }
    }
}

fn once_each(channels: Vec<String>) -> Vec<(String, Terms)> {
    let mut known = std::collections::BTreeSet::new();
    let mut new = |channel: &String| known.insert(channel.clone());
    let channels = channels.into_iter().filter(|channel| new(channel));
    channels.map(|channel| (channel, Terms::default())).collect()
}

/// The value of a claim that may also be given in base64; that wins. Clients speak JSON, so that is
/// what the bytes must be.
fn json_of(
    name: &str,
    plain: Option<Box<RawValue>>,
    base64: Option<String>,
) -> Result<Option<Bytes>, String> {
    let Some(base64) = base64.filter(|base64| !base64.is_empty()) else {
        return Ok(plain.as_deref().map(one_line));
    };
    let bytes = BASE64.decode(base64.as_bytes()).map_err(|_| format!("{name} is not base64"))?;
    let json: &RawValue =
        serde_json::from_slice(&bytes).map_err(|_| format!("{name} holds no JSON"))?;
    Ok(Some(one_line(json)))
}
