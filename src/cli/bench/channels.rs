//! Many channels, or many subscriptions to few: what each costs the server in memory, and how late
//! publications are when they are spread over all of them.

use serde::Serialize;

use super::centrifuge::{self, Publish};
use super::connections::{Connections, Loss, Outbox, Sink};
use super::measure::{Stage, Tally};
use super::pace::{self, Schedule};
use super::proc::Memory;
use super::report::{Latency, Report};
use super::stamp::STAMP_BYTES;
use super::wire::TEXT;
use super::{Common, Error, idle};

/// Commands of one connection without an answer: far below what a server refuses.
const COMMANDS_IN_FLIGHT: usize = 32;
/// Connections that have such at once: what a server allocates for them is no part of the figures.
const CONNECTIONS_AT_ONCE: usize = 16;
/// For all commands of a stage to be answered.
const STAGE_SECONDS_MAX: u64 = 120;

/// Flags of this case alone.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Flags {
    /// Channels that each connection subscribes to: of its own, unless --shared.
    #[arg(long, value_name = "K", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    per_connection: u32,

    /// All connections subscribe to the same channels.
    #[arg(long, conflicts_with_all = ["history", "rate"])]
    shared: bool,

    /// Publications to each channel before the window: the cost of a history's entry.
    #[arg(long, value_name = "N", default_value_t = 0)]
    history: u32,

    /// Publications per second in the window, to the channels in turn; 0 for none.
    #[arg(long, value_name = "R", default_value_t = 0.0)]
    rate: f64,

    /// Bytes of a payload, its time stamp of 16 included.
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    size: usize,
}

impl Flags {
    pub(super) fn validate(&self) -> Result<(), Error> {
        pace::size(self.size)?;
        if self.rate != 0.0 && !(0.1..=1_000_000.0).contains(&self.rate) {
            return Err(Error::Usage("--rate must be 0, or between 0.1 and 1,000,000".into()));
        }
        Ok(())
    }
}

/// What each thing costs: user memory (`Pss_Anon`, without it `VmRSS`), after less before.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    channels: usize,
    subscriptions: usize,
    bytes_per_connection: Option<f64>,
    /// Where channels are not shared, with its channel.
    bytes_per_subscription: Option<f64>,
    /// Entries that were published; fewer may be kept, by the options of the namespace.
    history_entries: usize,
    bytes_per_history_entry: Option<f64>,
    subscribed_per_s: f64,
}

impl Figures {
    pub(super) fn summary(&self) -> String {
        let bytes = |value: Option<f64>| value.map_or("-".into(), |bytes| format!("{bytes:.0}"));
        format!(
            ", {} channels, {} subscriptions ({:.0}/s), bytes per connection {}, subscription {}, history entry {}",
            self.channels,
            self.subscriptions,
            self.subscribed_per_s,
            bytes(self.bytes_per_connection),
            bytes(self.bytes_per_subscription),
            bytes(self.bytes_per_history_entry)
        )
    }
}

/// Counts deliveries, and the answers that connections wait for.
struct Load {
    tally: Tally,
    published: u64,
    waiting: Vec<usize>,
    /// Connections whose commands have all been answered since somebody looked.
    quiet: Vec<usize>,
}

impl Sink for Load {
    fn ready(&mut self, _slot: usize, _now: u64) {}

    #[inline]
    fn delivery(&mut self, slot: usize, now: u64, body: &[u8], _outbox: &mut Outbox) {
        self.tally.delivery(slot, now, body);
    }

    fn replied(&mut self, slot: usize) {
        // Those of the window's publications are not waited for.
        if self.waiting[slot] > 0 {
            self.waiting[slot] -= 1;
            if self.waiting[slot] == 0 {
                self.quiet.push(slot);
            }
        }
    }

    fn refused(&mut self, text: String) {
        self.tally.failures.add(text);
    }

    fn ended(&mut self, _slot: usize, _received: u64, loss: Option<Loss>) {
        self.tally.ended(loss);
    }
}

impl Load {
    /// Each connection sends `count` commands, and all are answered. `command` appends number n of a
    /// connection, with that id.
    fn stage(
        &mut self,
        connections: &mut Connections,
        count: usize,
        mut command: impl FnMut(usize, usize, &mut Vec<u8>),
    ) -> Result<(), Error> {
        let slots = self.waiting.len();
        let mut sent = vec![0; slots];
        let (mut begun, mut done) = (0, 0);
        let deadline = connections.clock.now() + STAGE_SECONDS_MAX * 1_000_000_000;
        let mut message = Vec::new();
        while done < slots {
            while begun < slots && begun - done < CONNECTIONS_AT_ONCE {
                self.quiet.push(begun);
                begun += 1;
            }
            for slot in std::mem::take(&mut self.quiet) {
                let commands = (count - sent[slot]).min(COMMANDS_IN_FLIGHT);
                if commands == 0 {
                    done += 1;
                    continue;
                }
                message.clear();
                for number in sent[slot]..sent[slot] + commands {
                    command(slot, number, &mut message);
                    message.push(b'\n');
                }
                message.pop();
                sent[slot] += commands;
                self.waiting[slot] = commands;
                if let Some(outbox) = connections.outbox(slot) {
                    outbox.push(TEXT, &message);
                }
                connections.flush(slot, self);
            }
            if let Some(first) = self.tally.failures.first.take() {
                return Err(Error::AllLost(Some(first)));
            }
            if connections.clock.now() > deadline {
                let deliveries = self.tally.deliveries;
                return Err(Error::Stalled { deliveries, first: None });
            }
            if self.quiet.is_empty() && done < slots {
                connections.turn(std::time::Duration::from_millis(100), self)?;
            }
        }
        Ok(())
    }
}

