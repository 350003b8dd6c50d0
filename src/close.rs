//! Why a connection ends: the code and text that the peer is told.

/// A WebSocket close code with its reason (RFC 6455 section 7.4; Centrifuge `disconnect.go`).
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
    const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason }
    }

    /// Whether a Centrifuge client reconnects after this code.
    pub const fn reconnects(self) -> bool {
        matches!(self.code, 3000..=3499 | 4000..=4499 | 5000..)
    }
}

/// What a plain handler is told of a connection that broke, or that its peer ended without a close
/// frame (RFC 6455 section 7.1.5). Never sent.
pub const ABNORMAL_CODE: u16 = 1006;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        $($(#[$doc])* pub const $name: CloseReason = CloseReason::new($code, $text);)*

        /// Every reason of this table, for metrics and documentation.
        pub const ALL: &[CloseReason] = &[$($name),*];
    };
}

reasons! {
    /// Answer to a peer that closed normally.
    NORMAL = 1000, "";
    /// The server goes away; to plain WebSocket handlers.
    GOING_AWAY = 1001, "going away";
    /// The peer broke RFC 6455.
    PROTOCOL_ERROR = 1002, "protocol error";
    /// A data type that this endpoint does not take.
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
    /// Writing to the peer failed.
    WRITE_ERROR = 3009, "write error";
    /// The client's position in a stream was lost.
    INSUFFICIENT_STATE = 3010, "insufficient state";
    /// The backend asked the client to reconnect.
    FORCE_RECONNECT = 3011, "force reconnect";
    /// The client did not answer a ping in time.
    NO_PONG = 3012, "no pong";
    /// The client sent more than it may.
    TOO_MANY_REQUESTS = 3013, "too many requests";
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
    INAPPROPRIATE_PROTOCOL = 3506, "inappropriate protocol";
    /// The client may not connect.
    PERMISSION_DENIED = 3507, "permission denied";
    /// The feature is not available here.
    NOT_AVAILABLE = 3508, "not available";
    /// The client caused too many errors.
    TOO_MANY_ERRORS = 3509, "too many errors";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_fit_a_control_frame_and_reconnect_by_range() {
        for reason in ALL {
            assert!(reason.reason.len() < 124);
        }
        assert!(SLOW.reconnects() && SHUTDOWN.reconnects());
        assert!(!INVALID_TOKEN.reconnects() && !CONNECTION_LIMIT.reconnects());
        assert!(!PROTOCOL_ERROR.reconnects(), "1002 is for the client library to judge");
    }
}
