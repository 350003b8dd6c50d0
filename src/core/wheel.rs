//! One deadline per connection without a timer object each: a hashed wheel over the slots.

/// Milliseconds of one bucket.
const TICK_MS: u64 = 64;
/// Buckets; a deadline beyond the horizon waits in the last one and is looked at again then.
const BUCKETS: usize = 1024;
const NONE: u32 = u32::MAX;

/// Deadlines of slots. Entries are intrusive: 12 bytes a slot, nothing is allocated per deadline.
#[derive(Debug)]
pub(super) struct Wheel {
    heads: Box<[u32; BUCKETS]>,
    occupied: [u64; BUCKETS / 64],
    entries: Vec<Entry>,
    /// The tick up to which everything has been handed out.
    now: u64,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    previous: u32,
    next: u32,
    /// `NONE` when the slot has no deadline.
    bucket: u32,
}

impl Wheel {
    /// An empty wheel that starts at `now_ms`.
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            heads: Box::new([NONE; BUCKETS]),
            occupied: [0; BUCKETS / 64],
            entries: Vec::new(),
            now: now_ms / TICK_MS,
            len: 0,
        }
    }

    /// Sets the one deadline of a slot. It is handed out at its time or up to one tick later, or
    /// earlier when it is beyond the horizon: the owner looks at the clock and sets it again.
    pub(super) fn set(&mut self, slot: u32, deadline_ms: u64) {
        self.clear(slot);
        let needed = slot as usize + 1;
        if self.entries.len() < needed {
            self.entries.resize(needed, Entry { previous: NONE, next: NONE, bucket: NONE });
        }
        let earliest = self.now + 1;
        let latest = self.now + BUCKETS as u64 - 1;
        let bucket =
            (deadline_ms.div_ceil(TICK_MS).clamp(earliest, latest) % BUCKETS as u64) as u32;
        let next = self.heads[bucket as usize];
        if next != NONE {
            self.entries[next as usize].previous = slot;
        }
        self.entries[slot as usize] = Entry { previous: NONE, next, bucket };
        self.heads[bucket as usize] = slot;
        self.occupied[bucket as usize / 64] |= 1 << (bucket % 64);
        self.len += 1;
    }

    /// Takes a slot's deadline away.
    pub(super) fn clear(&mut self, slot: u32) {
        let Some(&Entry { previous, next, bucket }) = self.entries.get(slot as usize) else {
            return;
        };
        if bucket == NONE {
            return;
        }
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        if previous == NONE {
            self.heads[bucket as usize] = next;
            if next == NONE {
                self.occupied[bucket as usize / 64] &= !(1 << (bucket % 64));
            }
        } else {
            self.entries[previous as usize].next = next;
        }
        self.entries[slot as usize].bucket = NONE;
        self.len -= 1;
    }

    /// Takes one slot whose deadline has come, if there is one.
    pub(super) fn pop(&mut self, now_ms: u64) -> Option<u32> {
        let target = now_ms / TICK_MS;
        while self.now < target || self.heads[(self.now % BUCKETS as u64) as usize] != NONE {
            let slot = self.heads[(self.now % BUCKETS as u64) as usize];
            if slot != NONE {
                self.clear(slot);
                return Some(slot);
            }
            self.now = match self.next_occupied() {
                Some(next) => next.min(target),
                None => target,
            };
        }
        None
    }

    fn next_occupied(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        let start = self.now + 1;
        let mut ahead = 0;
        while ahead < BUCKETS as u64 {
            let bucket = ((start + ahead) % BUCKETS as u64) as usize;
            let word = self.occupied[bucket / 64] >> (bucket % 64);
            if word != 0 {
                return Some(start + ahead + u64::from(word.trailing_zeros()));
            }
            ahead += 64 - (bucket % 64) as u64;
        }
        None
    }

    /// When [`Wheel::pop`] should be called next.
    pub(super) fn next_ms(&self) -> Option<u64> {
        if self.heads[(self.now % BUCKETS as u64) as usize] != NONE {
            return Some(self.now * TICK_MS);
        }
        self.next_occupied().map(|tick| tick * TICK_MS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn deadlines_come_in_time_and_never_early_within_the_horizon() {
        let mut wheel = Wheel::new(1_000);
        wheel.set(3, 1_500);
        wheel.set(4, 1_500);
        wheel.set(5, 9_000);
        wheel.clear(4);
        assert_eq!(wheel.pop(1_499), None);
        let due = wheel.next_ms().unwrap();
        assert!((1_500..1_500 + TICK_MS).contains(&due));
        assert_eq!(wheel.pop(due), Some(3));
        assert_eq!(wheel.pop(due), None);
        assert_eq!(wheel.pop(9_000 + TICK_MS), Some(5));
        assert_eq!(wheel.next_ms(), None);
    }

    #[test]
    fn a_deadline_beyond_the_horizon_is_looked_at_again() {
        let mut wheel = Wheel::new(0);
        let (mut now, deadline) = (0, TICK_MS * BUCKETS as u64 * 3);
        wheel.set(0, deadline);
        let mut looks = 0;
        while now < deadline {
            now = wheel.next_ms().unwrap();
            assert_eq!(wheel.pop(now), Some(0));
            wheel.set(0, deadline);
            looks += 1;
        }
        assert!(looks < 6, "{looks}");
    }

    proptest! {
        #[test]
        fn any_history_hands_out_each_deadline_once_and_in_time(
            steps in prop::collection::vec((0u32..40, 0u64..70_000, 0u64..9_000), 1..200)
        ) {
            let mut wheel = Wheel::new(0);
            let mut deadlines = std::collections::BTreeMap::new();
            let mut now = 0;
            for (slot, after, pass) in steps {
                let deadline = now + after;
                wheel.set(slot, deadline);
                deadlines.insert(slot, deadline);
                now += pass;
                while let Some(slot) = wheel.pop(now) {
                    let deadline = deadlines[&slot];
                    if deadline > now {
                        wheel.set(slot, deadline);
                        prop_assert!(deadline - now >= TICK_MS * (BUCKETS as u64 - 2) - 9_000
                            || deadline.div_ceil(TICK_MS) * TICK_MS > now);
                    } else {
                        deadlines.remove(&slot);
                    }
                }
                for deadline in deadlines.values() {
                    prop_assert!(deadline + 2 * TICK_MS > now, "{deadline} is late at {now}");
                }
            }
        }
    }
}
