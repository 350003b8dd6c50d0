//! Responses of HTTP/1.1 (RFC 9112) as a client reads them: the head, and a body in pieces.
//!
//! PURE. An end that the framing announced is told apart from a connection that broke.

use std::error::Error;
use std::fmt;

use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};

/// Hexadecimal digits of a chunk size, and its extensions.
const CHUNK_LINE_BYTES_MAX: usize = 1 << 10;

/// The server does not speak HTTP/1.1; what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server sent no HTTP: {}", self.0)
    }
}

impl Error for Malformed {}

/// The head of a response, with what this client needs of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Lower case, without parameters; empty without the field.
    pub(super) content_type: String,
    /// Where a redirection leads; redirections are not followed.
    pub(super) location: Option<String>,
    /// Whether another request may follow on the connection, after the body.
    pub(super) keep_alive: bool,
    framing: Framing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Head {
    /// Reads the first final head in `bytes` and how long it is, interim ones in front of it
    /// included; `None` while it is incomplete.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let mut at = 0;
        loop {
            let mut fields = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
            let mut response = httparse::Response::new(&mut fields);
            let parsed = response.parse(&bytes[at..]).map_err(|error| match error {
                httparse::Error::TooManyHeaders => Malformed("too many header fields"),
                _ => Malformed("malformed head of a response"),
            })?;
            let httparse::Status::Complete(head_bytes) = parsed else {
                if bytes.len() >= HTTP_HEAD_BYTES_MAX {
                    return Err(Malformed("head of a response above 16 KiB"));
                }
                return Ok(None);
            };
            at += head_bytes;
            match response.code.unwrap_or_default() {
                101 => return Err(Malformed("101 without being asked to switch protocols")),
                100..200 => {}
                status => return Ok(Some((Self::from_fields(status, &response)?, at))),
            }
        }
    }

    fn from_fields(status: u16, response: &httparse::Response<'_, '_>) -> Result<Self, Malformed> {
        let mut length = None;
        let mut is_chunked = false;
        let mut has_coding = false;
        let mut keep_alive = response.version == Some(1);
        let mut content_type = String::new();
        let mut location = None;
        for field in response.headers.iter() {
            let value = || String::from_utf8_lossy(field.value);
            let name = |name| field.name.eq_ignore_ascii_case(name);
            if name("content-length") {
                let value: u64 =
                    value().trim().parse().map_err(|_| Malformed("malformed Content-Length"))?;
                if length.is_some_and(|length| length != value) {
                    return Err(Malformed("two values of Content-Length"));
                }
                length = Some(value);
            } else if name("transfer-encoding") {
                has_coding = true;
                is_chunked = value().trim().eq_ignore_ascii_case("chunked");
            } else if name("connection") {
                for option in value().split(',') {
                    if option.trim().eq_ignore_ascii_case("close") {
                        keep_alive = false;
                    }
                }
            } else if name("content-type") {
                let value = value();
                let media_type = value.split(';').next().unwrap_or_default();
                content_type = media_type.trim().to_ascii_lowercase();
            } else if name("location") {
                location = Some(value().into_owned());
            }
        }
        if has_coding && !is_chunked {
            return Err(Malformed("a transfer coding other than chunked"));
        }
        let framing = match length {
            _ if matches!(status, 204 | 304) => Framing::Length(0),
            _ if is_chunked => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        };
        // Two framings at once: whatever follows this response cannot be trusted (section 6.3).
        let is_ambiguous = is_chunked && length.is_some();
        keep_alive &= framing != Framing::UntilClose && !is_ambiguous;
        Ok(Self { status, content_type, location, keep_alive, framing })
    }

    /// The reader of the body that follows.
    pub(super) fn body(&self) -> Body {
        let state = match self.framing {
            Framing::Length(missing) => State::Counted { missing },
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Body { state, line: Vec::new(), trailer_bytes: 0 }
    }
}

