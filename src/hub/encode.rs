//! A publication as its home encodes it: once per format, whatever the number of subscribers.

use std::{borrow::Cow, ops::Range};

use data_encoding::BASE64;

use super::{Format, Position, Publication};
use crate::{
    codec::websocket::Opcode,
    frame::Frame,
    protocol::{
        Name, Payload,
        centrifuge::{self, PublicationFields},
    },
};

/// Encodes for Centrifuge clients; the range is the publication object within the payload, which
/// is what a history keeps.
pub(super) fn centrifuge(
    publication: &Publication,
    position: Option<(Position, &str)>,
) -> (Frame, Range<usize>) {
    let Publication { channel, data, payload, info, extra } = publication;
    let data = &as_json(data, *payload)[..];
    let info = info.as_deref();
    // Who got nothing of the stream yet learns with its first publication which one it is.
    let epoch = position
        .filter(|(position, _)| position.offset == 1)
        .map(|(position, prefix)| position.epoch.text(prefix));
    let fields = PublicationFields {
        data,
        info,
        offset: position.map_or(0, |(position, _)| position.offset),
        epoch: epoch.as_deref(),
        tags: extra.as_ref().map(|extra| &extra.tags).filter(|tags| !tags.is_empty()),
    };
    let mut object = 0..0;
    let capacity = 96 + channel.len() + data.len() + info.map_or(0, <[u8]>::len);
    let frame = Frame::encode(Opcode::Text, capacity, |out| {
        let before = out.len();
        let range = centrifuge::encode_publication(out, channel, &fields);
        object = range.start - before..range.end - before;
    });
    (frame, object)
}

/// A payload for clients that speak JSON: text is a string, bytes are one in base64.
pub(super) fn as_json(data: &[u8], payload: Payload) -> Cow<'_, [u8]> {
    match payload {
        Payload::Json => Cow::Borrowed(data),
        Payload::Text => {
            let text = String::from_utf8_lossy(data);
            Cow::Owned(serde_json::to_vec(&text).expect("a string is always JSON"))
        }
        Payload::Binary => Cow::Owned(format!("\"{}\"", BASE64.encode(data)).into_bytes()),
    }
}

/// Encodes for plain handlers: the payload alone.
pub(super) fn plain(publication: &Publication) -> Frame {
    let opcode = match publication.payload {
        Payload::Binary => Opcode::Binary,
        Payload::Json | Payload::Text => Opcode::Text,
    };
    let data = &publication.data;
    Frame::encode(opcode, data.len(), |out| out.extend_from_slice(data))
}

/// Encodes a message to connections, by the number of the format.
pub(super) fn message(data: &[u8], payload: Payload) -> [Frame; Format::ALL.len()] {
    let json = &as_json(data, payload)[..];
    let push = Frame::encode(Opcode::Text, json.len() + 48, |out| {
        centrifuge::encode_message(out, json);
    });
    let opcode = if payload == Payload::Binary { Opcode::Binary } else { Opcode::Text };
    [push, Frame::encode(opcode, data.len(), |out| out.extend_from_slice(data))]
}

/// Encodes that somebody came or went.
pub(super) fn membership(channel: &Name, came: bool, info: &[u8]) -> Frame {
    let capacity = 64 + channel.len() + info.len();
    Frame::encode(Opcode::Text, capacity, |out| {
        centrifuge::encode_membership(out, channel, came, info);
    })
}

/// Which encodings are wanted, by the number of the format.
pub(super) type WantedFormats = [bool; Format::ALL.len()];
