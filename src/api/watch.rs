//! The watch methods of the HTTP API: `wake`, `watchers` and `release`, in the API's own shapes.

use serde::{Deserialize, Serialize};

use super::{
    parse::parse_body,
    shapes::{ApiError, encode, error_response, refused, transport_error},
};
use crate::{
    hub::{WakeOrder, WakeStatus, Watcher},
    limits::{DEVICE_ID_BYTES_MAX, WATCHERS_PER_PAGE_MAX},
    protocol::{ErrorCode, Name, watch::WakeEvent},
};

/// Seconds for which a wake is worth sending where the backend does not say.
const WAKE_TTL_S: u64 = 60;
/// Seconds for which a wake is held at most.
const WAKE_TTL_S_MAX: u64 = 24 * 60 * 60;
/// Bytes of the url and of the token of a wake.
const WAKE_TEXT_BYTES_MAX: usize = 8 << 10;
/// Watchers of a page where the backend does not say.
const WATCHERS_PER_PAGE: usize = 100;

/// What a backend asks about devices.
#[derive(Debug)]
pub enum WatchCall {
    /// Wake a device. Answer: [`WatchAnswer::Woken`].
    Wake {
        /// The device.
        device: Name,
        /// With what, and for how long.
        order: WakeOrder,
    },
    /// List devices that hold a lease. Answer: [`WatchAnswer::Watchers`].
    Watchers {
        /// Those behind this one.
        after: Option<Name>,
        /// At most so many.
        limit: usize,
    },
    /// Take a device's lease away. Answer: [`WatchAnswer::Released`].
    Release {
        /// The device.
        device: Name,
    },
}

impl WatchCall {
    /// The call, if its texts are there and within their bounds, and its page is of a size that
    /// there is. A wake is held for a day at most.
    pub fn checked(mut self) -> Option<Self> {
        if let Self::Wake { order, .. } = &mut self {
            order.ttl_ms = order.ttl_ms.min(WAKE_TTL_S_MAX * 1_000);
        }
        let is_name = |name: &str| (1..=DEVICE_ID_BYTES_MAX).contains(&name.len());
        let is_text = |text: &str| (1..=WAKE_TEXT_BYTES_MAX).contains(&text.len());
        let is_sound = match &self {
            Self::Wake { device, order: WakeOrder { event, .. } } => {
                is_name(device)
                    && event.session.as_deref().is_none_or(is_name)
                    && is_text(&event.url)
                    && is_text(&event.token)
            }
            Self::Watchers { limit, .. } => (1..=WATCHERS_PER_PAGE_MAX).contains(limit),
            Self::Release { device } => is_name(device),
        };
        is_sound.then_some(self)
    }
}

/// What a backend is told about devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchAnswer {
    /// How far the wake is.
    Woken(WakeStatus),
    /// Devices that hold a lease.
    Watchers(WatcherPage),
    /// Whether there was a lease to take away.
    Released(bool),
    /// The shard answers too many calls already.
    Busy,
}

/// Devices that hold a lease, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatcherPage {
    /// At most as many as were asked for.
    pub watchers: Vec<Watcher>,
    /// How many there are in all.
    pub total: u64,
    /// Whether others may come behind the last one.
    pub more: bool,
}

/// Whether a name, as of [`parse`](super::parse()), is that of one of these methods.
pub fn is_method(name: &str) -> bool {
    matches!(name, "wake" | "watchers" | "release")
}

/// Parses a request of a method that [`is_method`] knows. Unknown fields are accepted.
///
/// `wake` takes `device`, `url`, `token`, and optionally `session_id` (by which asking again means
/// the same wake) and `ttl` in seconds, 60 if absent, 0 for now or never. `watchers` takes `limit`
/// and `after`, `release` takes `device`.
///
/// # Errors
/// The whole response, as of the API's other methods.
pub fn parse(name: &str, method: &str, body: &[u8]) -> Result<WatchCall, ApiError> {
    #[derive(Deserialize)]
    struct Request {
        device: Option<String>,
        url: Option<String>,
        token: Option<String>,
        session_id: Option<String>,
        ttl: Option<u64>,
        after: Option<String>,
        limit: Option<usize>,
    }
    if method != "POST" {
        return Err(transport_error(405, "API methods are called with POST"));
    }
    let request: Request = parse_body(body)?;
    let name_of = |text: Option<String>| Name::from(text.unwrap_or_default());
    let call = match name {
        "watchers" => WatchCall::Watchers {
            after: request.after.filter(|after| !after.is_empty()).map(Name::from),
            limit: request.limit.unwrap_or(WATCHERS_PER_PAGE),
        },
        "release" => WatchCall::Release { device: name_of(request.device) },
        _ => {
            let session = request.session_id.filter(|session| !session.is_empty());
            let event = WakeEvent {
                session: session.map(Name::from),
                url: request.url.unwrap_or_default(),
                token: request.token.unwrap_or_default(),
            };
            let ttl_ms = request.ttl.unwrap_or(WAKE_TTL_S).saturating_mul(1_000);
            WatchCall::Wake { device: name_of(request.device), order: WakeOrder { event, ttl_ms } }
        }
    };
    call.checked().ok_or_else(|| refused(ErrorCode::BAD_REQUEST))
}

/// The response where watching is not enabled.
pub fn unavailable() -> ApiError {
    refused(ErrorCode::NOT_AVAILABLE)
}

/// Status and body of the response that says this.
pub fn response(answer: &WatchAnswer) -> (u16, Vec<u8>) {
    match answer {
        WatchAnswer::Woken(status) => (200, wake_response(*status)),
        WatchAnswer::Watchers(page) => (200, watchers_response(page)),
        WatchAnswer::Released(released) => (200, release_response(*released)),
        WatchAnswer::Busy => (503, error_response(503, "too many requests")),
    }
}

