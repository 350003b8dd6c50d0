//! Which device a device token stands for: by its signature, by a table, or by asking the backend.

use std::{collections::HashMap, fmt, hash::Hasher};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::{keys::Key, keys_match, signed::SignedToken};
use crate::limits::DEVICE_ID_BYTES_MAX;

/// A device as its agent learns it from `device-info`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Its id, unique; leases are by it.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The project that it belongs to.
    pub project_id: String,
    /// Seconds for which its recordings are kept, if the backend says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_recordings_seconds: Option<u64>,
}

impl Device {
    /// A device from the backend's JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let device: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        device.check()
    }

    /// The device as `device-info` answers it.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers are JSON")
    }

    fn check(self) -> Result<Self, String> {
        match self.id.len() {
            1..=DEVICE_ID_BYTES_MAX => Ok(self),
            _ => Err(format!("a device's id has 1 to {DEVICE_ID_BYTES_MAX} bytes")),
        }
    }
}

/// What a token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is this device's.
    Device(Device),
    /// It is nobody's, for good: agents stop for ever when they are told.
    Invalid,
    /// Nobody can say now.
    Unavailable,
}

/// Where devices and their tokens come from.
pub enum Devices {
    /// The token says it itself, signed with our key.
    Signed(Box<SignedDevices>),
    /// A table.
    Table(DeviceTable),
    /// Only the backend knows: it must be asked.
    Backend,
}

impl Devices {
    /// What `token` proves at `now_unix_s`; `None` where the backend must be asked.
    pub fn verify(&self, token: &str, now_unix_s: u64) -> Option<Verdict> {
        let device = match self {
            Self::Signed(signed) => signed.verify(token, now_unix_s),
            Self::Table(table) => table.find(token).cloned(),
            Self::Backend => return None,
        };
        Some(device.map_or(Verdict::Invalid, Verdict::Device))
    }
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signed(_) => "Signed(..)",
            Self::Table(_) => "Table(..)",
            Self::Backend => "Backend",
        })
    }
}

/// JSON Web Tokens with HS256, HS384 or HS512 whose claims are the device: `sub` is its id, `name`,
/// `projectId` and `retainRecordingsSeconds` are as in [`Device`]; `exp` and `nbf` count.
pub struct SignedDevices {
    key: Key,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    sub: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    project_id: String,
    retain_recordings_seconds: Option<u64>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

impl SignedDevices {
    /// Tokens signed with this key, which is not empty.
    pub fn new(hmac_secret_key: &str) -> Self {
        let key = Key::hmac(hmac_secret_key).expect("an empty key verifies what anybody can sign");
        Self { key }
    }

