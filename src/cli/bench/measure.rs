//! One measurement: warm-up, window, drain; what was delivered, how late, and what it cost on
//! either side.

use std::ops::Range;
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use super::connections::Loss;
use super::proc;
use super::protocol::Protocol;
use crate::sys::cpu;

/// For outstanding deliveries after the window.
pub(super) const DRAIN_SECONDS_MAX: u64 = 5;
/// Without any delivery while some are owed, a closed loop has lost one and would wait for ever.
pub(super) const STALL_SECONDS_MAX: u64 = 10;
/// A sleeping poll wakes about a millisecond late; what is due sooner is awaited by polling.
const POLL_SLACK_NS: u64 = 2_000_000;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Warmup,
    Measured,
    Over,
}

/// Whose cost is measured, besides our own.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Server {
    pub(super) pid: Option<u32>,
    pub(super) cpu: Option<usize>,
}

/// All counters at one instant.
struct Reading {
    at: u64,
    messages: u64,
    deliveries: u64,
    idle: u64,
    thread: Duration,
    core_rest: Option<f64>,
    process: Option<f64>,
}

/// What the measured window brought.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    pub(super) seconds: f64,
    pub(super) messages: u64,
    pub(super) deliveries: u64,
    /// Fraction of the window in which the server's core was not idle.
    pub(super) server_core_busy: Option<f64>,
    /// CPU seconds of the server process per second.
    pub(super) server_process_cpu: Option<f64>,
    /// Fraction of the window in which the generator did not wait for the server.
    pub(super) generator_busy: f64,
    /// CPU seconds of the generator's thread per second, polls that find nothing included.
    pub(super) generator_cpu: f64,
}

/// Reads the counters when the window opens and closes.
pub(super) struct Stopwatch {
    server: Server,
    /// The measured window, in nanoseconds of the generator's clock.
    pub(super) window: Range<u64>,
    opened: Option<Reading>,
    /// Set when the window has closed.
    pub(super) result: Option<Window>,
    progress: ProgressBar,
    progress_due: u64,
}

impl Stopwatch {
    pub(super) fn start(now: u64, warmup: Duration, duration: Duration, server: Server) -> Self {
        let from = now + warmup.as_nanos() as u64;
        let progress = ProgressBar::new(100);
        // Hidden by itself if stderr is no terminal.
        progress.set_style(
            ProgressStyle::with_template("{bar:40} {percent}% {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Self {
            server,
            window: from..from + duration.as_nanos() as u64,
            opened: None,
            result: None,
            progress,
            progress_due: now,
        }
    }

    /// To be called in every turn.
    #[inline]
    pub(super) fn tick(&mut self, now: u64, messages: u64, deliveries: u64, idle: u64) -> Stage {
        if now >= self.progress_due {
            self.show(now, deliveries);
        }
        if now < self.window.start {
            return Stage::Warmup;
        }
        if self.opened.is_none() {
            self.opened = Some(self.read(now, messages, deliveries, idle));
        }
        if now < self.window.end {
            return Stage::Measured;
        }
        if let (None, Some(opened)) = (&self.result, &self.opened) {
            let closed = self.read(now, messages, deliveries, idle);
            self.result = Some(window(opened, &closed));
            self.progress.finish_and_clear();
        }
        Stage::Over
    }

    /// Closes the window before its time.
    pub(super) fn stop(&mut self, now: u64, messages: u64, deliveries: u64, idle: u64) {
        self.window.end = self.window.end.min(now);
        self.tick(now, messages, deliveries, idle);
    }

    /// How long a poll may sleep at `now` if the next message is due at `due`.
    pub(super) fn patience(&self, now: u64, due: Option<u64>) -> Duration {
        let until = due.unwrap_or(u64::MAX).min(now + 100_000_000);
        match until.saturating_sub(now) {
            0..POLL_SLACK_NS => Duration::ZERO,
            long => Duration::from_nanos(long - POLL_SLACK_NS / 2),
        }
    }

    fn read(&self, at: u64, messages: u64, deliveries: u64, idle: u64) -> Reading {
        Reading {
            at,
            messages,
            deliveries,
            idle,
            thread: proc::thread_cpu(),
            core_rest: self.server.cpu.and_then(proc::core_rest_seconds),
            process: self.server.pid.and_then(|pid| cpu::process_seconds(pid).ok()),
        }
    }

    #[cold]
    fn show(&mut self, now: u64, deliveries: u64) {
        self.progress_due = now + 200_000_000;
        let start = self.window.start.min(now);
        let whole = (self.window.end - self.window.start).max(1);
        self.progress.set_position((now - start) * 100 / whole);
        self.progress.set_message(format!("{deliveries} deliveries"));
    }
}

fn window(opened: &Reading, closed: &Reading) -> Window {
    let nanoseconds = closed.at.saturating_sub(opened.at).max(1);
    let seconds = nanoseconds as f64 / 1e9;
    let core = opened.core_rest.zip(closed.core_rest);
    let core = core.map(|(from, to)| (1.0 - (to - from) / seconds).clamp(0.0, 1.0));
    Window {
        seconds,
        messages: closed.messages - opened.messages,
        deliveries: closed.deliveries - opened.deliveries,
        server_core_busy: core,
        server_process_cpu: opened.process.zip(closed.process).map(|(a, b)| (b - a) / seconds),
        generator_busy: 1.0
            - (closed.idle - opened.idle).min(nanoseconds) as f64 / nanoseconds as f64,
        generator_cpu: closed.thread.saturating_sub(opened.thread).as_secs_f64() / seconds,
    }
}

/// What the connections of a run have reported.
pub(super) struct Tally {
    protocol: Protocol,
    /// Latency is measured on the connections whose number has none of these bits.
    sample_mask: usize,
    /// Messages that were meant to be sent in here count for latency, whenever they arrive.
    pub(super) window: Range<u64>,
    /// Nanoseconds.
    pub(super) latency: Histogram<u64>,
    pub(super) deliveries: u64,
    pub(super) live: u64,
    pub(super) failures: Failures,
}

/// What went wrong, counted, with the first one's text.
#[derive(Default)]
pub(super) struct Failures {
    pub(super) count: u64,
    pub(super) first: Option<String>,
}

impl Failures {
    pub(super) fn add(&mut self, text: impl ToString) {
        self.count += 1;
        self.first.get_or_insert_with(|| text.to_string());
    }
}

/// Three digits, one microsecond to ten minutes.
pub(super) fn histogram() -> Histogram<u64> {
    let bounds = Histogram::new_with_bounds(1_000, 600_000_000_000, 3);
    bounds.expect("these bounds are valid")
}

impl Tally {
    /// `sample`: latency is measured on each so-manieth connection, a power of two.
    pub(super) fn new(protocol: Protocol, sample: usize, live: usize) -> Self {
        debug_assert!(sample.is_power_of_two());
        Self {
            protocol,
            sample_mask: sample - 1,
            window: 0..0,
            latency: histogram(),
            deliveries: 0,
            live: live as u64,
            failures: Failures::default(),
        }
    }

