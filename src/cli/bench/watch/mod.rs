//! A fleet of dormant devices: what each costs the server at rest, and how soon it is woken.

mod agents;
mod wire;

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::measure::{Stage, Window};
use super::pace::Schedule;
use super::proc::{self, Memory};
use super::report::{Latency, Report};
use super::{Common, Error, idle, measure, target};
use crate::auth::tokens::sign_connection;
use agents::{Fleet, LANES, Target};

/// Streams that are opened at once: below any listen backlog.
const OPENING_MAX: usize = 128;
/// For all streams to be opened, beyond the time over which they are spread.
const OPENING_SECONDS_MAX: u64 = 60;
/// For all streams to end in a drain.
const LEAVING_SECONDS_MAX: u64 = 120;

/// Flags of this case alone.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Flags {
    /// Wakes published in each second, for devices at random among those that watch; 0 for none.
    #[arg(long, value_name = "R", default_value_t = 0.0)]
    wakes_per_second: f64,

    /// The secret with which device tokens are signed: the server's watch.token.hmac_secret_key.
    #[arg(long, env = "TIDERACE_BENCH_TOKEN_SECRET", hide_env_values = true)]
    token_secret: String,

    /// The key of the HTTP API, for wakes.
    #[arg(long, env = "TIDERACE_BENCH_API_KEY", hide_env_values = true, default_value = "")]
    api_key: String,

    /// The path of the watches.
    #[arg(long, value_name = "PATH", default_value = crate::watch::BASE_DEFAULT)]
    base: String,

    /// Seconds over which the streams are opened: those that begin at once are kept alive at once.
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    ramp: f64,

    /// At the end, tell the server (--server-pid) to end, and measure how it sends the devices away.
    #[arg(long, requires = "server_pid")]
    drain: bool,
}

impl Flags {
    pub(super) fn validate(&self) -> Result<(), Error> {
        if self.wakes_per_second != 0.0 && !(0.1..=100_000.0).contains(&self.wakes_per_second) {
            return Err(Error::Usage("--wakes-per-second must be 0, or 0.1 to 100,000".into()));
        }
        if !(0.0..=super::SECONDS_MAX).contains(&self.ramp) {
            return Err(Error::Usage(format!("--ramp must be 0 to {}", super::SECONDS_MAX)));
        }
        if self.token_secret.is_empty() {
            return Err(Error::Usage("--token-secret must not be empty".into()));
        }
        Ok(())
    }
}

/// What a watching device costs, and what became of the wakes.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    heartbeat_interval_ms: u64,
    /// User memory (`Pss_Anon`, without it `VmRSS`), after less before, by the number of devices.
    bytes_per_watcher: Option<f64>,
    before: Option<Memory>,
    after: Option<Memory>,
    /// One heartbeat interval in which nobody is woken.
    rest: Rest,
    /// From a wake's event to the device's next `hello`.
    rewatch: Option<Latency>,
    drain: Option<Drain>,
}

/// A fleet at rest.
#[derive(Debug, Serialize)]
struct Rest {
    seconds: f64,
    heartbeats_per_s: f64,
    comments_per_s: f64,
    server_core_busy: Option<f64>,
    server_process_cpu: Option<f64>,
}

/// How the server ended the streams when it was told to end.
#[derive(Debug, Serialize)]
struct Drain {
    streams: usize,
    ended: usize,
    /// With the end of the response, not by a cut.
    in_order: u64,
    first_to_last_s: f64,
    /// The largest share of the ends in any tenth of that time; 0.1 if they are spread evenly.
    busiest_tenth: f64,
}

