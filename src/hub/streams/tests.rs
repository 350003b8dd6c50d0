//! Streams, one rule at a time; `model` and `ledger` judge whole histories.

mod ledger;
mod model;

use super::*;

const PREFIX: &str = "Ab3dEf7h";

/// Nothing goes by itself, and there is room for 100.
const OPTIONS: HistoryOptions = HistoryOptions { size: 100, ttl_ms: 1_000, meta_ttl_ms: 5_000 };

const BOUNDS: RecoveryBounds = RecoveryBounds { count_max: 300, bytes_max: 1 << 20 };

const ALL: HistoryFilter<'_> = HistoryFilter { limit: None, since: None, reverse: false };

/// Streams whose channels follow the same options.
struct Bench {
    streams: Streams,
    options: HistoryOptions,
    now_ms: u64,
}

fn name(text: &str) -> Name {
    Name::from(text)
}

fn any(offset: u64) -> Since<'static> {
    Since { offset, epoch: "" }
}

impl Bench {
    fn new(bytes_max: usize) -> Self {
        let streams = Streams::new(HashKey(1, 2), 0, PREFIX.into(), bytes_max);
        Self { streams, options: OPTIONS, now_ms: 0 }
    }

    fn roomy() -> Self {
        Self::new(usize::MAX)
    }

    fn publish_as(&mut self, channel: &str, version: Version<'_>, text: &str) -> Placement {
        let encode = |_: Position| Bytes::copy_from_slice(text.as_bytes());
        self.streams.publish(self.now_ms, &name(channel), self.options, version, encode)
    }

    fn publish(&mut self, channel: &str, text: &str) -> Position {
        match self.publish_as(channel, Version::NONE, text) {
            Placement::New(position) => position,
            Placement::Suppressed(position) => panic!("suppressed at {position:?}"),
        }
    }

    fn position(&mut self, channel: &str) -> Position {
        self.streams.position(self.now_ms, &name(channel), self.options)
    }

    fn pin(&mut self, channel: &str) -> Position {
        self.streams.pin(self.now_ms, &name(channel), self.options)
    }

    fn recovered(
        &mut self,
        channel: &str,
        since: Since<'_>,
        mode: RecoveryMode,
        bounds: RecoveryBounds,
    ) -> Option<Vec<String>> {
        let channel = name(channel);
        let streams = &mut self.streams;
        let recovered = streams.recover(self.now_ms, &channel, self.options, since, mode, bounds);
        recovered.entries.map(texts)
    }

    fn recover(&mut self, channel: &str, since: Since<'_>) -> Option<Vec<String>> {
        self.recovered(channel, since, RecoveryMode::Stream, BOUNDS)
    }

    fn read(&mut self, channel: &str, filter: HistoryFilter<'_>) -> Result<Vec<String>, ErrorCode> {
        let read = self.streams.read(self.now_ms, &name(channel), self.options, filter);
        read.map(|(entries, _)| texts(entries))
    }

    fn kept(&mut self, channel: &str) -> Vec<String> {
        self.read(channel, ALL).unwrap()
    }
}

/// Entries as `offset text`.
fn texts(entries: Vec<Entry>) -> Vec<String> {
    let text = |entry: Entry| {
        format!("{} {}", entry.offset, String::from_utf8(entry.bytes.to_vec()).unwrap())
    };
    entries.into_iter().map(text).collect()
}

#[test]
fn options_of_a_namespace_override_the_nodes() {
    let mut options = ChannelOptions {
        history_size: 7,
        history_ttl: Duration::from_secs(60),
        ..ChannelOptions::default()
    };
    let of = |options: &ChannelOptions| HistoryOptions::new(options, Duration::from_secs(90));
    assert_eq!(of(&options), HistoryOptions { size: 7, ttl_ms: 60_000, meta_ttl_ms: 90_000 });
    options.history_meta_ttl = Duration::from_secs(75);
    assert_eq!(of(&options).meta_ttl_ms, 75_000);
    options.history_meta_ttl = Duration::from_secs(30);
    assert_eq!(of(&options).meta_ttl_ms, 60_000, "entries have a position");
}

#[test]
fn offsets_are_dense_from_1_and_the_epoch_is_there_before() {
    let mut bench = Bench::roomy();
    let start = bench.position("news");
    assert_eq!(start.offset, 0);
    assert_eq!(start.epoch.text(PREFIX), "Ab3dEf7h0");
    for offset in 1..=3 {
        assert_eq!(bench.publish("news", "x"), Position { offset, ..start });
    }
    assert_eq!(bench.position("news"), Position { offset: 3, ..start });
    assert_ne!(bench.position("sport").epoch, start.epoch);
}