    fn verify(&self, token: &str, now_unix_s: u64) -> Option<Device> {
        let claims = SignedToken::parse(token).ok()?.claims([&self.key]).ok()?;
        let claims: Claims = serde_json::from_slice(&claims).ok()?;
        let now = now_unix_s as f64;
        if claims.exp.is_some_and(|exp| exp <= now) || claims.nbf.is_some_and(|nbf| nbf > now) {
            return None;
        }
        let device = Device {
            id: claims.sub,
            name: claims.name,
            project_id: claims.project_id,
            retain_recordings_seconds: claims.retain_recordings_seconds,
        };
        device.check().ok()
    }
}

/// Devices by their tokens. Tokens are found by a keyed hash and compared in constant time, so
/// that no time tells how much of a guess was right.
pub struct DeviceTable {
    key: (u64, u64),
    devices: HashMap<u64, Vec<(String, Device)>>,
}

/// A row of the table's file.
#[derive(Deserialize)]
struct Row {
    token: String,
    #[serde(flatten)]
    device: Device,
}

impl DeviceTable {
    /// Reads `[{"token":..,"id":..,"name":..,"projectId":..,"retainRecordingsSeconds":..}]`; `key`
    /// is random.
    ///
    /// # Errors
    /// What is wrong with it, without any token.
    pub fn parse(json: &[u8], key: (u64, u64)) -> Result<Self, String> {
        // Its texts are not quoted in an error: they may be tokens.
        let rows: Vec<Row> = serde_json::from_slice(json).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("{line}:{column}: expected a list of objects with token, id, name, projectId")
        })?;
        let mut table = Self { key, devices: HashMap::new() };
        for (index, Row { token, device }) in rows.into_iter().enumerate() {
            let at = |what: &str| format!("row {}: {what}", index + 1);
            if token.is_empty() {
                return Err(at("the token is empty"));
            }
            if table.find(&token).is_some() {
                return Err(at("the token stands there twice"));
            }
            let device = device.check().map_err(|what| at(&what))?;
            let hash = table.hash(&token);
            table.devices.entry(hash).or_default().push((token, device));
        }
        Ok(table)
    }

    fn find(&self, token: &str) -> Option<&Device> {
        let candidates = self.devices.get(&self.hash(token))?;
        let same = |(known, _): &&(String, Device)| keys_match(known, token.as_bytes());
        candidates.iter().find(same).map(|(_, device)| device)
    }

    fn hash(&self, token: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write(token.as_bytes());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::sign, *};

    const NOW: u64 = 1_700_000_000;

    fn verify(claims: &Value) -> Verdict {
        let devices = Devices::Signed(Box::new(SignedDevices::new("key")));
        devices.verify(&sign("key", claims), NOW).unwrap()
    }

    #[test]
    fn claims_are_the_device() {
        let claims = json!({
            "sub": "d1", "name": "Desk", "projectId": "p", "retainRecordingsSeconds": 60,
            "exp": NOW + 1
        });
        let Verdict::Device(device) = verify(&claims) else { panic!("refused") };
        assert_eq!(
            String::from_utf8(device.to_json()).unwrap(),
            r#"{"id":"d1","name":"Desk","projectId":"p","retainRecordingsSeconds":60}"#
        );
        let Verdict::Device(bare) = verify(&json!({"sub": "d2"})) else { panic!("refused") };
        assert_eq!(
            String::from_utf8(bare.to_json()).unwrap(),
            r#"{"id":"d2","name":"","projectId":""}"#
        );
    }

    #[test]
    fn tokens_out_of_time_or_wrongly_signed_are_invalid() {
        for claims in [
            json!({"sub": "d", "exp": NOW}),
            json!({"sub": "d", "nbf": NOW + 1}),
            json!({"sub": ""}),
            json!({"sub": "x".repeat(256)}),
            json!({"name": "d"}),
            json!({"sub": 1}),
        ] {
            assert_eq!(verify(&claims), Verdict::Invalid, "{claims}");
        }
        let devices = Devices::Signed(Box::new(SignedDevices::new("key")));
        for token in [&sign("other", &json!({"sub": "d"})), "", "a.b.c", "eyJhbGciOiJub25lIn0.e30."]
        {
            assert_eq!(devices.verify(token, NOW), Some(Verdict::Invalid), "{token}");
        }
        assert_eq!(Devices::Backend.verify("any", NOW), None);
    }

    #[test]
    fn a_table_finds_whole_tokens_alone() {
        let rows = r#"[{"token":"t1","id":"a","name":"A","projectId":"p"},
            {"token":"t2","id":"b","name":"B","projectId":"p","retainRecordingsSeconds":5}]"#;
        let devices = Devices::Table(DeviceTable::parse(rows.as_bytes(), (1, 2)).unwrap());
        for (token, id) in
            [("t1", Some("a")), ("t2", Some("b")), ("t", None), ("t11", None), ("", None)]
        {
            let found = match devices.verify(token, NOW) {
                Some(Verdict::Device(device)) => Some(device.id),
                _ => None,
            };
            assert_eq!(found.as_deref(), id, "{token}");
        }
    }

    #[test]
    fn a_wrong_table_is_refused_without_showing_tokens() {
        let row = |token: &str, id: &str| {
            format!(r#"{{"token":"{token}","id":"{id}","name":"","projectId":""}}"#)
        };
        for (rows, said) in [
            ("[{\"token\":\"s3cret\"}]".into(), "1:"),
            ("[\"s3cret\"]".into(), "1:"),
            (format!("[{}]", row("", "a")), "row 1: the token is empty"),
            (format!("[{},{}]", row("s3cret", "a"), row("s3cret", "b")), "row 2: the token stands"),
            (format!("[{}]", row("s3cret", "")), "row 1: a device's id"),
        ] {
            let Err(error) = DeviceTable::parse(rows.as_bytes(), (1, 2)) else { panic!("{rows}") };
            assert!(error.starts_with(said) && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn what_the_backend_says_of_a_device_is_checked() {
        let device = Device::parse(br#"{"id":"a","name":"A","projectId":"p","more":[]}"#).unwrap();
        assert_eq!((device.id.as_str(), device.retain_recordings_seconds), ("a", None));
        for wrong in ["{}", "[]", r#"{"id":"","name":"","projectId":""}"#, r#"{"id":"a"}"#] {
            assert!(Device::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