/// Opens the streams, watches them rest, wakes some, and perhaps drains the server.
pub(super) fn run(options: &Common, flags: &Flags) -> Result<Report, Error> {
    let (address, host, prefix) = target::parse(&options.target, "http://", options.allow_remote)?;
    let base = format!("{}{}", prefix.trim_end_matches('/'), flags.base);
    proc::allow_sockets(options.connections + LANES)?;
    if let Some(cpu) = options.client_cpu {
        proc::pin(cpu)?;
    }
    let token = |number| sign_connection(&flags.token_secret, &wire::device(number), None, None);
    let tokens = (0..options.connections).map(token).collect();
    let target = Target { address, host: host.to_owned(), base, api_key: flags.api_key.clone() };
    let before = idle::memory(options)?;
    let mut fleet = Fleet::new(target, tokens, options.spin)?;
    open(&mut fleet, options, flags.ramp)?;
    let after = idle::memory(options)?;

    let interval_s = fleet.interval_ms as f64 / 1e3;
    let (comments, beats) = (fleet.seen.comments, fleet.seen.beats);
    let resting = Common { duration: interval_s, warmup: 0.0, ..options.clone() };
    let rest = load(&mut fleet, &resting, 0.0)?;
    let per_second = |count: u64| count as f64 / rest.seconds.max(1e-9);
    let figures = Figures {
        heartbeat_interval_ms: fleet.interval_ms,
        bytes_per_watcher: before.zip(after).map(|(before, after)| {
            (idle::user_bytes(after) - idle::user_bytes(before)) / options.connections as f64
        }),
        before,
        after,
        rest: Rest {
            seconds: rest.seconds,
            heartbeats_per_s: per_second(fleet.seen.beats - beats),
            comments_per_s: per_second(fleet.seen.comments - comments),
            server_core_busy: rest.server_core_busy,
            server_process_cpu: rest.server_process_cpu,
        },
        rewatch: None,
        drain: None,
    };

    let woken = match flags.wakes_per_second {
        0.0 => rest,
        rate => load(&mut fleet, options, rate)?,
    };
    let drain = if flags.drain { Some(drain(&mut fleet, options)?) } else { None };
    let seen = fleet.seen;
    let figures = Figures { rewatch: Latency::of(&seen.rewatch, 1), drain, ..figures };
    let report = Report {
        protocol: None,
        rate: (flags.wakes_per_second > 0.0).then_some(flags.wakes_per_second),
        messages_total: seen.wakes_sent,
        deliveries_total: seen.wakes,
        undelivered: seen.wakes_sent as i64 - seen.wakes as i64,
        latency: Latency::of(&seen.latency, 1),
        watch: Some(figures),
        ..Report::new("watch", options, woken)
    };
    Ok(report.failures(seen.failures))
}

/// Opens all streams, spread over the ramp; the first failure ends it.
fn open(fleet: &mut Fleet, options: &Common, ramp: f64) -> Result<(), Error> {
    let count = options.connections;
    let progress = indicatif::ProgressBar::new(count as u64);
    let began = fleet.clock.now();
    let deadline = began + (ramp * 1e9) as u64 + OPENING_SECONDS_MAX * 1_000_000_000;
    let mut schedule = Schedule::new(began, count as f64 / ramp.max(0.001));
    let mut started = 0;
    let fail = |fleet: &mut Fleet, text: Option<String>| {
        let text = text.unwrap_or_else(|| format!("not within {OPENING_SECONDS_MAX} s"));
        Err(Error::Establish { ready: fleet.watching(), count, text })
    };
    while fleet.seen.hellos < count as u64 {
        let now = fleet.clock.now();
        while started < count
            && started < fleet.seen.hellos as usize + OPENING_MAX
            && schedule.due(now).is_some()
        {
            fleet.open(started)?;
            started += 1;
        }
        fleet.beat(now);
        fleet.turn(Duration::from_millis(1))?;
        progress.set_position(fleet.seen.hellos);
        if let Some(text) = fleet.seen.failures.first.take() {
            return fail(fleet, Some(text));
        }
        if now > deadline {
            return fail(fleet, None);
        }
    }
    progress.finish_and_clear();
    Ok(())
}

