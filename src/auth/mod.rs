//! Who somebody is and whether a secret is the right one. PURE: no clock, no sockets.

pub mod claims;
pub mod devices;
pub mod key_set;
mod keys;
pub mod origin;
pub mod permissions;
mod signed;
mod terms;
pub mod tokens;

use subtle::ConstantTimeEq;

pub use claims::{ConnectionClaims, SubscriptionClaims, TokenFacts};
pub use devices::{Device, DeviceTable, Devices, SignedDevices, Verdict};
pub use key_set::KeySet;
pub use signed::{Unverified, inspect, sign};
pub use terms::{SubscribeOverrides, Terms};
pub use tokens::{TokenError, TokenOptions, Tokens};

/// Whether `given` is the `expected` secret, in a time that tells nothing but its length.
///
/// An empty expected secret matches nothing: it means that none is configured.
pub fn keys_match(expected: &str, given: &[u8]) -> bool {
    !expected.is_empty() && bool::from(expected.as_bytes().ct_eq(given))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_only_when_equal_and_configured() {
        assert!(keys_match("secret", b"secret"));
        for wrong in [&b""[..], b"secre", b"secret ", b"Secret", b"\xff"] {
            assert!(!keys_match("secret", wrong));
        }
        assert!(!keys_match("", b""));
    }
}
