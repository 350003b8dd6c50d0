//! Server-sent events (HTML Living Standard, section 9.2), one chunk of a response each.
//!
//! Chunked coding (RFC 9112 section 7.1) tells a stream that was cut from one that ended. Lines
//! end in LF alone: a parser that takes CR too must wait for the next byte behind a last CR.

use super::{
    chunked::write_chunk,
    http::response::{put_header, put_status_line},
};

/// A comment alone: a sign of life that no parser dispatches.
pub const COMMENT: &[u8] = b"3\r\n:\n\n\r\n";

/// Appends the head of a response that is an event stream, up to its end in chunks.
///
/// `X-Accel-Buffering` keeps proxies of the nginx kind from collecting what must arrive at once.
pub fn write_head(out: &mut Vec<u8>, keep_alive: bool) {
    write_stream_head(out, "text/event-stream", &[], keep_alive);
}

/// Appends the head of a response that goes on for as long as its connection, in chunks.
pub fn write_stream_head(
    out: &mut Vec<u8>,
    content_type: &str,
    extra_headers: &[(&str, &str)],
    keep_alive: bool,
) {
    put_status_line(out, 200);
    put_header(out, "Content-Type", content_type);
    put_header(out, "Cache-Control", "no-cache");
    put_header(out, "X-Accel-Buffering", "no");
    put_header(out, "Transfer-Encoding", "chunked");
    put_header(out, "Connection", if keep_alive { "keep-alive" } else { "close" });
    for (name, value) in extra_headers {
        put_header(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends `data:` lines and the empty line that ends an event, without a chunk around them. A line
/// ends where a parser of event streams ends one: at LF, CR or both together.
pub fn put_data(out: &mut Vec<u8>, data: &[u8]) {
    for line in lines(data) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// Bytes that [`put_data`] appends.
pub fn data_bytes(data: &[u8]) -> usize {
    lines(data).map(|line| b"data: \n".len() + line.len()).sum::<usize>() + 1
}

fn lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(data);
    std::iter::from_fn(move || {
        let data = rest?;
        let Some(end) = memchr::memchr2(b'\n', b'\r', data) else {
            rest = None;
            return Some(data);
        };
        let pair = data[end..].starts_with(b"\r\n");
        rest = Some(&data[end + 1 + usize::from(pair)..]);
        Some(&data[..end])
    })
}

/// Appends one event as one chunk. `data` is split at its newlines, one `data:` line each.
pub fn write_event(out: &mut Vec<u8>, event: &str, data: &str) {
    debug_assert!(!event.contains(['\r', '\n']), "a name is one line");
    let bytes = b"event: \n".len() + event.len() + data_bytes(data.as_bytes());
    write_chunk(out, bytes, |out| {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(event.as_bytes());
        out.push(b'\n');
        put_data(out, data.as_bytes());
    });
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