#[test]
fn the_publication_is_encoded_with_its_position() {
    let mut bench = Bench::roomy();
    let mut given = None;
    let placed = bench.streams.publish(0, &name("news"), OPTIONS, Version::NONE, |position| {
        given = Some(position);
        Bytes::from_static(b"x")
    });
    assert_eq!(placed, Placement::New(given.unwrap()));
}

#[test]
fn size_drops_the_oldest() {
    let mut bench = Bench::roomy();
    bench.options.size = 2;
    for text in ["a", "b", "c"] {
        bench.publish("news", text);
    }
    assert_eq!(bench.kept("news"), ["2 b", "3 c"]);
    assert_eq!(bench.recover("news", any(0)), None, "1 is gone");
    assert_eq!(bench.recover("news", any(1)).unwrap(), ["2 b", "3 c"]);
    bench.options.size = 1;
    bench.publish("news", "d");
    assert_eq!(bench.kept("news"), ["4 d"], "a smaller size holds from the next publication on");
    bench.options.size = 0;
    assert_eq!(bench.publish("news", "e").offset, 5);
    assert!(bench.kept("news").is_empty());
}

#[test]
fn recovery_is_all_or_nothing() {
    let mut bench = Bench::roomy();
    assert_eq!(bench.recover("news", any(0)).unwrap(), [""; 0], "nothing was missed");
    let epoch = bench.position("news").epoch.text(PREFIX);
    for text in ["a", "bb", "ccc"] {
        bench.publish("news", text);
    }
    let since = |offset| Since { offset, epoch: &epoch };
    assert_eq!(bench.recover("news", since(0)).unwrap(), ["1 a", "2 bb", "3 ccc"]);
    assert_eq!(bench.recover("news", any(2)).unwrap(), ["3 ccc"]);
    assert_eq!(bench.recover("news", since(3)).unwrap(), [""; 0]);
    assert_eq!(bench.recover("news", since(4)), None, "above the top");
    assert_eq!(bench.recover("news", any(u64::MAX)), None);
    assert_eq!(bench.recover("news", Since { offset: 3, epoch: "other" }), None);

    let mut bounded = |count_max, bytes_max| {
        let bounds = RecoveryBounds { count_max, bytes_max };
        bench.recovered("news", since(1), RecoveryMode::Stream, bounds)
    };
    assert!(bounded(2, 5).is_some());
    assert_eq!(bounded(1, 5), None);
    assert_eq!(bounded(2, 4), None);
}

#[test]
fn cache_recovery_brings_the_newest_unless_it_is_known() {
    let mut bench = Bench::roomy();
    let epoch = bench.position("news").epoch.text(PREFIX);
    let since = |offset| Since { offset, epoch: &epoch };
    let cache = |bench: &mut Bench, since: Since<'_>| {
        bench.recovered("news", since, RecoveryMode::Cache, BOUNDS)
    };
    assert_eq!(cache(&mut bench, since(0)), None, "there is nothing to bring");
    bench.publish("news", "a");
    bench.publish("news", "b");
    assert_eq!(cache(&mut bench, since(0)).unwrap(), ["2 b"]);
    assert_eq!(cache(&mut bench, since(9)).unwrap(), ["2 b"]);
    assert_eq!(cache(&mut bench, any(2)).unwrap(), ["2 b"], "the 2 of some epoch");
    assert_eq!(cache(&mut bench, Since { offset: 2, epoch: "other" }).unwrap(), ["2 b"]);
    assert_eq!(cache(&mut bench, since(2)).unwrap(), [""; 0]);
    let tight = RecoveryBounds { count_max: 1, bytes_max: 0 };
    assert_eq!(bench.recovered("news", since(1), RecoveryMode::Cache, tight), None);
    bench.streams.remove("news");
    assert_eq!(cache(&mut bench, since(1)), None);
    assert_eq!(cache(&mut bench, since(2)).unwrap(), [""; 0]);
}

