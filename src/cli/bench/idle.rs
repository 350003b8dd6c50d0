//! Connections that do nothing: what each costs the server in memory, and all of them in CPU.

use super::connections::{Connections, Loss, Outbox, Sink};
use super::measure::{Failures, Stage, Window};
use super::proc::{self, Memory};
use super::report::{Idle, Report};
use super::{Common, Error};

/// Only watches; the connections answer pings by themselves.
#[derive(Default)]
struct Watcher {
    failures: Failures,
    deliveries: u64,
}

impl Sink for Watcher {
    fn ready(&mut self, _slot: usize, _now: u64) {}

    fn delivery(&mut self, _slot: usize, _now: u64, _body: &[u8], _outbox: &mut Outbox) {
        self.deliveries += 1;
    }

    fn refused(&mut self, text: String) {
        self.failures.add(text);
    }

    fn ended(&mut self, _slot: usize, _received: u64, loss: Option<Loss>) {
        if let Some(loss) = loss {
            self.failures.add(loss);
        }
    }
}

/// Memory of the server, if it is known who that is.
pub(super) fn memory(options: &Common) -> Result<Option<Memory>, Error> {
    let Some(pid) = options.server_pid else { return Ok(None) };
    let none = || Error::Usage(format!("--server-pid {pid}: there is no such process"));
    proc::memory(pid).ok_or_else(none).map(Some)
}

/// What connections cost: `Pss_Anon`, without it `VmRSS`.
pub(super) fn user_bytes(memory: Memory) -> f64 {
    memory.anonymous.unwrap_or(memory.resident) as f64
}

/// Holds the connections for warm-up and duration; `before` and `opening_ns` are of the time when
/// they were opened.
pub(super) fn run(
    options: &Common,
    mut connections: Connections,
    before: Option<Memory>,
    opening_ns: u64,
) -> Result<Report, Error> {
    let clock = connections.clock;
    let mut watcher = Watcher::default();
    let mut watch = options.stopwatch(clock.now());
    loop {
        let now = clock.now();
        if watch.tick(now, 0, watcher.deliveries, connections.idle) == Stage::Over {
            break;
        }
        connections.turn(watch.patience(now, Some(watch.window.end)), &mut watcher)?;
    }
    let count = options.connections as f64;
    let idle = before.zip(memory(options)?).map(|(before, after)| Idle {
        bytes_per_connection: (user_bytes(after) - user_bytes(before)) / count,
        before,
        after,
        established_per_s: count * 1e9 / opening_ns.max(1) as f64,
    });
    let window: Window = watch.result.unwrap_or_default();
    let report = Report { idle, ..Report::new("idle", options, window) };
    Ok(Report { deliveries_total: watcher.deliveries, ..report }.failures(watcher.failures))
}
