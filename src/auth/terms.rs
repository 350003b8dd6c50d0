//! What a token or a backend grants to one subscription beyond what its namespace has.

use bytes::Bytes;
use serde::Deserialize;

/// On what terms somebody is subscribed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What others in the channel see of it beyond the connection's own info, as JSON on one line.
    pub info: Option<Bytes>,
    /// What the client is told with the grant, as JSON on one line.
    pub data: Option<Bytes>,
    /// Options of the channel that it has otherwise.
    pub overrides: SubscribeOverrides,
    /// When it must have been refreshed, in seconds since the Unix epoch; 0: never.
    pub expire_at_unix_s: u64,
    /// In cache mode: the newest publication comes with the subscription, asked for or not.
    pub cache_recover: bool,
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
