//! Answers to publishes that bear an idempotency key, so that a repeated one publishes nothing.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hasher,
};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::{HashKey, Position};

/// Milliseconds for which an answer is known, as in Centrifugo (centrifuge `PublishOptions`).
pub const IDEMPOTENT_ANSWER_TTL_MS: u64 = 300_000;

/// Answers forgotten by one [`Idempotency::expire`].
const EXPIRE_WORK_MAX: usize = 1_024;

/// Answers of the channels of one home.
///
/// A channel and a key are known by a digest of 128 bits under the process's secret, so that an
/// answer takes the same memory however long they are. When there are `answers_max` the oldest one
/// is forgotten: a repeat of it publishes again.
#[derive(Debug)]
pub struct Idempotency {
    key: HashKey,
    answers: HashMap<u128, Answer, HashKey>,
    /// When each expires, in that order. An entry whose answer expires at another time is of an
    /// earlier answer to the same key.
    order: VecDeque<(u64, u128)>,
    answers_max: usize,
}

#[derive(Debug)]
struct Answer {
    expires_ms: u64,
    position: Option<Position>,
}

impl Idempotency {
    /// No answers, and room for `answers_max`.
    pub fn new(key: HashKey, answers_max: usize) -> Self {
        let answers = HashMap::with_hasher(key);
        Self { key, answers, order: VecDeque::new(), answers_max }
    }

    /// What the first publish to `channel` with `key` was answered, unless that is too long ago.
    /// The answer of a channel without positions is `None` inside.
    pub fn answer(&self, now_ms: u64, channel: &str, key: &str) -> Option<Option<Position>> {
        let answer = self.answers.get(&self.digest(channel, key))?;
        (answer.expires_ms > now_ms).then_some(answer.position)
    }

    /// Remembers what a publish was answered. A known answer is not replaced.
    pub fn remember(&mut self, now_ms: u64, channel: &str, key: &str, position: Option<Position>) {
        let digest = self.digest(channel, key);
        let known = self.answers.get(&digest).is_some_and(|known| known.expires_ms > now_ms);
        if known || self.answers_max == 0 {
            return;
        }
        if self.order.len() == self.answers_max {
            self.forget_oldest();
        }
        let expires_ms = now_ms.saturating_add(IDEMPOTENT_ANSWER_TTL_MS);
        self.answers.insert(digest, Answer { expires_ms, position });
        self.order.push_back((expires_ms, digest));
    }

    /// Frees the memory of what is over; `true`: there is more, come back in the next turn.
    pub fn expire(&mut self, now_ms: u64) -> bool {
        for _ in 0..EXPIRE_WORK_MAX {
            if self.next_ms().is_none_or(|expires_ms| expires_ms > now_ms) {
                return false;
            }
            self.forget_oldest();
        }
        self.next_ms().is_some_and(|expires_ms| expires_ms <= now_ms)
    }

    /// When [`Idempotency::expire`] has something to do.
    pub fn next_ms(&self) -> Option<u64> {
        self.order.front().map(|(expires_ms, _)| *expires_ms)
    }

