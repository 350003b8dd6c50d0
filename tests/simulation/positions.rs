//! Where publications of one channel are in its stream, as far as anybody was told.

use std::collections::BTreeMap;

/// A place in a stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub epoch: String,
    pub offset: u64,
}

/// What is known of the places of one channel.
#[derive(Default)]
pub struct Positions {
    ids: BTreeMap<Position, u64>,
    places: BTreeMap<u64, Position>,
    /// Where the stream stood, and when somebody was told.
    tops: Vec<(u64, Position)>,
    /// When it was known that a stream had another one behind it.
    over: BTreeMap<String, u64>,
}

impl Positions {
    /// Somebody saw that publication at that place: it has no other, nor has the place.
    pub fn placed(&mut self, id: u64, at: &Position) {
        let known = *self.ids.entry(at.clone()).or_insert(id);
        assert_eq!(known, id, "two publications at {at:?}");
        let known = self.places.entry(id).or_insert_with(|| at.clone());
        assert_eq!(known, at, "two places of publication {id}");
    }

    /// Who asked at a time is told now that the stream stands there: not before where it stood
    /// when anybody was told so by then, and not in a stream that had another one behind it.
    pub fn top(&mut self, at: &Position, asked_at: u64, now: u64) {
        let over = self.over.get(&at.epoch);
        assert!(over.is_none_or(|over| *over > asked_at), "the epoch of {at:?} came back");
        for (_, known) in self.tops.iter().filter(|(told_at, _)| *told_at < asked_at) {
            if known.epoch == at.epoch {
                assert!(known.offset <= at.offset, "it stood at {known:?}, and then at {at:?}");
            } else {
                self.over.entry(known.epoch.clone()).or_insert(now);
            }
        }
        self.tops.push((now, at.clone()));
    }
}
