//! The result of a run: one line for people, one JSON object for programs, and the verdict who was
//! saturated.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::measure::{Failures, Window};
use super::proc::Memory;
use super::protocol::Protocol;

/// From this fraction of busy time on, a core counts as saturated.
const SATURATED: f64 = 0.9;

/// Who limited a run. "server": its core was busy for at least 0.9 of the window and not less than
/// the generator. "generator": it was busy for at least 0.9, and the server less or unknown.
/// "neither": a fixed rate, or waiting.
///
/// The server's fraction is that of its whole core (`--server-cpu`), else of its process
/// (`--server-pid`). The generator's is the time in which it did not wait for the server, so that
/// spinning does not count as work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Saturated {
    Server,
    Generator,
    Neither,
}

fn saturated(server: Option<f64>, generator: f64) -> Saturated {
    match server {
        Some(busy) if busy >= SATURATED && busy >= generator => Saturated::Server,
        _ if generator >= SATURATED => Saturated::Generator,
        Some(busy) if busy >= SATURATED => Saturated::Server,
        _ => Saturated::Neither,
    }
}

/// Time from the intended send to the read, of the messages meant to be sent in the window.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latency {
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    samples: u64,
    /// Deliveries are timed on each so-manieth connection.
    sample_every: usize,
}

impl Latency {
    /// `None` without samples.
    pub(super) fn of(histogram: &Histogram<u64>, sample_every: usize) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        (!histogram.is_empty()).then(|| Self {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1e3,
            samples: histogram.len(),
            sample_every,
        })
    }
}

/// What it was; fields that a case does not have are left out.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) case: &'static str,
    pub(super) target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<Protocol>,
    pub(super) connections: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) publishers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payload_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) window: Option<u32>,
    /// Messages per second that were to be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate: Option<f64>,
    pub(super) duration_s: f64,

    /// Sent per second of the window; for `connect`, connections established.
    pub(super) messages_per_s: f64,
    pub(super) deliveries_per_s: f64,
    /// Since the start, warm-up and drain included: these two are exact. For fan-out and broadcast
    /// `deliveries_total + undelivered = messages_total * connections` as long as no connection is
    /// lost.
    pub(super) messages_total: u64,
    pub(super) deliveries_total: u64,
    /// Owed to connections that still lived when the drain ended; negative: delivered more than
    /// once.
    pub(super) undelivered: i64,
    pub(super) latency: Option<Latency>,

    pub(super) server_core_busy: Option<f64>,
    pub(super) server_process_cpu: Option<f64>,
    pub(super) generator_busy: f64,
    pub(super) generator_cpu: f64,
    /// Deliveries (for `connect`: connections) per second in which the server's core was busy.
    pub(super) per_busy_core_s: Option<f64>,
    pub(super) saturated: Saturated,

    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rounds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idle: Option<Idle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) channels: Option<super::channels::Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) members: Option<super::members::Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) watch: Option<super::watch::Figures>,
    pub(super) server_memory: Option<Memory>,

    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
}

/// What connections that do nothing cost the server.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Idle {
    /// User memory (`Pss_Anon`, without it `VmRSS`), after less before, by the number of
    /// connections.
    pub(super) bytes_per_connection: f64,
    pub(super) before: Memory,
    pub(super) after: Memory,
    pub(super) established_per_s: f64,
}

impl Report {
    /// The part that every case has in common.
    pub(super) fn new(case: &'static str, options: &super::Common, window: Window) -> Self {
        let per_second = |count: u64| count as f64 / window.seconds;
        let server = window.server_core_busy.or(window.server_process_cpu);
        Self {
            case,
            target: options.target.clone(),
            protocol: Some(options.protocol),
            connections: options.connections,
            publishers: None,
            payload_bytes: None,
            window: None,
            rate: None,
            duration_s: window.seconds,
            messages_per_s: per_second(window.messages),
            deliveries_per_s: per_second(window.deliveries),
            messages_total: 0,
            deliveries_total: 0,
            undelivered: 0,
            latency: None,
            server_core_busy: window.server_core_busy,
            server_process_cpu: window.server_process_cpu,
            generator_busy: window.generator_busy,
            generator_cpu: window.generator_cpu,
            per_busy_core_s: window
                .server_core_busy
                .filter(|busy| *busy > 0.0)
                .map(|busy| per_second(window.deliveries) / busy),
            saturated: saturated(server, window.generator_busy),
            rounds: None,
            idle: None,
            channels: None,
            members: None,
            watch: None,
            server_memory: options.server_pid.and_then(super::proc::memory),
            errors: 0,
            first_error: None,
        }
    }

    pub(super) fn failures(mut self, failures: Failures) -> Self {
        self.errors = failures.count;
        self.first_error = failures.first;
        self
    }

    /// Prints the summary, and the JSON object if `json`; then the summary goes to stderr.
    pub(super) fn print(&self, json: bool) -> Result<(), super::Error> {
        if json {
            let text = serde_json::to_string(self).map_err(std::io::Error::from);
            println!("{}", text.map_err(super::Error::system("the report"))?);
            eprintln!("{}", self.summary());
        } else {
            println!("{}", self.summary());
        }
        Ok(())
    }

    fn summary(&self) -> String {
        let mut text = format!(
            "{}: {} connections, {} messages/s, {} deliveries/s",
            self.case,
            self.connections,
            short(self.messages_per_s),
            short(self.deliveries_per_s)
        );
        if let Some(latency) = &self.latency {
            text += &format!(
                ", p50 {:.0} us, p99 {:.0} us, p999 {:.0} us",
                latency.p50_us, latency.p99_us, latency.p999_us
            );
        }
        if let Some(idle) = &self.idle {
            text += &format!(
                ", {:.0} bytes per connection, {} established/s",
                idle.bytes_per_connection,
                short(idle.established_per_s)
            );
        }
        if let Some(channels) = &self.channels {
            text += &channels.summary();
        }
        if let Some(members) = &self.members {
            text += &members.summary();
        }
        if let Some(watch) = &self.watch {
            text += &watch.summary();
        }
        if let Some(busy) = self.server_core_busy.or(self.server_process_cpu) {
            text += &format!(", server busy {busy:.2}");
        }
        text += &format!(", generator busy {:.2}", self.generator_busy);
        text += match self.saturated {
            Saturated::Server => ", saturated: server",
            Saturated::Generator => ", saturated: the generator (the server can do more)",
            Saturated::Neither => ", saturated: neither",
        };
        if self.undelivered != 0 {
            text += &format!(", {} NOT DELIVERED", self.undelivered);
        }
        if let Some(first) = &self.first_error {
            text += &format!(", {} ERRORS, the first: {first}", self.errors);
        }
        text
    }
}

fn short(value: f64) -> String {
    match value {
        1e6.. => format!("{:.2}M", value / 1e6),
        1e4.. => format!("{:.1}k", value / 1e3),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_follows_its_rule() {
        assert_eq!(saturated(Some(0.99), 0.5), Saturated::Server);
        assert_eq!(saturated(Some(0.99), 0.95), Saturated::Server);
        assert_eq!(saturated(Some(0.92), 0.97), Saturated::Generator);
        assert_eq!(saturated(Some(0.4), 0.97), Saturated::Generator);
        assert_eq!(saturated(None, 0.97), Saturated::Generator);
        assert_eq!(saturated(Some(0.4), 0.5), Saturated::Neither);
        assert_eq!(saturated(None, 0.5), Saturated::Neither);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(short(999.4), "999");
        assert_eq!(short(12_345.0), "12.3k");
        assert_eq!(short(20_900_000.0), "20.90M");
    }
}
