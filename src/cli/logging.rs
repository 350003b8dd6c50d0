//! Log lines to stderr, through a writer that drops them sooner than it blocks a shard.

use std::io;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Lines that wait for a stderr that does not take them; what comes after is dropped.
const LINES_MAX: usize = 8192;

/// Installs the process's subscriber. Lines written while the guard lives reach stderr, unless it
/// stays full; the guard's end flushes them.
pub(super) fn start(log: &Log) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .thread_name("log")
        .finish(io::stderr());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&log.level))
        .with_writer(writer)
        .with_ansi(false);
    // A subscriber that is already there belongs to whoever embeds this and stays.
    let _ = match log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    guard
}
