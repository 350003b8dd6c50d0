//! What tokens say: Centrifugo's claims on the wire, and what they grant once they are checked.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;

/// What a valid connection token grants (centrifugal.dev `docs/server/authentication.md`).
#[derive(Debug)]
pub struct ConnectionClaims {
    /// The user (`sub`, or the claim that the configuration names), empty for an anonymous one.
    pub user: String,
    /// When the connection must have been refreshed, in seconds since the Unix epoch; 0 is never.
    pub expire_at_unix_s: u64,
    /// What others see of the connection (`info` or `b64info`), as JSON.
    pub info: Option<Box<RawValue>>,
    /// What only the backend sees of the connection (`meta`), as JSON.
    pub meta: Option<Box<RawValue>>,
    /// Channels to which the server subscribes the connection, each once: those of `subs` in the
    /// order of their names where that is not empty, else those of `channels` as they stand there.
    pub subs: Vec<(String, SubscribeOptions)>,
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
    /// When the subscription must have been refreshed, in seconds since the Unix epoch; 0 is never.
    pub expire_at_unix_s: u64,
    /// What holds for this subscription.
    pub options: SubscribeOptions,
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

/// What holds for one subscription beyond the options of its channel: a value of `subs`, or the
/// same fields of a subscription token.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "SubscribeFields")]
pub struct SubscribeOptions {
    /// What others see of the subscription (`info` or `b64info`), as JSON.
    pub info: Option<Box<RawValue>>,
    /// What the client gets with the subscription (`data` or `b64data`), as JSON.
    pub data: Option<Box<RawValue>>,
    /// Options of the channel that this subscription has otherwise.
    pub overrides: SubscribeOverrides,
}

/// Options of the channel that one subscription has otherwise; `None`: as the channel has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "OverrideFields")]
pub struct SubscribeOverrides {
    /// The subscriber is in the channel's presence.
    pub presence: Option<bool>,
    /// Its coming and going is published.
    pub join_leave: Option<bool>,
    /// It is told of the coming and going of others.
    pub force_push_join_leave: Option<bool>,
    /// It recovers.
    pub force_recovery: Option<bool>,
    /// It is told of gaps.
    pub force_positioning: Option<bool>,
}

#[derive(Deserialize)]
struct SubscribeFields {
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<SubscribeOverrides>,
}

impl TryFrom<SubscribeFields> for SubscribeOptions {
    type Error = String;

    fn try_from(fields: SubscribeFields) -> Result<Self, String> {
        Ok(Self {
            info: json_of("b64info", fields.info, fields.b64info)?,
            data: json_of("b64data", fields.data, fields.b64data)?,
            overrides: fields.overrides.unwrap_or_default(),
        })
    }
}

/// A switch as Centrifugo writes it: `{"value":true}`. Without its value it is off.
#[derive(Deserialize)]
struct Switch {
    #[serde(default)]
    value: bool,
}

#[derive(Deserialize)]
struct OverrideFields {
    presence: Option<Switch>,
    join_leave: Option<Switch>,
    force_push_join_leave: Option<Switch>,
    force_recovery: Option<Switch>,
    force_positioning: Option<Switch>,
}

impl From<OverrideFields> for SubscribeOverrides {
    fn from(fields: OverrideFields) -> Self {
        let on = |switch: Option<Switch>| switch.map(|switch| switch.value);
        Self {
            presence: on(fields.presence),
            join_leave: on(fields.join_leave),
            force_push_join_leave: on(fields.force_push_join_leave),
            force_recovery: on(fields.force_recovery),
            force_positioning: on(fields.force_positioning),
        }
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
    subs: Option<BTreeMap<String, Option<SubscribeOptions>>>,
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
            Some(subs) if !subs.is_empty() => subs
                .into_iter()
                .map(|(name, options)| (name, options.unwrap_or_default()))
                .collect(),
            _ => once_each(self.channels.unwrap_or_default()),
        };
        Ok(ConnectionClaims {
            user: user.or(self.sub).unwrap_or_default(),
            expire_at_unix_s,
            info: json_of("b64info", self.info, self.b64info)?,
            meta: self.meta,
            subs,
            token,
        })
    }

    /// The claims of a subscription token, likewise.
    pub(super) fn subscription(self, user: Option<String>) -> Result<SubscriptionClaims, String> {
        let (expire_at_unix_s, token) = (self.expire_at_unix_s(), self.facts());
        let options = SubscribeOptions::try_from(SubscribeFields {
            info: self.info,
            b64info: self.b64info,
            data: self.data,
            b64data: self.b64data,
            overrides: self.overrides,
        })?;
        Ok(SubscriptionClaims {
            user: user.or(self.sub).unwrap_or_default(),
            channel: self.channel.unwrap_or_default(),
            client: self.client.unwrap_or_default(),
            expire_at_unix_s,
            options,
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

fn once_each(channels: Vec<String>) -> Vec<(String, SubscribeOptions)> {
    let mut known = std::collections::BTreeSet::new();
    let mut new = |channel: &String| known.insert(channel.clone());
    let channels = channels.into_iter().filter(|channel| new(channel));
    channels.map(|channel| (channel, SubscribeOptions::default())).collect()
}

/// The value of a claim that may also be given in base64; that wins. Clients speak JSON, so that is
/// what the bytes must be.
fn json_of(
    name: &str,
    plain: Option<Box<RawValue>>,
    base64: Option<String>,
) -> Result<Option<Box<RawValue>>, String> {
    let Some(base64) = base64.filter(|base64| !base64.is_empty()) else { return Ok(plain) };
    let bytes = BASE64.decode(base64.as_bytes()).map_err(|_| format!("{name} is not base64"))?;
    let json = serde_json::from_slice(&bytes).map_err(|_| format!("{name} holds no JSON"))?;
    Ok(Some(json))
}
