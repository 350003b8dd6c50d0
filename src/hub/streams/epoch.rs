//! The epoch of a stream: a name that no other stream has or had, in this process or another.

use crate::{hub::ShardId, limits::SHARDS_MAX};

/// Digits of the largest number in base 36.
const DIGITS_MAX: usize = 13;

/// Which stream an offset belongs to. Its text, which clients keep, is the process's random prefix
/// and a number that only this stream has: see [`Epoch::text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of the shard's stream number `count`.
    pub fn new(shard: ShardId, count: u64) -> Self {
        Self(count * SHARDS_MAX as u64 + u64::from(shard))
    }

    /// What clients are told: `prefix` and the number in base 36.
    pub fn text(self, prefix: &str) -> String {
        let (digits, start) = self.digits();
        let mut text = String::with_capacity(prefix.len() + DIGITS_MAX);
        text.push_str(prefix);
        text.extend(digits[start..].iter().map(|digit| char::from(*digit)));
        text
    }

    /// Whether `text` is this epoch's [`text`](Self::text).
    pub fn is(self, prefix: &str, text: &str) -> bool {
        let (digits, start) = self.digits();
        text.strip_prefix(prefix).is_some_and(|number| number.as_bytes() == &digits[start..])
    }

    /// The number in base 36, right-aligned, and where it starts.
    fn digits(self) -> ([u8; DIGITS_MAX], usize) {
        let mut digits = [b'0'; DIGITS_MAX];
        let (mut number, mut start) = (self.0, DIGITS_MAX);
        loop {
            start -= 1;
            digits[start] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize];
            number /= 36;
            if number == 0 {
                return (digits, start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn texts_of_all_shards_and_counts_differ() {
        let mut texts = BTreeSet::new();
        for shard in [0, 1, 10, 11, 255] {
            for count in [0, 1, 11, 35, 36, 1_295, 1_296, u64::MAX / 256 - 1] {
                let epoch = Epoch::new(shard, count);
                let text = epoch.text("Ab3dEf7h");
                assert!(epoch.is("Ab3dEf7h", &text));
                assert!(text.starts_with("Ab3dEf7h"));
                assert!(texts.insert(text), "{shard} {count}");
            }
        }
        assert_eq!(texts.len(), 40);
    }

    #[test]
    fn other_texts_are_other_epochs() {
        let epoch = Epoch::new(3, 1);
        assert_eq!(epoch.text("Ab3dEf7h"), "Ab3dEf7h77");
        for other in ["", "77", "Ab3dEf7h", "Ab3dEf7h077", "Ab3dEf7h78", "Ab3dEf7i77", "AB3dEf7h77"]
        {
            assert!(!epoch.is("Ab3dEf7h", other), "{other}");
        }
    }
}