/// How far a body has come.
#[derive(Debug)]
pub(super) struct Body {
    state: State,
    line: Vec<u8>,
    trailer_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Counted { missing: u64 },
    UntilClose,
    ChunkSize,
    ChunkData { missing: u64 },
    ChunkEnd,
    Trailer,
    Ended,
}

/// A part of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Data(&'a [u8]),
    /// The body is complete.
    End,
}

impl Body {
    /// The next part in `input`; `None` when the input is used up. After the end the rest stays in
    /// `input`: it belongs to no response that was asked for.
    pub(super) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Piece<'a>>, Malformed> {
        loop {
            match &mut self.state {
                State::Ended | State::Counted { missing: 0 } => return Ok(Some(Piece::End)),
                _ if input.is_empty() => return Ok(None),
                State::UntilClose => return Ok(Some(Piece::Data(std::mem::take(input)))),
                State::Counted { missing } => {
                    return Ok(Some(Piece::Data(take(input, missing))));
                }
                State::ChunkData { missing: 0 } => self.state = State::ChunkEnd,
                State::ChunkData { missing } => {
                    return Ok(Some(Piece::Data(take(input, missing))));
                }
                State::ChunkEnd => {
                    let Some(line) = take_line(&mut self.line, input)? else { return Ok(None) };
                    if !line.is_empty() {
                        return Err(Malformed("chunk longer than it said"));
                    }
                    self.state = State::ChunkSize;
                }
                State::ChunkSize => {
                    let Some(line) = take_line(&mut self.line, input)? else { return Ok(None) };
                    self.state = match chunk_size(&line)? {
                        0 => State::Trailer,
                        missing => State::ChunkData { missing },
                    };
                }
                State::Trailer => {
                    let Some(line) = take_line(&mut self.line, input)? else { return Ok(None) };
                    self.trailer_bytes += line.len();
                    if line.is_empty() {
                        self.state = State::Ended;
                    } else if self.trailer_bytes > HTTP_HEAD_BYTES_MAX {
                        return Err(Malformed("trailer fields above 16 KiB"));
                    }
                }
            }
        }
    }

    /// Whether the body is complete when the connection ends here.
    pub(super) fn may_end(&self) -> bool {
        matches!(self.state, State::Ended | State::UntilClose | State::Counted { missing: 0 })
    }
}

fn take<'a>(input: &mut &'a [u8], missing: &mut u64) -> &'a [u8] {
    let bytes = usize::try_from(*missing).map_or(input.len(), |missing| missing.min(input.len()));
    let (front, rest) = input.split_at(bytes);
    *input = rest;
    *missing -= bytes as u64;
    front
}