/// Lets the fleet live for warm-up and duration, with `rate` wakes a second, and waits until all is settled.
fn load(fleet: &mut Fleet, options: &Common, rate: f64) -> Result<Window, Error> {
    let began = fleet.clock.now();
    let mut watch = options.stopwatch(began);
    fleet.seen.window = watch.window.clone();
    let mut schedule = (rate > 0.0).then(|| Schedule::new(began, rate));
    loop {
        let now = fleet.clock.now();
        if watch.tick(now, fleet.seen.wakes_sent, fleet.seen.wakes, fleet.idle) == Stage::Over {
            break;
        }
        let wakes = schedule.as_mut();
        if let Some(schedule) = wakes {
            while let Some(intended) = schedule.due(now) {
                fleet.wake_one(intended);
            }
        }
        fleet.beat(now);
        let due = [schedule.as_ref().map(Schedule::next), fleet.next_beat()];
        fleet.turn(watch.patience(now, due.into_iter().flatten().min()))?;
    }
    let deadline = fleet.clock.now() + measure::DRAIN_SECONDS_MAX * 1_000_000_000;
    while fleet.unsettled() > 0 && fleet.clock.now() < deadline {
        fleet.beat(fleet.clock.now());
        fleet.turn(Duration::from_millis(1))?;
    }
    Ok(watch.result.unwrap_or_default())
}

/// Tells the server to end and waits until it has sent every device away.
fn drain(fleet: &mut Fleet, options: &Common) -> Result<Drain, Error> {
    let pid = options.server_pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let pid = pid.ok_or_else(|| Error::Usage("--drain needs --server-pid".into()))?;
    let streams = fleet.watching();
    fleet.draining = true;
    kill_process(pid, Signal::TERM).map_err(|error| Error::system("SIGTERM")(error.into()))?;
    let deadline = fleet.clock.now() + LEAVING_SECONDS_MAX * 1_000_000_000;
    while fleet.watching() > 0 && fleet.clock.now() < deadline {
        fleet.turn(Duration::from_millis(10))?;
    }
    let ends = &fleet.seen.ends;
    let first_to_last = ends.first().zip(ends.last()).map_or(0, |(first, last)| last - first);
    Ok(Drain {
        streams,
        ended: ends.len(),
        in_order: fleet.seen.ends_in_order,
        first_to_last_s: first_to_last as f64 / 1e9,
        busiest_tenth: busiest_tenth(ends),
    })
}

/// The largest share of `ends`, which are in order, in any tenth of the time between first and last.
fn busiest_tenth(ends: &[u64]) -> f64 {
    let (Some(first), Some(last)) = (ends.first(), ends.last()) else { return 0.0 };
    let tenth = (last - first) / 10;
    let until = |from: usize| ends.partition_point(|end| *end <= ends[from] + tenth);
    let most = (0..ends.len()).map(|from| until(from) - from).max().unwrap_or_default();
    most as f64 / ends.len() as f64
}

impl Figures {
    /// For the line that people read.
    pub(super) fn summary(&self) -> String {
        let mut text = String::new();
        if let Some(bytes) = self.bytes_per_watcher {
            text += &format!(", {bytes:.0} bytes per watcher");
        }
        let rest = &self.rest;
        if let Some(busy) = rest.server_core_busy.or(rest.server_process_cpu) {
            text += &format!(
                ", at rest ({:.0} heartbeats/s, {:.0} comments/s) server busy {busy:.3}",
                rest.heartbeats_per_s, rest.comments_per_s
            );
        }
        if let Some(drain) = &self.drain {
            text += &format!(
                ", drain: {} of {} streams ended ({} in order) within {:.1} s, {:.2} of them in its \
                 busiest tenth",
                drain.ended,
                drain.streams,
                drain.in_order,
                drain.first_to_last_s,
                drain.busiest_tenth
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stampede_shows_in_the_busiest_tenth() {
        let even: Vec<u64> = (0..=1_000).collect();
        assert!((0.1..0.11).contains(&busiest_tenth(&even)));
        let late: Vec<u64> = std::iter::once(0).chain(std::iter::repeat_n(1_000, 99)).collect();
        assert_eq!(busiest_tenth(&late), 0.99);
        assert_eq!(busiest_tenth(&[]), 0.0);
        assert_eq!(busiest_tenth(&[7]), 1.0);
    }
}
