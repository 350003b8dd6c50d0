//! The two protocols that load can speak: a raw message per delivery, or Centrifuge JSON.

use super::centrifuge;
use super::connections::Outbox;
use super::stamp::{self, STAMP_BYTES};
use super::wire::{BINARY, TEXT};

/// What is spoken over the WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Protocol {
    /// Centrifuge client protocol, JSON: connect, subscribe, publish.
    Centrifuge,
    /// Raw messages: a server that echoes, or that delivers what one client sends to all, the
    /// sender included.
    Plain,
}

impl Protocol {
    /// The stamp of one delivery: at the start of a raw payload, at the start of the publication's
    /// data.
    pub(super) fn stamp(self, delivery: &[u8]) -> Option<u64> {
        match self {
            Self::Plain => stamp::decode(delivery),
            Self::Centrifuge => {
                const DATA: &[u8] = b"\"data\":\"";
                let at = memchr::memmem::find(delivery, DATA)?;
                stamp::decode(&delivery[at + DATA.len()..])
            }
        }
    }
}

/// One message to publish, encoded once; stamp and command id are patched in place for every send.
pub(super) struct Message {
    bytes: Vec<u8>,
    opcode: u8,
    /// Where the ten digits of the command id stand.
    id_at: Option<usize>,
    stamp_at: usize,
    id: u32,
}

/// Command ids have ten digits from the start, so that patching never moves a byte.
const FIRST_ID: u32 = 1_000_000_000;

impl Message {
    /// A message whose payload has `size` bytes, at least [`STAMP_BYTES`], for `channel` if the
    /// protocol has channels.
    pub(super) fn new(protocol: Protocol, channel: &str, size: usize) -> Self {
        let payload = "0".repeat(STAMP_BYTES) + &"x".repeat(size.saturating_sub(STAMP_BYTES));
        match protocol {
            Protocol::Plain => Self {
                bytes: payload.into_bytes(),
                opcode: BINARY,
                id_at: None,
                stamp_at: 0,
                id: FIRST_ID,
            },
            Protocol::Centrifuge => {
                let channel = serde_json::Value::from(channel);
                let head = format!(r#"{{"id":{FIRST_ID},"publish":{{"channel":{channel},"data":""#);
                Self {
                    stamp_at: head.len(),
                    id_at: Some(r#"{"id":"#.len()),
                    bytes: (head + &payload + r#""}}"#).into_bytes(),
                    opcode: TEXT,
                    id: FIRST_ID,
                }
            }
        }
    }

    /// Queues the message, meant to be sent at `intended`.
    pub(super) fn send(&mut self, intended: u64, outbox: &mut Outbox) {
        self.bytes[self.stamp_at..][..STAMP_BYTES].copy_from_slice(&stamp::encode(intended));
        if let Some(at) = self.id_at {
            let mut id = self.id;
            for digit in self.bytes[at..at + 10].iter_mut().rev() {
                *digit = b'0' + (id % 10) as u8;
                id /= 10;
            }
            self.id = self.id.checked_add(1).unwrap_or(FIRST_ID);
        }
        outbox.push(self.opcode, &self.bytes);
    }
}

/// The first message of a connection after the upgrade, and how many replies make it established.
pub(super) fn greeting(
    protocol: Protocol,
    token: Option<&str>,
    channel: Option<&str>,
) -> Option<(Vec<u8>, u8)> {
    match protocol {
        Protocol::Plain => None,
        Protocol::Centrifuge => {
            Some((centrifuge::greeting(token, channel), 1 + u8::from(channel.is_some())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_command_is_valid_and_carries_id_and_stamp() {
        let mut message = Message::new(Protocol::Centrifuge, "a\"b", 20);
        let mut outbox = Outbox::new(1);
        message.send(1, &mut outbox);
        message.send(255, &mut outbox);
        let command: serde_json::Value = serde_json::from_slice(&message.bytes).unwrap();
        assert_eq!(command["id"], FIRST_ID + 1);
        assert_eq!(command["publish"]["channel"], "a\"b");
        assert_eq!(command["publish"]["data"], "00000000000000ffxxxx");
    }

    #[test]
    fn the_stamp_is_found_in_both_protocols() {
        let push = br#"{"push":{"channel":"c","pub":{"data":"00000000000000ffxxxx","offset":3}}}"#;
        assert_eq!(Protocol::Centrifuge.stamp(push), Some(255));
        assert_eq!(Protocol::Plain.stamp(b"00000000000000ffxxxx"), Some(255));
        assert_eq!(Protocol::Plain.stamp(b"hello"), None);
        assert_eq!(Protocol::Centrifuge.stamp(br#"{"push":{}}"#), None);
    }
}
