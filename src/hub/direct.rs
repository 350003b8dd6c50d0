//! A message to connections, encoded once per format, and the publication that is for some or counted.

use std::sync::Arc;

use super::{ConnRef, Format, Publication, ReplyTo, ShardId, encode};
use crate::{
    codec::transport::Transport,
    frame::{Frame, Range},
    protocol::Outgoing,
};

/// A message to connections, in every format, shared by all shards.
#[derive(Debug)]
pub struct Parcel {
    frames: [Frame; Format::ALL.len()],
}

impl Parcel {
    /// Encodes a message.
    pub fn new(outgoing: &Outgoing) -> Self {
        Self { frames: encode::message(&outgoing.data, outgoing.payload) }
    }

    /// What a transport puts around it, once per shard; `None` where the transport has no place for
    /// messages beside those of its one channel.
    pub fn range(&self, transport: Transport) -> Option<Range> {
        let [centrifuge, plain] = &self.frames;
        match transport {
            Transport::Events => None,
            Transport::Plain => Some(plain.clone().into_segment()),
            Transport::Websocket => Some(centrifuge.clone().into_segment()),
            transport => {
                let payload = centrifuge.payload();
                let mut run = transport.begin(payload.len() + 16);
                transport.put(&mut run, payload);
                let (from, to) = (transport.finish(&mut run), run.len());
                Some(Range::new(run.into(), from, to))
            }
        }
    }

    /// Bytes that this pins while it waits.
    pub fn cost_bytes(&self) -> usize {
        self.frames.iter().map(|frame| frame.payload().len()).sum()
    }
}

/// A message for connections of one shard.
#[derive(Clone, Debug)]
pub struct Direct {
    /// What.
    pub parcel: Arc<Parcel>,
    /// Only for these; `None`: for all.
    pub to: Option<Vec<ConnRef>>,
    /// Not for this one.
    pub except: Option<(ShardId, ConnRef)>,
    /// Who is told how many got it.
    pub reply: ReplyTo,
}

/// What holds for the delivery of one publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handling {
    /// This connection does not get it.
    pub except: Option<(ShardId, ConnRef)>,
    /// Every shard that it goes to tells this one how many got it.
    pub report: Option<(ShardId, ReplyTo)>,
}

/// A publication that is not simply for everybody in its channel.
#[derive(Debug)]
pub struct Handled {
    /// The publication.
    pub publication: Publication,
    /// How it is delivered.
    pub handling: Handling,
}

/// How far a home could send a publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Shards that it went to; each reports.
    pub shards: u32,
    /// Subscribers of shards that could not take it.
    pub missed: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(outgoing: &Outgoing, transport: Transport) -> Option<String> {
        let range = Parcel::new(outgoing).range(transport)?;
        Some(String::from_utf8_lossy(range.bytes()).into_owned())
    }

    #[test]
    fn each_transport_carries_the_message_in_its_own_way() {
        let text = Outgoing::text("a\nb");
        let push = r#"{"push":{"message":{"data":"a\nb"}}}"#;
        let plain = Parcel::new(&text).range(Transport::Plain).expect("a frame");
        assert_eq!(plain.bytes(), b"\x81\x03a\nb");
        let websocket = wire(&text, Transport::Websocket).expect("a frame");
        assert!(websocket.ends_with(push), "{websocket}");
        let bare = wire(&text, Transport::UniSse).expect("an event");
        assert!(bare.contains("data: {\"message\":{\"data\":\"a\\nb\"}}\n\n"), "{bare}");
        assert_eq!(wire(&text, Transport::Events), None);
        let binary = wire(&Outgoing::binary(&[0xff, 0][..]), Transport::HttpStream);
        let line = r#"{"push":{"message":{"data":"/wA="}}}"#;
        assert!(binary.expect("a line").contains(&format!("{line}\n")));
        let json = Outgoing::json(&[1]).expect("a list is JSON");
        assert!(wire(&json, Transport::Websocket).expect("a frame").contains(r#""data":[1]"#));
    }

    #[test]
    fn receivers_of_one_format_share_its_bytes() {
        let outgoing = Outgoing::text("x".repeat(1_000));
        let parcel = Parcel::new(&outgoing);
        let one = parcel.range(Transport::Plain).expect("a frame");
        let other = parcel.range(Transport::Plain).expect("a frame");
        assert_eq!(one.bytes().as_ptr(), other.bytes().as_ptr());
    }
}
