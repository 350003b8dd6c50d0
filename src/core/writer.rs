//! One connection's outbound queue: what is in flight, what waits, and places kept for answers.

use std::collections::VecDeque;

use crate::{
    frame::{Range, Segment, Tag},
    limits::{SEND_BYTES_MAX, bound},
    mutations::{self, Mutation},
};

/// Entries up to this many bytes together are copied into one send; longer ones go by reference.
const GATHER_BYTES_MAX: usize = bound(32 << 10, 400);

/// The bytes on their way to one peer, in order.
#[derive(Debug, Default)]
pub(super) struct Writer {
    in_flight: Option<Range>,
    sending: bool,
    first: Option<Entry>,
    /// Only while more than one entry waits.
    #[expect(clippy::box_collection, reason = "8 bytes of every idle connection instead of 32")]
    rest: Option<Box<VecDeque<Entry>>>,
    queued_bytes: usize,
    next_place: u32,
    unfilled: u32,
}

#[derive(Debug)]
enum Entry {
    Shared(Range),
    Own(Vec<u8>),
    Place(u32),
}

impl Entry {
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Shared(range) => Some(range.bytes()),
            Self::Own(bytes) => Some(bytes),
            Self::Place(_) => None,
        }
    }
}

/// The ranges that were joined last, and what they became.
///
/// When publications arrive faster than a fan-out goes out, many connections wait with the same
/// ranges: they are copied once for all of these, not once for each.
#[derive(Debug, Default)]
pub(super) struct Joined {
    parts: Vec<Range>,
    whole: Option<Range>,
}

impl Joined {
    /// Lets go of the segments.
    pub(super) fn clear(&mut self) {
        self.parts.clear();
        self.whole = None;
    }
}

/// What was dropped of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) bytes: usize,
    pub(super) publications: u32,
}

/// One send: at most [`SEND_BYTES_MAX`] bytes of a segment.
#[derive(Debug)]
pub(super) struct Send {
    /// The bytes' owner.
    pub(super) segment: Segment,
    /// First byte.
    pub(super) from: u32,
    /// One past the last byte.
    pub(super) to: u32,
}

impl Writer {
    /// Bytes accepted and not yet taken by the kernel.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Queues a shared range.
    pub(super) fn push_shared(&mut self, range: Range) {
        self.queued_bytes += range.len();
        self.push(Entry::Shared(range));
    }

    /// Queues bytes of this connection alone, joined with such bytes at the end of the queue.
    pub(super) fn push_own(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let last = match &mut self.rest {
            Some(rest) => rest.back_mut(),
            None => self.first.as_mut(),
        };
        if let Some(Entry::Own(bytes)) = last {
            let before = bytes.len();
            write(bytes);
            self.queued_bytes += bytes.len() - before;
            return;
        }
        let mut bytes = Vec::new();
        write(&mut bytes);
        self.queued_bytes += bytes.len();
        self.push(Entry::Own(bytes));
    }

    /// Keeps a place for an answer: nothing behind it is sent before [`Writer::fill`].
    pub(super) fn reserve(&mut self) -> u32 {
        let place = self.next_place;
        self.next_place = self.next_place.wrapping_add(1);
        self.unfilled += 1;
        self.push(Entry::Place(place));
        place
    }

    /// Puts an answer into its place; false when the place is gone.
    pub(super) fn fill(&mut self, place: u32, answer: Vec<u8>) -> bool {
        let is_it = |entry: &&mut Entry| matches!(entry, Entry::Place(number) if *number == place);
        let rest = self.rest.iter_mut().flat_map(|rest| rest.iter_mut());
        let Some(entry) = self.first.iter_mut().chain(rest).find(is_it) else { return false };
        self.queued_bytes += answer.len();
        self.unfilled -= 1;
        if mutations::is_on(Mutation::AnswersOutOfPlace) {
            *entry = Entry::Own(Vec::new());
            self.push(Entry::Own(answer));
            return true;
        }
        *entry = Entry::Own(answer);
        true
    }

    /// Places that wait for their answer.
    pub(super) fn unfilled(&self) -> u32 {
        self.unfilled
    }

    /// The next send, when none is in flight and something may go. Call [`Writer::sent`] after it.
    pub(super) fn next_send(&mut self, joined: &mut Joined) -> Option<Send> {
        if self.sending {
            return None;
        }
        if self.in_flight.is_none() {
            self.in_flight = Some(self.take_ready(joined)?);
        }
        let range = self.in_flight.as_ref()?;
        let to = range.to.min(range.from + SEND_BYTES_MAX as u32);
        self.sending = true;
        Some(Send { segment: range.segment.clone(), from: range.from, to })
    }

