//! The body of a request: counted by Content-Length, or chunked (RFC 9112 section 7.1).

use super::head::{Framing, is_field_line, is_text};
use super::{Limits, Rejection};
use crate::codec::take_front;

/// Hexadecimal digits of a chunk size.
const SIZE_DIGITS_MAX: usize = 16;

const MALFORMED: Rejection = Rejection::new(400, "malformed chunked body");

/// How far a body has come. Its bytes are appended to the head's.
#[derive(Debug)]
pub(super) struct Body {
    state: State,
    /// A line of the chunked framing, cut off by the end of the input.
    line: Vec<u8>,
    /// Bytes of chunk extensions and trailer fields; thrown away, but a peer's time is bounded too.
    extra_bytes: usize,
    /// Decoded bytes, and those the current chunk announced.
    body_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Counted { missing: usize },
    ChunkSize,
    ChunkData { missing: usize },
    ChunkEnd,
    Trailer,
}

impl Body {
    pub(super) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(missing) => State::Counted { missing },
            Framing::Chunked => State::ChunkSize,
        };
        Self { state, line: Vec::new(), extra_bytes: 0, body_bytes: 0 }
    }

    /// Bytes of memory beside those of the request.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.line.capacity()
    }

    /// Moves what `input` has of the body to the end of `bytes`; true when the body is complete.
    pub(super) fn take(
        &mut self,
        bytes: &mut Vec<u8>,
        input: &mut &mut [u8],
        limits: &Limits,
    ) -> Result<bool, Rejection> {
        loop {
            match &mut self.state {
                State::Counted { missing } => {
                    *missing -= take_data(bytes, input, *missing);
                    return Ok(*missing == 0);
                }
                State::ChunkData { missing } => {
                    *missing -= take_data(bytes, input, *missing);
                    if *missing > 0 {
                        return Ok(false);
                    }
                    self.state = State::ChunkEnd;
                }
                State::ChunkEnd => {
                    if !take_line(&mut self.line, input, 2)? {
                        return Ok(false);
                    }
                    self.state = State::ChunkSize;
                }
                State::ChunkSize => {
                    let line_bytes_max = self.room(limits) + SIZE_DIGITS_MAX;
                    if !take_line(&mut self.line, input, line_bytes_max)? {
                        return Ok(false);
                    }
                    self.state = self.begin_chunk(limits)?;
                }
                State::Trailer => {
                    let line_bytes_max = self.room(limits);
                    if !take_line(&mut self.line, input, line_bytes_max)? {
                        return Ok(false);
                    }
                    if self.line == b"\r\n" {
                        return Ok(true);
                    }
                    if !is_field_line(&self.line) {
                        return Err(Rejection::new(400, "malformed trailer field"));
                    }
                    self.extra_bytes += self.line.len();
                }
            }
            self.line.clear();
        }
    }

    /// Bytes that the next line may have beside a chunk size.
    fn room(&self, limits: &Limits) -> usize {
        limits.head_bytes_max.saturating_sub(self.extra_bytes) + 2
    }

    /// Reads `line`. Stricter than httparse's `parse_chunk_size`, which lets sizes without digits,
    /// blanks behind the size and bare line feeds in extensions pass.
    fn begin_chunk(&mut self, limits: &Limits) -> Result<State, Rejection> {
        let line = self.line.strip_suffix(b"\r\n").unwrap_or(&self.line);
        let is_digit = |byte: &&u8| byte.is_ascii_hexdigit();
        let (digits, extensions) = line.split_at(line.iter().take_while(is_digit).count());
        let is_extended = extensions.first().is_none_or(|&byte| byte == b';');
        if digits.len() > SIZE_DIGITS_MAX || !is_extended || !is_text(extensions) {
            return Err(MALFORMED);
        }
        // Fails for no digits at all.
        let size = str::from_utf8(digits).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
        let size = size.ok_or(MALFORMED)?;
        self.extra_bytes += extensions.len();
        let room = limits.body_bytes_max.saturating_sub(self.body_bytes);
        let missing = match usize::try_from(size) {
            Ok(missing) if missing <= room => missing,
            _ => return Err(Rejection::new(413, "request body too large")),
        };
        self.body_bytes += missing;
        Ok(if missing == 0 { State::Trailer } else { State::ChunkData { missing } })
    }
}

/// Moves at most `missing` bytes; returns how many.
fn take_data(bytes: &mut Vec<u8>, input: &mut &mut [u8], missing: usize) -> usize {
    let taken = take_front(input, missing.min(input.len()));
    bytes.extend_from_slice(taken);
    taken.len()
}

/// Moves the rest of a line, CRLF included, to the end of `line`; true when the line is complete.
fn take_line(
    line: &mut Vec<u8>,
    input: &mut &mut [u8],
    line_bytes_max: usize,
) -> Result<bool, Rejection> {
    let room = line_bytes_max.saturating_sub(line.len());
    let window = &input[..room.min(input.len())];
    let end = window.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
    if end.is_none() && window.len() == room {
        return Err(MALFORMED);
    }
    let taken = end.unwrap_or(window.len());
    line.extend_from_slice(take_front(input, taken));
    match end {
        Some(_) if line.ends_with(b"\r\n") => Ok(true),
        Some(_) => Err(MALFORMED),
        None => Ok(false),
    }
}