#[test]
fn history_is_read_from_both_ends() {
    let mut bench = Bench::roomy();
    bench.options.size = 3;
    let epoch = bench.position("news").epoch.text(PREFIX);
    for text in ["a", "b", "c", "d"] {
        bench.publish("news", text);
    }
    let filter = |limit, since: Option<u64>, reverse| HistoryFilter {
        limit,
        since: since.map(|offset| Since { offset, epoch: &epoch }),
        reverse,
    };
    /// Limit, since, reverse, and what is read.
    type Case = (Option<usize>, Option<u64>, bool, &'static [&'static str]);
    let cases: &[Case] = &[
        (None, None, false, &["2 b", "3 c", "4 d"]),
        (Some(2), None, false, &["2 b", "3 c"]),
        (Some(2), None, true, &["4 d", "3 c"]),
        (Some(0), None, false, &[]),
        (Some(9), None, true, &["4 d", "3 c", "2 b"]),
        // After a position; what is too old begins with the oldest.
        (None, Some(2), false, &["3 c", "4 d"]),
        (Some(1), Some(2), false, &["3 c"]),
        (None, Some(0), false, &["2 b", "3 c", "4 d"]),
        (None, Some(4), false, &[]),
        (None, Some(9), false, &[]),
        (None, Some(u64::MAX), false, &[]),
        // Before a position.
        (None, Some(4), true, &["3 c", "2 b"]),
        (Some(1), Some(5), true, &["4 d"]),
        (None, Some(6), true, &[]),
        (None, Some(2), true, &[]),
        (None, Some(1), true, &[]),
    ];
    for (limit, since, reverse, expected) in cases {
        let read = bench.read("news", filter(*limit, *since, *reverse)).unwrap();
        assert_eq!(read, *expected, "limit {limit:?} since {since:?} reverse {reverse}");
    }
    assert_eq!(bench.read("news", filter(None, Some(0), true)), Err(ErrorCode::BAD_REQUEST));
    let other = HistoryFilter { since: Some(Since { offset: 2, epoch: "other" }), ..ALL };
    assert_eq!(bench.read("news", other), Err(ErrorCode::UNRECOVERABLE_POSITION));
    let of_any = HistoryFilter { since: Some(any(3)), ..ALL };
    assert_eq!(bench.read("news", of_any).unwrap(), ["4 d"]);
}

#[test]
fn entries_go_together_and_the_position_stays() {
    let mut bench = Bench::roomy();
    let start = bench.position("news");
    bench.publish("news", "a");
    bench.now_ms = 900;
    bench.publish("news", "b");
    bench.now_ms = 1_899;
    assert_eq!(bench.kept("news"), ["1 a", "2 b"]);
    bench.now_ms = 1_900;
    assert!(bench.kept("news").is_empty());
    assert_eq!(bench.position("news"), Position { offset: 2, ..start });
    assert_eq!(bench.recover("news", any(2)).unwrap(), [""; 0], "in step");
    assert_eq!(bench.recover("news", any(1)), None);
    assert_eq!(bench.publish("news", "c").offset, 3);
    assert_eq!(bench.recover("news", any(1)), None, "2 is gone");
    assert_eq!(bench.recover("news", any(2)).unwrap(), ["3 c"]);
}

#[test]
fn an_unused_position_is_forgotten_and_comes_back_with_another_epoch() {
    let mut bench = Bench::roomy();
    let before = bench.publish("news", "a");
    bench.now_ms = 4_999;
    assert_eq!(bench.position("news"), before, "the question prolongs it");
    bench.now_ms = 9_998;
    assert_eq!(bench.position("news"), before);
    bench.now_ms = 14_998;
    let after = bench.position("news");
    assert_eq!(after.offset, 0);
    assert_ne!(after.epoch, before.epoch);
    assert_eq!(bench.streams.counts().streams, 1);
}

#[test]
fn the_position_of_a_channel_with_subscribers_stays() {
    let mut bench = Bench::roomy();
    bench.pin("news");
    let before = bench.publish("news", "a");
    bench.now_ms = 1_000_000;
    assert!(!bench.streams.expire(bench.now_ms));
    assert_eq!(bench.streams.counts().entries, 0);
    assert_eq!(bench.pin("news"), before);
    bench.streams.unpin(bench.now_ms, "news");
    bench.now_ms += 4_999;
    assert!(!bench.streams.expire(bench.now_ms));
    assert_eq!(bench.streams.counts().streams, 1, "it stays for a while after they left");
    bench.now_ms += 1;
    assert!(!bench.streams.expire(bench.now_ms));
    assert_eq!(bench.streams.counts(), StreamCounts::default());
    bench.streams.unpin(bench.now_ms, "news");
    bench.streams.remove("news");
    assert_eq!(bench.streams.counts().streams, 0, "neither creates a stream");
}

