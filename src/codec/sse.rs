//! Server-sent events (HTML Living Standard, section 9.2), one chunk of a response each.
//!
//! Chunked coding (RFC 9112 section 7.1) tells a stream that was cut from one that ended. Lines
//! end in LF alone: a parser that takes CR too must wait for the next byte behind a last CR.

use super::http::response::{put_header, put_status_line};
use std::io::Write;

/// The chunk that ends a stream; the connection can carry the next request behind it.
pub const END: &[u8] = b"0\r\n\r\n";

/// A comment alone: a sign of life that no parser dispatches.
pub const COMMENT: &[u8] = b"3\r\n:\n\n\r\n";

/// Appends the head of a response that is an event stream, up to its end in chunks.
///
/// `X-Accel-Buffering` keeps proxies of the nginx kind from collecting what must arrive at once.
pub fn write_head(out: &mut Vec<u8>, keep_alive: bool) {
    put_status_line(out, 200);
    put_header(out, "Content-Type", "text/event-stream");
    put_header(out, "Cache-Control", "no-cache");
    put_header(out, "X-Accel-Buffering", "no");
    put_header(out, "Transfer-Encoding", "chunked");
    put_header(out, "Connection", if keep_alive { "keep-alive" } else { "close" });
    out.extend_from_slice(b"\r\n");
}

/// Appends one event as one chunk. `data` is split at its newlines, one `data:` line each.
pub fn write_event(out: &mut Vec<u8>, event: &str, data: &str) {
    debug_assert!(!event.contains(['\r', '\n']), "a name is one line");
    let mut text = Vec::with_capacity(event.len() + data.len() + 24);
    text.extend_from_slice(b"event: ");
    text.extend_from_slice(event.as_bytes());
    for line in data.split(['\n', '\r']) {
        text.extend_from_slice(b"\ndata: ");
        text.extend_from_slice(line.as_bytes());
    }
    text.extend_from_slice(b"\n\n");
    // Writing to a vector does not fail.
    let _ = write!(out, "{:x}\r\n", text.len());
    out.extend_from_slice(&text);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> String {
        let mut out = Vec::new();
        write_event(&mut out, name, data);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_event_is_one_chunk_of_lines() {
        assert_eq!(event("wake", "{}"), "16\r\nevent: wake\ndata: {}\n\n\r\n");
        assert_eq!(event("a", "b\nc"), "1a\r\nevent: a\ndata: b\ndata: c\n\n\r\n");
        assert_eq!(event("a", "b\rc"), event("a", "b\nc"), "no line begins inside the data");
    }

    #[test]
    fn chunk_sizes_are_those_of_their_bytes() {
        for data in ["", "x", &"y".repeat(300)] {
            let text = event("e", data);
            let (size, rest) = text.split_once("\r\n").unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            assert_eq!(rest.len(), size + 2);
            assert!(rest.ends_with("\n\n\r\n"));
        }
        assert_eq!(COMMENT, format!("{:x}\r\n:\n\n\r\n", 3).as_bytes());
    }

    #[test]
    fn the_head_promises_chunks_and_says_whether_the_connection_stays() {
        for (keep_alive, said) in [(true, "keep-alive"), (false, "close")] {
            let mut out = Vec::new();
            write_head(&mut out, keep_alive);
            let head = String::from_utf8(out).unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"));
            assert!(head.contains("\r\nContent-Type: text/event-stream\r\n"));
            assert!(head.contains("\r\nTransfer-Encoding: chunked\r\n"));
            assert!(head.contains(&format!("\r\nConnection: {said}\r\n")));
            assert!(!head.contains("Content-Length"));
        }
    }
}
