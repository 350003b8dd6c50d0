//! What subscribers rely on, whatever went for want of room or time: no hole, no stranger's past.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    model::{CHANNELS, Step, step},
    *,
};

/// Streams, and all that was ever published to them, by the text of the epoch.
struct Witness {
    bench: Bench,
    published: BTreeMap<String, Vec<String>>,
    /// The last epoch of each channel that was seen.
    epochs: [String; CHANNELS.len()],
    pinned: [bool; CHANNELS.len()],
}

impl Witness {
    /// Checks a position against all that is known, and returns the past of its stream.
    fn see(&mut self, channel: usize, position: Position) -> &mut Vec<String> {
        let epoch = position.epoch.text(PREFIX);
        if self.epochs[channel] != epoch {
            assert!(!self.pinned[channel], "a channel with subscribers keeps its epoch");
            assert!(!self.published.contains_key(&epoch), "epochs never come back");
            self.published.insert(epoch.clone(), Vec::new());
            self.epochs[channel].clone_from(&epoch);
        }
        let past = self.published.get_mut(&epoch).unwrap();
        assert_eq!(past.len() as u64, position.offset);
        past
    }

    fn publish(&mut self, channel: usize, text: &str) {
        let before = self.bench.position(CHANNELS[channel]);
        self.see(channel, before);
        let position = self.bench.publish(CHANNELS[channel], text);
        let offset = position.offset;
        // The stream may have been forgotten for the lack of room since it was asked.
        let before = Position { offset: offset - 1, ..position };
        self.see(channel, before).push(format!("{offset} {text}"));
    }

    fn recover(&mut self, channel: usize, since: Since<'_>) {
        let streams = &mut self.bench.streams;
        let (name, options) = (name(CHANNELS[channel]), self.bench.options);
        let mode = RecoveryMode::Stream;
        let recovered = streams.recover(self.bench.now_ms, &name, options, since, mode, BOUNDS);
        let same_epoch = recovered.position.epoch.is(PREFIX, since.epoch);
        let past = self.see(channel, recovered.position);
        if let Some(entries) = recovered.entries {
            assert!(same_epoch || since.epoch.is_empty());
            assert_eq!(texts(entries), past[since.offset as usize..]);
        } else {
            assert_ne!((same_epoch, since.offset), (true, past.len() as u64), "it is in step");
        }
    }

    fn run(&mut self, number: usize, step: Step) {
        match step {
            Step::Publish { channel, length, .. } => {
                self.publish(channel, &format!("{number}{}", "x".repeat(length)));
            }
            Step::Pin { channel } => {
                let position = self.bench.pin(CHANNELS[channel]);
                self.see(channel, position);
                self.pinned[channel] = true;
            }
            Step::Unpin { channel } => {
                self.bench.streams.unpin(self.bench.now_ms, CHANNELS[channel]);
                self.pinned[channel] = false;
            }
            Step::Remove { channel } => self.bench.streams.remove(CHANNELS[channel]),
            Step::Recover { channel, back, of, .. } => {
                let epoch = if of == 1 { String::new() } else { self.epochs[channel].clone() };
                let top = self.published.get(&epoch).map_or(9, Vec::len) as u64;
                let offset = (top + 1).saturating_sub(back);
                self.recover(channel, Since { offset, epoch: &epoch });
            }
            Step::Read { channel, .. } | Step::Position { channel } => {
                // In this order: where options changed meanwhile, being asked may be the last use.
                let position = self.bench.position(CHANNELS[channel]);
                let kept = self.bench.kept(CHANNELS[channel]);
                assert!(self.see(channel, position).ends_with(&kept), "the newest, all of them");
            }
            Step::Later { ms } => self.bench.now_ms += ms,
            Step::Expire => assert!(!self.bench.streams.expire(self.bench.now_ms)),
            Step::Options { size, ttl_ms, meta_ttl_ms } => {
                self.bench.options = HistoryOptions { size, ttl_ms, meta_ttl_ms };
            }
        }
    }

    fn check(&self, bytes_max: usize) {
        let counts = self.bench.streams.counts();
        let unpinned = counts.streams - self.pinned.iter().filter(|pinned| **pinned).count();
        assert!(counts.bytes <= bytes_max || (counts.entries == 0 && unpinned <= 1));
    }

    /// When nobody subscribes and all time is over, nothing is left.
    fn end(mut self) {
        for channel in CHANNELS {
            self.bench.streams.unpin(self.bench.now_ms, channel);
        }
        while let Some(next_ms) = self.bench.streams.next_ms() {
            self.bench.streams.expire(next_ms);
        }
        let counts = self.bench.streams.counts();
        assert_eq!((counts.streams, counts.entries, counts.bytes), (0, 0, 0));
        assert_eq!(self.bench.streams.idle_bytes, 0);
        assert!(self.bench.streams.names.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_recovered_is_what_was_published(
        steps in prop::collection::vec(step(), 0..160),
        bytes_max in prop_oneof![0..6_000usize, Just(usize::MAX)],
    ) {
        let mut bench = Bench::new(bytes_max);
        bench.options = HistoryOptions { size: 5, ttl_ms: 80, meta_ttl_ms: 250 };
        let mut witness = Witness {
            bench,
            published: BTreeMap::new(),
            epochs: Default::default(),
            pinned: [false; CHANNELS.len()],
        };
        for (number, step) in steps.into_iter().enumerate() {
            witness.run(number, step);
            witness.check(bytes_max);
        }
        witness.end();
    }
}
