//! A large channel whose members come and go while somebody publishes: what that costs the server, and
//! how late the publications are beside it.

use serde::Serialize;

use super::centrifuge;
use super::connections::{Connections, Loss, Outbox, Sink};
use super::fanout::{Fanout, TIMED, drain};
use super::measure::Stage;
use super::pace::{self, Schedule};
use super::protocol::Message;
use super::report::{Latency, Report};
use super::wire::TEXT;
use super::{Common, Error};

/// Flags of this case alone.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Flags {
    /// So many join, and so many leave, in each second; they are not among --connections.
    #[arg(long, value_name = "R", default_value_t = 1_000.0)]
    moves: f64,

    /// Connections that come and go in turn, half of them there at any time.
    #[arg(long, value_name = "N", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(2..=10_000))]
    movers: u32,

    /// Publications per second to all members.
    #[arg(long, value_name = "R", default_value_t = 20.0)]
    rate: f64,

    /// Bytes of a payload, its time stamp of 16 included.
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    size: usize,
}

impl Flags {
    pub(super) fn validate(&self) -> Result<(), Error> {
        pace::size(self.size)?;
        if self.moves != 0.0 && !(0.1..=100_000.0).contains(&self.moves) {
            return Err(Error::Usage("--moves must be 0, or between 0.1 and 100,000".into()));
        }
        if !(0.1..=100_000.0).contains(&self.rate) {
            return Err(Error::Usage("--rate must be between 0.1 and 100,000".into()));
        }
        Ok(())
    }

    /// Connections beside the members.
    pub(super) fn movers(&self) -> usize {
        self.movers as usize
    }
}

/// Who came and went.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    movers: usize,
    joins: u64,
    leaves: u64,
    /// Pushes of joins and leaves that the members received in all.
    pushes: u64,
}

impl Figures {
    pub(super) fn summary(&self) -> String {
        format!(
            ", {} joins and {} leaves of {} movers, {} pushes of them",
            self.joins, self.leaves, self.movers, self.pushes
        )
    }
}

/// Tells publications from joins and leaves; movers only move.
struct Members {
    fanout: Fanout,
    members: usize,
    /// Bytes of a push before the name of what it is.
    kind_at: usize,
    pushes: u64,
}

impl Sink for Members {
    fn ready(&mut self, _slot: usize, _now: u64) {}

    #[inline]
    fn delivery(&mut self, slot: usize, now: u64, body: &[u8], outbox: &mut Outbox) {
        if slot >= self.members {
            return;
        }
        if body.get(self.kind_at) == Some(&b'p') {
            self.fanout.delivery(slot, now, body, outbox);
        } else {
            self.pushes += 1;
        }
    }

    fn refused(&mut self, text: String) {
        self.fanout.tally.failures.add(text);
    }

    fn ended(&mut self, slot: usize, received: u64, loss: Option<Loss>) {
        if slot < self.members {
            self.fanout.ended(slot, received, loss);
        } else if let Some(loss) = loss {
            self.fanout.tally.failures.add(loss);
        }
    }
}

/// Publishes from the first member, while the movers, which follow the members, come and go.
pub(super) fn run(
    options: &Common,
    flags: &Flags,
    mut connections: Connections,
) -> Result<Report, Error> {
    let clock = connections.clock;
    let (members, movers) = (options.connections, flags.movers());
    let sample = options.sample(TIMED);
    let channel = serde_json::Value::from(options.channel.as_str()).to_string();
    let kind_at = format!(r#"{{"push":{{"channel":{channel},""#).len();
    let fanout = Fanout::new(options, sample);
    let mut load = Members { fanout, members, kind_at, pushes: 0 };
    let mut message = Message::new(options.protocol, &options.channel, flags.size);
    let start = clock.now();
    let mut watch = options.stopwatch(start);
    load.fanout.tally.window = watch.window.clone();
    let mut publications = Schedule::new(start, flags.rate);
    let mut moves = (flags.moves > 0.0).then(|| Schedule::new(start, 2.0 * flags.moves));
    let (mut joins, mut leaves) = (0, 0);
    let mut command = Vec::new();
    loop {
        let now = clock.now();
        let (published, deliveries) = (load.fanout.published, load.fanout.tally.deliveries);
        if watch.tick(now, published, deliveries, connections.idle) == Stage::Over {
            break;
        }
        while let Some(due) = publications.due(now) {
            let Some(outbox) = connections.outbox(0) else {
                return Err(Error::AllLost(load.fanout.tally.failures.first));
            };
            message.send(due, outbox);
            load.fanout.publish();
            connections.flush(0, &mut load);
        }
        while let Some(moves) = &mut moves
            && moves.due(now).is_some()
        {
            let number = moves.sent() as usize - 1;
            let (mover, round) = (number % movers, number / movers);
            let comes = round.is_multiple_of(2) == mover.is_multiple_of(2);
            // Who is to go in the first round has not come.
            if round == 0 && !comes {
                continue;
            }
            let slot = members + mover;
            let Some(outbox) = connections.outbox(slot) else { continue };
            command.clear();
            if comes {
                joins += 1;
                centrifuge::subscribe(&options.channel, number as u32 + 2, &mut command);
            } else {
                leaves += 1;
                centrifuge::unsubscribe(&options.channel, number as u32 + 2, &mut command);
            }
            outbox.push(TEXT, &command);
            connections.flush(slot, &mut load);
        }
        let due = moves.as_ref().map_or(u64::MAX, Schedule::next).min(publications.next());
        connections.turn(watch.patience(now, Some(due)), &mut load)?;
    }
    drain(&mut connections, &mut load, |load| load.fanout.missing(), &watch)?;
    let Members { fanout, pushes, .. } = load;
    Ok(Report {
        publishers: Some(1),
        payload_bytes: Some(flags.size),
        rate: Some(flags.rate),
        messages_total: fanout.published,
        deliveries_total: fanout.tally.deliveries,
        undelivered: fanout.undelivered(),
        latency: Latency::of(&fanout.tally.latency, sample),
        members: Some(Figures { movers, joins, leaves, pushes }),
        ..Report::new("members", options, watch.result.unwrap_or_default())
    }
    .failures(fanout.tally.failures))
}
