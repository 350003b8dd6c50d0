//! What clients of one-way transports say, in requests beside their stream (centrifuge `emulation.go`).

use std::fmt;

use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::handler::ConnectionRef;

/// Names one connection to requests that speak for it. Who does not know it cannot guess it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionId {
    /// Where the connection is.
    pub connection: ConnectionRef,
    /// Drawn at random for it alone.
    pub secret: [u8; 16],
}

impl SessionId {
    /// Parses what its `Display` wrote; `None` for everything else.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 52 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let connection = ConnectionRef {
            shard: u16::from_str_radix(&text[..4], 16).ok()?,
            slot: u32::from_str_radix(&text[4..12], 16).ok()?,
            generation: u32::from_str_radix(&text[12..20], 16).ok()?,
        };
        let secret = u128::from_str_radix(&text[20..], 16).ok()?.to_be_bytes();
        Some(Self { connection, secret })
    }

    /// Whether this is the secret, at no cost that would tell how much of it is right.
    pub fn opens(&self, secret: &[u8; 16]) -> bool {
        self.secret.ct_eq(secret).into()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConnectionRef { shard, slot, generation } = self.connection;
        let secret = u128::from_be_bytes(self.secret);
        write!(f, "{shard:04x}{slot:08x}{generation:08x}{secret:032x}")
    }
}

/// Never shows the secret.
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionId").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// The body of a request that speaks for a connection.
#[derive(Debug, Deserialize)]
pub struct EmulationRequest {
    /// As in the connect reply.
    #[serde(default)]
    pub session: String,
    /// As in the connect reply.
    #[serde(default)]
    pub node: String,
    /// Commands, as in one WebSocket message.
    pub data: String,
}

impl EmulationRequest {
    /// Parses a body.
    ///
    /// # Errors
    /// What is wrong with it, in the terms of the sender.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body)
            .map_err(|error| format!("the body is not {{session, node, data}}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_are_parsed_as_they_are_written() {
        let connection = ConnectionRef { shard: 1, slot: 0xabcd, generation: u32::MAX };
        let id = SessionId { connection, secret: *b"0123456789abcdef" };
        let text = id.to_string();
        assert_eq!(SessionId::parse(&text), Some(id));
        assert!(id.opens(b"0123456789abcdef") && !id.opens(b"0123456789abcdeF"));
        assert!(!format!("{id:?}").contains("3031"), "the secret is in no log");
        for wrong in [&text[1..], &format!("{text}0"), &text.to_uppercase(), "", &"+".repeat(52)] {
            assert_eq!(SessionId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn bodies_are_parsed_or_said_to_be_wrong() {
        let request = EmulationRequest::parse(br#"{"session":"s","node":"n","data":"{}\n{}"}"#);
        let EmulationRequest { session, node, data } = request.unwrap();
        assert_eq!((&*session, &*node, &*data), ("s", "n", "{}\n{}"));
        for wrong in [&b""[..], b"[]x", b"{}", br#"{"data":{}}"#, b"\xff"] {
            assert!(EmulationRequest::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
