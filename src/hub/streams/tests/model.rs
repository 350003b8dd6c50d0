//! Whole histories against lists that are searched.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

pub(super) const CHANNELS: [&str; 5] = ["a", "bb", "ccc", "dddd", "eeeee"];

/// One input. Channels are places in `CHANNELS`.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Publish {
        channel: usize,
        length: usize,
        version: u64,
        of: usize,
    },
    Position {
        channel: usize,
    },
    Pin {
        channel: usize,
    },
    Unpin {
        channel: usize,
    },
    Remove {
        channel: usize,
    },
    Recover {
        channel: usize,
        back: u64,
        ahead: bool,
        of: usize,
        cache: bool,
        bounds: (usize, usize),
    },
    Read {
        channel: usize,
        limit: Option<usize>,
        back: Option<u64>,
        of: usize,
        reverse: bool,
    },
    Later {
        ms: u64,
    },
    Expire,
    Options {
        size: usize,
        ttl_ms: u64,
        meta_ttl_ms: u64,
    },
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let channel = 0..CHANNELS.len();
    prop_oneof![
        10 => (channel.clone(), 0..60usize, 0..6u64, 0..3usize)
            .prop_map(|(channel, length, version, of)| Step::Publish {
                channel, length, version: version.saturating_sub(3), of,
            }),
        1 => channel.clone().prop_map(|channel| Step::Position { channel }),
        1 => channel.clone().prop_map(|channel| Step::Pin { channel }),
        1 => channel.clone().prop_map(|channel| Step::Unpin { channel }),
        1 => channel.clone().prop_map(|channel| Step::Remove { channel }),
        5 => (channel.clone(), 0..6u64, prop::bool::weighted(0.1), 0..3usize, any_bool(),
              (0..8usize, 0..200usize))
            .prop_map(|(channel, back, ahead, of, cache, bounds)| Step::Recover {
                channel, back, ahead, of, cache, bounds,
            }),
        4 => (channel, prop::option::of(0..6usize), prop::option::of(0..6u64), 0..3usize, any_bool())
            .prop_map(|(channel, limit, back, of, reverse)| Step::Read {
                channel, limit, back, of, reverse,
            }),
        2 => (0..60u64).prop_map(|ms| Step::Later { ms }),
        2 => Just(Step::Expire),
        1 => (0..5usize, 0..100u64, 0..200u64).prop_map(|(size, ttl_ms, meta_ttl_ms)| {
            Step::Options { size, ttl_ms, meta_ttl_ms: meta_ttl_ms.max(ttl_ms) }
        }),
    ]
}

fn any_bool() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.4)
}

/// A stream as a list of all that it keeps.
#[derive(Clone, Debug)]
struct Plain {
    channel: usize,
    epoch: u64,
    top: u64,
    kept: Vec<(u64, String)>,
    version: Option<(u64, &'static str)>,
    pinned: bool,
    expires_ms: u64,
    forget_ms: u64,
    meta_ttl_ms: u64,
    /// When it was published to, in inputs.
    published: u64,
    /// When it was used, or began to keep nothing for nobody, in inputs.
    idle: u64,
}

impl Plain {
    fn record_bytes(&self) -> usize {
        let versioned = match self.version {
            Some((number, epoch)) => {
                let mut bench = Bench::roomy();
                bench.options.size = 0;
                bench.publish_as("", Version { number, epoch }, "");
                bench.streams.counts().bytes - cost("", &[])
            }
            None => 0,
        };
        cost("", &[]) + CHANNELS[self.channel].len() + versioned
    }

    fn bytes(&self) -> usize {
        if self.kept.is_empty() {
            return self.record_bytes();
        }
        let entry = cost("", &["", ""]) - cost("", &[""]);
        let queue = cost("", &[""]) - cost("", &[]) - entry;
        let entry = entry + CHANNELS[self.channel].len();
        let entries: usize = self.kept.iter().map(|(_, text)| entry + text.len()).sum();
        self.record_bytes() + queue + entries
    }

    fn is_idle(&self) -> bool {
        self.kept.is_empty() && !self.pinned
    }
}

/// What `Streams` does, by search.
struct Model {
    streams: Vec<Plain>,
    epochs: u64,
    uses: u64,
    bytes_max: usize,
    options: HistoryOptions,
    now_ms: u64,
}

const EPOCHS: [&str; 3] = ["", "one", "two"];

impl Model {
    fn bytes(&self) -> usize {
        self.streams.iter().map(Plain::bytes).sum()
    }

