//! Every code that a client is told, in one table: why a request failed, a subscription ended, a connection ended.
//!
//! The numbers and texts are the Centrifuge protocol's (centrifuge `errors.go`, `unsubscribe.go`,
//! `disconnect.go`) and RFC 6455's (section 7.4). Some of them this server has no occasion for, and
//! the table says so. `tiderace codes` prints it.

/// An error reply of the Centrifuge protocol (centrifuge `errors.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode {
    /// The code on the wire.
    pub code: u16,
    /// The message on the wire.
    pub message: &'static str,
    /// Whether the client may try the same again.
    pub temporary: bool,
}

/// Why the server ends a subscription: the code and text of the unsubscribe push (centrifuge
/// `unsubscribe.go`). Clients subscribe again by themselves after 2500 and above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribed {
    /// The code on the wire.
    pub code: u16,
    /// The reason on the wire; some clients insist on one.
    pub reason: &'static str,
}

/// Why a connection ends: a WebSocket close code with its reason (RFC 6455 section 7.4, centrifuge
/// `disconnect.go`).
///
/// Of the Centrifuge codes, 3000-3499, 4000-4499 and 5000 up tell the client to reconnect;
/// 3500-3999 and 4500-4999 tell it not to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseReason {
    /// The close code on the wire.
    pub code: u16,
    /// The reason on the wire, below 124 bytes.
    pub reason: &'static str,
}

impl CloseReason {
    /// The code that a plain handler is told of a connection that broke, or that its peer ended
    /// without a close frame (RFC 6455 section 7.1.5). Never sent.
    pub const ABNORMAL_CODE: u16 = 1006;

    /// Whether a Centrifuge client reconnects after this code.
    pub const fn reconnects(self) -> bool {
        matches!(self.code, 3000..=3499 | 4000..=4499 | 5000..)
    }
}

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where it is told: `error`, `unsubscribe` or `close`.
    pub kind: &'static str,
    /// The constant's name, such as `SLOW`.
    pub name: &'static str,
    /// The code on the wire.
    pub code: u16,
    /// The text on the wire.
    pub text: &'static str,
    /// What a client of the Centrifuge protocol does about it.
    pub client: &'static str,
    /// When it is told, as a sentence; leading space as rustdoc wants it.
    pub meaning: &'static str,
}

/// The end of the meaning of a code that the server has no occasion for.
const NEVER_TOLD: &str = " Never told by the server itself.";

impl Line {
    /// Whether the server tells it by itself. What it does not tell may still come from a backend
    /// or an embedder that names it.
    pub fn is_told(&self) -> bool {
        !self.meaning.ends_with(NEVER_TOLD)
    }
}

impl ErrorCode {
    const fn new(code: u16, message: &'static str) -> Self {
        Self { code, message, temporary: matches!(code, 100 | 111 | 113) }
    }

    const fn line(self, name: &'static str, meaning: &'static str) -> Line {
        let client = if self.temporary { "may try again" } else { "fails the request" };
        Line { kind: "error", name, code: self.code, text: self.message, client, meaning }
    }
}

impl Unsubscribed {
    const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason }
    }

    const fn line(self, name: &'static str, meaning: &'static str) -> Line {
        let client = if self.code >= 2500 { "subscribes again" } else { "stays unsubscribed" };
        Line { kind: "unsubscribe", name, code: self.code, text: self.reason, client, meaning }
    }
}

impl CloseReason {
    const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason }
    }

    const fn line(self, name: &'static str, meaning: &'static str) -> Line {
        let client = match self.code {
            ..3000 => "up to the client",
            _ if self.reconnects() => "reconnects",
            _ => "stays away",
        };
        Line { kind: "close", name, code: self.code, text: self.reason, client, meaning }
    }
}