#[test]
fn removed_entries_leave_offset_epoch_and_version() {
    let mut bench = Bench::roomy();
    let version = Version { number: 5, epoch: "" };
    let Placement::New(before) = bench.publish_as("news", version, "a") else { panic!() };
    bench.streams.remove("news");
    assert!(bench.kept("news").is_empty());
    assert_eq!(bench.publish_as("news", version, "b"), Placement::Suppressed(before));
    assert_eq!(bench.publish("news", "c"), Position { offset: 2, ..before });
}

#[test]
fn a_version_that_is_not_above_is_suppressed() {
    let mut bench = Bench::roomy();
    let mut offset_of =
        |number, epoch, text| match bench.publish_as("news", Version { number, epoch }, text) {
            Placement::New(position) => Ok(position.offset),
            Placement::Suppressed(position) => Err(position.offset),
        };
    assert_eq!(offset_of(5, "one", "a"), Ok(1));
    assert_eq!(offset_of(5, "one", "b"), Err(1));
    assert_eq!(offset_of(4, "", "b"), Err(1), "no epoch stands for any");
    assert_eq!(offset_of(4, "two", "b"), Ok(2), "another epoch counts anew");
    assert_eq!(offset_of(6, "one", "c"), Ok(3));
    assert_eq!(offset_of(0, "", "d"), Ok(4), "without a version nothing is compared");
    assert_eq!(offset_of(6, "one", "e"), Err(4), "and nothing is changed");
    assert_eq!(offset_of(7, "", "e"), Ok(5));
    assert_eq!(offset_of(7, "one", "f"), Ok(6), "the version before had no epoch");
    assert_eq!(bench.kept("news"), ["1 a", "2 b", "3 c", "4 d", "5 e", "6 f"]);
}

#[test]
fn a_suppressed_publication_does_not_prolong_the_entries() {
    let mut bench = Bench::roomy();
    let version = Version { number: 1, epoch: "" };
    bench.publish_as("news", version, "a");
    bench.now_ms = 999;
    assert!(matches!(bench.publish_as("news", version, "a"), Placement::Suppressed(_)));
    bench.now_ms = 1_000;
    assert!(bench.kept("news").is_empty());
}

/// Bytes of a stream `name` with these entries, as the table counts them.
fn cost(name: &str, entries: &[&str]) -> usize {
    let mut bench = Bench::roomy();
    bench.position(name);
    for text in entries {
        bench.publish(name, text);
    }
    bench.streams.counts().bytes
}

#[test]
fn all_that_is_kept_is_counted() {
    let mut bench = Bench::roomy();
    assert_eq!(cost("news", &["aaa"]) - cost("news", &["a"]), 2);
    assert_eq!(cost("longer", &[]) - cost("long", &[]), 2);
    bench.options.size = 1;
    bench.publish_as("news", Version { number: 1, epoch: "" }, "a");
    let without_epoch = bench.streams.counts().bytes;
    assert!(without_epoch > cost("news", &["a"]));
    bench.publish_as("news", Version { number: 1, epoch: "twelve bytes" }, "a");
    assert_eq!(bench.streams.counts().bytes, without_epoch + 12);
    bench.now_ms = 5_000;
    bench.streams.expire(bench.now_ms);
    assert_eq!(bench.streams.counts(), StreamCounts::default());
}

#[test]
fn when_full_the_least_recently_published_loses_its_oldest() {
    let room = 2 * cost("a", &["1", "1"]);
    let mut bench = Bench::new(room);
    let away = bench.position("a");
    for channel in ["a", "b", "b", "a"] {
        bench.publish(channel, "1");
    }
    assert_eq!(bench.streams.counts().bytes, room);
    bench.kept("b");
    bench.publish("a", "1");
    assert_eq!(bench.kept("b"), ["2 1"], "being read saves nothing");
    assert_eq!(bench.kept("a"), ["1 1", "2 1", "3 1"]);
    bench.publish("a", "1");
    assert!(bench.kept("b").is_empty());
    assert_eq!(bench.recover("b", any(1)), None);
    assert_eq!(bench.recover("b", any(2)).unwrap(), [""; 0], "its position stays");
    bench.publish("a", "1");
    assert_eq!(bench.kept("a"), ["2 1", "3 1", "4 1", "5 1"], "and then its own");
    assert_eq!(bench.position("a").epoch, away.epoch);
    let counts = bench.streams.counts();
    assert_eq!((counts.entries_evicted, counts.streams_evicted), (3, 0));
    assert_eq!(counts.bytes, cost("a", &["1"; 4]) + cost("b", &[]));
}

