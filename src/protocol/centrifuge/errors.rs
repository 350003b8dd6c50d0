//! The error replies of the Centrifuge protocol (centrifuge `errors.go`).

use crate::protocol::ErrorCode;

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $message:literal, $temporary:literal;)*) => {
        impl ErrorCode {
            $($(#[$doc])*
            pub const $name: Self = Self { code: $code, message: $message, temporary: $temporary };)*

            /// Every error of this table, for metrics and documentation.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

errors! {
    /// A bug or a failed resource on our side.
    INTERNAL = 100, "internal server error", true;
    /// The request needs an identity that the connection does not have.
    UNAUTHORIZED = 101, "unauthorized", false;
    /// The channel's namespace does not exist.
    UNKNOWN_CHANNEL = 102, "unknown channel", false;
    /// The connection may not do this.
    PERMISSION_DENIED = 103, "permission denied", false;
    /// No such method.
    METHOD_NOT_FOUND = 104, "method not found", false;
    /// The connection is subscribed to the channel.
    ALREADY_SUBSCRIBED = 105, "already subscribed", false;
    /// A configured limit is reached.
    LIMIT_EXCEEDED = 106, "limit exceeded", false;
    /// The request misses something or holds something that cannot be.
    BAD_REQUEST = 107, "bad request", false;
    /// The feature is not enabled here.
    NOT_AVAILABLE = 108, "not available", false;
    /// The token has expired; the client gets a new one and tries again.
    TOKEN_EXPIRED = 109, "token expired", false;
    /// The token is valid, but what it grants is over already.
    EXPIRED = 110, "expired", false;
    /// More requests than may be in flight.
    TOO_MANY_REQUESTS = 111, "too many requests", true;
    /// The position is not in the stream any more.
    UNRECOVERABLE_POSITION = 112, "unrecoverable position", false;
    /// The stream changed between two pages.
    CONCURRENT_PAGINATION = 113, "concurrent pagination", true;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_run_from_100_and_only_the_protocols_three_are_temporary() {
        for (place, error) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(usize::from(error.code), 100 + place);
            assert!(!error.message.is_empty());
        }
        let temporary: Vec<u16> =
            ErrorCode::ALL.iter().filter(|e| e.temporary).map(|e| e.code).collect();
        assert_eq!(temporary, [100, 111, 113]);
    }
}