/// The next line without its end, if it is complete.
fn take_line(line: &mut Vec<u8>, input: &mut &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let end = input.iter().position(|&byte| byte == b'\n');
    let taken = end.unwrap_or(input.len());
    line.extend_from_slice(&input[..taken]);
    *input = &input[end.map_or(taken, |end| end + 1)..];
    if line.len() > CHUNK_LINE_BYTES_MAX {
        return Err(Malformed("line of the chunked coding above 1 KiB"));
    }
    if end.is_none() {
        return Ok(None);
    }
    let mut line = std::mem::take(line);
    if line.pop() != Some(b'\r') {
        return Err(Malformed("line of the chunked coding that does not end in CRLF"));
    }
    Ok(Some(line))
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let text = str::from_utf8(line).unwrap_or_default();
    let digits = text.split(';').next().unwrap_or_default().trim_end();
    // A sign would pass the parser.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return Err(Malformed("malformed chunk size"));
    }
    u64::from_str_radix(digits, 16).map_err(|_| Malformed("malformed chunk size"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> Head {
        Head::parse(text.as_bytes()).unwrap().unwrap().0
    }

    /// The body in `pieces` after a head with `fields`; whether it was complete, and what is left.
    fn body(fields: &str, pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, usize), Malformed> {
        let mut body = head(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).body();
        let mut bytes = Vec::new();
        for mut input in pieces.iter().copied() {
            loop {
                match body.next(&mut input)? {
                    Some(Piece::Data(data)) => bytes.extend_from_slice(data),
                    Some(Piece::End) => return Ok((bytes, true, input.len())),
                    None => break,
                }
            }
        }
        Ok((bytes, body.may_end(), 0))
    }

    #[test]
    fn a_head_is_read_with_interim_ones_in_front() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream ; \
                    charset=x\r\ntransfer-encoding: Chunked\r\n\r\nrest";
        let (head, bytes) = Head::parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(&text[bytes..], "rest");
        assert_eq!(head.content_type, "text/event-stream");
        assert!(head.keep_alive);
        for end in 0..bytes {
            assert_eq!(Head::parse(&text.as_bytes()[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn a_connection_is_kept_if_the_end_of_the_body_is_known() {
        for (text, kept) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", true),
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: x, Close\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", false),
        ] {
            assert_eq!(head(text).keep_alive, kept, "{text}");
        }
    }

    #[test]
    fn heads_that_are_none_are_refused() {
        for text in [
            "SSH-2.0-OpenSSH\r\n".to_owned(),
            "HTTP/1.1 101 Switching Protocols\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".into(),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".into(),
            format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HTTP_HEAD_BYTES_MAX)),
            format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(HTTP_HEADERS_MAX + 1)),
        ] {
            assert!(Head::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn bodies_end_as_their_framing_says() {
        let chunked = "Transfer-Encoding: chunked\r\n";
        let counted = "Content-Length: 3\r\n";
        for (fields, bytes, expected, complete, left) in [
            (counted, "abcd", "abc", true, 1),
            (counted, "ab", "ab", false, 0),
            ("Content-Length: 0\r\n", "", "", true, 0),
            ("", "abc", "abc", true, 0),
            (chunked, "3\r\nabc\r\n0\r\n\r\nx", "abc", true, 1),
            (chunked, "3 ;a=b\r\nabc\r\n1\r\nd\r\n0\r\nT: x\r\n\r\n", "abcd", true, 0),
            (chunked, "3\r\nabc\r\n", "abc", false, 0),
            (chunked, "3\r\nabc\r\n0\r\n", "abc", false, 0),
            (chunked, "3\r\nab", "ab", false, 0),
        ] {
            let (read, ended, rest) = body(fields, &[bytes.as_bytes()]).unwrap();
            assert_eq!(read, expected.as_bytes(), "{bytes}");
            assert_eq!((ended, rest), (complete, left), "{bytes}");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for bytes in [
            "\r\n",
            "+3\r\nabc",
            "g\r\n",
            "3\nabc",
            "3\r\nabcd\r\n",
            "10000000000000000\r\n",
            &"0".repeat(CHUNK_LINE_BYTES_MAX + 1),
            &format!("0\r\n{}", "X: 0123456789\r\n".repeat(HTTP_HEAD_BYTES_MAX / 12)),
        ] {
            let fields = "Transfer-Encoding: chunked\r\n";
            assert!(body(fields, &[bytes.as_bytes()]).is_err(), "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn how_a_body_is_split_changes_nothing(
            bytes in prop::sample::select(vec![
                "3\r\nabc\r\n0a;x\r\n0123456789\r\n0\r\nT: x\r\n\r\nrest", "3\r\nabcd", "x", "1\r\na",
            ]),
            cuts in prop::collection::vec(0_usize..50, 0..10),
        ) {
            let bytes = bytes.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> =
                cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let fields = "Transfer-Encoding: chunked\r\n";
            let read = |pieces: &[&[u8]]| body(fields, pieces).map(|(bytes, end, _)| (bytes, end));
            prop_assert_eq!(read(&pieces), read(&[bytes]));
        }
    }
}
