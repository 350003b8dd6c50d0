//! Encoded bytes on their way out: a frame is one publication, a segment is what one send reads.

use std::{ops::Deref, rc::Rc, sync::Arc};

use bytes::Bytes;

use crate::codec::websocket::{Opcode, SERVER_HEADER_BYTES_MAX, put_header};

/// One publication in one wire format, encoded once at the channel's home and shared by all shards.
///
/// The WebSocket header of the frame sent alone stands right before the payload, so that a
/// publication that is alone in its turn goes out by reference on every shard.
#[derive(Clone, Debug)]
pub struct Frame {
    bytes: Bytes,
    start: usize,
}

impl Frame {
    /// Encodes a frame whose payload is what `write` appends.
    pub fn encode(opcode: Opcode, capacity: usize, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = Vec::with_capacity(SERVER_HEADER_BYTES_MAX + capacity);
        bytes.resize(SERVER_HEADER_BYTES_MAX, 0);
        write(&mut bytes);
        let start = put_header(&mut bytes, SERVER_HEADER_BYTES_MAX, opcode);
        Self { bytes: Bytes::from(bytes), start }
    }

    /// The publication without what a transport puts around it.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[SERVER_HEADER_BYTES_MAX..]
    }

    /// A part of the payload, which keeps the whole frame alive.
    pub fn part(&self, range: std::ops::Range<usize>) -> Bytes {
        let from = SERVER_HEADER_BYTES_MAX;
        self.bytes.slice(from + range.start..from + range.end)
    }

    /// The publication as one WebSocket frame.
    pub fn wire(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The frame as a segment of its own, without a copy.
    pub fn into_segment(self) -> Range {
        let (from, to) = (self.start, self.bytes.len());
        Range::new(Segment::from(self.bytes), from, to)
    }
}

/// Immutable bytes at a stable address, shared inside one shard by a count that is not atomic.
///
/// The ring lends them to the kernel: nothing here may ever move or change the bytes while a
/// clone exists.
#[derive(Clone, Debug)]
pub struct Segment(Rc<Inner>);

#[derive(Debug)]
enum Inner {
    Own(Vec<u8>),
    Frame(Bytes),
    Tagged(Segment, Tag),
}

/// Which publications a segment is, where a slow receiver may lose some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The shard's number of the channel.
    pub channel: u32,
    /// Which tenant of that number.
    pub generation: u32,
    /// What the publication stands for, if it is one.
    pub key: Option<Arc<str>>,
    /// How many publications it is.
    pub publications: u32,
}

impl From<Vec<u8>> for Segment {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Rc::new(Inner::Own(bytes)))
    }
}

impl From<Bytes> for Segment {
    fn from(bytes: Bytes) -> Self {
        Self(Rc::new(Inner::Frame(bytes)))
    }
}

impl Segment {
    /// Which publications it is, if a receiver may lose them.
    pub fn tag(&self) -> Option<&Tag> {
        match &*self.0 {
            Inner::Tagged(_, tag) => Some(tag),
            Inner::Own(_) | Inner::Frame(_) => None,
        }
    }

    /// How many clones live on this shard, this one included; a send in flight counts as one.
    pub fn holders(&self) -> usize {
        Rc::strong_count(&self.0)
    }
}

impl Deref for Segment {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.0 {
            Inner::Own(bytes) => bytes,
            Inner::Frame(bytes) => bytes,
            Inner::Tagged(segment, _) => segment,
        }
    }
}

/// A part of a segment: what one entry of a connection's queue holds.
#[derive(Clone, Debug)]
pub struct Range {
    /// The bytes.
    pub segment: Segment,
    /// First byte.
    pub from: u32,
    /// One past the last byte.
    pub to: u32,
}

impl Range {
    /// A range of `segment`; a segment is far below 4 GiB, since messages are bounded.
    pub fn new(segment: Segment, from: usize, to: usize) -> Self {
        let to = u32::try_from(to).expect("segments are below 4 GiB");
        Self { segment, from: u32::try_from(from).expect("from is before to"), to }
    }

    /// All of these bytes.
    pub fn whole(bytes: Vec<u8>) -> Self {
        let to = bytes.len();
        Self::new(Segment::from(bytes), 0, to)
    }

    /// The same bytes, of which a slow receiver may be deprived.
    #[must_use]
    pub fn tagged(self, tag: Tag) -> Self {
        Self { segment: Segment(Rc::new(Inner::Tagged(self.segment, tag))), ..self }
    }

    /// The same bytes, of which nobody may be deprived.
    #[must_use]
    pub fn untagged(self) -> Self {
        match &*self.segment.0 {
            Inner::Tagged(segment, _) => Self { segment: segment.clone(), ..self },
            Inner::Own(_) | Inner::Frame(_) => self,
        }
    }

    /// How many bytes this is.
    pub fn len(&self) -> usize {
        (self.to - self.from) as usize
    }

    /// Whether this is the same part of the same segment, not merely equal bytes.
    pub fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.segment.0, &other.segment.0)
            && (self.from, self.to) == (other.from, other.to)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.segment[self.from as usize..self.to as usize]
    }
}
