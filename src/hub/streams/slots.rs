//! Streams in places that do not move, and the order in which they give up their memory.

use std::ops::{Index, IndexMut};

use super::stream::Stream;

const NONE: u32 = u32::MAX;

/// What a stream can give up. One that has subscribers and keeps nothing is in no chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    /// Entries. Who was published to least recently is first.
    Kept = 0,
    /// Its position, since it keeps nothing and nobody subscribes. Who was used least recently is
    /// first.
    Idle = 1,
}

/// Bytes of one place.
pub(super) const SLOT_BYTES: usize = size_of::<Slot>();

/// A table of streams with two lists through it, so that moving in a list costs no search.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    ends: [Ends; 2],
}

#[derive(Debug)]
struct Slot {
    /// `None` while the place is free.
    stream: Option<Stream>,
    chain: Option<Chain>,
    previous: u32,
    next: u32,
}

#[derive(Debug)]
struct Ends {
    first: u32,
    last: u32,
}

impl Default for Ends {
    fn default() -> Self {
        Self { first: NONE, last: NONE }
    }
}

impl Slots {
    /// Gives a stream a place; it is in no chain yet.
    pub(super) fn insert(&mut self, stream: Stream) -> u32 {
        let slot = Slot { stream: Some(stream), chain: None, previous: NONE, next: NONE };
        if let Some(index) = self.free.pop() {
            self.slots[index as usize] = slot;
            return index;
        }
        let index = u32::try_from(self.slots.len()).expect("streams of a shard are below 2^32");
        self.slots.push(slot);
        index
    }

    /// Takes a stream out of its place and chain.
    pub(super) fn remove(&mut self, index: u32) -> Stream {
        self.move_to(index, None);
        self.free.push(index);
        self.slots[index as usize].stream.take().expect("only used places are removed")
    }

    /// How many streams there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The chain that a stream is in.
    pub(super) fn chain(&self, index: u32) -> Option<Chain> {
        self.slots[index as usize].chain
    }

    /// Who gives up memory next.
    pub(super) fn first(&self, chain: Chain) -> Option<u32> {
        let first = self.ends[chain as usize].first;
        (first != NONE).then_some(first)
    }

    /// Takes a stream out of the chain that it is in and puts it last in `chain`.
    pub(super) fn move_to(&mut self, index: u32, chain: Option<Chain>) {
        self.unlink(index);
        let slot = &mut self.slots[index as usize];
        slot.chain = chain;
        let Some(chain) = chain else { return };
        let ends = &mut self.ends[chain as usize];
        slot.previous = ends.last;
        slot.next = NONE;
        match std::mem::replace(&mut ends.last, index) {
            NONE => ends.first = index,
            last => self.slots[last as usize].next = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(chain) = slot.chain.take() else { return };
        let (previous, next) = (slot.previous, slot.next);
        let ends = &mut self.ends[chain as usize];
        match previous {
            NONE => ends.first = next,
            previous => self.slots[previous as usize].next = next,
        }
        match next {
            NONE => ends.last = previous,
            next => self.slots[next as usize].previous = previous,
        }
    }
}

impl Index<u32> for Slots {
    type Output = Stream;

    fn index(&self, index: u32) -> &Stream {
        self.slots[index as usize].stream.as_ref().expect("indices are of used places")
    }
}

impl IndexMut<u32> for Slots {
    fn index_mut(&mut self, index: u32) -> &mut Stream {
        self.slots[index as usize].stream.as_mut().expect("indices are of used places")
    }
}
