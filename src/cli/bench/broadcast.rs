//! N x N: every connection publishes one message to all, all N x N deliveries are awaited, and
//! again.

use super::connections::Connections;
use super::fanout::{Fanout, Pulse, TIMED, drain};
use super::measure::Stage;
use super::protocol::Message;
use super::report::{Latency, Report};
use super::{Common, Error};

pub(super) fn run(
    options: &Common,
    size: usize,
    mut connections: Connections,
) -> Result<Report, Error> {
    let clock = connections.clock;
    let sample = options.sample(TIMED);
    let mut fanout = Fanout::new(options, sample);
    let mut message = Message::new(options.protocol, &options.channel, size);
    let start = clock.now();
    let mut watch = options.stopwatch(start);
    fanout.tally.window = watch.window.clone();
    let mut pulse = Pulse::new(start);
    let mut rounds = 0;
    loop {
        let now = clock.now();
        let (published, deliveries) = (fanout.published, fanout.tally.deliveries);
        if watch.tick(now, published, deliveries, connections.idle) == Stage::Over {
            break;
        }
        if fanout.missing() == 0 {
            rounds += 1;
            for slot in 0..options.connections {
                if let Some(outbox) = connections.outbox(slot) {
                    message.send(now, outbox);
                    fanout.publish();
                    connections.flush(slot, &mut fanout);
                }
            }
        }
        connections.turn(watch.patience(now, None), &mut fanout)?;
        pulse.check(now, &fanout)?;
    }
    drain(&mut connections, &mut fanout, Fanout::missing, &watch)?;
    Ok(Report {
        payload_bytes: Some(size),
        rounds: Some(rounds),
        messages_total: fanout.published,
        deliveries_total: fanout.tally.deliveries,
        undelivered: fanout.undelivered(),
        latency: Latency::of(&fanout.tally.latency, sample),
        ..Report::new("broadcast", options, watch.result.unwrap_or_default())
    }
    .failures(fanout.tally.failures))
}
