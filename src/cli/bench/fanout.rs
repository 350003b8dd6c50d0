//! Few publish, everybody receives: one message becomes as many deliveries as there are
//! connections.
//!
//! A publication counts as in flight until as many deliveries have come as it and those before it
//! make. Latency is measured on each `--sample`th connection, which keeps the generator cheap.

use super::connections::{Connections, Loss, Outbox, Sink};
use super::measure::{DRAIN_SECONDS_MAX, STALL_SECONDS_MAX, Stage, Stopwatch, Tally};
use super::pace::{Pace, Schedule};
use super::protocol::Message;
use super::report::{Latency, Report};
use super::{Common, Error};

/// On about so many connections deliveries are timed: enough for a p999, and no more than a few
/// percent of the cost.
pub(super) const TIMED: usize = 32;

/// Counts deliveries and what is owed; shared with the N x N broadcast.
pub(super) struct Fanout {
    pub(super) tally: Tally,
    /// Publications so far; each is owed to every connection.
    pub(super) published: u64,
    /// Deliveries that make all publications complete on the connections that live.
    expected: u64,
}

impl Fanout {
    pub(super) fn new(options: &Common, sample: usize) -> Self {
        let tally = Tally::new(options.protocol, sample, options.connections);
        Self { tally, published: 0, expected: 0 }
    }

    /// Notes one more publication.
    pub(super) fn publish(&mut self) {
        self.published += 1;
        self.expected += self.tally.live;
    }

    pub(super) fn missing(&self) -> u64 {
        self.expected.saturating_sub(self.tally.deliveries)
    }

    /// Deliveries that are owed; negative if more came than were owed.
    pub(super) fn undelivered(&self) -> i64 {
        self.expected as i64 - self.tally.deliveries as i64
    }

    fn in_flight(&self) -> u64 {
        self.missing().div_ceil(self.tally.live.max(1))
    }
}

impl Sink for Fanout {
    fn ready(&mut self, _slot: usize, _now: u64) {}

    #[inline]
    fn delivery(&mut self, slot: usize, now: u64, body: &[u8], _outbox: &mut Outbox) {
        self.tally.delivery(slot, now, body);
    }

    fn refused(&mut self, text: String) {
        // A refused publication reaches nobody.
        self.published -= 1;
        self.expected = self.expected.saturating_sub(self.tally.live);
        self.tally.failures.add(text);
    }

    fn ended(&mut self, _slot: usize, received: u64, loss: Option<Loss>) {
        self.expected = self.expected.saturating_sub(self.published.saturating_sub(received));
        self.tally.ended(loss);
    }
}

/// Notices that a closed loop has lost a delivery.
pub(super) struct Pulse {
    deliveries: u64,
    at: u64,
}

impl Pulse {
    pub(super) fn new(now: u64) -> Self {
        Self { deliveries: 0, at: now }
    }

    pub(super) fn check(&mut self, now: u64, fanout: &Fanout) -> Result<(), Error> {
        if fanout.tally.live == 0 {
            return Err(Error::AllLost(fanout.tally.failures.first.clone()));
        }
        if fanout.tally.deliveries != self.deliveries || fanout.missing() == 0 {
            *self = Self { deliveries: fanout.tally.deliveries, at: now };
        } else if now > self.at + STALL_SECONDS_MAX * 1_000_000_000 {
            let first = fanout.tally.failures.first.clone();
            return Err(Error::Stalled { deliveries: self.deliveries, first });
        }
        Ok(())
    }
}

pub(super) fn run(
    options: &Common,
    pace: &Pace,
    publishers: usize,
    mut connections: Connections,
) -> Result<Report, Error> {
    let clock = connections.clock;
    let sample = options.sample(TIMED);
    let mut fanout = Fanout::new(options, sample);
    let mut message = Message::new(options.protocol, &options.channel, pace.size);
    let start = clock.now();
    let mut watch = options.stopwatch(start);
    fanout.tally.window = watch.window.clone();
    let mut schedule = pace.rate.map(|rate| Schedule::new(start, rate));
    let mut pulse = Pulse::new(start);
    loop {
        let now = clock.now();
        let (published, deliveries) = (fanout.published, fanout.tally.deliveries);
        if watch.tick(now, published, deliveries, connections.idle) == Stage::Over {
            break;
        }
        let wanted = u64::from(pace.window()).saturating_sub(fanout.in_flight());
        let mut left = if schedule.is_some() { u64::MAX } else { wanted };
        while left > 0 {
            left -= 1;
            let intended = match &mut schedule {
                Some(schedule) => match schedule.due(now) {
                    Some(due) => due,
                    None => break,
                },
                None => now,
            };
            let publisher = fanout.published as usize % publishers;
            if let Some(outbox) = connections.outbox(publisher) {
                message.send(intended, outbox);
                fanout.publish();
            } else {
                return Err(Error::AllLost(fanout.tally.failures.first));
            }
        }
        if fanout.published > published {
            // What one publisher has to send leaves in one write.
            for publisher in 0..publishers.min((fanout.published - published) as usize) {
                let slot = (published as usize + publisher) % publishers;
                connections.flush(slot, &mut fanout);
            }
        }
        let patience = watch.patience(now, schedule.as_ref().map(Schedule::next));
        connections.turn(patience, &mut fanout)?;
        pulse.check(now, &fanout)?;
    }
    drain(&mut connections, &mut fanout, Fanout::missing, &watch)?;
    Ok(Report {
        publishers: Some(publishers),
        payload_bytes: Some(pace.size),
        window: pace.rate.is_none().then(|| pace.window()),
        rate: pace.rate,
        messages_total: fanout.published,
        deliveries_total: fanout.tally.deliveries,
        undelivered: fanout.undelivered(),
        latency: Latency::of(&fanout.tally.latency, sample),
        ..Report::new("fanout", options, watch.result.unwrap_or_default())
    }
    .failures(fanout.tally.failures))
}

/// Waits for what is still owed when the window is over, within a bound.
pub(super) fn drain<S: Sink>(
    connections: &mut Connections,
    sink: &mut S,
    missing: impl Fn(&S) -> u64,
    watch: &Stopwatch,
) -> Result<(), Error> {
    let deadline = connections.clock.now() + DRAIN_SECONDS_MAX * 1_000_000_000;
    while missing(sink) > 0 {
        let now = connections.clock.now();
        if now > deadline {
            break;
        }
        connections.turn(watch.patience(now, None), sink)?;
    }
    Ok(())
}
