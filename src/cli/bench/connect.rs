//! Connections per second: TCP, upgrade and, over Centrifuge, the connect command; then the closing
//! handshake.

use hdrhistogram::Histogram;

use super::connections::{Connections, Loss, Outbox, Sink};
use super::measure::{DRAIN_SECONDS_MAX, Failures, Stage, histogram};
use super::report::{Latency, Report};
use super::{Common, Error};

/// What happens to the slots in one turn.
struct Churn {
    /// When each slot began to connect.
    began: Vec<u64>,
    latency: Histogram<u64>,
    window: std::ops::Range<u64>,
    established: u64,
    /// Established in this turn, to be closed unless connections are kept.
    ready: Vec<usize>,
    /// Slots that became empty in this turn.
    free: Vec<usize>,
    open: usize,
    /// Whether a slot's handshake is under way.
    opening: Vec<bool>,
    under_way: usize,
    keep: bool,
    failures: Failures,
}

impl Churn {
    /// The slot no longer takes one of the places for handshakes.
    fn leave(&mut self, slot: usize) {
        if std::mem::take(&mut self.opening[slot]) {
            self.under_way -= 1;
        }
    }
}

impl Sink for Churn {
    fn ready(&mut self, slot: usize, now: u64) {
        self.established += 1;
        if self.window.contains(&self.began[slot]) {
            self.latency.saturating_record(now - self.began[slot]);
        }
        self.ready.push(slot);
        if self.keep {
            self.leave(slot);
        }
    }

    fn delivery(&mut self, _slot: usize, _now: u64, _body: &[u8], _outbox: &mut Outbox) {}

    fn refused(&mut self, text: String) {
        self.failures.add(text);
    }

    fn ended(&mut self, slot: usize, _received: u64, loss: Option<Loss>) {
        self.open -= 1;
        self.free.push(slot);
        self.leave(slot);
        if let Some(loss) = loss {
            self.failures.add(loss);
        }
    }
}

/// Keeps `--connections` handshakes under way: each connection is closed when it is established,
/// and its slot opened anew. With `keep`, `in_flight` are under way and established ones stay,
/// until there are `--connections`.
pub(super) fn run(
    options: &Common,
    keep: Option<usize>,
    mut connections: Connections,
) -> Result<Report, Error> {
    let clock = connections.clock;
    let slots = options.connections;
    let in_flight = keep.unwrap_or(slots).min(slots);
    let mut watch = options.stopwatch(clock.now());
    let mut churn = Churn {
        began: vec![0; slots],
        latency: histogram(),
        window: watch.window.clone(),
        established: 0,
        ready: Vec::new(),
        free: (0..slots).rev().collect(),
        open: 0,
        opening: vec![false; slots],
        under_way: 0,
        keep: keep.is_some(),
        failures: Failures::default(),
    };
    loop {
        let now = clock.now();
        let count = churn.established;
        if watch.tick(now, count, count, connections.idle) == Stage::Over {
            break;
        }
        while churn.under_way < in_flight {
            let Some(slot) = churn.free.pop() else { break };
            churn.began[slot] = now;
            connections.open(slot)?;
            churn.open += 1;
            churn.opening[slot] = true;
            churn.under_way += 1;
        }
        connections.turn(watch.patience(now, None), &mut churn)?;
        for slot in std::mem::take(&mut churn.ready) {
            if keep.is_none() {
                connections.close(slot, &mut churn);
            }
        }
        if churn.failures.count > 1_000 {
            return Err(Error::AllLost(churn.failures.first));
        }
        if keep.is_some() && churn.free.is_empty() && churn.under_way == 0 {
            watch.stop(clock.now(), churn.established, churn.established, connections.idle);
            break;
        }
    }
    if keep.is_none() {
        // What is under way may still end by itself, so that the server is left clean.
        let deadline = clock.now() + DRAIN_SECONDS_MAX * 1_000_000_000;
        while churn.open > 0 && clock.now() < deadline {
            connections.turn(watch.patience(clock.now(), None), &mut churn)?;
            for slot in std::mem::take(&mut churn.ready) {
                connections.close(slot, &mut churn);
            }
        }
    }
    Ok(Report {
        messages_total: churn.established,
        deliveries_total: churn.established,
        latency: Latency::of(&churn.latency, 1),
        ..Report::new("connect", options, watch.result.unwrap_or_default())
    }
    .failures(churn.failures))
}