    fn take_ready(&mut self, last: &mut Joined) -> Option<Range> {
        let first = self.first.as_ref()?.bytes()?.len();
        let entry = self.pop()?;
        let next = self.first.as_ref().and_then(Entry::bytes).map(<[u8]>::len);
        if next.is_none_or(|next| first + next > GATHER_BYTES_MAX) {
            return Some(match entry {
                Entry::Shared(range) => range,
                Entry::Own(bytes) => Range::whole(bytes),
                Entry::Place(_) => unreachable!("a place has no bytes"),
            });
        }
        let mut joined = match entry {
            Entry::Own(bytes) => bytes,
            Entry::Shared(range) => return Some(self.join_shared(range, last)),
            Entry::Place(_) => unreachable!("a place has no bytes"),
        };
        while let Some(bytes) = self.first.as_ref().and_then(Entry::bytes) {
            if joined.len() + bytes.len() > GATHER_BYTES_MAX {
                break;
            }
            joined.extend_from_slice(bytes);
            self.pop();
        }
        Some(Range::whole(joined))
    }

    /// Joins `first` with the shared ranges behind it.
    fn join_shared(&mut self, first: Range, last: &mut Joined) -> Range {
        let mut parts = vec![first];
        let mut bytes = parts[0].len();
        while let Some(Entry::Shared(range)) = &self.first {
            bytes += range.len();
            if bytes > GATHER_BYTES_MAX {
                break;
            }
            parts.push(range.clone());
            self.pop();
        }
        let same = parts.len() == last.parts.len()
            && parts.iter().zip(&last.parts).all(|(part, known)| part.is(known));
        if let Some(whole) = last.whole.as_ref().filter(|_| same) {
            return whole.clone();
        }
        let whole = match parts.as_slice() {
            [one] => one.clone(),
            parts => Range::whole(parts.iter().map(Range::bytes).collect::<Vec<_>>().concat()),
        };
        *last = Joined { parts, whole: Some(whole.clone()) };
        whole
    }

    /// The send completed after `bytes` bytes; what is left of it goes with the next one.
    pub(super) fn sent(&mut self, bytes: u32) {
        self.sending = false;
        self.queued_bytes = self.queued_bytes.saturating_sub(bytes as usize);
        if let Some(range) = &mut self.in_flight {
            range.from += bytes;
            if range.is_empty() {
                self.in_flight = None;
            }
        }
    }