/// `{"result":{"status":..}}`.
fn wake_response(status: WakeStatus) -> Vec<u8> {
    #[derive(Serialize)]
    struct Woken {
        status: &'static str,
    }
    let status = match status {
        WakeStatus::Sent => "sent",
        WakeStatus::Confirmed => "confirmed",
        WakeStatus::Pending => "pending",
        WakeStatus::NoWatcher => "no_watcher",
        WakeStatus::Refused => return refused(ErrorCode::LIMIT_EXCEEDED).body,
    };
    result(Woken { status })
}

fn release_response(released: bool) -> Vec<u8> {
    #[derive(Serialize)]
    struct Released {
        released: bool,
    }
    result(Released { released })
}

/// `watchers` in the order of their names, `total` of all, and `after` for the next page where there
/// is one.
fn watchers_response(page: &WatcherPage) -> Vec<u8> {
    let WatcherPage { watchers, total, more } = page;
    #[derive(Serialize)]
    struct Row<'a> {
        device: &'a str,
        lease_age: f64,
        last_heartbeat_age: f64,
        connected: bool,
    }
    #[derive(Serialize)]
    struct Page<'a> {
        watchers: Vec<Row<'a>>,
        total: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<&'a str>,
    }
    let seconds = |ms: u64| ms as f64 / 1_000.0;
    let rows = watchers.iter().map(|watcher| Row {
        device: &watcher.device,
        lease_age: seconds(watcher.lease_age_ms),
        last_heartbeat_age: seconds(watcher.heartbeat_age_ms),
        connected: watcher.connected,
    });
    let after = watchers.last().filter(|_| *more).map(|last| &*last.device);
    result(Page { watchers: rows.collect(), total: *total, after })
}

fn result(value: impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Response<T> {
        result: T,
    }
    encode(&Response { result: value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wake(body: &str) -> Result<(Name, WakeOrder), (u16, String)> {
        match parse("wake", "POST", body.as_bytes()) {
            Ok(WatchCall::Wake { device, order }) => Ok((device, order)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err((error.status, String::from_utf8(error.body).unwrap())),
        }
    }

    #[test]
    fn wakes_say_whom_where_and_how_long() {
        let body = r#"{"device":"d","url":"u","token":"t","session_id":"s","ttl":5,"x":1}"#;
        let (device, order) = wake(body).unwrap();
        assert_eq!((&*device, order.ttl_ms), ("d", 5_000));
        assert_eq!(order.event.session.as_deref(), Some("s"));
        let (_, order) = wake(r#"{"device":"d","url":"u","token":"t"}"#).unwrap();
        assert_eq!((order.event.session, order.ttl_ms), (None, 60_000));
        let (_, order) = wake(&body.replace(":5", ":99999999")).unwrap();
        assert_eq!(order.ttl_ms, 86_400_000);
    }

    #[test]
    fn wrong_requests_are_refused_as_everywhere_in_the_api() {
        for (body, status, part) in [
            ("", 400, "\"code\":400"),
            ("[]", 400, "not a JSON object"),
            ("{}", 200, "\"code\":107"),
            (r#"{"device":"","url":"u","token":"t"}"#, 200, "\"code\":107"),
            (r#"{"device":"d","url":"u"}"#, 200, "\"code\":107"),
            (r#"{"device":"d","url":"u","token":"t","ttl":-1}"#, 400, "\"code\":400"),
        ] {
            let (said, text) = wake(body).unwrap_err();
            assert_eq!(said, status, "{body}");
            assert!(text.contains(part), "{text}");
        }
        let long = "x".repeat(DEVICE_ID_BYTES_MAX + 1);
        let body = format!(r#"{{"device":"{long}","url":"u","token":"t"}}"#);
        assert_eq!(wake(&body).unwrap_err().0, 200);
        assert_eq!(parse("wake", "GET", b"{}").unwrap_err().status, 405);
        assert_eq!(parse("watchers", "POST", br#"{"limit":0}"#).unwrap_err().status, 200);
        assert!(matches!(
            parse("watchers", "POST", b"{}"),
            Ok(WatchCall::Watchers { after: None, limit: 100 })
        ));
        assert!(is_method("wake"));
        assert!(!is_method("publish") && !is_method(""));
    }

    #[test]
    fn responses_have_the_shape_of_the_api() {
        for (status, text) in [
            (WakeStatus::Sent, r#"{"result":{"status":"sent"}}"#),
            (WakeStatus::NoWatcher, r#"{"result":{"status":"no_watcher"}}"#),
        ] {
            assert_eq!(String::from_utf8(wake_response(status)).unwrap(), text);
        }
        let refused = String::from_utf8(wake_response(WakeStatus::Refused)).unwrap();
        assert!(refused.contains("\"code\":106"), "{refused}");
        let watcher = Watcher {
            device: Name::from("d"),
            lease_age_ms: 1_500,
            heartbeat_age_ms: 500,
            connected: true,
        };
        let page = WatcherPage { watchers: vec![watcher], total: 9, more: true };
        assert_eq!(
            String::from_utf8(watchers_response(&page)).unwrap(),
            concat!(
                r#"{"result":{"watchers":[{"device":"d","lease_age":1.5,"last_heartbeat_age":0.5,"#,
                r#""connected":true}],"total":9,"after":"d"}}"#
            )
        );
        assert_eq!(release_response(true), br#"{"result":{"released":true}}"#);
    }
}