    /// The stream of `channel` as it is now, if it is.
    fn find(&mut self, channel: usize) -> Option<usize> {
        let now_ms = self.now_ms;
        self.streams.retain(|it| it.channel != channel || it.pinned || it.forget_ms > now_ms);
        let found = self.streams.iter().position(|it| it.channel == channel)?;
        self.expire_entries(found);
        Some(found)
    }

    fn expire_entries(&mut self, at: usize) {
        self.uses += 1;
        let stream = &mut self.streams[at];
        if stream.expires_ms <= self.now_ms && !stream.kept.is_empty() {
            stream.kept.clear();
            stream.idle = self.uses;
        }
    }

    fn open(&mut self, channel: usize) -> usize {
        let found = self.find(channel).unwrap_or_else(|| {
            let stream = Plain {
                channel,
                epoch: self.epochs,
                top: 0,
                kept: Vec::new(),
                version: None,
                pinned: false,
                expires_ms: 0,
                forget_ms: 0,
                meta_ttl_ms: 0,
                published: 0,
                idle: 0,
            };
            self.epochs += 1;
            self.make_room(stream.bytes());
            self.streams.push(stream);
            self.streams.len() - 1
        });
        self.uses += 1;
        let stream = &mut self.streams[found];
        stream.idle = self.uses;
        stream.meta_ttl_ms = self.options.meta_ttl_ms;
        stream.forget_ms = self.now_ms + self.options.meta_ttl_ms;
        found
    }

    fn make_room(&mut self, bytes: usize) {
        while self.bytes() + bytes > self.bytes_max {
            let indices = || 0..self.streams.len();
            let idle = indices().filter(|at| self.streams[*at].is_idle());
            let idle_bytes: usize = idle.clone().map(|at| self.streams[at].bytes()).sum();
            let idle = idle.min_by_key(|at| self.streams[*at].idle);
            let kept = indices()
                .filter(|at| !self.streams[*at].kept.is_empty())
                .min_by_key(|at| self.streams[*at].published);
            match (idle, kept) {
                (Some(idle), Some(_)) if idle_bytes > self.bytes_max / 4 => {
                    self.streams.remove(idle);
                }
                (_, Some(kept)) => {
                    self.streams[kept].kept.remove(0);
                    self.uses += 1;
                    self.streams[kept].idle = self.uses;
                }
                (Some(idle), None) => {
                    self.streams.remove(idle);
                }
                (None, None) => break,
            }
        }
    }

    /// The offset and whether it was published.
    fn publish(
        &mut self,
        channel: usize,
        text: &str,
        number: u64,
        epoch: &'static str,
    ) -> (u64, u64, bool) {
        let at = self.open(channel);
        let (now_ms, options, bytes_max) = (self.now_ms, self.options, self.bytes_max);
        self.uses += 1;
        let uses = self.uses;
        let stream = &mut self.streams[at];
        if let Some((known, known_epoch)) = stream.version
            && number > 0
            && (epoch.is_empty() || epoch == known_epoch)
            && number <= known
        {
            return (stream.epoch, stream.top, false);
        }
        if number > 0 {
            stream.version = Some((number, epoch));
        }
        stream.top += 1;
        stream.expires_ms = now_ms + options.ttl_ms;
        (stream.published, stream.idle) = (uses, uses);
        let alone = Plain { kept: vec![(0, text.to_owned())], ..stream.clone() };
        if options.size == 0 || alone.bytes() > bytes_max {
            stream.kept.clear();
        } else {
            stream.kept.push((stream.top, text.to_owned()));
            let excess = stream.kept.len().saturating_sub(options.size);
            stream.kept.drain(..excess);
        }
        let answer = (stream.epoch, stream.top, true);
        self.make_room(0);
        answer
    }

    /// What is kept, in protocol terms.
    fn texts(kept: &[(u64, String)]) -> Vec<String> {
        kept.iter().map(|(offset, text)| format!("{offset} {text}")).collect()
    }
}

/// The real thing and the model, side by side.
struct Pair {
    bench: Bench,
    model: Model,
    /// All that was ever published, by epoch.
    ledger: BTreeMap<u64, Vec<String>>,
}

impl Pair {
    fn new(bytes_max: usize, options: HistoryOptions) -> Self {
        let mut bench = Bench::new(bytes_max);
        bench.options = options;
        let model =
            Model { streams: Vec::new(), epochs: 0, uses: 0, bytes_max, options, now_ms: 0 };
        Self { bench, model, ledger: BTreeMap::new() }
    }