#[test]
fn what_does_not_fit_alone_is_not_kept_and_leaves_no_hole() {
    let mut bench = Bench::new(2 * cost("a", &["1"]));
    bench.publish("b", "1");
    bench.publish("a", "1");
    let large = "x".repeat(bench.streams.bytes_max);
    assert_eq!(bench.publish("a", &large).offset, 2);
    assert!(bench.kept("a").is_empty());
    assert_eq!(bench.kept("b"), ["1 1"], "others lose nothing for it");
    assert_eq!(bench.recover("a", any(1)), None);
    assert_eq!(bench.recover("a", any(2)).unwrap(), [""; 0]);
    bench.publish("a", "3");
    assert_eq!(bench.recover("a", any(2)).unwrap(), ["3 3"]);
    assert_eq!(bench.recover("a", any(0)), None);
}

#[test]
fn names_used_once_displace_each_other_and_not_the_entries() {
    let record = cost("c00", &[]);
    let mut bench = Bench::new(cost("news", &["1"; 20]) + 3 * record);
    bench.pin("news");
    for _ in 0..20 {
        bench.publish("news", "1");
    }
    let first = bench.position("c00");
    for number in 1..50 {
        bench.position(&format!("c{number:02}"));
    }
    let kept = bench.kept("news").len();
    assert!(kept > 10, "{kept} of 20 kept");
    let counts = bench.streams.counts();
    assert!(counts.streams < 15, "{} streams", counts.streams);
    assert!(counts.bytes <= bench.streams.bytes_max);
    assert_ne!(bench.position("c00").epoch, first.epoch);
    let last = bench.position("c49");
    bench.position("c60");
    assert_eq!(bench.position("c49"), last, "the least recently used one went");
}

#[test]
fn channels_with_subscribers_keep_their_position_when_nothing_fits() {
    let mut bench = Bench::new(0);
    let pinned: Vec<Position> = ["a", "b", "c"].map(|channel| bench.pin(channel)).into();
    for (channel, start) in ["a", "b", "c"].into_iter().zip(pinned) {
        assert_eq!(bench.publish(channel, "1"), Position { offset: 1, ..start });
        assert!(bench.kept(channel).is_empty());
        assert_eq!(bench.position(channel), Position { offset: 1, ..start });
    }
    assert_eq!(bench.publish("other", "1").offset, 1);
    assert_eq!(bench.streams.counts().streams, 3);
}

#[test]
fn expiry_is_cut_into_turns_and_ends() {
    let mut bench = Bench::roomy();
    assert_eq!(bench.streams.next_ms(), None);
    for number in 0..1_500 {
        bench.publish(&format!("c{number}"), "1");
    }
    assert_eq!(bench.streams.next_ms(), Some(1_000));
    assert!(!bench.streams.expire(999));
    assert_eq!(bench.streams.counts().entries, 1_500);
    assert!(bench.streams.expire(1_000), "512 streams and their entries");
    assert_eq!(bench.streams.counts().entries, 1_500 - 512);
    assert!(bench.streams.expire(1_000));
    assert!(!bench.streams.expire(1_000));
    assert_eq!(bench.streams.counts().entries, 0);
    assert_eq!(bench.streams.next_ms(), Some(5_000));
    assert!(bench.streams.expire(5_000));
    assert!(!bench.streams.expire(5_000));
    assert_eq!(bench.streams.counts(), StreamCounts::default());
    assert_eq!(bench.streams.next_ms(), None);
}

#[test]
fn a_busy_stream_is_looked_at_once_per_ttl() {
    let mut bench = Bench::roomy();
    bench.pin("news");
    bench.publish("news", "1");
    for now_ms in 1..=999 {
        bench.now_ms = now_ms;
        bench.publish("news", "1");
        assert_eq!(bench.streams.next_ms(), Some(1_000));
    }
    assert!(!bench.streams.expire(1_000));
    assert_eq!(bench.streams.next_ms(), Some(1_999));
    assert!(!bench.streams.expire(1_999));
    assert_eq!(bench.streams.next_ms(), None, "a pinned position waits for nothing");
}

#[test]
fn a_shorter_ttl_is_not_slept_over() {
    let mut bench = Bench::roomy();
    bench.publish("news", "1");
    bench.options.ttl_ms = 10;
    bench.publish("news", "1");
    assert_eq!(bench.streams.next_ms(), Some(10));
    bench.streams.expire(10);
    assert_eq!(bench.streams.counts().entries, 0);
}
