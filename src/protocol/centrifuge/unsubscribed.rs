//! Why the server ends a subscription: the code and text of the unsubscribe push.

/// An unsubscribe code with its reason (centrifuge `unsubscribe.go`). Clients subscribe again by
/// themselves after 2500 and above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribed {
    /// The code on the wire.
    pub code: u16,
    /// The reason on the wire; some clients insist on one.
    pub reason: &'static str,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        impl Unsubscribed {
            $($(#[$doc])* pub const $name: Self = Self { code: $code, reason: $text };)*

            /// Every reason of this table.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

reasons! {
    /// The backend ended it.
    SERVER = 2000, "server unsubscribe";
    /// The subscription's position in the stream was lost.
    INSUFFICIENT_STATE = 2500, "insufficient state";
    /// The subscription was not refreshed in time.
    EXPIRED = 2501, "expired";
    /// What was granted does not hold any more; clients get a new token.
    STATE_INVALIDATED = 2502, "state invalidated";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_protocols_and_have_reasons() {
        let codes: Vec<u16> = Unsubscribed::ALL.iter().map(|reason| reason.code).collect();
        assert_eq!(codes, [2000, 2500, 2501, 2502]);
        assert!(Unsubscribed::ALL.iter().all(|reason| !reason.reason.is_empty()));
    }
}