    /// One delivery; the time it took is recorded if this connection is one that is measured.
    #[inline]
    pub(super) fn delivery(&mut self, slot: usize, now: u64, body: &[u8]) {
        self.deliveries += 1;
        if slot & self.sample_mask == 0 {
            self.record(now, body);
        }
    }

    #[inline(never)]
    fn record(&mut self, now: u64, body: &[u8]) {
        match self.protocol.stamp(body) {
            Some(intended) if self.window.contains(&intended) => {
                self.latency.saturating_record(now.saturating_sub(intended));
            }
            Some(_) => {}
            None => self.failures.add("a delivery without the generator's time stamp"),
        }
    }

    /// A connection is gone.
    pub(super) fn ended(&mut self, loss: Option<Loss>) {
        self.live -= 1;
        if let Some(loss) = loss {
            self.failures.add(loss);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_counts_what_happened_in_it() {
        let (warmup, duration) = (Duration::from_nanos(100), Duration::from_nanos(1_000));
        let mut watch = Stopwatch::start(50, warmup, duration, Server::default());
        assert_eq!(watch.tick(60, 1, 10, 0), Stage::Warmup);
        assert_eq!(watch.tick(150, 2, 20, 10), Stage::Measured);
        assert_eq!(watch.tick(600, 5, 50, 20), Stage::Measured);
        assert!(watch.result.is_none());
        assert_eq!(watch.tick(1_150, 7, 70, 260), Stage::Over);
        assert_eq!(watch.tick(2_000, 9, 90, 900), Stage::Over);
        let result = watch.result.unwrap();
        assert_eq!((result.messages, result.deliveries), (5, 50));
        assert_eq!(result.seconds, 1e-6);
        assert_eq!(result.generator_busy, 0.75);
        assert_eq!(result.server_core_busy, None);
    }

    #[test]
    fn what_is_due_soon_is_awaited_by_polling() {
        let watch = Stopwatch::start(0, Duration::ZERO, Duration::ZERO, Server::default());
        assert_eq!(watch.patience(1_000, Some(500)), Duration::ZERO);
        assert_eq!(watch.patience(0, Some(1_000_000)), Duration::ZERO);
        assert_eq!(watch.patience(0, Some(5_000_000)), Duration::from_millis(4));
        assert_eq!(watch.patience(0, None), Duration::from_millis(99));
    }

    #[test]
    fn latency_counts_from_the_intended_time_on_sampled_connections() {
        let mut tally = Tally::new(Protocol::Plain, 4, 8);
        tally.window = 1_000_000..2_000_000;
        let body = super::super::stamp::encode(1_500_000);
        for slot in 0..8 {
            tally.delivery(slot, 9_500_000, &body);
        }
        tally.delivery(0, 9_500_000, &super::super::stamp::encode(2_000_000));
        assert_eq!(tally.deliveries, 9);
        assert_eq!(tally.latency.len(), 2);
        assert!((7_990_000..8_010_000).contains(&tally.latency.max()));
        assert_eq!(tally.failures.count, 0);
        tally.delivery(4, 9_500_000, b"?");
        assert_eq!(tally.failures.count, 1);
    }
}