    /// The text of an epoch number: the model's, of another process, none.
    fn epoch(epoch: u64, of: usize) -> String {
        match of {
            0 => Epoch::new(0, epoch).text(PREFIX),
            1 => String::new(),
            _ => "other".to_owned(),
        }
    }

    fn position_of(&mut self, channel: usize) -> Position {
        let at = self.model.open(channel);
        let stream = &self.model.streams[at];
        Position { offset: stream.top, epoch: Epoch::new(0, stream.epoch) }
    }

    fn run(&mut self, number: usize, step: Step) {
        match step {
            Step::Publish { channel, length, version, of } => {
                let text = format!("{number}{}", "x".repeat(length));
                let version = Version { number: version, epoch: EPOCHS[of] };
                let (epoch, offset, new) =
                    self.model.publish(channel, &text, version.number, EPOCHS[of]);
                let position = Position { offset, epoch: Epoch::new(0, epoch) };
                let expected =
                    if new { Placement::New(position) } else { Placement::Suppressed(position) };
                assert_eq!(self.bench.publish_as(CHANNELS[channel], version, &text), expected);
                if new {
                    let published = self.ledger.entry(epoch).or_default();
                    published.push(format!("{offset} {text}"));
                    assert_eq!(published.len() as u64, offset, "offsets are dense");
                }
            }
            Step::Position { channel } => {
                let expected = self.position_of(channel);
                assert_eq!(self.bench.position(CHANNELS[channel]), expected);
            }
            Step::Pin { channel } => {
                let expected = self.position_of(channel);
                assert_eq!(self.bench.pin(CHANNELS[channel]), expected);
                let at = self.model.find(channel).unwrap();
                self.model.streams[at].pinned = true;
            }
            Step::Unpin { channel } => {
                self.bench.streams.unpin(self.bench.now_ms, CHANNELS[channel]);
                self.model.uses += 1;
                let model = &mut self.model;
                if let Some(it) = model.streams.iter_mut().find(|it| it.channel == channel) {
                    it.pinned = false;
                    it.idle = model.uses;
                    it.forget_ms = model.now_ms + it.meta_ttl_ms;
                    model.make_room(0);
                }
            }
            Step::Remove { channel } => {
                self.bench.streams.remove(CHANNELS[channel]);
                self.model.uses += 1;
                let model = &mut self.model;
                if let Some(it) = model.streams.iter_mut().find(|it| it.channel == channel) {
                    it.kept.clear();
                    it.idle = model.uses;
                }
            }
            Step::Recover { channel, back, ahead, of, cache, bounds } => {
                self.recover(channel, back, ahead, of, cache, bounds);
            }
            Step::Read { channel, limit, back, of, reverse } => {
                self.read(channel, limit, back, of, reverse);
            }
            Step::Later { ms } => {
                self.bench.now_ms += ms;
                self.model.now_ms += ms;
            }
            Step::Expire => self.expire(),
            Step::Options { size, ttl_ms, meta_ttl_ms } => {
                self.bench.options = HistoryOptions { size, ttl_ms, meta_ttl_ms };
                self.model.options = self.bench.options;
            }
        }
    }

    fn recover(
        &mut self,
        channel: usize,
        back: u64,
        ahead: bool,
        of: usize,
        cache: bool,
        (count_max, bytes_max): (usize, usize),
    ) {
        let position = self.position_of(channel);
        let at = self.model.find(channel).unwrap();
        let stream = self.model.streams[at].clone();
        let offset = if ahead { stream.top + back } else { stream.top.saturating_sub(back) };
        let epoch = Self::epoch(stream.epoch, of);
        let all = self.ledger.get(&stream.epoch).cloned().unwrap_or_default();

        // What was published after the offset, if that is still kept; by the ledger.
        let mut expected = match cache {
            false if of == 2 || offset > stream.top => None,
            false => Some(all[offset as usize..].to_vec()),
            true if of == 0 && offset == stream.top && offset > 0 => Some(Vec::new()),
            true => all.last().cloned().map(|newest| vec![newest]),
        };
        let kept = Model::texts(&stream.kept);
        if let Some(entries) = &expected {
            let payload = |entry: &String| entry.split_once(' ').unwrap().1.len();
            let bytes: usize = entries.iter().map(payload).sum();
            let there = entries.iter().all(|entry| kept.contains(entry));
            if !there || entries.len() > count_max || bytes > bytes_max {
                expected = None;
            }
        }
        let since = Since { offset, epoch: &epoch };
        let mode = if cache { RecoveryMode::Cache } else { RecoveryMode::Stream };
        let bounds = RecoveryBounds { count_max, bytes_max };
        let recovered = self.bench.recovered(CHANNELS[channel], since, mode, bounds);
        assert_eq!(recovered, expected);
        assert_eq!(self.bench.position(CHANNELS[channel]), position);
        self.position_of(channel);
    }

