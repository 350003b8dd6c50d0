//! `tiderace codes`: every code that a client is told.

use std::io::{self, Write};

use crate::codes::{Line, TABLE};

/// Prints the table, a line per code, for people and for `grep`.
///
/// # Errors
/// When it cannot be written.
pub(super) fn run() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in TABLE {
        let meaning = line.meaning.trim_start();
        let Line { kind, code, text, client, .. } = line;
        writeln!(out, "{kind:<12} {code:<5} {text:<22} {client:<20} {meaning}")?;
    }
    out.flush()
}