    /// Whether nothing waits and nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.first.is_none()
    }

    /// Drops what has not started, returns how many bytes that was.
    pub(super) fn drop_waiting(&mut self) -> usize {
        let started = self.in_flight.as_ref().map_or(0, Range::len);
        let dropped = self.queued_bytes - started;
        self.first = None;
        self.rest = None;
        self.unfilled = 0;
        self.queued_bytes = started;
        dropped
    }

    /// Drops what waits and `choose` chooses, the oldest first, until that is `bytes_min` bytes.
    pub(super) fn drop_tagged(
        &mut self,
        bytes_min: usize,
        choose: impl Fn(&Tag) -> bool,
    ) -> Dropped {
        let mut dropped = Dropped::default();
        let mut go = |entry: &Entry| match entry {
            Entry::Shared(range) if dropped.bytes < bytes_min => {
                let Some(tag) = range.segment.tag().filter(|tag| choose(tag)) else { return true };
                dropped.bytes += range.len();
                dropped.publications += tag.publications;
                false
            }
            _ => true,
        };
        let keeps_first = self.first.as_ref().is_none_or(&mut go);
        if let Some(rest) = &mut self.rest {
            rest.retain(&mut go);
        }
        if !keeps_first {
            self.first = None;
            self.pop();
        } else if self.rest.as_ref().is_some_and(|rest| rest.is_empty()) {
            self.rest = None;
        }
        self.queued_bytes -= dropped.bytes;
        dropped
    }

    /// Keeps what waits and `choose` chooses from being dropped by [`Writer::drop_tagged`].
    pub(super) fn keep_tagged(&mut self, choose: impl Fn(&Tag) -> bool) {
        let rest = self.rest.iter_mut().flat_map(|rest| rest.iter_mut());
        for entry in self.first.iter_mut().chain(rest) {
            if let Entry::Shared(range) = entry
                && range.segment.tag().is_some_and(&choose)
            {
                *range = range.clone().untagged();
            }
        }
    }

    /// Drops the first unfilled place and all behind it: their answers will not come any more.
    pub(super) fn drop_unanswered(&mut self) {
        if self.unfilled == 0 {
            return;
        }
        let mut kept = Vec::new();
        while let Some(bytes) = self.first.as_ref().and_then(Entry::bytes) {
            kept.extend_from_slice(bytes);
            self.pop();
        }
        self.drop_waiting();
        if !kept.is_empty() {
            self.push_own(|out| out.append(&mut kept));
        }
    }

    /// Drops unfilled places and keeps what stands behind them.
    pub(super) fn drop_places(&mut self) {
        if self.unfilled == 0 {
            return;
        }
        let kept: Vec<Entry> = std::iter::from_fn(|| self.pop())
            .filter(|entry| !matches!(entry, Entry::Place(_)))
            .collect();
        kept.into_iter().for_each(|entry| self.push(entry));
        self.unfilled = 0;
    }

    /// Drops everything, also the rest of a send that is with the kernel.
    pub(super) fn drop_all(&mut self) {
        self.drop_waiting();
        self.in_flight = None;
        self.queued_bytes = 0;
    }

    fn push(&mut self, entry: Entry) {
        match (&mut self.rest, &self.first) {
            (Some(rest), _) => rest.push_back(entry),
            (None, None) => self.first = Some(entry),
            (rest, Some(_)) => *rest = Some(Box::new(VecDeque::from([entry]))),
        }
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.first.take();
        if let Some(rest) = &mut self.rest {
            self.first = rest.pop_front();
            if rest.is_empty() {
                self.rest = None;
            }
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(bytes: &[u8]) -> Range {
        Range::whole(bytes.to_vec())
    }

    fn send(writer: &mut Writer) -> Option<Vec<u8>> {
        let send = writer.next_send(&mut Joined::default())?;
        let bytes = send.segment[send.from as usize..send.to as usize].to_vec();
        writer.sent(bytes.len() as u32);
        Some(bytes)
    }

    #[test]
    fn nothing_behind_an_unfilled_place_is_sent() {
        let mut writer = Writer::default();
        writer.push_own(|out| out.extend(b"a"));
        let place = writer.reserve();
        writer.push_shared(shared(b"c"));
        assert_eq!(send(&mut writer).as_deref(), Some(&b"a"[..]));
        assert_eq!(send(&mut writer), None);
        assert!(writer.fill(place, b"b".to_vec()));
        assert!(!writer.fill(place, b"b".to_vec()), "a place is filled once");
        assert_eq!(send(&mut writer).as_deref(), Some(&b"bc"[..]));
        assert!(writer.is_idle());
        assert_eq!(writer.queued_bytes(), 0);
    }

    #[test]
    fn small_entries_are_joined_and_long_ones_go_alone() {
        let mut writer = Writer::default();
        let long = vec![b'l'; GATHER_BYTES_MAX];
        writer.push_shared(shared(b"1"));
        writer.push_shared(shared(b"2"));
        writer.push_shared(shared(&long));
        writer.push_own(|out| out.extend(b"3"));
        assert_eq!(send(&mut writer).as_deref(), Some(&b"12"[..]));
        assert_eq!(send(&mut writer).as_deref(), Some(&long[..]));
        assert_eq!(send(&mut writer).as_deref(), Some(&b"3"[..]));
        assert_eq!(send(&mut writer), None);
    }

    #[test]
    fn ranges_that_many_wait_with_are_joined_once() {
        let (one, two) = (shared(b"one"), shared(b"two"));
        let mut joined = Joined::default();
        let mut sends = Vec::new();
        for _ in 0..3 {
            let mut writer = Writer::default();
            writer.push_shared(one.clone());
            writer.push_shared(two.clone());
            sends.push(writer.next_send(&mut joined).unwrap());
        }
        assert_eq!(&sends[0].segment[..], b"onetwo");
        assert!(sends.iter().all(|send| send.segment.as_ptr() == sends[0].segment.as_ptr()));

        let mut other = Writer::default();
        other.push_shared(two);
        other.push_shared(one);
        let send = other.next_send(&mut joined).unwrap();
        assert_eq!(&send.segment[..], b"twoone", "another order is another segment");
    }

    #[test]
    fn one_send_is_bounded_and_a_short_one_goes_on() {
        let mut writer = Writer::default();
        writer.push_shared(shared(&vec![b'x'; SEND_BYTES_MAX + 10]));
        let first = writer.next_send(&mut Joined::default()).unwrap();
        assert_eq!((first.from, first.to), (0, SEND_BYTES_MAX as u32));
        assert!(writer.next_send(&mut Joined::default()).is_none(), "one send in flight");
        writer.sent(100);
        let second = writer.next_send(&mut Joined::default()).unwrap();
        assert_eq!((second.from, second.to), (100, SEND_BYTES_MAX as u32 + 10));
        writer.sent(SEND_BYTES_MAX as u32 - 90);
        assert!(writer.is_idle());
    }

    #[test]
    fn closing_keeps_what_started_and_what_was_answered() {
        let mut writer = Writer::default();
        writer.push_shared(shared(b"started"));
        assert!(writer.next_send(&mut Joined::default()).is_some());
        writer.push_own(|out| out.extend(b"answered"));
        writer.reserve();
        writer.push_shared(shared(b"never"));
        writer.drop_unanswered();
        writer.push_own(|out| out.extend(b"+close"));
        writer.sent(3);
        assert_eq!(send(&mut writer).as_deref(), Some(&b"rted"[..]));
        assert_eq!(send(&mut writer).as_deref(), Some(&b"answered+close"[..]));
        assert_eq!(writer.queued_bytes(), 0);
    }

    #[test]
    fn closing_may_drop_places_alone() {
        let mut writer = Writer::default();
        writer.push_own(|out| out.extend(b"a"));
        let place = writer.reserve();
        writer.push_shared(shared(b"b"));
        writer.reserve();
        writer.drop_places();
        assert_eq!((writer.unfilled(), writer.queued_bytes()), (0, 2));
        assert!(!writer.fill(place, b"late".to_vec()));
        assert_eq!(send(&mut writer).as_deref(), Some(&b"ab"[..]));
        assert!(writer.is_idle());
    }

    #[test]
    fn what_is_chosen_goes_from_the_front_and_nothing_else() {
        let tagged = |channel, key: &str, bytes: &[u8]| {
            let tag = Tag { channel, generation: 0, key: Some(key.into()), publications: 1 };
            shared(bytes).tagged(tag)
        };
        let mut writer = Writer::default();
        writer.push_shared(tagged(1, "a", b"1"));
        writer.push_shared(tagged(1, "b", b"2"));
        writer.push_own(|out| out.extend(b"own"));
        writer.push_shared(tagged(2, "a", b"3"));
        writer.push_shared(tagged(1, "a", b"4"));
        let of_key = |tag: &Tag| tag.channel == 1 && tag.key.as_deref() == Some("a");
        assert_eq!(writer.drop_tagged(1, of_key), Dropped { bytes: 1, publications: 1 });
        assert_eq!(writer.queued_bytes(), 6);
        assert_eq!(writer.drop_tagged(usize::MAX, of_key), Dropped { bytes: 1, publications: 1 });
        assert_eq!(writer.drop_tagged(usize::MAX, of_key), Dropped::default());
        let mut sent = Vec::new();
        while let Some(bytes) = send(&mut writer) {
            sent.extend(bytes);
        }
        assert_eq!(sent, b"2own3");
        assert!(writer.is_idle() && writer.queued_bytes() == 0);
        writer.push_shared(tagged(1, "a", b"1"));
        writer.push_shared(tagged(2, "a", b"2"));
        writer.keep_tagged(|tag| tag.channel == 1);
        let any = writer.drop_tagged(usize::MAX, |_| true);
        assert_eq!(any, Dropped { bytes: 1, publications: 1 });
        assert_eq!(send(&mut writer).as_deref(), Some(&b"1"[..]));
        writer.push_shared(tagged(1, "a", b"1"));
        writer.drop_tagged(usize::MAX, of_key);
        assert!(writer.is_idle());
    }

    #[test]
    fn dropping_what_waits_counts_its_bytes() {
        let mut writer = Writer::default();
        writer.push_shared(shared(b"started"));
        assert!(writer.next_send(&mut Joined::default()).is_some());
        writer.push_shared(shared(b"12345"));
        writer.push_shared(shared(b"678"));
        assert_eq!(writer.drop_waiting(), 8);
        assert_eq!(writer.queued_bytes(), 7);
    }
}
