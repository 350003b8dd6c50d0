//! Which channels the backend is told to be occupied or vacated, in which order and when.
//!
//! Per channel notices arrive and leave in order. At most one of a channel waits: its opposite
//! takes it back, for then the backend knows the truth without either. A batch that was sent and
//! not confirmed may have been processed, so it is sent again as it is, before anything else: a
//! backend may see a notice twice.
//!
//! A server that ends tells nobody that its channels are vacated: clients are about to occupy them
//! on the next one.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::channels::Name;

/// How long a channel must stay vacated before the backend is told: Centrifugo's default of 5 s. A
/// client that lost its connection is back by then, in most cases with its first attempt.
pub const VACATED_DELAY: Duration = Duration::from_secs(5);

/// Notices of one request.
pub const BATCH_MAX: usize = 256;
/// Notices that wait in one lane; the oldest is dropped for the next one.
pub const WAITING_MAX: usize = 65_536;
/// Attempts at one batch before it is dropped: about a minute and a half of a backend that is down.
pub const ATTEMPTS_MAX: u32 = 10;
/// Milliseconds between the first two attempts; doubled each time. There is no jitter: a server has
/// a handful of senders, each with one request at a time.
const BACKOFF_MS: u64 = 250;
/// Milliseconds between two attempts at most.
const BACKOFF_MS_MAX: u64 = 30_000;

/// Whether anybody is subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Occupancy {
    /// The first subscriber came.
    Occupied,
    /// The last subscriber left.
    Vacated,
}

/// A change of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The channel.
    pub channel: Name,
    /// What it became.
    pub state: Occupancy,
    /// When, in milliseconds since the Unix epoch: of a vacated channel when it was left, not when
    /// the delay was over.
    pub time_unix_ms: u64,
}

/// The notices of one lane. Times are milliseconds of a monotonic clock.
#[derive(Debug)]
pub struct Notices {
    vacated_delay_ms: u64,
    /// By when they are due, then by when they came.
    waiting: BTreeMap<(u64, u64), Notice>,
    /// Where a channel's notice waits.
    places: BTreeMap<Name, (u64, u64)>,
    next: u64,
    /// Sent, or being sent; not confirmed.
    batch: Vec<Notice>,
    attempts: u32,
    again_ms: u64,
    dropped: u64,
}

impl Notices {
    /// An empty lane.
    pub fn new(vacated_delay: Duration) -> Self {
        Self {
            vacated_delay_ms: vacated_delay.as_millis() as u64,
            waiting: BTreeMap::new(),
            places: BTreeMap::new(),
            next: 0,
            batch: Vec::new(),
            attempts: 0,
            again_ms: 0,
            dropped: 0,
        }
    }

    /// A channel changed.
    pub fn changed(&mut self, now_ms: u64, notice: Notice) {
        if let Some(place) = self.places.get(&notice.channel).copied() {
            // The same twice in a row says nothing new.
            if self.waiting.get(&place).is_some_and(|waiting| waiting.state != notice.state) {
                self.waiting.remove(&place);
                self.places.remove(&notice.channel);
            }
            return;
        }
        if self.waiting.len() >= WAITING_MAX
            && let Some((_, oldest)) = self.waiting.pop_first()
        {
            self.places.remove(&oldest.channel);
            self.dropped += 1;
        }
        let delay_ms = match notice.state {
            Occupancy::Occupied => 0,
            Occupancy::Vacated => self.vacated_delay_ms,
        };
        let place = (now_ms + delay_ms, self.next);
        self.next += 1;
        self.places.insert(Name::clone(&notice.channel), place);
        self.waiting.insert(place, notice);
    }

    /// What is to be sent now, if anything is. [`Notices::confirmed`] or [`Notices::failed`]
    /// follows.
    pub fn due(&mut self, now_ms: u64) -> Option<&[Notice]> {
        if self.batch.is_empty() {
            while self.batch.len() < BATCH_MAX
                && let Some(first) = self.waiting.first_entry()
                && first.key().0 <= now_ms
            {
                let notice = first.remove();
                self.places.remove(&notice.channel);
                self.batch.push(notice);
            }
            self.attempts = 0;
            self.again_ms = now_ms;
        }
        (!self.batch.is_empty() && self.again_ms <= now_ms).then_some(&self.batch)
    }

    /// The backend has what was due.
    pub fn confirmed(&mut self) {
        self.batch.clear();
    }

    /// The backend may not have it: it is due again later, or dropped after [`ATTEMPTS_MAX`].
    /// Returns the number of notices dropped.
    pub fn failed(&mut self, now_ms: u64) -> usize {
        self.again_ms = now_ms + (BACKOFF_MS << self.attempts.min(16)).min(BACKOFF_MS_MAX);
        self.attempts += 1;
        if self.attempts < ATTEMPTS_MAX {
            return 0;
        }
        let given_up = self.batch.len();
        self.dropped += given_up as u64;
        self.batch.clear();
        given_up
    }

    /// When something is due next; `None`: when nothing waits.
    pub fn next_ms(&self) -> Option<u64> {
        if !self.batch.is_empty() {
            return Some(self.again_ms);
        }
        self.waiting.first_key_value().map(|((due_ms, _), _)| *due_ms)
    }

