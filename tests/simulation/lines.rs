//! What a server says in one line of the Centrifuge protocol, as a client reads it.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::positions::Position;

/// One line.
#[derive(Deserialize)]
pub struct Line<'a> {
    #[serde(default)]
    pub id: u32,
    #[serde(borrow)]
    pub push: Option<Push<'a>>,
    pub error: Option<Failure>,
    #[serde(borrow)]
    pub connect: Option<Connected<'a>>,
    #[serde(borrow)]
    pub subscribe: Option<Subscribed<'a>>,
    pub unsubscribe: Option<IgnoredAny>,
    pub publish: Option<IgnoredAny>,
    #[serde(borrow)]
    pub rpc: Option<Returned<'a>>,
    pub sub_refresh: Option<Prolonged>,
    pub presence: Option<Presence>,
    #[serde(borrow)]
    pub history: Option<History<'a>>,
}

/// What a procedure returned.
#[derive(Deserialize)]
pub struct Returned<'a> {
    #[serde(borrow)]
    pub data: &'a RawValue,
}

/// Until when a subscription lives now.
#[derive(Deserialize)]
pub struct Prolonged {
    #[serde(default)]
    pub expires: bool,
    #[serde(default)]
    pub ttl: u64,
}

#[derive(Deserialize)]
pub struct Failure {
    pub code: u16,
}

#[derive(Deserialize)]
pub struct Push<'a> {
    #[serde(default)]
    pub channel: String,
    #[serde(borrow, rename = "pub")]
    pub publication: Option<Publication<'a>>,
    pub join: Option<Membership>,
    pub leave: Option<Membership>,
    pub unsubscribe: Option<Failure>,
    #[serde(borrow)]
    pub subscribe: Option<Subscribed<'a>>,
    pub refresh: Option<IgnoredAny>,
    #[serde(borrow)]
    pub message: Option<Publication<'a>>,
}

#[derive(Deserialize)]
pub struct Publication<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    pub offset: u64,
    pub epoch: Option<String>,
}

#[derive(Deserialize)]
pub struct Membership {
    pub info: Info,
}

#[derive(Deserialize)]
pub struct Info {
    pub user: String,
    pub client: String,
}

#[derive(Deserialize)]
pub struct Connected<'a> {
    pub client: String,
    #[serde(borrow, default)]
    pub subs: BTreeMap<String, Subscribed<'a>>,
}

#[derive(Deserialize)]
pub struct Presence {
    pub presence: BTreeMap<String, Info>,
}

#[derive(Deserialize)]
pub struct History<'a> {
    #[serde(borrow)]
    pub publications: Vec<Publication<'a>>,
    pub epoch: String,
    pub offset: u64,
}

/// The grant of a subscription.
#[derive(Deserialize)]
pub struct Subscribed<'a> {
    #[serde(default)]
    pub positioned: bool,
    #[serde(default)]
    epoch: String,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    pub was_recovering: bool,
    #[serde(default)]
    pub recovered: bool,
    #[serde(borrow, default)]
    pub publications: Vec<Publication<'a>>,
    #[serde(default)]
    pub expires: bool,
    #[serde(default)]
    pub ttl: u64,
    /// When it must have been refreshed, as whoever granted it knows it.
    #[serde(default)]
    pub data: Option<u64>,
}

impl Subscribed<'_> {
    /// Where it begins, if it is told.
    pub fn position(&self) -> Option<Position> {
        let position = Position { epoch: self.epoch.clone(), offset: self.offset };
        self.positioned.then_some(position)
    }
}

impl Publication<'_> {
    /// What was published. Handlers publish text and bytes too, which come as JSON strings.
    pub fn payload(&self) -> String {
        let data = self.data.get();
        if !data.starts_with('"') {
            return data.to_owned();
        }
        let text: String = serde_json::from_str(data).expect("a JSON string");
        if text.starts_with('{') {
            return text;
        }
        String::from_utf8(BASE64.decode(text.as_bytes()).expect("base64")).expect("UTF-8")
    }
}