/// Subscribes, publishes what is to be kept, and holds all of it for the window.
pub(super) fn run(
    options: &Common,
    flags: &Flags,
    mut connections: Connections,
    before: Option<Memory>,
) -> Result<Report, Error> {
    let clock = connections.clock;
    let (slots, each) = (options.connections, flags.per_connection as usize);
    let (prefix, shared) = (&options.channel, flags.shared);
    let channel = |slot: usize, number: usize| match shared {
        true => format!("{prefix}{number}"),
        false => format!("{prefix}{slot}-{number}"),
    };
    let mut load = Load {
        tally: Tally::new(options.protocol, options.sample(slots), slots),
        published: 0,
        waiting: vec![0; slots],
        quiet: Vec::new(),
    };
    let connected = idle::memory(options)?;
    let began = clock.now();
    load.stage(&mut connections, each, |slot, number, message| {
        centrifuge::subscribe(&channel(slot, number), number as u32 + 2, message);
    })?;
    let subscribing_ns = clock.now() - began;
    let subscribed = idle::memory(options)?;

    let payload = "x".repeat(flags.size.saturating_sub(STAMP_BYTES));
    let mut publish = Publish::new(&payload);
    let entries = flags.history as usize;
    load.stage(&mut connections, each * entries, |slot, number, message| {
        publish.write(&channel(slot, number % each), clock.now(), message);
    })?;
    let filled = idle::memory(options)?;

    let start = clock.now();
    let mut watch = options.stopwatch(start);
    load.tally.window = watch.window.clone();
    let kept = load.tally.deliveries;
    let mut schedule = (flags.rate > 0.0).then(|| Schedule::new(start, flags.rate));
    let mut message = Vec::new();
    loop {
        let now = clock.now();
        if watch.tick(now, load.published, load.tally.deliveries, connections.idle) == Stage::Over {
            break;
        }
        while let Some(due) = schedule.as_mut().and_then(|schedule| schedule.due(now)) {
            let at = load.published as usize % (slots * each);
            // Neighbours in time are on different connections.
            let (slot, number) = (at % slots, at / slots);
            message.clear();
            publish.write(&channel(slot, number), due, &mut message);
            let Some(outbox) = connections.outbox(slot) else {
                return Err(Error::AllLost(load.tally.failures.first));
            };
            outbox.push(TEXT, &message);
            load.published += 1;
            connections.flush(slot, &mut load);
        }
        let patience = watch.patience(now, schedule.as_ref().map(Schedule::next));
        connections.turn(patience, &mut load)?;
    }
    let deadline = clock.now() + super::measure::DRAIN_SECONDS_MAX * 1_000_000_000;
    while load.tally.deliveries - kept < load.published && clock.now() < deadline {
        connections.turn(watch.patience(clock.now(), None), &mut load)?;
    }

    let subscriptions = slots * each;
    let cost = |from: Option<Memory>, to: Option<Memory>, count: usize| {
        let (from, to) = from.zip(to).filter(|_| count > 0)?;
        Some((idle::user_bytes(to) - idle::user_bytes(from)) / count as f64)
    };
    let figures = Figures {
        channels: if shared { each } else { subscriptions },
        subscriptions,
        bytes_per_connection: cost(before, connected, slots),
        bytes_per_subscription: cost(connected, subscribed, subscriptions),
        history_entries: subscriptions * entries,
        bytes_per_history_entry: cost(subscribed, filled, subscriptions * entries),
        subscribed_per_s: subscriptions as f64 * 1e9 / subscribing_ns.max(1) as f64,
    };
    let deliveries = load.tally.deliveries - kept;
    Ok(Report {
        payload_bytes: Some(flags.size),
        rate: schedule.map(|_| flags.rate),
        messages_total: load.published,
        deliveries_total: deliveries,
        undelivered: load.published as i64 - deliveries as i64,
        latency: Latency::of(&load.tally.latency, options.sample(slots)),
        channels: Some(figures),
        ..Report::new("channels", options, watch.result.unwrap_or_default())
    }
    .failures(load.tally.failures))
}