    fn read(
        &mut self,
        channel: usize,
        limit: Option<usize>,
        back: Option<u64>,
        of: usize,
        reverse: bool,
    ) {
        let at = self.model.open(channel);
        let stream = self.model.streams[at].clone();
        let epoch = Self::epoch(stream.epoch, of);
        let offset = back.map(|back| (stream.top + 2).saturating_sub(back));
        let kept = stream.kept.clone();
        let expected = match offset {
            Some(0) if reverse => Err(ErrorCode::BAD_REQUEST),
            Some(_) if of == 2 => Err(ErrorCode::UNRECOVERABLE_POSITION),
            _ => {
                let mut part: Vec<_> = kept.clone();
                if reverse {
                    part.reverse();
                }
                match offset {
                    Some(offset) if reverse => {
                        let there = kept.iter().any(|(it, _)| it + 1 == offset);
                        part.retain(|(it, _)| *it < offset && there);
                    }
                    Some(offset) => part.retain(|(it, _)| *it > offset),
                    None => {}
                }
                part.truncate(limit.unwrap_or(usize::MAX));
                Ok(Model::texts(&part))
            }
        };
        let since = offset.map(|offset| Since { offset, epoch: &epoch });
        let filter = HistoryFilter { limit, since, reverse };
        assert_eq!(self.bench.read(CHANNELS[channel], filter), expected);
    }

    /// In the model all that is over goes in one go: only without evictions is that the same.
    fn expire(&mut self) {
        assert!(!self.bench.streams.expire(self.bench.now_ms));
        for channel in 0..CHANNELS.len() {
            self.model.find(channel);
        }
        let (counts, model) = (self.bench.streams.counts(), &self.model);
        assert_eq!(counts.streams, model.streams.len());
        let due = model.streams.iter().map(|it| {
            let expires_ms = if it.kept.is_empty() { u64::MAX } else { it.expires_ms };
            if it.pinned { expires_ms } else { expires_ms.min(it.forget_ms) }
        });
        let due_ms = due.min().filter(|due_ms| *due_ms != u64::MAX);
        match (self.bench.streams.next_ms(), due_ms) {
            (Some(next_ms), Some(due_ms)) => {
                assert!(self.bench.now_ms < next_ms && next_ms <= due_ms, "never late");
            }
            (None, Some(due_ms)) => panic!("nobody waits for {due_ms}"),
            (_, None) => {}
        }
    }

    /// What holds after every input.
    fn check(&self) {
        let (counts, model) = (self.bench.streams.counts(), &self.model);
        let entries: usize = model.streams.iter().map(|it| it.kept.len()).sum();
        assert_eq!((counts.streams, counts.entries), (model.streams.len(), entries));
        assert_eq!(counts.bytes, model.bytes());
        let unpinned = model.streams.iter().filter(|it| !it.pinned).count();
        assert!(
            counts.bytes <= model.bytes_max || (entries == 0 && unpinned <= 1),
            "{counts:?} with {unpinned} unpinned of {} bytes",
            model.bytes_max
        );
    }
}

fn run(bytes_max: usize, options: HistoryOptions, steps: Vec<Step>) {
    let mut pair = Pair::new(bytes_max, options);
    for (number, step) in steps.into_iter().enumerate() {
        pair.run(number, step);
        pair.check();
    }
}

const LONG: HistoryOptions = HistoryOptions { size: 5, ttl_ms: 1 << 40, meta_ttl_ms: 1 << 41 };

const SHORT: HistoryOptions = HistoryOptions { size: 3, ttl_ms: 50, meta_ttl_ms: 150 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn without_a_bound_all_goes_in_its_time(steps in prop::collection::vec(step(), 0..120)) {
        run(usize::MAX, SHORT, steps);
    }

    #[test]
    fn with_a_bound_the_right_one_loses(
        steps in prop::collection::vec(step(), 0..120),
        bytes_max in 0..5_000usize,
    ) {
        let steps = steps
            .into_iter()
            .filter(|step| !matches!(step, Step::Expire | Step::Options { .. }))
            .collect();
        run(bytes_max, LONG, steps);
    }
}