    /// Notices dropped since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

/// The body of a request: `{"events":[{"channel":..,"type":..,"time_ms":..}]}`.
pub fn to_json(notices: &[Notice]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Event<'a> {
        channel: &'a str,
        r#type: Occupancy,
        time_ms: u64,
    }
    #[derive(Serialize)]
    struct Body<'a> {
        events: Vec<Event<'a>>,
    }
    let events = notices.iter().map(|notice| Event {
        channel: &notice.channel,
        r#type: notice.state,
        time_ms: notice.time_unix_ms,
    });
    serde_json::to_vec(&Body { events: events.collect() }).expect("texts and numbers are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(channel: &str, state: Occupancy, time_unix_ms: u64) -> Notice {
        Notice { channel: channel.into(), state, time_unix_ms }
    }

    fn occupied(channel: &str) -> Notice {
        notice(channel, Occupancy::Occupied, 1)
    }

    fn vacated(channel: &str) -> Notice {
        notice(channel, Occupancy::Vacated, 2)
    }

    fn lane() -> Notices {
        Notices::new(VACATED_DELAY)
    }

    #[test]
    fn the_body_is_as_documented() {
        let notices = [notice("chat:index", Occupancy::Occupied, 1_697_206_286_533), vacated("b")];
        assert_eq!(
            String::from_utf8(to_json(&notices)).unwrap(),
            concat!(
                r#"{"events":[{"channel":"chat:index","type":"occupied","time_ms":1697206286533},"#,
                r#"{"channel":"b","type":"vacated","time_ms":2}]}"#
            )
        );
    }

    #[test]
    fn a_vacated_channel_is_told_late_and_a_reconnect_takes_it_back() {
        let mut lane = lane();
        lane.changed(0, occupied("a"));
        assert_eq!(lane.due(0), Some(&[occupied("a")][..]));
        lane.confirmed();
        lane.changed(100, vacated("a"));
        assert_eq!(lane.next_ms(), Some(5_100));
        assert_eq!(lane.due(5_099), None);
        lane.changed(5_099, occupied("a"));
        assert_eq!(lane.due(9_999), None, "the backend knows it occupied");
        assert_eq!(lane.next_ms(), None);
        lane.changed(10_000, vacated("a"));
        lane.changed(10_001, occupied("b"));
        let told = [occupied("b"), vacated("a")];
        assert_eq!(lane.due(15_000), Some(&told[..]), "what is due first comes first");
    }

    #[test]
    fn what_was_sent_is_sent_again_before_its_opposite() {
        let mut lane = lane();
        lane.changed(0, occupied("a"));
        assert!(lane.due(0).is_some());
        assert_eq!(lane.failed(0), 0);
        lane.changed(10, vacated("a"));
        lane.changed(20, occupied("b"));
        assert_eq!(lane.due(249), None, "backoff");
        assert_eq!(lane.due(250), Some(&[occupied("a")][..]), "nothing joins it");
        lane.confirmed();
        assert_eq!(lane.due(250), Some(&[occupied("b")][..]));
        lane.confirmed();
        assert_eq!(
            lane.due(5_010),
            Some(&[vacated("a")][..]),
            "it is not taken back by what was sent"
        );
    }

    #[test]
    fn attempts_are_bounded_and_further_apart_each_time() {
        let mut lane = lane();
        lane.changed(0, occupied("a"));
        lane.changed(0, occupied("b"));
        let mut now_ms = 0;
        let mut pauses = Vec::new();
        let mut given_up = 0;
        for _ in 0..100 {
            assert_eq!(lane.due(now_ms).map(<[_]>::len), Some(2));
            given_up = lane.failed(now_ms);
            if given_up > 0 {
                break;
            }
            let again_ms = lane.next_ms().unwrap();
            pauses.push(again_ms - now_ms);
            now_ms = again_ms;
        }
        let expected = [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000];
        assert_eq!((given_up, pauses.as_slice()), (2, &expected[..]));
        assert_eq!((lane.take_dropped(), lane.take_dropped()), (2, 0));
        assert_eq!(lane.next_ms(), None);
        lane.changed(now_ms, occupied("c"));
        assert!(lane.due(now_ms).is_some(), "the next one is not late because of it");
    }

    #[test]
    fn a_full_lane_drops_the_oldest() {
        let mut lane = lane();
        for channel in 0..=WAITING_MAX {
            lane.changed(0, occupied(&channel.to_string()));
        }
        assert_eq!(lane.take_dropped(), 1);
        let batch = lane.due(0).unwrap();
        assert_eq!((batch.len(), &*batch[0].channel), (BATCH_MAX, "1"));
        lane.changed(0, occupied("0"));
        assert_eq!(lane.take_dropped(), 0, "there is room again");
    }

    #[test]
    fn flapping_channels_take_no_memory() {
        let mut lane = lane();
        lane.changed(0, occupied("sent"));
        assert!(lane.due(0).is_some());
        lane.failed(0);
        for turn in 0..10_000 {
            lane.changed(turn, occupied("a"));
            lane.changed(turn, vacated("a"));
        }
        assert!(lane.waiting.is_empty() && lane.places.is_empty());
    }

    #[test]
    fn the_same_twice_is_told_once() {
        let mut lane = lane();
        lane.changed(0, vacated("a"));
        lane.changed(1_000, vacated("a"));
        assert_eq!(lane.next_ms(), Some(5_000));
        assert_eq!(lane.due(6_000), Some(&[vacated("a")][..]));
    }
}
