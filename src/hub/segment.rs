//! What one turn brings to a list of subscribers, on its way to one range of bytes for all of them.

use super::{Published, encode::as_json};
use crate::{
    codec::transport::Transport,
    frame::{Frame, Range},
    limits::SEGMENT_BYTES_MAX,
};

/// The publications of a turn for one list.
#[derive(Debug)]
pub(super) struct Open {
    /// The list's channel.
    pub(super) channel: u32,
    /// The list's place among the channel's lists.
    pub(super) list: u32,
    pub(super) publications: u32,
    transport: Transport,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Sealed before the turn's end.
    Sealed,
    /// Alone, and on the wire as its home encoded it: no copy.
    One(Frame),
    Run(Vec<u8>),
}

impl Open {
    /// A segment with its first publication.
    pub(super) fn begin(
        channel: u32,
        list: u32,
        transport: Transport,
        published: &Published,
        frame: &Frame,
    ) -> Self {
        let content = if transport.carries_frames() {
            Content::One(frame.clone())
        } else {
            let mut run = transport.begin(frame.wire().len() + 16);
            put(transport, &mut run, published, frame);
            Content::Run(run)
        };
        Self { channel, list, publications: 1, transport, content }
    }

    /// Adds a publication.
    pub(super) fn append(&mut self, published: &Published, frame: &Frame) {
        self.publications += 1;
        if let Content::One(one) = &self.content {
            let mut run = self.transport.begin(2 * (one.wire().len() + frame.wire().len()));
            match self.transport {
                Transport::Plain => run.extend_from_slice(one.wire()),
                transport => transport.put(&mut run, one.payload()),
            }
            self.content = Content::Run(run);
        }
        let Content::Run(run) = &mut self.content else {
            unreachable!("an open segment has content")
        };
        put(self.transport, run, published, frame);
    }

    /// Whether `frame` would make it too long.
    pub(super) fn is_full(&self, frame: &Frame) -> bool {
        let bytes = match &self.content {
            Content::Sealed => return false,
            Content::One(one) => one.wire().len(),
            Content::Run(run) => run.len(),
        };
        bytes + frame.wire().len() > SEGMENT_BYTES_MAX
    }

    /// Whether [`seal`](Self::seal) was called.
    pub(super) fn is_sealed(&self) -> bool {
        matches!(self.content, Content::Sealed)
    }

    /// The bytes; `None` the second time.
    pub(super) fn seal(&mut self) -> Option<Range> {
        match std::mem::replace(&mut self.content, Content::Sealed) {
            Content::Sealed => None,
            Content::One(frame) => Some(frame.into_segment()),
            Content::Run(mut run) => {
                let from = self.transport.finish(&mut run);
                let to = run.len();
                Some(Range::new(run.into(), from, to))
            }
        }
    }
}

fn put(transport: Transport, run: &mut Vec<u8>, published: &Published, frame: &Frame) {
    match transport {
        Transport::Events => {
            let payload = as_json(frame.payload(), published.payload);
            Transport::put_event(run, published.position(), &payload);
        }
        Transport::Plain => run.extend_from_slice(frame.wire()),
        transport => transport.put(run, frame.payload()),
    }
}