    /// How many answers are in memory.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether no answer is in memory.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    fn forget_oldest(&mut self) {
        let Some((expires_ms, digest)) = self.order.pop_front() else { return };
        if self.answers.get(&digest).is_some_and(|known| known.expires_ms == expires_ms) {
            self.answers.remove(&digest);
        }
    }

    fn digest(&self, channel: &str, key: &str) -> u128 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write_usize(channel.len());
        hasher.write(channel.as_bytes());
        hasher.write(key.as_bytes());
        hasher.finish128().as_u128()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hub::streams::Epoch;

    fn at(offset: u64) -> Option<Position> {
        Some(Position { offset, epoch: Epoch::new(0, 0) })
    }

    fn idempotency(answers_max: usize) -> Idempotency {
        Idempotency::new(HashKey(1, 2), answers_max)
    }

    #[test]
    fn an_answer_is_known_for_five_minutes() {
        let mut known = idempotency(8);
        assert_eq!(known.answer(5, "news", "k"), None);
        known.remember(5, "news", "k", at(1));
        known.remember(6, "plain", "k", None);
        assert_eq!(known.answer(300_004, "news", "k"), Some(at(1)));
        assert_eq!(known.answer(300_004, "plain", "k"), Some(None));
        assert_eq!(known.answer(300_005, "news", "k"), None);
        assert_eq!(known.answer(300_005, "plain", "k"), Some(None));
        assert_eq!(known.next_ms(), Some(300_005));
        assert!(!known.expire(300_005));
        assert_eq!((known.len(), known.next_ms()), (1, Some(300_006)));
        assert!(!known.expire(300_006));
        assert!(known.is_empty() && known.next_ms().is_none());
    }

    #[test]
    fn the_first_answer_stands_until_it_is_over() {
        let mut known = idempotency(8);
        known.remember(0, "news", "k", at(1));
        known.remember(299_999, "news", "k", at(2));
        assert_eq!(known.answer(299_999, "news", "k"), Some(at(1)));
        known.remember(300_000, "news", "k", at(3));
        assert_eq!(known.answer(300_000, "news", "k"), Some(at(3)));
        assert!(!known.expire(300_000), "what is over is not the new answer");
        assert_eq!(known.answer(599_999, "news", "k"), Some(at(3)));
        assert_eq!(known.answer(600_000, "news", "k"), None);
    }

    #[test]
    fn channel_and_key_do_not_run_into_each_other() {
        let mut known = idempotency(8);
        known.remember(0, "news", "1", at(1));
        assert_eq!(known.answer(0, "new", "s1"), None);
        assert_eq!(known.answer(0, "news1", ""), None);
        assert_eq!(known.answer(0, "news", "2"), None);
    }

    #[test]
    fn when_full_the_oldest_answer_goes() {
        let mut known = idempotency(2);
        for (offset, key) in ["a", "b", "c"].into_iter().enumerate() {
            known.remember(0, "news", key, at(offset as u64));
        }
        assert_eq!(known.answer(0, "news", "a"), None);
        assert_eq!(known.answer(0, "news", "b"), Some(at(1)));
        assert_eq!(known.answer(0, "news", "c"), Some(at(2)));
        assert_eq!(known.len(), 2);

        let mut none = idempotency(0);
        none.remember(0, "news", "a", at(1));
        assert!(none.is_empty());
    }

    #[test]
    fn one_call_forgets_a_bounded_number() {
        let mut known = idempotency(5_000);
        for number in 0..2_049 {
            known.remember(0, "news", &number.to_string(), None);
        }
        assert!(known.expire(300_000));
        assert_eq!(known.len(), 1_025);
        assert!(known.expire(300_000));
        assert!(!known.expire(300_000));
        assert!(known.is_empty());
    }

    proptest! {
        #[test]
        fn answers_are_those_of_a_list(
            steps in prop::collection::vec((0..4u8, 0..2usize, 0..4usize, 0..120_000u64), 0..60),
            answers_max in 1..4usize,
        ) {
            let mut known = idempotency(answers_max);
            let mut model: Vec<(u64, usize, usize, u64)> = Vec::new();
            let mut now_ms = 0;
            for (step, (kind, channel, key, later_ms)) in steps.into_iter().enumerate() {
                let (name, text) = (["a", "b"][channel], ["", "x", "y", "z"][key]);
                now_ms += later_ms;
                if kind == 0 {
                    prop_assert!(!known.expire(now_ms));
                    model.retain(|(expires_ms, ..)| *expires_ms > now_ms);
                    prop_assert_eq!(known.len(), model.len());
                }
                let found = model.iter().rfind(|it| (it.1, it.2) == (channel, key));
                let expected = found.filter(|it| it.0 > now_ms).map(|it| at(it.3));
                prop_assert_eq!(known.answer(now_ms, name, text), expected);
                known.remember(now_ms, name, text, at(step as u64));
                if expected.is_none() {
                    if model.len() == answers_max {
                        model.remove(0);
                    }
                    model.push((now_ms + 300_000, channel, key, step as u64));
                }
                prop_assert!(known.len() <= answers_max);
            }
        }
    }
}
