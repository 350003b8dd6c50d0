//! The watch protocol of dormant devices: what they ask, and what their streams say.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Name;
use crate::codec::sse;

/// One grant of a device's lease. Opaque to devices, who see it as `rwl_` and hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub [u8; 16]);

impl LeaseId {
    /// Reads what a device sent; `None` is an id that this server never granted.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("rwl_")?.as_bytes();
        if digits.len() != 32 {
            return None;
        }
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rwl_")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A lease id lets its holder take the stream over: debug output shows its beginning alone.
impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rwl_{:02x}{:02x}..", self.0[0], self.0[1])
    }
}

/// What a wake tells a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WakeEvent {
    /// The session that the device is to join, where the backend named one.
    pub session: Option<Name>,
    /// Where to join.
    pub url: String,
    /// With which token.
    pub token: String,
}

/// Appends the first event of a stream: the lease, and what the server expects of its holder.
pub fn write_hello(out: &mut Vec<u8>, lease: LeaseId, interval_ms: u64, device_wait_ms: u64) {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Hello {
        watch_lease_id: String,
        device_wait_for_viewer_ms: u64,
        heartbeat_interval_ms: u64,
    }
    let hello = Hello {
        watch_lease_id: lease.to_string(),
        device_wait_for_viewer_ms: device_wait_ms,
        heartbeat_interval_ms: interval_ms,
    };
    sse::write_event(out, "hello", &json(&hello));
}

/// Appends the event that wakes the device.
pub fn write_wake(out: &mut Vec<u8>, wake: &WakeEvent) {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Wake<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        remote_access_session_id: Option<&'a str>,
        url: &'a str,
        token: &'a str,
    }
    let wake = Wake {
        remote_access_session_id: wake.session.as_deref(),
        url: &wake.url,
        token: &wake.token,
    };
    sse::write_event(out, "wake", &json(&wake));
}

/// The body of every answer that is no success: `{"error":..,"code":..}`.
pub fn error_body(error: &str, code: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        error: &'a str,
        code: &'a str,
    }
    json(&Body { error, code }).into_bytes()
}

/// The token of an `Authorization` header: `DeviceToken T` or `Bearer T`, the scheme in any case.
pub fn device_token(authorization: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(authorization).ok()?;
    let (scheme, token) = text.trim().split_once([' ', '\t'])?;
    let known = scheme.eq_ignore_ascii_case("DeviceToken") || scheme.eq_ignore_ascii_case("Bearer");
    let token = token.trim_start();
    // Whatever else could not be passed on to the backend.
    let sound = !token.is_empty() && token.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    (known && sound).then_some(token)
}

/// `previousWatchLeaseId` of a watch request. An id that was never granted is as good as none.
pub fn previous_lease(query: Option<&str>) -> Option<LeaseId> {
    let mut pairs = query.unwrap_or_default().split('&');
    LeaseId::parse(pairs.find_map(|pair| pair.strip_prefix("previousWatchLeaseId="))?)
}

/// The lease of a heartbeat's body, `{"watchLeaseId":..}`; within, `None` is one never granted.
///
/// # Errors
/// What is wrong with the body, in the sender's terms.
pub fn heartbeat_lease(body: &[u8]) -> Result<Option<LeaseId>, &'static str> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Heartbeat<'a> {
        #[serde(borrow)]
        watch_lease_id: std::borrow::Cow<'a, str>,
    }
    // serde would take an array for the struct, by position.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err("the body is not a JSON object");
    }
    let heartbeat: Heartbeat<'_> = serde_json::from_slice(body)
        .map_err(|_| "the body is not JSON with a text watchLeaseId")?;
    Ok(LeaseId::parse(&heartbeat.watch_lease_id))
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: LeaseId = LeaseId([0xa5; 16]);

    #[test]
    fn ids_are_read_back_and_others_are_not() {
        let text = LEASE.to_string();
        assert_eq!(text, format!("rwl_{}", "a5".repeat(16)));
        assert_eq!(LeaseId::parse(&text), Some(LEASE));
        for wrong in ["", "rwl_", &text[4..], &text[..35], &format!("{text}0"), "rwl_é"] {
            assert_eq!(LeaseId::parse(wrong), None, "{wrong}");
        }
        assert_eq!(LeaseId::parse(&text.to_uppercase()), None);
        assert_eq!(format!("{LEASE:?}"), "rwl_a5a5..");
    }

    #[test]
    fn events_have_the_names_that_devices_know() {
        let mut out = Vec::new();
        write_hello(&mut out, LEASE, 5_000, 300_000);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("event: hello\ndata: {\"watchLeaseId\":\"rwl_a5a5"), "{text}");
        let rest = "\"deviceWaitForViewerMs\":300000,\"heartbeatIntervalMs\":5000}\n\n";
        assert!(text.contains(rest), "{text}");

        let url = "wss://room\n".to_owned();
        let mut wake = WakeEvent { session: None, url, token: "t".into() };
        let mut out = Vec::new();
        write_wake(&mut out, &wake);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("event: wake\ndata: {\"url\":\"wss://room\\n\",\"token\":\"t\"}\n\n")
        );
        wake.session = Some(Name::from("ras_1"));
        let mut out = Vec::new();
        write_wake(&mut out, &wake);
        assert!(String::from_utf8(out).unwrap().contains("{\"remoteAccessSessionId\":\"ras_1\","));
    }

    #[test]
    fn both_schemes_carry_the_token() {
        for (header, token) in [
            ("DeviceToken abc", Some("abc")),
            ("devicetoken  abc ", Some("abc")),
            ("Bearer a b", Some("a b")),
            ("Basic abc", None),
            ("Bearer caf\u{e9}", None),
            ("DeviceToken", None),
            ("DeviceToken ", None),
            ("", None),
        ] {
            assert_eq!(device_token(header.as_bytes()), token, "{header}");
        }
        assert_eq!(device_token(b"Bearer \xff"), None);
    }

    #[test]
    fn requests_name_their_lease() {
        let query = format!("protocolVersion=2.3.0&previousWatchLeaseId={LEASE}&x=1");
        assert_eq!(previous_lease(Some(&query)), Some(LEASE));
        for none in [None, Some(""), Some("previousWatchLeaseId="), Some("x=rwl_")] {
            assert_eq!(previous_lease(none), None);
        }
        let body = format!(r#"{{"watchLeaseId":"{LEASE}","more":1}}"#);
        assert_eq!(heartbeat_lease(body.as_bytes()), Ok(Some(LEASE)));
        assert_eq!(heartbeat_lease(br#"{"watchLeaseId":"other\n"}"#), Ok(None));
        for wrong in ["", "{}", "[]", "[\"a\"]", r#"{"watchLeaseId":1}"#, "\u{feff}{}"] {
            assert!(heartbeat_lease(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_are_what_devices_parse() {
        assert_eq!(error_body("no", "gone"), br#"{"error":"no","code":"gone"}"#);
    }
}