macro_rules! table {
    ($($type:ident { $($(#[doc = $doc:literal])+ $name:ident = $code:literal, $text:literal;)* })*) => {
        $(impl $type {
            $($(#[doc = $doc])+ pub const $name: Self = Self::new($code, $text);)*

            /// Every one of the table.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        })*

        /// The table.
        pub const TABLE: &[Line] = &[$($($type::$name.line(stringify!($name), concat!($($doc),+)),)*)*];
    };
}

table! {
ErrorCode {
    /// A bug or a failed resource on our side.
    INTERNAL = 100, "internal server error";
    /// The request needs an identity that the connection does not have.
    /// Never told by the server itself.
    UNAUTHORIZED = 101, "unauthorized";
    /// The channel's namespace does not exist.
    UNKNOWN_CHANNEL = 102, "unknown channel";
    /// The connection may not do this.
    PERMISSION_DENIED = 103, "permission denied";
    /// No such method.
    METHOD_NOT_FOUND = 104, "method not found";
    /// The connection is subscribed to the channel.
    ALREADY_SUBSCRIBED = 105, "already subscribed";
    /// A configured limit is reached.
    LIMIT_EXCEEDED = 106, "limit exceeded";
    /// The request misses something or holds something that cannot be.
    BAD_REQUEST = 107, "bad request";
    /// The feature is not enabled here.
    NOT_AVAILABLE = 108, "not available";
    /// The token has expired; the client gets a new one and tries again.
    TOKEN_EXPIRED = 109, "token expired";
    /// The token is valid, but what it grants is over already.
    EXPIRED = 110, "expired";
    /// More requests than may be in flight.
    TOO_MANY_REQUESTS = 111, "too many requests";
    /// The position is not in the stream any more.
    UNRECOVERABLE_POSITION = 112, "unrecoverable position";
    /// The stream changed between two pages.
    /// Never told by the server itself.
    CONCURRENT_PAGINATION = 113, "concurrent pagination";
}

Unsubscribed {
    /// The backend ended it.
    SERVER = 2000, "server unsubscribe";
    /// The subscription's position in the stream was lost.
    INSUFFICIENT_STATE = 2500, "insufficient state";
    /// The subscription was not refreshed in time.
    EXPIRED = 2501, "expired";
    /// What was granted does not hold any more; clients get a new token.
    /// Never told by the server itself.
    STATE_INVALIDATED = 2502, "state invalidated";
}

CloseReason {
    /// Answer to a peer that closed normally.
    NORMAL = 1000, "";
    /// The server goes away; to plain WebSocket handlers.
    GOING_AWAY = 1001, "going away";
    /// The peer broke RFC 6455.
    PROTOCOL_ERROR = 1002, "protocol error";
    /// A data type that this endpoint does not take.
    /// Never told by the server itself.
    UNSUPPORTED_DATA = 1003, "unsupported data";
    /// A text message that is not UTF-8.
    INVALID_PAYLOAD = 1007, "invalid UTF-8";
    /// A message above the size limit.
    MESSAGE_TOO_BIG = 1009, "message too big";
    /// A bug or a failed resource on our side; to plain WebSocket handlers.
    INTERNAL = 1011, "internal error";
    /// A plain handler's peer from which nothing came for too long.
    SILENT = 1011, "keepalive timeout";
    /// A plain handler's peer that does not read; it may try again later.
    TRY_AGAIN_LATER = 1013, "slow consumer";
    /// The connection was closed by its own side.
    CONNECTION_CLOSED = 3000, "connection closed";
    /// The server shuts down.
    SHUTDOWN = 3001, "shutdown";
    /// A bug or a failed resource on our side.
    INTERNAL_SERVER_ERROR = 3004, "internal server error";
    /// The connection token expired.
    CONNECTION_EXPIRED = 3005, "connection expired";
    /// A subscription token expired.
    SUBSCRIPTION_EXPIRED = 3006, "subscription expired";
    /// The outbound queue was over its bound.
    SLOW = 3008, "slow";
    /// Writing to the peer failed, so that nothing reaches it any more.
    /// Never told by the server itself.
    WRITE_ERROR = 3009, "write error";
    /// The client's position in a stream was lost.
    INSUFFICIENT_STATE = 3010, "insufficient state";
    /// The backend asked the client to reconnect.
    /// Never told by the server itself.
    FORCE_RECONNECT = 3011, "force reconnect";
    /// The client did not answer a ping in time.
    NO_PONG = 3012, "no pong";
    /// The client sent more than it may.
    TOO_MANY_REQUESTS = 3013, "too many requests";
    /// What was granted to the client does not hold any more.
    /// Never told by the server itself.
    STATE_INVALIDATED = 3014, "state invalidated";
    /// The connection token is malformed or wrongly signed.
    INVALID_TOKEN = 3500, "invalid token";
    /// The client broke the Centrifuge protocol.
    BAD_REQUEST = 3501, "bad request";
    /// The client did not send `connect` in time.
    STALE = 3502, "stale";
    /// The backend closed the connection for good.
    FORCE_NO_RECONNECT = 3503, "force disconnect";
    /// The user has too many connections.
    CONNECTION_LIMIT = 3504, "connection limit";
    /// The connection has too many channels.
    CHANNEL_LIMIT = 3505, "channel limit";
    /// A message was not sent as the transport demands.
    /// Never told by the server itself.
    INAPPROPRIATE_PROTOCOL = 3506, "inappropriate protocol";
    /// The client may not connect.
    PERMISSION_DENIED = 3507, "permission denied";
    /// The feature is not available here.
    /// Never told by the server itself.
    NOT_AVAILABLE = 3508, "not available";
    /// The client caused too many errors.
    /// Never told by the server itself.
    TOO_MANY_ERRORS = 3509, "too many errors";
}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_the_protocols() {
        let errors: Vec<u16> = ErrorCode::ALL.iter().map(|error| error.code).collect();
        assert_eq!(errors, Vec::from_iter(100..=113));
        let temporary = ErrorCode::ALL.iter().filter(|error| error.temporary);
        assert_eq!(temporary.map(|error| error.code).collect::<Vec<_>>(), [100, 111, 113]);
        let ends: Vec<u16> = Unsubscribed::ALL.iter().map(|end| end.code).collect();
        assert_eq!(ends, [2000, 2500, 2501, 2502]);
        let closes = CloseReason::ALL.iter().map(|reason| reason.code);
        let closes: Vec<u16> = closes.filter(|code| *code >= 3000).collect();
        let reconnecting = [3000, 3001, 3004, 3005, 3006, 3008, 3009, 3010, 3011, 3012, 3013, 3014];
        assert_eq!(closes[..reconnecting.len()], reconnecting);
        assert_eq!(closes[reconnecting.len()..], Vec::from_iter(3500..=3509));
    }

    #[test]
    fn reasons_fit_a_control_frame_and_reconnect_by_range() {
        assert!(CloseReason::ALL.iter().all(|reason| reason.reason.len() < 124));
        for reason in CloseReason::ALL {
            assert_eq!(reason.reconnects(), (3000..3500).contains(&reason.code), "{reason:?}");
        }
    }

    #[test]
    fn every_line_says_when_and_what_then() {
        assert_eq!(
            TABLE.len(),
            ErrorCode::ALL.len() + Unsubscribed::ALL.len() + CloseReason::ALL.len()
        );
        assert!(TABLE.is_sorted_by(|one, next| one.kind != next.kind || one.code <= next.code));
        for line in TABLE {
            assert!(line.meaning.starts_with(' ') && line.meaning.ends_with('.'), "{line:?}");
            let has_text = !line.text.is_empty() || line.code == CloseReason::NORMAL.code;
            assert!(has_text && !line.client.is_empty(), "{line:?}");
        }
    }
}
