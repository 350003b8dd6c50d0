//! What the server says: `hello`, `wake`, the device, and the bodies of errors.
//!
//! PURE. Unknown members are ignored, so that servers can say more.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

const DEVICE_WAIT_MIN: Duration = Duration::from_secs(5);
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Beyond any use, and far from where arithmetic ends.
const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The first event of a stream: the lease, and how to keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) lease: String,
    /// How long a woken device waits for a viewer, 5 s at least.
    pub(super) device_wait: Duration,
    /// Between heartbeats, 1 s at least.
    pub(super) interval: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HelloData {
    watch_lease_id: String,
    device_wait_for_viewer_ms: u64,
    heartbeat_interval_ms: u64,
}

impl Hello {
    pub(super) fn parse(data: &str) -> Result<Self, serde_json::Error> {
        let data: HelloData = serde_json::from_str(data)?;
        let duration =
            |milliseconds, least| Duration::from_millis(milliseconds).clamp(least, DURATION_MAX);
        Ok(Self {
            lease: data.watch_lease_id,
            device_wait: duration(data.device_wait_for_viewer_ms, DEVICE_WAIT_MIN),
            interval: duration(data.heartbeat_interval_ms, INTERVAL_MIN),
        })
    }
}

/// The device is wanted: the session to join.
#[derive(Clone, PartialEq, Eq)]
pub struct Wake {
    /// Names the session; also sent along with later watches, for the server's logs.
    pub session_id: Option<String>,
    /// Where to join.
    pub url: String,
    /// With what to join. Debug output does not show it.
    pub token: String,
    /// How long to wait there for a viewer before watching again, 5 s at least.
    pub device_wait: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WakeData {
    remote_access_session_id: Option<String>,
    url: String,
    token: String,
}

impl Wake {
    pub(super) fn parse(data: &str, device_wait: Duration) -> Result<Self, serde_json::Error> {
        let WakeData { remote_access_session_id: session_id, url, token } =
            serde_json::from_str(data)?;
        Ok(Self { session_id, url, token, device_wait })
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { session_id, url, token: _, device_wait } = self;
        f.debug_struct("Wake")
            .field("session_id", session_id)
            .field("url", url)
            .field("device_wait", device_wait)
            .finish_non_exhaustive()
    }
}

/// Which device the token stands for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceInfo {
    /// The device's id.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// The project that it belongs to.
    pub project_id: String,
    /// Seconds for which its recordings are kept.
    pub retain_recordings_seconds: Option<u64>,
}

/// What the body of an error says, for people; empty if it says nothing that is understood.
pub(super) fn error_text(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct ErrorBody {
        error: String,
        code: Option<String>,
    }
    match serde_json::from_slice(body) {
        Ok(ErrorBody { error, code: Some(code) }) => format!(": {error} ({code})"),
        Ok(ErrorBody { error, code: None }) => format!(": {error}"),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn hello(wait: &str, interval: &str) -> Option<Hello> {
        let data = format!(
            r#"{{"watchLeaseId":"l","deviceWaitForViewerMs":{wait},"heartbeatIntervalMs":{interval},"x":1}}"#
        );
        Hello::parse(&data).ok()
    }

    #[test]
    fn a_hello_is_clamped() {
        for (wait, interval, wait_s, interval_s) in [
            ("300000", "5000", 300, 5),
            ("5000", "1000", 5, 1),
            ("4999", "999", 5, 1),
            ("0", "0", 5, 1),
        ] {
            let hello = hello(wait, interval).unwrap();
            assert_eq!(hello.device_wait, wait_s * SECOND);
            assert_eq!(hello.interval, interval_s * SECOND);
        }
        let longest = hello("18446744073709551615", "18446744073709551615").unwrap();
        assert_eq!(longest.interval, DURATION_MAX, "no number is beyond arithmetic");
    }

    #[test]
    fn a_hello_needs_all_its_members_as_unsigned_integers() {
        assert!(hello("1", "1").is_some());
        for wrong in ["5000.0", "-1", "\"5000\"", "null"] {
            assert_eq!(hello("1", wrong), None, "{wrong}");
            assert_eq!(hello(wrong, "1"), None, "{wrong}");
        }
        for data in [
            "",
            "[]",
            r#"{"deviceWaitForViewerMs":1,"heartbeatIntervalMs":1}"#,
            r#"{"watchLeaseId":1,"deviceWaitForViewerMs":1,"heartbeatIntervalMs":1}"#,
        ] {
            assert!(Hello::parse(data).is_err(), "{data}");
        }
    }

    #[test]
    fn a_wake_may_lack_its_session_only() {
        let parse = |data| Wake::parse(data, SECOND);
        let wake =
            parse(r#"{"remoteAccessSessionId":"ras_1","url":"u","token":"tide-7f3a"}"#).unwrap();
        assert_eq!(wake.session_id.as_deref(), Some("ras_1"));
        assert!(!format!("{wake:?}").contains("7f3a"), "{wake:?}");
        assert_eq!(parse(r#"{"url":"u","token":"t"}"#).unwrap().session_id, None);
        assert!(parse(r#"{"url":"u"}"#).is_err());
        assert!(parse(r#"{"token":"t"}"#).is_err());
        assert!(parse("wake").is_err());
    }

    #[test]
    fn the_text_of_an_error() {
        assert_eq!(error_text(br#"{"error":"no lease","code":"GONE"}"#), ": no lease (GONE)");
        assert_eq!(error_text(br#"{"error":"no lease"}"#), ": no lease");
        assert_eq!(error_text(b"<html>"), "");
    }
}
