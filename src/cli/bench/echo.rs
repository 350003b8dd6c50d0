//! Each connection gets its own messages back: round trips, saturated or at a fixed rate.
//!
//! Over the Centrifuge protocol each connection publishes to a channel that it alone has
//! subscribed.

use super::connections::{Connections, Loss, Outbox, Sink};
use super::measure::{DRAIN_SECONDS_MAX, STALL_SECONDS_MAX, Stage, Stopwatch, Tally};
use super::pace::{Pace, Schedule};
use super::protocol::Message;
use super::report::{Latency, Report};
use super::{Common, Error};

struct Echo {
    tally: Tally,
    /// One message per connection: over Centrifuge each has its own channel.
    messages: Vec<Message>,
    /// Sent and not come back, by connection.
    outstanding: Vec<u64>,
    sent: u64,
    /// Whether an echo is answered with the next message.
    refill: bool,
}

impl Echo {
    fn send(&mut self, slot: usize, intended: u64, outbox: &mut Outbox) {
        self.messages[slot].send(intended, outbox);
        self.outstanding[slot] += 1;
        self.sent += 1;
    }
}

impl Sink for Echo {
    fn ready(&mut self, _slot: usize, _now: u64) {}

    fn delivery(&mut self, slot: usize, now: u64, body: &[u8], outbox: &mut Outbox) {
        self.tally.delivery(slot, now, body);
        self.outstanding[slot] = self.outstanding[slot].saturating_sub(1);
        if self.refill {
            self.send(slot, now, outbox);
        }
    }

    fn refused(&mut self, text: String) {
        self.tally.failures.add(text);
    }

    fn ended(&mut self, slot: usize, _received: u64, loss: Option<Loss>) {
        self.outstanding[slot] = 0;
        self.tally.ended(loss);
    }
}

/// The name of a connection's own channel.
pub(super) fn channel(base: &str, slot: usize) -> String {
    format!("{base}-{slot}")
}

pub(super) fn run(
    options: &Common,
    pace: &Pace,
    mut connections: Connections,
) -> Result<Report, Error> {
    let count = options.connections;
    let clock = connections.clock;
    let sample = options.sample(options.connections);
    let mut echo = Echo {
        tally: Tally::new(options.protocol, sample, count),
        messages: (0..count)
            .map(|slot| Message::new(options.protocol, &channel(&options.channel, slot), pace.size))
            .collect(),
        outstanding: vec![0; count],
        sent: 0,
        refill: pace.rate.is_none(),
    };
    let start = clock.now();
    let mut watch = options.stopwatch(start);
    echo.tally.window = watch.window.clone();
    let mut schedule = pace.rate.map(|rate| Schedule::new(start, rate));
    if schedule.is_none() {
        fill(&mut connections, &mut echo, count, pace.window());
    }
    let mut alive = (start, 0);
    loop {
        let now = clock.now();
        let stage = watch.tick(now, echo.sent, echo.tally.deliveries, connections.idle);
        if let Some(schedule) = &mut schedule {
            while let Some(due) = schedule.due(now) {
                let slot = (schedule.sent() - 1) as usize % count;
                if let Some(outbox) = connections.outbox(slot) {
                    echo.send(slot, due, outbox);
                    connections.flush(slot, &mut echo);
                }
            }
        } else if echo.tally.deliveries != alive.1 {
            alive = (now, echo.tally.deliveries);
        } else if now > alive.0 + STALL_SECONDS_MAX * 1_000_000_000 {
            return Err(Error::Stalled { deliveries: alive.1, first: echo.tally.failures.first });
        }
        // What was due before the end has been sent, also by a generator that was not there in time.
        if stage == Stage::Over {
            break;
        }
        let patience = watch.patience(now, schedule.as_ref().map(Schedule::next));
        connections.turn(patience, &mut echo)?;
        if echo.tally.live == 0 {
            return Err(Error::AllLost(echo.tally.failures.first));
        }
    }
    echo.refill = false;
    let deadline = clock.now() + DRAIN_SECONDS_MAX * 1_000_000_000;
    while echo.outstanding.iter().any(|outstanding| *outstanding > 0) {
        let now = clock.now();
        if now > deadline {
            break;
        }
        connections.turn(watch.patience(now, None), &mut echo)?;
    }
    Ok(report(options, pace, &watch, echo, sample))
}

fn fill(connections: &mut Connections, echo: &mut Echo, count: usize, window: u32) {
    for slot in 0..count {
        for _ in 0..window {
            let now = connections.clock.now();
            if let Some(outbox) = connections.outbox(slot) {
                echo.send(slot, now, outbox);
            }
        }
        connections.flush(slot, echo);
    }
}

fn report(options: &Common, pace: &Pace, watch: &Stopwatch, echo: Echo, sample: usize) -> Report {
    let outstanding: u64 = echo.outstanding.iter().sum();
    Report {
        payload_bytes: Some(pace.size),
        window: pace.rate.is_none().then(|| pace.window()),
        rate: pace.rate,
        messages_total: echo.sent,
        deliveries_total: echo.tally.deliveries,
        undelivered: outstanding as i64,
        latency: Latency::of(&echo.tally.latency, sample),
        ..Report::new("echo", options, watch.result.unwrap_or_default())
    }
    .failures(echo.tally.failures)
}
